"""Evaluation: pictures of a measurement; colours are functions of the absolute value."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from medic_ad.evaluate import metrics
from medic_ad.evaluate.maps import Maps
from medic_ad.report.colour import grey, heat_rgba
from medic_ad.report.figure import BACKGROUND, CONTOUR, MUTED, TEXT, TRUTH, outline

LINES = ("#6fb4f5", "#f0a35e", "#b5a8e8", "#9aa6b1")

Scored = dict[str, np.ndarray]  # whose -> `(n,)`


def uri(figure: Figure) -> str:
    """A drawn figure as the address of an image that holds itself."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=BACKGROUND)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _canvas(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=110, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    return figure


def plot(x: str, y: str, draw: Callable[[Any], None]) -> str:
    """One pair of axes, both from 0 to 1 unless `draw` says otherwise."""
    figure = _canvas(4.6, 4.4)
    axes = figure.add_axes((0.14, 0.13, 0.82, 0.83), facecolor=BACKGROUND)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    draw(axes)
    axes.set_xlabel(x, color=MUTED, size=9)
    axes.set_ylabel(y, color=MUTED, size=9)
    axes.tick_params(colors=MUTED, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color("#30363c")
    axes.legend(facecolor=BACKGROUND, edgecolor="#30363c", labelcolor=TEXT, fontsize=8, loc="best")
    return uri(figure)


def roc(scored: Scored, labels: np.ndarray) -> str:
    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1, label="chance")
        for colour, (name, scores) in zip(LINES, scored.items(), strict=False):
            rate, sensitivity, _ = roc_curve(labels, scores)
            axes.plot(rate, sensitivity, color=colour, linewidth=1.6, label=name)

    return plot("1 - specificity", "sensitivity", draw)


def precision_recall(scored: Scored, labels: np.ndarray) -> str:
    def draw(axes: Any) -> None:
        axes.axhline(labels.mean(), linestyle=":", color=MUTED, linewidth=1, label="chance")
        for colour, (name, scores) in zip(LINES, scored.items(), strict=False):
            precision, recall, _ = precision_recall_curve(labels, scores)
            axes.step(recall, precision, color=colour, linewidth=1.6, where="pre", label=name)

    return plot("sensitivity (recall)", "precision", draw)


def reliability(scored: Scored, labels: np.ndarray, prevalence: float) -> str:
    """Share of abnormal against mean score in the bins of the calibration error."""
    weight = metrics.to_prevalence(labels, prevalence)

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1, label="perfectly calibrated")
        for colour, (name, scores) in zip(LINES, scored.items(), strict=False):
            mass, score, share = metrics.reliability(scores, labels, weight)
            size = 12 + 240 * mass
            axes.plot(score, share, color=colour, linewidth=1, alpha=0.6)
            axes.scatter(score, share, s=size, color=colour, label=name)

    return plot("mean score of the bin", f"share abnormal, at prevalence {prevalence:.2f}", draw)


def pixel_roc(maps: dict[str, Maps], keep: np.ndarray) -> str:
    """Pooled over the pixels of some images, from the histograms that the figures come from."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1, label="chance")
        for colour, (name, found) in zip(LINES, maps.items(), strict=False):
            sides = (
                side[keep].sum(0)[::-1] for side in (found.pixels.negative, found.pixels.positive)
            )
            rate, hit = (np.cumsum([0, *side]) / max(side.sum(), 1) for side in sides)
            axes.plot(rate, hit, color=colour, linewidth=1.6, label=name)

    return plot("share of lesion-free pixels drawn", "share of lesion pixels drawn", draw)


def free_response(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Lesions found against false marks per image; whose -> (false, found) per threshold."""

    def draw(axes: Any) -> None:
        high = max([1.0, *(float(false.max()) for false, _ in curves.values())])
        axes.set_xlim(-0.01 * high, 1.01 * high)
        for colour, (name, (false, found)) in zip(LINES, curves.items(), strict=False):
            axes.plot(false, found, ".-", color=colour, linewidth=1.4, label=name)

    return plot("false marks per image", "share of lesions found", draw)


def case(
    pixels: np.ndarray,
    window: tuple[float, float],
    heatmap: np.ndarray,
    threshold: float,
    mask: np.ndarray | None,
) -> str:
    """The image with the outline of its mask, and the heatmap over it with its threshold."""
    shown = grey(pixels, *window)
    figure = _canvas(6.4, 3.2)
    for number, overlay in enumerate((None, heat_rgba(heatmap))):
        axes = figure.add_axes((number * 0.5 + 0.004, 0.01, 0.492, 0.98))
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
        if overlay is not None:
            axes.imshow(overlay, alpha=0.7)
            outline(axes, heatmap, threshold, CONTOUR)
        if mask is not None:
            outline(axes, mask.astype(float), 0.5, TRUTH)
        axes.set_xlim(-0.5, shown.shape[1] - 0.5)
        axes.set_ylim(shown.shape[0] - 0.5, -0.5)
        axes.set_axis_off()
    return uri(figure)
