"""The options of a stage are its dataclass, with a YAML file of defaults."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_cases import WIDE, invoke
from typer.testing import CliRunner

from medic_ad.cli_stages import CALIBRATE, EVALUATE, TRAIN, as_command
from medic_ad.errors import MedicADError

# ---------------------------------------------------------------- options from dataclasses
STAGES = {
    **{f"train {name}": stage for name, stage in TRAIN.items()},
    **{f"evaluate {name}": stage for name, stage in EVALUATE.items()},
    "calibrate": CALIBRATE,
}


@pytest.mark.parametrize("name", STAGES)
def test_the_options_of_a_stage_are_its_dataclass(name: str) -> None:
    assert len(STAGES) == 21
    stage = STAGES[name]
    arguments = getattr(importlib.import_module(stage.module), stage.arguments)
    seen: list[Any] = []
    fields = [f for f in dataclasses.fields(arguments) if f.init]
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


@pytest.mark.parametrize(
    ("name", "bad", "count"), [("seed", (-1, 2**32), 20), ("workers", (-1,), 7)]
)
def test_a_seed_or_a_number_of_processes_that_cannot_be_is_refused(name, bad, count) -> None:
    kinds = [
        getattr(importlib.import_module(stage.module), stage.arguments) for stage in STAGES.values()
    ]
    asked = [kind for kind in kinds if name in {f.name for f in dataclasses.fields(kind)}]
    assert len(asked) == count
    for kind in asked:
        fields = [f for f in dataclasses.fields(kind) if f.init]
        given = {f.name: "some" for f in fields if f.default is f.default_factory}
        for value in bad:
            with pytest.raises(MedicADError, match=f"expected --{name} .* got {value}; give"):
                kind(**given | {name: value})
    done = invoke("data", "prepare", "br35h", "--seed", 2**32)
    assert done.exit_code == 2 and "--seed" in done.stderr and done.stderr.count("\n") == 1


def test_the_model_of_lesions_may_be_empty_and_that_of_others_not(tmp_path: Path) -> None:
    words = ("--model", "", "--out", tmp_path)
    done = invoke("evaluate", "lesions", *words, "--studies", 0)  # which is looked at later
    assert done.exit_code == 2 and "expected --studies above 0" in done.stderr
    done = invoke("evaluate", "detect", *words, "--data", "some.parquet")
    assert done.exit_code == 2 and "--model: expected a value, got an empty text" in done.stderr


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
