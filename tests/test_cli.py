"""The command line: one sentence for bad input, JSON alone on stdout, options from dataclasses."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import typer
from PIL import Image as Pillow
from pydicom.uid import ExplicitVRLittleEndian
from road_cases import planted, write_dicom, write_nifti, write_png
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from medic_ad import __version__, cli
from medic_ad.cli_stages import CALIBRATE, EVALUATE, TRAIN, as_command
from medic_ad.data.registry import SETS
from medic_ad.models import MODELS
from medic_ad.report.schema import NOTICE, validate

MODEL = os.environ.get("MEDIC_AD_TEST_MODEL", "nano")
FOLDER = MODELS[MODEL].path if MODEL in MODELS else Path(MODEL)
COMMAND = [sys.executable, "-m", "medic_ad.cli"]
WIDE = {"COLUMNS": "200", "TERM": "dumb"}


def invoke(*words: object) -> Result:
    return CliRunner(env=WIDE).invoke(cli.app, [str(word) for word in words])


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    environment = {**os.environ, **WIDE, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def read(*words: object) -> Result:
    return invoke("read", *words, "--model", MODEL)


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


# ---------------------------------------------------------------- options from dataclasses
STAGES = {
    **{f"train {name}": stage for name, stage in TRAIN.items()},
    **{f"evaluate {name}": stage for name, stage in EVALUATE.items()},
    "calibrate": CALIBRATE,
}


@pytest.mark.parametrize("name", STAGES)
def test_the_options_of_a_stage_are_its_dataclass(name: str) -> None:
    assert len(STAGES) == 9
    stage = STAGES[name]
    arguments = getattr(importlib.import_module(stage.module), stage.arguments)
    seen: list[Any] = []
    fields = dataclasses.fields(arguments)
    assert all(f.metadata.get("help") for f in fields), "every field says what it is"
    app = typer.Typer()
    app.command()(as_command(arguments, seen.append))
    required = [f for f in fields if f.default is f.default_factory]  # both are MISSING
    words = [word for f in required for word in (f"--{f.name.replace('_', '-')}", "some")]
    runner = CliRunner(env=WIDE)
    result = runner.invoke(app, words)
    assert result.exit_code == 0, result.output
    assert seen == [arguments(**{f.name: "some" for f in required})]
    text = runner.invoke(app, ["--help"]).output
    for f in fields:
        assert f"--{f.name.replace('_', '-')}" in text
    for k in range(0, len(words), 2):
        result = runner.invoke(app, words[:k] + words[k + 2 :])
        assert result.exit_code == 2 and words[k] in result.output


@pytest.mark.parametrize("words", [("train", "detect"), ("calibrate",), ("evaluate", "unet")])
def test_a_stage_shows_its_own_help_and_refuses_unknown_options(words: tuple[str, ...]) -> None:
    done = invoke(*words, "--help")
    assert done.exit_code == 0
    assert f"medic-ad {' '.join(words)} [OPTIONS]" in done.output.replace("root", "medic-ad")
    assert "--out" in done.output and "[required]" in done.output
    assert invoke(*words, "--nonsense", 1).exit_code == 2
    assert invoke(*words).exit_code == 2


@dataclass
class Small:
    """Arguments of a command that does nothing."""

    data: str = field(metadata={"help": "a file"})
    steps: int = field(default=10, metadata={"help": "how many"})
    learning_rate: float = field(default=1e-3, metadata={"help": "how fast"})
    bf16: bool = field(default=True, metadata={"help": "short floats"})
    weights: str | None = field(default=None, metadata={"help": "a text or nothing"})


def small(*words: object, config: str | None = None, folder: Path | None = None) -> Any:
    """What a command got, or its message when it refused."""
    seen: list[Small] = []
    app = typer.Typer()
    app.command()(as_command(Small, seen.append))
    extra = []
    if config is not None and folder is not None:
        file = folder / "run.yaml"
        file.write_text(config, encoding="utf-8")
        extra = ["--config", str(file)]
    result = CliRunner(env=WIDE).invoke(app, [*map(str, words), *extra])
    if result.exit_code == 0:
        return seen[0]
    assert result.exit_code == 2 and not seen, result.output
    return result.output


def test_words_become_values() -> None:
    assert small("--data", "x") == Small("x")
    got = small("--data", "x", "--no-bf16", "--learning-rate", "1e-4", "--steps", 3)
    assert got == Small("x", 3, 1e-4, False)
    assert "--steps" in small("--data", "x", "--steps", "many")


def test_a_config_file_overrides_defaults_and_words_override_it(tmp_path: Path) -> None:
    text = "data: y\nsteps: 5\nlearning_rate: 1e-5\nbf16: false\nweights: a=1\n"
    assert small(config=text, folder=tmp_path) == Small("y", 5, 1e-5, False, "a=1")
    got = small("--data", "z", "--steps", 7, "--bf16", config=text, folder=tmp_path)
    assert got == Small("z", 7, 1e-5, True, "a=1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stepz: 5\n", "did you mean steps?"),
        ("learning-rate: 5\n", "did you mean learning_rate?"),
        ("steps: many\n", "steps"),
        ("steps: [1, 2]\n", "must be one value"),
        ("steps:\n", "must be one value"),
        ("- steps\n", "must hold lines"),
        ("a: b: c\n", "is no YAML"),
        ("", "must hold lines"),
    ],
)
def test_a_bad_config_file_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    message = small("--data", "x", config=text, folder=tmp_path)
    assert expected in " ".join(message.replace("│", " ").split())


def test_a_missing_config_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in small("--data", "x", "--config", tmp_path / "no.yaml")


def test_a_package_that_only_training_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name="monai.losses")

    monkeypatch.setattr("medic_ad.cli_stages.importlib", SimpleNamespace(import_module=missing))
    done = invoke("train", "explain", "--data", "x", "--out", "y")
    assert done.exit_code == 2
    assert "package monai" in done.stderr and "pip install 'medic-ad[train]'" in done.stderr


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
    refused(done, "package pyarrow", f"pip install 'medic-ad[{name}]'")


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
    done = read(files[0], "--prior", files[2], "--prior", files[1], *said, "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    study = content["study"]
    assert (study["modality"], study["body_part"], study["date"]) == ("MR", "BRAIN", "2024-05-31")
    assert len(study["priors"]) == 2
    assert [e["path"] for e in content["provenance"]["inputs"]][0] == "current.nii.gz"


def test_interruption_is_130(monkeypatch: pytest.MonkeyPatch, scan: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medic_ad.study.read_study", interrupt)
    done = read(scan)
    assert done.exit_code == 130
    assert "Traceback" not in done.output


# ---------------------------------------------------------------- bad input
def refused(done: Result | subprocess.CompletedProcess[str], *expected: str) -> None:
    """Exit status 2, nothing on stdout, one sentence on stderr that holds the expected words."""
    if isinstance(done, Result):
        assert isinstance(done.exception, SystemExit), done.exception
        code = done.exit_code
    else:
        code = done.returncode
    assert code == 2, (code, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("medic-ad: ") and done.stderr.count("\n") == 1, done.stderr
    for words in expected:
        assert words.lower() in done.stderr.lower(), done.stderr


def text_renamed(folder: Path) -> Path:
    file = folder / "scan.png"
    file.write_text("this is a letter, not a scan\n")
    return file


def truncated(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    def cut(folder: Path) -> Path:
        file = make(folder / name)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return file

    return cut


def dicom_with(**changes: Any) -> Callable[[Path], Path]:
    """A DICOM file with elements set, or taken out where the value is None."""

    def make(folder: Path) -> Path:
        file = write_dicom(folder / "x.dcm", planted().current)
        data = pydicom.dcmread(file)
        for name, value in changes.items():
            if value is None:
                delattr(data, name)
            elif name == "TransferSyntaxUID":
                data.file_meta.TransferSyntaxUID = value
            else:
                setattr(data, name, value)
        if data.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
            data["PixelData"].is_undefined_length = True
            frame = pydicom.encaps.encapsulate([b"\0" * 64])
            data["PixelData"].value = frame
        data.save_as(file)
        return file

    return make


def sized(shape: tuple[int, int]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Pillow.MAX_IMAGE_PIXELS = None
        file = folder / "scan.png"
        Pillow.new("L", shape[::-1]).save(file)
        return file

    return make


def empty(folder: Path) -> Path:
    file = folder / "scan.png"
    file.touch()
    return file


def not_finite(value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pixels = planted().current.copy()
        pixels[100, 100] = value
        return write_nifti(folder / "x.nii", pixels)

    return make


MPEG4 = "1.2.840.10008.1.2.4.102"
BAD_FILES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "missing": (lambda f: f / "nothing.png", ("does not exist",)),
    "text": (text_renamed, ("a text file",)),
    "empty": (empty, ("an empty file",)),
    "empty folder": (lambda f: f, ("expected",)),
    "cut DICOM": (truncated(lambda p: write_dicom(p, planted().current), "x.dcm"), ("x.dcm",)),
    "cut NIfTI": (truncated(lambda p: write_nifti(p, planted().current), "x.nii.gz"), ("nifti",)),
    "cut PNG": (truncated(lambda p: write_png(p, planted().current), "x.png"), ("png",)),
    "no pixels": (dicom_with(PixelData=None), ("pixel",)),
    "MPEG-4": (dicom_with(TransferSyntaxUID=MPEG4), ("MPEG-4",)),
    "one pixel": (sized((1, 1)), ("at least 16 x 16", "1 x 1")),
    "huge": (sized((20_000, 20_000)), ("20000 x 20000",)),
    "NaN": (not_finite(math.nan), ("finite", "NaN")),
    "infinite": (not_finite(math.inf), ("finite", "infinite")),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_sentence(kind: str, tmp_path: Path) -> None:
    assert len(BAD_FILES) == 13
    make, expected = BAD_FILES[kind]
    refused(read(make(tmp_path), "--modality", "MR"), *expected)


@pytest.mark.parametrize("kind", ["missing", "text", "cut DICOM", "huge"])
def test_the_real_command_says_the_same_sentence(kind: str, tmp_path: Path) -> None:
    make, expected = BAD_FILES[kind]
    refused(run("read", make(tmp_path), "--modality", "MR", "--model", MODEL), *expected)


def test_a_size_of_zero_is_refused(tmp_path: Path) -> None:
    file = dicom_with(Rows=0)(tmp_path)
    refused(read(file), "x.dcm")


def test_an_unsupported_transfer_syntax_names_a_package_that_helps(tmp_path: Path) -> None:
    file = dicom_with(TransferSyntaxUID="1.2.840.10008.1.2.4.201")(tmp_path)  # HTJ2K, damaged
    refused(read(file), "x.dcm")


DAY = datetime.date(2024, 5, 31)
BAD_PRIORS: dict[str, tuple[dict[str, Any], str]] = {
    "patient": ({"patient": "P2"}, "same patient"),
    "modality": ({"modality": "CT"}, "same modality"),
    "body part": ({"body_part": "KNEE"}, "same body part"),
    "date": ({"date": DAY + datetime.timedelta(days=1)}, "dated on or before"),
}


@pytest.mark.parametrize("kind", BAD_PRIORS)
def test_a_prior_that_does_not_fit_is_one_sentence(kind: str, tmp_path: Path) -> None:
    assert len(BAD_PRIORS) == 4
    changes, expected = BAD_PRIORS[kind]
    case = planted()
    current = write_dicom(tmp_path / "now.dcm", case.current, date=DAY)
    old = {"date": DAY - datetime.timedelta(days=90), **changes}
    prior = write_dicom(tmp_path / "old.dcm", case.prior, **old)
    refused(read(current, "--prior", prior), expected)


def test_facts_that_cannot_be_are_one_sentence(scan: Path, tmp_path: Path) -> None:
    nifti = write_nifti(tmp_path / "x.nii.gz", planted().current)
    refused(read(nifti), "give --modality")
    refused(read(scan, "--modality", "MRI"), "give MR")
    refused(read(scan, "--date", "31.05.2024"), "year-month-day")
    volume = write_nifti(tmp_path / "v.nii.gz", np.stack([planted().current] * 3))
    refused(read(volume, "--prior", nifti, "--modality", "MR"), "3-D")
    refused(read(scan, "--prior", tmp_path / "gone.png"), "does not exist")
    contradicted = write_dicom(tmp_path / "x.dcm", planted().current)
    refused(read(contradicted, "--modality", "CT"), "leave --modality out")


def test_the_report_folder_must_be_writable(scan: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refused(read(scan, "--out", file / "report"), "could not be written")


def test_usage_errors_are_2() -> None:
    for words in (["read"], ["read", "x", "--nonsense"], ["nonsense"], ["train", "nonsense"]):
        done = invoke(*words)
        assert done.exit_code == 2 and done.stdout == "", words
    assert invoke("read", "x.png", "--ask", "  ").exit_code == 2


# ---------------------------------------------------------------- bad weights
@pytest.fixture()
def weights(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "weights"))


def test_an_unknown_model_names_the_near_ones(scan: Path) -> None:
    done = run("read", scan, "--model", "nanno")
    refused(done, "did you mean nano?")
    refused(invoke("read", scan, "--model", "zzz"), "known names: nano")


def test_a_device_that_is_not_there_is_refused(scan: Path) -> None:
    refused(read(scan, "--device", "cuda:99"), "cuda:99")
    refused(read(scan, "--device", "abacus"), "abacus")


def test_weights_that_do_not_fit_their_configuration_are_refused(scan: Path, weights: Path) -> None:
    config = json.loads((weights / "config.json").read_text())
    config["vision_config"]["intermediate_size"] += 8
    (weights / "config.json").write_text(json.dumps(config))
    refused(invoke("read", scan, "--model", weights), "expected weights that fit")


def test_a_missing_backbone_key_is_refused(scan: Path, weights: Path) -> None:
    [file] = weights.glob("*.safetensors")
    tensors = load_file(file)
    gone = next(name for name in sorted(tensors) if "visual" in name and "blocks" in name)
    del tensors[gone]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(invoke("read", scan, "--model", weights), "is missing")


def test_damaged_weights_are_refused(scan: Path, weights: Path) -> None:
    [file] = weights.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    refused(invoke("read", scan, "--model", weights), "expected a checkpoint")


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
        assert entry["entry"].startswith("brain MR ")
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
