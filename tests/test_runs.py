"""The scripts of runs/: what the chest refit draws; what is run, run again, with which options."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import runs_cases as cases
import typer
from scipy import ndimage

from medic_ad.cli_stages import TRAIN

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")


@pytest.fixture(scope="module")
def chest_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chest_table", cases.RUNS / "chest_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chest() -> tuple[np.ndarray, np.ndarray]:
    """A made radiograph: dark air around a bright body with two dark lungs, which are returned."""
    y, x = np.mgrid[-1:1:200j, -1:1:240j]
    body = (x / 0.9) ** 2 + (y / 1.3) ** 2 < 1
    air = np.zeros(body.shape, bool)
    for middle in (-0.42, 0.42):
        air |= ((x - middle) / 0.28) ** 2 + (y / 0.6) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 0.01, body.shape)
    grey = np.where(air, 0.3, np.where(body, 0.8, 0.05)) + noise
    return grey.clip(0, 1), air


def test_opacities_lie_in_the_lungs_and_are_denser(chest_table: ModuleType) -> None:
    grey, air = chest()
    room = chest_table.lungs(grey)
    assert (room & air).sum() / (room | air).sum() > 0.8  # the air around the body is no lung
    near = ndimage.binary_dilation(air, iterations=24)
    found = 0
    for seed in range(20):
        drawn, mask = chest_table.with_opacities(grey, room, np.random.default_rng(seed))
        assert drawn.min() >= 0 and drawn.max() <= 1
        np.testing.assert_array_equal(drawn[~near], grey[~near])
        found += bool(mask.any())
        if mask.any():
            assert near[mask].all()
            assert (drawn - grey)[mask].mean() > 0.05 > abs((drawn - grey)[~near].mean())
    assert found >= 18


@pytest.fixture(autouse=True)
def no_radiographs(tmp_path: Path) -> None:
    """A `python` that does nothing in the place of the one that chest.sh calls."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)


@needs_bash
@pytest.mark.parametrize("name", ["nano.sh", "chest.sh"])
def test_every_command_of_a_script_is_one_that_medic_ad_takes(name, tmp_path) -> None:
    own = {"OUT": str(tmp_path / "weights"), "CARD": ""}
    (tmp_path / "weights").mkdir()
    _, commands = cases.run(name, tmp_path, **own)
    trained = [words[1] for words in commands if words[0] == "train"]
    assert trained == list(TRAIN) and len(commands) >= 7
    for words in commands:
        cases.parse(words)
    with pytest.raises(typer.TyperException, match="no-such-option"):
        cases.parse([*commands[0], "--no-such-option", "1"])


@needs_bash
def test_a_stage_runs_again_when_its_command_or_its_weights_change(tmp_path) -> None:
    _, commands = cases.run("chest.sh", tmp_path)
    assert [words[:2] for words in commands[1:5]] == [["train", name] for name in TRAIN]
    assert cases.run("chest.sh", tmp_path)[1] == []
    left = tmp_path / "build" / "detect" / "checkpoints" / "checkpoint-250"
    left.mkdir()
    said, commands = cases.run("chest.sh", tmp_path, STEPS="9")
    # every training has another command, and what stands on it has other weights
    assert [words[0] for words in commands] == ["train"] * 4 + ["calibrate", "evaluate"]
    assert said.count("it starts over") == len(commands) and not left.exists()
    (tmp_path / "build" / "compare" / "model.safetensors").write_text("by hand")
    assert [words[:2] for words in cases.run("chest.sh", tmp_path, STEPS="9")[1]][0] == [
        "train", "explain"
    ]  # fmt: skip


@needs_bash
def test_an_interrupted_stage_keeps_its_checkpoints(tmp_path) -> None:
    cases.run("chest.sh", tmp_path)
    build = tmp_path / "build"
    left = build / "explain" / "checkpoints" / "checkpoint-250"
    left.mkdir()
    *stamp, last = (build / "explain.done").read_text().splitlines()
    code = last.partition(", ")[2]  # as a killed run leaves it
    (build / "explain.begun").write_text("\n".join([*stamp, code]) + "\n")
    (build / "explain.done").unlink()
    said, commands = cases.run("chest.sh", tmp_path)
    assert commands[0][:2] == ["train", "explain"] and left.exists()
    assert "explain: its command" not in said and "other code" not in said


@needs_bash
def test_a_stage_that_goes_on_with_other_code_says_so_then_and_later(tmp_path) -> None:
    cases.run("chest.sh", tmp_path)
    done, begun = (tmp_path / "build" / f"evaluate.{state}" for state in ("done", "begun"))
    *stamp, _ = done.read_text().splitlines()
    begun.write_text("\n".join([*stamp, "code " + "0" * 16]) + "\n")
    done.unlink()
    assert "evaluate: begun with other code" in cases.run("chest.sh", tmp_path)[0]
    assert "evaluate: done before, made with other code" in cases.run("chest.sh", tmp_path)[0]


@needs_bash
def test_a_stage_whose_output_is_gone_runs_again(tmp_path) -> None:
    cases.run("chest.sh", tmp_path)
    shutil.rmtree(tmp_path / "build" / "explain")
    said, commands = cases.run("chest.sh", tmp_path)
    # what stands on it has the weights of another call of the stand-in
    assert [words[:2] for words in commands][0] == ["train", "explain"]
    assert "explain: its command, what it reads or what it left is not as before" in said
    assert "detect: done before\n" in said


@needs_bash
def test_a_stage_made_with_other_code_says_so_and_runs_again_when_told_to(tmp_path) -> None:
    cases.run("chest.sh", tmp_path)
    done = tmp_path / "build" / "detect.done"
    *stamp, last = done.read_text().splitlines()
    time_and_code = re.fullmatch(r"\d+ s, code ([0-9a-f]{16})", last)
    assert time_and_code is not None
    done.write_text("\n".join([*stamp, last.replace(time_and_code[1], "0" * 16)]) + "\n")
    said, commands = cases.run("chest.sh", tmp_path)
    assert commands == [] and said.count("made with other code; REDO=1") == 1
    said, commands = cases.run("chest.sh", tmp_path, REDO="1")
    assert commands[0][:2] == ["train", "detect"] and "base: done before\n" in said
    said, commands = cases.run("chest.sh", tmp_path)
    assert commands == [] and "other code" not in said
