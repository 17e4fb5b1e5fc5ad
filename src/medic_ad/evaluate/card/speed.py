"""Evaluation: how long a read takes in a new and in a running process, and its peak memory."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from medic_ad.errors import MedicADError
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.load import load_model
from medic_ad.road import read
from medic_ad.study import read_study

NEW_PROCESSES = 5
IN_PROCESS = 20
WARM_UP = 2
WATCH = Path(__file__).with_name("watch.py")


def new_process(model: str, image: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of `medic-ad read IMAGE` in a process of its own."""
    command = [sys.executable, "-m", "medic_ad.cli", "read", str(image), "--model", model, "--json"]
    return watched(command, f"medic-ad read {image}")


def watched(command: list[str], name: str) -> tuple[float, float]:
    """Seconds and peak memory in MB of a command in a process of its own.

    Raises:
        MedicADError: it failed; `name` says what it is.
    """
    run = subprocess.run(
        [sys.executable, "-I", str(WATCH), *command], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise MedicADError(f"expected `{name}` to finish, but: {run.stderr[-300:]}")
    seconds, peak = run.stdout.split()
    scale = 1 if platform.system() == "Darwin" else 1024  # bytes there, KiB elsewhere
    return float(seconds), int(peak) * scale / 1e6


def measure_speed(model: str, image: str | Path) -> dict[str, object]:
    """Timings of one image as a dict that can be printed as JSON.

    The first new process warms the file cache and is not counted. Memory is the highest of the new
    processes, each read whole.
    """
    path = Path(image)
    new_process(model, path)
    fresh = [
        new_process(model, path) for _ in bar(range(NEW_PROCESSES), "reading in new processes")
    ]
    loaded = load_model(model)
    seconds = []
    for k in bar(range(WARM_UP + IN_PROCESS), "reading in this process"):
        start = time.perf_counter()
        read(read_study(path), loaded)
        if k >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    quarters = statistics.quantiles(seconds, n=4)
    starts = [s for s, _ in fresh]
    return {
        "new_process_seconds": {
            "median": statistics.median(starts),
            "min": min(starts),
            "max": max(starts),
            "n": len(starts),
        },
        "running_process_seconds": {
            "median": statistics.median(seconds),
            "quartiles": [quarters[0], quarters[2]],
            "n": len(seconds),
        },
        "peak_memory_mb": max(m for _, m in fresh),
        "device": str(loaded.device),
        "cpu_count": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
