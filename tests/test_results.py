"""`runs/results.sh` with a stand-in for `medic-ad`: what is written, skipped, said to lack."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import runs_cases as cases

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")


def made(tmp_path: Path, **own: str) -> tuple[str, list[list[str]]]:
    """The text, and the commands that were run for it."""
    chest = tmp_path / "chest"
    chest.mkdir(exist_ok=True)
    _, commands = cases.run("results.sh", tmp_path, CHEST=str(chest), **own)
    return (tmp_path / "results.md").read_text(), commands


def test_every_part_stands_between_its_markers_and_nothing_is_run_twice(tmp_path: Path) -> None:
    text, commands = made(tmp_path)
    assert len(commands) == 17 and sum(c[:2] == ["data", "prepare"] for c in commands) == 4
    begun = re.findall(r"<!-- (\S+): begin; medic-ad evaluate", text)
    assert begun == re.findall(r"<!-- (\S+): end -->", text)
    assert begun == [
        "folds-brain_mri_253", "folds-head_ct", "folds-covid_ct", "paper", "detect", "localise",
        "ablations", "registration", "lesions", "chest", "all",
    ]  # fmt: skip
    assert [c[6] for c in commands if c[1] == "folds" and "--tower" in c] == [
        str(tmp_path / "build/tables/covid_ct.parquet")
    ]
    assert text.count("## figures of") == len(begun) and "Not made yet" not in text
    assert "## figures of all, one\n" in text  # its link would lead out of the text
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == cases.WHOLE
    assert made(tmp_path) == (text, [])


def test_what_was_not_run_is_said(tmp_path: Path) -> None:
    text, commands = made(tmp_path, ONLY="registration table-head_ct")
    assert [c[:2] for c in commands] == [["data", "prepare"], ["evaluate", "registration"]]
    assert text.count("Not made yet: ONLY=") == 10 and text.count("## figures of regis") == 1


def test_the_summary_lists_what_is_made_and_needs_no_page_of_a_set_that_lacks(
    tmp_path: Path,
) -> None:
    text, [command] = made(tmp_path, ONLY="all")
    assert "--others" not in command and text.count("## figures of all") == 1
    lacking = "all/vqa_rad/language/figures.md"
    (tmp_path / "build" / lacking).unlink()
    text, commands = made(tmp_path, ONLY="all")
    assert commands == [] and "### vqa_rad" not in text and "### ms_longitudinal" in text
    assert "Not made yet: ONLY=all " not in text
    _, commands = made(tmp_path, ONLY="all folds-head_ct localise")
    assert [c[1] for c in commands] == ["folds", "localise", "all"]
    build = tmp_path / "build"
    others = f"{build}/folds/head_ct,{build}/localise"
    assert commands[-1][commands[-1].index("--others") + 1] == others


def test_a_figure_of_another_model_does_not_stand(tmp_path: Path) -> None:
    """Neither where it is made again, nor, hidden behind ONLY, where it is not."""
    made(tmp_path)
    (tmp_path / "other").mkdir()
    text, commands = made(tmp_path, MODEL=str(tmp_path / "other"), ONLY="localise")
    assert [c[1] for c in commands] == ["localise"]
    assert text.count("## figures of") == 3 and text.count("Not made yet") == 8
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_text("one")
    _, commands = made(tmp_path, MODEL=str(tmp_path / "other"))
    assert len(commands) == 9 and {c[1] for c in commands} == {
        "folds", "paper", "detect", "localise", "ablations", "lesions", "all"
    }  # fmt: skip
    weights.write_text("two")  # the same command, other weights
    assert len(made(tmp_path, MODEL=str(tmp_path / "other"))[1]) == 9


def test_chest_weights_that_lack_are_said_before_hours_of_work(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        cases.run("results.sh", tmp_path, CHEST=str(tmp_path / "none"))
    assert failed.value.returncode == 2 and "runs/chest.sh" in failed.value.stderr
    assert not (tmp_path / "build").joinpath("table-nano.done").exists()


def test_every_command_of_the_script_is_one_that_medic_ad_takes(tmp_path: Path) -> None:
    _, commands = made(tmp_path)
    parsed = [cases.parse(words) for words in commands]
    assert len(parsed) == 17 and {p["seed"] for p in parsed if "seed" in p} == {0}
