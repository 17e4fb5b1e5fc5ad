"""Evaluation: pictures of a measurement; colours are functions of the absolute value."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.maps import Maps
from medic_ad.report.colour import change_rgba, grey, heat_rgba
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


def reliability(
    scored: dict[str, tuple[np.ndarray, np.ndarray]], prevalence: float | None, share_of: str
) -> str:
    """Share of a class against its mean probability, in the bins of the calibration error.

    Args:
        scored: whose -> `(n,)` probabilities and `(n,)` 1 where the class is true.
        prevalence: that the items are weighted to, `None` as they are.
        share_of: words for the upright axis.
    """

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1, label="perfectly calibrated")
        for colour, (name, (scores, labels)) in zip(LINES, scored.items(), strict=False):
            weight = metrics.to_prevalence(labels, prevalence)
            mass, score, share = metrics.reliability(scores, labels, weight)
            size = 12 + 240 * mass
            axes.plot(score, share, color=colour, linewidth=1, alpha=0.6)
            axes.scatter(score, share, s=size, color=colour, label=name)

    return plot("mean probability of the bin", share_of, draw)


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


def confusion(counts: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> str:
    """Numbers of items, true class by row; shades are shares of the row."""
    figure = _canvas(4.6, 4.4)
    axes = figure.add_axes((0.24, 0.16, 0.72, 0.76), facecolor=BACKGROUND)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap=LinearSegmentedColormap.from_list("shades", (BACKGROUND, LINES[0])),
                vmin=0, vmax=1, aspect="auto")  # fmt: skip
    for (row, column), n in np.ndenumerate(counts):
        dark = share[row, column] > 0.6
        axes.text(column, row, f"{int(n)}\n{share[row, column]:.0%}", ha="center", va="center",
                  color=BACKGROUND if dark else TEXT, size=10)  # fmt: skip
    axes.set_xticks(range(len(columns)), [c.replace("_", " ") for c in columns])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("said", color=MUTED, size=9)
    axes.set_ylabel("true", color=MUTED, size=9)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    for spine in axes.spines.values():
        spine.set_color("#30363c")
    return uri(figure)


def free_response(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Lesions found against false marks per image; whose -> (false, found) per threshold.

    From 1/8 on each step to the right doubles the false marks, as LUNA16 shows its curves.
    """

    def draw(axes: Any) -> None:
        high = max([8.0, *(float(false.max()) for false, _ in curves.values())])
        axes.set_xscale("symlog", base=2, linthresh=0.125)
        axes.set_xlim(0, high)
        ticks = [0.125, 0.5, *(2.0**k for k in range(1, 1 + math.floor(math.log2(high)), 2))]
        axes.set_xticks([0, *ticks], ["0", "1/8", "1/2", *(f"{t:g}" for t in ticks[2:])])
        for colour, (name, (false, found)) in zip(LINES, curves.items(), strict=False):
            axes.plot(false, found, ".-", color=colour, linewidth=1.4, label=name)

    return plot("false marks per image", "share of lesions found", draw)


def _panels(
    planes: Sequence[tuple[np.ndarray, tuple[float, float]]], overlay: np.ndarray
) -> tuple[Figure, list[Any]]:
    """Grey planes side by side, and colours over the last one."""
    figure, axes = _canvas(3.2 * len(planes), 3.2), []
    for number, (pixels, window) in enumerate(planes):
        one = figure.add_axes(((number + 0.008) / len(planes), 0.01, 0.984 / len(planes), 0.98))
        one.imshow(grey(pixels, *window), cmap="gray", vmin=0, vmax=255)
        axes.append(one)
    axes[-1].imshow(overlay, alpha=0.7)
    return figure, axes


def _closed(figure: Figure, axes: Sequence[Any], shape: tuple[int, ...]) -> str:
    for one in axes:
        one.set_xlim(-0.5, shape[1] - 0.5)
        one.set_ylim(shape[0] - 0.5, -0.5)
        one.set_axis_off()
    return uri(figure)


def plain(pixels: np.ndarray, window: tuple[float, float]) -> str:
    """The image alone."""
    figure, axes = _panels([(pixels, window)], np.zeros((*pixels.shape, 4)))
    return _closed(figure, axes, pixels.shape)


def case(
    pixels: np.ndarray,
    window: tuple[float, float],
    heatmap: np.ndarray,
    threshold: float,
    mask: np.ndarray | None,
) -> str:
    """The image with the outline of its mask, and the heatmap over it with its threshold."""
    figure, axes = _panels([(pixels, window)] * 2, heat_rgba(heatmap))
    outline(axes[1], heatmap, threshold, CONTOUR)
    if mask is not None:
        for one in axes:
            outline(one, mask.astype(float), 0.5, TRUTH)
    return _closed(figure, axes, pixels.shape)


def pair_case(
    prior: np.ndarray,
    current: np.ndarray,
    windows: Sequence[tuple[float, float]],
    change: np.ndarray,
    threshold: float,
    mask: np.ndarray | None,
) -> str:
    """Prior, current image, and the signed change map over it; all on the current grid."""
    planes = [(prior, windows[0]), (current, windows[1]), (current, windows[1])]
    figure, axes = _panels(planes, change_rgba(change))
    outline(axes[2], np.abs(np.nan_to_num(change)), threshold, CONTOUR)
    if mask is not None:
        for one in axes[1:]:
            outline(one, mask.astype(float), 0.5, TRUTH)
    return _closed(figure, axes, current.shape)
