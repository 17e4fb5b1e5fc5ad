"""Step 1 of the road: the DICOM files of a path, headers only, before any is judged."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from medic_ad.errors import ReadError
from medic_ad.image import Source
from medic_ad.readers.archive import MAX_ENTRIES, is_zip, unpacked
from medic_ad.readers.common import cause

MAX_INFLATED_BYTES = 2**28
_CHUNK = 2**24


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


class _Limited(io.BufferedReader):
    """A file whose deflated data set, which pydicom inflates in one piece, is not too large for it.

    The rest of a file is asked for by a read without a size there, and nowhere else.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))  # pydicom puts its name into words
        self.path = path

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is None or size < 0:
            _check_inflated(data, self.path)
        return data


def _check_inflated(data: bytes, path: Path) -> None:
    engine, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while data and total <= MAX_INFLATED_BYTES:
        try:
            total += len(engine.decompress(data, _CHUNK))
        except zlib.error:  # pydicom comes upon it too
            return
        data = engine.unconsumed_tail
    if total > MAX_INFLATED_BYTES:
        raise ReadError(
            f"{path}: expected at most {MAX_INFLATED_BYTES} bytes in a deflated data set, came "
            "more; give the image in another transfer syntax."
        )


def read_dataset(path: Path, pixels: bool = True) -> Dataset:
    """pydicom's `dcmread` of a file, with or without its pixel data.

    Raises:
        ReadError: a deflated data set is above the limit.
    """
    with _Limited(path) as file:
        return pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)


def open_file(path: Path) -> DicomFile:
    try:
        return DicomFile(path, read_dataset(path, pixels=False))
    except ReadError:
        raise
    except Exception as error:  # damaged files make pydicom raise many kinds
        raise ReadError(
            f"{path}: expected a complete DICOM file, came one whose header cannot be read "
            f"({cause(error)}); copy or export it again."
        ) from error


@contextmanager
def series_paths(path: Path) -> Iterator[list[Path]]:
    """All files of a folder, of a zip file, or that a DICOMDIR names; a file is its own.

    Those of a zip file are gone afterwards.

    Raises:
        ReadError: if the zip file or the DICOMDIR is damaged or above a limit.
    """
    if path.is_dir():
        yield sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    elif is_zip(_head(path)):
        with unpacked(path) as paths:
            yield paths
    elif is_directory((file := open_file(path)).header):
        yield _named_by(file)
    else:
        yield [path]


def is_directory(header: Dataset) -> bool:
    """Whether this is a DICOMDIR, which names the files of a medium."""
    return header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage


def files_among(paths: list[Path]) -> list[DicomFile]:
    """Those that start as DICOM does, opened."""
    return [open_file(path) for path in paths if holds_dicom(path)]


def holds_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM does."""
    return is_dicom(_head(path))


def _named_by(file: DicomFile) -> list[Path]:
    """What a DICOMDIR names (PS3.3 F): files below its own folder, and nowhere else."""
    folder = file.path.parent.resolve()
    records = file.header.get("DirectoryRecordSequence") or []
    names = [parts for record in records if (parts := record.get("ReferencedFileID"))]
    if len(names) > MAX_ENTRIES:
        raise ReadError(
            f"{file.path}: expected a DICOMDIR of at most {MAX_ENTRIES} files, came {len(names)}; "
            "give the folder of one series."
        )
    paths = [folder.joinpath(*([name] if isinstance(name, str) else name)) for name in names]
    for path in paths:
        if not path.resolve().is_relative_to(folder):
            raise ReadError(
                f"{file.path}: expected a DICOMDIR that names files beside or below it, came one "
                f"that names {path}; give the folder of one series."
            )
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise ReadError(
            f"{file.path}: expected a DICOMDIR beside the files that it names, came one with "
            f"{len(missing)} of {len(paths)} missing; copy the whole medium, or give the folder of "
            "one series."
        )
    return sorted(paths)


def source_headers(source: Source) -> list[Dataset]:
    """The headers of the instances that an image was read from, in slice order, read again.

    Raises:
        ReadError: if they lie no more where they were read.
    """
    path = Path(source.path)
    with series_paths(path) as paths:
        files = [open_file(path)] if paths == [path] else files_among(paths)
    found = {str(file.header.get("SOPInstanceUID")): file.header for file in files}
    missing = [uid for uid in source.sop_instance_uids if uid not in found]
    if missing or not source.sop_instance_uids:
        raise ReadError(
            f"{path}: expected the DICOM instances that were read, came {len(found)} file(s) "
            f"without {len(missing)} of them; leave the study in place until its results are "
            "written."
        )
    return [found[uid] for uid in source.sop_instance_uids]


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(132)
