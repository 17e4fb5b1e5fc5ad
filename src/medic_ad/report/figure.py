"""Step 6 of the road: overlay.png, one picture with colour bars in absolute units."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medic_ad.report.labels import change_word, decision_word, score_words
from medic_ad.report.panels import Panel, key_slice, outlines, panels
from medic_ad.report.schema import NOTICE

if TYPE_CHECKING:
    from medic_ad.report.report import Report

BACKGROUND, TEXT, MUTED, CONTOUR = "#0c0e11", "#d9dfe5", "#8d98a3", "#7fe3f5"
TRUTH = "#8fe388"  # outline of a mask, beside that of a map
_PANEL_INCHES = 5.0
_LABEL_REACH = 0.15  # of the colour bar, that the threshold's label takes to either side


def overlay_png(report: Report) -> bytes:
    """The panels of a report at its key slice, as PNG."""
    shown = panels(report)
    index = key_slice(report)
    tall = _PANEL_INCHES / min(max(min(panel.aspect for panel in shown), 0.6), 2.5)
    width, height = _PANEL_INCHES * len(shown), tall + 1.75
    figure = Figure(figsize=(width, height), dpi=110, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for number, panel in enumerate(shown):
        left = (number + 0.03) / len(shown)
        size = 0.94 / len(shown)
        axes = figure.add_axes((left, 1.2 / height, size, tall / height))
        _draw(axes, panel, index if panel.fixed_slice is None else panel.fixed_slice, report)
        if panel.overlay is not None:
            bar = figure.add_axes((left + 0.1 * size, 0.88 / height, 0.8 * size, 0.12 / height))
            _colour_bar(bar, panel, report)
    head = [decision_word(report), change_word(report)]
    if report.heatmap.ndim == 3:
        head.append(f"slice {index + 1} of {report.heatmap.shape[0]}")
    title = "   ".join(part for part in head if part)
    figure.text(0.03 / len(shown), 1 - 0.3 / height, title, color=TEXT, size=13, va="center")
    for line, y in ((score_words(report), 0.3), (NOTICE, 0.13)):
        figure.text(0.03 / len(shown), y / height, line, color=MUTED, size=8, va="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=BACKGROUND)
    return buffer.getvalue()


def outline(axes: Any, plane: np.ndarray, level: float, colour: str, width: float = 1.4) -> None:
    """Draw the contours of a map at a level; nothing where the level is not known."""
    if np.isnan(level):
        return
    for line in outlines(plane, level):
        axes.plot(line[:, 1], line[:, 0], color=colour, linewidth=width)


def _draw(axes: Any, panel: Panel, index: int, report: Report) -> None:
    height, width = panel.pixels.shape[1:]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(panel.grey(index), cmap="gray", vmin=0, vmax=255, extent=extent)
    if panel.overlay is not None:
        axes.imshow(panel.colours(panel.overlay[index]), alpha=0.7, extent=extent)
        if panel.level is not None:
            outline(axes, panel.overlay[index], panel.level, CONTOUR, 1.1)
    axes.set_aspect((width / height) / panel.aspect)
    axes.set_axis_off()
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    if report.change is not None:
        axes.set_title(panel.title, color=MUTED, size=10, loc="left", pad=4)
    letters = panel.image.side_letters()
    places = {(0.02, 0.03): "orientation unknown"}
    if letters is not None:
        spots = {
            "left": (0.02, 0.5),
            "right": (0.96, 0.5),
            "top": (0.5, 0.97),
            "bottom": (0.5, 0.03),
        }
        places = {spots[side]: letter for side, letter in letters.items()}
    box = {"facecolor": BACKGROUND, "alpha": 0.5, "edgecolor": "none", "boxstyle": "round,pad=0.2"}
    for (x, y), words in places.items():
        axes.text(x, y, words, transform=axes.transAxes, color=TEXT, size=9, va="center", bbox=box)


def _colour_bar(axes: Any, panel: Panel, report: Report) -> None:
    low = -1.0 if panel.kind == "change" else 0.0
    ramp = np.linspace(low, 1.0, 256)[None]
    axes.set_facecolor("#33383e")
    axes.imshow(panel.colours(ramp), aspect="auto", extent=(low, 1.0, 0, 1))
    axes.set_yticks([])
    axes.tick_params(colors=MUTED, labelsize=8, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if panel.kind == "change":
        axes.set_xticks([-1, 0, 1], ["-1 better", "0", "+1 worse"])
        return
    threshold = report.heatmap_threshold if panel.level is None else panel.level
    axes.axvline(threshold, color=CONTOUR, linewidth=2)
    ends = [at for at in (0, 1) if abs(at - threshold) > _LABEL_REACH]
    axes.set_xticks([threshold, *ends], [f"{threshold:.2f} threshold", *map(str, ends)])
    axes.set_xlabel("probability of an anomaly", color=MUTED, size=8, labelpad=1)
