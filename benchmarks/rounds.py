"""What the benchmarks share: cases that take turns, ratios within a round, the machine.

A shared machine is slower at one moment than at the next. Cases are therefore timed in turns, each
round in another order, and a ratio is taken within a round before the median over the rounds. On
one thread of a CPU the clock is that of the process, which stands still while others have it.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import transformers

WARM_UP = 2

Spread = dict[str, float]


def in_turns(
    cases: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every case in every round; the round's first case is another one each time."""
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    now = clock(device)
    with torch.inference_mode():
        for number in range(-WARM_UP, rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                begin = now()
                cases[name]()
                settle(device)
                if number >= 0:
                    seconds[name].append(now() - begin)
    return seconds


def clock(device: str) -> Callable[[], float]:
    """Seconds since some moment: of this process where one thread works, else of the wall."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def settle(device: str) -> None:
    """Wait for what a GPU still has to do."""
    if device != "cpu":
        torch.cuda.synchronize()


def spread(values: list[float]) -> Spread:
    """Median, quartiles and number of some values."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "low": low, "high": high, "n": len(values)}


def milliseconds(seconds: Mapping[str, list[float]], images: int = 1) -> dict[str, Spread]:
    """Of every case, milliseconds an image."""
    return {name: spread([1000 * s / images for s in each]) for name, each in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> Spread:
    """How many times longer `above` takes than `below`, within each round."""
    return spread([a / b for a, b in zip(seconds[above], seconds[below], strict=True)])


def added(seconds: Mapping[str, list[float]], whole: str, part: str) -> Spread:
    """Share of its time that `whole` adds to `part`, within each round."""
    return spread([a / b - 1 for a, b in zip(seconds[whole], seconds[part], strict=True)])


def machine(device: str = "cpu") -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": clock(device).__name__,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
