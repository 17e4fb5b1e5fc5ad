"""Training data: `medic-ad data prepare NAME --root DIR` writes one Parquet table of samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from medic_ad.data.duplicates import FingerprintStore, alike_files
from medic_ad.data.registry import COMBINATIONS, SETS
from medic_ad.data.sample import Sample, TableInfo, check_splits, write_samples
from medic_ad.data.sets import read_set, table
from medic_ad.data.splits import File, Reading, settle
from medic_ad.errors import DataError, MedicADError

_BY_PATIENT = "ms_cross_sectional"  # the set whose validation patient can be chosen


def prepare(
    name: str,
    root: str | Path,
    out: str | Path,
    csv: str | Path | None = None,
    seed: int = 0,
    validation: str | None = None,
    duplicates: bool = True,
) -> Path:
    """Write the table of one data set, of a named combination, or of a CSV file of one's own.

    Images stay where they are; what no reader can read is written once into OUT.files beside the
    table. A run that stopped goes on with what it had read and written.

    Args:
        name: a key of SETS or COMBINATIONS.
        root: the folder of the data set, or the folder that holds it under its name; for a
            combination the folder that holds all of them; for `table` where its paths start.
        out: the file to write, ending in `.parquet`, or a folder, which gets NAME.parquet; a new
            folder's name has no suffix.
        csv: the table, for `table` only.
        seed: of the split, where one is drawn.
        validation: the patient of ms_cross_sectional that validates, its standing one if None.
        duplicates: whether to look for duplicates, which reads every image once.

    Returns: the file written; it is written whole or not at all. Its `notes` say what was found.

    Raises:
        DataError: unknown name, `out` of another suffix, missing files, rows that do not fit.
    """
    if name not in SETS and name not in COMBINATIONS:
        known = ", ".join([*SETS, *COMBINATIONS])
        raise DataError(f"There is no data set {name!r}: choose one of {known}.")
    if name == "table" and csv is None:
        raise DataError("expected --csv with the data set `table`, got none; name your CSV file.")
    if name != "table" and csv is not None:
        raise DataError(
            f"expected --csv with the data set `table` only, got it with {name}; leave it out, or "
            "prepare `table`."
        )
    if csv is not None and not duplicates:
        raise DataError("Duplicates of a table are always looked for: leave --no-duplicates out.")
    parts = COMBINATIONS.get(name, (name,))
    if validation is not None and _BY_PATIENT not in parts:
        raise DataError(
            f"A validation patient can be chosen for {_BY_PATIENT} and what contains it, not for "
            f"{name}: leave --validation out."
        )
    root, out = Path(root).resolve(), Path(out)
    if not root.is_dir():
        what = "your images" if csv is not None else name
        raise DataError(f"The folder {root} is missing: give the folder of {what} as --root.")
    if out.suffix != ".parquet":
        if out.is_file() or (out.suffix and not out.is_dir()):
            raise DataError(
                f"expected --out as a file NAME.parquet or as a folder, got {out}; name it "
                f"{out.with_suffix('.parquet')}"
            )
        out = out / f"{name}.parquet"
    store = out.with_name(out.name + ".fingerprints")
    samples: list[Sample] = []
    notes: list[str] = []
    screen = Console(stderr=True)
    with (
        _kept_when_interrupted(store, refused=csv is None),
        Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress,
    ):

        def track(rows: Any) -> Any:
            return progress.track(rows, description="reading images")

        for part in progress.track(parts, description=f"preparing {name}"):
            if csv is not None:
                found = table.samples(root, csv, seed=seed, store=store, track=track)
                reading = Reading(found, grouped=True)
            else:
                options = {"validation": validation} if part == _BY_PATIENT else {}
                work = out.resolve().with_name(out.name + ".files") / part
                reading = _read(part, root, name in COMBINATIONS, work, options)
            notes += [f"{part}: {note}" for note in reading.notes]
            pairs: list[tuple[File, File]] = []
            if duplicates:
                pairs, note = _compare(reading.samples, root, FingerprintStore(store), track)
                notes.append(f"{part}: {note}")
            else:
                notes.append(f"{part}: duplicates were not looked for.")
            settled, more = settle(reading, pairs, seed, part)
            groups = len({sample.group for sample in settled})
            notes += [*more, f"{part}: {len(settled)} samples in {groups} groups."]
            samples += settled
    info = TableInfo(
        name=name,
        licence="; ".join(f"{part}: {SETS[part].licence}" for part in parts),
        ship=all(SETS[part].ship for part in parts),
        root=root.as_posix(),
        notes=tuple(notes),
    )
    write_samples(samples, out, info)
    store.unlink(missing_ok=True)
    return out


@contextmanager
def _kept_when_interrupted(store: Path, refused: bool) -> Iterator[None]:
    """The folder of a store, taken back with the store when a table is refused.

    With `refused` it is kept then too: of a public set one torn file of many is fetched again.
    """
    made = [folder for folder in store.absolute().parents if not folder.exists()]
    store.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except MedicADError:
        if refused:
            raise
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


def _read(name: str, root: Path, combined: bool, work: Path, options: dict[str, Any]) -> Reading:
    """What one set holds, paths relative to `root` even where the set lies below it."""
    is_set = any((root / index).is_file() for index in ("index.csv", "labels.csv"))
    if not combined and (is_set or not (root / name).is_dir()):
        return read_set(name, root, work, **options)
    reading = read_set(name, root / name, work, **options)
    samples = [
        replace(
            sample,
            image=_below(name, sample.image),
            prior=sample.prior and _below(name, sample.prior),
            mask=sample.mask and _below(name, sample.mask),
        )
        for sample in reading.samples
    ]
    return replace(reading, samples=samples)


def _below(name: str, path: str) -> str:
    """A set's relative path as seen from the folder above; absolute ones stay."""
    return path if Path(path).is_absolute() else f"{name}/{path}"


def _compare(
    samples: list[Sample], root: Path, store: FingerprintStore, track: Any
) -> tuple[list[tuple[File, File]], str]:
    """Pairs of duplicates among images and priors, of a volume its middle slice, and a note."""
    modality: dict[str, str | None] = {}
    slices: dict[str, set[int | None]] = {}
    for sample in samples:
        for path in (sample.image, sample.prior):
            if path is not None:
                modality[path] = sample.modality
                slices.setdefault(path, set()).add(sample.slice)
    files: list[File] = []
    for path, found in slices.items():
        listed = sorted(i for i in found if i is not None)
        files.append((path, listed[len(listed) // 2] if listed else None))
    pairs, exact = alike_files([(root / p, i, modality[p]) for p, i in files], store, track)
    note = f"{len(files)} files compared, {exact} exact and {len(pairs) - exact} near pairs."
    return [(files[i], files[j]) for i, j in pairs], note
