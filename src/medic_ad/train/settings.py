"""Training: what a user sets for each stage; imports nothing heavy, so that it is refused early."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import ClassVar

from medic_ad.data.sample import read_info
from medic_ad.errors import DataError
from medic_ad.models import ATTENTION, find_checkpoint
from medic_ad.option import check_positive, check_seed, check_workers


@dataclass
class StageArguments:
    """Arguments that every stage has; a stage's own dataclass adds its own and its defaults."""

    needs_model: ClassVar[bool] = True

    data: str = field(metadata={"help": "Parquet file of samples, from `medic-ad data prepare`"})
    out: str = field(metadata={"help": "folder that the stage's weights are written to"})
    model: str = field(
        default="", metadata={"help": "folder of the stage before, or a base checkpoint"}
    )
    steps: int = field(default=1000, metadata={"help": "optimiser steps"})
    batch: int = field(default=16, metadata={"help": "scans or pairs a step"})
    learning_rate: float = field(
        default=1e-3, metadata={"help": "peak, after warm-up, then cosine"}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's"})
    seed: int = field(default=0, metadata={"help": "of weights, draws and augmentation"})
    workers: int = field(default=1, metadata={"help": "processes that draw and augment"})
    bf16: bool = field(default=True, metadata={"help": "bfloat16 autocast; weights stay float32"})
    cache: str = field(default="build/cache", metadata={"help": "folder of rendered slices"})
    save_steps: int = field(
        default=250, metadata={"help": "steps between checkpoints to resume from"}
    )
    weights: str = field(
        default="",
        metadata={"help": "share of the draws per source; the others share the rest by size"},
    )
    exclude: str = field(default="", metadata={"help": "comma-separated patients to leave out"})
    batches: int = field(
        default=1, metadata={"help": "batches a step, shared out among the processes"}
    )
    fsdp: bool = field(
        default=False,
        metadata={"help": "divide the weights among the processes (FSDP2)"},
    )
    attention: str = field(
        default="sdpa", metadata={"help": f"implementation of attention: {', '.join(ATTENTION)}"}
    )
    checkpointing: bool = field(
        default=False,
        metadata={"help": "compute activations of the language model again to save memory"},
    )
    cpu_seconds: float = field(
        default=0.0,
        metadata={"help": "processor seconds that end training before its steps do; 0 for none"},
    )

    def __post_init__(self) -> None:
        if self.cpu_seconds and self.workers:
            raise DataError(
                f"expected --workers 0 with --cpu-seconds, got {self.workers}: the time of workers "
                "is not counted; correct one of them"
            )
        check_positive(self, "steps", "batch", "learning_rate", "save_steps", "batches")
        check_seed(self)
        check_workers(self)
        if self.batches % processes():
            raise DataError(
                f"expected --batches as a multiple of the {processes()} processes, got "
                f"{self.batches}; give a multiple"
            )

    def check(self) -> None:
        """Refuse what is seen without a model: a missing model or table.

        Raises:
            MedicADError: of the first of these.
        """
        if self.needs_model:
            find_checkpoint(self.model)
        read_info(self.data)


@dataclass
class LanguageArguments(StageArguments):
    """Arguments of the stages that the language model's loss takes part in."""

    language_weight: float = field(default=1.0, metadata={"help": "of the language-model loss"})
    lora: int = field(
        default=0, metadata={"help": "rank of adapters trained in the language model; 0: none"}
    )


@dataclass
class BaseArguments(StageArguments):
    """Arguments of `medic-ad train base`."""

    needs_model: ClassVar[bool] = False

    steps: int = field(default=4500, metadata={"help": "optimiser steps of vision pre-training"})
    language_steps: int = field(default=600, metadata={"help": "steps on image-text templates"})
    learning_rate: float = field(
        default=1e-3, metadata={"help": "peak, after warm-up, then cosine"}
    )


@dataclass
class DetectArguments(LanguageArguments):
    """Arguments of `medic-ad train detect`."""

    steps: int = field(default=800, metadata={"help": "optimiser steps"})
    pixel_weight: float = field(
        default=1.0, metadata={"help": "of the pixel loss, where masks exist"}
    )
    image_weight: float = field(default=1.0, metadata={"help": "of the image loss"})
    tower: bool = field(
        default=False,
        metadata={
            "help": "train the vision tower too, for images unlike those that it has learned from; "
            "the model then no longer answers as its backbone does"
        },
    )
    hint_weight: float = field(
        default=0.0,
        metadata={"help": "of the distance of <Ano> to the words in its place in `base`, for nano"},
    )


@dataclass
class CompareArguments(LanguageArguments):
    """Arguments of `medic-ad train compare`."""

    steps: int = field(default=2000, metadata={"help": "optimiser steps"})
    batch: int = field(default=12, metadata={"help": "pairs a step, in either order"})
    volumes: int = field(
        default=0,
        metadata={"help": "made studies of each volume of the table, for pairs of their slices"},
    )
    label_weight: float = field(default=1.0, metadata={"help": "of worse / stable / better"})
    map_weight: float = field(default=1.0, metadata={"help": "of the signed change map"})
    hint_weight: float = field(
        default=0.0,
        metadata={
            "help": "of the distance of <Diff> to the words in its place in `base`, for nano"
        },
    )


@dataclass
class ExplainArguments(StageArguments):
    """Arguments of `medic-ad train explain`."""

    steps: int = field(default=5800, metadata={"help": "optimiser steps"})
    swap_weight: float = field(
        default=0.3, metadata={"help": "of the map's mean inside a lesion that <Ano> denies"}
    )


def processes() -> int:
    """How many processes train together, as torchrun and accelerate launch say it."""
    return int(os.environ.get("WORLD_SIZE", 1))
