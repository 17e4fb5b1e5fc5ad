"""Training, what the stages share: arguments, freezing with proof, the Trainer, the record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from medic_ad import __version__
from medic_ad.data.sample import Sample, read_info, read_samples
from medic_ad.errors import DataError, ModelError
from medic_ad.load import find_checkpoint, load_checkpoint
from medic_ad.model.pixel import arrange
from medic_ad.train.draw import Slices
from medic_ad.train.render import render


@dataclass
class StageArguments:
    """Arguments that every stage has; a stage's own dataclass adds its own and its defaults."""

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
        for name in ("steps", "batch", "learning_rate", "save_steps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise DataError(
                    f"expected --{name.replace('_', '-')} above 0, got {value}; give another value"
                )


class Draws(IterableDataset):
    """An endless stream of `make(rng, generator)` batches, reproducible from the seed.

    A resumed run skips what was drawn before; the stream is a function of (seed, position).
    """

    def __init__(
        self, make: Callable[[np.random.Generator, torch.Generator], dict], seed: int
    ) -> None:
        self.make, self.seed, self.start = make, seed, 0

    def __iter__(self):
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        position, step = (worker.id, worker.num_workers) if worker else (0, 1)
        position += self.start
        while True:
            rng = np.random.default_rng((self.seed, position))
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            yield self.make(rng, generator)
            position += step


class Stage(nn.Module):
    """A model and its loss; tied weights are saved once, every tensor contiguous."""

    def _tied(self) -> dict[str, str]:
        """Second name of a tensor -> the name that it is saved under."""
        first: dict[int, str] = {}
        named = [(k, v) for k, v in super().state_dict().items() if v.numel()]
        return {k: n for k, v in named if (n := first.setdefault(v.data_ptr(), k)) != k}

    def state_dict(self, *args, **kwargs):
        tied, full = self._tied(), super().state_dict(*args, **kwargs)
        return {k: v.contiguous() for k, v in full.items() if k not in tied}

    def load_state_dict(self, state_dict, *args, **kwargs):
        again = {k: state_dict[n] for k, n in self._tied().items() if n in state_dict}
        return super().load_state_dict({**state_dict, **again}, *args, **kwargs)


def rate(share: float, peak: float) -> float:
    """Learning rate at this share of a budget: warm-up over a twentieth, then cosine."""
    if share < 0.05:
        return peak * max(share, 1e-3) / 0.05
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - 0.05) / 0.95)))


class Budget(TrainerCallback):
    """Ends training before this process has computed for longer; the rate falls until then.

    Args:
        seconds: of all threads of this process, in which batches are drawn, too.
        peak: of the learning rate.
    """

    def __init__(self, seconds: float, peak: float) -> None:
        self.seconds, self.peak = seconds, peak
        self.start = self.last = time.process_time()

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        spent = time.process_time() - self.start
        for group in optimizer.param_groups:
            group["lr"] = rate(spent / self.seconds, self.peak)

    def on_step_end(self, args, state, control, **_):
        now = time.process_time()
        if now + (now - self.last) - self.start >= self.seconds:  # no room for another step
            control.should_training_stop = True
        self.last = now


class StageTrainer(Trainer):
    """Trainer whose module returns its own loss and names the parts of it for the log."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        out = model(**inputs)
        self.parts = {k: float(v.detach()) for k, v in out.items() if k != "loss"}
        return (out["loss"], out) if return_outputs else out["loss"]

    def log(self, logs, *args, **kwargs):
        super().log({**logs, **getattr(self, "parts", {})}, *args, **kwargs)


def split(data: str, name: str, exclude: str = "") -> list[Sample]:
    """Samples of one split; `exclude` names patients to leave out.

    Raises:
        DataError: the split is empty.
    """
    left_out = {p for p in exclude.split(",") if p}
    root = Path(read_info(data).root)
    samples = [
        dataclasses.replace(
            s,
            image=str(root / s.image),
            # of a pair without a label the mask is of the change, no lesion's
            mask=None if s.prior and math.isnan(s.label) else s.mask and str(root / s.mask),
            prior=s.prior and str(root / s.prior),
        )
        for s in read_samples(data)
        if s.split == name and s.patient not in left_out
    ]
    if not samples:
        raise DataError(
            f"expected samples of split {name!r} in {data}, found none; prepare the data again"
        )
    return samples


def patients(samples: Iterable[Sample]) -> list[str]:
    """Published identities among samples, for the record of what some weights have seen."""
    return sorted({s.patient for s in samples if s.patient})


def source_weights(arguments: StageArguments) -> dict[str, float]:
    """ "name=share,name=share" of the command line -> share of the draws per source."""
    try:
        return {
            k: float(v)
            for k, v in (pair.split("=") for pair in arguments.weights.split(",") if pair)
        }
    except ValueError as error:
        raise DataError(
            f"expected --weights as name=share,name=share, got {arguments.weights!r}; write e.g. "
            "ms_cross_sectional=0.15"
        ) from error


def training_slices(arguments: StageArguments, side: int, masked: bool = True) -> Slices:
    """The train split rendered at `side`, to draw from with the sources' weights."""
    samples = split(arguments.data, "train", arguments.exclude)
    return Slices(
        render(samples, side, Path(arguments.cache)), source_weights(arguments), masked=masked
    )


def load_stage(arguments: StageArguments):
    """The model and processor of the stage before.

    Raises:
        ModelError: `arguments.model` names no checkpoint.
    """
    torch.manual_seed(arguments.seed)
    return load_checkpoint(find_checkpoint(arguments.model, hub=True))


def finish(model, processor, arguments: StageArguments) -> Path:
    """Write weights and processor; the records of the stages before come along."""
    out = Path(arguments.out)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    for record in Path(arguments.model).glob("*.run.json"):
        shutil.copy(record, out)
    return out


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Name -> sha256 of the bytes of every tensor."""
    return {
        name: hashlib.sha256(
            t.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, t in tensors
    }


def freeze(model: nn.Module, trained: tuple[str, ...]) -> None:
    """Train only the parameters whose names start with one of `trained`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(trained)


def fit(
    stage: Stage, model: nn.Module, draws: Draws, arguments: StageArguments, name: str, **facts: Any
) -> dict:
    """Train `stage` (a module around `model` that returns its loss), with proof of the freezing.

    Resumes from the last checkpoint under `out/checkpoints` when there is one; `facts` join the
    record.

    Returns:
        The run's record, also written to `out/NAME.run.json`.

    Raises:
        ModelError: a frozen tensor changed.
    """
    out = Path(arguments.out)
    frozen = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
    before = hash_tensors(frozen)
    checkpoints = out / "checkpoints"
    trainer = StageTrainer(
        stage,
        TrainingArguments(
            output_dir=str(checkpoints),
            max_steps=arguments.steps,
            per_device_train_batch_size=1,
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
            warmup_steps=max(1, arguments.steps // 20),
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            bf16=arguments.bf16,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=25,
            save_steps=arguments.save_steps,
            save_total_limit=1,
            seed=arguments.seed,
            dataloader_num_workers=arguments.workers,
            remove_unused_columns=False,
            report_to=["tensorboard"],
            ignore_data_skip=True,  # `Draws` starts where the checkpoint stopped
        ),
        train_dataset=draws,
        data_collator=lambda rows: rows[0],
    )
    if arguments.cpu_seconds:
        trainer.add_callback(Budget(arguments.cpu_seconds, arguments.learning_rate))
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    draws.start = int(last.rsplit("-", 1)[1]) if last else 0
    arrange(stage, torch.channels_last)  # checkpoints stay contiguous
    before_cpu = time.process_time()
    result = trainer.train(resume_from_checkpoint=last)
    cpu_seconds = time.process_time() - before_cpu
    arrange(stage, torch.contiguous_format)
    after = hash_tensors(frozen)
    changed = [n for n in before if before[n] != after[n]]
    if changed:
        raise ModelError(
            f"expected {name} to leave {len(before)} tensors frozen, but {changed[0]} changed"
        )
    record = {
        "stage": name,
        "medic_ad": __version__,
        "arguments": dataclasses.asdict(arguments),
        "patients": patients(split(arguments.data, "train", arguments.exclude)),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "frozen": {
            "tensors": len(before),
            "sha256_before": digest(before),
            "sha256_after": digest(after),
        },
        "final_loss": result.training_loss,
        "steps": trainer.state.global_step,
        "seconds": round(result.metrics["train_runtime"], 1),
        "cpu_seconds": round(cpu_seconds, 2),
        "threads": torch.get_num_threads(),
        "device": str(trainer.args.device),
        **facts,
        "log": trainer.state.log_history,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.run.json").write_text(json.dumps(record, indent=1))
    return record


def digest(hashes: dict[str, str]) -> str:
    """One sha256 over names and hashes."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
