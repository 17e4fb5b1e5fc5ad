"""Evaluation: an image beside the same with its lesion inpainted, and shams repaired elsewhere.

Repairs are made by the inpainting method that training never used, on the file's own grid.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np

from medic_ad.data import blend, head, inpaint, synthetic
from medic_ad.evaluate.store import digest
from medic_ad.processor import grey_window

# What test material is made with; a change of it makes the material anew.
MADE_WITH = digest(*map(inspect.getsource, (blend, head, inpaint, synthetic)))
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
