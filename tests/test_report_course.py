"""The course of several dates on the page, in the table of the command line and in the JSON."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import io
import json
import math
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from course_cases import DAYS
from matplotlib.figure import Figure
from PIL import Image as PILImage
from report_cases import QUALITY, make_change, make_image, make_report, normal_report, pair_report
from rich.console import Console
from scipy import ndimage

from medic_ad.cli_show import show_course, show_report, track_slices
from medic_ad.course import Step, Visit, follow_studies, measure_date
from medic_ad.errors import MedicADError
from medic_ad.finding import Change, find
from medic_ad.report import Report
from medic_ad.report.panels import panels
from medic_ad.report.rules import due_warnings
from medic_ad.report.schema import validate
from medic_ad.report.timeline import MAX_LESIONS, course_table, lesion_numbers, timeline_png
from medic_ad.study import Study

SHAPE = (60, 48, 60)
SPACING = (2.0, 1.0, 1.0)
Days = tuple[datetime.date | None, ...]
CLOSE = {**QUALITY, "overlap": 1.0, "similarity_before": 0.93, "displacement_mm": 0.0}
SCORES = {"worse": 0.7, "stable": 0.2, "better": 0.1}


def heat(boxes: int, side: int) -> np.ndarray:
    """A volume with cubes in a row, the last grown to `side`."""
    out = np.full(SHAPE, 0.02, np.float32)
    for i in range(boxes):
        size = side if i == boxes - 1 else 4
        out[10 : 10 + size, 5 : 5 + size, 4 + 14 * i : 4 + 14 * i + size] = 0.9
    return out


@cache
def report(cut: bool = False, days: Days = DAYS) -> Report:
    """Three dates: two cubes, then the second grows, then a third appears."""
    image = make_image(SHAPE, spacing_mm=SPACING)
    maps = [heat(2, 4), heat(2, 6), heat(3, 4)]
    decisions = ["abnormal"] * 3
    bands = [(0.05, 0.25), None, (0.4, 0.6)]
    visits = [Visit(d, 0.93, w, b) for d, w, b in zip(days, decisions, bands, strict=True)]
    steps = [Step("worse", SCORES, None, False, alignment=a) for a in (CLOSE, QUALITY)]
    change = make_change(SHAPE, prior_heatmap=maps[1], prior_threshold=0.37)
    if cut:
        steps[1] = Step("not_comparable", None, "The images differ.", False)
        change = Change("not_comparable", None, None, reason="The images differ.")
    course = follow_studies(
        visits,
        [measure_date(m, 0.42, image) for m in maps],
        steps,
        [(np.diag([*SPACING, 1.0]),) * 2] * 2,
        volumes=True,
    )
    return make_report(
        study=Study(image, date=days[2], priors=tuple(Study(image, date=day) for day in days[:2])),
        heatmap=maps[2],
        findings=find(maps[2], 0.42, image),
        change=change,
        course=course,
    )


def test_the_json_holds_the_course() -> None:
    content = json.loads(report().to_json())
    validate(content)
    course = content["course"]
    assert [d["date"] for d in course["dates"]] == [str(day) for day in DAYS]
    bands = [d["uncertain_band"] for d in course["dates"]]
    assert bands == [[0.05, 0.25], None, [0.4, 0.6]]
    cube, grown = 64 * 2 / 1000, 216 * 2 / 1000
    np.testing.assert_allclose(
        [d["load"] for d in course["dates"]], [2 * cube, cube + grown, 3 * cube]
    )
    rows = {row["id"]: row for row in course["lesions"]}
    assert {i: row["kinds"] for i, row in rows.items()} == {
        1: ["stable", "stable"],
        2: ["enlarged", "reduced"],
        3: [None, "new"],
    }
    np.testing.assert_allclose(rows[2]["sizes"], [cube, grown, cube])
    assert rows[3]["percent"] is None and rows[3]["sizes"][:2] == [None, None]
    [new] = [c for c in course["pairs"][1]["changes"] if c["kind"] == "new"]
    assert new["after"] == [3] and new["sizes"] == [0, pytest.approx(cube)]
    assert [p["load_label"] for p in course["pairs"]] == ["worse", "better"]
    assert [p["alignment"]["similarity_before"] for p in course["pairs"]] == [0.93, 0.39]
    wrongs: list[dict[str, Any]] = [{"unit": "px"}, {"dates": []}, {"surprise": 1}]
    for broken in wrongs:
        with pytest.raises(MedicADError, match="does not follow"):
            validate(content | {"course": course | broken})


def test_the_page_has_table_timeline_and_linked_slices() -> None:
    page = report().to_html()
    table = re.search(r"Course of the lesions.*?</table>", page, re.S)
    assert table is not None
    for words in (*map(str, DAYS), "enlarged", "reduced", "new", "0.432", "+0.128", "worse"):
        assert words in table[0], words
    picture = re.search(r'class="timeline" src="data:image/png;base64,([^"]+)"', page)
    assert picture is not None
    drawn = PILImage.open(io.BytesIO(base64.b64decode(picture[1])))
    assert drawn.width > 1000 and timeline_png(report()) is not None
    frames = re.findall(r'data-frame="(\d+)"', page)
    assert len(frames) == 3 * 48 and "48 of 60 slices are shown" in page  # prior, current, change
    assert len(page.encode()) < 5_000_000
    assert [w for w in report().warnings if "the comparison leads" in w][0] in page


def test_the_page_says_how_well_each_pair_is_aligned() -> None:
    page = report().to_html()
    card = page.split("Comparison with the prior")[1].split("</div>")[0]
    lines = re.findall(r"<p[^>]*>(.*?)</p>", card)[-2:]
    assert lines == [
        "From 2021-01-01 to 2022-01-01: aligned by 0 mm on average: 100% of the smaller view in "
        "both, local correlation 0.93 before and 0.93 after, of grey values 0.95 and 1.00.",
        "From 2022-01-01 to 2024-01-01: aligned by 12.2 mm on average: 97% of the smaller view in "
        "both, local correlation 0.39 before and 0.93 after, of grey values 0.95 and 1.00.",
    ]
    assert "ncc_before" not in page and "alignment, " not in page


def test_a_warning_says_which_way_the_load_went_against_the_label() -> None:
    (said,) = (w for w in report().warnings if "the measured lesion load" in w)
    assert said.startswith(f"From {DAYS[1]} to {DAYS[2]} the comparison says worse, but the ")
    assert "load fell (0.560 to 0.384 ml);" in said
    whole = report().course
    assert whole is not None
    step = dataclasses.replace(whole.steps[1], load_label="stable", loads=(1645.0, 1426.0))
    course = dataclasses.replace(whole, steps=(whole.steps[0], step))
    (said,) = due_warnings("normal", (), None, "", report().study, course=course)[-1:]
    assert (
        "says worse, but the measured lesion load fell (1\u202f645 to 1\u202f426 ml, within" in said
    )


def test_growth_over_three_dates_is_said_to_be_from_first_to_last() -> None:
    console = Console(width=200, record=True)
    show_course(report(), console)
    assert "since the date before; change and growth from the first" in console.export_text()


def test_growth_without_every_date_is_said_to_be_missing_once() -> None:
    console = Console(width=200, record=True)
    undated = report(days=(DAYS[0], None, DAYS[2]))
    show_course(undated, console)
    for shown in (console.export_text(), undated.to_html()):
        assert shown.count("No growth per year: not every date is known.") == 1
    show_course(report(), console)
    assert "No growth per year" not in console.export_text()


@pytest.mark.parametrize("cut", [False, True])
def test_of_three_dates_text_and_change_say_of_which_they_speak(
    cut: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = "2022-01-01 to 2024-01-01"
    page = report(cut).to_html()
    assert f"generated by the model, of {'2024-01-01' if cut else pair}<" in page
    assert f"Comparison with the prior <small>{pair}</small>" in page
    show_report(report(cut))
    screen = " ".join(capsys.readouterr().out.split())
    assert f"of the image.” (of {'2024-01-01' if cut else pair})" in screen
    assert f"Change, {pair}: " in screen
    show_report(pair_report())
    assert "Change: worse" in capsys.readouterr().out
    assert "generated by the model<" in pair_report().to_html()


def test_a_page_without_a_course_has_no_table() -> None:
    page = make_report().to_html()
    assert "Course of the lesions" not in page and 'class="timeline"' not in page
    assert course_table(make_report()) is None and timeline_png(make_report()) is None


def test_the_prior_shows_its_own_lesions() -> None:
    before, now, _ = panels(report())
    assert before.kind == "prior" and before.overlay is not None
    np.testing.assert_array_equal(before.overlay, heat(2, 6))
    assert (before.level, now.level) == (0.37, 0.42)  # each of its own scope entry
    page = report().to_html()
    prior = page.split('class="panel prior"')[1].split("<figure")[0]
    assert '<svg class="contour"' in prior


def test_a_lesion_bears_one_number_in_table_findings_and_picture() -> None:
    table = course_table(report())
    assert table is not None
    joined = {row["id"]: row["finding"] for row in table.rows}
    assert sorted(joined.values()) == [0, 1, 2] and set(joined) == {1, 2, 3}
    for number, finding in joined.items():
        box = report().findings[finding].box
        assert box[2] == 4 + 14 * (number - 1)
        assert lesion_numbers(report())[finding] == number
    boxes = [finding.box for finding in report().findings]
    marks = re.findall(
        r'class="number" style="left:([\d.]+)%;top:[\d.]+%">(\d+)<', report().to_html()
    )
    places = {int(number): float(x) for x, number in marks}
    width = report().study.image.grid[-1]
    for number, finding in joined.items():
        assert places[number] == pytest.approx(min(100 * boxes[finding][-1] / width, 95), abs=0.01)


def test_a_cut_is_said_and_nothing_is_joined_across_it() -> None:
    cut = report(cut=True)
    table = course_table(cut)
    assert table is not None and cut.course is not None
    assert table.notes == ["2022-01-01 to 2024-01-01 cannot be compared: The images differ."]
    assert table.notes[0] in cut.to_html()
    assert {row.number for row in cut.course.rows()} == {1, 2, 3, 4, 5}
    assert timeline_png(cut) is not None
    last = [row for row in cut.course.rows() if row.sizes[2] is not None]
    assert all(math.isnan(row.change) and row.kinds[1] is None for row in last)


def test_the_command_line_prints_the_lesions(capsys: pytest.CaptureFixture[str]) -> None:
    show_course(report(), Console(width=200, highlight=False))
    text = capsys.readouterr().out
    rows = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    assert rows["lesion"] == [*map(str, DAYS), "change", "%", "a", "year", "%", "a", "year"]
    assert rows["1"][:5] == ["0.128", "0.128", "stable", "0", "%"]
    assert rows["2"][:3] == ["0.128", "0.432", "enlarged"] and rows["2"][4] == "%"
    assert float(rows["2"][3]) == pytest.approx(237.5, abs=0.6)
    assert rows["2"][5:9] == ["0.128", "reduced", "−70.4", "%"]
    assert rows["3"][:4] == ["–", "–", "0.128", "new"]
    assert rows["load"] == ["0.256", "0.560", "worse", "0.384", "better"]
    assert rows["comparison"] == ["worse", "worse"] and rows["score"] == ["0.93"] * 3
    show_course(make_report(), Console())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [32, 50, 80, 100])
def test_a_narrow_screen_gets_the_columns_below_each_other_and_all_of_them(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words: dict[int, list[str]] = {}
    for wide in (width, 200):
        show_course(report(), Console(width=wide, highlight=False))
        text = capsys.readouterr().out
        assert "…" not in text and max(map(len, text.splitlines())) <= wide
        words[wide] = sorted({word.strip("─") for word in text.split()})
    assert words[width] == words[200]


def test_each_date_shows_the_band_of_its_own_kind_of_scan() -> None:
    png = timeline_png(report())
    assert png is not None
    drawn = np.asarray(PILImage.open(io.BytesIO(png)).convert("RGB"))
    bar = (drawn == (0x3A, 0x44, 0x4E)).all(-1)
    labels, count = ndimage.label(ndimage.binary_opening(bar, np.ones((9, 9))))
    assert count == 2  # the date between has none
    boxes = sorted(ndimage.find_objects(labels), key=lambda box: box[1].start)
    (first, _), (last, _) = boxes
    assert boxes[0][1].stop < drawn.shape[1] / 3 and boxes[1][1].start > drawn.shape[1] / 2
    assert first.start > last.stop  # 0.25 lies below 0.4
    pixels = [band.stop - band.start for band in (first, last)]
    assert pixels[0] == pytest.approx(pixels[1], abs=2)  # both 0.2 high
    step = (first.stop - last.stop) / 0.35  # of the axis: from 0.05 to 0.4
    assert pixels[0] / step == pytest.approx(0.2, abs=0.02)


def test_no_bar_where_no_screen_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track_slices(range(0, 40, 16))) == [0, 16, 32]
    assert capsys.readouterr().err == ""


def test_without_lesions_there_are_no_columns_of_growth_and_the_axis_is_one_unit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, nothing = make_image(spacing_mm=(1.0, 1.0)), np.full((96, 120), 0.02, np.float32)
    course = follow_studies(
        [Visit(None, 0.1, "normal", (0.4, 0.6))] * 2,
        [measure_date(nothing, 0.42, image)] * 2,
        [Step("stable", None, None, False)],
        [None],
        False,
    )
    made = normal_report(
        study=Study(image, priors=(Study(image),)),
        change=make_change(scores={"worse": 0.2, "stable": 0.7, "better": 0.1}, label="stable"),
        course=course,
    )
    show_course(made, Console(width=200, highlight=False))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[:2] == [["No", "lesion", "to", "follow:"], ["date", "1", "date", "2"]]
    assert rows[3:] == [
        ["load", "0", "0", "stable"],
        ["comparison", "stable"],
        ["score"] + ["0.10"] * 2,
    ]
    page = made.to_html().split("Course of the lesions")[1]
    assert "No lesion to follow." in page and "a year" not in page and "Slice" not in page
    heights = []
    save = Figure.savefig

    def kept(figure: Figure, *args: Any, **options: Any) -> None:
        heights.append(figure.axes[0].get_ylim())
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    timeline_png(made)
    timeline_png(report())
    assert heights == [(0, 1), (0, pytest.approx(1.3 * 0.56))]


def test_few_of_many_lesions_are_shown() -> None:
    image = make_image(spacing_mm=(1.0, 1.0))
    spots = np.full((96, 120), 0.02, np.float32)
    for i in range(30):
        spots[3 + 15 * (i // 8) :, 3 + 14 * (i % 8) :][: 3 + (i == 29), :4] = 0.9
    dates = [measure_date(spots, 0.42, image)] * 2
    course = follow_studies(
        [Visit(None, 0.93, "abnormal", (0.4, 0.6))] * 2,
        dates,
        [Step("stable", None, None, False)],
        [None],
        False,
    )
    assert course.unit == "mm2" and course.counts == (30, 30)
    change = make_change(scores={"worse": 0.2, "stable": 0.7, "better": 0.1}, label="stable")
    made = make_report(
        study=Study(image, priors=(Study(image),)),
        heatmap=spots,
        findings=find(spots, 0.42, image),
        change=change,
        course=course,
    )
    table = course_table(made)
    assert table is not None and (len(table.rows), table.more) == (MAX_LESIONS, 6)
    assert table.dates == ["date 1", "date 2"]
    assert "and 6 smaller lesions" in made.to_html()
    with pytest.raises(MedicADError, match="has a prior"):
        dataclasses.replace(made, study=Study(image), change=None)
