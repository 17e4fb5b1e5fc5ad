"""Evaluation: pairs of dates with known change, made from test slices.

Lesions are those of test slices, on their own slice or transplanted into another; blending and
inpainting are the methods that training never used, and each date has nuisance of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medic_ad.data.blend import TEST_BLENDS, box_of
from medic_ad.data.head import draw_place
from medic_ad.data.synthetic import nuisance, rescale_lesion, transplant
from medic_ad.errors import DataError
from medic_ad.evaluate.material.twins import Twins, repaired
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.words import CHANGE_LABELS

BLEND = TEST_BLENDS[0]
GROWTH_BINS = ((1.25, 1.6), (1.6, 2.2), (2.2, 3.0))
NEW, SHAM, ABSENT = "new or resolved", "sham of a lesion", "no lesion"
ABSENT_SHARE = 4  # one stable pair in four has no lesion on either date
DONOR_SIZES = (0.4, 1.6)  # area factor of a transplanted lesion
START_SIZES = (0.5, 1.0)  # area factor of the smaller date, so that the larger stays plausible
TOLERANCE = 0.05  # of the drawn growth; a lesion without room to grow is drawn again


@dataclass(frozen=True)
class Pairs:
    """`n` pairs of dates on one grid.

    Attributes:
        first, second: `(n, H, W)` uint8, baseline and follow-up.
        more, less: `(n, H, W)` bool on the follow-up's grid, pixels that lesion gained or lost.
        change: `(n,)` of `CHANGE_LABELS`.
        kind: `(n,)` growth bin, or what kind of new, resolved or stable pair it is.
        group: `(n,)` cluster of the host slice.
    """

    first: np.ndarray
    second: np.ndarray
    more: np.ndarray
    less: np.ndarray
    change: np.ndarray
    kind: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.change)


def bin_words(low: float, high: float) -> str:
    return f"growth {low:g} to {high:g}"


def plan(n: int, rng: np.random.Generator) -> list[tuple[str, str, float]]:
    """Change, kind and area factor of `n` pairs, balanced over classes and kinds, shuffled."""
    rows = []
    for k in range(n):
        change, turn = CHANGE_LABELS[k % 3], k // 3
        if change == "stable":
            rows.append((change, ABSENT if turn % ABSENT_SHARE == 0 else SHAM, 1.0))
            continue
        step = turn % (len(GROWTH_BINS) + 1)
        if step == len(GROWTH_BINS):
            rows.append((change, NEW, 0.0))
        else:
            low, high = GROWTH_BINS[step]
            rows.append(
                (
                    change,
                    bin_words(low, high),
                    float(np.exp(rng.uniform(np.log(low), np.log(high)))),
                )
            )
    return [rows[i] for i in rng.permutation(n)]


def host(
    twins: Twins, i: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A slice without and with a lesion, and its mask; every second lesion is a donor's.

    A lesion that is too small for the canvas has no pixels there, and is nobody's donor.
    """
    clean, image = (a[i].astype(np.float32) / 255 for a in (twins.clean, twins.image))
    lesion = twins.mask[i]
    others = [k for k, g in enumerate(twins.groups) if g != twins.groups[i] and twins.mask[k].any()]
    if others and rng.random() < 0.5:
        donor = int(rng.choice(others))
        form = twins.mask[donor]
        centre = draw_place(clean, form[box_of(form, 1)], rng)
        if centre is not None:
            grey = twins.image[donor].astype(np.float32) / 255
            factor = float(np.exp(rng.uniform(*np.log(DONOR_SIZES))))
            image, lesion = transplant(clean, grey, form, centre, factor, rng, BLEND)
    return clean, image, lesion


def dates(
    twins: Twins, i: int, kind: str, factor: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Smaller and larger date with their masks, before nuisance; `None` where there was no room."""
    clean, image, lesion = host(twins, i, rng)
    none = np.zeros_like(lesion)
    if kind == ABSENT:
        original = twins.image[i].astype(np.float32) / 255
        again = repaired(original, twins.mask[i], rng)
        return clean, again, none, none
    start = 1.0 if kind == NEW else float(np.exp(rng.uniform(*np.log(START_SIZES))))
    first, m1 = rescale_lesion(clean, image, lesion, start, rng, BLEND)
    if kind == NEW:
        return clean, first, none, m1
    second, m2 = rescale_lesion(clean, image, lesion, start * factor, rng, BLEND)
    if not m1.any() or abs(m2.sum() / m1.sum() / factor - 1) > TOLERANCE:
        return None
    return first, second, m1, m2


def draw(twins: Twins, n: int, seed: int) -> dict[str, np.ndarray]:
    """Arrays of `Pairs`; every slice is a host once before any is a second time.

    Raises:
        DataError: lesions have no room to grow in these slices.
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(twins.groups)) for _ in range(n)])
    hosts = iter(order)
    rows: list[tuple] = []
    for change, kind, factor in bar(plan(n, rng), "making pairs of dates"):
        made = None
        while made is None:
            i = int(next(hosts, -1))
            if i < 0:
                raise DataError(
                    f"expected slices whose lesions have room to grow, got {len(twins.groups)} "
                    f"that gave {len(rows)} of {n} pairs; give more slices, or ask for fewer pairs"
                )
            made = dates(twins, i, kind, factor, rng)
        small, large, m_small, m_large = made
        ahead = change != "better"
        first, second = (small, large) if ahead else (large, small)
        m1, m2 = (m_small, m_large) if ahead else (m_large, m_small)
        first, _ = nuisance(first, m1, rng)
        second, moved = nuisance(second, np.stack([m2 & ~m1, m1 & ~m2]), rng)
        if change == "stable":  # what resampling moved by a fraction of a pixel is no change
            moved = np.zeros_like(moved)
        grey = [np.round(x * 255).astype(np.uint8) for x in (first, second)]
        rows.append((*grey, moved[0], moved[1], change, kind, twins.groups[i]))
    names = ("first", "second", "more", "less", "change", "kind", "group")
    return {k: np.array(v) for k, v in zip(names, zip(*rows, strict=True), strict=True)}
