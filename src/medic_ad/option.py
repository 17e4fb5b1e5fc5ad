"""Commands: a setting with its default and its help, as a field of a dataclass."""

from __future__ import annotations

import os
from dataclasses import field
from pathlib import Path
from typing import Any

from medic_ad.errors import MedicADError


def option(default: Any, text: str) -> Any:
    """A field of which the command line makes an option."""
    return field(default=default, metadata={"help": text})


def check_folder(path: str | Path) -> None:
    """Refuse a folder that cannot be made or written to; nothing is made.

    Raises:
        MedicADError: naming what is in the way.
    """
    wanted = Path(path)
    there = next(place for place in (wanted, *wanted.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        kind = "a folder that cannot be written to" if there.is_dir() else "a file"
        raise MedicADError(
            f"expected a folder to write into at {wanted}, but {there} is {kind}; give another path"
        )
