"""What the benchmarks measure with: the process they start, not the one that starts it."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
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


def test_throughput_counts_an_image_without_an_answer_of_success_as_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    module = importlib.import_module("node_throughput")
    figures = module.main(images=12, associations=2, rounds=2)
    assert [f["answered"] for f in figures["node"]] == [12, 12] and not module.wrong(figures)
    assert figures["node_of_bare"]["least"] <= figures["node_of_bare"]["most"]
    # The node refuses what says no series: a failure is answered, nothing is kept.
    monkeypatch.setattr(module, "make_images", without_series(module.make_images))
    figures = module.main(images=4, associations=2, rounds=1)
    assert (figures["unanswered"], figures["lost"]) == (4, 0) and module.wrong(figures)


@pytest.mark.parametrize(
    ("disk", "work", "least", "most"),
    [(0.06, 0.02, 0.5, 0.85), (0.01, 0.06, 0, 0.2)],  # waits for 2 / 3 of the time; for the first
    ids=["slow disk", "slow model"],
)
def test_the_model_waits_for_what_is_not_read_ahead_in_time(
    monkeypatch: pytest.MonkeyPatch, disk: float, work: float, least: float, most: float
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    batch: Any = importlib.import_module("batch")
    monkeypatch.setattr(batch, "read_study", lambda *_: time.sleep(disk))
    monkeypatch.setattr(batch, "read", lambda *_: time.sleep(work))
    shares = batch.waiting(None, [Path(str(n)) for n in range(12)])
    assert least <= shares["disk"] <= most and shares["fit"] == 0


def without_series(make: Callable[[Path, int], list[Path]]) -> Callable[[Path, int], list[Path]]:
    def made(folder: Path, count: int) -> list[Path]:
        files = make(folder, count)
        for file in files:
            dataset = pydicom.dcmread(file)
            del dataset.SeriesInstanceUID
            dataset.save_as(file)
        return files

    return made
