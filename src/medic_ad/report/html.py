"""Step 6 of the road: report.html, one self-contained page with the image first."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from PIL import Image as PILImage

from medic_ad.report import labels
from medic_ad.report.colour import gradient
from medic_ad.report.document import plain
from medic_ad.report.panels import MAX_FINDINGS, Panel, key_slice, outlines, panels, shown_slices
from medic_ad.report.schema import FINDINGS_ARE, NOTICE
from medic_ad.report.timeline import course_table, lesion_numbers, timeline_png

if TYPE_CHECKING:
    from medic_ad.report.report import Report

MAX_BYTES = 5_000_000
# Longest side of the pictures in pixels: the first that keeps the page small enough is taken.
_SIDES = {False: (1024, 768, 512, 384), True: (640, 512, 384, 256, 192, 128)}


def render(report: Report) -> str:
    """The page, at most MAX_BYTES long: pictures are shown smaller until it is."""
    page = ""
    for side in _SIDES[report.study.image.is_volume]:
        page = _page(report, side)
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


@cache
def template(name: str) -> jinja2.Template:
    """A page of this package; what is put into it is escaped, and none of it may lack."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medic_ad.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _page(report: Report, side: int) -> str:
    shown = panels(report)
    slices = shown_slices(report)
    key = key_slice(report)
    bases: dict[str, str] = {}  # class name -> data URI: panels share their pictures
    return template("report.html.j2").render(
        report=report,
        notice=NOTICE,
        decision=labels.decision_word(report),
        change=labels.change_word(report),
        score_words=labels.score_words(report),
        study_words=labels.study_words(report),
        findings_are=FINDINGS_ARE[report.decision],
        panels=[_panel(panel, report, slices, side, bases) for panel in shown],
        bases=bases,
        slices=slices,
        scores=_scores(report, slices),
        depth=len(report.study.image.slices()),
        first=slices.index(key),
        rows=[_row(n, report, slices) for n in range(min(len(report.findings), MAX_FINDINGS))],
        more=max(0, len(report.findings) - MAX_FINDINGS),
        course=course_table(report),
        timeline=_timeline(report),
        tolerance_words=labels.tolerance_words(report),
        mixed=labels.is_mixed(report),
        pair=labels.last_pair(report),
        text_dates=labels.text_dates(report),
        alignments=labels.alignment_words(report),
        heat=gradient("heat"),
        signed=gradient("change"),
        provenance=labels.provenance_rows(report),
    )


def _scores(report: Report, slices: list[int]) -> list[float | None]:
    """The score of each shown slice; None where not looked at, empty of a single image."""
    if report.slice_scores is None:
        return []
    return [plain(score) for score in report.slice_scores[slices]]


def _panel(
    panel: Panel, report: Report, slices: list[int], side: int, bases: dict[str, str]
) -> dict[str, Any]:
    indices = slices if panel.fixed_slice is None else [panel.fixed_slice]
    numbers = lesion_numbers(report)
    frames = []
    for index in indices:
        name = f"{'prior' if panel.kind == 'prior' else 'current'}{index}"
        if name not in bases:
            bases[name] = _grey_uri(panel.grey(index), side, panel.pixels.shape[0] > 1)
        frames.append(
            {
                "base": name,
                "overlay": _overlay_uri(panel, index, side),
                "contours": _contours(panel, index),
                "marks": _marks(panel, index, report, numbers),
            }
        )
    return {
        "kind": panel.kind,
        "title": panel.title,
        "caption": panel.caption,
        "date": labels.panel_date(panel.kind, report),
        "aspect": panel.aspect,
        "frames": frames,
        "fixed": panel.fixed_slice is not None,
        "letters": panel.image.side_letters(),
        "scale_bar": panel.scale_bar,
        "view": f"0 0 {panel.pixels.shape[2]} {panel.pixels.shape[1]}",
        "map": panel.overlay is not None,
    }


def _row(index: int, report: Report, slices: list[int]) -> dict[str, Any]:
    finding = report.findings[index]
    frame = None
    if finding.key_slice is not None and finding.key_slice in slices:
        frame = slices.index(finding.key_slice)
    place = finding.location.replace(" of the image", "")
    return {
        "number": lesion_numbers(report)[index],
        "finding": finding,
        "place": place,
        "sizes": labels.sizes(finding),
        "frame": frame,
    }


def _timeline(report: Report) -> str | None:
    png = timeline_png(report)
    return None if png is None else f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _uri(image: PILImage.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _fitted(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Width and height of the picture of a slice (H, W): never enlarged, longest side `side`."""
    scale = min(1.0, side / max(shape))
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _grey_uri(pixels: np.ndarray, side: int, lossy: bool) -> str:
    picture = PILImage.fromarray(pixels)
    size = _fitted(pixels.shape, side)
    if size != picture.size:
        picture = picture.resize(size, PILImage.Resampling.LANCZOS)
    return _uri(picture, "jpeg", quality=90) if lossy else _uri(picture, "png", optimize=True)


def _overlay_uri(panel: Panel, index: int, side: int) -> str | None:
    """The map of a slice as a picture; None where all of it is clear."""
    if panel.overlay is None:
        return None
    plane = np.asarray(panel.overlay[index], dtype=np.float32)
    size = _fitted(plane.shape, side)
    if size != plane.shape[::-1]:
        unseen = PILImage.fromarray(np.isnan(plane)).resize(size, PILImage.Resampling.NEAREST)
        values = PILImage.fromarray(np.nan_to_num(plane)).resize(size, PILImage.Resampling.BOX)
        plane = np.where(np.asarray(unseen), np.nan, np.asarray(values))
    rgba = panel.colours(plane)
    return _uri(PILImage.fromarray(rgba), "png", optimize=True) if rgba[..., 3].any() else None


def _contours(panel: Panel, index: int) -> str:
    """SVG path, in pixels from the upper left corner of the slice, of the map's threshold."""
    if panel.overlay is None or panel.level is None:
        return ""
    lines = outlines(panel.overlay[index], panel.level)
    return "".join(
        "M" + "L".join(f"{x + 0.5:.1f} {y + 0.5:.1f}" for y, x in line[:-1]) + "Z" for line in lines
    )


def _marks(
    panel: Panel, index: int, report: Report, numbers: Sequence[int]
) -> list[dict[str, Any]]:
    """The numbers of the findings on a slice, at the upper right of their boxes, in percent."""
    if panel.kind != "heat":
        return []
    height, width = panel.pixels.shape[1:]
    marks = []
    shown = report.findings[:MAX_FINDINGS]
    for number, finding in zip(numbers, shown, strict=False):
        low, high = finding.box[: len(finding.box) // 2], finding.box[len(finding.box) // 2 :]
        if len(low) == 3 and not low[0] <= index < high[0]:
            continue
        x, y = min(100 * high[-1] / width, 95.0), max(100 * low[-2] / height, 4.0)
        marks.append({"number": number, "x": x, "y": y})
    return marks
