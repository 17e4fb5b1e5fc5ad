"""A short run of the fuzzing command: damaged files are read or refused, nothing else."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[1] / "benchmarks" / "dicom_fuzz.py"


def test_damaged_files_are_read_or_refused() -> None:
    if importlib.util.find_spec("hypothesis") is None:
        pytest.skip("hypothesis is not installed (extra test)")
    words = [sys.executable, str(COMMAND), "--cases", "400", "--seed", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    match = re.search(
        r"(\d+) cases .* (\d+) read, (\d+) refused, 0 unclear, 0 crashed", done.stdout
    )
    assert match is not None, done.stdout
    cases, read, refused = map(int, match.groups())
    assert cases == read + refused and cases >= 400 and read >= 20 and refused >= 100


def test_a_reader_that_hangs_and_swallows_every_exception_is_not_taken_for_a_refusal(
    tmp_path: Path,
) -> None:
    if importlib.util.find_spec("hypothesis") is None:
        pytest.skip("hypothesis is not installed (extra test)")
    stubborn = (
        "def read_image(path):\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(60)\n"
        "        except BaseException:\n"
        "            raise MedicADError(f'{path}: expected a whole file')\n"
    )
    text = COMMAND.read_text()
    changed = text.replace("from medic_ad.readers import read_image\n", stubborn)
    changed = changed.replace("SECONDS = 20 ", "SECONDS = 1 ")
    assert len(changed) > len(text) + 100 and "SECONDS = 1 " in changed
    (tmp_path / "fuzz.py").write_text(changed)
    words = [sys.executable, str(tmp_path / "fuzz.py"), "--cases", "3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "0 died, 1 hung" in done.stdout, done.stdout + done.stderr
