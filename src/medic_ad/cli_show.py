"""Command line: reports, lists and the demo as tables on the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import track
from rich.table import Table

from medic_ad.report.schema import FINDINGS_ARE, NOTICE

if TYPE_CHECKING:
    from medic_ad.deidentify.run import Outcome
    from medic_ad.demo import Demo
    from medic_ad.report.report import Report

COLOURS = {"abnormal": "dark_orange", "normal": "green", "uncertain": "medium_purple"}
MAX_ROWS = 8
_GROWTH = {"change": "change", "%": "percent", "a year": "per_year", "% a year": "percent_per_year"}
_WIDE = 140  # columns from which on a table of seven columns can be read
_ONE_LINE = 2000  # where no screen is there to wrap for: a row a set, for grep


class Column(NamedTuple):
    """A column of a table that may be divided: its head and a cell for each row."""

    head: str
    cells: list[str]


def _console() -> Console:
    return Console(highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def show_report(report: Report) -> None:
    """The report in a few lines, with the research-use notice."""
    from medic_ad.report import labels

    console, study = _console(), report.study
    head = [labels.decision_word(report), labels.change_word(report)]
    colour = COLOURS.get(report.decision, "white")
    console.print(f"[bold {colour}]{'   '.join(part for part in head if part)}[/]")
    console.print(labels.score_words(report))
    name = escape(Path(study.image.source.path).name)
    console.print(f"[dim]{name}: {', '.join(labels.study_words(report))}[/]")
    if report.text:
        of = labels.text_dates(report)
        console.print(f"\n“{escape(report.text)}”{f' (of {of})' if of else ''}")
    if report.answer is not None:
        console.print(f"{escape(report.question or '')} “{escape(report.answer)}”")
    if report.findings:
        console.print()
        title = FINDINGS_ARE[report.decision].capitalize()
        table = _table(title, "peak", "size")
        for finding in report.findings[:MAX_ROWS]:
            table.add_row(
                finding.location, f"{finding.score:.2f}", ", ".join(labels.sizes(finding))
            )
        console.print(table)
        if len(report.findings) > MAX_ROWS:
            console.print(f"and {len(report.findings) - MAX_ROWS} smaller ones")
    if report.change is not None:
        said = report.change.reason or ""
        if report.change.scores is not None:
            said = ", ".join(f"{k} {v:.2f}" for k, v in report.change.scores.items())
        pair = labels.last_pair(report)
        console.print(f"Change{f', {pair}' if pair else ''}: {escape(said)}")
    show_course(report, console)
    for warning in report.warnings:
        console.print(f"[yellow]Note:[/] {escape(warning)}")
    record = report.provenance
    console.print(
        f"[dim]Model {escape(record['model'])}, weights {record['weights_sha256'][:12]}, "
        f"scope {record['scope_entry'] or 'none'}, {record['device']}[/]"
    )
    console.print(f"[bold]{NOTICE}[/]")


def show_course(report: Report, console: Console) -> None:
    """Scores, comparisons and lesions over all dates: a column for each date.

    A screen too narrow for all columns gets them in several tables, one below the other.
    """
    from medic_ad.report.timeline import NONE, course_table

    course = course_table(report)
    if course is None:
        return
    shown = course.rows[:MAX_ROWS]
    loads = ["load"] if course.unit else []
    names = Column(
        "lesion" if shown else "",
        [*(str(row["id"]) for row in shown), *loads, "comparison", "score"],
    )
    columns = []
    for i, date in enumerate(course.dates):
        sizes = [*(row["sizes"][i] for row in shown), *(course.loads[i] for _ in loads)]
        kinds, label = [NONE] * len(sizes), ""
        if i:
            followed = [row["kinds"][i - 1] for row in shown]
            kinds = [*followed, *(course.load_labels[i - 1] for _ in loads)]
            label = course.labels[i - 1]
        cells = [
            size if kind == NONE else f"{size} {kind}"
            for size, kind in zip(sizes, kinds, strict=True)
        ]
        columns.append(Column(date, [*cells, label, course.scores[i]]))
    said = "No lesion to follow:" if course.unit else "Over the dates:"
    if shown:
        said = (
            f"Sizes in {course.unit}, with what became of them since the date before; change "
            "and growth from the first size to the last:"
        )
        for head, key in _GROWTH.items():
            columns.append(Column(head, [*(row[key] for row in shown), "", "", ""]))
    console.print(f"\n{said}")
    for table in _abreast(console, names, columns, len(shown)):
        console.print(table)
    if more := len(course.rows) - len(shown) + course.more:
        console.print(f"and {more} more lesions")
    for note in course.notes:
        console.print(escape(note))


def _abreast(
    console: Console, names: Column, columns: list[Column], section: int
) -> Iterator[Table]:
    """Tables of the columns in their order, as many in each as the screen is wide.

    Args:
        names: of the rows, the first column of each table.
        section: how many rows stand above the line.
    """
    part: list[Column] = []
    unbound = console.options.update_width(_ONE_LINE)
    for column in columns:
        wider = _of_columns([names, *part, column], section)
        if part and Measurement.get(console, unbound, wider).maximum > console.width:
            yield _of_columns([names, *part], section)
            part = []
        part.append(column)
    yield _of_columns([names, *part], section)


def _of_columns(columns: list[Column], section: int) -> Table:
    table = _table(*(column.head for column in columns))
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True), 1):
        if any(row[1:]):
            table.add_row(*row, end_section=number == section)
    return table


def track_slices(batches: range) -> Iterable[int]:
    """A bar on stderr over the batches of a volume; none where there is one batch or no screen."""
    console = Console(stderr=True)
    if len(batches) < 2 or not console.is_terminal:
        return batches
    return track(batches, description="slices", console=console, transient=True)


def track_files(screen: TextIO, files: list[Path]) -> Iterable[Path]:
    """A bar over files on a screen that `hushed` leaves open; none where it is no terminal."""
    console = Console(file=screen)
    if not console.is_terminal:
        return files
    return track(files, description="files", console=console, transient=True)


def show_info(content: dict[str, Any]) -> None:
    """What `medic_ad.info.collect` found."""
    console = _console()
    head = (f"medic-ad {content['medic_ad']}", f"Python {content['python']}", content["platform"])
    console.print(", ".join(head))
    for model in content["models"]:
        console.print(f"\n[bold]{model['name']}[/]: {model['summary']}")
        console.print(f"[dim]{model['base']}; {model['licence']}[/]")
        if not model["installed"]:
            console.print("weights are not installed")
            continue
        console.print(f"weights {model['weights_sha256'][:12]}, {model['bytes'] / 1e6:.1f} MB")
        table = _table("scope", "threshold", "uncertain", "heatmap threshold", "prevalence")
        for entry in model["scope"]:
            band = f"{_figure(entry['band_low'])} to {_figure(entry['band_high'])}"
            rest = (_figure(entry[k]) for k in ("heatmap_threshold", "prevalence"))
            table.add_row(entry["entry"], _figure(entry["threshold"]), band, *rest)
        console.print(table)
    known = content["libraries"].items()
    console.print("\n" + ", ".join(f"{name} {version}" for name, version in known if version))
    absent = [name for name, version in known if version is None]
    if absent:
        console.print(f"not installed: {', '.join(absent)}")
    console.print("devices: " + ", ".join(f"{d['name']} ({d['what']})" for d in content["devices"]))


def _figure(value: float | None) -> str:
    return "not fitted" if value is None else f"{value:.3f}"


def show_deidentified(outcome: Outcome) -> None:
    """How many images were written, what was done to them, and each file that was refused."""
    console = _console()
    done = Counter(action.done for cleaned in outcome.cleaned for action in cleaned.actions)
    table = _table("attributes", "number")
    for words, number in done.most_common():
        table.add_row(words, str(number))
    table.add_row("boxes of text blacked out", str(sum(len(c.boxes) for c in outcome.cleaned)))
    console.print(table)
    for refused in outcome.refused:
        path, reason = escape(str(refused.path)), escape(refused.reason)
        console.print(f"[yellow]Refused:[/] {path}: {reason}", soft_wrap=True)
    console.print(f"Images: {len(outcome.cleaned)} written, {len(outcome.refused)} refused")
    console.print(f"Written: {escape(str(outcome.folder))}", soft_wrap=True)


def show_memory(content: dict[str, Any]) -> None:
    """What each stage of training takes, and what that assumes."""
    console = _console()
    if not console.is_terminal:
        console.width = _ONE_LINE
    bytes_of = ("weights", "gradients", "optimiser", "activations", "total", "checkpointed")
    names = ("activations with --checkpointing" if n == "checkpointed" else n for n in bytes_of)
    table = _table("stage", "trained", "frozen", *(f"{name}, GB" for name in names))
    for row in content["stages"]:
        counts = (f"{row[name] / 1e6:,.2f} M" for name in ("trained", "frozen"))
        table.add_row(row["stage"], *counts, *(f"{row[name] / 1e9:.3f}" for name in bytes_of))
    model, side = escape(content["model"]), content["image_size"]
    console.print(f"[bold]{model}[/], batch {content['batch']}, images of {side} x {side} pixels")
    console.print(table)
    for line in content["assumptions"]:
        console.print(f"- {line}", soft_wrap=True)


def show_sets() -> None:
    """The registry of data sets: a table, or blocks where the screen is too narrow for one."""
    from medic_ad.data.registry import COMBINATIONS, SETS

    console = _console()
    if not console.is_terminal:
        console.width = _ONE_LINE
    columns = ("task", "modality", "n", "licence", "where", "split", "layout")
    if console.width >= _WIDE:
        table = _table("set", *columns)
        table.show_lines = console.is_terminal
        for column in table.columns:
            column.overflow = "fold"  # an address or a file name is of no use without its end
        for name, info in SETS.items():
            table.add_row(f"[bold]{name}[/]", *(escape(getattr(info, c)) for c in columns))
        console.print(table)
    else:
        for name, info in SETS.items():
            console.print(f"[bold]{name}[/]: {escape(info.task)}")
            for field in columns[1:]:
                console.print(f"  [dim]{field}: {escape(getattr(info, field))}[/]")
    for name, parts in COMBINATIONS.items():
        console.print(f"[bold]{name}[/]: {' + '.join(parts)}")


def show_samples(path: Path) -> None:
    """What a table of samples holds."""
    from medic_ad.data.prepare import describe
    from medic_ad.data.sample import read_info, read_samples
    from medic_ad.study import in_future

    samples = read_samples(path)
    table = _table("source", "split", "samples", "groups", "abnormal")
    for row in describe(samples):
        table.add_row(*map(str, row))
    console = _console()
    console.print(table)
    for note in read_info(path).notes:
        console.print(escape(note), soft_wrap=True)
    if ahead := [s for s in samples if s.date is not None and in_future(s.date)]:
        console.print(
            f"[yellow]Note:[/] {len(ahead)} date(s) lie in the future, the first "
            f"{ahead[0].date} ({escape(ahead[0].image)}): correct them, "
            "unless they were shifted to hide them.",
            soft_wrap=True,
        )
    console.print(f"Written: {escape(str(path))}", soft_wrap=True)


def show_demo(demo: Demo) -> None:
    """Truth beside result, a miss as plainly as a hit."""
    console = _console()
    table = _table("", "planted", "found", "")
    verdicts = {True: "[green]as planted[/]", False: "[red]not as planted[/]", None: ""}
    table.columns[0].no_wrap = table.columns[3].no_wrap = True
    for row in demo.rows:
        table.add_row(row.what, row.planted, escape(row.found), verdicts[row.right])
    console.print(table)
    console.print(demo.verdict)
    for words, path in (("Truth beside result", demo.page), ("Report", demo.report)):
        console.print(f"{words}: {escape(str(path))}", soft_wrap=True)
    console.print(f"[bold]{NOTICE}[/]")
