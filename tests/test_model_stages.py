"""Stages 1 to 3 by their invariants: sigmoids, antisymmetry, `<Ano>` in charge, token places."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as Picture

from medic_ad import look as looking
from medic_ad.change import change_scores
from medic_ad.errors import ModelError
from medic_ad.finding import change_label
from medic_ad.look import Look, compare, describe, describe_change, look, say
from medic_ad.model.calibration import Calibration
from medic_ad.model.compare import CHANGE_LABELS, CompareOutput
from medic_ad.model.detect import AnomalyProcessor
from medic_ad.processor import ANO, DIFF, MedicADProcessor
from medic_ad.road import read
from medic_ad.study import read_study


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
        folded = stage.system_logits(taps)
        assert folded.shape == (2, 2, 2, 6, 8)
        for level in range(2):
            queries = stage.query[level](stage.system_tokens)  # (2, 24)
            keys = stage.key[level](taps[:, level].movedim(1, -1))  # (B, h, w, 24)
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
@cache
def looks(n: int, seed: int = 0) -> list[Look]:
    """Each canvas by a call of its own, as `read` looks at the two dates."""
    return [look(tiny.model(), canvas[None]) for canvas in tiny.canvases(n, seed)]


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


# ------------------------------------------------------------------------------ stage tokens
def staged(questions: int = 1, images: int = 1) -> dict[str, Any]:
    """Inputs of `forward` with `<|ano|>` after every image and `<|diff|>` after the last."""
    model, processor = tiny.model(), tiny.processor()
    prompts = [processor.prompt("Where?", images) for _ in range(questions)]
    text = processor.text(prompts, model.config, 16)
    pictures = processor.images(tiny.canvases(questions * images), model.config)
    last = [[-1 if images == 1 else k * images + images - 2, k * images + images - 1]
            for k in range(questions)]  # fmt: skip
    return {**text, **pictures, "diff_pairs": torch.tensor(last)}


@torch.no_grad()
def test_embeddings_stand_where_their_ids_stand() -> None:
    """Against the stock class given the same embeddings by hand, for pairs and batches."""
    network, seen = tiny.model().network, {}
    cases = 0
    for questions, images in ((1, 1), (1, 2), (3, 1), (2, 2), (1, 3)):
        inputs = staged(questions, images)
        hook = network.model.language_model.register_forward_pre_hook(
            lambda m, a, k: seen.update(k), with_kwargs=True
        )
        network(**inputs)
        hook.remove()
        vision = network.encode(inputs["pixel_values"], inputs["image_grid_thw"])
        detected = network.detect(vision)
        ids, embeds = inputs["input_ids"], seen["inputs_embeds"]
        assert torch.allclose(
            embeds[ids == network.config.ano_token_id].view(-1, 16, 48),
            torch.stack([d.embeds for d in detected]),
            atol=1e-5,
        )
        diffs = embeds[ids == network.config.diff_token_id].view(-1, 16, 48)
        for (b, f), found in zip(inputs["diff_pairs"].tolist(), diffs, strict=True):
            if b < 0:
                assert torch.equal(found, network.comparer.no_prior)
            else:
                [right] = network.compare(vision, detected, [(b, f)])
                assert torch.allclose(found, right.embeds, atol=1e-5)
            cases += 1
        others = torch.ones_like(ids, dtype=torch.bool)
        for token in ("ano_token_id", "diff_token_id", "image_token_id"):
            others &= ids != getattr(network.config, token)
        assert torch.equal(embeds[others], network.get_input_embeddings()(ids)[others])
    assert cases == 8


def test_no_prior_is_learned_and_no_zero() -> None:
    network = tiny.network(shaken=False)
    assert isinstance(network.comparer.no_prior, torch.nn.Parameter)
    assert network.comparer.no_prior.shape == (16, 48)
    assert (network.comparer.no_prior != 0).all()
    assert 0.01 < network.comparer.no_prior.std() < 0.03
    inputs = staged()
    network(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert network.comparer.no_prior.grad is not None
    assert (network.comparer.no_prior.grad != 0).all()
    # of stage 2 nothing else was called: a single study has no change
    rest = [p.grad for n, p in network.comparer.named_parameters() if n != "no_prior"]
    assert len(rest) > 40 and all(grad is None for grad in rest)


@pytest.mark.parametrize("token", ["ano_token_id", "diff_token_id", "image_token_id"])
@pytest.mark.parametrize("cut", [1, 16])
def test_a_truncated_prompt_is_refused(token: str, cut: int) -> None:
    network, inputs = tiny.model().network, staged()
    ids = inputs["input_ids"][0]
    places = (ids == getattr(network.config, token)).nonzero().flatten()
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[places[-cut:]] = False
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name] = inputs[name][:, keep]
    with pytest.raises(ModelError, match=rf"expected 16 places for .*, found {16 - cut} in"):
        network(**inputs)


def test_a_prompt_with_more_stage_tokens_than_images_is_refused() -> None:
    network, inputs = tiny.model().network, staged(images=2)
    one = staged(images=1)
    mixed = {**inputs, "pixel_values": one["pixel_values"], "image_grid_thw": one["image_grid_thw"]}
    with pytest.raises(ModelError, match="expected 16 places for image tokens, found 32"):
        network(**mixed)
    del inputs["diff_pairs"]
    with pytest.raises(ModelError, match=r"expected 0 places .* found 16"):
        network(**inputs)


def eager_for(model: Any, *ids: int) -> Any:
    """Make the language model want these tokens above all others."""
    wish = torch.zeros(tiny.ROWS)
    wish[list(ids)] = 1e4
    return model.network.lm_head.register_forward_hook(lambda m, i, out: out + wish)


def test_stage_tokens_are_never_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scan = tiny.model(), looks(1)
    config, made = model.config, list[torch.Tensor]()
    real = model.network.generate
    monkeypatch.setattr(model.network, "generate", tiny.recorded(real, made))
    monkeypatch.setattr(looking, "NEW_TOKENS", 5)
    hook = eager_for(model, config.ano_token_id, config.diff_token_id)
    prompt = tiny.processor().text(
        [tiny.processor().prompt("Is there an anomaly, and where?")], config, 16
    )
    try:
        describe(model, scan[0])
        new = made[0][0, prompt["input_ids"].shape[1] :]
        stages = torch.tensor([config.ano_token_id, config.diff_token_id])
        assert len(new) >= 1 and not torch.isin(new, stages).any()
        inputs = staged()
        out = real(**inputs, max_new_tokens=4, do_sample=False, suppress_tokens=[2], pad_token_id=0)
        new = out[0, inputs["input_ids"].shape[1] :]
        assert len(new) == 4 and not torch.isin(new, torch.tensor([*stages, 2])).any()
    finally:
        hook.remove()


@torch.no_grad()
def test_one_vision_pass_serves_score_map_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """`say` from looks generates what the network generates from the pixels, without a new pass."""
    monkeypatch.setattr(looking, "NEW_TOKENS", 6)
    model, processor = tiny.model(), tiny.processor()
    passes: list[int] = []
    hook = model.network.model.visual.register_forward_hook(lambda m, i, o: passes.append(1))
    made: list[torch.Tensor] = []
    real = model.network.generate
    monkeypatch.setattr(model.network, "generate", tiny.recorded(real, made))
    cases = 0
    for images, question in ((1, "Where is it?"), (2, "Is it worse than before?")):
        dates = looks(images)
        passes.clear()
        change = compare(model, *dates) if images == 2 else None
        say(model, question, dates, change)
        assert not passes
        text = processor.text([processor.prompt(question, images)], model.config, 16)
        pictures = processor.images(tiny.canvases(images), model.config)
        pairs = torch.tensor([[images - 2, images - 1]])
        direct = real(
            **text, **pictures, diff_pairs=pairs, max_new_tokens=6, do_sample=False,
            eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        assert len(passes) == 1
        assert torch.equal(made[-1], direct)
        cases += 1
    hook.remove()
    assert cases == 2


def test_answers_come_from_the_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "NEW_TOKENS", 6)
    model, (a, b) = tiny.model(), looks(2)
    word = model.processor.tokenizer("anomaly", add_special_tokens=False)["input_ids"][0]
    hook = eager_for(model, word)
    try:
        said = describe(model, a)
        assert said == describe_change(model, a, b, compare(model, a, b))
        assert said == model.processor.tokenizer.decode([word] * 6).strip()
    finally:
        hook.remove()


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


def test_prompts_hold_the_stage_tokens_of_the_road() -> None:
    processor: MedicADProcessor = tiny.processor()
    assert processor.prompt("Where?", 3).count(ANO) == 3
    assert processor.prompt("Where?", 3).count(DIFF) == 1
