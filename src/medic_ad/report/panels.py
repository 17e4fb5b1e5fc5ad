"""Step 6 of the road: which pictures a report shows: panels, their slices and their maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from skimage.measure import approximate_polygon, find_contours

from medic_ad.image import Image
from medic_ad.report.colour import INVISIBLE, change_rgba, grey, grey_limits, heat_rgba

if TYPE_CHECKING:
    from medic_ad.report.report import Report

MAX_SLICES = 48
MAX_FINDINGS = 12
_SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture, or one picture per slice, with or without a map on it.

    Attributes:
        kind: "prior", "heat" or "change".
        pixels: (D, H, W), D = 1 in 2-D.
        limits: Black and white points.
        overlay: (D, H, W) map on the same grid, or None.
        level: where the map's contour is drawn, None for no contour.
        fixed_slice: The one slice to show; None follows the slice that the reader chooses.
    """

    kind: str
    title: str
    caption: str
    image: Image
    pixels: np.ndarray
    limits: tuple[float, float]
    overlay: np.ndarray | None = None
    level: float | None = None
    fixed_slice: int | None = None

    @property
    def aspect(self) -> float:
        """Width over height as they are in the patient, from the spacing where it is known."""
        height, width = self.pixels.shape[1:]
        down, across = self.image.spacing_mm[-2:] if self.image.spacing_mm else (1.0, 1.0)
        return float(width * across / (height * down))

    @property
    def scale_bar(self) -> tuple[int, float] | None:
        """Length in mm and share of the picture's width; None without spacing."""
        if self.image.spacing_mm is None:
            return None
        width_mm = self.pixels.shape[2] * self.image.spacing_mm[-1]
        length = next((mm for mm in _SCALE_BARS_MM if mm <= 0.3 * width_mm), None)
        return None if length is None else (length, length / width_mm)

    def grey(self, index: int) -> np.ndarray:
        """The slice as uint8 (H, W)."""
        return grey(self.pixels[index], *self.limits)

    @property
    def colours(self) -> Callable[[np.ndarray], np.ndarray]:
        """The scale that turns this panel's map into RGBA."""
        return change_rgba if self.kind == "change" else heat_rgba


def panels(report: Report) -> list[Panel]:
    """The panels of a report: the current image, and with a prior the prior and the change."""
    image = report.study.image
    low, high, words = grey_limits(image)
    heat = Panel(
        kind="heat",
        title="Current" if report.change else "Image",
        caption=words,
        image=image,
        pixels=image.slices(),
        limits=(low, high),
        overlay=None if report.decision == "out_of_scope" else _slices(report.heatmap),
        level=report.heatmap_threshold,
    )
    change = report.change
    if change is None:
        return [heat]
    prior = report.study.priors[-1].image
    low, high, words = grey_limits(prior)
    if change.prior_on_current is None:
        pixels = prior.slices()
        unaligned = Panel(
            kind="prior",
            title="Prior",
            caption=f"not aligned with the current image; {words}",
            image=prior,
            pixels=pixels,
            limits=(low, high),
            fixed_slice=len(pixels) // 2,
        )
        return [unaligned, heat]
    aligned = Panel(
        kind="prior",
        title="Prior",
        caption=f"aligned with the current image; {words}",
        image=image,
        pixels=_slices(change.prior_on_current),
        limits=(low, high),
        overlay=None if change.prior_heatmap is None else _slices(change.prior_heatmap),
        level=change.prior_threshold,
    )
    if change.map is None:
        return [aligned, heat]
    signed = Panel(
        kind="change",
        title="Change",
        caption="on the current image",
        image=image,
        pixels=heat.pixels,
        limits=heat.limits,
        overlay=_slices(change.map),
    )
    return [aligned, heat, signed]


def key_slice(report: Report) -> int:
    """The slice to look at first: that of the first finding, else where a map is strongest."""
    if report.findings and report.findings[0].key_slice is not None:
        return report.findings[0].key_slice
    change = report.change
    shown = report.heatmap if change is None or change.map is None else change.map
    strength = np.nan_to_num(np.abs(_slices(shown)))
    if strength.max() <= INVISIBLE:
        return len(strength) // 2
    return int((strength > 0.5 * strength.max()).sum(axis=(1, 2)).argmax())


def shown_slices(report: Report) -> list[int]:
    """At most MAX_SLICES slices in order: those of the findings, the rest evenly chosen."""
    depth = len(report.study.image.slices())
    if depth <= MAX_SLICES:
        return list(range(depth))
    keys = [key_slice(report)]
    keys += [f.key_slice for f in report.findings[:MAX_FINDINGS] if f.key_slice is not None]
    chosen = [round(z) for z in np.linspace(0, depth - 1, MAX_SLICES)]
    for key in keys:
        if key not in chosen:
            near = min((z for z in chosen if z not in keys), key=lambda z: abs(z - key))
            chosen[chosen.index(near)] = key
    return sorted(chosen)


def outlines(plane: np.ndarray, level: float) -> list[np.ndarray]:
    """Closed contours of a map (H, W) at a level, as (y, x) points in pixel-centre coordinates."""
    padded = np.pad(np.nan_to_num(plane), 1)  # regions at the border close along it
    return [approximate_polygon(line, 0.2) - 1.0 for line in find_contours(padded, level)]


def _slices(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[None]
