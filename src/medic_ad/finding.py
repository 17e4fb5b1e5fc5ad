"""Step 5 of the road: score and maps become a decision, findings with units, and a change."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import label as label_components
from skimage.measure import regionprops

from medic_ad.errors import MedicADError
from medic_ad.image import Image
from medic_ad.words import CHANGE_LABELS, COLUMNS, cell_of, cell_words

DECISIONS = ("abnormal", "normal", "uncertain", "out_of_scope")
CHANGES = (*CHANGE_LABELS, "not_comparable")
CHANGED = 0.5  # of |change map|: above it a pixel has changed
MINIMUM_AREA_PX = 8

_SIDE_WORDS = {
    "R": "patient right",
    "L": "patient left",
    "A": "anterior",
    "P": "posterior",
    "H": "towards the head",
    "F": "towards the feet",
}


def decide(score: float, band: tuple[float, float]) -> str:
    """The decision that a calibrated score alone makes.

    Args:
        score: Probability of an anomaly in [0, 1]; NaN means out of scope.
        band: (lo, hi) of the uncertain band, half open: lo <= score < hi is uncertain. A band of
            no width is a plain threshold.
    """
    if math.isnan(score):
        return "out_of_scope"
    if score >= band[1]:
        return "abnormal"
    return "normal" if score < band[0] else "uncertain"


def change_label(scores: Mapping[str, float]) -> str:
    """The label that change scores make: the highest; a tie is stable."""
    worse, stable, better = scores["worse"], scores["stable"], scores["better"]
    if scores.get("not_comparable", 0.0) > max(worse, stable, better):
        return "not_comparable"
    if stable >= max(worse, better) or worse == better:
        return "stable"
    return "worse" if worse > better else "better"


@dataclass(frozen=True)
class Finding:
    """One connected region of the heatmap at or above its threshold.

    Attributes:
        score: Highest probability within the region.
        box: Half-open pixels, (y0, x0, y1, x1) or (z0, y0, x0, z1, y1, x1).
        centroid: Centre of mass of the region's mask, (y, x) or (z, y, x), pixel centres.
        area_px: Pixels, in volumes those of the key slice.
        voxels: Pixels of the whole region over all slices.
        area_mm2: Area on the key slice; None without pixel spacing.
        volume_ml: Volumes with spacing only.
        diameter_mm: Longest in-plane diameter on the key slice; None without pixel spacing.
        longest_mm: Longest distance across the whole region; in 2-D that is `diameter_mm`.
        key_slice: The slice on which the region is largest; None in 2-D.
        slice_range: First and last slice of the region; None in 2-D.
        location: Words for the place, and the patient's side where orientation is known.
        cell: (row, column) of the centroid in the 3 x 3 grid.
    """

    score: float
    box: tuple[int, ...]
    centroid: tuple[float, ...]
    area_px: int
    voxels: int
    area_mm2: float | None
    volume_ml: float | None
    diameter_mm: float | None
    longest_mm: float | None
    key_slice: int | None
    slice_range: tuple[int, int] | None
    location: str
    cell: tuple[int, int]

    def __post_init__(self) -> None:
        ndim = len(self.centroid)
        if ndim not in (2, 3) or len(self.box) != 2 * ndim:
            raise MedicADError(
                f"A finding has 2 or 3 coordinates and a box of twice as many, not {ndim} and "
                f"{len(self.box)}."
            )
        if not 0.0 < self.score <= 1.0:
            raise MedicADError(f"A finding's score is in (0, 1], not {self.score}.")
        low, high = self.box[:ndim], self.box[ndim:]
        corners = zip(low, self.centroid, high, strict=True)
        inside = all(a - 1e-6 <= c <= b - 1 + 1e-6 for a, c, b in corners)
        if not inside or min(low) < 0:
            raise MedicADError(f"The centroid {self.centroid} must lie in the box {self.box}.")
        if (self.key_slice is None) != (ndim == 2):
            raise MedicADError("A key slice belongs to findings in volumes, and only to them.")
        if self.key_slice is not None and not low[0] <= self.key_slice < high[0]:
            raise MedicADError(f"The key slice {self.key_slice} must lie in the box {self.box}.")
        expected = None if self.key_slice is None else (low[0], high[0] - 1)
        if self.slice_range != expected:
            raise MedicADError(
                f"The slice range {self.slice_range} must be that of the box {self.box}."
            )
        if not 0 < self.area_px <= self.voxels:
            raise MedicADError(f"The area ({self.area_px} px) must be in 1..{self.voxels} voxels.")
        if len(self.cell) != 2 or not set(self.cell) <= {0, 1, 2}:
            raise MedicADError(f"A cell is a row and a column in 0..2, not {self.cell}.")


@dataclass(frozen=True, eq=False)
class Change:
    """What changed between a prior and the current study.

    Attributes:
        label: One of CHANGES.
        scores: Probability of each label, summing to 1; None when not comparable.
        map: Signed change in [-1, 1] on the current grid (positive: worse), NaN outside the
            common field of view; None when not comparable.
        reason: Why the studies cannot be compared; None otherwise.
        alignment: Transform and quality of the registration.
        prior_on_current: The prior's pixels on the current grid, for display.
        prior_heatmap: The prior's own heatmap on the current grid, for display.
        prior_threshold: Of that heatmap, of the prior's own scope entry.
        mixed: Some regions grow while others shrink.
    """

    label: str
    scores: dict[str, float] | None
    map: np.ndarray | None
    reason: str | None = None
    alignment: dict[str, Any] = field(default_factory=dict)
    prior_on_current: np.ndarray | None = None
    prior_heatmap: np.ndarray | None = None
    prior_threshold: float | None = None
    mixed: bool = False
    prior_date: datetime.date | None = None
    current_date: datetime.date | None = None

    def __post_init__(self) -> None:
        if self.label not in CHANGES:
            raise MedicADError(f"A change is one of {', '.join(CHANGES)}, not '{self.label}'.")
        if self.scores is not None:
            self._check_scores(self.scores)
        if self.label == "not_comparable":
            if self.map is not None or not self.reason:
                raise MedicADError("A change that is not comparable has a reason and no map.")
            return
        if self.reason is not None:
            raise MedicADError(f"'{self.label}' takes no reason for not comparing.")
        if self.scores is None or self.map is None:
            raise MedicADError(f"'{self.label}' needs both scores and a change map.")
        finite = self.map[np.isfinite(self.map)]
        if np.isinf(self.map).any() or (finite.size and np.abs(finite).max() > 1.0):
            raise MedicADError("A change map holds values in [-1, 1], or NaN outside.")
        for shown in (self.prior_on_current, self.prior_heatmap):
            if shown is not None and shown.shape != self.map.shape:
                raise MedicADError(
                    f"The prior on the current grid is {shown.shape}, the change map "
                    f"{self.map.shape}: both must be on the current grid."
                )

    def _check_scores(self, scores: dict[str, float]) -> None:
        if not {"worse", "stable", "better"} <= set(scores) <= set(CHANGES):
            raise MedicADError(
                f"Change scores are named worse, stable, better (and not_comparable), not "
                f"{', '.join(sorted(scores))}."
            )
        if min(scores.values()) < 0 or abs(sum(scores.values()) - 1.0) > 1e-4:
            raise MedicADError(f"Change scores are probabilities that sum to 1, not {scores}.")
        if change_label(scores) != self.label:
            raise MedicADError(
                f"The scores say '{change_label(scores)}', so the label cannot be '{self.label}'."
            )


def find(
    heatmap: np.ndarray,
    threshold: float,
    image: Image,
    minimum_area_px: int = MINIMUM_AREA_PX,
) -> tuple[Finding, ...]:
    """The connected regions of a heatmap at or above its threshold, weightiest first.

    Args:
        heatmap: Probabilities on the grid of `image`, (H, W) or (D, H, W); NaN where the model
            did not look, which is never part of a region.
        threshold: The fixed threshold of the heatmap.
        image: Gives grid, spacing and orientation.
        minimum_area_px: Regions whose largest slice has fewer pixels are noise of the map.

    Returns:
        Findings sorted by score times size, descending.
    """
    if heatmap.shape != image.grid:
        raise MedicADError(
            f"The heatmap is {heatmap.shape} but the image {image.grid}: bring the map back to "
            f"the image's grid first."
        )
    regions = _regions(heatmap, threshold, minimum_area_px)
    findings = (_finding(region, heatmap, image) for region in regions)
    return tuple(sorted(findings, key=lambda f: (-f.score * f.voxels, f.box)))


def lesion_mask(
    heatmap: np.ndarray, threshold: float, minimum_area_px: int = MINIMUM_AREA_PX
) -> np.ndarray:
    """Bool mask, on the heatmap's grid, of exactly the regions that `find` gives."""
    mask = np.zeros(heatmap.shape, bool)
    for region in _regions(heatmap, threshold, minimum_area_px):
        mask[region.slice] |= region.image
    return mask


def grows_and_shrinks(change_map: np.ndarray) -> bool:
    """Whether a signed change map, beyond `CHANGED`, has regions of either sign.

    They are regions as `find` gives them: a few voxels are noise of this map, too.
    """
    return all(lesion_mask(signed, CHANGED).any() for signed in (change_map, -change_map))


def label_findings(
    heatmap: np.ndarray, threshold: float, findings: Sequence[Finding]
) -> np.ndarray:
    """Where each finding lies: uint16 on the heatmap's grid, n within the n-th of `findings`.

    Args:
        findings: those that `find` gave of this heatmap and threshold.
    """
    number = {(f.box, f.centroid): n for n, f in enumerate(findings, start=1)}
    labels = np.zeros(heatmap.shape, np.uint16)
    for region in _regions(heatmap, threshold, MINIMUM_AREA_PX):
        labels[region.slice][region.image] = number[_box(region), _centroid(region)]
    return labels


def _regions(heatmap: np.ndarray, threshold: float, least: int) -> Iterator[Any]:
    """Connected regions whose largest slice has at least this many pixels."""
    labels = label_components(heatmap >= threshold, connectivity=heatmap.ndim)
    for region in regionprops(labels):
        if region.num_pixels >= least and region.image.sum(axis=(-2, -1)).max() >= least:
            yield region


def _finding(region: Any, heatmap: np.ndarray, image: Image) -> Finding:
    mask = region.image
    plane, key_slice, volume_ml = mask, None, None
    spacing = image.spacing_mm
    if mask.ndim == 3:
        offset = int(mask.sum(axis=(1, 2)).argmax())
        plane, key_slice = mask[offset], region.bbox[0] + offset
        if spacing is not None:
            volume_ml = float(mask.sum() * np.prod(spacing) / 1000.0)
    area_px = int(plane.sum())
    centroid = _centroid(region)
    height, width = image.grid[-2:]
    cell = cell_of(centroid[-2], centroid[-1], (height, width))
    return Finding(
        score=float(heatmap[region.slice][mask].max()),
        box=_box(region),
        centroid=centroid,
        area_px=area_px,
        voxels=int(mask.sum()),
        area_mm2=None if spacing is None else float(area_px * spacing[-2] * spacing[-1]),
        volume_ml=volume_ml,
        diameter_mm=None if spacing is None else longest_mm(plane, spacing[-2:]),
        longest_mm=None if spacing is None else longest_mm(mask, spacing),
        key_slice=key_slice,
        slice_range=None if key_slice is None else (region.bbox[0], region.bbox[3] - 1),
        location=_location(cell, image),
        cell=cell,
    )


def _box(region: Any) -> tuple[int, ...]:
    return tuple(int(b) for b in region.bbox)


def _centroid(region: Any) -> tuple[float, ...]:
    return tuple(float(c) for c in region.centroid)


def longest_mm(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Longest distance across a mask of 2 or 3 axes, between the outer faces of its pixels, mm."""
    surface = mask & ~ndimage.binary_erosion(mask)
    steps = 0.5 * np.concatenate([np.eye(mask.ndim), -np.eye(mask.ndim)])
    faces = (np.argwhere(surface)[:, None] + steps).reshape(-1, mask.ndim)
    points = faces * np.asarray(spacing)
    return float(pdist(points[ConvexHull(points).vertices]).max())


def _location(cell: tuple[int, int], image: Image) -> str:
    words = f"{cell_words(*cell)} of the image"
    letters = image.side_letters()
    if letters is None or cell[1] == 1:
        return words
    return f"{words}, {_SIDE_WORDS[letters[COLUMNS[cell[1]]]]}"
