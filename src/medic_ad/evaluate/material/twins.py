"""Evaluation: an image beside the same with its lesion inpainted, and shams repaired elsewhere.

Repairs are made by the inpainting method that training never used, on the file's own grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from medic_ad.data import inpaint
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import code
from medic_ad.processor import grey_window

# What test material is made with; a change of it makes the material anew.
MADE_WITH = code("medic_ad.data.synthetic")
METHOD = inpaint.TEST_INPAINTERS[0]


def edited(pixels: np.ndarray, edit: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a function of grey values in [0, 1] and come back to uint8; the rest stays as it is."""
    low, high = grey_window(pixels)
    grey = np.clip((pixels - low) / (high - low), 0, 1).astype(np.float32)
    new = edit(grey)
    out = np.where(new != grey, low + new * (high - low), pixels)
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def repaired(grey: np.ndarray, lesion_mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return inpaint.inpaint(grey, lesion_mask, rng, METHOD)


def sham_repaired(
    grey: np.ndarray, lesion_mask: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    return inpaint.sham_inpaint(grey, lesion_mask, rng, METHOD)


@dataclass(frozen=True)
class Twins:
    """`n` lesion slices of one size, each beside its inpainted twin and its sham.

    Attributes:
        groups: `n` clusters.
        image, clean, sham: `(n, H, W)` uint8, grey values of the file.
        mask: `(n, H, W)` bool.
    """

    groups: list[str]
    image: np.ndarray
    clean: np.ndarray
    sham: np.ndarray
    mask: np.ndarray


def make_twins(
    slices: Sequence[tuple[np.ndarray, np.ndarray]], seed: int, what: str
) -> dict[str, np.ndarray]:
    """Arrays of `Twins`.

    Args:
        slices: grey values `(H, W)` up to 255 and lesion mask of each.
        what: words on the progress bar.
    """
    rows = []
    for k, (pixels, mask) in enumerate(bar(slices, what)):
        rng = np.random.default_rng((seed, k))
        edits = (partial(f, lesion_mask=mask, rng=rng) for f in (repaired, sham_repaired))
        rows.append((pixels.astype(np.uint8), *(edited(pixels, edit) for edit in edits), mask))
    stacked = (np.stack(column) for column in zip(*rows, strict=True))
    return dict(zip(("image", "clean", "sham", "mask"), stacked, strict=True))
