"""Stages 1 to 3 by their invariants: sigmoids, antisymmetry, `<Ano>` in charge, calibration."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as Picture
from stage_cases import looks

from medic_ad.change import change_scores
from medic_ad.errors import ModelError
from medic_ad.finding import change_label
from medic_ad.look import compare, look
from medic_ad.model.calibration import Calibration
from medic_ad.model.compare import CompareOutput
from medic_ad.model.detect import AnomalyProcessor
from medic_ad.model.modeling import Vision
from medic_ad.model.pixel import ResidualBlock
from medic_ad.road import read
from medic_ad.study import read_study
from medic_ad.words import CHANGE_LABELS


def detector(seed: int = 0) -> AnomalyProcessor:
    torch.manual_seed(seed)
    out = AnomalyProcessor(tiny.config()).eval()
    tiny.shake(out, seed + 1)
    return out


def random_taps(
    n: int = 2, h: int = 6, w: int = 8, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Taps `(n, 2, 32, h, w)` and merged tokens `(n, 48, h/2, w/2)`."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, 2, 32, h, w, generator=generator),
        torch.randn(n, 48, h // 2, w // 2, generator=generator),
    )


# ------------------------------------------------------------------------------ 1, detect
@torch.no_grad()
def test_folded_system_tokens_equal_the_unfolded_attention() -> None:
    compared = 0
    for seed in range(4):
        stage, (taps, _) = detector(seed), random_taps(seed=seed)
        levels = taps.movedim(2, -1).unbind(1)
        folded = stage.system_logits(levels, stage.scales(levels))
        assert folded.shape == (2, 2, 2, 6, 8)
        for level in range(2):
            queries = stage.query[level](stage.system_tokens)  # (2, 24)
            keys = stage.key[level](stage.norms[level](levels[level]))  # (B, h, w, 24)
            scores = torch.einsum("kd,bhwd->bkhw", queries, keys) / 24**0.5
            scores = scores + stage.bias[level][:, None, None]
            assert torch.allclose(folded[:, level], scores, atol=1e-5)
            compared += scores.numel()
    assert compared == 4 * 2 * 2 * 2 * 48


@torch.no_grad()
def test_sigmoids_let_two_lesions_both_be_high() -> None:
    stage, (taps, merged) = detector(), random_taps(1)
    stage.system_tokens *= 20
    one = taps.clone()
    for level in range(2):
        folded = stage.query[level](stage.system_tokens) @ stage.key[level].weight
        one[:, level, :, 1, 2] = 20 * (folded[0] - folded[1])
    two = one.clone()
    two[..., 4, 6] = one[..., 1, 2]
    none, first, both = (stage(x, merged) for x in (taps, one, two))
    assert first.abnormal.sigmoid()[..., 1, 2].min() > 0.95
    assert both.abnormal.sigmoid()[..., 1, 2].min() > 0.95
    assert both.abnormal.sigmoid()[..., 4, 6].min() > 0.95
    assert both.map[0, 1, 2] > 0.9 and both.map[0, 4, 6] > 0.9
    # a patch's logits are its own: a second lesion takes nothing from the first
    assert torch.equal(both.abnormal[..., 1, 2], first.abnormal[..., 1, 2])
    same = torch.ones(6, 8, dtype=torch.bool)
    same[1, 2] = same[4, 6] = False
    assert torch.allclose(both.map[0][same], none.map[0][same], atol=1e-6)


@torch.no_grad()
def test_map_and_modulation_follow_their_formulas() -> None:
    stage, (taps, merged) = detector(), random_taps()
    out = stage(taps, merged)
    maps = out.abnormal.sigmoid() - out.normal.sigmoid()
    assert torch.allclose(out.map, maps.mean(1), atol=1e-6) and out.map.abs().max() <= 1
    scaled = torch.stack([norm(taps[:, i].movedim(1, -1)) for i, norm in enumerate(stage.norms)], 1)
    modulated = (scaled * (1 + stage.gain * maps[..., None])).mean(1).movedim(-1, 1)
    assert torch.allclose(out.modulated, modulated, atol=1e-5)
    assert out.embeds.shape == (2, 16, 48) and out.logit.shape == (2,)


def test_nothing_is_saturated_before_training() -> None:
    torch.manual_seed(0)
    stage = AnomalyProcessor(tiny.config())
    out = stage(*random_taps(4))
    for logits in (out.abnormal.detach(), out.normal.detach()):
        assert logits.sigmoid().min() > 0.02 and logits.sigmoid().max() < 0.98
    assert out.abnormal.detach().sigmoid().mean() == pytest.approx(0.12, abs=0.05)
    out.logit.sum().backward()
    assert stage.system_tokens.grad is not None and (stage.system_tokens.grad != 0).all()


@torch.no_grad()
def test_images_of_a_packed_batch_do_not_touch_each_other() -> None:
    network = tiny.model().network
    grids = [(8, 8), (6, 10), (8, 8), (4, 4)]
    images = tiny.packed(grids, network.config.vision_config)
    vision = network.encode(**images)
    detected = network.detect(vision)
    maps = network.explain(vision, detected)
    start = 0
    for (h, w), mine, heatmap in zip(grids, detected, maps, strict=True):
        part = {
            "pixel_values": images["pixel_values"][start : start + h * w],
            "image_grid_thw": torch.tensor([[1, h, w]]),
        }
        alone = network.encode(**part)
        [own] = network.detect(alone)
        assert heatmap.shape == (8 * h, 8 * w)
        assert torch.allclose(own.logit, mine.logit, atol=1e-4)
        assert torch.allclose(own.map, mine.map, atol=1e-4)
        assert torch.allclose(network.explain(alone, [own])[0], heatmap, atol=1e-3)
        start += h * w


# ------------------------------------------------------------------------------ 2, compare
def test_exchanged_dates_exchange_the_answer_to_the_last_bit() -> None:
    model, dates, pairs = tiny.model(), looks(5), 0
    for first, second in itertools.combinations(dates, 2):
        there, back = compare(model, first, second), compare(model, second, first)
        assert torch.equal(there.logits[[2, 1, 0]], back.logits)
        assert torch.equal(there.growth, back.decline) and torch.equal(there.decline, back.growth)
        assert torch.equal(there.map, -back.map)
        assert there.map.abs().max() <= 1 and there.map.std() > 1e-3
        assert there.logits[0] == -there.logits[2] != 0
        assert not torch.allclose(there.embeds, back.embeds, atol=1e-3)  # the text knows the order
        pairs += 1
    assert pairs == 10


def test_a_date_beside_itself_is_neither_worse_nor_better() -> None:
    for date in looks(3):
        out = compare(tiny.model(), date, date)
        assert out.logits[0] == out.logits[2] == 0
        assert not out.map.any()
        scores = change_scores([out], 0.5)
        assert scores["worse"] == scores["better"]


def scored(rows: list[list[float]], temperature: float = 1.3) -> dict[str, float]:
    return change_scores([CompareOutput(logits=torch.tensor(row)) for row in rows], temperature)


@pytest.mark.parametrize("slices", [1, 7, 25, 140])
def test_change_scores_of_exchanged_dates_are_exchanged_exactly(slices: int) -> None:
    rng, labels = np.random.default_rng(slices), set()
    for run in range(24):
        odd, even = rng.normal(0, 2, (2, slices)).astype(np.float32)
        even += 5 * (run % 3 == 0)  # some volumes are stable
        there = scored([[a, b, -a] for a, b in zip(odd.tolist(), even.tolist(), strict=True)])
        back = scored([[-a, b, a] for a, b in zip(odd.tolist(), even.tolist(), strict=True)])
        assert there == {"worse": back["better"], "stable": back["stable"], "better": back["worse"]}
        assert sum(there.values()) == pytest.approx(1, abs=1e-12)
        mirror = {"worse": "better", "stable": "stable", "better": "worse"}
        assert change_label(there) == mirror[change_label(back)]
        labels.add(change_label(there))
    assert labels == set(CHANGE_LABELS)


def test_change_scores_by_hand() -> None:
    """softmax((2, 1, -2) / 2) = (e, e^0.5, e^-1) / 4.7349; a volume keeps its strongest tenth."""
    expected = {"worse": 0.574097, "stable": 0.348207, "better": 0.077696}
    assert scored([[2.0, 1.0, -2.0]], 2.0) == pytest.approx(expected, abs=1e-6)
    quiet = [[0.1, 3.0, -0.1]] * 19
    assert scored([*quiet[:9], [2.0, 1.0, -2.0], *quiet[9:18]], 2.0) != scored(quiet, 2.0)
    assert scored([[2.0, 1.0, -2.0], *quiet[:9]], 2.0) == pytest.approx(expected, abs=1e-6)
    assert change_label(scored([[0.0, 0.0, 0.0]])) == "stable"


def test_the_text_tokens_of_a_pair_depend_on_both_dates() -> None:
    model, (a, b, c) = tiny.model(), looks(3)
    out = compare(model, a, b)
    for other in (compare(model, a, c), compare(model, c, b)):
        assert not torch.allclose(out.embeds, other.embeds, atol=1e-3)
        assert not torch.equal(out.logits, other.logits)


# ------------------------------------------------------------------------------ 3, explain
@torch.no_grad()
def test_the_heatmap_depends_on_ano_everywhere_and_on_its_place() -> None:
    network = tiny.model().network
    canvases = tiny.canvases(2)
    vision = network.encode(**tiny.processor().images(canvases, network.config))
    detected = network.detect(vision)
    own = network.explain(vision, detected)[0]
    other = network.explain(vision, detected[::-1])[0]
    assert own.shape == (tiny.SIDE, tiny.SIDE)
    assert ((own - other).abs() > 1e-6).float().mean() > 0.99
    taps, image = vision.taps[0][None], vision.images[0][None]
    ano = detected[0].embeds[None]
    base = network.explainer(taps, ano, image)[0]
    assert torch.allclose(base, own, atol=1e-5)
    for cell, corner in ((0, np.s_[:16, :16]), (15, np.s_[-16:, -16:])):
        moved = ano.clone()
        moved[:, cell] *= -1
        change = (network.explainer(taps, moved, image)[0] - base).abs()
        assert change[corner].mean() > 1.5 * change.mean()


def test_the_heatmap_is_never_scaled_per_image() -> None:
    """A probability with one meaning: untrained, every pixel of every image is near sigmoid(-4)."""
    model = dataclasses.replace(tiny.model(), network=tiny.network(shaken=False))
    pictures = torch.cat([tiny.canvases(3), torch.zeros(1, tiny.SIDE, tiny.SIDE)])
    seen = look(model, pictures)
    for heatmap, single in zip(seen.heatmaps, pictures, strict=True):
        assert heatmap.mean() == pytest.approx(0.018, abs=0.01) and heatmap.max() < 0.1
        assert torch.allclose(look(model, single[None]).heatmaps[0], heatmap, atol=1e-5)


# ------------------------------------------------------------------------------ calibration
def filled(entries: int = 2, features: int = 3) -> Calibration:
    out = Calibration(entries, features)
    for name, buffer in out.named_buffers():
        buffer.fill_(0.5 if name != "gate_limit" else 2.0)
    out.gate_precision.copy_(torch.eye(features).expand(entries, -1, -1))
    out.gate_mean.copy_(torch.tensor([[0.0, 0, 0], [3, 0, 0]])[:entries])
    return out


def test_the_gate_names_the_nearest_entry_and_its_distance() -> None:
    calibration = filled()
    near, far = torch.tensor([[0.0, 1, 0]]), torch.tensor([[3.0, 0, -4]])
    assert calibration.entry(near) == (0, 1.0, 2.0)
    assert calibration.entry(far) == (1, 4.0, 2.0)
    assert calibration.entry(torch.cat([near, far, near])) == (0, 1.0, 2.0)  # the median slice
    calibration.gate_precision[1] *= 4
    assert calibration.entry(far) == (0, 5.0, 2.0)
    calibration.gate_limit[0] = 1.0  # nearest is measured in limits
    assert calibration.entry(far)[0] == 1


def test_nan_anywhere_in_the_calibration_is_refused() -> None:
    refused = 0
    for name, buffer in filled().named_buffers():
        calibration = filled()
        getattr(calibration, name).view(-1)[-1] = torch.nan
        with pytest.raises(ModelError, match="expected calibrated weights"):
            calibration.entry(torch.zeros(1, 3))
            calibration.temperature()
        refused += 1
        assert buffer.dtype == torch.float32
    assert refused >= 11
    with pytest.raises(ModelError, match="expected calibrated weights"):
        Calibration(0, 3).entry(torch.zeros(1, 3))


def test_uncalibrated_weights_cannot_read(tmp_path: Path) -> None:
    pixels = (255 * tiny.canvases(1)[0].numpy()).astype(np.uint8)
    Picture.fromarray(pixels).save(tmp_path / "scan.png")
    study = read_study(tmp_path / "scan.png", modality="MR", body_part="BRAIN")
    with pytest.raises(ModelError, match="never fitted; run `medic-ad calibrate`"):
        read(study, tiny.model())


def test_the_gate_reads_mean_and_spread_of_the_tap_past_the_middle() -> None:
    taps = [torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    features = Vision(taps=taps).gate_features()
    assert features.shape == (2, 6)
    for tap, found in zip(taps, features, strict=True):
        assert torch.allclose(found[:3], tap[2].mean((1, 2)))
        assert torch.allclose(found[3:], tap[2].flatten(1).std(1))


def test_a_fresh_residual_block_is_the_identity() -> None:
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(ResidualBlock(8)(x), x)
