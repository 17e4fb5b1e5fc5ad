"""What similarity registration reaches where it is right, and where it cannot be right.

`python benchmarks/similarity.py ROOT`; ROOT is the folder of the data sets. Prints the figures that
the limits of `align` and the warning of the report rest on, by kind: right fits (real follow-up,
known change) and wrong ones (turned, mirrored, another person or place). Three minutes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from medic_ad.align import Alignment, align
from medic_ad.data.acquire import draw_motion
from medic_ad.data.sets import cxr_series
from medic_ad.evaluate.registration import volumes
from medic_ad.image import Image, Source, in_memory
from medic_ad.readers import read_image
from medic_ad.report.rules import POOR_SIMILARITY

PAIRS = "cxr_followup_ieee8023"
SLABS_MM = (20, 16, 12, 10, 8)
NOISE = 0.2  # of the range
LESION_MM = 100.0  # across
MOTION = (5.0, 4.0)  # of slabs, at most: mm, degrees
Case = tuple[str, Image, Image]  # kind, current, prior


@dataclass(frozen=True)
class Head:
    """A real volume `(D, H, W)` that says where it lies."""

    image: Image
    affine: np.ndarray
    spacing: tuple[float, ...]

    @property
    def pixels(self) -> np.ndarray:
        return self.image.pixels

    def showing(self, pixels: np.ndarray) -> Image:
        """Other pixels at the same place."""
        return in_memory(np.ascontiguousarray(pixels, np.float32), self.affine, "MR", "BRAIN")

    def slice(self, pixels: np.ndarray, mm: float) -> Image:
        """The axial slice so far above the middle, of pixels on this grid."""
        cut = pixels[round(len(pixels) / 2 + mm / self.spacing[0])]
        return slice_of(np.nan_to_num(cut), self.spacing[1:])

    def with_lesion(self) -> Image:
        """A bright ball beside the middle."""
        grid = np.indices(self.pixels.shape).reshape(3, -1).T
        middle = np.array(self.pixels.shape) * (0.5, 0.5, 0.62)
        far = np.linalg.norm((grid - middle) * self.spacing, axis=1).reshape(self.pixels.shape)
        top = np.percentile(self.pixels, 99)
        return self.showing(np.where(far < LESION_MM / 2, top, self.pixels))


def slice_of(pixels: np.ndarray, spacing: tuple[float, ...]) -> Image:
    pixels = np.ascontiguousarray(pixels, np.float32)
    source = Source("memory", hashlib.sha256(pixels.tobytes()).hexdigest(), "PNG")
    return Image(pixels, spacing_mm=spacing, modality="MR", source=source)


def heads_of(root: str) -> dict[str, Head]:
    """MNI152 and the MS patients, by name."""
    out = {}
    for name, image in volumes(root).items():
        if image.affine is not None and image.spacing_mm is not None:
            out[name] = Head(image, image.affine, image.spacing_mm)
    return out


def followed(heads: dict[str, Head]) -> list[tuple[Head, Head]]:
    """First and second date of each MS patient that has two."""
    names = sorted(name for name in heads if name.startswith("ms_longitudinal"))
    return [(heads[a], heads[b]) for a, b in zip(names[::2], names[1::2], strict=True)]


def in_3d(heads: dict[str, Head]) -> Iterator[Case]:
    """Whole volumes."""
    rng = np.random.default_rng(0)
    for first, second in followed(heads):
        yield "3-D right: follow-up", second.image, first.image
    people = [heads["ms_cross_sectional/patient07/FLAIR"], *(first for first, _ in followed(heads))]
    for head in people[:2]:
        own, pixels, top = head.image, head.pixels, float(np.percentile(head.pixels, 99))
        yield "3-D right: a lesion of 10 cm", head.with_lesion(), own
        noisy = pixels + rng.normal(0, NOISE * top, pixels.shape)
        yield "3-D right: noise of a fifth", head.showing(noisy), own
        blank = pixels.copy()
        blank[: len(blank) // 2] = 0
        yield "3-D right: half of it blank", head.showing(blank), own
        for axes in ((0, 1), (0, 2), (1, 2)):
            for quarters in (1, 2):
                turned = head.showing(np.rot90(pixels, quarters, axes))
                yield "3-D wrong: turned by 90 or 180 degrees", turned, own
        for axis in (0, 1):
            yield "3-D wrong: mirrored", head.showing(np.flip(pixels, axis)), own
        yield "3-D not told: left for right", head.showing(np.flip(pixels, 2)), own
    for head, other in zip(people, people[1:] + people[:1], strict=True):
        yield "3-D not told: another person", head.image, other.image


def in_2d(heads: dict[str, Head], root: Path) -> Iterator[Case]:
    """Axial slices of the MS patients; pairs of radiographs."""
    pairs = followed(heads)
    for (first, second), (other, _) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
        before = align(second.image, first.image).prior_on_current()  # cut in the same planes
        for mm in (-20, -10, 0, 10, 20):
            prior = second.slice(before, mm)
            yield "2-D right: follow-up", second.slice(second.pixels, mm), prior
            yield "2-D wrong: 5 mm off", second.slice(second.pixels, mm + 5), prior
            yield "2-D wrong: 20 mm off", second.slice(second.pixels, mm + 20), prior
            turned = slice_of(np.rot90(prior.pixels, 2), second.spacing[1:])
            yield "2-D wrong: half a turn", turned, prior
            yield "2-D wrong: another person", other.slice(other.pixels, mm), prior
    for s in cxr_series.reading(root / PAIRS, PAIRS).samples:
        if s.prior:
            current, earlier = (
                read_image(root / PAIRS / p, modality="DX") for p in (s.image, s.prior)
            )
            yield "2-D right: radiographs over days", current, earlier


def slabs(head: Head) -> Iterator[tuple[str, Alignment, float]]:
    """Thin parts of a head, moved a little; and the mean error of where they are found, mm."""
    rng = np.random.default_rng(0)
    for mm in SLABS_MM:
        count = round(mm / head.spacing[0])
        part = slice((len(head.pixels) - count) // 2, (len(head.pixels) + count) // 2)
        affine = head.affine.copy()
        affine[:3, 3] += part.start * affine[:3, 0]
        prior = in_memory(head.pixels[part], affine, "MR", "BRAIN")
        middle = affine @ np.append((np.array(prior.grid) - 1) / 2, 1)
        bright = np.argwhere(prior.pixels > prior.pixels.mean())[::50]
        points = affine @ np.vstack([bright.T, np.ones(len(bright))])
        for _ in range(3):
            motion = draw_motion(rng, middle[:3].tolist(), *MOTION)
            back = np.linalg.inv(motion @ head.affine) @ head.affine
            moved = ndimage.affine_transform(head.pixels, back[:3, :3], back[:3, 3], order=1)
            found = align(in_memory(moved[part], affine, "MR", "BRAIN"), prior)
            away = np.linalg.norm(((found.transform - motion) @ points)[:3], axis=0)
            yield f"slab of {mm} mm", found, float(away.mean())


def summary(made: list[Alignment], errors: list[float]) -> dict[str, object]:
    """n, refused, warned of, least, median and most of the similarity; errors in mm, if any."""
    similar = [
        a.quality.get("similarity", 0.0) for a in made
    ]  # of one refused before there is none
    poor = [a.ok and s < POOR_SIMILARITY for a, s in zip(made, similar, strict=True)]
    return {
        "n": len(made),
        "refused": sum(not a.ok for a in made),
        "warned": sum(poor),
        "similarity": [round(float(f(similar)), 3) for f in (min, np.median, max)],
        **({"error_mm": [round(e, 2) for e in sorted(errors)]} if errors else {}),
    }


def main(root: str) -> dict[str, dict[str, object]]:
    """Figures by kind."""
    heads = heads_of(root)
    found: dict[str, list[Alignment]] = {}
    errors: dict[str, list[float]] = {}
    cases = [*in_3d(heads), *in_2d(heads, Path(root))]
    for kind, current, prior in track(cases, "aligning", console=Console(stderr=True)):
        found.setdefault(kind, []).append(align(current, prior))
    for kind, made, away in slabs(heads["ms_cross_sectional/patient07/FLAIR"]):
        found.setdefault(kind, []).append(made)
        errors.setdefault(kind, []).extend([away] if made.ok else [])
    return {kind: summary(made, errors.get(kind, [])) for kind, made in sorted(found.items())}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/similarity.py ROOT")
    for kind, figures in main(sys.argv[1]).items():
        print(f"{kind}: {json.dumps(figures)}")
