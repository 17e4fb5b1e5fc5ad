"""What the benchmarks measure with: the process they start, not the one that starts it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from medic_ad.errors import MedicADError
from medic_ad.evaluate.card.speed import watched

HUNDRED_MB = "b'x' * 100_000_000"


def test_peak_memory_is_that_of_the_command_alone() -> None:
    ballast = np.ones(75_000_000)  # 600 MB here, which a process started directly would inherit
    _, idle = watched([sys.executable, "-c", "pass"], "nothing")
    _, full = watched([sys.executable, "-c", f"x = {HUNDRED_MB}"], "a hundred MB")
    assert ballast.any() and 0 < idle < 100
    assert full - idle == pytest.approx(100, abs=10)


def test_seconds_are_those_of_the_command() -> None:
    seconds, _ = watched([sys.executable, "-c", "import time; time.sleep(0.5)"], "a nap")
    assert 0.5 <= seconds < 5


def test_a_command_that_fails_is_named_with_what_it_said() -> None:
    code = "import sys; sys.exit('no such model')"
    with pytest.raises(MedicADError, match="expected `reading` to finish, but: no such model"):
        watched([sys.executable, "-c", code], "reading")
