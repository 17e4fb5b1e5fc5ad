"""Step 1 of the road: what all readers share (hash, grey, one-line causes)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cause(error: BaseException) -> str:
    """The reason that a library gave, as part of one sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def to_grey(colour: NDArray[Any]) -> tuple[NDArray[np.float32], str]:
    """`(..., 3)` RGB to float32 grey and the note that says how."""
    red, green, blue = colour[..., 0], colour[..., 1], colour[..., 2]
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red.astype(np.float32), "three equal colour channels read as one grey channel"
    grey = np.zeros(colour.shape[:-1], dtype=np.float32)
    for channel, weight in zip((red, green, blue), LUMINANCE, strict=True):
        grey += np.float32(weight) * channel.astype(np.float32)
    return grey, "colour converted to luminance grey (0.299 R + 0.587 G + 0.114 B)"
