"""Step 4: hashes of a checkpoint's files, kept beside them, so that damage does not go unseen."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from medic_ad.errors import ModelError

RECORD = "SHA256SUMS"  # as of sha256sum, which checks it too: sha256sum --check SHA256SUMS
WEIGHT_FILES = ("*.safetensors",)
LOADED_FILES = (*WEIGHT_FILES, "*.json", "*.jinja", "*.txt")  # what loading reads
HISTORY = ".run.json"  # how the weights were made; no load reads it


def file_sums(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each of a folder's files by its name, in order; records of training left out."""
    found = {}
    for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        if not file.name.endswith(HISTORY):
            stat = file.stat()
            found[file.name] = _sum(file.resolve(), stat.st_size, stat.st_mtime_ns)
    return found


@lru_cache(maxsize=64)
def _sum(file: Path, size: int, mtime_ns: int) -> str:
    """Of one state of a file; those of a large model take seconds."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_sums(folder: Path) -> None:
    """Write the hashes of all that loading reads in a folder beside it."""
    lines = (f"{digest}  {name}\n" for name, digest in file_sums(folder, LOADED_FILES).items())
    (folder / RECORD).write_text("".join(lines), encoding="utf-8")


def refuse_damaged(folder: Path) -> None:
    """Refuse files that are not the ones that were saved; without a record nothing is known.

    Raises:
        ModelError: naming the first file that is missing or has another hash.
    """
    record = folder / RECORD
    if not record.is_file():
        return
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = file_sums(folder, LOADED_FILES)
    for name, digest in kept.items():
        if found.get(name) != digest:
            what = "another file" if name in found else "none"
            raise ModelError(
                f"expected the {name} that {record} was written for, got {what}; it is damaged or "
                f"was exchanged: fetch or train it again, or remove {RECORD} if that was meant"
            )
