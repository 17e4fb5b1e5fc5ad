"""Step 5 of the road, over time: the lesions of two or more dates measured, matched, followed.

Every date keeps its own voxels: volumes and diameters are measured there, and lesions are matched
by carrying voxel centres, not masks, from one date to the other. Nothing is resampled, so that a
lesion of one voxel is not lost and exchanging the dates exchanges the answer exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import label as label_components

from medic_ad.errors import MedicADError
from medic_ad.finding import longest_mm
from medic_ad.links import Frames, groups, join_near, link, mapped, places_mm

KINDS = (
    "new",
    "enlarged",
    "stable",
    "reduced",
    "resolved",
    "merged",
    "split",
    "not_comparable",
)
EXCHANGED = {  # what each becomes when the dates are exchanged
    "new": "resolved",
    "enlarged": "reduced",
    "merged": "split",
    **{kind: kind for kind in ("stable", "not_comparable")},
    "resolved": "new",
    "reduced": "enlarged",
    "split": "merged",
}


@dataclass(frozen=True)
class Tolerance:
    """What counts as no change, and as the same lesion.

    Attributes:
        growth: a lesion is stable while |log(V2/V1)| <= log(1 + growth).
        change_ml: and while its volume changes by no more than this,
        voxels: or by no more than this many voxels of the coarser date.
        overlap: lesions belong together where this part of either lies in the other,
        reach_mm: or, where neither overlaps anything, when no more than this (beside half a voxel
            of each date) lies between them
        ratio: and neither is more than this many times the other.
        in_view: part of a lesion that the other date must show, and have looked at, to be compared.
    """

    growth: float = 0.25
    change_ml: float = 0.02
    voxels: float = 3.0
    overlap: float = 0.1
    reach_mm: float = 1.0
    ratio: float = 4.0
    in_view: float = 0.95

    def __post_init__(self) -> None:
        parts = (self.overlap, self.in_view)
        rest = (self.growth, self.change_ml, self.voxels, self.reach_mm, self.ratio - 1)
        if not (all(0 < p <= 1 for p in parts) and all(0 <= r < math.inf for r in rest)):
            raise MedicADError(
                "expected overlap and in_view in (0, 1], ratio at least 1 and all other tolerances "
                f"at least 0, came {self}; correct the tolerance."
            )


@dataclass(frozen=True)
class Lesion:
    """One lesion on one date, measured on that date's own voxels.

    Attributes:
        number: its value in `Lesions.labels`, or in a `Course` its tracking id.
        longest_mm: longest distance across, in 3-D, between the outer faces of voxels.
        centroid: (d, h, w), voxel centres.
        key_slice, slice_range: the slice on which it is largest; its first and last slice.
    """

    number: int
    voxels: int
    volume_ml: float
    longest_mm: float
    centroid: tuple[float, float, float]
    key_slice: int
    slice_range: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Lesions:
    """All lesions of one date.

    Attributes:
        labels: int32 (D, H, W), 0 outside, 1..n the lesions, largest first.
        spacing_mm: of (d, h, w); a single slice has D = 1 and its thickness.
        items: the lesions by number.
        looked: bool (D, H, W), where lesions were looked for; None for everywhere.
    """

    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    items: tuple[Lesion, ...]
    looked: np.ndarray | None = None

    @property
    def voxel_ml(self) -> float:
        return math.prod(self.spacing_mm) / 1000.0


def measure_lesions(
    mask: np.ndarray, spacing_mm: Sequence[float], looked: np.ndarray | None = None
) -> Lesions:
    """Find and measure the lesions of one date.

    Args:
        mask: (D, H, W); bool, where touching voxels (corners too) are one lesion, or integers,
            where every value but 0 is one lesion. Which value names which lesion does not matter.
        spacing_mm: of (d, h, w).
        looked: bool (D, H, W), where lesions were looked for; None for everywhere.

    Raises:
        MedicADError: for another shape, type or spacing.
    """
    good = mask.ndim == 3 and (mask.dtype == bool or np.issubdtype(mask.dtype, np.integer))
    if not good:
        raise MedicADError(
            f"expected a mask (D, H, W) of bool or integers, came {mask.dtype} {mask.shape}; "
            "compare it with its threshold first, and give a single slice as (1, H, W)."
        )
    steps = tuple(float(s) for s in spacing_mm)
    if len(steps) != 3 or not all(0 < s < math.inf for s in steps):
        raise MedicADError(
            f"expected 3 positive spacings in mm, came {steps}; volumes need a known spacing."
        )
    if mask.dtype == bool:
        raw = label_components(mask, connectivity=3)
    else:
        raw = np.unique(mask, return_inverse=True)[1].reshape(mask.shape)
        raw = np.where(mask == 0, 0, raw + 1)
    values, first, counts = np.unique(raw, return_index=True, return_counts=True)
    kept = values != 0
    order = np.lexsort((first[kept], -counts[kept]))
    number = np.zeros(int(values.max(initial=0)) + 1, np.int32)
    number[values[kept][order]] = np.arange(1, len(order) + 1)
    labels = number[raw]
    items = []
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == i
        places = np.argwhere(inside) + [s.start for s in box]
        middle = places.mean(0)
        items.append(
            Lesion(
                number=i,
                voxels=len(places),
                volume_ml=len(places) * math.prod(steps) / 1000.0,
                longest_mm=longest_mm(inside, steps),
                centroid=(float(middle[0]), float(middle[1]), float(middle[2])),
                key_slice=int(box[0].start + inside.sum((1, 2)).argmax()),
                slice_range=(int(box[0].start), int(box[0].stop - 1)),
            )
        )
    return Lesions(labels, (steps[0], steps[1], steps[2]), tuple(items), looked)


@dataclass(frozen=True)
class LesionChange:
    """What became of one lesion, or of several that merged or split, between two dates.

    Attributes:
        kind: one of KINDS; `not_comparable` where a date does not show the place, or was not looked
            at there.
        before, after: numbers of the lesions at either date.
        volumes_ml: their volume at either date, 0 where there is none.
        grown: +1, 0 or -1 by volume and tolerance, also of what merged or split.
        years: between the dates, NaN when unknown.
    """

    kind: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    volumes_ml: tuple[float, float]
    grown: int
    years: float = math.nan

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise MedicADError(f"A lesion's change is one of {', '.join(KINDS)}, not {self.kind}.")
        if not (self.before or self.after) or self.years <= 0:
            raise MedicADError("A lesion's change has a lesion, and years above 0 or NaN.")
        for numbers, ml in zip((self.before, self.after), self.volumes_ml, strict=True):
            if bool(numbers) != (ml > 0):
                raise MedicADError(f"Lesions {numbers} cannot have a volume of {ml} ml.")

    @property
    def change_ml(self) -> float:
        return self.volumes_ml[1] - self.volumes_ml[0]

    @property
    def log_ratio(self) -> float:
        """log(V2/V1): changes sign with the order of dates; infinite for new and resolved."""
        before, after = (math.log(v) if v else -math.inf for v in self.volumes_ml)
        return after - before

    @property
    def percent(self) -> float:
        """Of the earlier volume; NaN without one."""
        before, after = self.volumes_ml
        return 100.0 * (after - before) / before if before else math.nan

    @property
    def ml_per_year(self) -> float:
        return self.change_ml / self.years

    @property
    def percent_per_year(self) -> float:
        """Compound growth a year; NaN without dates or for new and resolved lesions."""
        rate = self.log_ratio / self.years
        return 100.0 * math.expm1(rate) if abs(rate) < 100 else math.nan


def match_lesions(
    before: Lesions | np.ndarray,
    after: Lesions | np.ndarray,
    spacing_mm: Sequence[float] | None = None,
    tolerance: Tolerance | None = None,
    frames: Frames | None = None,
    years: float = math.nan,
) -> tuple[LesionChange, ...]:
    """What became of each lesion between two dates.

    Lesions that overlap belong together; of chains such as A-B-C-D the weaker links are cut (a link
    stays where it is the best of either end). One to one is enlarged, stable or reduced, several to
    one merged, one to several split. Several to several is merged or split by the numbers, else
    judged by volume. Exchanging the dates (and frames) exchanges every kind by EXCHANGED and the
    sign of every change, exactly.

    Args:
        before, after: from `measure_lesions`, or masks as it takes them.
        spacing_mm: of masks.
        tolerance: stated in the report with the changes.
        frames: 4x4 of either date, from voxels (d, h, w, 1) to a common frame in mm (of an
            `Alignment`: `prior_frame`, `current_frame`); None when both lie on one grid.
        years: between the dates.

    Returns:
        One change per lesion or group, ordered by number before, new ones last.
    """
    tolerance = tolerance or Tolerance()
    first, second = (
        d if isinstance(d, Lesions) else measure_lesions(d, spacing_mm or ())
        for d in (before, after)
    )
    if frames is None and (
        first.labels.shape != second.labels.shape or first.spacing_mm != second.spacing_mm
    ):
        raise MedicADError(
            f"expected both dates on one grid, came {first.labels.shape} and "
            f"{second.labels.shape}; give the frames of their registration."
        )
    sizes = np.array([i.voxels for i in first.items]), np.array([i.voxels for i in second.items])
    n, m = len(sizes[0]), len(sizes[1])
    there, seen_before = mapped(first.labels, second.labels, n, m, frames, second.looked)
    back, seen_after = mapped(
        second.labels, first.labels, m, n, frames and frames[::-1], first.looked
    )
    links = link(there, back.T, first.voxel_ml, second.voxel_ml, sizes, tolerance.overlap)
    spots = [
        places_mm(d.labels, d.spacing_mm, f)
        for d, f in zip((first, second), frames or (None, None), strict=True)
    ]
    half = sum(math.hypot(*d.spacing_mm) / 2 for d in (first, second))
    join_near(
        links, spots[0], spots[1], tolerance.reach_mm + half, _alike(first, second, tolerance)
    )
    allowed = max(tolerance.change_ml, tolerance.voxels * max(first.voxel_ml, second.voxel_ml))
    changes = []
    for old, new in groups(links):
        volumes = (
            math.fsum(first.items[i].volume_ml for i in old),
            math.fsum(second.items[i].volume_ml for i in new),
        )
        grown = _grown(volumes, tolerance.growth, allowed if old and new else 0.0)
        seen = min([*seen_before[old], *seen_after[new]])
        changes.append(
            LesionChange(
                kind=_kind(len(old), len(new), grown)
                if seen >= tolerance.in_view
                else "not_comparable",
                before=tuple(i + 1 for i in old),
                after=tuple(i + 1 for i in new),
                volumes_ml=volumes,
                grown=grown,
                years=years,
            )
        )
    return tuple(sorted(changes, key=lambda c: (not c.before, c.before, c.after)))


def load_change(
    changes: Sequence[LesionChange], tolerance: Tolerance | None = None
) -> tuple[str, bool]:
    """The study's label from the total load, and whether lesions grow and shrink at once.

    Lesions that are not comparable do not count.

    Returns:
        worse, stable, better or not_comparable; and the `mixed` flag.
    """
    tolerance = tolerance or Tolerance()
    counted = [c for c in changes if c.kind != "not_comparable"]
    if changes and not counted:
        return "not_comparable", False
    before, after = (math.fsum(c.volumes_ml[i] for c in counted) for i in (0, 1))
    sign = _grown((before, after), tolerance.growth, tolerance.change_ml)
    grown = {c.grown for c in counted}
    return {1: "worse", 0: "stable", -1: "better"}[sign], {1, -1} <= grown


def _alike(first: Lesions, second: Lesions, tolerance: Tolerance) -> np.ndarray:
    """Bool (n, m): which lesions have volumes near enough to be one that moved."""
    a, b = (np.log([i.volume_ml for i in d.items] or [1.0]) for d in (first, second))
    near = np.abs(a[:, None] - b[None]) <= math.log(tolerance.ratio)
    return near[: len(first.items), : len(second.items)]


def _grown(volumes: tuple[float, float], growth: float, allowed_ml: float) -> int:
    before, after = volumes
    if abs(after - before) <= allowed_ml:
        return 0
    if before and after and abs(math.log(after) - math.log(before)) <= math.log1p(growth):
        return 0
    return 1 if after > before else -1


def _kind(before: int, after: int, grown: int) -> str:
    if not before or not after:
        return "resolved" if before else "new"
    if before != after:
        return "merged" if before > after else "split"
    return {1: "enlarged", 0: "stable", -1: "reduced"}[grown]
