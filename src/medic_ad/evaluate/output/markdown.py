"""Evaluation: figures as the Markdown that stands between the markers of MODEL_CARD.md."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from medic_ad.errors import DataError
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.predictions.store import Part

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def refuse_without_markers(path: Path) -> None:
    """Raise DataError before hours are spent, where the card cannot be written."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(
            f"expected one {BEGIN!r} before one {END!r} in {path}, found none; give a file with "
            "both lines, or leave --card out"
        )


def insert(path: Path, text: str) -> None:
    """Replace what stands between the markers; the file is written whole or not at all."""
    refuse_without_markers(path)
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    part = path.with_name(f".{path.name}.part")
    part.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")
    os.replace(part, path)


def number(value: float) -> str:
    """Three decimals, four below a tenth; "-" where it is not defined."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:.3f}"


def spread(figure: Figure) -> str:
    """The interval, or each unit's figure."""
    if figure.interval is not None:
        words = f"{number(figure.interval[0])} to {number(figure.interval[1])}"
        return words if figure.p is None else f"{words}, p {figure.p:.3f}"
    each = figure.per_unit or {}
    prefixes = {unit.rpartition(":")[0] for unit in each}  # a table's groups start with its name
    names = [unit.rpartition(":")[2] if len(prefixes) == 1 else unit for unit in each]
    rows = zip(names, each.values(), strict=True)
    return "; ".join(f"{unit}: {number(value)}" for unit, value in rows) or "-"


def table(figures: list[Figure]) -> list[str]:
    """Rows of one part; a line above says what all rows share."""
    lines = [
        "| figure | of | value | 95 % interval, or each unit | n | units | aim |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        cells = (f.name, f.of, number(f.value), spread(f), str(f.n), str(f.units), f.aim or "")
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return lines


def section(part: Part) -> list[str]:
    """Heading, what was measured, table, and the units and splits that it names."""
    head = [f"### {part.title}", "", *(f"{note}\n" for note in part.notes)]
    if not part.figures:
        return head
    drawn = dict.fromkeys(f"{f.unit} ({f.split})" for f in part.figures)
    seeds = sorted({f.seed for f in part.figures})
    return [
        *head,
        *table(part.figures),
        "",
        f"Unit of resampling (split): {'; '.join(drawn)}. Seed {', '.join(map(str, seeds))}.",
        "",
    ]


def timing_section(timing: dict[str, Any]) -> list[str]:
    fresh, running = timing["new_process_seconds"], timing["running_process_seconds"]
    low, high = running["quartiles"]
    return [
        "### Speed",
        "",
        "| figure | value | spread | n | aim |",
        "|---|---|---|---|---|",
        f"| `medic-ad read` in a new process, warm file cache | {fresh['median']:.2f} s | "
        f"{fresh['min']:.2f} to {fresh['max']:.2f} s | {fresh['n']} | <= 8 s |",
        f"| one image in a running process | {running['median']:.3f} s | quartiles {low:.3f} to "
        f"{high:.3f} s | {running['n']} | <= 0.5 s |",
        f"| peak memory of a new process | {timing['peak_memory_mb']:.0f} MB | highest | "
        f"{fresh['n']} | <= 1500 MB |",
        "",
        f"{timing['device']}, {timing['cpu_count']} cores ({timing['machine']}), "
        f"{timing['threads']} thread(s), load average {timing['load_average']:.1f}, torch "
        f"{timing['torch']}.",
        "",
    ]


def fragment(provenance: dict[str, Any], parts: list[Part], timing: dict[str, Any]) -> str:
    """All figures as one text."""
    arguments = provenance["arguments"]
    lines = [
        f"Weights `{provenance['weights_sha256'][:16]}`, medic_ad {provenance['medic_ad']}, "
        f"{provenance['date'][:10]}. Intervals are {provenance['level']:.0%} percentile intervals "
        f"of {arguments['resamples']} cluster bootstraps; below 10 units each unit's figure stands "
        "and no interval. `p` is the two-sided bootstrap probability of a paired difference.",
        "",
    ]
    for part in parts:
        lines += section(part)
    return "\n".join([*lines, *timing_section(timing)])
