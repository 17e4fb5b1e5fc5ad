"""Training data: readers of the public data sets, found by the name of a set."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from medic_ad.data.registry import SETS
from medic_ad.data.splits import Reading


def read_set(name: str, root: Path, work: Path, **options: Any) -> Reading:
    """What one data set holds.

    Args:
        name: a key of SETS other than `table`.
        root: the folder of the data set.
        work: folder for files that are written once, where a published format cannot be read.
        options: for a reader that takes them.

    Raises:
        DataError: naming the first thing that is missing or does not fit.
    """
    module: Any = importlib.import_module(SETS[name].module)
    if hasattr(module, "reading"):
        found: Reading = module.reading(root, name, work, **options)
        return found
    return Reading(module.samples(root, **options), grouped=True)
