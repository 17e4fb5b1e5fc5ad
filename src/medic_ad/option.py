"""Commands: a setting with its default and its help, as a field of a dataclass."""

from __future__ import annotations

import math
import tempfile
from dataclasses import field
from pathlib import Path
from typing import Any

from medic_ad.errors import MedicADError

MOST_SEED = 2**32 - 1


def option(default: Any, text: str) -> Any:
    """A field of which the command line makes an option."""
    return field(default=default, metadata={"help": text})


def check_positive(arguments: Any, *names: str) -> None:
    """Refuse fields of a dataclass of arguments that must be above 0.

    Raises:
        MedicADError: naming the first of these that is not, or is no finite number.
    """
    for name in names:
        value = getattr(arguments, name)
        if not (math.isfinite(value) and value > 0):
            raise MedicADError(
                f"expected --{name.replace('_', '-')} above 0, got {value}; give another value"
            )


def check_seed(arguments: Any) -> None:
    """Refuse a seed that NumPy or scikit-learn would not take.

    Raises:
        MedicADError: it lies outside 0 to MOST_SEED.
    """
    if not 0 <= arguments.seed <= MOST_SEED:
        raise MedicADError(
            f"expected --seed from 0 to {MOST_SEED}, got {arguments.seed}; give another value"
        )


def check_workers(arguments: Any) -> None:
    """Refuse a negative number of processes; 0 works in the one there is.

    Raises:
        MedicADError: it is below 0.
    """
    if arguments.workers < 0:
        raise MedicADError(
            f"expected --workers of 0 or more, got {arguments.workers}; give another value"
        )


def entries(text: str) -> list[str]:
    """The entries of a comma-separated option; what is empty is none."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def try_writing(folder: str | Path) -> None:
    """Write a file without a name into a folder, or into the nearest one above that is there.

    Raises:
        MedicADError: it cannot be written, or the path is a file.
    """
    wanted = Path(folder)
    try:
        there = next(p for p in (wanted, *wanted.absolute().parents) if p.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise MedicADError(
            f"expected a folder that can be written to, got {str(folder)!r} ({error.strerror}); "
            "give another"
        ) from error
