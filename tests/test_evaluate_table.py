"""`evaluate detect` and `localise` on planted tables: known truth must give known figures."""

from __future__ import annotations

import csv
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate_cases as cases
import numpy as np
import pytest
import sklearn.metrics as reference
import table_cases
from table_cases import figures, plant, value
from typer.testing import CliRunner

from medic_ad import cli
from medic_ad.data.sample import read_info, read_samples, write_samples
from medic_ad.errors import DataError, MedicADError
from medic_ad.evaluate import detect as stage_1
from medic_ad.evaluate import localise as stage_3
from medic_ad.evaluate.predictions import run
from medic_ad.report.schema import NOTICE

FAST: dict[str, Any] = {"resamples": 40}


def detect(data: Path, out: Path, model: str = "seer", **more: Any) -> dict[str, Any]:
    arguments = stage_1.DetectArguments(str(data), model, out=str(out), **(FAST | more))
    assert stage_1.main(arguments) == out / "detect" / "figures.html"
    return figures(out, "detect")


def localise(data: Path, out: Path, model: str = "seer", **more: Any) -> dict[str, Any]:
    arguments = stage_3.LocaliseArguments(str(data), model, out=str(out), **(FAST | more))
    assert stage_3.main(arguments) == out / "localise" / "figures.html"
    return figures(out, "localise")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table_cases.table(tmp_path_factory.mktemp("data"), {"train": 24, "val": 6, "test": 24})


@pytest.fixture(scope="module")
def given_away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table_cases.table(tmp_path_factory.mktemp("wide"), {"test": 24}, wide=True, sources=2)


class Page(HTMLParser):
    """Addresses that a page asks for, and whether every element is closed."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.sources += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_model_that_sees_is_perfect_and_noise_is_chance(data, tmp_path, monkeypatch):
    plant(monkeypatch)
    seen = detect(data, tmp_path, against="noise")
    for name in ("AUROC", "AP", "F1 at the stored threshold", "sensitivity at 90% specificity"):
        found = value(seen, name, "seer")
        assert found["value"] == 1 and (found["n"], found["units"]) == (24, 24), name
    low, high = value(seen, "AUROC", "noise")["interval"]
    assert low < 0.5 < high
    difference = value(seen, "AUROC", "seer - noise")
    chance = value(seen, "AUROC", "noise")["value"]
    assert difference["value"] == pytest.approx(1 - chance) and difference["p"] < 0.1
    assert value(seen, "AP", "image-free")["value"] == 0.5
    assert value(seen, "F1", "majority (all abnormal)")["value"] == pytest.approx(2 / 3)
    assert value(seen, "share in scope", "seer")["value"] == 1
    assert seen["provenance"]["against"]["weights_sha256"] == "b" * 64
    sizes = [f for p in seen["parts"] for f in p["figures"] if "lesion up to" in f["name"]]
    assert sizes and all(f["value"] == 1 for f in sizes)


def test_figures_of_noise_are_those_of_scikit_learn(data, tmp_path, monkeypatch):
    plant(monkeypatch)
    seen = detect(data, tmp_path, "noise")
    with (tmp_path / "detect" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    score = np.array([float(r["score"]) for r in rows])
    label = np.array([int(r["label"]) for r in rows])
    expected = {
        "AUROC": reference.roc_auc_score(label, score),
        "AP": reference.average_precision_score(label, score),
        "F1 at the stored threshold": reference.f1_score(label, score >= 0.5),
        "Brier score": reference.brier_score_loss(label, score),
    }
    for name, number in expected.items():
        assert value(seen, name, "noise")["value"] == pytest.approx(number, abs=1e-5), name
    assert len(rows) == 24 and {r["scope_entry"] for r in rows} == {"brain MR T1-CE"}


def test_baselines_are_fitted_on_train_and_the_best_is_named(data, tmp_path, monkeypatch):
    plant(monkeypatch)
    seen = detect(data, tmp_path, "noise")
    names = {f["of"] for p in seen["parts"] if p["title"] == "Trivial baselines" for f in
             p["figures"]}  # fmt: skip
    assert {"nearest neighbours, raw 32 x 32", "mean and spread of grey (forest)"} <= names
    # bright lesions: grey values tell all, and noise loses
    assert value(seen, "AUROC", seen["best_baseline"])["value"] > 0.95
    assert seen["beats_baseline"] is False and "at least as good as noise" in seen["verdict"]
    [note] = next(p for p in seen["parts"] if p["title"] == "Trivial baselines")["notes"]
    assert "fitted on the 24 images" in note


def test_a_size_that_gives_the_label_away_wins_and_is_said(given_away, tmp_path, monkeypatch):
    plant(monkeypatch)
    seen = detect(given_away, tmp_path, "noise")
    assert value(seen, "AUROC", "image width")["value"] == 1
    difference = value(seen, "AUROC", f"noise - {seen['best_baseline']}")
    assert difference["value"] < 0 and seen["beats_baseline"] is False
    page = (tmp_path / "detect" / "figures.html").read_text()
    assert "is at least as good as noise" in page
    [note] = next(p for p in seen["parts"] if p["title"] == "Trivial baselines")["notes"]
    assert "left out" in note
    sources = next(p for p in seen["parts"] if p["title"] == "By source")["figures"]
    assert {f["of"] for f in sources} == {"noise, source0", "noise, source1"}


def test_heatmaps_that_see_and_noise(data, tmp_path, monkeypatch):
    plant(monkeypatch)
    seen = localise(data, tmp_path, against="noise")
    for name in ("pixel AUROC", "pixel AP", "mean Dice", "pointing game"):
        found = value(seen, name, "seer")
        assert found["value"] == pytest.approx(1, abs=0.02) and found["n"] == 12, name
    assert value(seen, "pixel AUROC", "noise")["value"] == pytest.approx(0.5, abs=0.03)
    assert value(seen, "mean Dice", "seer - noise")["value"] > 0.8
    assert value(seen, "share of lesions found", "seer")["value"] == 1
    assert value(seen, "false marks per image", "seer")["value"] == 0
    assert value(seen, "false-positive area, without the gate", "seer")["value"] == 0
    area = value(seen, "false-positive area, without the gate", "noise")
    assert area["value"] == pytest.approx(0.5, abs=0.02) and area["n"] == 12
    assert value(seen, "pixel AUROC", "grey value")["value"] > 0.95
    assert len([f for p in seen["parts"] if p["title"] == "By lesion size" for f in
                p["figures"]]) == 3  # fmt: skip
    curve = seen["free_response"]["seer"]
    assert curve["lesions_found"][9] == 1 and curve["false_per_image"][9] == 0
    with (tmp_path / "localise" / "cases.csv").open() as file:
        dices = [float(r["dice"]) for r in csv.DictReader(file) if r["dice"]]
    assert np.mean(dices) == pytest.approx(value(seen, "mean Dice", "seer")["value"], abs=1e-5)


def test_a_grey_value_that_wins_is_said(data, tmp_path, monkeypatch):
    plant(monkeypatch)
    seen = localise(data, tmp_path, "noise")
    assert seen["beats_baseline"] is False and "at least as good as noise" in seen["verdict"]


def test_the_second_run_predicts_nothing_and_both_commands_share(data, tmp_path, monkeypatch):
    seers = plant(monkeypatch)
    first = detect(data, tmp_path)
    calls = seers["seer"].calls
    assert calls == 2  # batches of 24 images
    again = detect(data, tmp_path)
    localise(data, tmp_path)
    assert seers["seer"].calls == calls and again["parts"] == first["parts"]
    lines = [json.loads(x) for x in (tmp_path / "opened.jsonl").read_text().splitlines()]
    assert [(x["times_opened_before"], x["parts_there_before"]) for x in lines] == [(0, 0)]
    assert lines[0]["command"].startswith("medic-ad evaluate detect --data")
    detect(data, tmp_path, split="val")
    assert len((tmp_path / "opened.jsonl").read_text().splitlines()) == 1  # not the test split


def test_a_run_that_fails_before_any_prediction_has_not_opened_the_test_split(
    data, tmp_path, monkeypatch
):
    seers = plant(monkeypatch)

    class Failing(cases.Seer):
        def __call__(self, model: Any, canvases: Any) -> SimpleNamespace:
            raise OSError("no space left on device")

    seers["seer"] = Failing(True)
    with pytest.raises(OSError, match="no space"):
        detect(data, tmp_path)
    assert not (tmp_path / "opened.jsonl").exists()
    seers["seer"] = cases.Seer(True)
    detect(data, tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "opened.jsonl").read_text().splitlines()]
    assert [(x["times_opened_before"], x["parts_there_before"]) for x in lines] == [(0, 0)]


def test_a_killed_run_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    seers = plant(monkeypatch)

    class Killed(cases.Seer):
        def __call__(self, model: Any, canvases: Any) -> SimpleNamespace:
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().__call__(model, canvases)

    seers["seer"] = Killed(True)
    with pytest.raises(KeyboardInterrupt):
        detect(data, tmp_path)
    assert not (tmp_path / "detect").exists()
    seers["seer"] = cases.Seer(True)
    detect(data, tmp_path)
    assert seers["seer"].calls == 1  # of two batches
    lines = [json.loads(x) for x in (tmp_path / "opened.jsonl").read_text().splitlines()]
    assert [(x["times_opened_before"], x["parts_there_before"]) for x in lines] == [(0, 0), (1, 1)]


def test_slices_of_volumes_share_a_scan_and_few_units_get_no_interval(tmp_path, monkeypatch):
    seers = plant(monkeypatch)
    data = table_cases.volumes(tmp_path)
    seen = detect(data, tmp_path / "out")
    assert seers["seer"].calls == 2  # one pass a volume
    found = value(seen, "AUROC", "seer")
    assert found["value"] == 1 and found["interval"] is None and found["unit"] == "patient"
    assert found["per_unit"] == {"p0": 1, "p1": 1}
    one = next(p for p in seen["parts"] if p["title"] == "Trivial baselines")["figures"]
    assert value(seen, "AUROC", "file bytes")["value"] >= 0.5 and one
    seen = localise(data, tmp_path / "out")
    assert value(seen, "mean Dice", "seer")["value"] == pytest.approx(1, abs=0.02)
    assert value(seen, "mean Dice", "seer")["n"] == 4 and seers["seer"].calls == 2


def test_one_image_of_each_group_is_given_beside(tmp_path, monkeypatch):
    plant(monkeypatch)
    data = table_cases.table(tmp_path, {"test": 36}, per_group=3)
    seen = detect(data, tmp_path / "out")
    part = next(p for p in seen["parts"] if p["title"] == "One image of each group")
    assert {f["n"] for f in part["figures"]} == {12} and "36 images in 12" in part["notes"][0]
    assert value(seen, "AUROC", "seer")["n"] == 36 and value(seen, "AUROC", "seer")["units"] == 12
    seen = localise(data, tmp_path / "out")
    part = next(p for p in seen["parts"] if p["title"] == "One image of each group")
    assert {f["n"] for f in part["figures"]} == {12}


def test_out_of_scope_images_are_counted_and_scored(data, tmp_path, monkeypatch):
    plant(monkeypatch)
    monkeypatch.setattr(run, "load_model", outside)
    seen = detect(data, tmp_path)
    assert value(seen, "share in scope", "seer")["value"] == 0
    assert value(seen, "AUROC", "seer")["value"] == 1
    assert "24 of 24 images are out of scope" in " ".join(seen["parts"][0]["notes"])


def outside(name: str) -> Any:
    model = table_cases.stand_in(name)
    model.network.calibration.gate_mean.fill_(1e6)
    return model


def test_pages_are_whole_and_ask_for_nothing(data, tmp_path, monkeypatch, capsys):
    plant(monkeypatch)
    detect(data, tmp_path, "noise")
    localise(data, tmp_path, "noise")
    shown = capsys.readouterr().out
    assert "AUROC" in shown and NOTICE in shown
    for stage, curves in (("detect", 3), ("localise", 2)):
        folder = tmp_path / stage
        assert {f.name for f in folder.iterdir()} == {
            "figures.json", "figures.md", "figures.html", "cases.csv",
        }  # fmt: skip
        text = (folder / "figures.html").read_text()
        page = Page(text)
        assert page.open == [] and text.count(NOTICE) == 2
        assert len(page.sources) > curves + 3  # wrong cases too
        assert all(s.startswith("data:image/png;base64,") for s in page.sources)
        assert NOTICE in (folder / "figures.md").read_text()
        assert figures(tmp_path, stage)["research_use"] == NOTICE


def test_heatmaps_of_cases_have_one_scale(data):
    rng = np.random.default_rng(0)
    grey, faint = rng.random((40, 40)) * 255, np.full((40, 40), 0.02)
    faint[5:9, 5:9] = 0.04
    args = ((0.0, 255.0), 0.5, None)
    drawn = [stage_3.curves.case(grey, args[0], m, *args[1:]) for m in (faint, faint * 0)]
    assert drawn[0] == drawn[1]  # a map near zero is not stretched into sight


BAD = {
    "split": "expected samples of split",
    "classes": "expected normal and abnormal images",
    "masks": "expected lesion masks",
    "uncalibrated": "medic-ad calibrate",
    "no such split": "expected --split as one of",
    "gone": "expected the file",
    "grid": "expected a mask of the image's size",
    "twice the same": "expected other weights in --against",
    "no table": "cannot be read as a Parquet table",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(kind, tmp_path, monkeypatch):
    plant(monkeypatch)
    only_test = kind != "split"
    data = table_cases.table(tmp_path, {"test" if only_test else "val": 4})
    call, more = detect, {}
    if kind in ("classes", "masks"):
        label = 0 if kind == "masks" else 1
        rewrite(data, lambda s: s if s.label == label else None)
        call = detect if kind == "classes" else localise
    elif kind == "uncalibrated":
        monkeypatch.setattr(run, "load_model", uncalibrated)
    elif kind == "no such split":
        more = {"split": "tset"}
    elif kind == "gone":
        (tmp_path / "0001.png").unlink()
    elif kind == "grid":
        cases.Pillow.fromarray(np.zeros((8, 30), np.uint8) + 255).resize((40, 40)).save(
            tmp_path / "0002-mask.png"
        )
        call = localise
    elif kind == "twice the same":
        more = {"against": "seer"}
    elif kind == "no table":
        data.write_text("nothing")
    with pytest.raises(MedicADError, match=BAD[kind]) as error:
        call(data, tmp_path / "out", **more)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def uncalibrated(name: str) -> Any:
    model = table_cases.stand_in(name)
    model.network.calibration.threshold.fill_(float("nan"))
    return model


def rewrite(data: Path, change: Any) -> None:
    """The table with every row changed, or dropped where nothing comes back."""
    info, rows = read_info(data), [change(s) for s in read_samples(data)]
    write_samples([s for s in rows if s], data, info)


def test_what_lacks_a_label_or_a_mask_is_left_out_and_nothing_is_predicted_twice(
    tmp_path, monkeypatch
):
    seers = plant(monkeypatch)
    data = table_cases.table(tmp_path, {"test": 36})
    lacking: dict[str, dict] = {"0002.png": {"mask": None}, "0004.png": {"label": float("nan")}}
    rewrite(data, lambda s: dataclasses.replace(s, **lacking.get(s.image, {})))
    seen = detect(data, tmp_path / "out")
    assert value(seen, "AUROC", "seer")["n"] == 35
    seen, calls = localise(data, tmp_path / "out"), seers["seer"].calls
    assert value(seen, "mean Dice", "seer")["n"] == 17 and calls == 3  # batches of 36 images
    assert "1 abnormal images without a mask are left out." in seen["parts"][0]["notes"]
    assert len((tmp_path / "out" / "opened.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("stage", ["detect", "localise"])
def test_the_command_refuses_an_unknown_model_and_split_with_status_2(stage, data, tmp_path):
    words = ["evaluate", stage, "--data", str(data), "--out", str(tmp_path / "out")]
    for more, expected in (
        (["--model", "nanoo"], "did you mean nano"),
        (["--model", "nanoo", "--split", "tset"], "expected --split as one of"),
    ):
        done = CliRunner().invoke(cli.app, [*words, *more])
        assert done.exit_code == 2 and expected in done.stderr and done.stderr.count("\n") == 1
        assert done.stdout == "" and not (tmp_path / "out").exists()


def test_two_labels_of_one_image_are_refused(tmp_path):
    data = table_cases.table(tmp_path, {"test": 4})
    rows = read_samples(data)
    info = read_info(data)
    write_samples([*rows, dataclasses.replace(rows[0], label=1.0)], data, info)
    with pytest.raises(DataError, match="both 0 and 1"):
        stage_1.labelled(str(data), "test")
    asked = [dataclasses.replace(r, question="q", answer="a") for r in rows]
    write_samples([*rows, *asked], data, info)
    images, keep, notes = stage_1.labelled(str(data), "test")
    assert (
        len(images) == 4 and all(keep) and "8 rows of the split show 4 different images." in notes
    )
