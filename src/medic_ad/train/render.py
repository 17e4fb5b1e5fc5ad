"""Training, first half: samples -> arrays on the model's square canvas, cached on disk.

For every lesion slice the cache also holds its inpainted twin (`clean`) and a sham, in which the
same repair was made at a healthy place and the lesion stayed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from rich.progress import track

from medic_ad.data.inpaint import TRAIN_INPAINTERS
from medic_ad.data.sample import Sample
from medic_ad.data.synthetic import inpaint, sham_inpaint
from medic_ad.errors import DataError
from medic_ad.processor import fit_square, grey_window
from medic_ad.readers import read_image

VERSION = "1"  # of this rendering; part of the cache's name


@dataclass
class Rendered:
    """`n` slices on the canvas of side `S`.

    Attributes:
        image, clean, sham: `(n, S, S)` uint8; for a slice without lesion all three are the image.
        mask: `(n, S, S)` bool.
        labelled: `(n,)` bool, the mask is known (an unlabelled slice's empty mask is no truth).
        label: `(n,)` float32, 1 / 0 / NaN.
        samples: the `n` samples.
    """

    image: np.ndarray
    clean: np.ndarray
    sham: np.ndarray
    mask: np.ndarray
    labelled: np.ndarray
    label: np.ndarray
    samples: list[Sample]

    def __len__(self) -> int:
        return len(self.samples)


@lru_cache(maxsize=4)
def _volume(path: str, modality: str | None, body_part: str | None):
    image = read_image(path, modality=modality, body_part=body_part)
    return image.slices(), grey_window(image.pixels)


def read_slice(sample: Sample, side: int) -> tuple[np.ndarray, np.ndarray | None]:
    """One sample -> canvas `(S, S)` float32 in [0, 1] and its bool mask, `None` when unknown."""
    slices, window = _volume(sample.image, sample.modality, sample.body_part)
    index = sample.slice or 0
    canvas = fit_square(slices[index], window, side)[0].numpy()
    if sample.mask is not None:
        masks, _ = _volume(sample.mask, sample.modality, sample.body_part)
        if masks.shape != slices.shape:
            raise DataError(
                f"expected a mask of the image's size {slices.shape}, got {masks.shape} in "
                f"{sample.mask}; give the mask on the image's own grid"
            )
        mask = fit_square((masks[index] > 0).astype(np.float32), (0.0, 1.0), side)[0].numpy() > 0.5
        return canvas, mask
    return canvas, np.zeros((side, side), bool) if sample.label == 0 else None


def _render(job: tuple[Sample, int, int]) -> tuple[np.ndarray, ...]:
    sample, side, seed = job
    torch.set_num_threads(1)
    image, mask = read_slice(sample, side)
    clean = sham = image
    if mask is not None and mask.any():
        rng = np.random.default_rng(seed)
        method = TRAIN_INPAINTERS[seed % len(TRAIN_INPAINTERS)]
        clean = inpaint(image, mask, rng, method)
        sham = sham_inpaint(image, mask, rng, method)
    known = mask is not None
    grey = [np.round(np.clip(x, 0, 1) * 255).astype(np.uint8) for x in (image, clean, sham)]
    return *grey, mask if known else np.zeros((side, side), bool), np.array(known)


def state_of(sample: Sample) -> tuple:
    """A sample with size and time of its files, so that a corrected file is rendered again."""
    files = [Path(p).stat() for p in (sample.image, sample.mask, sample.prior) if p]
    return astuple(sample), [(f.st_size, f.st_mtime_ns) for f in files]


def render(
    samples: Sequence[Sample], side: int, cache: Path, seed: int = 0, workers: int = 2
) -> Rendered:
    """Render samples, or load them from `cache` when they were rendered before.

    An interrupted rendering leaves no slices behind.
    """
    if not samples:
        raise DataError("expected at least one sample to render, got none; check the split's name")
    key = hashlib.sha256(repr((VERSION, side, seed, [state_of(s) for s in samples])).encode())
    path = cache / f"render-{key.hexdigest()[:16]}.npz"

    def make() -> dict[str, np.ndarray]:
        jobs = [(s, side, seed * 1_000_003 + i) for i, s in enumerate(samples)]
        with ProcessPoolExecutor(workers) as pool:
            rows = list(
                track(pool.map(_render, jobs, chunksize=16), "rendering slices", total=len(jobs))
            )
        names = ("image", "clean", "sham", "mask", "labelled")
        return {n: np.stack(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}

    label = np.array([s.label for s in samples], np.float32)
    return Rendered(**made_once(path, make), label=label, samples=list(samples))


def made_once(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, Any]:
    """The arrays of a file, made where it is not there and written whole.

    Of several processes one makes them, the others wait for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            part = path.with_suffix(".part.npz")
            np.savez(part, **make())  # type: ignore[arg-type]
            part.rename(path)
    with np.load(path) as arrays:
        return dict(arrays.items())
