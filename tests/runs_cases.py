"""The scripts of `runs/` with a stand-in for `medic-ad`; their words as the real one takes them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import typer

from medic_ad import cli
from medic_ad.cli_stages import CALIBRATE, EVALUATE, TRAIN, stage_app

WHOLE = [  # pages of `evaluate all` that results.sh shows
    "brain_tumour_cheng/calibration",
    "brain_tumour_cheng/sanity",
    "brain_tumour_cheng/language",
    "ms_longitudinal/compare",
    "vqa_rad/language",
]
RUNS = Path(__file__).parents[1] / "runs"
# Writes what a command would, with the number of its call, and keeps the words of the call.
STAND_IN = """#!{python}
import shlex, sys
from pathlib import Path
words, log = sys.argv[1:], Path({log!r})
with log.open("a") as file:
    file.write(shlex.join(words) + "\\n")
out, made = Path(words[words.index("--out") + 1]), f"made by call {{len(log.read_text())}}"
if out.suffix:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(made)
elif words[0] in ("train", "calibrate") or words[1] in ("resnet", "unet"):
    out.mkdir(parents=True, exist_ok=True)
    (out / "a.run.json").write_text(made)
    (out / "model.safetensors").write_text(made)
    (out / "checkpoints").mkdir(exist_ok=True)
elif words[0] == "data":
    out.mkdir(parents=True, exist_ok=True)
elif words[0] == "evaluate" and words[1] in ("registration", "lesions", "chest"):
    out.mkdir(parents=True, exist_ok=True)
    (out / (words[1] + ".md")).write_text("## figures of " + words[1] + "\\n")
elif words[:2] == ["evaluate", "all"]:
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.md").write_text("## figures of all, [one](one/detect/figures.md)\\n")
    for page in {whole!r}:
        (out / page).mkdir(parents=True, exist_ok=True)
        (out / page / "figures.md").write_text("### " + page + "\\n")
elif words[0] == "evaluate":
    folder = out / words[1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(made)
    (folder / "figures.md").write_text("## figures of " + words[1] + " in " + out.name + "\\n")
"""


def run(script: str, tmp_path: Path, **own: str) -> tuple[str, list[list[str]]]:
    """What the script printed, and the commands that it gave to `medic-ad`."""
    log, fake = tmp_path / "log", tmp_path / "bin" / "medic-ad"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(STAND_IN.format(python=sys.executable, log=str(log), whole=WHOLE))
    fake.chmod(0o755)
    log.write_text("")
    environment = {
        **os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}",
        "BUILD": str(tmp_path / "build"), "RESULTS": str(tmp_path / "results.md"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(RUNS / script)], env=environment | own, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    return done.stdout, [shlex.split(line) for line in log.read_text().splitlines()]


@cache
def command_of(first: str, second: str) -> Any:
    """The real command with its options."""
    if first == "data":
        data: Any = typer.main.get_command(cli.data)
        return data.commands[second]
    stages = {"train": TRAIN, "evaluate": EVALUATE, "calibrate": {"": CALIBRATE}}
    stage = stages[first][second]
    return typer.main.get_command(stage_app(stage))


def parse(words: list[str]) -> dict[str, Any]:
    """Values of the options, as the real command reads them; it is not run.

    Raises:
        typer.TyperException: the command knows no such option, or lacks one.
    """
    first, second, *rest = words
    if first == "calibrate":
        first, second, rest = first, "", words[1:]
    return command_of(first, second).make_context("medic-ad", rest).params
