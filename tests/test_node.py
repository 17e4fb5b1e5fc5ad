"""The node as a service: it loses nothing, reads nothing twice, says nothing of patients, stops."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `node` is not installed")

from node_cases import Archive, RunningNode, ended, running, send, sources, until
from prometheus_client.parser import text_string_to_metric_families
from road_cases import planted, write_dicom

KILLS = 6


@pytest.fixture(scope="module")
def archive() -> Iterator[Archive]:
    with Archive() as kept:
        yield kept


@pytest.fixture(scope="module")
def node(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node") / "data"
    with running(folder, archive.address, callers="SENDER,OTHER", attempts=3) as up:
        yield up


def images(folder: Path, count: int, prefix: str = "P") -> list[Path]:
    """Slices of as many patients, each a series of its own."""
    grey = planted().current
    return [write_dicom(folder / f"{prefix}{n}.dcm", grey, f"{prefix}{n}") for n in range(count)]


def reports_of(archive: Archive, files: list[Path]) -> Counter[str]:
    """Reports by the image that they are of."""
    uids = {pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID for f in files}
    return Counter(uid for r in archive.reports() for uid in sources(r) & uids)


def settled(node: RunningNode) -> bool:
    health = node.health()
    return not health["waiting"] and not health["running"]


def test_an_image_comes_in_and_its_results_go_out(
    node: RunningNode, archive: Archive, tmp_path: Path
) -> None:
    [file] = images(tmp_path, 1, "IN")
    assert send(node.port, [file]) == [0]
    until(lambda: reports_of(archive, [file]), "the report")
    sent = pydicom.dcmread(file, stop_before_pixels=True)
    made = [d for d in archive.kept.values() if d.StudyInstanceUID == sent.StudyInstanceUID]
    assert {"SEG", "SR"} <= {d.Modality for d in made}
    assert all(d.PatientID == "IN0" for d in made)


def test_an_image_that_comes_again_is_answered_and_not_read_again(
    node: RunningNode, archive: Archive, tmp_path: Path
) -> None:
    files = images(tmp_path, 2, "AGAIN")
    assert send(node.port, files) == [0, 0]
    until(lambda: len(reports_of(archive, files)) == 2 and settled(node), "two reports")
    before, known = len(archive.kept), node.health()["instances"]
    assert send(node.port, files + files, "OTHER") == [0, 0, 0, 0]
    time.sleep(1.0)
    assert settled(node) and len(archive.kept) == before
    assert node.health()["instances"] == known
    assert set(reports_of(archive, files).values()) == {1}


def test_slices_of_a_series_are_read_as_one_volume(
    node: RunningNode, archive: Archive, tmp_path: Path
) -> None:
    files = []
    for number in range(4):
        dataset = pydicom.dcmread(write_dicom(tmp_path / f"{number}.dcm", planted().current, "VOL"))
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "1.2.3.4", "1.2.3"
        dataset.FrameOfReferenceUID = "1.2.3.5"
        dataset.ImagePositionPatient = [-98, -98, 36 + number]
        dataset.save_as(tmp_path / f"{number}.dcm")
        files.append(tmp_path / f"{number}.dcm")
    assert send(node.port, files) == [0] * 4
    until(lambda: reports_of(archive, files), "the report")
    assert len([r for r in archive.reports() if r.PatientID == "VOL"]) == 1


def test_what_cannot_be_read_lies_in_the_dead_letter_folder_with_the_reason(
    node: RunningNode, archive: Archive, tmp_path: Path
) -> None:
    [file] = images(tmp_path, 1, "TORN")
    dataset = pydicom.dcmread(file)
    dataset.PixelData = dataset.PixelData[:500]
    dataset.save_as(file)
    assert send(node.port, [file]) == [0]  # it was accepted whole; that it is torn shows later
    [reason] = until(lambda: list(node.folder.glob("dead/*/reason.json")), "the dead letter")
    content = json.loads(reason.read_text())
    assert content["attempts"] == 1 and "expected" in content["reason"]
    [kept] = reason.parent.glob("*.dcm")
    assert pydicom.dcmread(kept).SOPInstanceUID == dataset.SOPInstanceUID
    assert node.health()["dead"] == 1 and node.health()["ok"]


def test_an_archive_that_fails_is_tried_again(
    node: RunningNode, archive: Archive, tmp_path: Path
) -> None:
    files = images(tmp_path, 1, "RETRY")
    archive.refusals = 2
    assert send(node.port, files) == [0]
    until(lambda: reports_of(archive, files), "the report")
    tries = [line for line in node.log() if line["event"] == "archive failed"]
    assert [line["error"] for line in tries] == ["PeerError"] * 2
    assert tries[1]["retry_in"] == 2 * tries[0]["retry_in"]


@pytest.mark.parametrize(("title", "called"), [("STRANGER", "MEDIC_AD"), ("SENDER", "ANOTHER")])
def test_titles_that_are_not_on_the_list_are_refused(
    node: RunningNode, tmp_path: Path, title: str, called: str
) -> None:
    assert send(node.port, images(tmp_path, 1, "NO"), title, called) == []


def test_metrics_are_prometheus_and_agree_with_health(node: RunningNode) -> None:
    until(lambda: settled(node), "the end of all jobs")
    health = node.health()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(node.get("metrics").decode())
        for sample in family.samples
    }
    assert samples["medic_ad_instances_total",] == health["instances"] > 0
    assert samples["medic_ad_jobs", "done"] == health["done"] > 0
    assert samples["medic_ad_workers",] == 1


def test_the_log_is_json_and_names_no_patient(node: RunningNode) -> None:
    lines = node.log()
    assert len(lines) > 10
    text = json.dumps(lines)
    for planted_word in (
        "Made",
        "By^Test",
        "20240531",
        "2024-05-31",
        "IN0",
        "TORN",
        "AGAIN",
        "VOL",
    ):
        assert planted_word not in text
    uids = [pydicom.dcmread(f).SOPInstanceUID for f in node.folder.glob("incoming/*/*.dcm")]
    assert len(uids) > 5 and not any(uid in text for uid in uids)
    base = (node.folder / "node.db").read_bytes()
    assert not any(uid.encode() in base for uid in uids)


def test_a_stop_finishes_the_job_under_way_and_keeps_the_others(tmp_path: Path) -> None:
    with Archive() as archive:
        files = images(tmp_path, 4)
        with running(tmp_path / "node", archive.address) as node:
            assert send(node.port, files) == [0] * 4
            until(lambda: node.health()["running"] == 1, "the first job")
            [worker] = node.workers()
            assert node.stop() == 0
            assert node.log()[-1]["event"] == "node stopped" and ended(worker)
        assert len(archive.reports()) < 4
        with running(tmp_path / "node", archive.address):
            until(lambda: len(archive.reports()) == 4, "the other jobs")
        assert set(reports_of(archive, files).values()) == {1}


def pixels_of(dataset: Dataset) -> str:
    """A digest, so that a difference is short."""
    held = (dataset.get(name) or b"" for name in ("PixelData", "FloatPixelData"))
    return hashlib.sha256(b"".join(held)).hexdigest()


def test_killed_workers_lose_and_double_nothing(tmp_path: Path) -> None:
    """The short run of `benchmarks/node_kills.py`; the node itself is killed once, too."""
    luck, files = random.Random(5), images(tmp_path, 6)
    with Archive() as archive:
        with running(tmp_path / "node", archive.address, attempts=100) as node:
            assert send(node.port, files) == [0] * len(files)
            for _ in range(KILLS):
                [worker] = until(node.workers, "a worker")
                time.sleep(luck.uniform(0.0, 1.5))
                os.kill(worker, signal.SIGKILL)
                until(partial(ended, worker), "its end")
            assert node.stop(signal.SIGKILL) == -signal.SIGKILL
        with running(tmp_path / "node", archive.address, attempts=100) as node:
            until(lambda: settled(node) and node.health()["done"] == len(files), "all jobs")
        found = reports_of(archive, files)
        assert len(found) == len(files) and set(found.values()) == {1}
        stored = [pydicom.dcmread(p) for p in (tmp_path / "node" / "results").rglob("*.dcm")]
        assert {d.SOPInstanceUID: pixels_of(d) for d in stored} == {
            uid: pixels_of(d) for uid, d in archive.kept.items()
        }
        assert not list((tmp_path / "node").rglob(".*"))
