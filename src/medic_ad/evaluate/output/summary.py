"""Evaluation: one page over all measurements, with a link to each."""

from __future__ import annotations

import dataclasses
import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medic_ad import __version__
from medic_ad.data.registry import SETS
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.output.markdown import number, spread
from medic_ad.evaluate.output.page import INTERVAL, read_page
from medic_ad.evaluate.output.record import as_json, figure_of, write_texts
from medic_ad.report.html import template
from medic_ad.report.schema import NOTICE

SCHEMA = "medic-ad/summary/1"


@dataclass(frozen=True)
class Row:
    """One measurement, or why there is none.

    Attributes:
        name, split, stage: of the measurement.
        figure: its first figure, which stands for it; `None` where there is none.
        verdict: its sentence.
        beats: whether the model beats the best trivial baseline; `None` where that is not known.
        page: its page, as a path from the summary's folder.
        seconds: that it took in this run; near 0 where it was measured before.
        reason: why there is no figure; `None` otherwise.
        listed: whether another command measured it, on a table of its own; it is not counted.
    """

    name: str
    split: str
    stage: str
    figure: Figure | None = None
    verdict: str = ""
    beats: bool | None = None
    page: str = ""
    seconds: float = 0.0
    reason: str | None = None
    listed: bool = False

    @classmethod
    def of_page(cls, page: Path, out: Path, name: str, split: str, stage: str, **more: Any) -> Row:
        """The row of a measurement that was written; `more` are `seconds` or `listed`.

        Raises:
            DataError: it cannot be read.
        """
        found = read_page(page)
        figures = [figure_of(f) for part in found["parts"] for f in part["figures"]]
        why = " ".join(note for part in found["parts"] for note in part["notes"])
        return cls(
            name, split, stage, figures[0] if figures else None, found["verdict"],
            found["beats_baseline"], Path(os.path.relpath(page, out)).as_posix(),
            reason=None if figures else why, **more,
        )  # fmt: skip


@dataclass
class Summary:
    """All rows of one model; `training` is the table it was trained on, empty where not said."""

    model: str
    weights: str
    training: str
    rows: list[Row]


def title_of(row: Row) -> str:
    """The set of a row, marked where another command measured it."""
    return f"{row.name} (listed)" if row.listed else row.name


def cells(row: Row) -> dict[str, Any]:
    """What a row shows."""
    if row.figure is None:
        return {"figure": "not measured", "value": "", "spread": "", "n": "", "row": row}
    f = row.figure
    return {
        "figure": f"{f.name}, {f.of}", "value": number(f.value), "spread": spread(f),
        "n": f"{f.n} / {f.units}", "row": row,
    }  # fmt: skip


def head_of(summary: Summary) -> list[str]:
    """Sentences above the table."""
    done = [r for r in summary.rows if r.figure is not None and not r.listed]
    judged = [r for r in done if r.beats is not None]
    seen = (
        f"Images in train or val of {Path(summary.training).stem}, and near twins of them, are "
        "left out; the pages count them."
        if summary.training
        else "What the model was trained on was not said (--training), so that images which it has "
        "seen, or near twins of them, may be among those measured."
    )
    minutes = sum(r.seconds for r in summary.rows) / 60
    said = [
        f"{len(done)} measurements on {len({r.name for r in done})} data sets; in "
        f"{sum(bool(r.beats) for r in judged)} of the {len(judged)} that have a trivial baseline "
        "the model is better than the best of them. They were measured in "
        f"{minutes:.1f} min on {torch.get_num_threads()} threads; near 0 for what was measured "
        "before.",
        f"{seen} Sets without a split 'test' are measured on val or train, as their lines say.",
        f"Weights {summary.weights[:16]}, medic_ad {__version__}. Each line shows the first figure "
        "of a page; n is of samples / units of resampling. Scores are taken without the "
        "out-of-scope gate; the pages say how much lies in scope.",
    ]
    if listed := sum(r.listed for r in summary.rows):
        said.append(
            f"{listed} pages of other commands (--others) are marked as listed. They are not "
            "counted above, and say themselves what the model may have seen of their images."
        )
    return said


def content_of(summary: Summary) -> dict[str, Any]:
    """What `summary.json` holds."""
    return {
        "schema": SCHEMA,
        "research_use": NOTICE,
        "model": summary.model,
        "weights_sha256": summary.weights,
        "medic_ad": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "measurements": [dataclasses.asdict(row) for row in summary.rows],
    }


def as_markdown(summary: Summary) -> str:
    lines = [f"## All measurements: {summary.model}", "", NOTICE, ""]
    for sentence in head_of(summary):
        lines += [sentence, ""]
    columns = ("set", "stage", "figure", "value", INTERVAL, "n / units", "verdict")
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in summary.rows:
        c = cells(row)
        stage = f"[{row.stage}]({row.page.removesuffix('html')}md)" if row.page else row.stage
        name = f"{title_of(row)}, {row.split}" if row.split else title_of(row)
        said = row.reason or row.verdict
        texts = (name, stage, c["figure"], c["value"], c["spread"], c["n"], said)
        lines.append("| " + " | ".join(t.replace("|", "\\|") for t in texts) + " |")
    return "\n".join([*lines, ""])


def as_html(summary: Summary) -> str:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in summary.rows:
        groups.setdefault(title_of(row), []).append(cells(row))
    sets = [
        {"name": name, "published": SETS.get(rows[0]["row"].name), "rows": rows}
        for name, rows in groups.items()
    ]
    return template("summary.html.j2").render(
        title=f"All measurements: {summary.model}", head=head_of(summary), sets=sets, notice=NOTICE
    )


def write(out: Path, summary: Summary) -> Path:
    """Write `summary.html`, `.md` and `.json`, or none."""
    texts = {
        "summary.json": as_json(content_of(summary)),
        "summary.md": as_markdown(summary),
        "summary.html": as_html(summary),
    }
    write_texts(out, texts)
    return out / "summary.html"
