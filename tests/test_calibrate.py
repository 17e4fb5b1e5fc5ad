"""Every fitted number against a planted truth or brute force, then all of them through `read`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as Picture
from scipy.special import expit, softmax

from medic_ad import calibrate
from medic_ad.calibrate import (
    ERROR_RATE,
    HEATMAP_GRID,
    PREVALENCE,
    CalibrateArguments,
    best_threshold,
    change_temperature,
    conformal_band,
    gate,
    heatmap_threshold,
    platt,
    scope_of,
    validation,
)
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError, ModelError
from medic_ad.finding import decide
from medic_ad.load import Model, load_checkpoint, load_model
from medic_ad.model.calibration import FITTED, heatmap_evidence
from medic_ad.report.report import Report
from medic_ad.road import read
from medic_ad.study import read_study
from medic_ad.train.draw import Slices
from medic_ad.train.render import render
from medic_ad.train.run import split


# ------------------------------------------------------------------------------ each number
def test_platt_finds_the_planted_slopes() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1.5, (40_000, 2))
    labels = (rng.random(40_000) < expit(features @ [0.8, 1.7])).astype(int)
    assert labels.mean() == pytest.approx(0.5, abs=0.01)
    assert platt(features, labels) == pytest.approx((0.8, 1.7, 0.0), abs=0.05)


def test_more_evidence_never_lowers_a_score() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 400)
    logit, against = labels + rng.normal(0, 1, 800), -labels + rng.normal(0, 1, 800)
    slope, heatmap_slope, _ = platt(np.stack([logit, against], 1), labels)
    assert heatmap_slope == 0 and slope == pytest.approx(1.0, abs=0.15)  # of unit normals 1 apart
    assert platt(np.stack([against, against], 1), labels) == (0, 0, 0)  # says the prevalence


def test_platt_refers_to_the_stated_prevalence() -> None:
    """The same two classes, mixed 1 : 1 or 1 : 9, give the same probabilities."""
    rng = np.random.default_rng(0)
    normal, abnormal = rng.normal(-1, 1, (18_000, 2)), rng.normal(1, 1, (18_000, 2))
    fits = []
    for n in (18_000, 2_000):
        features = np.concatenate([normal, abnormal[:n]])
        labels = np.repeat([0, 1], [18_000, n])
        fits.append(platt(features, labels))
    assert fits[0] == pytest.approx((2, 2, 0), abs=0.15)  # log odds of these Gaussians: 2x + 2y
    assert fits[1] == pytest.approx(fits[0], abs=0.25) and PREVALENCE == 0.5


def test_the_threshold_has_the_highest_f1() -> None:
    rng, checked = np.random.default_rng(0), 0

    def f1(labels: np.ndarray, found: np.ndarray) -> float:
        return float(2 * (labels & found).sum() / (labels.sum() + found.sum()))

    for _ in range(20):
        labels = rng.integers(0, 2, 30)
        labels[:2] = (0, 1)
        scores = np.round(expit(rng.normal(labels, 1.0)), 2)
        chosen = best_threshold(scores, labels)
        best = max(f1(labels, scores >= t) for t in np.linspace(scores.min() + 1e-3, 0.999, 999))
        assert f1(labels, scores >= chosen) >= best - 1e-12
        assert chosen not in scores  # halfway between neighbours
        checked += 1
    assert checked == 20
    assert best_threshold(np.array([0.1, 0.3, 0.7, 0.9]), np.array([0, 0, 1, 1])) == 0.5


def test_the_band_has_its_stated_coverage() -> None:
    """Over many draws at most a tenth of either class is decided wrongly, and not much less."""
    rng = np.random.default_rng(0)
    missed, raised, uncertain = [], [], []
    for _ in range(400):
        labels = np.repeat([0, 1], 40)
        scores = expit(rng.normal(1.2 * (2 * labels - 1), 1.0))
        band = conformal_band(scores, labels, 0.5)
        assert 0 <= band[0] <= band[1] <= 1
        new = expit(rng.normal(1.2 * np.repeat([-1, 1], 200), 1.0))
        decisions = np.array([decide(float(s), band) for s in new])
        raised.append((decisions[:200] == "abnormal").mean())
        missed.append((decisions[200:] == "normal").mean())
        uncertain.append((decisions == "uncertain").mean())
    for wrong in (missed, raised):
        assert 0.6 * ERROR_RATE < np.mean(wrong) <= ERROR_RATE + 0.005
    assert 0 < np.mean(uncertain) < 0.3


def test_too_few_images_make_everything_uncertain() -> None:
    scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    assert conformal_band(scores, labels, 0.5) == (0.0, 1.0)


def test_the_heatmap_threshold_has_the_highest_mean_dice() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 32, 32), bool)
    for k, mask in enumerate(masks):
        mask[4 * k : 4 * k + 8, 10:20] = True
    heatmaps = np.where(masks, 0.62, 0.28) + rng.uniform(-0.05, 0.05, masks.shape)
    chosen = heatmap_threshold(heatmaps, masks)
    assert 0.33 < chosen < 0.57 and chosen in HEATMAP_GRID
    noisy = np.clip(0.5 * masks + rng.normal(0.25, 0.2, masks.shape), 0, 1)

    def dice(t: float) -> float:
        values = []
        for heat, mask in zip(noisy, masks, strict=True):
            found = heat >= t
            values.append(2 * (found & mask).sum() / (found.sum() + mask.sum()))
        return float(np.mean(values))

    assert dice(heatmap_threshold(noisy, masks)) == max(dice(t) for t in HEATMAP_GRID)


def test_the_heatmap_threshold_draws_little_where_there_is_no_lesion() -> None:
    masks = np.zeros((4, 40, 40), bool)
    masks[:2, 10:20, 10:20] = True
    heatmaps = np.where(masks, 0.5, 0.02)
    heatmaps[2:, 30:36, 30:36] = 0.4  # 2.25 % of the lesion-free images
    assert 0.4 < heatmap_threshold(heatmaps, masks) <= 0.5
    assert heatmap_threshold(heatmaps[:2], masks[:2]) < 0.4  # without them nothing is asked
    heatmaps[2:] = 0.99
    assert heatmap_threshold(heatmaps, masks) == HEATMAP_GRID[-1]


@pytest.mark.parametrize("planted", [0.4, 1.0, 3.0])
def test_the_change_temperature_finds_the_planted_one(planted: float) -> None:
    rng = np.random.default_rng(0)
    odd, even = rng.normal(0, 2, (2, 20_000))
    true = softmax(np.stack([odd, even, -odd], 1), 1)
    labels = (rng.random((20_000, 1)) > true.cumsum(1)).sum(1)
    logits = planted * np.stack([odd, even, -odd], 1)
    assert change_temperature(logits, labels) == pytest.approx(planted, rel=0.05)
    turned = change_temperature(logits[:, ::-1], 2 - labels)  # the dates exchanged
    assert turned == pytest.approx(change_temperature(logits, labels), rel=1e-6)


def test_the_gate_holds_its_quantile_and_refuses_what_is_far() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6))
    known, held_out, new = (rng.normal(size=(n, 6)) @ mix + 3 for n in (4000, 4000, 4000))
    mean, precision, limit = gate(known, held_out)
    assert mean == pytest.approx(np.full(6, 3.0), abs=0.25)

    def distance(x: np.ndarray) -> np.ndarray:
        offset = x - mean
        return np.sqrt(np.einsum("nf,fg,ng->n", offset, precision, offset))

    assert (distance(new) > limit).mean() == pytest.approx(0.01, abs=0.006)
    assert limit == pytest.approx(4.1, abs=0.25)  # chi with 6 degrees of freedom: 4.100
    assert (distance(new + 10 * mix[0]) > limit).mean() > 0.99


def test_evidence_is_the_mean_of_the_strongest_thousandth() -> None:
    logits = torch.full((2, 100, 100), -5.0)
    logits[1].flatten()[:10] = torch.arange(10.0)  # of 10,000 pixels
    logits[1].flatten()[500] = 9.5
    assert heatmap_evidence(logits).tolist() == pytest.approx([-5.0, 5.45])
    assert heatmap_evidence(torch.tensor([[[1.0, 4.0]]])).tolist() == [4.0]


# ------------------------------------------------------------------------------ all of them
@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trained:
    return tiny.trained(tmp_path_factory.getbasetemp() / "trained")


def fit_to(data: Path, trained: tiny.Trained, out: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "GATE_DRAWS", 64)
        return calibrate.main(
            CalibrateArguments(
                data=str(data),
                model=str(trained.explain),
                out=str(out),
                cache=str(trained.cache),
                scope="planted",
                pairs=30,
            )
        )


@pytest.fixture(scope="module")
def calibrated(trained: tiny.Trained) -> Path:
    return fit_to(trained.data, trained, trained.explain.parent / "calibrated")


@pytest.fixture(scope="module")
def model(trained: tiny.Trained, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Fitted to 18 validation slices an entry: of 3, the gate's limit is a matter of chance."""
    folder = tmp_path_factory.mktemp("more")
    data = tiny.table(folder / "data", held_out=36)
    return load_model(str(fit_to(data, trained, folder / "calibrated")), "cpu")


def test_the_scope_is_named_by_the_table() -> None:
    def sample(body_part: str | None, modality: str | None) -> Sample:
        return Sample("a.png", "g", "train", "mine", body_part=body_part, modality=modality)

    assert scope_of([sample("BRAIN", "MR")] * 2) == "brain MR"
    assert scope_of([sample("CHEST", "DX")]) == "chest DX"
    for other, said in (
        (sample("CHEST", "MR"), "brain MR, chest MR"),
        (sample("BRAIN", "CT"), "brain CT, brain MR"),
        (sample(None, "MR"), "brain MR, unknown MR"),
    ):
        with pytest.raises(DataError, match=f"got {said}; .*--scope"):
            scope_of([sample("BRAIN", "MR"), other])
    with pytest.raises(DataError, match="got brain unknown; .*--scope"):
        scope_of([sample("BRAIN", None)])


def test_validation_holds_lesions_shams_and_twins(trained: tiny.Trained) -> None:
    slices = Slices(render(split(str(trained.data), "val"), tiny.SIDE, trained.cache, workers=1))
    seen = validation(slices, slices, 0)
    images, masks, labels = seen.images, seen.masks, seen.labels
    # of 6 slices 4 have a blob: each as it is, as a sham and without it, and the 2 without
    assert labels.tolist() == [1] * 8 + [0] * 6 == masks.any((1, 2)).astype(int).tolist()
    assert images.shape == (14, tiny.SIDE, tiny.SIDE) and 0 <= images.min() <= images.max() <= 1
    bright = [image[mask].mean() for image, mask in zip(images[:8], masks[:8], strict=True)]
    assert min(bright) > 0.8
    without = slices.rendered.samples[1:2]
    free = Slices(render([*without], tiny.SIDE, trained.cache, workers=1))
    assert not len(free.lesions)
    seen = validation(slices, free, 0)
    # a lesion transplanted, healthy tissue transplanted, and the slice as it is
    assert seen.labels.tolist() == [1, 0, 0] and seen.masks[0].any()
    assert abs(seen.images[0] - seen.images[2]).max() > 0.1


def test_the_band_is_fitted_to_other_slices_than_the_score(trained: tiny.Trained) -> None:
    slices = Slices(render(split(str(trained.data), "val"), tiny.SIDE, trained.cache, workers=1))
    second = validation(slices, slices, 0).second
    lesion = second[:4]
    assert 0 < second.sum() < len(second)
    assert np.array_equal(second, [*lesion, *lesion, *lesion, *second[12:]])  # twins stay together


def test_calibrate_fills_every_buffer_and_touches_no_weight(
    trained: tiny.Trained, calibrated: Path
) -> None:
    before = load_checkpoint(trained.explain)[0].state_dict()
    network, _ = load_checkpoint(calibrated)
    after = network.state_dict()
    weights = [k for k in before if not k.startswith("calibration.")]
    assert len(weights) > 280 and all(torch.equal(before[k], after[k]) for k in weights)
    assert all(buffer.isfinite().all() for buffer in network.calibration.buffers())
    assert network.config.scope == ["planted FLAIR", "planted T1"]
    assert network.calibration.gate_precision.shape == (2, 64, 64)
    for stage in ("detect", "compare", "explain"):  # whom the weights were trained on stays known
        kept = (calibrated / f"{stage}.run.json").read_bytes()
        assert kept == (trained.explain / f"{stage}.run.json").read_bytes()
    record = json.loads((calibrated / "calibrate.run.json").read_text())
    assert record["arguments"]["pairs"] == 30 and record["arguments"]["seed"] == 0
    for index, name in enumerate(("FLAIR", "T1")):
        fitted = record["fitted"][name]
        assert fitted["fitted_on"] == "val" and fitted["n"] == 7 and fitted["abnormal"] == 4
        for key in FITTED:
            assert float(getattr(network.calibration, key)[index]) == pytest.approx(fitted[key])
        assert fitted["slope"] + fitted["heatmap_slope"] > 0
        assert 0 <= fitted["band_low"] <= fitted["threshold"] <= fitted["band_high"] <= 1
        assert 0.05 <= fitted["heatmap_threshold"] <= 0.95 and fitted["gate_limit"] > 0
    temperature = record["fitted"]["change_temperature"]
    assert network.calibration.temperature() == pytest.approx(temperature)


def read_head(
    image: np.ndarray, model: Model, folder: Path, prior: np.ndarray | None = None
) -> Report:
    Picture.fromarray(image).save(folder / "now.png")
    if prior is not None:
        Picture.fromarray(prior).save(folder / "before.png")
    study = read_study(
        folder / "now.png",
        prior=None if prior is None else folder / "before.png",
        modality="MR",
        body_part="BRAIN",
    )
    return read(study, model)


def test_read_finds_the_planted_blob(model: Model, tmp_path: Path) -> None:
    found = right = in_scope = 0
    scores: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(100, 116):
        lesion = seed % 2 == 0
        image, mask = tiny.head(seed, lesion)
        report = read_head(image, model, tmp_path)
        assert report.heatmap.shape == image.shape
        if report.decision == "out_of_scope":
            continue
        in_scope += 1
        scores[lesion].append(report.score)
        if lesion:
            peak = np.unravel_index(np.nanargmax(report.heatmap), image.shape)
            found += bool(mask[peak])
        # few validation images an entry give a wide band: the score itself is judged
        right += (report.score >= 0.5) == lesion
    assert in_scope >= 14
    assert right >= 0.85 * in_scope and found >= 0.85 * len(scores[True])
    assert np.median(scores[True]) > 0.8 > 0.2 > np.median(scores[False])


def test_read_tells_the_dates_apart(model: Model, tmp_path: Path) -> None:
    told = 0
    for seed in (300, 302, 304):
        without, with_blob = tiny.head(seed, False)[0], tiny.head(seed, True)[0]
        worse = read_head(with_blob, model, tmp_path, prior=without).change
        better = read_head(without, model, tmp_path, prior=with_blob).change
        assert worse is not None and better is not None
        if "not_comparable" in (worse.label, better.label):
            continue
        told += (worse.label, better.label) == ("worse", "better")
        assert worse.scores is not None and better.scores is not None
        assert worse.scores["worse"] == better.scores["better"]
    assert told >= 2


def test_noise_is_not_abnormal(model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        noise = rng.integers(0, 256, (96, 96), dtype=np.uint8)
        assert read_head(noise, model, tmp_path).decision != "abnormal"


def test_weights_before_calibration_are_refused(trained: tiny.Trained, tmp_path: Path) -> None:
    model = load_model(str(trained.explain), "cpu")
    with pytest.raises(ModelError, match="run `medic-ad calibrate`"):
        read_head(tiny.head(100, True)[0], model, tmp_path)
