"""Evaluation: the reference U-Net, trained on the same slices with the same augmentation.

`medic-ad evaluate unet` trains it for a number of steps and keeps the checkpoint, and the
threshold, of highest mean Dice on validation. Its weights are a yardstick and are not given away.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceFocalLoss
from monai.networks.nets import UNet as MonaiUNet
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from torch.utils.data import DataLoader

from medic_ad.calibrate import HEATMAP_GRID
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError, ModelError
from medic_ad.evaluate.baselines import peers
from medic_ad.evaluate.figures.metrics import dice
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Arrays, Store
from medic_ad.evaluate.predictions.table import Lazy, arrays_in, file_of, parts_of, slice_of
from medic_ad.load import pick_device
from medic_ad.model.pixel import arrange
from medic_ad.option import check_positive, check_seed, check_workers
from medic_ad.processor import fit_square, grey_window, restore
from medic_ad.train.draw import Slices, scan_batch
from medic_ad.train.render import Rendered, render
from medic_ad.train.run import Draws, source_weights, split
from medic_ad.train.settings import StageArguments
from medic_ad.train.trainer import rate

CHANNELS, RESIDUAL_UNITS = (26, 52, 104, 208), 2
RUN, STATE = "unet", "state.pt"
CHECKS = 12  # validations a run


@dataclass
class UnetArguments:
    """Arguments of `medic-ad evaluate unet`."""

    data: str = field(metadata={"help": "Parquet file of samples, from `medic-ad data prepare`"})
    out: str = field(metadata={"help": "folder that its weights are written to"})
    steps: int = field(default=3000, metadata={"help": "optimiser steps"})
    batch: int = field(default=16, metadata={"help": "scans a step"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak, then cosine"})
    side: int = field(default=192, metadata={"help": "side of the square canvas, as the model's"})
    seed: int = field(default=0, metadata={"help": "of weights, draws and augmentation"})
    workers: int = field(default=1, metadata={"help": "processes that draw and augment"})
    cache: str = field(default=StageArguments.cache, metadata={"help": "folder of rendered slices"})
    bf16: bool = field(default=True, metadata={"help": "bfloat16 autocast, as the model's stages"})
    weights: str = field(
        default=StageArguments.weights,
        metadata={"help": "share of the draws per source, as in training"},
    )
    exclude: str = field(default="", metadata={"help": "comma-separated patients to leave out"})
    source: str = field(
        default="", metadata={"help": "whose val split chooses; all of val when empty"}
    )

    def __post_init__(self) -> None:
        check_positive(self, "steps", "batch", "learning_rate", "side")
        check_seed(self)
        check_workers(self)


def build() -> MonaiUNet:
    """The network, about 1 M parameters: `(B, 1, S, S)` -> logits `(B, 1, S, S)`."""
    return MonaiUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=CHANNELS,
        strides=(2,) * (len(CHANNELS) - 1),
        num_res_units=RESIDUAL_UNITS,
    )


@dataclass(frozen=True)
class UNet:
    """A trained network with the record of its training and the hash of its weights."""

    network: MonaiUNet
    record: dict
    sha256: str

    @classmethod
    def load(cls, folder: Path) -> UNet:
        """Raise ModelError where there is none, or one whose record does not say its budget."""
        network = build()
        record, sha256 = peers.load(folder, network, RUN)
        if "steps" not in record.get("arguments", {}):
            raise ModelError(
                f"expected the number of steps in {folder / f'{RUN}.json'}, found none: an older "
                "version wrote it; train it again by `medic-ad evaluate unet`"
            )
        return cls(network, record, sha256)

    def maps(
        self,
        slices: Sequence[np.ndarray],
        what: str,
        windows: Sequence[tuple[float, float]] | None = None,
    ) -> list[np.ndarray]:
        """Probabilities `(H, W)` on each slice's own grid; they see the model's canvas.

        Args:
            windows: grey windows where they are not the slice's own, as in a volume.
        """
        side, out = int(self.record["arguments"]["side"]), []
        windows = windows or [grey_window(np.asarray(p, np.float32)) for p in slices]
        for start in bar(range(0, len(slices), 16), what):
            fitted = [
                fit_square(np.asarray(p, np.float32), window, side)
                for p, window in zip(
                    slices[start : start + 16], windows[start : start + 16], strict=True
                )
            ]
            drawn = probabilities(self.network, torch.stack([canvas for canvas, _ in fitted]))
            out += [
                restore(m, geometry).clip(0, 1)
                for m, (_, geometry) in zip(drawn, fitted, strict=True)
            ]
        return out

    def heatmaps(self, samples: Sequence[Sample], store: Store, name: str, test: bool) -> Lazy:
        """Maps of the images of a table, made once and kept part by part."""

        def make(part: list[Sample]) -> Arrays:
            windows = [file_of(s)[1] for s in part]
            drawn = self.maps([slice_of(s) for s in part], "U-Net on slices", windows)
            return {f"heatmap_{k}": m for k, m in enumerate(drawn)}

        parts = parts_of(samples, store, self.sha256, f"{name}-unet", make, test)
        return arrays_in(parts, "heatmap")

    def description(self) -> str:
        r = self.record
        return (
            f"U-Net: MONAI, {r['parameters']:,} parameters, {r['steps']} of "
            f"{r['arguments']['steps']} steps of {r['arguments']['batch']} on {r['device']}, the "
            "same slices, augmentation and loss; checkpoint and threshold "
            f"{r['threshold']:.2f} chosen on validation (Dice {r['dice']:.3f} there)."
        )


@torch.inference_mode()
def probabilities(network: torch.nn.Module, canvases: torch.Tensor) -> torch.Tensor:
    """Canvases `(B, S, S)` -> probabilities `(B, S, S)`."""
    device = next(network.parameters()).device
    return network(canvases[:, None].to(device)).squeeze(1).float().sigmoid().cpu()


def validate(network: torch.nn.Module, held_out: Rendered) -> tuple[float, float]:
    """Highest mean Dice over lesion slices, and its threshold."""
    lesion = held_out.mask.any((1, 2))
    canvases = torch.from_numpy(held_out.image[lesion].astype(np.float32) / 255)
    network.eval()
    drawn = torch.cat([probabilities(network, part) for part in canvases.split(16)]).numpy()
    network.train()
    masks = held_out.mask[lesion]
    scores = [
        np.mean([dice(m >= t, mask) for m, mask in zip(drawn, masks, strict=True)])
        for t in HEATMAP_GRID
    ]
    return float(max(scores)), float(HEATMAP_GRID[int(np.argmax(scores))])


class Training:
    """Network, optimiser and history; its state is written whenever it is validated."""

    def __init__(self, arguments: UnetArguments, device: torch.device) -> None:
        torch.manual_seed(arguments.seed)
        self.arguments, self.device = arguments, device
        self.network = build().to(device)
        arrange(self.network, torch.channels_last)  # as the model's own stages are trained
        self.optimiser = torch.optim.AdamW(self.network.parameters(), weight_decay=0.05)
        self.loss = DiceFocalLoss(sigmoid=True, gamma=1.0, batch=True, lambda_focal=10.0)
        self.steps, self.best = 0, -1.0
        self.history: list[dict[str, float]] = []

    def resume(self, folder: Path) -> None:
        """Continue where the last validation was, if there was one.

        Raises:
            ModelError: it was of other arguments.
        """
        if not (folder / STATE).is_file():
            return
        state = torch.load(folder / STATE, weights_only=True, map_location=self.device)
        own, theirs = self.kept_arguments(), state.get("arguments", {})
        if other := [name for name in own if theirs.get(name) != own[name]]:
            raise ModelError(
                f"expected a U-Net begun with the same {', '.join(other)} in {folder / STATE}, got "
                "one of other arguments; give these, or another --out"
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps, self.best = state["steps"], state["best"]
        self.history = state["history"]

    def kept_arguments(self) -> dict[str, Any]:
        """What an interrupted run must share with the one that goes on."""
        of_place = ("data", "out", "cache", "workers")  # a folder may move, or the machine change
        out = {k: v for k, v in vars(self.arguments).items() if k not in of_place}
        return {**out, "table": peers.trained_on(self.arguments.data)["sha256"]}

    def step(self, batch: dict) -> float:
        """One optimiser step; the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.steps / self.arguments.steps, self.arguments.learning_rate)
        image = batch["image"][:, None].to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.arguments.bf16):
            logits = self.network(image)
        loss = self.loss(logits.float(), batch["mask"][:, None].to(self.device))
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.steps += 1
        return float(loss.detach())

    def check(self, held_out: Rendered, folder: Path, loss: float) -> None:
        """Validate; keep the weights when they are the best yet, and the state in any case."""
        score, threshold = validate(self.network, held_out)
        self.history.append({"steps": self.steps, "dice": score, "loss": loss})
        if score > self.best:
            self.best = score
            record = {
                "arguments": dataclasses.asdict(self.arguments),
                "trained_on": peers.trained_on(self.arguments.data),
                "parameters": sum(p.numel() for p in self.network.parameters()),
                "threshold": threshold,
                "dice": score,
                "steps": self.steps,
                "device": str(self.device),
            }
            peers.save(folder, self.network, record, RUN)
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
            "arguments": self.kept_arguments(),
            **{name: getattr(self, name) for name in ("steps", "best")},
        }
        part = folder / f"{STATE}.part"
        torch.save(state, part)
        part.replace(folder / STATE)


def main(arguments: UnetArguments) -> Path:
    """Train; an interrupted run resumes at its last validation."""
    out, cache, total = Path(arguments.out), Path(arguments.cache), arguments.steps
    train = split(arguments.data, "train", arguments.exclude)
    val = [
        s
        for s in split(arguments.data, "val", arguments.exclude)
        if arguments.source in ("", s.source)
    ]
    if not val:
        raise DataError(
            f"expected validation samples of the source {arguments.source!r} in {arguments.data}, "
            "got none; name another with --source"
        )
    held_out = render(val, arguments.side, cache)
    if not held_out.mask.any():
        raise DataError(
            f"expected lesion masks in split 'val' of {arguments.data}, got none; fill the column "
            "mask"
        )
    slices = Slices(render(train, arguments.side, cache), source_weights(arguments))  # type: ignore[arg-type]
    training = Training(arguments, pick_device(None))
    out.mkdir(parents=True, exist_ok=True)
    training.resume(out)
    draws = Draws(
        lambda rng, generator: scan_batch(
            [slices.scan(rng) for _ in range(arguments.batch)], generator
        ),
        arguments.seed,
    )
    draws.start = training.steps
    batches = iter(DataLoader(draws, batch_size=None, num_workers=arguments.workers))
    checked = {total * k // CHECKS for k in range(1, CHECKS + 1)}
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("training the U-Net", total=total, completed=training.steps)
        while training.steps < total:
            loss = training.step(next(batches))
            if training.steps in checked:
                training.check(held_out, out, loss)
            words = f"training the U-Net, Dice on val {max(training.best, 0.0):.3f}"
            progress.update(task, completed=training.steps, description=words)
    path = out / f"{RUN}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "history": training.history}, indent=1))
    return out
