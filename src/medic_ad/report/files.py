"""Step 6 of the road: all files of one result put into a folder, or none."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from medic_ad.errors import MedicADError


def put_files(contents: dict[str, bytes], folder: str | Path, stale: Iterable[str] = ()) -> Path:
    """Write all files under another name, then move them in; the last name marks completion.

    Args:
        contents: of each file, by its name.
        stale: names of an earlier result that go when they are not written anew.

    Raises:
        MedicADError: if the folder cannot be written to.
    """
    target = Path(folder)
    try:
        _put(contents, target.resolve(), set(stale) - set(contents))
    except OSError as error:
        raise MedicADError(
            f"The report could not be written to '{target}': {error.strerror}; give a folder "
            f"that can be written to."
        ) from error
    return target


def _put(contents: dict[str, bytes], target: Path, stale: set[str]) -> None:
    name = f".{target.name}.{uuid.uuid4().hex}"
    # within a folder that is there: it may be a mount, or the only one that is open to us
    staging = target / name if target.is_dir() else target.with_name(name)
    staging.mkdir(parents=True)
    try:
        for name, content in contents.items():
            (staging / name).write_bytes(content)
        if not target.exists():
            os.rename(staging, target)
            return
        (target / next(reversed(contents))).unlink(missing_ok=True)
        for name in stale:
            (target / name).unlink(missing_ok=True)
        for name in contents:
            os.replace(staging / name, target / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
