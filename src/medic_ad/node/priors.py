"""Node: from the images of a unit and an archive to a `Study` with its priors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from medic_ad.errors import MedicADError
from medic_ad.image import same_modality
from medic_ad.node.archive import Peer, Series
from medic_ad.node.queue import key_of
from medic_ad.study import Study, read_study

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
            path = folder / key_of(series.series_uid)
            try:
                study = read_study(images, [*chosen, path])
            except MedicADError:  # its words name the patient's files; the report must not
                notes.append(f"a series of {date} from the archive could not be compared")
            else:
                chosen.append(path)
                break
    return replace(study, notes=(*study.notes, *notes))


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
