"""Of a volume each slice has its own score: in the report, its JSON and its page."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from report_cases import blob, make_image, make_report
from road_cases import template, write_nifti
from scipy.special import expit, logit

from medic_ad.errors import MedicADError
from medic_ad.load import Model, load_model
from medic_ad.report.report import Report
from medic_ad.road import STUDY_SLICES, read
from medic_ad.study import read_study

DEPTH, LESION = 15, 8  # slices of 10 mm of the template; which of them holds a bright disc


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("nano", "cpu")


def read_volume(volume: np.ndarray, model: Model, folder: Path) -> Report:
    path = write_nifti(folder / f"volume{len(list(folder.iterdir()))}.nii.gz", volume)
    return read(read_study(path, modality="MR", body_part="BRAIN"), model)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """A head with a disc as bright as its brightest hundredth in one slice, and an empty slice."""
    out = template()[20 : 20 + 10 * DEPTH : 10].copy()
    y, x = np.indices(out.shape[1:])
    middle = np.argwhere(out[LESION] > np.median(out[LESION])).mean(0) + (12, 18)
    out[LESION][(y - middle[0]) ** 2 + (x - middle[1]) ** 2 < 100] = np.percentile(out, 99)
    out[0] = 0
    return out


def test_the_slices_make_the_score_and_the_changed_slice_stands_out(
    model: Model, volume: np.ndarray, tmp_path: Path
) -> None:
    report = read_volume(volume, model, tmp_path)
    scores = report.slice_scores
    assert scores is not None and scores.shape == (DEPTH,) and np.isnan(scores[0])
    looked = scores[~np.isnan(scores)]
    assert len(looked) > STUDY_SLICES and (looked >= 0).all() and (looked <= 1).all()
    highest = np.sort(looked)[-STUDY_SLICES:]
    assert report.score == pytest.approx(expit(logit(highest).mean()), abs=1e-4)
    before = template()[20 : 20 + 10 * DEPTH : 10].copy()
    before[0] = 0
    healthy = read_volume(before, model, tmp_path).slice_scores
    assert healthy is not None
    assert np.nanargmax(np.abs(scores - healthy)) == LESION and scores[LESION] > healthy[LESION]
    turned = read_volume(volume[::-1], model, tmp_path).slice_scores
    assert turned is not None
    np.testing.assert_allclose(turned[::-1], scores, atol=1e-5)


def test_json_and_page_show_a_score_for_each_slice_that_was_looked_at() -> None:
    heatmap = np.full((6, 96, 120), 0.1, np.float32)
    heatmap[4:] = np.nan
    kept = np.array([0.1, 0.2, 0.9, 0.3, np.nan, np.nan])
    report = make_report(
        image=make_image((6, 96, 120)), heatmap=heatmap, slice_scores=kept, score=0.9
    )
    assert json.loads(report.to_json())["slice_scores"] == [0.1, 0.2, 0.9, 0.3, None, None]
    page = report.to_html()
    bars = re.findall(r'<rect x="(\d+)" y="[\d.]+" width="0.9" height="([\d.]+)"/>', page)
    assert [(int(x), float(h)) for x, h in bars] == [(0, 0.1), (1, 0.2), (2, 0.9), (3, 0.3)]
    assert "scores = [0.1, 0.2, 0.9, 0.3, null, null]" in page


def test_scores_that_do_not_fit_the_slices_are_refused() -> None:
    single = make_report()
    assert single.slice_scores is None and json.loads(single.to_json())["slice_scores"] is None
    with pytest.raises(MedicADError, match="a single image has none"):
        dataclasses.replace(single, slice_scores=np.array([0.5]))
    shape = (6, 96, 120)
    volume = make_report(image=make_image(shape), heatmap=blob(shape))
    for wrong in (None, np.full(5, 0.5), np.array([0.5] * 5 + [np.nan])):
        with pytest.raises(MedicADError, match="6 slices has a score of each slice"):
            dataclasses.replace(volume, slice_scores=wrong)
