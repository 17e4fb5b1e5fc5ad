"""A planted data set, and a model that sees its truth or nothing at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tiny
import torch
from PIL import Image as Pillow
from torch.nn.functional import max_pool2d

from medic_ad.evaluate.predictions.store import Context, Store
from medic_ad.load import Model
from medic_ad.model.calibration import Calibration

SIDE = 96
BRIGHT = 0.9  # of the window; only planted lesions and, without them, the ring reach it


def head(rng: np.random.Generator) -> np.ndarray:
    """A grey disc with soft texture, 60 to 140 of 255, in a thin bright ring, on black."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    radius = np.hypot(y, x)
    texture = np.clip(100 + 8 * rng.standard_normal((SIDE, SIDE)), 60, 140)
    inside = np.where(radius < 0.42 * SIDE, texture, 0)
    return np.where(np.abs(radius - 0.42 * SIDE) < 1, 210, inside).astype(np.uint8)


def cheng(root: Path, train: int = 0, val: int = 4, test: int = 12, seed: int = 0) -> Path:
    """Slices with one bright disc each, in the layout of `brain_tumour_cheng`."""
    rng, folder = np.random.default_rng(seed), root / "brain_tumour_cheng"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    lines, number = ["image,mask,number,label,split"], 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        for _ in range(count):
            number += 20  # far apart: every slice is a cluster of its own
            grey = head(rng)
            cy, cx = (rng.uniform(0.35, 0.65, 2) * SIDE).round()
            y, x = np.mgrid[0:SIDE, 0:SIDE]
            mask = (y - cy) ** 2 + (x - cx) ** 2 <= rng.uniform(5, 9) ** 2
            grey[mask] = 250
            Pillow.fromarray(grey).save(folder / f"images/{number:04d}.png")
            Pillow.fromarray((mask * 255).astype(np.uint8)).save(folder / f"masks/{number:04d}.png")
            lines.append(f"images/{number:04d}.png,masks/{number:04d}.png,{number},glioma,{split}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def calibration() -> Calibration:
    """One entry, everything in scope, thresholds at a half."""
    out = Calibration(1, 2)
    for name, value in dict(
        slope=1.0, heatmap_slope=0.0, offset=0.0, threshold=0.5, band_low=0.4, band_high=0.6,
        heatmap_threshold=0.5, prevalence=0.5, gate_limit=1e3, gate_mean=0.0, gate_precision=1.0,
        change_temperature=1.0,
    ).items():  # fmt: skip
        getattr(out, name).fill_(value)
    return out


def tiny_model() -> Model:
    """A tiny network, untrained, calibrated so that everything is in scope; brain MR only."""
    network = tiny.network(
        scope=["brain MR T1-CE", "brain MR FLAIR"], scope_modalities=["MR"],
        scope_body_parts=["BRAIN"],
    ).requires_grad_(False)  # fmt: skip
    planted, features = calibration(), 2 * network.config.vision_config.hidden_size
    network.calibration = Calibration(2, features)
    for name, buffer in network.calibration.named_buffers():
        buffer.fill_(float(getattr(planted, name).flatten()[0]))
    network.calibration.gate_precision.copy_(torch.eye(features).expand(2, -1, -1))
    network.calibration.gate_mean[1] = 5.0
    network.calibration.heatmap_threshold[1] = 0.4
    return Model("tiny", network, tiny.processor(), "1" * 64)


class Seer:
    """Stands in for `look`: sees what is bright, or only noise; counts its calls."""

    def __init__(self, sees: bool, seed: int = 0) -> None:
        self.sees, self.calls = sees, 0
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, model: Any, canvases: torch.Tensor) -> SimpleNamespace:
        self.calls += 1
        if self.sees:
            maps = (canvases > BRIGHT).float()[:, None]
            for sign in (-1, 1):  # an opening: the thin ring goes, a lesion stays
                maps = sign * max_pool2d(sign * maps, 3, 1, 1)
            maps = maps[:, 0]
            logits = 8 * maps.amax((1, 2)) - 4
        else:
            maps = torch.rand(canvases.shape, generator=self.generator)
            logits = torch.randn(len(canvases), generator=self.generator)
        gate = torch.zeros(len(canvases), 2)
        return SimpleNamespace(
            logits=logits, evidence=torch.zeros(len(canvases)), heatmaps=maps, gate=gate
        )


def context(root: Path, out: Path, **overrides: Any) -> Context:
    """A context around a stand-in model with planted calibration."""
    model: Any = SimpleNamespace(
        network=SimpleNamespace(calibration=calibration()),
        config=SimpleNamespace(image_size=SIDE, scope=["brain MR T1-CE"]),
        weights_sha256="a" * 64,
        name="planted",
        device=torch.device("cpu"),
    )
    values = dict(model=model, root=root, store=Store(out, "test"), resamples=60) | overrides
    return Context(**values)
