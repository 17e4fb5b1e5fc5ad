"""Runs stages of training one after another; started by torchrun, so on several processes at once.

torchrun --nproc-per-node 2 tests/together.py JOBS.json

JOBS.json holds rows of the fields of `Job`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from medic_ad.cli_stages import TRAIN
from medic_ad.train.run import Draws

RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Killed(RuntimeError):
    """The process dies."""


@dataclass(frozen=True)
class Job:
    """One run of a stage.

    Attributes:
        stage, arguments: as on the command line.
        killed_at: the draw at which every process dies; 0 for none.
        lopsided: every second batch says nothing: no mask, no label, no change.
    """

    stage: str
    arguments: dict[str, Any]
    killed_at: int = 0
    lopsided: bool = False

    def run(self) -> None:
        """Run it as `medic-ad train` does."""
        module = importlib.import_module(TRAIN[self.stage].module)
        real = Draws.__init__

        def init(draws: Draws, make: Any, seed: int) -> None:
            real(draws, self._changed(make), seed)

        Draws.__init__ = init  # type: ignore[assignment, method-assign]
        try:
            module.main(getattr(module, TRAIN[self.stage].arguments)(**self.arguments))
        except Killed:
            pass
        finally:
            Draws.__init__ = real  # type: ignore[method-assign]

    def _changed(self, make: Any) -> Any:
        calls: list[int] = []

        def drawn(*args: Any) -> dict[str, Any]:
            calls.append(1)
            if len(calls) == self.killed_at:
                raise Killed
            batch: dict[str, Any] = make(*args)
            position = (len(calls) - 1) * RANKS + RANK
            return silent(batch) if self.lopsided and position % 2 else batch

        return drawn


def silent(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of scans, or of pairs, of which nothing is known."""
    known = batch["known"]
    if "change" in batch:
        return {**batch, "known": [False] * len(known), "change": [None] * len(known)}
    label = torch.full_like(batch["label"], math.nan)
    return {**batch, "known": torch.zeros_like(known), "label": label}


def divide_on_cpu() -> None:
    """Let FSDP2 divide weights on the CPU: accelerate asks for a GPU, the code needs none."""
    real = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **own: Any) -> None:
        real(self, *args, fsdp_plugin=fsdp_plugin, **own)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)  # as it does for a GPU
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def say_who_writes() -> None:
    """Print this process's rank with the name of every text file that it writes."""
    real = Path.write_text

    def write_text(self: Path, *args: Any, **own: Any) -> int:
        print(f"process {RANK} writes {self.name}", flush=True)
        return real(self, *args, **own)

    Path.write_text = write_text  # type: ignore[method-assign]


if __name__ == "__main__":
    divide_on_cpu()
    say_who_writes()
    for row in json.loads(Path(sys.argv[1]).read_text()):
        Job(**row).run()
    torch.distributed.destroy_process_group()
