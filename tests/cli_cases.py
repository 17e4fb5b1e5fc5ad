"""The command line as tests call it, and what a refusal looks like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from medic_ad import cli
from medic_ad.models import MODELS

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
