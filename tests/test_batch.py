"""Many studies in a batch: one result each, whatever fails or is interrupted."""

from __future__ import annotations

import datetime
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_cases import arguments, command, heatmaps, manifest, pictures, results
from fsspec.implementations.memory import MemoryFileSystem

from medic_ad.batch import shard
from medic_ad.batch.manifest import studies_at
from medic_ad.batch.run import Outcome, run_batch
from medic_ad.errors import MedicADError
from medic_ad.load import load_model
from medic_ad.road import read
from medic_ad.study import read_study


def test_each_study_has_the_result_of_read_and_failures_say_why(tmp_path: Path) -> None:
    made = pictures(tmp_path / "in", 5)
    (tmp_path / "in" / "a_text.png").write_text("no picture")
    manifest(
        tmp_path / "m.parquet",
        [
            *({"study": f"P{i}", "path": f"in/{p.name}"} for i, p in enumerate(made)),
            {"study": "text", "path": "in/a_text.png"},
            {"study": "gone", "path": "in/gone.png"},
        ],
    )
    outcome = run_batch(arguments(tmp_path / "m.parquet", tmp_path / "out"))
    assert outcome == Outcome(7, 2, str(tmp_path / "out"))
    rows = {row["study"]: row for row in results(tmp_path / "out")}
    assert list(rows) == [*(f"P{i}" for i in range(5)), "text", "gone"]
    assert "came a text file; convert it" in rows["text"]["reason"]
    assert "came a path that does not exist" in rows["gone"]["reason"]
    model, maps = load_model("nano", "cpu"), {m["study"]: m for m in heatmaps(tmp_path / "out")}
    compared = 0
    for i, path in enumerate(made):
        alone = read(read_study(path, modality="MR", body_part="BRAIN"), model)
        row = rows[f"P{i}"]
        assert (row["status"], row["decision"], row["text"]) == ("read", alone.decision, alone.text)
        assert row["weights_sha256"] == model.weights_sha256 and row["report"].startswith("{")
        if alone.decision == "out_of_scope":
            assert row["score"] is None and f"P{i}" not in maps
            continue
        assert row["score"] == pytest.approx(alone.score, abs=1e-6)
        kept = np.reshape(maps[f"P{i}"]["values"], maps[f"P{i}"]["grid"])
        np.testing.assert_allclose(kept, alone.heatmap, atol=5e-4)
        compared += 1
    assert compared >= 3


def test_priors_are_compared_by_the_dates_given(tmp_path: Path) -> None:
    now, before = pictures(tmp_path / "in", 2)
    day, old = datetime.date(2024, 5, 31), datetime.date(2023, 4, 20)
    common = {"path": str(now), "priors": [str(before)], "date": str(day)}
    given: list[list[str]] = [[], [str(old)], [str(old)] * 2, [str(day)[:3] + "5-01-01"]]
    rows = [{"study": f"P{i}", **common, "prior_dates": dates} for i, dates in enumerate(given)]
    run_batch(arguments(manifest(tmp_path / "m.parquet", rows), tmp_path / "out"))
    undated, dated, twice, later = results(tmp_path / "out")
    for row, date in ((undated, None), (dated, str(old))):
        assert row["status"] == "read" and row["change"] is not None
        [prior] = json.loads(row["report"])["study"]["priors"]
        assert prior["date"] == date
    assert "one date for each prior, in the same order, came 2 for 1" in twice["reason"]
    assert "expected a prior dated on or before the current study" in later["reason"]


def test_a_defect_in_one_study_stops_no_other(tmp_path: Path, monkeypatch) -> None:
    pictures(tmp_path / "in", 3)

    def broken(study, model):
        if study.image.source.path.endswith("s001.png"):
            raise ZeroDivisionError("by zero")
        return read(study, model)

    monkeypatch.setattr(shard, "read", broken)
    assert run_batch(arguments(tmp_path / "in", tmp_path / "out")).failed == 1
    reasons = [row["reason"] for row in results(tmp_path / "out")]
    assert reasons == [None, "unexpected ZeroDivisionError: by zero", None]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch) -> None:
    pictures(tmp_path / "in", 5)
    order, calls = arguments(tmp_path / "in", tmp_path / "out"), []

    def counted(study, model):
        calls.append(study.image.source.path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return read(study, model)

    monkeypatch.setattr(shard, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        run_batch(order)
    [first] = (tmp_path / "out" / "results").iterdir()
    assert not list((tmp_path / "out").rglob(".*"))
    kept = first.stat().st_mtime_ns
    seen: list[tuple[int, int]] = []

    def begin(studies: int, before: int):
        seen.append((studies, before))
        return lambda _: None

    assert run_batch(order, begin).studies == 5
    assert seen == [(5, 2)] and first.stat().st_mtime_ns == kept
    assert len(calls) == 4 + 3  # two of the first shard, two lost; three read again
    assert [row["study"] for row in results(tmp_path / "out")] == [f"s00{i}.png" for i in range(5)]
    run_batch(order)
    assert len(calls) == 7


@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "kill -9"])
def test_the_command_survives_being_stopped(tmp_path: Path, word: signal.Signals) -> None:
    pictures(tmp_path / "in", 16)
    stopped = command(tmp_path / "in", tmp_path / "out")
    end = time.monotonic() + 120
    while len(list((tmp_path / "out" / "results").glob("*.parquet"))) < 2:
        assert time.monotonic() < end and stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(word)
    stopped.communicate(timeout=60)
    assert 2 <= len(results(tmp_path / "out")) < 16
    again = command(tmp_path / "in", tmp_path / "out")
    said, complaint = again.communicate(timeout=120)
    assert again.returncode == 0, complaint
    assert "Studies: 16 read, 0 failed" in said
    assert [row["study"] for row in results(tmp_path / "out")] == [
        f"s{i:03d}.png" for i in range(16)
    ]
    assert not list((tmp_path / "out").rglob(".*"))


def test_results_may_lie_on_another_file_system(tmp_path: Path) -> None:
    MemoryFileSystem.store.clear()
    pictures(tmp_path / "in", 3)
    outcome = run_batch(arguments(f"{tmp_path}/in/*.png", "memory://bucket/out"))
    assert outcome == Outcome(3, 0, "memory://bucket/out")
    names = sorted(MemoryFileSystem.store)
    assert len([n for n in names if n.startswith("/bucket/out/results/")]) == 2
    assert not [n for n in names if "/." in n]
    again = "memory://bucket/out/manifest.parquet"  # the kept manifest is one itself
    assert run_batch(arguments(again, tmp_path / "out")).studies == 3
    MemoryFileSystem.store.clear()


def rows_of(*names: str) -> list[dict[str, Any]]:
    return [{"study": name, "path": f"{name}.png"} for name in names]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (rows_of("a", "b", "a"), "each study once in .*, came 'a' more than once"),
        ([{"study": "a"}], "columns study and path in .*, came study; add path"),
        ([{**rows_of("a")[0], "prior": "b"}], "came 'prior' too; rename or drop it"),
        ([{"study": "a", "path": ""}], "expected a path in each row"),
        ([{**rows_of("a")[0], "date": "May 2024"}], "dates such as 2024-05-31 .*, came 'May 2024'"),
        ([{**rows_of("a")[0], "prior_dates": "May"}], "dates such as 2024-05-31 .*, came 'May'"),
    ],
    ids=["twice", "no path", "unknown column", "empty path", "no date", "no prior date"],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, rows, sentence: str) -> None:
    with pytest.raises(MedicADError, match=sentence):
        run_batch(arguments(manifest(tmp_path / "m.parquet", rows), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"engine": "spark"}, "--engine local or ray, came 'spark'"),
        ({"shard": 0}, "at least 1 for --shard, came 0"),
        ({"out": "nowhere://x"}, "expected a folder or an address .* got 'nowhere://x'"),
        ({"inputs": "gone.parquet"}, "expected a Parquet manifest, .* gone.parquet, found nothing"),
        ({"inputs": "gone*"}, "expected a Parquet manifest, .* gone\\*, found nothing there"),
        ({"model": "nono"}, "did you mean nano"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, own: dict, sentence: str) -> None:
    pictures(tmp_path / "in", 1)
    with pytest.raises(MedicADError, match=sentence):
        run_batch(arguments(**{"inputs": tmp_path / "in", "out": tmp_path / "out", **own}))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_parquet_files_is_one_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    pictures(folder / "pictures", 3)
    for part, numbers in (("a", (0, 1)), ("b", (2,))):
        rows = [{"study": f"P{i}", "path": f"pictures/s00{i}.png"} for i in numbers]
        manifest(tmp_path / f"{part}.parquet", rows)
    for inputs in (f"{tmp_path}/[ab].parquet", tmp_path / "parts"):
        if inputs == tmp_path / "parts":
            inputs.mkdir()
            (inputs / "_SUCCESS").touch()
            for part in "ab":
                (tmp_path / f"{part}.parquet").rename(inputs / f"{part}.parquet")
        table = studies_at(str(inputs), None, None)
        assert table["study"].to_pylist() == ["P0", "P1", "P2"]
        parent = inputs if inputs == tmp_path / "parts" else tmp_path
        assert table["path"][2].as_py() == f"{parent}/pictures/s002.png"
    (tmp_path / "parts" / "x.png").touch()
    with pytest.raises(MedicADError, match="a manifest or studies in .*, came a.parquet and x.png"):
        run_batch(arguments(tmp_path / "parts", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ([7, 8], "expected text in the column study of .*, came the int 7; write it as text"),
        (["a", None], "expected a study in each row of .*, came an empty one; fill it"),
    ],
)
def test_ids_that_are_no_text_are_said_to_be_none(
    tmp_path: Path, column: list, sentence: str
) -> None:
    pictures(tmp_path, 2)
    table = pa.table({"study": column, "path": ["s000.png", "s001.png"]})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(MedicADError, match=sentence):
        run_batch(arguments(tmp_path / "m.parquet", tmp_path / "out"))


def test_a_csv_file_is_no_manifest_and_no_image(tmp_path: Path) -> None:
    (tmp_path / "studies.csv").write_text("study,path\na,a.png\n")
    with pytest.raises(MedicADError, match="expected a Parquet manifest, .* came a CSV file"):
        run_batch(arguments(tmp_path / "studies.csv", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_results_is_not_added_to(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 2)
    run_batch(arguments(tmp_path / "in", tmp_path / "out"))
    with pytest.raises(MedicADError, match="expected the shard .* begun with .2., came 1; give"):
        run_batch(arguments(tmp_path / "in", tmp_path / "out", shard=1))
    pictures(tmp_path / "in", 3)
    with pytest.raises(
        MedicADError, match="expected the studies that .* came others; give the same"
    ):
        run_batch(arguments(tmp_path / "in", tmp_path / "out"))
    assert len(results(tmp_path / "out")) == 2


def test_studies_are_read_from_disk_while_the_model_works() -> None:
    made: list[int] = []
    for item, future in shard.ahead(range(6), made.append):
        future.result()
        time.sleep(0.05)  # the model at work
        assert len(made) >= min(6, item + shard.AHEAD + 1)
    assert made == list(range(6))
