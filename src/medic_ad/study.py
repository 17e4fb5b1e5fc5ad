"""Step 2 of the road: images of one patient, current and prior -> Study."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from medic_ad.errors import StudyError
from medic_ad.image import FIELD_MM, Image, same_body_part, same_modality
from medic_ad.readers import read_image

PathLike = str | os.PathLike[str]
Day = str | datetime.date | None  # ISO text or a date
NOT_VERIFIED = "identity and dates not verified"
MOST_DATES = 20  # of one study and its priors
MAX_STRETCH = 1.05  # of one aspect ratio against the other; resizing rounds a side by a pixel
CLOCK_SLACK = datetime.timedelta(days=1)  # a scanner's day may be ahead of this machine's


@dataclass(frozen=True, eq=False)
class Study:
    """An image of one patient on one date, with the priors to compare it with.

    Args:
        image: the image of this date.
        patient_id: as the file says, None when unknown.
        date: of the study, from the file or the caller, None when unknown.
        identity_verified: True only when this study and all priors carry the same patient id
            and dates that put each prior before the current. Dates that only the caller gave do
            not count.
        priors: oldest first; a prior has no priors of its own.
        notes: sentences on what could not be verified.

    Raises:
        StudyError: if there are more than 19 priors, or one is of another patient (id, sex or
            birth date), modality, body part, side or number of dimensions, or dated after this
            study.
    """

    image: Image
    patient_id: str | None = None
    date: datetime.date | None = None
    identity_verified: bool = False
    priors: tuple[Study, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_number(self.priors)
        for prior in self.priors:
            _check_prior(self, prior)
        known = [study for study in self.priors if study.date is not None]
        for earlier, later in pairwise(known):
            if _date_of(earlier) > _date_of(later):
                raise StudyError(
                    f"expected priors in date order, came {earlier.date} before {later.date}; "
                    "give the oldest prior first."
                )
            if earlier.patient_id is not None and earlier.date == later.date:
                raise StudyError(
                    f"expected priors of different dates of one patient, came {later.date} twice; "
                    "give one prior for each date."
                )
        if self.identity_verified and not _verified(self, self.priors):
            raise StudyError(
                "expected patient ids and dates on the current study and all priors, came a "
                "study said to be verified without them; leave identity_verified False."
            )

    @property
    def measurable(self) -> bool:
        """Whether sizes can be measured on every date: all carry a spacing."""
        return all(s.image.spacing_mm is not None for s in (self, *self.priors))


def read_study(
    path: PathLike,
    prior: PathLike | Iterable[PathLike] | None = None,
    modality: str | None = None,
    body_part: str | None = None,
    date: Day = None,
    prior_dates: Day | Iterable[Day] = None,
) -> Study:
    """Read the current image and its priors, and check that they belong together.

    Args:
        path: a DICOM file or series folder, or a NIfTI, PNG, JPEG or TIFF file.
        prior: one path or several; sorted by date where every prior has one, else kept in the
            order given, which is taken as oldest first.
        modality: DICOM code ("MR", "CT", "CR", "DX"), for files that do not say it.
        body_part: DICOM term ("BRAIN", "CHEST"), for files that do not say it.
        date: of the current study (ISO text or a date), for files that do not say it.
        prior_dates: of the priors, in their order, None where unknown.

    Raises:
        ReadError: if a file cannot be read.
        StudyError: if what is given contradicts a file, or the files each other.
    """
    paths, days = _several(prior), _several(prior_dates)
    _check_number(paths)
    if days and len(days) != len(paths):
        raise StudyError(
            f"expected one date for each prior, in the same order, came {len(days)} for "
            f"{len(paths)}; give --prior-date once for each --prior, or not at all."
        )
    current = _single(read_image(path, modality, body_part), date, "--date")
    priors = [
        _single(read_image(p, modality, body_part), day, "--prior-date")
        for p, day in zip(paths, days or [None] * len(paths), strict=True)
    ]
    if all(study.date is not None for study in priors):
        priors.sort(key=_date_of)
    _check_files(priors)
    verified = _verified(current, priors)
    return Study(
        image=current.image,
        patient_id=current.patient_id,
        date=current.date,
        identity_verified=verified,
        priors=tuple(priors),
        notes=tuple(_notes(current, priors, verified)),
    )


def _several(given: Any) -> list[Any]:
    """One path or date, several of them, or None, as a list."""
    if given is None:
        return []
    one = isinstance(given, str | os.PathLike | datetime.date)
    return [given] if one else list(given)


def _single(image: Image, day: Day, option: str) -> Study:
    """The study of one image; `option` is what gave the day."""
    given, stated = _parse_date(day, option), image.source.study_date
    if given is not None and stated is not None and given != stated:
        raise StudyError(
            f"{image.source.path}: expected the study date {given} as given, came {stated} in "
            f"the file; leave {option} out or give the right file."
        )
    birth = image.source.birth_date
    if given is not None and birth is not None and given < birth:
        raise StudyError(
            f"{image.source.path}: expected a study date on or after the birth date in the file, "
            f"came {given}; correct {option} or give the right file."
        )
    date = stated or given
    patient = image.source.patient_id
    verified = patient is not None and stated is not None
    return Study(image=image, patient_id=patient, date=date, identity_verified=verified)


def _verified(current: Study, priors: Sequence[Study]) -> bool:
    studies = (current, *priors)
    if any(s.patient_id is None or s.image.source.study_date is None for s in studies):
        return False
    if any(study.patient_id != current.patient_id for study in priors):
        return False
    return all(_date_of(prior) < _date_of(current) for prior in priors)


def _notes(current: Study, priors: Sequence[Study], verified: bool) -> list[str]:
    notes = [
        f"the study date {study.date} lies in the future: the scanner's clock was wrong, or dates "
        "were shifted to hide them"
        for study in (*priors, current)
        if study.date is not None and in_future(study.date)
    ]
    notes += [doubt for study in (*priors, current) for doubt in study.image.source.doubts]
    notes += [doubt for study in (*priors, current) for doubt in _doubts_on_spacing(study.image)]
    if not priors:
        return list(dict.fromkeys(notes))
    if not verified:
        dated = all(study.date is not None for study in (*priors, current))
        notes.append(f"{NOT_VERIFIED}: the order {'of the dates' if dated else 'given'} holds")
    posed = [s.image.orientation_known for s in (*priors, current)]
    if current.image.is_volume and not all(posed):
        which = "some of the dates" if any(posed) else "all dates"
        notes.append(
            f"the orientation of {which} is unknown: their left and right may be exchanged, which "
            "looks like change"
        )
    for prior in priors:
        if prior.date is not None and prior.date == current.date:
            notes.append(f"a prior carries the date of the current study ({prior.date})")
        if prior.image.source.sha256 == current.image.source.sha256:
            notes.append("a prior is the same file as the current study")
        notes += [
            f"{part.replace('_', ' ')} known for one date only: taken as the same"
            for part in ("modality", "body_part")
            if (getattr(prior.image, part) is None) != (getattr(current.image, part) is None)
        ]
        names = [_name_parts(study.image.source.patient_name) for study in (prior, current)]
        if all(names) and names[0] != names[1]:
            notes.append("a prior carries another patient name than the current study")
        if _stretched(current.image, prior.image):
            sizes = [" x ".join(map(str, i.grid[:-3:-1])) for i in (prior.image, current.image)]
            notes.append(
                f"a prior has other proportions ({sizes[0]} pixels) than the current ({sizes[1]}) "
                "and no pixel spacing is known: one may be stretched, which looks like change"
            )
        views = prior.image.source.view, current.image.source.view
        if None not in views and views[0] != views[1]:
            notes.append(f"a prior has another view ({views[0]}) than the current ({views[1]})")
    return list(dict.fromkeys(notes))


def _doubts_on_spacing(image: Image) -> Iterator[str]:
    """A field of view that no patient has."""
    if image.spacing_mm is None:
        return
    low, high = FIELD_MM
    side = max(n * mm for n, mm in zip(image.grid[-2:], image.spacing_mm[-2:], strict=True))
    if not low <= side <= high:
        yield (
            f"an image is {side:g} mm long by its pixel spacing (expected {low:g} to {high:g} "
            "mm): sizes may be in wrong units"
        )


def _name_parts(name: str | None) -> list[str]:
    """The words of a name in its first script, whatever their order and case (PS3.5 6.2.1)."""
    return sorted(re.findall(r"[^\W_]+", (name or "").split("=")[0].casefold()))


def _stretched(a: Image, b: Image) -> bool:
    """Whether two pictures differ in aspect ratio and no spacing says why."""
    if a.spacing_mm is not None and b.spacing_mm is not None:
        return False
    first, second = (image.grid[-2] / image.grid[-1] for image in (a, b))
    return max(first, second) > MAX_STRETCH * min(first, second)


def _check_number(priors: Sequence[Any]) -> None:
    if len(priors) >= MOST_DATES:
        raise StudyError(
            f"expected at most {MOST_DATES - 1} priors, came {len(priors)}; leave some out."
        )


def _check_files(priors: Sequence[Study]) -> None:
    """Refuse one file as two priors: it cannot be of two dates."""
    seen: dict[str, str] = {}
    for source in (prior.image.source for prior in priors):
        if source.sha256 in seen:
            raise StudyError(
                f"{source.path}: expected priors of different dates, came the same file as "
                f"{seen[source.sha256]}; give each prior once."
            )
        seen[source.sha256] = source.path


def _check_prior(current: Study, prior: Study) -> None:
    name = prior.image.source.path
    if prior.priors:
        raise StudyError(
            f"{name}: expected a prior without priors of its own, came one with "
            f"{len(prior.priors)}; give all priors to the current study."
        )
    own, other = current.image.source, prior.image.source
    for word, mine, theirs in (
        ("sex", own.sex, other.sex),
        ("birth date", own.birth_date, other.birth_date),
    ):
        if mine is not None and theirs is not None and mine != theirs:
            raise StudyError(
                f"{name}: expected a prior of the same patient as the current study, came another "
                f"{word}; give a prior of this patient, or correct the {word}."
            )
    known = current.patient_id is not None and prior.patient_id is not None
    if known and prior.patient_id != current.patient_id:
        raise StudyError(
            f"{name}: expected a prior of the same patient as the current study, came another "
            "patient id; give a prior of this patient."
        )
    for word, now, before, same in (
        ("modality", current.image.modality, prior.image.modality, same_modality),
        ("body part", current.image.body_part, prior.image.body_part, same_body_part),
        ("side", own.laterality, other.laterality, str.__eq__),
    ):
        if now is not None and before is not None and not same(now, before):
            raise StudyError(
                f"{name}: expected a prior of the same {word} as the current study ({now}), "
                f"came {before}; give a prior of the same {word}."
            )
    if current.image.is_volume != prior.image.is_volume:
        kinds = ["3-D" if s.image.is_volume else "2-D" for s in (current, prior)]
        raise StudyError(
            f"{name}: expected a {kinds[0]} prior for a {kinds[0]} current study, came a "
            f"{kinds[1]} one; give two images or two volumes."
        )
    if known and current.date is not None and prior.date == current.date:
        raise StudyError(
            f"{name}: expected a prior dated before the current study of this patient, came the "
            f"same date ({current.date}); give studies of different dates, or correct the date."
        )
    if current.date is not None and prior.date is not None and prior.date > current.date:
        raise StudyError(
            f"{name}: expected a prior dated on or before the current study ({current.date}), "
            f"came {prior.date}; exchange the two files or correct the date."
        )


def _date_of(study: Study) -> datetime.date:
    return study.date or datetime.date.min


def in_future(date: datetime.date) -> bool:
    """Whether a date lies ahead of today by more than clocks and time zones explain."""
    return date > datetime.date.today() + CLOCK_SLACK


def _parse_date(date: Day, option: str) -> datetime.date | None:
    if isinstance(date, datetime.datetime):
        date = date.date()
    if isinstance(date, str):
        try:
            date = datetime.date.fromisoformat(date.strip())
        except ValueError as error:
            raise StudyError(
                f"expected a date such as 2024-05-31, came {date!r}; write year-month-day."
            ) from error
    if date is not None and in_future(date):
        raise StudyError(
            f"expected a date that is not in the future, came {date}; correct the date, or leave "
            f"{option} out."
        )
    return date
