"""The command line: help, finished reads with JSON alone on stdout, lists and tables."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_cases import FOLDER, MODEL, invoke, read, refused, run
from road_cases import planted, write_dicom, write_nifti, write_png

from medic_ad import __version__
from medic_ad.cli_stages import EVALUATE, TRAIN
from medic_ad.data.registry import SETS
from medic_ad.model.calibration import FITTED
from medic_ad.models import MODELS
from medic_ad.report.schema import NOTICE, validate


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_png(tmp_path_factory.mktemp("cli") / "scan.png", planted().current)


# ---------------------------------------------------------------- help is quick and complete
def test_help_is_quick_and_imports_nothing_heavy() -> None:
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0 and NOTICE in done.stdout
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 1.0
    heavy = "torch", "transformers", "numpy", "pydicom", "SimpleITK", "matplotlib"
    code = f"import sys, medic_ad.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_download_shows_its_bar() -> None:
    code = (
        "import medic_ad.cli; medic_ad.cli.quiet()\n"
        "from huggingface_hub.utils import are_progress_bars_disabled\n"
        "print(are_progress_bars_disabled())"
    )
    clean = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_PROGRESS_BARS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)
    assert done.stdout == "False\n", done.stderr


def test_help_names_every_command() -> None:
    text = invoke("--help").output
    for name in ("read", "train", "calibrate", "data", "evaluate", "info", "demo"):
        assert f"│ {name} " in text
    assert all(f"│ {name} " in invoke("train", "--help").output for name in TRAIN)
    assert all(f"│ {name} " in invoke("evaluate", "--help").output for name in EVALUATE)
    assert all(name in invoke("read", "--help").output for name in MODELS)


def test_version() -> None:
    done = invoke("--version")
    assert (done.exit_code, done.output) == (0, f"medic-ad {__version__}\n")


def test_a_package_that_only_training_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name="monai.losses")

    monkeypatch.setattr("medic_ad.cli_stages.importlib", SimpleNamespace(import_module=missing))
    done = invoke("train", "explain", "--data", "x", "--out", "y")
    assert done.exit_code == 2
    assert "package monai" in done.stderr and "pip install '.[train]'" in done.stderr


@pytest.mark.parametrize(
    ("words", "name"),
    [(["demo", "--out", "x"], "demo"), (["data", "prepare", "mni152"], "train")],
)
def test_the_extra_that_is_missing_is_named(words: list[str], name: str) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        f"import medic_ad.cli as c; c.app({words!r}, prog_name='medic-ad')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    refused(done, "package pyarrow", f"pip install '.[{name}]'")


BARRED = """
import sys
class Barred:
    def find_spec(self, name, *_):
        assert name not in ("torch", "transformers", "ray", "monai", "SimpleITK"), name
sys.meta_path.insert(0, Barred())
"""
DETECT = ["train", "detect", "--out", "y", "--data"]
NODE = ["node", "--results", "dicom://A@h:1", "--folder"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*DETECT, "x"], "expected the name of a model"),
        ([*DETECT, "x", "--model", "nano"], "samples at x, found no file"),
        ([*DETECT, "x", "--steps", "0"], "--steps above 0"),
        ([*DETECT, "TABLE", "--model", "nano", "--out", "FILE/y"], "can be written to"),
        (["train", "base", "--data", "x", "--out", "y"], "samples at x, found no file"),
        (["batch", "none.parquet", "--out", "y"], "expected a Parquet manifest"),
        (["batch", ".", "--out", "y", "--model", "nanno"], "did you mean nano?"),
        (["batch", "none", "--out", "FILE/y"], "can be written to"),
        (["batch", "none", "--out", "y"], "at none, found nothing there"),
        ([*NODE, "y", "--model", "no"], "name of a model"),
        ([*NODE, "FILE"], "can be written to"),
    ],
)
def test_what_needs_no_model_is_refused_before_torch_is_loaded(
    words: list[str], said: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    words = [word.replace("TABLE", str(data)).replace("FILE", "file") for word in words]
    code = f"{BARRED}import medic_ad.cli as c; c.app({words!r}, prog_name='medic-ad')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    refused(done, said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_training_on_what_is_no_table_is_one_sentence(tmp_path: Path) -> None:
    table = tmp_path / "samples.parquet"
    table.write_text("image,label\n")
    done = invoke("train", "detect", "--data", table, "--out", tmp_path / "out", "--model", FOLDER)
    refused(done, "cannot be read as a Parquet table")
    done = invoke("train", "detect", "--data", table, "--out", tmp_path, "--model", tmp_path)
    refused(done, "expected the name of a model or a folder")


def test_reading_needs_no_package_of_training_or_demo(scan: Path) -> None:
    absent = "monai", "sklearn", "nilearn", "accelerate", "tensorboard", "pyarrow", "pandas"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        f"import medic_ad.cli as c; c.app(['read', {str(scan)!r}, '--model', {MODEL!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert NOTICE in done.stdout


# ---------------------------------------------------------------- a finished read
def test_a_read_prints_a_summary_and_nothing_else(scan: Path) -> None:
    done = run("read", scan, "--model", MODEL, "--ask", "Is there an anomaly?")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].strip() in ("Abnormal", "Normal", "Uncertain", "Out of scope")
    assert lines[-1] == NOTICE
    assert "Is there an anomaly?" in done.stdout


def test_json_is_alone_on_stdout(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = run("read", scan, "--prior", scan, "--model", MODEL, "--json", "--out", out)
    assert done.returncode == 0
    content = json.loads(done.stdout)
    validate(content)
    assert content["change"]["label"] == "stable"
    assert done.stderr == f"Report: {out / 'report.html'}\n"
    assert json.loads((out / "report.json").read_text()) == content
    made = {file.name for file in out.iterdir()}
    assert made == {"report.json", "report.html", "overlay.png", "heatmap.npz"}


def test_out_says_where_the_report_is(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    done = read(scan, "--out", out)
    assert done.exit_code == 0
    assert done.stdout.endswith(f"Report: {out / 'report.html'}\n")
    assert (out / "report.html").is_file()


def test_a_read_that_is_out_of_scope_is_finished_too(tmp_path: Path) -> None:
    chest = write_dicom(tmp_path / "x.dcm", planted().current, modality="DX", body_part="CHEST")
    done = read(chest)
    assert done.exit_code == 0 and done.stdout.startswith("Out of scope")
    assert "the modality is DX" in done.stdout and done.stdout.rstrip().endswith(NOTICE)


def test_several_priors_and_given_facts_reach_the_report(tmp_path: Path) -> None:
    case = planted()
    files = [
        write_nifti(tmp_path / f"{name}.nii.gz", getattr(case, name))
        for name in ("current", "prior", "healthy")
    ]
    said = "--modality", "MR", "--body-part", "brain", "--date", "2024-05-31"
    days = "--prior-date", "2023-05-31", "--prior-date", "2022-05-31"
    done = read(files[0], "--prior", files[2], "--prior", files[1], *said, *days, "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    study = content["study"]
    assert (study["modality"], study["body_part"], study["date"]) == ("MR", "BRAIN", "2024-05-31")
    assert [p["date"] for p in study["priors"]] == ["2022-05-31", "2023-05-31"]
    names = [e["path"] for e in content["provenance"]["inputs"]]
    assert names == [f"{name}.nii.gz" for name in ("current", "prior", "healthy")]
    assert [d["date"] for d in content["course"]["dates"]][-1] == "2024-05-31"


def test_interruption_is_130(monkeypatch: pytest.MonkeyPatch, scan: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medic_ad.study.read_study", interrupt)
    done = read(scan)
    assert done.exit_code == 130
    assert "Traceback" not in done.output


# ---------------------------------------------------------------- info and data
def test_info_is_plain_json() -> None:
    done = run("info", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert content["medic_ad"] == __version__
    assert [m["name"] for m in content["models"]] == list(MODELS)
    assert content["libraries"]["torch"] and content["libraries"]["pydicom"]
    assert content["devices"][0]["name"] == "cpu"


def test_info_shows_scope_and_thresholds_of_the_bundled_model() -> None:
    done = invoke("info", "--json")
    [model] = (m for m in json.loads(done.stdout)["models"] if m["name"] == "nano")
    assert model["installed"] and len(model["weights_sha256"]) == 64
    assert model["bytes"] <= 40e6
    assert len(model["scope"]) == 3
    for entry in model["scope"]:
        assert entry.keys() == {"entry", *FITTED} and entry["entry"].startswith("brain MR ")
        assert 0 <= entry["band_low"] <= entry["threshold"] <= entry["band_high"] <= 1
        assert 0 < entry["heatmap_threshold"] < 1 and entry["gate_limit"] > 0
    assert model["change_temperature"] > 0
    text = invoke("info").stdout
    assert model["weights_sha256"][:12] in text and "brain MR FLAIR" in text


def test_info_says_when_weights_are_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = dataclasses.replace(MODELS["nano"], path=tmp_path)
    monkeypatch.setitem(MODELS, "nano", absent)
    assert json.loads(invoke("info", "--json").stdout)["models"][0]["installed"] is False
    assert "weights are not installed" in invoke("info").stdout


def test_data_list_shows_every_set() -> None:
    done = invoke("data", "list")
    assert done.exit_code == 0
    assert all(name in done.stdout and info.licence in done.stdout for name, info in SETS.items())


def test_a_table_of_ones_own_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = planted()
    rows = ["image,patient,label"]
    for i in range(6):
        write_png(tmp_path / f"{i}.png", np.roll(case.current, 17 * i, axis=i % 2))
        rows.append(f"{i}.png,P{i},{i % 2}")
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    done = invoke("data", "prepare", "table", "--csv", "mine.csv")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "table.parquet").is_file()
    assert "Written: table.parquet" in done.stdout
    done = invoke("data", "prepare", "table", "--csv", "gone.csv", "--out", "x.parquet")
    assert done.exit_code == 2 and "gone.csv" in done.stderr
    refused(invoke("data", "prepare", "atlas", "--root", tmp_path), "no data set 'atlas'")
