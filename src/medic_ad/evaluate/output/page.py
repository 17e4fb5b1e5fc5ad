"""Evaluation: one measurement -> figures.json, figures.md, figures.html, cases.csv, a screen."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medic_ad.errors import DataError
from medic_ad.evaluate.figures.bootstrap import LEVEL, Figure
from medic_ad.evaluate.output.markdown import number, section, spread
from medic_ad.evaluate.output.record import as_json, without_nan, write_texts
from medic_ad.evaluate.predictions.store import Part
from medic_ad.report.colour import gradient
from medic_ad.report.figure import CONTOUR, TRUTH
from medic_ad.report.html import template
from medic_ad.report.schema import NOTICE

SCHEMA = "medic-ad/figures/1"
SCALES = {  # what the colours of worst cases stand for: their outline, low end, middle, high end
    "heat": ("heatmap at its threshold", "0", "probability of an anomaly", "1"),
    "change": ("change map at its threshold", "-1 better", "signed change", "+1 worse"),
}
NOT_LOOKED = (
    "Whether these weights have seen these images, or near twins of them, was not looked for."
)
INTERVAL = f"{LEVEL:.0%} interval, or each unit"


@dataclass(frozen=True)
class Picture:
    """A drawing of the page: the address that holds it, and words on it."""

    words: str
    picture: str


@dataclass(frozen=True)
class Measured:
    """All that one run found.

    Attributes:
        stage: name of the command: "detect", "compare" ...
        provenance: what the figures depend on.
        verdict: one sentence on the model beside the best baseline.
        beats_baseline: whether the interval of the difference lies above zero; `None` where it is
            not known.
        parts: sections of the table.
        cases: one row an image, pair or question, for `cases.csv`.
        curves, worst: drawings.
        worst_words: how the worst cases were chosen; empty where none are shown.
        extra: further values of the JSON, such as points of a curve.
        scale: which colours the worst cases show: "heat", "change" or none ("").
    """

    stage: str
    provenance: dict[str, Any]
    verdict: str
    beats_baseline: bool | None
    parts: list[Part]
    cases: list[dict[str, Any]]
    curves: Sequence[Picture] = ()
    worst: Sequence[Picture] = ()
    worst_words: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    scale: str = "heat"


def verdict(
    difference: Figure, model: str, baseline: str, trivial: bool = True
) -> tuple[str, bool | None]:
    """A sentence on a paired difference between a model and a baseline, and whether it is won."""
    kind = "trivial baseline " if trivial else ""
    name, said = difference.name, f"{number(difference.value)} ({spread(difference)})"
    words = f"{name} of {model} minus that of the {kind}{baseline}: {said}."
    if difference.value <= 0:
        return f"The {kind}{baseline} is at least as good as {model}. {words}", False
    if difference.interval is None:
        return f"Too few units to tell whether {model} beats {baseline}. {words}", None
    if difference.interval[0] <= 0:
        return f"{model} is not shown to be better than {baseline}. {words}", False
    best = "best trivial baseline" if trivial else baseline
    return f"{model} is better than the {best}. {words}", True


def title_of(m: Measured) -> str:
    data = m.provenance["data"]
    return f"{m.stage.capitalize()}: {m.provenance['model']} on {data['table']}, {data['split']}"


def head_of(m: Measured) -> list[str]:
    p = m.provenance
    made = f"Weights {p['weights_sha256'][:16]}, medic_ad {p['medic_ad']}, {p['date'][:10]}."
    if "resamples" in p["arguments"]:
        made += (
            f" {p['arguments']['resamples']} cluster bootstraps; below 10 units each unit's figure "
            "stands and no interval; p is the two-sided bootstrap probability of a paired "
            "difference."
        )
    return [m.verdict, *seen_of(p), made]


def seen_of(provenance: dict[str, Any]) -> list[str]:
    """What the weights may know of the measured images, where a split of a table was measured."""
    split = provenance["arguments"].get("split")
    if split is None:
        return []
    said = [provenance["data"]["seen"] or NOT_LOOKED]
    if split != "test":
        said.append(f"The split is {split!r}: weights made from this very table were fitted to it.")
    return said


def row_of(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name, figure.of, number(figure.value), spread(figure), str(figure.n),
        str(figure.units),
    )  # fmt: skip


def content_of(m: Measured) -> dict[str, Any]:
    """What `figures.json` holds."""
    return {
        "schema": SCHEMA,
        "research_use": NOTICE,
        "stage": m.stage,
        "provenance": m.provenance,
        "verdict": m.verdict,
        "beats_baseline": m.beats_baseline,
        "parts": [dataclasses.asdict(part) for part in m.parts],
        "worst": [case.words for case in m.worst],
        **m.extra,
    }


def read_page(page: Path) -> dict[str, Any]:
    """What the `figures.json` beside a page holds.

    Raises:
        DataError: it is not there, of another kind, or has a part that neither holds a figure nor
            says why.
    """
    path = page.with_name("figures.json")
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        said = [bool(part["figures"] or part["notes"]) for part in found["parts"]]
        whole = found["schema"] == SCHEMA and bool(said) and all(said)
    except (OSError, ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise DataError(
            f"expected figures of `medic-ad evaluate` in {path}, but it cannot be read as such; "
            "measure again, or remove it"
        )
    return found


def as_markdown(m: Measured) -> str:
    lines = [f"## {title_of(m)}", "", f"{NOTICE}", ""]
    for sentence in head_of(m):
        lines += [sentence, ""]
    for part in m.parts:
        lines += section(part)
    return "\n".join(lines)


def as_html(m: Measured) -> str:
    parts = [
        {
            "title": part.title,
            "notes": part.notes,
            "rows": [row_of(f) for f in part.figures],
            "drawn": "Unit of resampling: "
            + "; ".join(dict.fromkeys(f.unit for f in part.figures)),
        }
        for part in m.parts
    ]
    flat = {k: v for k, v in m.provenance.items() if not isinstance(v, dict)}
    nested = {k: v for k, v in m.provenance.items() if isinstance(v, dict)}
    rows = [*flat.items(), *((k, json.dumps(without_nan(v))) for k, v in nested.items())]
    return template("figures.html.j2").render(
        title=title_of(m), head=head_of(m), parts=parts, interval=INTERVAL, notice=NOTICE,
        curves=[{"title": c.words, "picture": c.picture} for c in m.curves], worst=m.worst,
        worst_words=m.worst_words, truth=TRUTH, contour=CONTOUR, scale=SCALES.get(m.scale),
        colours=gradient(m.scale), provenance=rows,
    )  # fmt: skip


def as_csv(cases: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(cases[0]) if cases else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(cases)
    return text.getvalue()


def write(folder: Path, m: Measured) -> Path:
    """Write all files of a measurement, or none."""
    texts = {
        "figures.json": as_json(content_of(m)),
        "figures.md": as_markdown(m),
        "cases.csv": as_csv(m.cases),
        "figures.html": as_html(m),
    }
    write_texts(folder, texts)
    return folder / "figures.html"


def show(m: Measured) -> None:
    """The table on the screen; of a part without figures, why it has none."""
    console = Console()
    for part in m.parts:
        table = Table(title=part.title, title_justify="left", expand=False)
        for name in ("figure", "of", "value", INTERVAL, "n", "units"):
            table.add_column(name, justify="right" if name in ("value", "n", "units") else "left")
        for figure in part.figures:
            table.add_row(*row_of(figure))
        if part.figures:
            console.print(table)
        else:
            console.print(f"{part.title}: {' '.join(part.notes)}", markup=False, soft_wrap=True)
    console.print(m.verdict, markup=False, soft_wrap=True)
    console.print(NOTICE, markup=False)
