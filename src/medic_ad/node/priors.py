"""Node: from the images of a unit and an archive to a `Study` with its priors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from medic_ad.errors import MedicADError, ReadError, is_passing
from medic_ad.image import Image, same_modality
from medic_ad.node.archive import Peer, Series
from medic_ad.node.queue import key_of
from medic_ad.readers.dicom_files import open_file
from medic_ad.study import Study, read_study

FRONTAL = {"AP", "PA"}  # projections of one view, PS3.3 C.8.1.2
MOST_SERIES = 4  # of one earlier study that are fetched to find the one that fits


def study_with_priors(
    images: Path, peer: Peer | None, most: int, folder: Path, message: int
) -> Study:
    """Read a unit, and with an archive its most recent priors that can be compared with it.

    Args:
        images: folder with the unit's files.
        peer: whom to ask; without one, or without patient id and date, the study stands alone.
        most: number of priors.
        folder, message: where the priors go, and the number under which they are asked for.

    Raises:
        MedicADError: the unit itself cannot be read.
        PeerError: the archive fails. An archive that is down is not a patient without priors.
    """
    study = read_study(images)
    if peer is None or most == 0 or study.patient_id is None or study.date is None:
        return study
    found = peer.series_before(study.patient_id, study.date)
    chosen: list[Path] = []
    notes: list[str] = []
    for date, of_study in groupby(candidates(study, found), key=lambda series: series.date):
        if len(chosen) == most:
            break
        for series in of_study:
            peer.fetch(series, folder, message)
            fitting = _fitting(study.image, folder / key_of(series.series_uid))
            compared = _compared(images, chosen, fitting)
            if compared is not None:
                study, chosen = compared
                break
            why = "could not be compared" if fitting else "has no image known to be of this view"
            notes.append(f"a series of {date} from the archive {why}")
    return replace(study, notes=(*study.notes, *notes))


def _fitting(image: Image, series: Path) -> list[Path]:
    """What of a fetched series an image may be compared with, the best first.

    Slices that have a place are a volume. An image without one, a radiograph, stands for itself;
    a series may hold several, of which those of its view fit, and frontal ones beside each other.
    """
    if image.affine is not None:
        return [series]
    views = {path: _view(path) for path in sorted(series.glob("*.dcm"))}
    own = image.source.view
    same = [path for path, view in views.items() if view and view == own]
    frontal = [path for path, view in views.items() if {view, own} == FRONTAL]
    unknown = [path for path, view in views.items() if not view or not own]
    return [*same, *frontal, *(unknown if len(views) == 1 else ())]


def _view(path: Path) -> str | None:
    try:
        return str(open_file(path).header.get("ViewPosition") or "").strip() or None
    except ReadError as error:
        if is_passing(error):
            raise
        return None


def _compared(
    images: Path, chosen: list[Path], fitting: list[Path]
) -> tuple[Study, list[Path]] | None:
    """The study with the first prior more that can be compared, and all its priors."""
    for path in fitting:
        try:
            return read_study(images, [*chosen, path]), [*chosen, path]
        except MedicADError as error:  # its words name the patient's files; the report must not
            if is_passing(error):
                raise
    return None


def candidates(study: Study, found: list[Series]) -> Iterator[Series]:
    """Earlier series of the same modality, latest date first, those of the same name first.

    Of one date at most `MOST_SERIES` are given.
    """
    own = study.image.source
    fitting = [
        series
        for series in found
        if series.study_uid != own.study_instance_uid
        and series.series_uid != own.series_instance_uid
        and study.image.modality is not None
        and same_modality(series.modality, study.image.modality)
    ]
    fitting.sort(key=lambda s: (s.date, s.description == own.series_description), reverse=True)
    for _, of_date in groupby(fitting, key=lambda series: series.date):
        yield from list(of_date)[:MOST_SERIES]
