"""Training data: `medic-ad data prepare NAME --root DIR` writes one Parquet table of samples."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from medic_ad.data.registry import COMBINATIONS, SETS
from medic_ad.data.sample import Sample, TableInfo, check_splits, write_samples
from medic_ad.errors import DataError, MedicADError


def prepare(
    name: str,
    root: str | Path,
    out: str | Path,
    csv: str | Path | None = None,
    seed: int = 0,
) -> Path:
    """Write the table of one data set, of a named combination, or of a CSV file of one's own.

    Args:
        name: a key of SETS or COMBINATIONS.
        root: the folder of the data set, or the folder that holds it under its name; for a
            combination the folder that holds all of them; for `table` where its paths start.
        out: the Parquet file to write, or a folder, which gets NAME.parquet.
        csv: the table, for `table` only.
        seed: of the split that is drawn for a table without one.

    Returns: the file written; it is written whole or not at all.

    Raises:
        DataError: unknown name, missing files, rows that do not fit.
    """
    if name not in SETS and name not in COMBINATIONS:
        known = ", ".join([*SETS, *COMBINATIONS])
        raise DataError(f"There is no data set {name!r}: choose one of {known}.")
    if (name == "table") != (csv is not None):
        raise DataError("A CSV file belongs to the data set `table` and only there: give both.")
    root, out = Path(root).resolve(), Path(out)
    if not root.is_dir():
        raise DataError(f"The folder {root} is missing: give the folder of {name} as --root.")
    if out.suffix != ".parquet":
        out = out / f"{name}.parquet"
    samples: list[Sample] = []
    parts = COMBINATIONS.get(name, (name,))
    store = out.with_name(out.name + ".fingerprints") if csv is not None else None
    with (
        _kept_when_interrupted(store),
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        for part in progress.track(parts, description=f"preparing {name}"):
            samples += _read_set(part, root, name in COMBINATIONS, csv, seed, store, progress)
    info = TableInfo(
        name=name,
        licence="; ".join(f"{part}: {SETS[part].licence}" for part in parts),
        ship=all(SETS[part].ship for part in parts),
        root=root.as_posix(),
    )
    write_samples(samples, out, info)
    if store is not None:
        store.unlink(missing_ok=True)
    return out


@contextmanager
def _kept_when_interrupted(store: Path | None) -> Iterator[None]:
    """The folder of a store, taken back with the store when the table is refused."""
    if store is None:
        yield
        return
    made = [folder for folder in store.absolute().parents if not folder.exists()]
    store.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except MedicADError:
        store.unlink(missing_ok=True)
        with suppress(OSError):  # another program has put something there
            for folder in made:
                folder.rmdir()
        raise


def describe(samples: list[Sample]) -> list[tuple[str, str, int, int, int]]:
    """Rows (source, split, samples, groups, abnormal) for a table on the screen."""
    check_splits(samples)
    keys = sorted({(s.source, s.split) for s in samples})
    out = []
    for source, split in keys:
        part = [s for s in samples if (s.source, s.split) == (source, split)]
        groups = len({s.group for s in part})
        out.append((source, split, len(part), groups, sum(s.label == 1.0 for s in part)))
    return out


def _read_set(
    name: str,
    root: Path,
    combined: bool,
    csv: str | Path | None,
    seed: int,
    store: Path | None,
    progress: Progress,
) -> list[Sample]:
    """Samples of one set, paths relative to `root` even where the set lies below it."""
    read: Any = importlib.import_module(SETS[name].module).samples
    if csv is not None:

        def track(rows: Any) -> Any:
            return progress.track(rows, description="reading images")

        return list(read(root, csv, seed=seed, store=store, track=track))
    below = combined or (root / name).is_dir()
    found: list[Sample] = read(root / name if below else root)
    if not below:
        return found
    return [
        replace(
            sample,
            image=_below(name, sample.image),
            prior=sample.prior and _below(name, sample.prior),
            mask=sample.mask and _below(name, sample.mask),
        )
        for sample in found
    ]


def _below(name: str, path: str) -> str:
    """A set's relative path as seen from the folder above; absolute ones stay."""
    return path if Path(path).is_absolute() else f"{name}/{path}"
