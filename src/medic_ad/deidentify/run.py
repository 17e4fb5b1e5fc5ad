"""De-identification: a file or folder of DICOM images -> a folder without patients' identities."""

from __future__ import annotations

import io
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from medic_ad.deidentify.burned import Box, blacken_text, reading_possible
from medic_ad.deidentify.person import Person, read_key
from medic_ad.deidentify.scrub import Action, scrub
from medic_ad.deidentify.stored import clear_outside
from medic_ad.errors import DeidentifyError, MedicADError
from medic_ad.readers.common import cause
from medic_ad.readers.dicom_files import holds_dicom, read_dataset
from medic_ad.readers.dicom_pixels import PIXELS, PLUGINS, check_samples, no_panic

REPORT = "deidentification.json"

Track = Callable[[list[Path]], Iterable[Path]]


@dataclass(frozen=True)
class Cleaned:
    """One file that was written.

    Attributes:
        file: its path within the output folder.
        actions: what was done to its attributes, without what they held.
        boxes: what was blacked out.
    """

    file: str
    actions: tuple[Action, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Refused:
    """One file that was left out: where it lies and why. Both may name a patient."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of the files of one call."""

    folder: Path
    cleaned: tuple[Cleaned, ...]
    refused: tuple[Refused, ...]


def deidentify(source: Path, folder: Path, key: Path | None = None, track: Track = iter) -> Outcome:
    """Write the DICOM images of a file or folder without what names their patients.

    PS3.15 basic profile with modified dates; see `profile`. Compressed pixel data are written
    uncompressed: their streams have room for comments, and text in them must be looked for.
    All appears in the folder when all is done; `deidentification.json` in it lists every action
    and holds nothing of the originals, neither values nor paths.

    Args:
        source: a file, or a folder that is searched with all below it.
        folder: does not exist or is empty.
        key: file with the secret from which new ids, UIDs and dates are made; the same key gives
            the same ones, so that a study that comes later can be compared. Without it they are
            made of a secret that is forgotten.
        track: wraps the loop over the files, for a progress bar.

    Raises:
        DeidentifyError: nothing can be written, or not all of it; the folder is in use or within
            the source; or the key is none.
    """
    if not source.exists():
        raise DeidentifyError(
            f"{source}: expected a DICOM file or folder, came a path that does not exist; check it."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DeidentifyError(
            f"{folder}: expected a new or empty folder, came one with files; give another."
        )
    folder = folder.resolve()
    if folder.is_relative_to(source.resolve()):
        raise DeidentifyError(
            f"{folder}: expected a folder apart from the originals, came one within {source}, "
            "which would be taken for originals; give another."
        )
    secret = read_key(key)
    name = f".{folder.name}.{uuid.uuid4().hex}"
    # within a folder that is there: it may be a mount, or the only one that is open to us
    staging = folder / name if folder.is_dir() else folder.with_name(name)
    try:
        staging.mkdir(parents=True)
        outcome = _all(source, folder, staging, secret, track)
        (staging / REPORT).write_text(json.dumps(_document(outcome), indent=1) + "\n")
        if folder.exists():
            for path in sorted(staging.iterdir(), key=lambda path: path.name == REPORT):
                os.rename(path, folder / path.name)  # the list of what was done comes last
        else:
            os.rename(staging, folder)
    except OSError as error:  # those of single files were refused on the way
        raise DeidentifyError(
            f"{folder}: expected a folder that takes all cleaned images, came {cause(error)}; make "
            "room or give another."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return outcome


def _all(source: Path, folder: Path, staging: Path, secret: bytes, track: Track) -> Outcome:
    cleaned: dict[str, Cleaned] = {}
    refused = []
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    for path in track(paths):
        try:
            dataset, actions, boxes = clean(path, secret)
            name = f"{dataset.PatientID}/{dataset.StudyInstanceUID}/{dataset.SeriesInstanceUID}/"
            name += f"{dataset.SOPInstanceUID}.dcm"
            if name in cleaned:
                raise DeidentifyError("expected each image once, came its SOP Instance UID again.")
            written = io.BytesIO()
            dataset.save_as(written, enforce_file_format=True)
        except MedicADError as error:
            refused.append(Refused(path, str(error)))
        except Exception as error:  # damaged files make pydicom raise many kinds
            refused.append(Refused(path, f"it cannot be read as a DICOM image ({error})"))
        else:
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(written.getvalue())
            cleaned[name] = Cleaned(name, tuple(actions), tuple(boxes))
    if not cleaned:
        first = f": {refused[0].reason}" if refused else "."
        raise DeidentifyError(
            f"{source}: expected DICOM images, came {len(paths)} file(s) of which none can be "
            f"de-identified{first}"
        )
    return Outcome(folder, tuple(cleaned.values()), tuple(refused))


def clean(path: Path, secret: bytes) -> tuple[Dataset, list[Action], list[Box]]:
    """One file, read and cleaned in memory.

    Raises:
        DeidentifyError: it holds no image, or text in it that cannot be taken away.
    """
    if not holds_dicom(path):
        raise DeidentifyError("expected a DICOM file, came one of another kind; leave it out.")
    dataset = read_dataset(path)
    if not any(name in dataset for name in PIXELS):
        raise DeidentifyError(
            "expected an image, came an object without pixel data, whose texts nobody can vouch "
            "for; leave it out."
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_little_endian:
        raise DeidentifyError(
            f"expected little-endian pixels, came {syntax.name}; convert the file "
            "first, for example with dcmconv of DCMTK."
        )
    check_samples(dataset, str(path))
    if syntax.is_compressed:
        _decompress(dataset)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    outside = clear_outside(dataset)
    boxes = blacken_text(dataset)
    patient = str(dataset.get("PatientID") or "").strip()
    person = Person(secret, patient or f"study {dataset.StudyInstanceUID}")
    further = (codes.DCM.CleanPixelDataOption,) if reading_possible() else ()
    actions = scrub(dataset, person, further)
    return dataset, [*outside, *actions], boxes


def _decompress(dataset: Dataset) -> None:
    """By the first of the readers' plugins that can."""
    syntax = dataset.file_meta.TransferSyntaxUID
    failure: Exception = DeidentifyError(
        f"expected pixels that this installation decodes, came {syntax.name}."
    )
    for plugin in (name for name in PLUGINS if name in get_decoder(syntax).available_plugins):
        try:
            with no_panic():
                dataset.decompress(as_rgb=True, generate_instance_uid=False, decoding_plugin=plugin)
            return
        except Exception as error:  # decoders raise whatever they like on damaged data
            failure = error
    raise failure


def _document(outcome: Outcome) -> dict:
    return {
        "profile": "PS3.15 Basic Application Level Confidentiality Profile, edition 2026c, with "
        "Retain Longitudinal Temporal Information, Modified Dates",
        "text_in_pixels": "looked for by OCR" if reading_possible() else "by class and tags only",
        "refused": len(outcome.refused),
        "done": dict(Counter(a.done for c in outcome.cleaned for a in c.actions)),
        "files": [asdict(cleaned) for cleaned in outcome.cleaned],
    }
