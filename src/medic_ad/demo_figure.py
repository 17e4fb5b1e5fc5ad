"""`medic-ad demo`: the picture of truth beside result."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medic_ad.report.colour import change_rgba, heat_rgba
from medic_ad.report.figure import BACKGROUND, CONTOUR, MUTED, TEXT, TRUTH, outline

if TYPE_CHECKING:
    from medic_ad.demo import Planted
    from medic_ad.report.report import Report

MARGIN_PX = 8


def figure_png(planted: Planted, report: Report) -> bytes:
    """Prior, current, heatmap and change map; planted outlines green, the model's blue."""
    change = None if report.change is None else report.change.map
    panels = [
        ("Prior, as planted", planted.prior, planted.prior_mask, None),
        ("Current, as planted", planted.current, planted.mask, None),
        ("Current, as found", planted.current, planted.mask, heat_rgba(report.heatmap)),
        (
            "Change, as found" if change is not None else "No change map",
            planted.current,
            planted.grown,
            None if change is None else change_rgba(change),
        ),
    ]
    window = _window(planted)
    height, width = (s.stop - s.start for s in window)
    size = 3.6
    tall = size * height / width
    figure = Figure(figsize=(size * len(panels), tall + 0.95), dpi=110, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    total = tall + 0.95
    for number, (title, grey, mask, overlay) in enumerate(panels):
        axes = figure.add_axes(
            ((number + 0.02) / len(panels), 0.5 / total, 0.96 / len(panels), tall / total)
        )
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
        if overlay is not None:
            axes.imshow(overlay, alpha=0.7)
        outline(axes, mask.astype(float), 0.5, TRUTH)
        if number == 2:
            outline(axes, report.heatmap, report.heatmap_threshold, CONTOUR)
        axes.set_xlim(window[1].start - 0.5, window[1].stop - 0.5)
        axes.set_ylim(window[0].stop - 0.5, window[0].start - 0.5)
        axes.set_axis_off()
        axes.set_title(title, color=TEXT, size=11, loc="left", pad=5)
    words = (
        (TRUTH, "planted (last picture: what grew)"),
        (CONTOUR, "found: heatmap at its threshold"),
    )
    for left, (colour, text) in zip((0.006, 0.3), words, strict=True):
        figure.text(left, 0.22 / total, "▬", color=colour, size=12, va="center")
        figure.text(left + 0.02, 0.22 / total, text, color=MUTED, size=10, va="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=BACKGROUND)
    return buffer.getvalue()


def _window(planted: Planted) -> tuple[slice, slice]:
    """The head with a small margin."""
    head = planted.healthy > 0.05
    bounds = []
    for axis in (1, 0):
        places = np.flatnonzero(head.any(axis))
        limit = head.shape[1 - axis]
        bounds.append(
            slice(max(int(places[0]) - MARGIN_PX, 0), min(int(places[-1]) + 1 + MARGIN_PX, limit))
        )
    return bounds[0], bounds[1]
