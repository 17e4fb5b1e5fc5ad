"""Training: the pairs of dates of a table of one's own, aligned as `read` aligns them.

Every pair is aligned once, whatever number of questions is asked of it, and kept in a file of its
own: a table of any length is drawn from within the memory of a batch, and goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from medic_ad.align import align
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError, StudyError
from medic_ad.image import Image
from medic_ad.processor import fit_square, grey_window
from medic_ad.readers import read_image
from medic_ad.words import EXCHANGED

VERSION = "2"  # of this rendering; part of the names of the files


@dataclass
class RealPairs:
    """Rows whose two dates can be compared.

    Attributes:
        samples: the `n` rows, each with a change or a question; several may be of one pair.
        files: of each, its pair: `(2, S, S)` uint8, baseline and follow-up on their halfway grid.
        refused: why pairs of the table are left out, with the number of pairs.
    """

    samples: list[Sample]
    files: list[Path]
    refused: dict[str, int]

    def __len__(self) -> int:
        return len(self.samples)

    def pair(self, rng: np.random.Generator) -> dict:
        """One pair in either order, as `Slices.pair` gives them; no mask is known.

        A question of the table is asked in its own order only.
        """
        i = int(rng.integers(len(self)))
        sample = self.samples[i]
        dates = list(np.load(self.files[i]).astype(np.float32) / 255)
        change, dialogue = sample.change, None
        if sample.question and sample.answer and (change is None or rng.random() < 0.5):
            dialogue = (sample.question, sample.answer)
        elif rng.random() < 0.5:
            dates, change = dates[::-1], change and EXCHANGED[change]
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


def aligned(sample: Sample, side: int) -> np.ndarray | str:
    """Baseline and follow-up of one sample, `(2, S, S)` uint8, or why they cannot be compared."""
    try:
        found = align(_slice(sample, sample.image), _slice(sample, str(sample.prior)))
    except StudyError as error:
        return str(error)
    if not found.ok:
        return str(found.reason)
    halves = found.prior_half, found.current_half
    canvases = [fit_square(half, grey_window(half), side)[0].numpy() for half in halves]
    return np.round(np.clip(canvases, 0, 1) * 255).astype(np.uint8)


def _keep(job: tuple[Sample, int, Path]) -> None:
    """One pair into `PATH.npy`, or why it cannot be compared into `PATH.txt`; never half a file."""
    sample, side, path = job
    found = aligned(sample, side)
    part = path.with_suffix(".part")
    if isinstance(found, str):
        part.write_text(found, encoding="utf-8")
        part.rename(path.with_suffix(".txt"))
        return
    with part.open("wb") as file:
        np.save(file, found)
    part.rename(path.with_suffix(".npy"))


def _place(sample: Sample, side: int, cache: Path) -> Path:
    """Where the pair of a row is kept, without suffix; a corrected file gets another place."""
    files = [Path(p).stat() for p in (sample.image, str(sample.prior))]
    state = [(f.st_size, f.st_mtime_ns) for f in files]
    said = (sample.image, sample.prior, sample.slice, sample.modality, sample.body_part)
    return cache / "pairs" / hashlib.sha256(repr((VERSION, side, said, state)).encode()).hexdigest()


def render_pairs(
    samples: Sequence[Sample], side: int, cache: Path, workers: int = 2
) -> RealPairs | None:
    """Align the pairs of a table that say something of the change; `None` where there are none.

    Pairs that cannot be compared are left out, counted and named.

    Raises:
        DataError: none of them can be compared.
    """
    rows = [s for s in samples if s.prior and (s.change or s.question)]
    if not rows:
        return None
    places = [_place(s, side, cache) for s in rows]
    first = dict(zip(places[::-1], rows[::-1], strict=True))  # the first row of each pair
    (cache / "pairs").mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "pairs.lock"):  # of several processes one aligns, the others wait
        jobs = [
            (sample, side, place)
            for place, sample in first.items()
            if not any(place.with_suffix(s).is_file() for s in (".npy", ".txt"))
        ]
        if jobs:
            with ProcessPoolExecutor(workers) as pool:
                list(track(pool.map(_keep, jobs, chunksize=4), "aligning pairs", total=len(jobs)))
    kept = {place for place in first if place.with_suffix(".npy").is_file()}
    said = [p.with_suffix(".txt").read_text(encoding="utf-8") for p in first if p not in kept]
    reasons = Counter(reason.split(" (")[0] for reason in said)  # without each pair's own figures
    told = "; ".join(f"{n} because {reason}" for reason, n in reasons.most_common(4))
    if not kept:
        raise DataError(
            f"expected priors that can be compared, but none of {len(first)} pairs can: {told}; "
            "correct the column prior"
        )
    if reasons:
        told = f"{len(said)} of {len(first)} pairs are left out: {told}."
        Console(stderr=True).print(told, markup=False, highlight=False)
    chosen = [(s, p.with_suffix(".npy")) for s, p in zip(rows, places, strict=True) if p in kept]
    return RealPairs([s for s, _ in chosen], [p for _, p in chosen], dict(reasons))
