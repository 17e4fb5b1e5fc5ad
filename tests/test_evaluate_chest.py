"""Chest radiographs over time: correlations and pairs with known answers, then both real sets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from course_cases import calibrated

from medic_ad.evaluate import chest
from medic_ad.evaluate.chest import across, pair_figures, series_figures, within

ONE = np.ones(8)


def test_over_time_only_what_runs_together_within_a_patient_counts() -> None:
    patients = np.repeat(["a", "b"], 4)
    severity = np.array([1, 2, 3, 4, 11, 12, 13, 14.0])
    falling = np.array([8, 7, 6, 5, 104, 103, 102, 101.0])  # down in each, though b lies higher
    assert within(severity, falling, patients)(ONE) == pytest.approx(-1)
    assert across(severity, falling, patients)(ONE) > 0.5
    # a patient drawn twice counts twice, one drawn never counts nothing
    mixed = np.array([1, 2, 3, 4, 8, 7, 6, 5.0])
    assert within(severity, mixed, patients)(ONE) == pytest.approx(0)
    assert within(severity, mixed, patients)(np.repeat([2.0, 0.0], 4)) == pytest.approx(1)


def test_series_take_patients_with_enough_values() -> None:
    patients = np.array([f"p{k}" for k in range(12) for _ in range(3)] + ["lone"])
    severity = np.arange(len(patients), dtype=float)
    labs = [{"po2": 100 - s, "crp": math.nan if k == 3 else s} for k, s in enumerate(severity)]
    found = {f.name: f for f in series_figures({"score": severity}, labs, patients, 0, 50)}
    over = found["rank correlation with pO2, over time, patients with 3 or more"]
    assert over.value == pytest.approx(-1) and over.n == 36 and over.units == 12
    assert found["rank correlation with pO2, over all images"].n == 37
    over = found["rank correlation with CRP, over time, patients with 3 or more"]
    assert over.value == pytest.approx(1) and over.units == 11 and over.n == 33
    assert over.interval == pytest.approx((1, 1))


def test_pairs_are_right_by_their_sign() -> None:
    change = np.array(["worse", "better", "worse", "better", "stable", "None"])
    owners = np.array(list("aabbcc"))
    leaning = {"model": np.array([0.3, -0.2, math.nan, 0.0, 1, 1]), "always worse": np.ones(6)}
    found = {f.of: f for f in pair_figures(leaning, change, owners, 0, 10)}
    assert found["model"].value == 0.5 and found["model"].n == 4
    assert found["always worse"].value == 0.5


def test_both_real_sets_are_measured(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chest, "load_model", lambda name: calibrated())
    (tmp_path / "config.json").write_text("{}")  # of weights without records
    page = chest.main(
        chest.ChestArguments(str(tmp_path), str(shared_data), str(tmp_path), resamples=20)
    )
    record = json.loads((tmp_path / "chest.json").read_text())
    pairs = {f["of"]: f for f in record["figures"] if f["name"] == "worse or better"}
    assert pairs["always worse"]["n"] == 28 and pairs["always worse"]["units"] >= 10
    assert pairs["always worse"]["value"] == pytest.approx(16 / 28, abs=0.01)
    assert set(pairs) == {"comparison", "always worse", "mean grey"}
    labs = [f for f in record["figures"] if "rank correlation" in f["name"]]
    assert len(labs) == 12 and all(f["interval"] and f["units"] >= 10 for f in labs)
    assert "of 200 radiographs" in page.read_text()
    assert set(record["seen"].values()) == {"not known, the weights come without records"}
    assert record["provenance"]["weights_sha256"][:16] in page.read_text()
