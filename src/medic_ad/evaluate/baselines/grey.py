"""Evaluation: scores and maps that need no model; what a figure is worth shows beside them."""

from __future__ import annotations

import numpy as np

from medic_ad.calibrate import HEATMAP_GRID
from medic_ad.data.head import brain_mask
from medic_ad.evaluate.figures import metrics
from medic_ad.processor import grey_window


def intensity(pixels: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """The baseline map: the grey value in the window that the model sees."""
    low, high = window or grey_window(pixels)
    return np.clip((pixels - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def dice_by_level(grey: np.ndarray, mask: np.ndarray) -> list[float]:
    """Dice of the baseline map at every threshold that the heatmap's is chosen from."""
    return [metrics.dice(grey >= t, mask) for t in HEATMAP_GRID]


def grey_numbers(pixels: np.ndarray, window: tuple[float, float]) -> dict[str, float]:
    """Numbers of a slice that any change of the scanner moves."""
    grey = intensity(pixels, window)
    return {
        "mean grey": float(grey.mean()),
        "spread of grey": float(grey.std()),
        "99th percentile of grey": float(np.percentile(pixels, 99)),
    }


def trivial(slices: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that need no model: `(n, H, W)` uint8 -> one number per slice each."""
    rows = [grey_numbers(p, grey_window(p)) for p in slices.astype(np.float32)]
    area = [brain_mask(intensity(p)).mean() for p in slices.astype(np.float32)]
    out = {k: np.array([row[k] for row in rows]) for k in ("mean grey", "99th percentile of grey")}
    return out | {"area of the head": np.array(area)}


def oriented(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The baseline turned so that its AUROC on these items is at least 0.5: in its favour."""
    value = metrics.auroc(values, labels)(np.ones(len(values)))
    return values if value >= 0.5 else -values
