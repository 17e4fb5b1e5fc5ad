"""Evaluation: many images through the road's `sweep` in batches, gate or no gate."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medic_ad.evaluate.predictions.bars import bar
from medic_ad.image import Image, Source
from medic_ad.load import Model
from medic_ad.look import sweep
from medic_ad.processor import grey_window


@dataclass(frozen=True)
class Prediction:
    """What detect and explain say of one slice, whether in scope or not.

    Attributes:
        logit: calibrated, of the score.
        score: calibrated by the nearest scope entry.
        entry: that entry.
        in_scope: whether the gate lets the image pass.
        heatmap: float32 `(H, W)`, probabilities.
    """

    logit: float
    score: float
    entry: int
    in_scope: bool
    heatmap: np.ndarray


def predict(
    model: Model,
    images: Sequence[Image],
    what: str,
    windows: Sequence[tuple[float, float]] | None = None,
    one_scan: bool = False,
) -> list[Prediction]:
    """Predictions of 2-D images, `BATCH` a vision pass.

    Args:
        windows: grey windows where they are not the image's own, as for slices of a volume.
        one_scan: the images are slices of one volume, whose scope entry is found once.
    """
    calibration = model.network.calibration
    own = windows or [grey_window(image.pixels) for image in images]
    seen = sweep(model, [i.pixels for i in images], own, lambda batches: bar(batches, what))
    whole = calibration.entry(seen.gate) if one_scan else None
    out = []
    for k, heatmap in enumerate(seen.heatmaps):
        entry, distance, limit = whole or calibration.entry(seen.gate[k : k + 1])
        logit = calibration.logit(entry, seen.logits[k], seen.evidence[k])
        score = float(logit.sigmoid())
        out.append(Prediction(float(logit), score, entry, distance <= limit, heatmap))
    return out


def threshold_of(model: Model, prediction: Prediction) -> float:
    """The fixed threshold of the heatmap."""
    return float(model.network.calibration.heatmap_threshold[prediction.entry])


def columns(
    predictions: Sequence[Prediction],
    names: Sequence[str] = ("logit", "score", "entry", "in_scope"),
) -> dict[str, np.ndarray]:
    """Fields of predictions as arrays, for a cache."""
    return {name: np.array([getattr(p, name) for p in predictions]) for name in names}


def as_image(pixels: np.ndarray, name: str) -> Image:
    """Grey values `(H, W)` as an image that nothing is known of, as a PNG file would give it."""
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    sha = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Image(pixels=pixels, source=Source(path=name, sha256=sha, format="PNG"))


def undeclared(image: Image) -> Image:
    """The same image without a stated modality or body part, so that the gate alone decides."""
    return dataclasses.replace(image, modality=None, body_part=None)
