"""Training: pairs of dates made of whole volumes, as slices of their halfway grid.

Both dates of a made study (`data/longitudinal.py`) are scanned each in its own way and aligned as
`read` aligns them, so that slices hold what registration leaves: other thickness, light and view,
interpolation, a rest of misalignment.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from medic_ad.align import align
from medic_ad.change import MINIMUM_FIELD
from medic_ad.data.acquire import acquire, acquire_labels, draw_acquisition
from medic_ad.data.longitudinal import BRIGHT, DARK, Longitudinal, draw_longitudinal, prepare_host
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError
from medic_ad.image import in_memory
from medic_ad.lesions import Tolerance
from medic_ad.processor import fit_square, grey_window
from medic_ad.readers import read_image
from medic_ad.train.render import made_once, state_of
from medic_ad.words import CHANGE_LABELS, EXCHANGED

VERSION = "1"  # of this rendering; part of the cache's name
LESIONS = 12  # that a study tries to hold
SLICES = 24  # taken of a study, half of them with lesions where there are as many
ARRAYS = ("image", "followup", "mask", "mask_followup", "change", "sequence")


@dataclass
class VolumePairs:
    """`n` pairs on the canvas of side `S`.

    Attributes:
        image, followup: `(n, S, S)` uint8, baseline and follow-up.
        mask, mask_followup: `(n, S, S)` bool; they differ where a lesion changed, and only there.
        change, sequence: `(n,)` words.
    """

    image: np.ndarray
    followup: np.ndarray
    mask: np.ndarray
    mask_followup: np.ndarray
    change: np.ndarray
    sequence: np.ndarray

    def __len__(self) -> int:
        return len(self.change)

    def pair(self, rng: np.random.Generator) -> dict:
        """One pair in either order, as `Slices.pair` gives them; every change equally often."""
        wanted = rng.choice(np.unique(self.change))
        i = int(rng.choice(np.flatnonzero(self.change == wanted)))
        grey = [x[i].astype(np.float32) / 255 for x in (self.image, self.followup)]
        masks = [self.mask[i], self.mask_followup[i]]
        change = str(wanted)
        if rng.random() < 0.5:
            grey, masks, change = grey[::-1], masks[::-1], EXCHANGED[change]
        return {
            "image": grey[0],
            "followup": grey[1],
            "mask": masks[0],
            "mask_followup": masks[1],
            "known": True,
            "change": change,
            "dialogue": None,
            "sequence": str(self.sequence[i]) or None,
        }


def signs(study: Longitudinal) -> dict[int, int]:
    """Label -> +1, 0 or -1: what its lesion did between the two dates, by volume and tolerance."""
    ml, most = study.volumes_ml(), math.log1p(Tolerance().growth)
    out: dict[int, int] = {}
    for fate in study.fates[0]:
        before = math.fsum(ml[n][0] for n in fate.before)
        after = math.fsum(ml[n][1] for n in fate.after)
        same = before > 0 < after and abs(math.log(after / before)) <= most
        sign = 0 if same else 1 if after > before else -1
        out |= dict.fromkeys((*fate.before, *fate.after), sign)
    return out


def slices_of(
    study: Longitudinal, affine: np.ndarray, kind: Sample, side: int, rng: np.random.Generator
) -> list[tuple]:
    """Scan and align both dates; rows of `ARRAYS`, none where registration refuses them.

    A slice in which lesions grow and others shrink has no one change and is left out.
    """
    ways = [draw_acquisition(rng, affine, study.volumes[0].shape) for _ in range(2)]
    images = [
        in_memory(acquire(v, affine, w, rng), w.affine, str(kind.modality), str(kind.body_part))
        for v, w in zip(study.volumes, ways, strict=True)
    ]
    found = align(images[1], images[0])
    if not found.ok:
        return []
    did = signs(study)
    moved: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # sign -> masks of baseline and follow-up
    for sign in (1, 0, -1):
        own = [n for n, s in did.items() if s == sign]
        there = [
            acquire_labels(np.where(np.isin(labels, own), labels, 0), affine, w) > 0
            for labels, w in zip(study.labels, ways, strict=True)
        ]
        later, earlier = found.to_half(*(m.astype(np.float32) for m in there[::-1]))
        moved[sign] = earlier > 0.5, later > 0.5
    halves = found.prior_half, found.current_half
    windows = [grey_window(half) for half in halves]
    seen = np.isfinite(halves[0]).mean((1, 2)) >= MINIMUM_FIELD
    holds = {s: (a | b).any((1, 2)) for s, (a, b) in moved.items()}
    good = seen & ~(holds[1] & holds[-1])
    lesion = holds[1] | holds[0] | holds[-1]
    rows = []
    for part in (good & lesion, good & ~lesion):
        for i in rng.permutation(np.flatnonzero(part))[: SLICES // 2]:
            grown, kept, gone = ([m[i] for m in moved[s]] for s in (1, 0, -1))
            same = kept[0] | kept[1]  # edges that only registration moved are no change
            masks = same | grown[0] | gone[0] | gone[1], same | gone[1] | grown[0] | grown[1]
            pictures = [(h[i], w) for h, w in zip(halves, windows, strict=True)]
            canvases = [fit_square(p, w, side)[0].numpy() for p, w in pictures]
            grey = [np.round(c * 255).astype(np.uint8) for c in canvases]
            drawn = [
                fit_square(m.astype(np.float32), (0.0, 1.0), side)[0].numpy() > 0.5 for m in masks
            ]
            change = CHANGE_LABELS[0 if holds[1][i] else 2 if holds[-1][i] else 1]
            rows.append((*grey, *drawn, change, kind.sequence or ""))
    return rows


def _host(job: tuple[Sample, int, int, int]) -> list[tuple]:
    """All studies of one volume."""
    first, side, studies, seed = job
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    said = {"modality": first.modality, "body_part": first.body_part}
    image = read_image(first.image, **said)
    mask = read_image(first.mask, **said).pixels > 0 if first.mask else None
    if image.affine is None or image.spacing_mm is None:
        raise DataError(f"expected {first.image} to say where its voxels lie; leave --volumes out")
    host = prepare_host(image.pixels, image.spacing_mm, rng, mask)
    contrast = DARK if first.sequence == "T1" else BRIGHT
    rows = []
    for _ in range(studies):
        study = draw_longitudinal(host, rng, 2, LESIONS, contrast)
        rows += slices_of(study, image.affine, first, side, rng)
    return rows


def render_volume_pairs(
    samples: Sequence[Sample], side: int, studies: int, cache: Path, seed: int = 0, workers: int = 2
) -> VolumePairs:
    """Make `studies` of each volume of a table whose lesions are known, or load them from `cache`.

    Raises:
        DataError: the table has no such volume, or the registration refuses all studies.
    """
    volumes: dict[str, Sample] = {}
    for s in samples:
        if s.slice is not None and s.prior is None and (s.mask or s.label == 0):
            volumes.setdefault(s.image, s)
    if not volumes:
        raise DataError(
            "expected slices of volumes with a lesion mask or label 0 to make studies of, found "
            "none; leave --volumes out"
        )
    states = [state_of(first) for first in volumes.values()]
    key = hashlib.sha256(repr((VERSION, side, studies, seed, states)).encode()).hexdigest()
    path = cache / f"volume-pairs-{key[:16]}.npz"

    def make() -> dict[str, np.ndarray]:
        jobs = [(first, side, studies, seed + k) for k, first in enumerate(volumes.values())]
        with ProcessPoolExecutor(workers) as pool:
            made = list(track(pool.map(_host, jobs), "making studies", total=len(jobs)))
        rows = [row for found in made for row in found]
        if not rows:
            raise DataError(
                f"expected made studies whose dates can be aligned, but the registration refused "
                f"all {studies * len(jobs)} of {len(jobs)} volumes; leave --volumes out"
            )
        columns = zip(*rows, strict=True)
        return {name: np.stack(column) for name, column in zip(ARRAYS, columns, strict=True)}

    return VolumePairs(**made_once(path, make))
