"""Step 1 of the road: a zip file -> its files in a temporary folder, within limits."""

from __future__ import annotations

import lzma
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medic_ad.errors import MedicADError, ReadError
from medic_ad.readers.common import cause

MAX_ENTRIES = 20_000
MAX_BYTES = 4 * 2**30  # unpacked
MAX_RATIO = 200  # unpacked to packed, over the whole file
SMALL_BYTES = 64 * 2**20  # below this the ratio does not matter: black pictures pack well
MAX_DEPTH = 16  # folders within folders
_CHUNK = 2**20
# What unpacking raises: of damaged data, an unknown method, or a password.
_DAMAGED = (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error,
            lzma.LZMAError)  # fmt: skip


def is_zip(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


@contextmanager
def unpacked(path: Path) -> Iterator[list[Path]]:
    """The files of a zip, flat in a temporary folder and in the order of their names.

    Nothing is written under a name of the archive's own, and archives within it stay packed.
    Errors raised inside name the archive and the file's name in it.

    Raises:
        ReadError: if it is damaged, encrypted, or above a limit.
    """
    with tempfile.TemporaryDirectory(prefix="medic-ad-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                names = _checked(path, archive)
                files = [Path(folder) / f"{number:05}" for number in range(len(names))]
                total = 0
                for name, file in zip(names, files, strict=True):
                    total = _unpack(path, archive, name, file, total)
        except _DAMAGED as error:
            raise ReadError(
                f"{path}: expected a complete zip file without a password, came one that cannot "
                f"be unpacked ({cause(error)}); pack it again."
            ) from error
        try:
            yield files
        except MedicADError as error:
            text = str(error)
            for name, file in zip(names, files, strict=True):
                text = text.replace(str(file), f"{path}/{name}").replace(
                    f" {file.name}", f" {name}"
                )
            raise type(error)(text.replace(folder, str(path))) from error


def _checked(path: Path, archive: zipfile.ZipFile) -> list[str]:
    """The names to unpack, after the limits that the directory of the archive can tell."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MAX_ENTRIES:
        raise _above(path, f"{MAX_ENTRIES} files", str(len(entries)))
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise _above(path, "each name once", "names that stand twice")
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        outside = not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]
        if outside or stat.S_ISLNK(entry.external_attr >> 16):
            raise _above(path, "names of files within it", f"the name {entry.filename!r}")
        if len(parts) > MAX_DEPTH:
            raise _above(path, f"{MAX_DEPTH} folders within folders", str(len(parts)))
    packed = max(1, path.stat().st_size)
    size = sum(entry.file_size for entry in entries)
    _check_size(path, size, packed)
    return sorted(name for name in names if not PurePosixPath(name).name.startswith("."))


def _check_size(path: Path, size: int, packed: int) -> None:
    if size > MAX_BYTES:
        raise _above(path, f"{MAX_BYTES} bytes unpacked", str(size))
    if size > SMALL_BYTES and size > MAX_RATIO * packed:
        raise _above(path, f"{MAX_RATIO} times its own size unpacked", f"{size / packed:.0f} times")


def _unpack(path: Path, archive: zipfile.ZipFile, name: str, file: Path, total: int) -> int:
    """One entry; the limits again on the bytes that really come, since a directory can lie."""
    packed = max(1, path.stat().st_size)
    with archive.open(name) as stream, file.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            total += len(chunk)
            _check_size(path, total, packed)
            out.write(chunk)
    return total


def _above(path: Path, expected: str, came: str) -> ReadError:
    return ReadError(
        f"{path}: expected a zip file of at most {expected}, came {came}; unpack it yourself and "
        "give the folder of one series."
        if expected[0].isdigit()
        else f"{path}: expected a zip file with {expected}, came {came}; pack it again."
    )
