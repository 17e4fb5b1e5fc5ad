"""Step 5 of the road, over a series of dates: lesions keep their tracking id, loads are summed.

`Course` follows lesions; `StudyCourse` puts each date's score and decision and each pair's
comparison beside them, for the report.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from medic_ad.errors import MedicADError
from medic_ad.finding import lesion_mask, longest_mm
from medic_ad.image import Image
from medic_ad.lesions import (
    Lesion,
    LesionChange,
    Lesions,
    Tolerance,
    load_change,
    match_lesions,
    measure_lesions,
)
from medic_ad.links import Frames
from medic_ad.study import MOST_DATES

DAYS_A_YEAR = 365.25


@dataclass(frozen=True, eq=False)
class Course:
    """Lesions followed over a series of dates; every number is a tracking id.

    An id lasts while the lesion does. When lesions merge the largest hands its id on, when one
    splits its largest part keeps it; `changes` say which ids ended or came from which.

    Attributes:
        lesions: of each date.
        changes: of each consecutive pair of dates; none where the two were not compared.
        tolerance: what they were judged by.
        dates: of the studies, None when unknown.
    """

    lesions: tuple[tuple[Lesion, ...], ...]
    changes: tuple[tuple[LesionChange, ...], ...]
    tolerance: Tolerance
    dates: tuple[datetime.date | None, ...] | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Lesions on each date."""
        return tuple(len(items) for items in self.lesions)

    @property
    def loads_ml(self) -> tuple[float, ...]:
        """Volume of all lesions on each date."""
        return tuple(math.fsum(i.volume_ml for i in items) for items in self.lesions)

    def history(self) -> dict[int, tuple[Lesion | None, ...]]:
        """Tracking id -> the lesion on each date, None where it is not."""
        numbers = sorted({i.number for items in self.lesions for i in items})
        tables = [{i.number: i for i in items} for items in self.lesions]
        return {n: tuple(table.get(n) for table in tables) for n in numbers}


def follow_lesions(
    dates: Sequence[Lesions],
    frames: Sequence[Frames | None] | None = None,
    when: Sequence[datetime.date | None] | None = None,
    tolerance: Tolerance | None = None,
    compared: Sequence[bool] | None = None,
) -> Course:
    """Follow lesions over 2 to 20 dates, oldest first.

    Args:
        dates: from `measure_lesions`.
        frames: of each consecutive pair, as in `match_lesions`.
        when: date of each study, ascending, None where unknown. Two of one day, as the study of
            an unknown patient may have them, have no growth per year.
        compared: of each consecutive pair; where False the course is cut, and all lesions after it
            get new ids.

    Raises:
        MedicADError: for another number of dates, frames or days, or days out of order.
    """
    tolerance = tolerance or Tolerance()
    count = len(dates)
    frames = [None] * (count - 1) if frames is None else list(frames)
    compared = [True] * (count - 1) if compared is None else list(compared)
    if not 2 <= count <= MOST_DATES or {len(frames), len(compared)} != {count - 1}:
        raise MedicADError(
            f"expected 2 to {MOST_DATES} dates and the frames of each consecutive pair, came "
            f"{count} and {len(frames)}; give one registration between each two dates."
        )
    years = [math.nan] * (count - 1)
    if when is not None:
        known = [day for day in when if day is not None]
        if len(when) != count or any(a > b for a, b in pairwise(known)):
            raise MedicADError(
                f"expected {count} days, none earlier than the one before, came "
                f"{', '.join(map(str, when))}; give the oldest date first."
            )
        years = [years_between(a, b) for a, b in pairwise(when)]
    ids = {i.number: i.number for i in dates[0].items}
    latest = len(ids)
    lesions = [dates[0].items]
    changes = []
    pairs = zip(pairwise(dates), frames, years, compared, strict=True)
    for (old, new), frame, span, both in pairs:
        found = match_lesions(old, new, None, tolerance, frame, span) if both else ()
        following: dict[int, int] = {}
        for change in found:  # numbers are by volume: the largest hands its id to the largest
            following |= {a: ids[b] for b, a in zip(change.before, change.after, strict=False)}
        for number in sorted(i.number for i in new.items if i.number not in following):
            latest += 1
            following[number] = latest
        changes.append(
            tuple(
                replace(
                    c,
                    before=tuple(ids[b] for b in c.before),
                    after=tuple(following[a] for a in c.after),
                )
                for c in found
            )
        )
        ids = following
        lesions.append(tuple(replace(i, number=ids[i.number]) for i in new.items))
    return Course(tuple(lesions), tuple(changes), tolerance, None if when is None else tuple(when))


def years_between(first: datetime.date | None, second: datetime.date | None) -> float:
    """Years from one day to another; NaN where one is unknown, or both are the same."""
    if first is None or second is None or first == second:
        return math.nan
    return (second - first).days / DAYS_A_YEAR


# ---------------------------------------------------------------- for the report
# A slice is measured as if it were 1 mm thick, so that 1 mm2 is 0.001 ml. The smallest change that
# counts in a volume is a cube of 0.02 ml; in a slice, one face of that cube.
SLICE_TOLERANCE = Tolerance(change_ml=0.02 ** (2 / 3) / 10)


@dataclass(frozen=True)
class Visit:
    """What one date says by itself: the calibrated score, its decision, and the band it is made by.

    Dates of different kinds of scan are judged by different bands. Out of scope the score is NaN
    and the band None.
    """

    date: datetime.date | None
    score: float
    decision: str
    uncertain_band: tuple[float, float] | None


@dataclass(frozen=True)
class Step:
    """What one consecutive pair of dates says.

    Attributes:
        label, scores, reason, mixed: as in `Change`, of the change head.
        alignment: as in `Change`; empty where none was tried.
        load_label, load_mixed: of the measured lesions, by `load_change`.
        loads: of all lesions that can be compared, at either date; NaN where none was.
    """

    label: str
    scores: dict[str, float] | None
    reason: str | None
    mixed: bool
    load_label: str = "not_comparable"
    load_mixed: bool = False
    loads: tuple[float, float] = (math.nan, math.nan)
    alignment: dict[str, Any] = field(default_factory=dict)

    @property
    def contradicts(self) -> bool:
        """Whether the change head and the measured lesions say different things."""
        return "not_comparable" not in (self.label, self.load_label) and (
            self.label != self.load_label
        )


@dataclass(frozen=True)
class LesionRow:
    """One lesion over all dates.

    Attributes:
        number: its tracking id.
        sizes: at each date, in the unit of the course, None where it is not.
        kinds: its class between each two dates, None where it has none.
        percents: change there of what is enlarged, stable or reduced; NaN else.
        change, percent, per_year, percent_per_year: from first to last size, 0 counting as a size
            before a new and after a resolved lesion. NaN for what merged, split or left the view
            (the changes of the pairs say what became of it), and where dates are unknown.
    """

    number: int
    sizes: tuple[float | None, ...]
    longest_mm: tuple[float | None, ...]
    kinds: tuple[str | None, ...]
    percents: tuple[float, ...]
    change: float
    percent: float
    per_year: float
    percent_per_year: float


@dataclass(frozen=True, eq=False)
class StudyCourse:
    """All dates of one patient, oldest first, the current one last.

    Attributes:
        unit: "ml" of volumes, "mm2" of slices, None where a date lacks its pixel spacing.
        steps: of each consecutive pair.
        lesions: followed over the dates; those of the last are the findings of the report. None
            where a date lacks its pixel spacing: then no size is known.
    """

    unit: str | None
    visits: tuple[Visit, ...]
    steps: tuple[Step, ...]
    lesions: Course | None

    def __post_init__(self) -> None:
        followed = [] if self.lesions is None else [len(self.lesions.lesions)]
        counts = len(self.visits), len(self.steps) + 1, *followed
        units = ("ml", "mm2") if followed else (None,)
        if self.unit not in units or len(set(counts)) != 1:
            raise MedicADError(
                "expected a course in ml or mm2 with as many visits as dates and one step between "
                f"each two, or one without unit and sizes, came {self.unit}, {counts}."
            )

    @property
    def scale(self) -> float:
        """What turns a volume of `lesions` into the unit of the course."""
        return 1.0 if self.unit == "ml" else 1000.0

    @property
    def counts(self) -> tuple[int | None, ...]:
        """Lesions on each date; None out of scope, and where no size is known."""
        if self.lesions is None:
            return (None,) * len(self.visits)
        return tuple(
            None if v.decision == "out_of_scope" else n
            for v, n in zip(self.visits, self.lesions.counts, strict=True)
        )

    @property
    def loads(self) -> tuple[float, ...]:
        """Size of all lesions of each date; NaN out of scope, and where no size is known."""
        if self.lesions is None:
            return (math.nan,) * len(self.visits)
        return tuple(
            math.nan if v.decision == "out_of_scope" else ml * self.scale
            for v, ml in zip(self.visits, self.lesions.loads_ml, strict=True)
        )

    @property
    def changes(self) -> tuple[tuple[LesionChange, ...], ...]:
        """Of each consecutive pair of dates; none where the two were not compared or measured."""
        return ((),) * len(self.steps) if self.lesions is None else self.lesions.changes

    def rows(self) -> list[LesionRow]:
        """The lesions in the order of their tracking ids; none where no size is known."""
        history = {} if self.lesions is None else self.lesions.history()
        return [self._row(*item) for item in history.items()]

    def _row(self, number: int, on: tuple[Lesion | None, ...]) -> LesionRow:
        own = [
            next((c for c in changes if number in (*c.before, *c.after)), None)
            for changes in self.changes
        ]
        kinds = [None if c is None else c.kind for c in own]
        sizes = [None if lesion is None else lesion.volume_ml * self.scale for lesion in on]
        ends = list(sizes)
        for i, kind in enumerate(kinds):
            if kind in ("new", "resolved"):
                ends[i + (kind == "resolved")] = 0.0
        seen = [i for i, size in enumerate(ends) if size is not None]
        first, last = seen[0], seen[-1]
        before, after = ends[first] or 0.0, ends[last] or 0.0
        change = percent = per_year = percent_per_year = math.nan
        if first != last and not {"merged", "split", "not_comparable"} & set(kinds):
            years = years_between(self.visits[first].date, self.visits[last].date)
            change = after - before
            per_year = change / years
            if before:
                percent = 100.0 * change / before
            if before and after:
                whole = LesionChange("stable", (1,), (1,), (before, after), 0, years)
                percent_per_year = whole.percent_per_year
        return LesionRow(
            number=number,
            sizes=tuple(sizes),
            longest_mm=tuple(None if lesion is None else lesion.longest_mm for lesion in on),
            kinds=tuple(kinds),
            percents=tuple(
                c.percent if c and c.kind in ("enlarged", "stable", "reduced") else math.nan
                for c in own
            ),
            change=change,
            percent=percent,
            per_year=per_year,
            percent_per_year=percent_per_year,
        )


def measure_date(heatmap: np.ndarray, threshold: float | None, image: Image) -> Lesions:
    """The lesions of one date: exactly the regions that are its findings.

    Args:
        heatmap: on the grid of `image`; NaN, where the model did not look, is no lesion, and what
            another date shows there is not comparable.
        threshold: of the date's own scope entry; None out of scope, where nothing is measured.
    """
    if image.spacing_mm is None:
        raise MedicADError(f"{image.source.path}: sizes need a pixel spacing; give it in the file.")
    found, looked = np.zeros(heatmap.shape, bool), np.isfinite(heatmap)
    if threshold is not None:
        found = lesion_mask(heatmap, threshold)
    if image.is_volume:
        return measure_lesions(found, image.spacing_mm, looked)
    flat = measure_lesions(found[None], (1.0, *image.spacing_mm), looked[None])
    items = (
        replace(i, longest_mm=longest_mm(flat.labels[0] == i.number, image.spacing_mm))
        for i in flat.items
    )
    return replace(flat, items=tuple(items))


def follow_studies(
    visits: Sequence[Visit],
    dates: Sequence[Lesions] | None,
    steps: Sequence[Step],
    frames: Sequence[Frames | None],
    volumes: bool,
) -> StudyCourse:
    """Put the lesions of all dates and the comparisons of each pair together.

    Args:
        dates: from `measure_date`, as `visits` oldest first; None where one lacks its spacing.
        steps: what the change head says of each pair; where that is `not_comparable` the course is
            cut.
        frames: of each pair, from the alignment; None where it is not comparable.
        volumes: whether these are volumes, not slices.
    """
    if dates is None:
        return StudyCourse(None, tuple(visits), tuple(steps), None)
    tolerance = Tolerance() if volumes else SLICE_TOLERANCE
    compared = [step.label != "not_comparable" for step in steps]
    when = [v.date for v in visits]
    lifted = [None if f is None else (_in_space(f[0]), _in_space(f[1])) for f in frames]
    course = follow_lesions(dates, lifted, when, tolerance, compared)
    scale = 1.0 if volumes else 1000.0
    judged = []
    for step, found, both in zip(steps, course.changes, compared, strict=True):
        if both:
            label, mixed = load_change(found, tolerance)
            step = replace(step, load_label=label, load_mixed=mixed)
        if step.load_label != "not_comparable":
            counted = [c.volumes_ml for c in found if c.kind != "not_comparable"]
            before, after = (math.fsum(ml[i] for ml in counted) * scale for i in (0, 1))
            step = replace(step, loads=(before, after))
        judged.append(step)
    return StudyCourse("ml" if volumes else "mm2", tuple(visits), tuple(judged), course)


def _in_space(frame: np.ndarray) -> np.ndarray:
    """A frame of slices, 3x3 on (h, w, 1), as one of volumes of a single slice, 4x4."""
    out = np.eye(4)
    out[4 - len(frame) :, 4 - len(frame) :] = frame
    return out
