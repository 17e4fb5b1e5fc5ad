"""`evaluate sanity` and `calibration`: checks hold on planted truth, and fail where they must."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate_cases as cases
import numpy as np
import pytest
import table_cases
import torch
from table_cases import figures, plant, value

from medic_ad.data.sample import read_samples
from medic_ad.errors import DataError
from medic_ad.evaluate import calibration, sanity
from medic_ad.evaluate.parts import gate, outside
from medic_ad.evaluate.parts.randomise import ALL, randomised
from medic_ad.evaluate.predictions import run
from medic_ad.evaluate.predictions.table import images_of, mask_of


def checked(data: Path, out: Path, monkeypatch: Any, **more: Any) -> dict[str, Any]:
    model = cases.tiny_model()
    monkeypatch.setattr(run, "load_model", lambda name: model)
    monkeypatch.setattr(sanity, "SLICES", 4)
    monkeypatch.setattr(sanity, "DRAWS", 1)
    monkeypatch.setattr(outside, "EACH", 1)
    sanity.main(sanity.SanityArguments(str(data), "tiny", out=str(out), resamples=40, **more))
    return figures(out, "sanity")


def calibrated(data: Path, out: Path, **more: Any) -> dict[str, Any]:
    arguments = calibration.CalibrationArguments(
        str(data), "seer", out=str(out), resamples=40, **more
    )
    calibration.main(arguments)
    return figures(out, "calibration")


def test_weights_are_drawn_anew_from_the_heatmap_back_to_the_pixels():
    model = cases.tiny_model()
    trained = {k: v.clone() for k, v in model.network.state_dict().items()}
    changed = []
    for _, step in randomised(model, 3):
        now = step.network.state_dict()
        changed.append({k for k in trained if not torch.equal(trained[k], now[k])})
    assert all(a < b for a, b in zip(changed, changed[1:], strict=False))
    parts = [sorted({k.split(".")[0] for k in keys}) for keys in changed]
    assert parts[0] == ["explainer"] and parts[1] == ["detector", "explainer"]
    blocks = {k.split(".")[3] for k in changed[2] if k.startswith("model.visual.blocks")}
    assert blocks == {"2", "3"}  # of four
    assert not any(k.startswith("calibration") for k in changed[-1])
    assert all(torch.equal(v, trained[k]) for k, v in model.network.state_dict().items())


def test_maps_that_are_alike_and_maps_that_are_not():
    rng = np.random.default_rng(0)
    one = rng.random((40, 40))
    assert sanity.alike(one, one**3) == pytest.approx(1)
    assert sanity.alike(one, -one) == pytest.approx(-1)
    assert abs(sanity.alike(one, rng.random((40, 40)))) < 0.1
    assert sanity.alike(one, np.zeros((40, 40))) == 0
    assert sanity.alike(np.zeros((40, 40)), one) == 1  # a dead map passes no test


def test_all_parts_are_measured_and_used_again(tmp_path, monkeypatch):
    data = table_cases.table(tmp_path, {"test": 24})
    other = table_cases.volumes(tmp_path)
    seen = checked(data, tmp_path / "out", monkeypatch, outside=str(other))
    titles = ["Blank and noise", "Randomised weights", "`<Ano>` exchanged", "Out-of-scope gate"]
    assert [p["title"] for p in seen["parts"]] == titles
    assert value(seen, sanity.ALIKE, ALL)["n"] == 4
    assert value(seen, "out of scope, kind in scope or unsaid", "v")["n"] == 2  # two volumes
    assert seen["checks"] == 4 and f"of {seen['checks']} checks hold" in seen["verdict"]
    monkeypatch.setattr(sanity, "predict", None)  # a second run predicts nothing
    assert (
        checked(data, tmp_path / "out", monkeypatch, outside=str(other))["parts"] == (seen["parts"])
    )


def test_a_model_that_reads_the_size_fails_on_noise(tmp_path, monkeypatch):
    data = table_cases.table(tmp_path, {"test": 24}, wide=True)

    def by_width(model: Any, images: Any, what: str, *rest: Any) -> list[SimpleNamespace]:
        return [SimpleNamespace(score=i.pixels.shape[1] / 1000, heatmap=i.pixels) for i in images]

    monkeypatch.setattr(sanity, "predict", by_width)
    seen = checked(data, tmp_path / "out", monkeypatch)
    name = "AUROC, every image replaced by noise of its size"
    assert value(seen, name, "tiny")["value"] == 1
    assert any(name in failed for failed in seen["failed"])


def test_what_says_another_modality_is_told_from_what_does_not(tmp_path, monkeypatch):
    data = table_cases.volumes(tmp_path)
    assert {s.modality for s in read_samples(data)} == {"MR"}
    samples = gate.images_of_table(str(data))
    assert [s.slice for s in samples] == [2, 2]  # the middle slice of each volume


def test_every_slice_is_beside_its_repaired_twin_and_shams(tmp_path, monkeypatch):
    plant(monkeypatch)
    data = table_cases.table(tmp_path, {"test": 24})
    seen = calibrated(data, tmp_path / "out", shams=1)
    found = value(seen, "AUROC", "seer")
    # 12 slices: as published and a sham against the lesion repaired, and that with a sham
    assert found["n"] == 48 and found["units"] == 12 and found["value"] > 0.99
    assert value(seen, "decided wrongly", "as published")["value"] == 0
    assert value(seen, "mean score", "lesion repaired, sham 1")["value"] < 0.2
    assert "48 images" in seen["parts"][0]["notes"][0] and "fewer than" in seen["parts"][0][
        "notes"][0]  # fmt: skip


def test_versions_change_the_lesion_or_leave_it(tmp_path):
    data = table_cases.table(tmp_path, {"test": 4})
    [sample] = [s for s in images_of(str(data), "test")[0] if s.mask][:1]
    image, sham, clean, clean_sham = calibration.versions(sample, 1, 0)
    mask = mask_of(sample)
    assert mask is not None
    assert np.array_equal(image[mask], sham[mask]) and not np.array_equal(image, sham)
    assert clean[mask].max() < 0.9 * image[mask].min()
    assert np.array_equal(clean[mask], clean_sham[mask]) and not np.array_equal(clean, clean_sham)


@pytest.mark.parametrize(("sharpened", "verdict"), [(1, "within"), (8, "above")])
def test_perfect_calibration_lies_within_the_null_and_overconfidence_above(
    sharpened, verdict, tmp_path, monkeypatch
):
    """Scores of density 2 p among abnormal and 2 (1 - p) among normal are calibrated at 0.5."""
    plant(monkeypatch)
    rng = np.random.default_rng(5)

    def planted(model: Any, samples: Any, shams: int, seed: int) -> dict[str, np.ndarray]:
        labels = np.array([label for _ in samples for _, label in calibration.kinds(shams)])
        root = np.sqrt(rng.random(len(labels)))
        p = np.where(labels == 1, root, 1 - root)
        odds = (p / (1 - p)) ** sharpened
        none = np.zeros(len(labels), int)
        return {"score": odds / (1 + odds), "entry": none, "in_scope": none == 0}

    monkeypatch.setattr(calibration, "read_versions", planted)
    data = table_cases.table(tmp_path, {"test": 200})
    seen = calibrated(data, tmp_path / "out", shams=4)
    assert f", {verdict} what 95 % of perfectly calibrated" in seen["verdict"]
    assert "at prevalence 0.50" in seen["verdict"] and value(seen, "AUROC", "seer")["n"] == 1000


def test_a_table_outside_that_is_not_there_is_refused_before_the_work(tmp_path, monkeypatch):
    data = str(table_cases.table(tmp_path / "data", {"test": 4}))
    monkeypatch.setattr(sanity, "start", None)  # the work
    with pytest.raises(DataError, match=r"gone\.parquet, found no file"):
        sanity.main(sanity.SanityArguments(data, "tiny", outside=f"{data}, gone.parquet"))


def test_one_model_only_and_at_least_one_sham():
    with pytest.raises(DataError, match="expected one model"):
        sanity.SanityArguments("t.parquet", "nano", against="other")
    with pytest.raises(DataError, match="--shams of 1 or more"):
        calibration.CalibrationArguments("t.parquet", "nano", shams=0)
