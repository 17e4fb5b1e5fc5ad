"""The one road, with the bundled weights: what every report promises, whatever was read."""

from __future__ import annotations

import datetime
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from road_cases import planted, template, write_dicom, write_nifti, write_png

import medic_ad
from medic_ad.align import align
from medic_ad.change import compare_slices
from medic_ad.errors import ModelError
from medic_ad.finding import DECISIONS, Finding, decide
from medic_ad.load import Model, load_model
from medic_ad.look import BATCH
from medic_ad.model.calibration import Calibration
from medic_ad.report.labels import decision_word, score_words
from medic_ad.report.report import Report
from medic_ad.report.rules import NO_ANSWER
from medic_ad.report.schema import NOTICE, validate
from medic_ad.road import read
from medic_ad.study import read_study
from medic_ad.words import BLANK

MR = {"modality": "MR", "body_part": "BRAIN"}
THICK = slice(20, 170, 10)  # of the template: 15 slices of 10 mm


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(os.environ.get("MEDIC_AD_TEST_MODEL", "nano"), "cpu")


@pytest.fixture(scope="module")
def reports(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """One report for each kind of input, each read once."""
    folder, case = tmp_path_factory.mktemp("road"), planted()
    volume = template()[THICK].copy()
    volume[0] = 0  # a slice outside the head
    png = write_png(folder / "current.png", case.current)
    prior = write_png(folder / "prior.png", case.prior)
    nifti = write_nifti(folder / "volume.nii.gz", volume)
    dicom = write_dicom(folder / "slice.dcm", case.current)
    studies = {
        "png": read_study(png),
        "volume": read_study(nifti, **MR),
        "dicom": read_study(dicom),
        "pair": read_study(png, prior),
    }
    return {name: read(study, model, "Where is the anomaly?") for name, study in studies.items()}


def figures(report: Report) -> dict[str, Any]:
    """The JSON without the time it was made."""
    content = json.loads(report.to_json())
    del content["provenance"]["created"]
    return content


def test_the_package_exports_the_road() -> None:
    names = ["load_model", "read_study", "read", "Study", "Report", "Image", "Finding", "Change"]
    for name in [*names, "Model", "MedicADError", "__version__"]:
        assert getattr(medic_ad, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medic_ad.nothing


# ---------------------------------------------------------------- what every report promises
KINDS = ("png", "volume", "dicom", "pair")


def test_all_kinds_are_covered(reports: dict[str, Report]) -> None:
    assert tuple(reports) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_score_and_decision(reports: dict[str, Report], kind: str) -> None:
    report = reports[kind]
    assert report.decision in DECISIONS and report.decision != "out_of_scope"
    assert 0 <= report.score <= 1
    low, high = report.provenance["uncertain_band"]
    assert report.decision == decide(report.score, (low, high))
    assert 0 <= low <= report.provenance["threshold"] <= high <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_heatmap_lies_on_the_grid_of_the_image(reports: dict[str, Report], kind: str) -> None:
    report = reports[kind]
    assert report.heatmap.dtype == np.float32
    assert report.heatmap.shape == report.study.image.grid
    looked = report.heatmap[~np.isnan(report.heatmap)]
    assert looked.size and looked.min() >= 0 and looked.max() <= 1
    assert 0 < report.heatmap_threshold < 1


@pytest.mark.parametrize("kind", KINDS)
def test_findings_are_the_regions_of_the_heatmap(reports: dict[str, Report], kind: str) -> None:
    report = reports[kind]
    assert isinstance(report.findings, tuple)
    above = int((report.heatmap >= report.heatmap_threshold).sum())
    assert sum(f.voxels for f in report.findings) <= above
    spacing = report.study.image.spacing_mm
    for finding in report.findings:
        assert isinstance(finding, Finding)
        assert report.heatmap_threshold <= finding.score <= 1
        assert (finding.area_mm2 is None) == (spacing is None)
        assert (finding.volume_ml is None) == (kind != "volume")
        assert "of the image" in finding.location


@pytest.mark.parametrize("kind", KINDS)
def test_change_belongs_to_a_prior(reports: dict[str, Report], kind: str) -> None:
    report = reports[kind]
    if kind != "pair":
        assert report.change is None
        return
    change = report.change
    assert change is not None and change.label in ("worse", "stable", "better")
    assert change.scores is not None and change.map is not None
    assert sum(change.scores.values()) == pytest.approx(1)
    assert change.map.shape == report.study.image.grid and change.map.dtype == np.float32
    seen = change.map[~np.isnan(change.map)]
    assert seen.size and np.abs(seen).max() <= 1
    assert "Identity and dates not verified: the order given holds." in report.warnings


@pytest.mark.parametrize("kind", KINDS)
def test_text_answer_and_provenance(reports: dict[str, Report], kind: str, model: Model) -> None:
    report = reports[kind]
    assert report.text and report.answer is not None
    assert report.question == "Where is the anomaly?"
    record = report.provenance
    assert record["weights_sha256"] == model.weights_sha256
    assert record["scope_entry"] in model.config.scope
    assert record["research_use"] == NOTICE
    roles = ["current", "prior"] if kind == "pair" else ["current"]
    assert [entry["role"] for entry in record["inputs"]] == roles
    assert all("/" not in entry["path"] for entry in record["inputs"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_follows_its_schema_and_has_no_nan(reports: dict[str, Report], kind: str) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    content = json.loads(reports[kind].to_json(), parse_constant=refuse)
    validate(content)
    assert content["study"]["grid"] == list(reports[kind].study.image.grid)


def test_only_slices_that_were_looked_at_have_a_heatmap(reports: dict[str, Report]) -> None:
    unseen = np.isnan(reports["volume"].heatmap).all((1, 2))
    partly = np.isnan(reports["volume"].heatmap).any((1, 2))
    assert unseen[0] and not unseen[5:10].any()
    np.testing.assert_array_equal(unseen, partly)
    for kind in ("png", "dicom", "pair"):
        assert not np.isnan(reports[kind].heatmap).any()


def test_two_reads_give_the_same_numbers(
    reports: dict[str, Report], model: Model, tmp_path: Path
) -> None:
    case = planted()
    png = write_png(tmp_path / "current.png", case.current)
    prior = write_png(tmp_path / "prior.png", case.prior)
    again = read(read_study(png, prior), model, "Where is the anomaly?")
    first = reports["pair"]
    assert figures(again) == figures(first)
    np.testing.assert_array_equal(again.heatmap, first.heatmap)
    assert again.change is not None and first.change is not None
    np.testing.assert_array_equal(again.change.map, first.change.map)


@pytest.mark.parametrize("shape", [(233, 197), (466, 394), (150, 197), (61, 52)])
def test_the_planted_lesion_is_where_the_heatmap_is_highest(
    model: Model, tmp_path: Path, shape: tuple[int, int]
) -> None:
    case = planted()
    report = read(read_study(write_png(tmp_path / "scan.png", case.current, shape)), model)
    assert report.heatmap.shape == shape
    assert report.decision != "out_of_scope"
    peak = np.unravel_index(int(report.heatmap.argmax()), shape)
    at = tuple(int(p * n / m) for p, n, m in zip(peak, case.mask.shape, shape, strict=True))
    assert case.mask[at]


# ---------------------------------------------------------------- exchanging the dates
SEEDS = (1, 2, 3, 4)
LABELS = {"worse": "better", "better": "worse", "stable": "stable"}


@pytest.mark.parametrize("seed", SEEDS)
def test_exchanging_files_and_dates_inverts_the_change(
    model: Model, tmp_path: Path, seed: int
) -> None:
    assert len(SEEDS) == 4
    case = planted(seed)
    days = datetime.date(2023, 1, 2), datetime.date(2024, 5, 31)
    changes = {}
    for name, slices in (
        ("forward", (case.prior, case.current)),
        ("backward", (case.current, case.prior)),
    ):
        paths = [
            write_dicom(tmp_path / f"{name}{i}.dcm", grey, date=day)
            for i, (grey, day) in enumerate(zip(slices, days, strict=True))
        ]
        report = read(read_study(paths[1], paths[0]), model)
        assert report.study.identity_verified
        changes[name] = report.change
    forward, backward = changes["forward"], changes["backward"]
    assert forward is not None and backward is not None
    assert forward.scores is not None and backward.scores is not None
    assert backward.label == LABELS[forward.label]
    assert backward.scores == {LABELS[name]: p for name, p in forward.scores.items()}
    # each map is carried onto its own current grid, a few pixels away from the other
    assert forward.map is not None and backward.map is not None
    both = np.isfinite(forward.map) & np.isfinite(backward.map)
    assert np.corrcoef(forward.map[both], backward.map[both])[0, 1] < 0


@pytest.mark.parametrize("seed", SEEDS)
def test_exchange_inverts_the_change_map_bit_for_bit(
    model: Model, tmp_path: Path, seed: int
) -> None:
    case = planted(seed)
    first = read_study(write_png(tmp_path / "first.png", case.prior)).image
    second = read_study(write_png(tmp_path / "second.png", case.current)).image
    forward = compare_slices(align(second, first), model).map
    backward = compare_slices(align(first, second), model).map
    np.testing.assert_array_equal(forward, -backward)
    assert np.nanmax(np.abs(forward)) > 0


def test_unmoved_dates_have_maps_that_are_each_other_negated(model: Model, tmp_path: Path) -> None:
    case = planted()
    grown = np.where(case.mask, case.current, case.healthy)
    files = write_png(tmp_path / "a.png", case.healthy), write_png(tmp_path / "b.png", grown)
    forward = read(read_study(files[1], files[0]), model).change
    backward = read(read_study(files[0], files[1]), model).change
    assert forward is not None and forward.map is not None
    assert backward is not None and backward.map is not None
    np.testing.assert_array_equal(forward.map, -backward.map)


def test_the_same_file_twice_is_stable(model: Model, tmp_path: Path) -> None:
    file = write_png(tmp_path / "scan.png", planted().current)
    change = read(read_study(file, file), model).change
    assert change is not None and change.scores is not None
    assert change.label == "stable"
    assert change.scores["worse"] == change.scores["better"]


def test_of_several_priors_the_most_recent_is_compared(model: Model, tmp_path: Path) -> None:
    case, dates = planted(), [datetime.date(year, 1, 1) for year in (2021, 2022, 2023)]
    files = [
        write_dicom(tmp_path / f"{i}.dcm", grey, date=date)
        for i, (grey, date) in enumerate(
            zip((case.healthy, case.prior, case.current), dates, strict=True)
        )
    ]
    report = read(read_study(files[2], [files[1], files[0]]), model)
    assert report.change is not None and report.change.prior_date == dates[1]
    assert "Compared with the most recent of 2 priors." in report.warnings


# ---------------------------------------------------------------- out of scope, blank and noise
@pytest.mark.parametrize(
    ("modality", "body_part"), [("CT", "HEAD"), ("DX", "CHEST"), ("MR", "KNEE"), ("CR", "CHEST")]
)
def test_another_modality_or_body_part_is_out_of_scope(
    model: Model, tmp_path: Path, modality: str, body_part: str
) -> None:
    said: dict[str, Any] = {"modality": modality, "body_part": body_part}
    case = planted()
    file = write_dicom(tmp_path / "now.dcm", case.current, **said)
    prior = write_dicom(tmp_path / "old.dcm", case.prior, date=datetime.date(2020, 1, 1), **said)
    report = read(read_study(file, prior), model, "Is there an anomaly?")
    assert report.decision == "out_of_scope"
    assert math.isnan(report.score) and math.isnan(report.heatmap_threshold)
    assert np.isnan(report.heatmap).all() and report.heatmap.shape == case.current.shape
    assert report.findings == () and report.text == "" and report.answer is None
    assert report.change is not None and report.change.label == "not_comparable"
    assert any(w.startswith("Out of scope: the ") for w in report.warnings)
    assert NO_ANSWER in report.warnings
    content = figures(report)
    assert content["score"] is None and content["heatmap"]["threshold"] is None
    assert content["heatmap"]["looked"] == 0


def test_a_head_is_in_scope_as_a_brain(model: Model, tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "head.dcm", planted().current, body_part="HEAD")
    assert read(read_study(file), model).decision != "out_of_scope"


def nothing_to_see() -> dict[str, np.ndarray]:
    rng, shape = np.random.default_rng(0), (224, 224)
    plain = {f"grey {level}": np.full(shape, level) for level in (0.0, 0.5, 1.0)}
    return plain | {
        "uniform noise": rng.random(shape),
        "normal noise": rng.normal(0.5, 0.1, shape),
        "coarse noise": np.kron(rng.random((14, 14)), np.ones((16, 16))),
        "speckle": (rng.random(shape) > 0.98).astype(float),
        "small noise": rng.random((40, 40)),
        "wide noise": rng.random((64, 512)),
    }


def test_blank_and_noise_are_not_abnormal(model: Model, tmp_path: Path) -> None:
    decisions = {
        name: read(read_study(write_png(tmp_path / "x.png", image.clip(0, 1))), model).decision
        for name, image in nothing_to_see().items()
    }
    assert len(decisions) == 9
    assert "abnormal" not in decisions.values(), decisions
    assert decisions["grey 0.5"] == "out_of_scope"


def test_of_a_blank_image_it_is_said_that_there_is_nothing_to_read(
    model: Model, tmp_path: Path
) -> None:
    blank = read(read_study(write_png(tmp_path / "x.png", np.zeros((224, 224)))), model)
    assert blank.decision == "out_of_scope" and blank.provenance["gate"]["reason"] == BLANK
    assert decision_word(blank) == "Nothing to read" and "grey value" in score_words(blank)
    assert "Nothing to read" in blank.to_html()
    noise = np.random.default_rng(0).random((224, 224))
    other = read(read_study(write_png(tmp_path / "y.png", noise)), model)
    assert other.decision == "out_of_scope" and decision_word(other) == "Out of scope"


# ---------------------------------------------------------------- one vision pass
@pytest.fixture()
def seen(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The content of every canvas that goes through the vision tower."""
    canvases: list[bytes] = []
    encode = type(model.network).encode

    def record(self: Any, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> Any:
        sizes = image_grid_thw.prod(1).tolist()
        canvases.extend(part.numpy().tobytes() for part in pixel_values.split(sizes))
        return encode(self, pixel_values, image_grid_thw)

    monkeypatch.setattr(type(model.network), "encode", record)
    return canvases


def test_one_vision_pass_serves_a_scan(model: Model, tmp_path: Path, seen: list[bytes]) -> None:
    read(read_study(write_png(tmp_path / "x.png", planted().current)), model, "Is it normal?")
    assert len(seen) == 1


def test_one_vision_pass_serves_each_canvas_of_a_pair(
    model: Model, tmp_path: Path, seen: list[bytes]
) -> None:
    case = planted()
    files = [
        write_png(tmp_path / f"{i}.png", grey) for i, grey in enumerate((case.prior, case.current))
    ]
    read(read_study(files[1], files[0]), model, "Is it worse than before?")
    assert len(seen) == 4  # both dates as they are, and on the halfway grid
    assert len(set(seen)) == 4


def test_a_volume_looks_once_at_each_slice_and_again_at_the_one_it_speaks_of(
    model: Model, tmp_path: Path, seen: list[bytes]
) -> None:
    volume = template()[40:140:5]
    assert len(volume) > BATCH
    read(read_study(write_nifti(tmp_path / "v.nii.gz", volume), **MR), model)
    assert len(set(seen)) == len(volume)
    assert len(seen) <= len(volume) + 1


# ---------------------------------------------------------------- weights without a calibration
def test_uncalibrated_weights_are_refused(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = model.config.vision_config.hidden_size
    monkeypatch.setitem(model.network._modules, "calibration", Calibration(3, width))
    study = read_study(write_png(tmp_path / "x.png", planted().current))
    with pytest.raises(ModelError, match="medic-ad calibrate"):
        read(study, model)


def test_a_report_does_not_change_with_the_name_of_the_model(
    model: Model, reports: dict[str, Report], tmp_path: Path
) -> None:
    study = read_study(write_png(tmp_path / "current.png", planted().current))
    report = read(study, replace(model, name="other"), "Where is the anomaly?")
    assert report.score == reports["png"].score
    assert report.provenance["model"] == "other"
