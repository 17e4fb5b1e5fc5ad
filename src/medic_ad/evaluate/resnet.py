"""Evaluation: a small ResNet, trained from scratch on the same images with the same augmentation.

`medic-ad evaluate resnet` trains it on the train split of any table whose images have labels and
fits its threshold on validation. Its weights are a yardstick and are not given away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import ResNet as MonaiResNet
from torch.nn.functional import binary_cross_entropy_with_logits

from medic_ad.calibrate import PREVALENCE
from medic_ad.data.sample import Sample
from medic_ad.evaluate.baselines import peers
from medic_ad.evaluate.baselines.decision import Decision
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.parts.scores import Scores, overall
from medic_ad.evaluate.predictions.run import Run
from medic_ad.evaluate.predictions.store import Part, digest
from medic_ad.evaluate.predictions.table import file_of, images_of, labelled, slice_of, state_of
from medic_ad.load import pick_device
from medic_ad.processor import fit_square
from medic_ad.train.draw import Slices, scan_batch
from medic_ad.train.render import render
from medic_ad.train.run import Draws, Stage, fit, source_weights
from medic_ad.train.settings import StageArguments

LAYERS, CHANNELS = (2, 2, 2, 2), (16, 32, 64, 128)  # ResNet-18 at a quarter of its width
RUN = "resnet"


@dataclass
class ResnetArguments(StageArguments):
    """Arguments of `medic-ad evaluate resnet`."""

    model: str = field(init=False, default="")  # trained from scratch
    exclude: str = field(init=False, default="")  # the table's split stands
    attention: str = field(init=False, default="")  # it has none
    checkpointing: bool = field(init=False, default=False)
    steps: int = field(default=600, metadata={"help": "optimiser steps"})
    batch: int = field(default=32, metadata={"help": "images a step"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak, then cosine"})
    side: int = field(default=112, metadata={"help": "side of the square that it sees"})


def build() -> MonaiResNet:
    """The network, about 0.7 M parameters: `(B, 1, S, S)` -> logits `(B, 1)`."""
    return MonaiResNet(
        "basic",
        list(LAYERS),
        list(CHANNELS),
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_stride=2,
        num_classes=1,
    )


class ResnetStage(Stage):
    """Binary cross-entropy on the image's label."""

    def __init__(self, network: MonaiResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor, label: torch.Tensor, **_) -> dict:
        image = image[:, None].contiguous(memory_format=torch.channels_last)
        logits = self.network(image).squeeze(1).float()
        return {"loss": binary_cross_entropy_with_logits(logits, label)}


@dataclass(frozen=True)
class ResNet:
    """A trained network with its decision, the record of its training and a hash of its weights."""

    network: MonaiResNet
    decision: Decision
    record: dict
    sha256: str

    @classmethod
    def load(cls, folder: Path) -> ResNet:
        """Raise ModelError where there is none."""
        network = build()
        record, sha256 = peers.load(folder, network, RUN)
        return cls(network, Decision(**record["decision"]), record, sha256)

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        """Probabilities `(n,)` of images."""
        return self.decision.scores(logits_of(self.network, samples, self.record["side"]))

    def beside(self, run: Run, labels: np.ndarray) -> Part:
        """Its figures on the measured images, and the model's difference from it."""
        scores = run.context.store.predictions(
            self.sha256,
            f"{run.name}-resnet",
            digest([state_of(s) for s in run.samples]),
            lambda: {"score": self.scores(run.samples)},
            test=run.arguments.opens_test,
        )["score"]
        sampling, of = run.sampling(), "ResNet"
        fixed = np.full(len(labels), self.decision.threshold)
        own, other = (metrics.auroc(s, labels) for s in (run.own.score, scores))
        figures = [
            sampling.difference("AUROC", own, other, f"{run.own.of} - {of}"),
            sampling.figure("AUROC", other, of),
            *overall(Scores(scores, labels, fixed, fixed, fixed, PREVALENCE), sampling, of),
        ]
        return Part("A small network from scratch", [self.description()], figures)

    def description(self) -> str:
        r = self.record
        return (
            f"ResNet: MONAI, {r['parameters']:,} parameters at {r['side']} px, from scratch, "
            f"{r['steps']} steps of {r['batch']} images of the train split of "
            f"{r['trained_on']['table']} ({r['trained_on']['sha256'][:8]}) in "
            f"{r['seconds']:.0f} s ({r['device']}, {r['threads']} thread(s)), the augmentation of "
            "the model's stages; Platt scaling and threshold from its val split."
        )


@torch.inference_mode()
def logits_of(network: torch.nn.Module, samples: Sequence[Sample], side: int) -> np.ndarray:
    """Logits `(n,)` of images as they are, without augmentation."""
    device, out = next(network.parameters()).device, []
    for start in range(0, len(samples), 32):
        part = samples[start : start + 32]
        fitted = [fit_square(slice_of(s), file_of(s)[1], side)[0] for s in part]
        out.append(network(torch.stack(fitted)[:, None].to(device)).squeeze(1).float().cpu())
    return torch.cat(out).numpy().astype(float)


def main(arguments: ResnetArguments) -> Path:
    """Train it and fit its threshold; an interrupted run resumes at its last checkpoint."""
    train, _ = images_of(arguments.data, "train")
    found, keep, _ = labelled(arguments.data, "val")
    val = [s for s, kept in zip(found, keep, strict=True) if kept]
    rendered = render(train, arguments.side, Path(arguments.cache))
    slices = Slices(rendered, source_weights(arguments), masked=False)
    draws = Draws(
        lambda rng, generator: scan_batch(
            [slices.scan(rng) for _ in range(arguments.batch)], generator
        ),
        arguments.seed,
    )
    torch.manual_seed(arguments.seed)
    network = build().to(pick_device(None))
    run = fit(ResnetStage(network), network, draws, arguments, RUN)
    network.eval()
    labels = np.array([s.label for s in val])
    decision = Decision.fit(logits_of(network, val, arguments.side), labels)
    record = {
        "trained_on": peers.trained_on(arguments.data),
        **{name: getattr(arguments, name) for name in ("steps", "batch", "side", "seed")},
        **{name: run[name] for name in ("seconds", "threads", "device")},
        "parameters": sum(p.numel() for p in network.parameters()),
        "decision": dataclasses.asdict(decision),
    }
    out = Path(arguments.out)
    peers.save(out, network, record, RUN)
    return out
