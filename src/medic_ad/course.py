"""Step 5 of the road, over a series of dates: lesions keep their tracking id, loads are summed."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from medic_ad.errors import MedicADError
from medic_ad.lesions import Lesion, LesionChange, Lesions, Tolerance, match_lesions
from medic_ad.links import Frames

MOST_DATES = 20
DAYS_A_YEAR = 365.25


@dataclass(frozen=True, eq=False)
class Course:
    """Lesions followed over a series of dates; every number is a tracking id.

    An id lasts while the lesion does. When lesions merge the largest hands its id on, when one
    splits its largest part keeps it; `changes` say which ids ended or came from which.

    Attributes:
        lesions: of each date.
        changes: of each consecutive pair of dates.
        tolerance: what they were judged by.
        dates: of the studies, None when unknown.
    """

    lesions: tuple[tuple[Lesion, ...], ...]
    changes: tuple[tuple[LesionChange, ...], ...]
    tolerance: Tolerance
    dates: tuple[datetime.date, ...] | None = None

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
    when: Sequence[datetime.date] | None = None,
    tolerance: Tolerance | None = None,
) -> Course:
    """Follow lesions over 2 to 20 dates, oldest first.

    Args:
        dates: from `measure_lesions`.
        frames: of each consecutive pair, as in `match_lesions`.
        when: date of each study, strictly ascending.

    Raises:
        MedicADError: for another number of dates, frames or days, or days out of order.
    """
    tolerance = tolerance or Tolerance()
    count = len(dates)
    frames = [None] * (count - 1) if frames is None else list(frames)
    if not 2 <= count <= MOST_DATES or len(frames) != count - 1:
        raise MedicADError(
            f"expected 2 to {MOST_DATES} dates and the frames of each consecutive pair, came "
            f"{count} and {len(frames)}; give one registration between each two dates."
        )
    years = [math.nan] * (count - 1)
    if when is not None:
        if len(when) != count or any(a >= b for a, b in pairwise(when)):
            raise MedicADError(
                f"expected {count} days, each later than the one before, came "
                f"{', '.join(map(str, when))}; give the oldest date first."
            )
        years = [(b - a).days / DAYS_A_YEAR for a, b in pairwise(when)]
    ids = {i.number: i.number for i in dates[0].items}
    latest = len(ids)
    lesions = [dates[0].items]
    changes = []
    for (old, new), frame, span in zip(pairwise(dates), frames, years, strict=True):
        found = match_lesions(old, new, None, tolerance, frame, span)
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
