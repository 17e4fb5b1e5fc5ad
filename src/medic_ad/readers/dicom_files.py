"""Step 1 of the road: the DICOM files of a path, headers only, before any is judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from medic_ad.errors import ReadError
from medic_ad.image import Source
from medic_ad.readers.common import cause


@dataclass(frozen=True)
class DicomFile:
    path: Path
    header: Dataset  # all but the pixel data

    @property
    def frames(self) -> int:
        return int(self.header.get("NumberOfFrames") or 1)


def is_dicom(head: bytes) -> bool:
    """Whether a file starts as DICOM does: with its preamble, or at once with group 2 or 8."""
    if head[128:132] == b"DICM":
        return True
    little = head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0"
    big = head[:2] in (b"\0\x02", b"\0\x08") and head[2:3] == b"\0"
    return len(head) > 8 and (little or big)


def open_file(path: Path) -> DicomFile:
    try:
        return DicomFile(path, pydicom.dcmread(path, stop_before_pixels=True, force=True))
    except Exception as error:  # damaged files make pydicom raise many kinds
        raise ReadError(
            f"{path}: expected a complete DICOM file, came one whose header cannot be read "
            f"({cause(error)}); copy or export it again."
        ) from error


def files_in(folder: Path) -> tuple[list[Path], list[DicomFile]]:
    """All files that lie in a folder, and those that are DICOM."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return paths, [open_file(path) for path in paths if _starts_as_dicom(path)]


def source_headers(source: Source) -> list[Dataset]:
    """The headers of the instances that an image was read from, in slice order, read again.

    Raises:
        ReadError: if they lie no more where they were read.
    """
    path = Path(source.path)
    files = files_in(path)[1] if path.is_dir() else [open_file(path)]
    found = {str(file.header.get("SOPInstanceUID")): file.header for file in files}
    missing = [uid for uid in source.sop_instance_uids if uid not in found]
    if missing or not source.sop_instance_uids:
        raise ReadError(
            f"{path}: expected the DICOM instances that were read, came {len(found)} file(s) "
            f"without {len(missing)} of them; leave the study in place until its results are "
            "written."
        )
    return [found[uid] for uid in source.sop_instance_uids]


def _starts_as_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return is_dicom(file.read(132))
