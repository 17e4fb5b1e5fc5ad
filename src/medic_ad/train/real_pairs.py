"""Training: the pairs of dates of a table of one's own, aligned as `read` aligns them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import track

from medic_ad.align import align
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError
from medic_ad.image import Image
from medic_ad.processor import fit_square, grey_window
from medic_ad.readers import read_image
from medic_ad.train.render import state_of

VERSION = "1"  # of this rendering; part of the cache's name
EXCHANGED = {"worse": "better", "better": "worse", "stable": "stable", None: None}


@dataclass
class RealPairs:
    """`n` pairs on the canvas of side `S`.

    Attributes:
        image, followup: `(n, S, S)` uint8, baseline and follow-up on their halfway grid.
        samples: the `n` samples, each with a change or a question.
    """

    image: np.ndarray
    followup: np.ndarray
    samples: list[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def pair(self, rng: np.random.Generator) -> dict:
        """One pair in either order, as `Slices.pair` gives them; no mask is known.

        A question of the table is asked in its own order only.
        """
        i = int(rng.integers(len(self)))
        sample = self.samples[i]
        dates = [x[i].astype(np.float32) / 255 for x in (self.image, self.followup)]
        change, dialogue = sample.change, None
        if sample.question and sample.answer and (change is None or rng.random() < 0.5):
            dialogue = (sample.question, sample.answer)
        elif rng.random() < 0.5:
            dates, change = dates[::-1], EXCHANGED[change]
        none = np.zeros(dates[0].shape, bool)
        return {
            "image": dates[0],
            "followup": dates[1],
            "mask": none,
            "mask_followup": none,
            "known": False,
            "change": change,
            "dialogue": dialogue,
            "sequence": sample.sequence,
        }


def _slice(sample: Sample, path: str) -> Image:
    """The image of a path, or the sample's slice of it, as a 2-D image."""
    image = read_image(path, modality=sample.modality, body_part=sample.body_part)
    if not image.is_volume:
        return image
    return replace(
        image,
        pixels=np.ascontiguousarray(image.pixels[sample.slice or 0]),
        affine=None,
        spacing_mm=image.spacing_mm and image.spacing_mm[1:],
    )


def aligned(sample: Sample, side: int) -> np.ndarray:
    """Baseline and follow-up of one sample: `(2, S, S)` uint8.

    Raises:
        DataError: the two dates cannot be brought onto one grid.
    """
    found = align(_slice(sample, sample.image), _slice(sample, str(sample.prior)))
    if not found.ok:
        raise DataError(
            f"expected a prior that can be compared with {sample.image}, but {found.reason}; "
            "leave the row out or correct its prior"
        )
    halves = found.prior_half, found.current_half
    canvases = [fit_square(half, grey_window(half), side)[0].numpy() for half in halves]
    return np.round(np.clip(canvases, 0, 1) * 255).astype(np.uint8)


def render_pairs(samples: Sequence[Sample], side: int, cache: Path) -> RealPairs | None:
    """Align the pairs of a table that say something of the change; `None` where there are none.

    The result is cached: written whole, then renamed.
    """
    pairs = [s for s in samples if s.prior and (s.change or s.question)]
    if not pairs:
        return None
    key = hashlib.sha256(repr((VERSION, side, [state_of(s) for s in pairs])).encode())
    path = cache / f"pairs-{key.hexdigest()[:16]}.npz"
    if not path.is_file():
        dates = np.stack([aligned(s, side) for s in track(pairs, "aligning pairs")])
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, dates=dates)
        part.rename(path)
    with np.load(path) as arrays:
        dates = arrays["dates"]
    return RealPairs(dates[:, 0], dates[:, 1], pairs)
