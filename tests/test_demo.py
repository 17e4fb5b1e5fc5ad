"""The demo: what is planted is known exactly, and a miss is shown as plainly as a hit."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_cases import make_change, make_report, normal_report
from road_cases import planted
from scipy import ndimage
from typer.testing import CliRunner

from medic_ad import cli, demo
from medic_ad.data.head import brain_mask
from medic_ad.data.synthetic import paste_zone
from medic_ad.errors import DataError
from medic_ad.image import Image, Source
from medic_ad.readers import read_image
from medic_ad.report.report import Report
from medic_ad.report.schema import NOTICE
from medic_ad.study import Study
from medic_ad.words import CHANGE_SENTENCES

MODEL = os.environ.get("MEDIC_AD_TEST_MODEL", "nano")


# ---------------------------------------------------------------- what is planted
def test_the_planted_lesion_grows_by_what_is_said() -> None:
    case = planted()
    assert case.growth == pytest.approx(demo.GROWTH, abs=0.02)
    assert case.mask.sum() / case.prior_mask.sum() == pytest.approx(demo.GROWTH, rel=0.1)
    assert case.grown.sum() == pytest.approx((1 - 1 / demo.GROWTH) * case.mask.sum(), rel=0.1)
    assert not (case.grown & ~case.mask).any()


def test_the_lesion_lies_where_it_is_said_in_brain_and_is_bright() -> None:
    case = planted()
    to_index = np.linalg.inv(case.affine)
    _, y, x, _ = to_index @ (*demo.CENTRE_MM, demo.SLICE_MM, 1)
    centre = np.argwhere(case.prior_mask).mean(0)
    assert np.linalg.norm(centre - (y, x)) < 4
    assert not (case.mask & ~brain_mask(case.healthy)).any()
    around = paste_zone(case.mask) & ~case.mask
    assert case.current[case.mask].max() > case.current[around].max()
    size = np.sqrt(case.prior_mask.sum() / math.pi)
    assert size == pytest.approx(demo.RADIUS_MM, rel=0.1)


def test_the_slice_without_lesion_is_the_template_and_the_dates_differ() -> None:
    case = planted()
    assert case.healthy.dtype == case.prior.dtype == case.current.dtype == np.float32
    for grey in (case.healthy, case.prior, case.current):
        assert grey.shape == case.mask.shape and grey.min() >= 0 and grey.max() <= 1
    outside = ~paste_zone(case.mask | case.prior_mask)
    assert np.abs(case.prior - case.current)[outside].mean() > 0.005  # other pose, light and noise


def test_a_seed_gives_one_study() -> None:
    first, again, other = demo.plant(3), demo.plant(3), demo.plant(4)
    np.testing.assert_array_equal(first.current, again.current)
    assert (first.mask != other.mask).any()


def test_a_drawn_lesion_is_bright_and_darker_in_the_middle() -> None:
    tissue = np.full((64, 64), 0.4, np.float32)
    grey, mask = demo.draw_lesion(tissue, (30, 34), 12.0, np.random.default_rng(0))
    np.testing.assert_array_equal(grey[~mask], tissue[~mask])
    assert mask.sum() == pytest.approx(math.pi * 12**2, rel=0.15)
    core = ndimage.binary_erosion(mask, iterations=7)
    assert mask[30, 34] and grey[mask].min() > 0.6
    assert grey[core].mean() < grey[mask & ~core].mean() - 0.03


# ---------------------------------------------------------------- truth beside result
def read_as(heatmap: np.ndarray, **changes: object) -> Report:
    source = Source(path="/x/current.nii.gz", sha256="1" * 64, format="NIfTI")
    image = Image(planted().current, source=source)
    return make_report(study=Study(image), heatmap=heatmap.astype(np.float32), **changes)


def test_a_perfect_read_is_as_planted() -> None:
    case = planted()
    text = f"There is an anomaly in the middle right of the image. {CHANGE_SENTENCES['worse']}"
    now = read_as(np.where(case.mask, 0.9, 0.01))
    before = read_as(np.where(case.prior_mask, 0.9, 0.01))
    study = Study(now.study.image, priors=(Study(now.study.image),))
    change = make_change(case.mask.shape, map=np.where(case.mask, np.float32(0.8), np.float32(0)))
    warned = (
        *now.warnings,
        "Identity and dates not verified: the order given holds.",
        "Sizes over time were not measured: not every date says its pixel spacing, so lesions are "
        "not followed.",
    )
    now = replace(now, study=study, change=change, text=text, warnings=warned)
    rows = demo.compare(case, normal_report(), before, now)
    assert [row.right for row in rows] == [True] * 6 + [None] * 2
    assert rows[-2].found == f"{case.mask.sum()} mm², Dice 1.00"
    assert rows[-1].planted == f"× {case.growth:.2f}"


def test_a_miss_is_said_to_be_one() -> None:
    case = planted()
    nothing = np.full(case.mask.shape, 0.01)
    now = read_as(nothing, score=0.1, text="There is no anomaly.")
    rows = demo.compare(case, read_as(nothing), now, now)
    assert [row.right for row in rows] == [False] * 6 + [None] * 2
    assert rows[2].found == "none" and rows[4].found == "none"
    assert "Dice 0.00" in rows[6].found
    assert rows[7].found == "not seen on the prior"


def test_a_text_that_denies_the_change_has_a_row_that_says_so() -> None:
    case = planted()
    now = read_as(np.where(case.mask, 0.9, 0.01))
    prior = Study(now.study.image)
    text = f"{now.text} {CHANGE_SENTENCES['stable']}"
    change = make_change(case.mask.shape)
    study = Study(now.study.image, priors=(prior,))
    now = make_report(study=study, heatmap=now.heatmap, change=change, text=text)
    rows = {row.what: row for row in demo.compare(case, now, now, now)}
    assert rows["Change"].right and rows["Change in the text"].right is False
    assert rows["Change in the text"].found == "stable"


def test_a_finding_beside_the_lesion_is_no_hit() -> None:
    case = planted()
    beside = np.where(np.roll(case.mask, -60, axis=1), 0.9, 0.01)
    rows = demo.compare(case, normal_report(), read_as(beside), read_as(beside))
    assert rows[0].right and not rows[2].right


def test_dice() -> None:
    a, b = np.zeros((2, 4, 4), bool)
    assert demo.dice(a, b) == 1
    a[:2] = True
    assert demo.dice(a, b) == 0
    b[1:3] = True
    assert demo.dice(a, b) == 0.5
    assert demo.dice(a, a) == 1


# ---------------------------------------------------------------- the command
@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner(env={"COLUMNS": "160"}).invoke(
        cli.app, ["demo", "--out", str(out), "--model", MODEL]
    )
    assert result.exit_code == 0, result.output
    return out, result.stdout


def test_the_command_says_what_it_found_and_where_the_pages_are(done: tuple[Path, str]) -> None:
    out, said = done
    assert f"Truth beside result: {out / 'demo.html'}" in said
    assert f"Report: {out / 'report' / 'report.html'}" in said
    assert "planted" in said and "Dice" in said and NOTICE in said
    record = json.loads((out / "demo.json").read_text())
    judged = [row["right"] for row in record["rows"] if row["right"] is not None]
    assert record["verdict"].startswith(f"{sum(judged)} of 6 as planted.")
    assert said.count("not as planted") == judged.count(False)


def test_the_page_stands_alone_and_shows_every_row(done: tuple[Path, str]) -> None:
    out, _ = done
    page = (out / "demo.html").read_text(encoding="utf-8")
    assert page.count(NOTICE) == 2
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert 'href="report/report.html"' in page and (out / "report" / "report.html").is_file()
    rows = json.loads((out / "demo.json").read_text())["rows"]
    assert len(rows) == 8
    for row in rows:
        assert f"<td>{row['what']}</td>" in page
    assert page.count(">not as planted<") == sum(row["right"] is False for row in rows)


def test_the_written_study_has_the_geometry_of_the_template(done: tuple[Path, str]) -> None:
    out, _ = done
    image = read_image(out / "current.nii.gz", modality="MR")
    assert image.grid == planted().current.shape
    assert image.spacing_mm == (1.0, 1.0)
    assert image.side_letters() == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert image.affine is not None
    np.testing.assert_allclose(image.affine, planted().affine)
    np.testing.assert_allclose(image.pixels / 1000, planted().current, atol=6e-4)


def test_the_bundled_model_finds_what_is_planted_and_sees_it_grow(done: tuple[Path, str]) -> None:
    record = json.loads((done[0] / "demo.json").read_text())
    right = {row["what"]: row["right"] for row in record["rows"]}
    assert right["Current scan"] and right["Place of the first finding"] and right["Change"], right
    assert record["dice"] >= 0.5


def test_without_nilearn_the_demo_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="nilearn"):
        demo.plant()
