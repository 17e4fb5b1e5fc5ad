"""report.json, its schema, and saving that leaves nothing half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from report_cases import (
    AXIAL,
    make_image,
    make_report,
    normal_report,
    out_of_scope_report,
    pair_report,
)

from medic_ad.errors import MedicADError
from medic_ad.report import Report
from medic_ad.report.schema import SCHEMA, validate

FILES = {"report.json", "report.html", "overlay.png", "heatmap.npz"}


def volume_report() -> Report:
    return make_report(image=make_image((9, 48, 60), affine=AXIAL, spacing_mm=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    "make",
    [make_report, normal_report, out_of_scope_report, pair_report, volume_report],
    ids=lambda f: f.__name__,
)
def test_json_follows_the_schema_and_has_no_nan(make: Callable[[], Report]) -> None:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    content = json.loads(make().to_json(), parse_constant=refuse)
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    assert content["schema"] == "medic-ad/report/5"


def test_the_schema_is_a_schema_and_bites() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    content = json.loads(make_report().to_json())
    for name in content:
        with pytest.raises(MedicADError, match=name):
            validate({key: value for key, value in content.items() if key != name})
    with pytest.raises(MedicADError, match="surprise"):
        validate(content | {"surprise": 1})
    with pytest.raises(MedicADError, match="score"):
        validate(content | {"score": 1.5})


def test_json_carries_no_pixels_path_or_patient() -> None:
    text = pair_report().to_json()
    assert len(text) < 5000
    assert "/somewhere" not in text and "patient_id" not in text


def test_json_round_trips_the_figures() -> None:
    report = pair_report()
    content = json.loads(report.to_json())
    assert report.change is not None
    assert content["score"] == report.score
    assert content["findings"][0]["box"] == list(report.findings[0].box)
    assert content["change"]["scores"] == report.change.scores
    assert content["change"]["prior_date"] == "2020-01-02"
    assert content["change"]["alignment"]["transform"] == np.eye(3).tolist()
    assert content["heatmap"]["maximum"] == pytest.approx(float(report.heatmap.max()))
    assert content["heatmap"]["pixels_above"] == int((report.heatmap >= 0.42).sum())


def test_a_saved_report_is_whole(tmp_path: Path) -> None:
    folder = pair_report().save(tmp_path / "deep" / "out")
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert (folder / "overlay.png").read_bytes().startswith(b"\x89PNG")
    with np.load(folder / "heatmap.npz") as arrays:
        np.testing.assert_array_equal(arrays["heatmap"], pair_report().heatmap)
        assert arrays["heatmap"].dtype == np.float32
        assert float(arrays["heatmap_threshold"]) == pytest.approx(0.42)
        assert arrays["change_map"].shape == (96, 120)


def test_maps_keep_nan_and_geometry(tmp_path: Path) -> None:
    image = make_image(affine=AXIAL, spacing_mm=(1.0, 1.0))
    heatmap = make_report().heatmap.copy()
    heatmap[:, -10:] = np.nan
    folder = make_report(image=image, heatmap=heatmap).save(tmp_path / "out")
    with np.load(folder / "heatmap.npz") as arrays:
        assert np.isnan(arrays["heatmap"]).sum() == 960
        np.testing.assert_array_equal(arrays["affine_lps_mm"], AXIAL)


def test_a_folder_that_exists_keeps_its_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "report.html").write_text("an older report")
    make_report().save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"notes.txt"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "older" not in (tmp_path / "report.html").read_text()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("fails_at", ["picture", 0, 1, 2, 3])
def test_a_failing_writer_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str | int, existing: bool
) -> None:
    if existing:
        make_report().save(tmp_path / "out")
    before = snapshot(tmp_path)
    written = 0
    write = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        nonlocal written
        if written == fails_at:
            write(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        written += 1
        return write(path, content)

    def no_picture(report: Report) -> bytes:
        raise MemoryError

    if fails_at == "picture":
        monkeypatch.setattr("medic_ad.report.figure.overlay_png", no_picture)
    else:
        monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises((MedicADError, MemoryError)):
        pair_report().save(tmp_path / "out")
    assert snapshot(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == ({"out"} if existing else set())


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_an_interrupted_replacement_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    make_report().save(tmp_path / "out")
    replace = os.replace
    done = 0

    def interrupted(source: Path, target: Path) -> None:
        nonlocal done
        if done == moves:
            raise KeyboardInterrupt
        done += 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pair_report().save(tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for target in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(MedicADError, match="could not be written"):
            make_report().save(target)
    assert (tmp_path / "file").read_text() == "not a folder"
