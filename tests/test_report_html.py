"""The page and the overlay picture: what they hold, and that colours mean absolute values."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as PILImage
from report_cases import (
    AXIAL,
    THRESHOLD,
    blob,
    make_change,
    make_image,
    make_prior,
    make_report,
    normal_report,
    out_of_scope_report,
    pair_report,
)

from medic_ad.finding import Change
from medic_ad.report import NOTICE, html
from medic_ad.report.colour import INVISIBLE, change_rgba, grey, grey_limits, heat_rgba
from medic_ad.report.figure import _colour_bar, overlay_png
from medic_ad.report.labels import number, sizes
from medic_ad.report.panels import MAX_SLICES, key_slice, outlines, panels, shown_slices
from medic_ad.study import Study


def pictures(page: str, kind: str) -> list[np.ndarray]:
    """The pictures of a page: "map" layers or "base" images."""
    pattern = {
        "map": r'class="map" src="data:image/png;base64,([^"]+)"',
        "base": r"background-image: url\(data:image/\w+;base64,([^)]+)\)",
    }[kind]
    found = re.findall(pattern, page)
    return [np.asarray(PILImage.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_colours_are_functions_of_the_absolute_value() -> None:
    ramp = np.linspace(0, 1, 101, dtype=np.float32)[None]
    rgba = heat_rgba(ramp)
    np.testing.assert_array_equal(heat_rgba(ramp[:, :31])[0], rgba[0, :31])
    assert (rgba[0, ramp[0] <= INVISIBLE, 3] == 0).all()
    assert (np.diff(rgba[0, :, 3].astype(int)) >= 0).all() and rgba[0, -1, 3] > 200
    signed = change_rgba(np.array([[-1.0, -0.04, 0.0, 0.04, 1.0]]))[0]
    assert (signed[1:4, 3] == 0).all()
    assert signed[0, 3] == signed[4, 3] > 200
    assert signed[0, 2] > signed[0, 0] and signed[4, 0] > signed[4, 2]  # blue better, warm worse


def test_where_the_model_did_not_look_is_hatched_and_never_coloured() -> None:
    plane = np.full((90, 90), np.nan)
    alpha = heat_rgba(plane)[..., 3]
    assert set(np.unique(alpha)) == {0, 60}
    assert 0 < (alpha > 0).mean() < 0.2


def test_a_normal_image_looks_normal() -> None:
    page = normal_report().to_html()
    assert pictures(page, "map") == []
    assert '<svg class="contour"' not in page


def test_the_map_on_the_page_is_the_map_of_the_report() -> None:
    report = make_report()
    (layer,) = pictures(report.to_html(), "map")
    np.testing.assert_array_equal(layer, heat_rgba(report.heatmap))
    faint = make_report(heatmap=blob((96, 120), 0.45))
    (layer,) = pictures(faint.to_html(), "map")
    np.testing.assert_array_equal(layer, heat_rgba(faint.heatmap))


def test_the_picture_is_the_image_in_its_stated_window() -> None:
    image = make_image(window=(400.0, 100.0))
    (base,) = pictures(make_report(image=image).to_html(), "base")
    np.testing.assert_array_equal(base, grey(image.pixels, 350.0, 450.0))
    assert "window C 400 W 100" in make_report(image=image).to_html()
    low, high, words = grey_limits(make_image())
    assert "0.5th to 99.5th percentile" in words
    assert (make_image().pixels < low).mean() == pytest.approx(0.005, abs=0.001)
    assert (make_image().pixels > high).mean() == pytest.approx(0.005, abs=0.001)


def test_contours_enclose_what_the_threshold_selects_to_the_border() -> None:
    from skimage.draw import polygon2mask

    plane = np.zeros((60, 80), np.float32)
    plane[0:20, 0:30] = 0.9
    (line,) = outlines(plane, THRESHOLD)
    np.testing.assert_allclose(line[0], line[-1])
    assert polygon2mask(plane.shape, line).sum() == pytest.approx(600, abs=5)


def test_a_page_needs_no_network_and_runs_no_text() -> None:
    attack = '<script src="https://example.org/x.js"></script><img src=x onerror=alert(1)>'
    page = make_report(text=attack, question=attack, answer=attack).to_html()
    assert "<script src" not in page and "<img src=x" not in page
    assert "&lt;script src" in page
    loads = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']([^"']*)""", page)
    loads += re.findall(r"url\(([^)]*)\)", page)
    assert len(loads) >= 2 and all(load.startswith("data:") for load in loads)
    assert "default-src 'none'" in page and "@import" not in page


def test_the_notice_stands_at_top_and_bottom() -> None:
    body = make_report().to_html().split("<body")[1]
    first, last = body.index(NOTICE), body.rindex(NOTICE)
    assert first < body.index("<header>") and last > body.index("Provenance")


def test_sides_or_their_absence_are_written_on_the_image() -> None:
    page = make_report().to_html()
    assert "orientation unknown" in page and '<span class="letter' not in page
    page = make_report(image=make_image(affine=AXIAL)).to_html()
    letters = dict(re.findall(r'<span class="letter (\w+)">(\w)</span>', page))
    assert letters == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert "orientation unknown" not in page


def test_units_only_where_the_spacing_is_known() -> None:
    page = make_report().to_html()
    assert " px<" in page and not re.search(r"\d mm|\d ml", page)
    known = make_report(image=make_image((9, 48, 60), spacing_mm=(2.0, 1.0, 1.0)))
    said = sizes(known.findings[0])
    assert [size.split()[-1] for size in said[:4]] == ["ml", "mm²", "across", "longest"]
    first, last = known.findings[0].slice_range or (0, 0)
    assert said[4] == f"slices {first + 1} to {last + 1}" and first < last
    page = known.to_html()
    assert all(size in page for size in sizes(known.findings[0]))
    assert '<span class="ruler"' in page


def test_numbers_are_short() -> None:
    values = (0.01234, 3.0, 42.26, 412.4, 12345.6)
    assert [number(value) for value in values] == ["0.0123", "3.00", "42.3", "412", "12\u202f346"]


def test_what_leads_is_on_the_page() -> None:
    report = pair_report(
        text="There is no anomaly.", question="Is there an anomaly?", answer="Yes."
    )
    page = report.to_html()
    for words in (
        "Abnormal",
        "Worse",
        "There is no anomaly.",
        "Is there an anomaly?",
        "Yes.",
        "upper left",
        "2020-01-02",
        "date 2 of 2",
        "a" * 64,
        "scan.png",
        *report.warnings,
    ):
        assert words in page, words
    assert len(report.warnings) == 3


def test_regions_of_a_normal_read_are_named_evidence() -> None:
    page = make_report(score=0.1, text="There is no anomaly.").to_html()
    assert "evidence below the decision" in page
    assert "evidence below the decision" not in make_report().to_html()


def test_out_of_scope_shows_the_image_and_no_map() -> None:
    page = out_of_scope_report().to_html()
    assert "Out of scope" in page and "distance 3 from what" in page
    assert len(pictures(page, "base")) == 1 and pictures(page, "map") == []
    assert 'id="opacity"' not in page


def test_an_unaligned_prior_is_shown_as_it_is() -> None:
    reason = "The prior overlaps the current image by 10 %."
    change = Change("not_comparable", None, None, reason=reason)
    study = Study(make_image(), priors=(make_prior((60, 60)),))
    report = make_report(study=study, change=change)
    assert [(p.kind, p.pixels.shape) for p in panels(report)] == [
        ("prior", (1, 60, 60)),
        ("heat", (1, 96, 120)),
    ]
    page = report.to_html()
    assert reason in page and "not aligned" in page and "Prior not comparable" in page


def test_panels_share_their_pictures() -> None:
    page = pair_report().to_html()
    assert page.count("<figure") == 3
    assert len(pictures(page, "base")) == 2  # the change is drawn on the current picture
    assert len(pictures(page, "map")) == 2


def test_volumes_show_their_key_slice_first_and_few_slices() -> None:
    report = make_report(image=make_image((60, 48, 60)))
    slices = shown_slices(report)
    key = report.findings[0].key_slice
    assert key is not None and key_slice(report) == key
    assert len(slices) == MAX_SLICES == len(set(slices)) and slices == sorted(slices)
    assert (slices[0], slices[-1]) == (0, 59) and max(np.diff(slices)) <= 3  # evenly
    page = report.to_html()
    shown = re.findall(r'data-frame="(\d+)"\s*(hidden)?', page)
    assert [slices[int(frame)] for frame, hidden in shown if not hidden] == [key]
    assert f"{key + 1} / 60" in page and "48 of 60 slices" in page


def test_without_findings_the_strongest_slice_comes_first() -> None:
    heatmap = np.zeros((60, 48, 60), np.float32)
    heatmap[41, 10:20, 10:20] = 0.3
    report = make_report(
        image=make_image((60, 48, 60)), heatmap=heatmap, score=0.1, text="There is no anomaly."
    )
    assert key_slice(report) == 41
    flat = make_report(
        image=make_image((60, 48, 60)), heatmap=heatmap * 0, score=0.1, text="There is no anomaly."
    )
    assert key_slice(flat) == 30


def test_pixels_that_are_not_square_are_shown_in_proportion() -> None:
    (panel,) = panels(make_report(image=make_image(spacing_mm=(3.0, 1.0))))
    assert panel.aspect == pytest.approx(120 / (96 * 3))
    assert panel.scale_bar == (20, pytest.approx(20 / 120))


def test_a_page_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    report = make_report(image=make_image((700, 900)))
    assert len(report.to_html()) < 5_000_000
    full = pictures(report.to_html(), "base")[0].shape
    monkeypatch.setattr(html, "MAX_BYTES", 300_000)
    page = report.to_html()
    assert len(page) <= 300_000
    assert pictures(page, "base")[0].shape < full == (700, 900)
    assert pictures(page, "map")[0].shape[:2] == pictures(page, "base")[0].shape


def warm_pixels(png: bytes) -> int:
    """Coloured pixels of overlay.png above its colour bars."""
    rgb = np.asarray(PILImage.open(io.BytesIO(png)).convert("RGB")).astype(int)
    above = rgb[: int(rgb.shape[0] * 0.8)]
    return int((above[..., 0] - above[..., 2] > 15).sum())


def test_the_overlay_picture_is_never_rescaled() -> None:
    counts = [
        warm_pixels(overlay_png(normal_report(heatmap=blob((96, 120), peak))))
        for peak in (0.05, 0.35)
    ]
    counts.append(warm_pixels(overlay_png(make_report())))
    assert counts[0] == 0 < counts[1] < counts[2]


def test_the_overlay_picture_of_a_pair_has_three_panels() -> None:
    one, three = (
        PILImage.open(io.BytesIO(overlay_png(report))).size
        for report in (make_report(), pair_report())
    )
    assert three == (3 * one[0], one[1])
    better = make_change(
        label="better",
        scores={"worse": 0.1, "stable": 0.2, "better": 0.7},
        map=-blob((96, 120), 0.8),
    )
    assert warm_pixels(overlay_png(pair_report(change=better))) < warm_pixels(
        overlay_png(pair_report())
    )


@pytest.mark.parametrize("threshold", [0.02, 0.05, 0.1, 0.14, 0.16, 0.5, 0.84, 0.9, 0.98])
def test_labels_of_the_colour_bar_never_overlap(threshold: float) -> None:
    (panel,) = panels(report := make_report())
    figure = Figure(figsize=(5.0, 6.0), dpi=110)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.124, 0.5, 0.752, 0.02))  # as of one panel
    _colour_bar(axes, dataclasses.replace(panel, level=threshold), report)
    canvas.draw()
    labels = axes.get_xticklabels()
    assert f"{threshold:.2f} threshold" in [label.get_text() for label in labels]
    spans = sorted((box.x0, box.x1) for box in (one.get_window_extent() for one in labels))
    assert len(spans) == (3 if 0.15 < threshold < 0.85 else 2)
    assert all(left[1] + 3 < right[0] for left, right in pairwise(spans))
