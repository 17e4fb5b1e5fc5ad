"""Training, what the stages share: arguments, draws, the Trainer, the record."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType, PartialState
from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from medic_ad import __version__
from medic_ad.data.sample import Sample, read_info, read_samples
from medic_ad.errors import DataError, ModelError
from medic_ad.load import load_checkpoint, save_checkpoint
from medic_ad.model.adapters import add_adapters
from medic_ad.model.pixel import arrange
from medic_ad.models import checkpoint_folder
from medic_ad.train.draw import Slices
from medic_ad.train.frozen import digest, hash_frozen
from medic_ad.train.render import render
from medic_ad.train.settings import LanguageArguments, StageArguments, processes
from medic_ad.train.shards import FSDP, make_divisible, state_to_save
from medic_ad.train.trainer import Budget, StageTrainer

UNDIVIDED = (
    "expected several GPUs for --fsdp, found none that accelerate divides weights among; start it "
    "with torchrun on a machine with GPUs, or leave --fsdp out"
)


class Draws(IterableDataset):
    """An endless stream of `make(rng, generator)` batches, reproducible from the seed.

    The stream is a function of (seed, position), so a resumed run starts where it stopped, and
    several processes take turns: together they draw what one process draws alone.
    """

    def __init__(
        self, make: Callable[[np.random.Generator, torch.Generator], dict], seed: int
    ) -> None:
        self.make, self.seed, self.start = make, seed, 0
        self.ended = False  # then nothing is drawn
        self.rank, self.ranks = 0, 1

    def __iter__(self):
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        turn, turns = (worker.id, worker.num_workers) if worker else (0, 1)
        position, step = self.start + turn * self.ranks + self.rank, turns * self.ranks
        while not self.ended:
            rng = np.random.default_rng((self.seed, position))
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            yield self.make(rng, generator)
            position += step


class Stage(nn.Module):
    """A model and its loss; tied weights are saved once, every tensor contiguous."""

    accepts_loss_kwargs = False  # the loss is a mean over a batch; the Trainer's over batches

    def _tied(self) -> dict[str, str]:
        """Second name of a tensor -> the name that it is saved under."""
        first: dict[int, str] = {}
        named = self.named_parameters(remove_duplicate=False)
        return {k: n for k, v in named if (n := first.setdefault(id(v), k)) != k}

    def state_dict(self, *args, **kwargs):
        tied, full = self._tied(), super().state_dict(*args, **kwargs)
        return {k: v.contiguous() for k, v in full.items() if k not in tied}

    def load_state_dict(self, state_dict, *args, **kwargs):
        again = {k: state_dict[n] for k, n in self._tied().items() if n in state_dict}
        return super().load_state_dict({**state_dict, **again}, *args, **kwargs)


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
    return load_checkpoint(
        checkpoint_folder(arguments.model),
        attention=arguments.attention,
        dtype="auto" if arguments.bf16 else torch.float32,
    )


def adapt(model, arguments: LanguageArguments) -> None:
    """Add the adapters that a stage trains, unless the stage before left them.

    Raises:
        ModelError: the stage before left some of another rank.
    """
    if arguments.lora and not model.config.lora_rank:
        model.config.lora_rank = arguments.lora
        add_adapters(model.model.language_model, arguments.lora)
    if arguments.lora not in (0, model.config.lora_rank):
        raise ModelError(
            f"expected --lora {model.config.lora_rank} as in {arguments.model}, got "
            f"{arguments.lora}; give that, or 0 to leave its adapters as they are"
        )


def copy_records(before: Path, out: Path, but: str) -> None:
    """The records of a folder's weights go with the weights made of them, but that of a stage."""
    if before.resolve() == out.resolve():
        return
    for record in before.glob("*.run.json"):
        if record.name != f"{but}.run.json":
            shutil.copy(record, out)


def finish(model, processor, arguments: StageArguments, name: str) -> Path:
    """Write weights and processor; the records of the stages before come along, also anew.

    The stage `name` keeps the record that `fit` wrote, also when it is trained once more.

    Every process calls this; the first writes.
    """
    out, place = Path(arguments.out), PartialState()
    state = state_to_save(model, keep=place.is_main_process)
    if place.is_main_process:
        save_checkpoint(model, processor, out, state_dict=state)
        if arguments.model:
            copy_records(checkpoint_folder(arguments.model), out, but=name)
    place.wait_for_everyone()
    return out


def fit(
    stage: Stage, model: nn.Module, draws: Draws, arguments: StageArguments, name: str, **facts: Any
) -> dict:
    """Train `stage` (a module around `model` that returns its loss), with proof of the freezing.

    Resumes from the last checkpoint under `out/checkpoints` when there is one; one that has all
    steps is loaded, nothing is trained, and the record that is there stays. `facts` join the
    record.

    Returns:
        The run's record, also written to `out/NAME.run.json`.

    Raises:
        ModelError: a frozen tensor changed.
    """
    out = Path(arguments.out)
    before = hash_frozen(model)
    if arguments.fsdp:
        if "LOCAL_RANK" not in os.environ:
            raise ModelError(UNDIVIDED)
        make_divisible(stage)
    checkpoints = out / "checkpoints"
    trainer = StageTrainer(
        stage,
        TrainingArguments(
            output_dir=str(checkpoints),
            max_steps=arguments.steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=arguments.batches // processes(),
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
            ddp_find_unused_parameters=False,  # every loss reaches every trained parameter
            fsdp=arguments.fsdp,
            fsdp_config=FSDP if arguments.fsdp else None,
        ),
        train_dataset=draws,
    )
    if arguments.fsdp and trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise ModelError(UNDIVIDED)
    if arguments.cpu_seconds:
        trainer.add_callback(Budget(arguments.cpu_seconds, arguments.learning_rate))
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    made = int(last.rsplit("-", 1)[1]) if last else 0
    draws.start = arguments.batches * made
    draws.ended = made >= arguments.steps  # the Trainer would make one more
    draws.rank, draws.ranks = trainer.args.process_index, trainer.args.world_size
    if arguments.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if not arguments.fsdp:  # which divides contiguous tensors only
        arrange(stage, torch.channels_last)  # checkpoints stay contiguous
    before_cpu = time.process_time()
    result = trainer.train(resume_from_checkpoint=last)
    cpu_seconds = time.process_time() - before_cpu
    if not arguments.fsdp:
        arrange(stage, torch.contiguous_format)
    after = hash_frozen(model)
    changed = [n for n in before if before[n] != after[n]]
    if changed:
        raise ModelError(
            f"expected {name} to leave {len(before)} tensors frozen, but {changed[0]} changed"
        )
    file = out / f"{name}.run.json"
    if draws.ended and file.is_file():
        return json.loads(file.read_text())
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
        "final_loss": None if draws.ended else result.training_loss,
        "steps": trainer.state.global_step,
        "seconds": round(result.metrics["train_runtime"], 1),
        "cpu_seconds": round(cpu_seconds, 2),
        "threads": torch.get_num_threads(),
        "device": str(trainer.args.device),
        "processes": trainer.args.world_size,
        "distribution": str(trainer.accelerator.distributed_type.value),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        **({"attention": model.config._attn_implementation} if hasattr(model, "config") else {}),
        **facts,
        "log": trainer.state.log_history,
    }
    if trainer.is_world_process_zero():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1))
    return record
