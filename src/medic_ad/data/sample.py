"""Training data: one `Sample` is one study with its labels; tables of them are Parquet files."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from medic_ad.errors import DataError
from medic_ad.words import CHANGE_LABELS

SPLITS = ("train", "val", "test")

_METADATA = b"medic_ad"
_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("image", pyarrow.string(), nullable=False),
        pyarrow.field("slice", pyarrow.int32()),
        pyarrow.field("prior", pyarrow.string()),
        pyarrow.field("patient", pyarrow.string()),
        pyarrow.field("group", pyarrow.string(), nullable=False),
        pyarrow.field("split", pyarrow.string(), nullable=False),
        pyarrow.field("source", pyarrow.string(), nullable=False),
        pyarrow.field("modality", pyarrow.string()),
        pyarrow.field("body_part", pyarrow.string()),
        pyarrow.field("sequence", pyarrow.string()),
        pyarrow.field("date", pyarrow.date32()),
        pyarrow.field("label", pyarrow.float64(), nullable=False),
        pyarrow.field("mask", pyarrow.string()),
        pyarrow.field("change", pyarrow.string()),
        pyarrow.field("question", pyarrow.string()),
        pyarrow.field("answer", pyarrow.string()),
    ]
)


@dataclass(frozen=True)
class Sample:
    """One study, or one slice of a volume, with its labels.

    Attributes:
        image: path, absolute or relative to the root of the table.
        group: what may not be torn apart by a split: a patient, a cluster, a group of duplicates.
        split: "train", "val" or "test".
        source: name of the data set.
        slice: index along d of the volume as `read_image` gives it; None for a 2-D image. It holds
            for `prior` and `mask` too, which lie on the same grid.
        prior: path of the earlier study.
        patient: identity within the source, where it is published.
        modality, body_part: DICOM codes and terms.
        sequence: "T1", "T1-CE", "FLAIR" and the like.
        date: date of the current study.
        label: 1 abnormal, 0 normal, NaN unknown.
        mask: path of the lesion mask; of the (unsigned) change mask where a sample with a prior
            has label NaN.
        change: "worse", "stable" or "better", from prior to current.
        question, answer: both or none.
    """

    image: str
    group: str
    split: str
    source: str
    slice: int | None = None
    prior: str | None = None
    patient: str | None = None
    modality: str | None = None
    body_part: str | None = None
    sequence: str | None = None
    date: datetime.date | None = None
    label: float = math.nan
    mask: str | None = None
    change: str | None = None
    question: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        for name in ("image", "group", "source"):
            if not getattr(self, name):
                raise DataError(f"A sample needs its {name}, but it is empty: give one.")
        for name in ("prior", "patient", "mask", "question", "answer", "sequence"):
            if getattr(self, name) == "":
                raise DataError(f"{self.image}: {name} is an empty text: give None or a value.")
        if self.split not in SPLITS:
            raise DataError(f"{self.image}: split must be one of {SPLITS}, not {self.split!r}.")
        if self.slice is not None and self.slice < 0:
            raise DataError(f"{self.image}: slice must be 0 or more, not {self.slice}.")
        if not (math.isnan(self.label) or self.label in (0.0, 1.0)):
            raise DataError(f"{self.image}: label must be 1, 0 or NaN, not {self.label}.")
        if self.change is not None and self.change not in CHANGE_LABELS:
            raise DataError(
                f"{self.image}: change must be one of {CHANGE_LABELS}, not {self.change!r}."
            )
        if self.change is not None and self.prior is None:
            raise DataError(f"{self.image}: change is given without a prior: name the prior.")
        if (self.question is None) != (self.answer is None):
            raise DataError(f"{self.image}: question and answer must be given together.")
        if isinstance(self.date, datetime.datetime):
            raise DataError(f"{self.image}: date must be a date without a time of day.")


@dataclass(frozen=True)
class TableInfo:
    """What a table of samples says about itself.

    Attributes:
        name: data set or combination.
        licence: licence of the images and labels.
        ship: whether weights trained on it may be given away.
        root: folder that relative paths start from.
        notes: what preparing found and did: duplicates, dropped and left-out samples.
        seen: what was done about images that the weights to be measured have seen; empty where
            nobody looked.
    """

    name: str
    licence: str
    ship: bool
    root: str
    notes: tuple[str, ...] = ()
    seen: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))  # JSON gives a list


def check_splits(samples: Iterable[Sample]) -> dict[str, int]:
    """Samples per split.

    Raises:
        DataError: a group, or a patient of one source, lies in more than one split.
    """
    homes: dict[tuple[str, ...], Sample] = {}
    counts: Counter[str] = Counter()
    for sample in samples:
        counts[sample.split] += 1
        keys: list[tuple[str, ...]] = [("group", sample.group)]
        if sample.patient is not None:
            keys.append(("patient", sample.patient, sample.source))
        for key in keys:
            first = homes.setdefault(key, sample)
            if first.split != sample.split:
                raise DataError(
                    f"{key[0]} {key[1]} lies in two splits ({first.image}: {first.split}, "
                    f"{sample.image}: {sample.split}); put all of it into one."
                )
    return {split: counts[split] for split in SPLITS}


def write_samples(samples: Sequence[Sample], path: str | Path, info: TableInfo) -> Path:
    """Write a table, whole or not at all.

    Raises:
        DataError: there are no samples, or a group crosses splits.
    """
    if not samples:
        raise DataError(
            f"{info.name} has no samples, so there is nothing to write: check its root."
        )
    check_splits(samples)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([asdict(sample) for sample in samples], schema=_SCHEMA)
    table = table.replace_schema_metadata({_METADATA: json.dumps(asdict(info)).encode()})
    part = path.with_name(path.name + ".part")
    pyarrow.parquet.write_table(table, part)
    os.replace(part, path)
    return path


def read_samples(path: str | Path) -> list[Sample]:
    """Read a table that `write_samples` wrote, every row checked again."""
    read_info(path)
    return [Sample(**row) for row in pyarrow.parquet.read_table(path).to_pylist()]


def read_info(path: str | Path) -> TableInfo:
    """Read what a table says about itself, without its rows."""
    if not Path(path).is_file():
        raise DataError(
            f"expected a Parquet table of samples at {path}, found no file; make it with "
            "`medic-ad data prepare`."
        )
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as a Parquet table of samples ({error}): "
            "make it with `medic-ad data prepare`."
        ) from error
    metadata = schema.metadata or {}
    if _METADATA not in metadata or schema.names != _SCHEMA.names:
        raise DataError(
            f"{path} is a Parquet file but no table of samples: "
            "make it with `medic-ad data prepare`."
        )
    return TableInfo(**json.loads(metadata[_METADATA]))
