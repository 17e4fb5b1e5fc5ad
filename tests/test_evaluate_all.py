"""`evaluate all`: what data sets allow is measured once, refusals are said, numbers stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import evaluate_cases as cases
import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from medic_ad import cli
from medic_ad.data.sample import Sample, TableInfo, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate import all as everything
from medic_ad.evaluate import calibration, sanity
from medic_ad.evaluate.figures.bootstrap import Resampling
from medic_ad.evaluate.output.summary import Row, Summary, as_markdown, head_of
from medic_ad.evaluate.parts import outside
from medic_ad.evaluate.predictions import run
from medic_ad.report.schema import NOTICE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Tumour slices as published, and a folder of a set with nothing in it."""
    cases.cheng(tmp_path / "data", test=3)
    (tmp_path / "data" / "head_ct").mkdir()
    return tmp_path / "data"


def plant(monkeypatch: Any) -> None:
    model = cases.tiny_model()
    monkeypatch.setattr(run, "load_model", lambda name: model)
    monkeypatch.setattr(sanity, "SLICES", 2)
    monkeypatch.setattr(sanity, "DRAWS", 1)
    monkeypatch.setattr(outside, "EACH", 1)


def measured(root: Path, out: Path, training: str = "") -> list[dict[str, Any]]:
    arguments = everything.AllArguments(str(root), "tiny", training, str(out), resamples=20)
    assert everything.main(arguments) == out / "summary.html"
    return json.loads((out / "summary.json").read_text())["measurements"]


def numbers(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(r["name"], r["stage"], r["figure"], r["verdict"], r["reason"]) for r in rows]


def test_everything_is_measured_and_what_cannot_be_is_said(root, tmp_path, monkeypatch):
    plant(monkeypatch)
    out = tmp_path / "out"
    rows = measured(root, out)
    assert [r["stage"] for r in rows] == [
        "prepare", "localise", "language", "calibration", "sanity"
    ]  # fmt: skip
    assert rows[0]["name"] == "head_ct" and "head_ct" in rows[0]["reason"]
    page, text = ((out / f"summary.{kind}").read_text() for kind in ("html", "md"))
    for row in rows[1:]:
        assert (out / row["page"]).is_file() and row["split"] == "test"
        assert f'href="{row["page"]}"' in page and row["page"].replace("html", "md") in text
        assert row["figure"]["n"] > 0
    assert NOTICE in page and NOTICE in text and rows[0]["reason"] in text


def test_a_second_run_measures_nothing_and_gives_the_same_numbers(root, tmp_path, monkeypatch):
    plant(monkeypatch)
    out = tmp_path / "out"
    first = numbers(measured(root, out))
    for name, (kind, _) in everything.COMMANDS.items():
        monkeypatch.setitem(everything.COMMANDS, name, (kind, None))
    assert numbers(measured(root, out)) == first
    # made anew elsewhere, they are the same too
    monkeypatch.undo()
    plant(monkeypatch)
    again = numbers(measured(root, tmp_path / "elsewhere"))
    assert again == first


def test_figures_of_other_commands_are_listed_but_not_those_of_other_weights(
    root, tmp_path, monkeypatch
):
    plant(monkeypatch)
    first = {r["stage"]: r for r in measured(root, tmp_path / "first")}
    arguments = everything.AllArguments(str(root), "tiny", out=str(tmp_path / "out"), resamples=20)
    arguments.others = f"{tmp_path / 'first/brain_tumour_cheng/localise'},, "
    monkeypatch.chdir(tmp_path / "first")  # where an empty entry would find all the others
    everything.main(arguments)
    rows = json.loads((tmp_path / "out/summary.json").read_text())["measurements"]
    [listed] = [r for r in rows if r["page"].startswith("../first")]
    assert rows.index(listed) == 1 and len(rows) == len(first) + 1
    assert listed["figure"] == first["localise"]["figure"] and listed["seconds"] == 0
    assert (tmp_path / "out" / listed["page"]).is_file() and listed["listed"] is True
    text = (tmp_path / "out/summary.md").read_text()
    assert "| brain_tumour_cheng (listed), test |" in text
    assert f"{len(first) - 1} measurements on 1 data sets" in text  # one of first is a refusal
    before = (tmp_path / "out/summary.json").read_bytes()
    page = tmp_path / "first/brain_tumour_cheng/localise/figures.json"
    found = json.loads(page.read_text())
    found["provenance"]["weights_sha256"] = "2" * 64
    page.write_text(json.dumps(found))
    with pytest.raises(DataError, match="found none; measure with these weights"):
        everything.main(arguments)
    for content in ("[]", "{", '{"schema": "medic-ad/figures/1", "parts": []}'):
        page.write_text(content)
        with pytest.raises(DataError, match="localise/figures.json, but it cannot be read as such"):
            everything.main(arguments)
    assert (tmp_path / "out/summary.json").read_bytes() == before


def test_an_interrupted_run_goes_on(root, tmp_path, monkeypatch):
    plant(monkeypatch)

    def interrupted(arguments: Any) -> Path:
        raise KeyboardInterrupt

    kind = calibration.CalibrationArguments
    monkeypatch.setitem(everything.COMMANDS, "calibration", (kind, interrupted))
    with pytest.raises(KeyboardInterrupt):
        measured(root, tmp_path / "out")
    there = json.loads((tmp_path / "out" / "summary.json").read_text())["measurements"]
    assert [r["stage"] for r in there] == ["prepare", "localise", "language"]
    monkeypatch.setitem(everything.COMMANDS, "calibration", (kind, calibration.main))
    monkeypatch.setitem(everything.COMMANDS, "localise", (everything.COMMANDS["localise"][0], None))
    assert len(measured(root, tmp_path / "out")) == 5


def test_other_weights_or_arguments_are_measured_again(root, tmp_path, monkeypatch):
    plant(monkeypatch)
    measured(root, tmp_path / "out")
    model, tables = cases.tiny_model(), {"brain_tumour_cheng": tmp_path / "out/tables/"
                                         "brain_tumour_cheng.parquet"}  # fmt: skip
    arguments = everything.AllArguments(str(root), "tiny", out=str(tmp_path / "out"), resamples=20)
    jobs, _ = everything.jobs_of(arguments, model, tables)
    assert all(everything.measured_before(job, model.weights_sha256) for job in jobs)
    assert not any(everything.measured_before(job, "2" * 64) for job in jobs)
    arguments.resamples = 21
    jobs, _ = everything.jobs_of(arguments, model, tables)
    assert jobs and not any(everything.measured_before(j, model.weights_sha256) for j in jobs)


def test_stages_follow_from_the_columns():
    def row(**more: Any) -> Sample:
        return Sample(image="a.png", group="g", split="test", source="s", **more)

    stages = everything.stages_of
    assert stages([row(label=1.0), row(label=0.0)], False) == ["detect"]
    assert stages([row(label=1.0, mask="m.png")], False) == ["localise"]
    assert stages([row(prior="p.png", change="worse")], True) == ["compare"]
    assert stages([row(prior="p.png", mask="m.png")], True) == ["compare"]
    assert stages([row(question="q", answer="a")], False) == ["language"]
    assert stages([row(prior="p.png")], True) == []


def test_what_training_has_seen_is_left_out_and_the_figures_say_so(root, tmp_path, monkeypatch):
    plant(monkeypatch)
    own = root / "brain_tumour_cheng"
    y, x = np.indices((cases.SIDE, cases.SIDE))
    for k, path in enumerate(files := sorted((own / "images").iterdir())[-3:]):  # the test split
        grey = np.array(Pillow.open(path))  # unlike the others, too
        around = 60 + 60 * np.sin(x * (k + 1) / 9 + k * y / 7)
        Pillow.fromarray(np.where(grey == 0, around.astype(np.uint8), grey)).save(path)
    saved = tmp_path / "again.jpg"
    Pillow.open(files[0]).save(saved, quality=80)  # other bytes, other name, the same slice
    rows = [Sample(image=str(saved), group="g", split="train", source="elsewhere", label=1.0)]
    info = TableInfo("elsewhere", "CC0", True, str(tmp_path))
    training = str(write_samples(rows, tmp_path / "elsewhere.parquet", info))
    found = [r for r in measured(root, tmp_path / "out", training) if r["stage"] == "localise"]
    assert found[0]["figure"]["n"] == 2
    page = tmp_path / "out" / "brain_tumour_cheng" / "localise" / "figures.md"
    assert (
        "1 of 3 rows were left out" in page.read_text() and page.read_text().count("elsewhere") > 1
    )
    assert "Images in train or val of elsewhere" in (tmp_path / "out/summary.md").read_text()
    again = measured(root, tmp_path / "out", training)
    assert [r for r in again if r["stage"] == "localise"][0]["figure"] == found[0]["figure"]


def test_a_set_that_was_trained_on_whole_is_refused_and_silence_is_said(tmp_path, monkeypatch):
    plant(monkeypatch)
    cases.cheng(tmp_path / "data", train=2, val=3, test=0)
    rows = measured(tmp_path / "data", tmp_path / "out")  # nobody says what was trained on
    [one] = [r for r in rows if r["stage"] == "localise"]
    text = (tmp_path / "out" / one["page"]).with_suffix(".md").read_text()
    assert one["split"] == "val" and "The split is 'val'" in text and "not looked for" in text
    assert "(--training)" in (tmp_path / "out/summary.md").read_text()
    training = str(tmp_path / "out/tables/brain_tumour_cheng.parquet")
    with pytest.raises(DataError, match="Nothing could be .*cheng: .* all 3 rows of split 'val'"):
        measured(tmp_path / "data", tmp_path / "other", training)


def test_tables_that_say_nothing_are_named_and_nothing_measured_is_an_error(
    tmp_path, monkeypatch, capsys
):
    plant(monkeypatch)
    folder = tmp_path / "data" / "cxr_hannover"
    (folder / "png").mkdir(parents=True)
    lines = ["patient_id,image_id,admission_offset,modality"]
    rng = np.random.default_rng(0)
    for k in range(6):
        noise = rng.integers(0, 256, (96, 96)).astype(np.uint8)
        Pillow.fromarray(noise).save(folder / f"png/{k}.png")
        lines.append(f"p{k % 3},{k},{-k},DX")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "data" / "head_ct").mkdir()
    with pytest.raises(DataError, match=r"Nothing could be measured\. head_ct: .*labels\.csv"):
        measured(tmp_path / "data", tmp_path / "out")
    said = capsys.readouterr().err.splitlines()
    assert f"evaluate of cxr_hannover refused: {everything.NOTHING}" in said
    assert sum(line.startswith("prepare of head_ct refused: ") for line in said) == 1
    assert not (tmp_path / "out/summary.json").exists()


def only(monkeypatch: Any, stage: str) -> list[Any]:
    """Measure this stage alone; the arguments of every measurement."""
    kind, main = everything.COMMANDS[stage]
    made: list[Any] = []

    def counted(arguments: Any) -> Path:
        made.append(arguments)
        return main(arguments)

    monkeypatch.setitem(everything.COMMANDS, stage, (kind, counted))
    monkeypatch.setattr(everything, "stages_of", lambda samples, scoped: [stage])
    return made


def test_a_page_without_figures_is_a_row_that_says_why(root, tmp_path, monkeypatch):
    plant(monkeypatch)
    model = cases.tiny_model()
    model.network.calibration.gate_limit.fill_(-1.0)  # nothing is in scope
    monkeypatch.setattr(run, "load_model", lambda name: model)
    made = only(monkeypatch, "language")
    for _ in range(2):  # the second run takes the page as it is
        _, row = measured(root, tmp_path / "out")
        assert row["figure"] is None and "images are out of the scope of tiny" in row["reason"]
        assert len(made) == 1 and (tmp_path / "out" / row["page"]).is_file()
    [listed] = everything.others_of(str(tmp_path / "out"), tmp_path, model.weights_sha256)
    assert listed.listed and listed.reason == row["reason"]
    assert row["reason"] in (tmp_path / "out/summary.md").read_text()


def test_what_changed_in_the_data_is_measured_again(root, tmp_path, monkeypatch):
    plant(monkeypatch)
    made, out, own = only(monkeypatch, "localise"), tmp_path / "out", root / "brain_tumour_cheng"

    def n() -> int:
        return measured(root, out)[-1]["figure"]["n"]

    assert (n(), n(), len(made)) == (3, 3, 1)
    for folder in ("images", "masks"):  # an image and a mask of test are replaced by others
        *_, first, second = sorted((own / folder).iterdir())
        second.write_bytes(first.read_bytes())
        made.clear()
        assert (n(), n(), len(made)) == (3, 3, 1)
    index = (own / "index.csv").read_text().splitlines()
    (own / "index.csv").write_text("\n".join(index[:-1]) + "\n")
    assert (n(), n(), len(made)) == (2, 2, 2)


def test_what_others_measured_is_not_counted_and_the_minutes_are_said():
    figure = Resampling([str(k) for k in range(12)], "image", "test", 0, 5).mean(
        "F1", np.ones(12), "x"
    )
    rows = [Row("a", "test", stage, figure, beats=beats, seconds=90.0)
            for stage, beats in (("detect", True), ("localise", False))]  # fmt: skip
    rows.append(Row("a", "test", "folds", figure, beats=True, listed=True))
    rows.append(Row("b", "", "prepare", reason="it is not there"))
    summary = Summary("tiny", "1" * 64, "train.parquet", rows)
    counts, seen, _, others = head_of(summary)
    assert counts.startswith("2 measurements on 1 data sets; in 1 of the 2 that have")
    assert "measured in 3.0 min on" in counts and "train" in seen
    assert others.startswith("1 pages of other commands")
    text = as_markdown(summary)
    assert "| a (listed), test | folds |" in text and "| a, test | detect |" in text
    assert len(head_of(Summary("tiny", "1" * 64, "", rows[:2]))) == 3


def test_a_folder_without_sets_is_refused_with_status_2(tmp_path):
    words = ["evaluate", "all", "--data", str(tmp_path), "--model", "nano", "--out"]
    done = CliRunner().invoke(cli.app, [*words, str(tmp_path / "out")])
    assert done.exit_code == 2 and "expected folders of data sets" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    with pytest.raises(DataError):
        everything.tables_of(
            everything.AllArguments(str(tmp_path), "nano", out=str(tmp_path / "o"))
        )
