"""`runs/results.sh` with a stand-in for `medic-ad`: what is written, skipped, said to lack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medic_ad.cli_stages import EVALUATE

SCRIPT = Path(__file__).parents[1] / "runs/results.sh"
# Writes what a command of `evaluate` would, and keeps the words that it was called with.
STAND_IN = """#!{python}
import sys
from pathlib import Path
words = sys.argv[1:]
with open({log!r}, "a") as file:
    file.write(" ".join(words) + "\\n")
out = Path(words[words.index("--out") + 1])
if words[0] == "evaluate":
    folder = out / words[1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.md").write_text("## figures of " + words[1] + " in " + out.name + "\\n")
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")


def made(tmp_path: Path, **own: str) -> tuple[str, list[str]]:
    """The text, and the commands that were run for it."""
    log = tmp_path / "log"
    fake = tmp_path / "bin" / "medic-ad"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    fake.chmod(0o755)
    log.write_text("")
    environment = {
        **os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}",
        "BUILD": str(tmp_path / "build"), "RESULTS": str(tmp_path / "results.md"),
    }  # fmt: skip
    subprocess.run(["bash", str(SCRIPT)], env=environment | own, check=True, capture_output=True)
    return (tmp_path / "results.md").read_text(), log.read_text().splitlines()


def test_every_part_stands_between_its_markers_and_nothing_is_run_twice(tmp_path: Path) -> None:
    text, commands = made(tmp_path)
    assert len(commands) == 13 and sum(c.startswith("data prepare") for c in commands) == 4
    begun = re.findall(r"<!-- (\S+): begin; medic-ad evaluate", text)
    assert begun == re.findall(r"<!-- (\S+): end -->", text)
    assert begun == ["folds-brain_mri_253", "folds-head_ct", "folds-covid_ct", "paper", "detect",
                     "localise", "ablations"]  # fmt: skip
    assert text.count("## figures of") == len(begun) and "Not made yet" not in text
    assert made(tmp_path) == (text, [])


def test_what_was_not_run_is_said(tmp_path: Path) -> None:
    text, commands = made(tmp_path, ONLY="paper table-head_ct")
    assert [c.split()[:2] for c in commands] == [["data", "prepare"], ["evaluate", "paper"]]
    assert text.count("Not made yet: ONLY=") == 6 and text.count("## figures of paper") == 1


def test_every_command_of_the_script_exists() -> None:
    used = set(re.findall(r"medic-ad evaluate (\w+)", SCRIPT.read_text()))
    assert used <= set(EVALUATE) and len(used) == 7
