"""Evaluation: any table of samples -> images with known truth, and what a model says of them."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from medic_ad.data.sample import SPLITS, Sample, read_info, read_samples
from medic_ad.errors import DataError
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Arrays, Store, digest, opened
from medic_ad.evaluate.predictions.sweep import as_image, columns, predict, threshold_of
from medic_ad.image import Image
from medic_ad.load import Model
from medic_ad.look import BATCH
from medic_ad.option import check_positive, check_seed
from medic_ad.processor import grey_window
from medic_ad.readers import read_image
from medic_ad.road import declared_out_of_scope
from medic_ad.train.run import split


@dataclass
class TableArguments:
    """Arguments that every measurement on a table has."""

    data: str = field(metadata={"help": "Parquet file of samples, from `medic-ad data prepare`"})
    model: str = field(metadata={"help": "name of a model, or its folder"})
    split: str = field(default="test", metadata={"help": "train, val or test"})
    out: str = field(
        default="out/evaluate",
        metadata={"help": "folder of figures, predictions and the log of openings"},
    )
    against: str = field(
        default="", metadata={"help": "another model, measured on the same images and compared"}
    )
    seed: int = field(default=0, metadata={"help": "of resampling and of the fitted baselines"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})

    @property
    def measured(self) -> str:
        """Of table and split, in names of files and caches."""
        return f"{Path(self.data).stem}-{self.split}"

    @property
    def tables(self) -> list[str]:
        """All tables whose images the figures depend on."""
        return [self.data]

    @property
    def opens_test(self) -> bool:
        """Whether predictions open the test split, which is written down."""
        return self.split == "test"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DataError(
                f"expected --split as one of {', '.join(SPLITS)}, got {self.split!r}; correct it"
            )
        check_positive(self, "resamples")
        check_seed(self)


class Lazy(Sequence[np.ndarray]):
    """Arrays that are made anew whenever they are asked for, so that memory stays flat."""

    def __init__(self, make: Callable[[int], np.ndarray], size: int) -> None:
        self.make, self.size = make, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.make(i) for i in range(*index.indices(self.size))]
        if index >= self.size:
            raise IndexError(index)
        return self.make(int(index))


def chosen(arrays: Sequence[np.ndarray], keep: np.ndarray) -> Lazy:
    """Those of some samples, by `(n,)` bool."""
    index = np.flatnonzero(keep)
    return Lazy(lambda i: arrays[int(index[i])], len(index))


def images_of(data: str, name: str) -> tuple[list[Sample], list[str]]:
    """Images of one split whose label or lesion mask is known, each once, and notes.

    Rows that ask several questions about an image, or pair it with priors, are one image.

    Raises:
        DataError: no samples of the split, a file that is gone, or two labels for one image.
    """
    rows = split(data, name)
    images: dict[tuple[str, int | None], Sample] = {}
    for s in rows:
        change_mask = s.prior is not None and math.isnan(s.label)
        alone = dataclasses.replace(
            s, prior=None, change=None, question=None, answer=None,
            mask=None if change_mask else s.mask,
        )  # fmt: skip
        first = images.setdefault((s.image, s.slice), alone)
        labels = {x for x in (first.label, s.label) if not math.isnan(x)}
        if len(labels) > 1:
            raise DataError(
                f"expected one label for {s.image}, got both 0 and 1 in {data}; correct the table"
            )
        images[s.image, s.slice] = dataclasses.replace(
            first, label=labels.pop() if labels else math.nan, mask=first.mask or alone.mask
        )
    known = [s for s in images.values() if not math.isnan(s.label) or s.mask]
    refuse_missing((p for s in known for p in (s.image, s.mask)), data)
    notes = []
    if len(images) < len(rows):
        notes.append(f"{len(rows)} rows of the split show {len(images)} different images.")
    if len(known) < len(images):
        notes.append(f"{len(images) - len(known)} images without label and mask are left out.")
    return known, notes


def refuse_missing(paths: Iterable[str | None], data: str) -> None:
    """Refuse a table that names files which are gone; `None` names none.

    Raises:
        DataError: naming the first that is missing.
    """
    for path in dict.fromkeys(p for p in paths if p):
        if not Path(path).exists():
            raise DataError(
                f"expected the file {path} that {data} names, found none; prepare the table again"
            )


def labelled(data: str, name: str) -> tuple[list[Sample], list[bool], list[str]]:
    """Images of a split, which of them have a label, and notes.

    Raises:
        DataError: not both classes are there.
    """
    images, notes = images_of(data, name)
    keep = [not math.isnan(s.label) for s in images]
    abnormal, normal = (sum(s.label == label for s in images) for label in (1, 0))
    if not (abnormal and normal):
        raise DataError(
            f"expected normal and abnormal images in split {name!r} of {data}, got {abnormal} "
            f"abnormal and {normal} normal; fill the column label"
        )
    if not all(keep):
        notes.append(f"{len(keep) - sum(keep)} images with a mask but no label are left out.")
    return images, keep, notes


def unit_of(samples: Sequence[Sample]) -> str:
    """What the groups of these samples are, in words."""
    pairs = {(s.group, s.source, s.patient) for s in samples}
    named = all(patient for _, _, patient in pairs)
    if named and len(pairs) == len({p[0] for p in pairs}) == len({p[1:] for p in pairs}):
        return "patient"
    return "group of the table (patient, cluster or duplicates)"


@lru_cache(maxsize=2)
def _file(path: str, modality: str | None, body_part: str | None) -> tuple[Image, tuple]:
    image = read_image(path, modality=modality, body_part=body_part)
    return image, grey_window(image.pixels)


def file_of(sample: Sample) -> tuple[Image, tuple[float, float]]:
    """The image or volume that a sample lies in, and its grey window."""
    return _file(sample.image, sample.modality, sample.body_part)


def _plane(slices: np.ndarray, sample: Sample, path: str) -> np.ndarray:
    if sample.slice is None and len(slices) > 1:
        raise DataError(
            f"expected a slice for the volume {path} of {len(slices)} slices, got none; fill the "
            "column slice"
        )
    if (sample.slice or 0) >= len(slices):
        raise DataError(
            f"expected a slice below {len(slices)} for {path}, got {sample.slice}; correct it"
        )
    return slices[sample.slice or 0]


def slice_of(sample: Sample) -> np.ndarray:
    """Grey values `(H, W)` on the file's own grid."""
    return _plane(file_of(sample)[0].slices(), sample, sample.image)


def mask_of(sample: Sample) -> np.ndarray | None:
    """The lesion `(H, W)` bool; empty for a normal image without mask, `None` where unknown.

    Raises:
        DataError: the mask does not lie on the image's grid.
    """
    if sample.mask is None and sample.label != 0:
        return None
    grid = file_of(sample)[0].slices().shape[1:]
    if sample.mask is None:
        # no memory is taken for the many empty masks
        return np.broadcast_to(np.False_, grid)
    image, _ = _file(sample.mask, sample.modality, sample.body_part)
    mask = _plane(image.slices(), sample, sample.mask) > 0
    if mask.shape != grid:
        raise DataError(
            f"expected a mask of the image's size {grid}, got {mask.shape} in {sample.mask}; give "
            "the mask on the image's own grid"
        )
    return mask


def state_of(sample: Sample) -> tuple[object, ...]:
    """What tells a file from another version of itself without reading it."""
    stat = Path(sample.image).stat()
    said = (sample.image, sample.slice, sample.modality, sample.body_part)
    return *said, stat.st_size, int(stat.st_mtime)


def files_of(tables: Sequence[str]) -> str:
    """What tells tables, and the files that they name, from other versions of themselves."""
    states: list[object] = []
    for table in tables:
        root, rows = Path(read_info(table).root), read_samples(table)
        named = sorted({p for s in rows for p in (s.image, s.prior, s.mask) if p})
        there = [(p, (root / p).stat()) for p in named if (root / p).exists()]
        states.append(Path(table).read_bytes())
        states += [(p, stat.st_size, stat.st_mtime_ns) for p, stat in there]
    return digest(states)


def in_parts(samples: Sequence[Sample]) -> list[list[int]]:
    """Indexes that are read in one go: 2-D images by the batch, slices of a volume together."""
    flat = [i for i, s in enumerate(samples) if s.slice is None]
    volumes: dict[str, list[int]] = defaultdict(list)
    for i, s in enumerate(samples):
        if s.slice is not None:
            volumes[s.image].append(i)
    return [flat[k : k + BATCH] for k in range(0, len(flat), BATCH)] + list(volumes.values())


@dataclass(frozen=True)
class Predictions:
    """What one model says of n images, in their order.

    Attributes:
        of: the model's name in tables.
        model: the model.
        score, entry, in_scope: `(n,)`; the score is taken whether in scope or not.
        heatmaps: `(H, W)` float32 each, read from the cache when asked for.
    """

    of: str
    model: Model
    score: np.ndarray
    entry: np.ndarray
    in_scope: np.ndarray
    heatmaps: Sequence[np.ndarray]

    def fitted(self, name: str) -> np.ndarray:
        """A number of the scope entry of each image, such as its threshold."""
        return getattr(self.model.network.calibration, name).cpu().numpy()[self.entry]

    def subset(self, keep: np.ndarray) -> Predictions:
        """Those of some images."""
        return dataclasses.replace(
            self, score=self.score[keep], entry=self.entry[keep], in_scope=self.in_scope[keep],
            heatmaps=chosen(self.heatmaps, keep),
        )  # fmt: skip


def read_part(model: Model, samples: Sequence[Sample]) -> Arrays:
    """Predictions of images that are read in one go."""
    planes = [slice_of(s) for s in samples]
    files = [file_of(s) for s in samples]
    seen = predict(
        model,
        [as_image(p, s.image) for p, s in zip(planes, samples, strict=True)],
        "reading slices of a volume",
        [window for _, window in files],
        one_scan=samples[0].slice is not None,
    )
    declared = [declared_out_of_scope(image, model.config) is None for image, _ in files]
    out = columns(seen) | {"declared_in_scope": np.array(declared)}
    out["heatmap_threshold"] = np.array([threshold_of(model, p) for p in seen])
    return out | {f"heatmap_{k}": p.heatmap for k, p in enumerate(seen)}


def parts_of(
    samples: Sequence[Sample],
    store: Store,
    weights: str,
    name: str,
    make: Callable[[list[Sample]], Arrays],
    test: bool,
) -> list[tuple[Path, list[int]]]:
    """What some weights say of images, made part by part: a file each, and whose images it holds.

    Args:
        make: arrays of the images that are read in one go, their maps as `heatmap_0` and so on.
    """
    indexes = in_parts(samples)
    parts = [[samples[i] for i in part] for part in indexes]
    makes: dict[str, Callable[[], Arrays]] = {
        digest([state_of(s) for s in part]): partial(make, part) for part in parts
    }
    return list(zip(store.parts(weights, name, makes, test), indexes, strict=True))


def arrays_in(parts: Sequence[tuple[Path, list[int]]], name: str) -> Lazy:
    """The arrays NAME_0, NAME_1 ... of files, in the order of the samples.

    Args:
        parts: a file each, and the indexes of the samples that its arrays are of.
    """
    place = {i: (path, k) for path, part in parts for k, i in enumerate(part)}

    def array(i: int) -> np.ndarray:
        path, k = place[i]
        with opened(path) as arrays:
            return arrays[f"{name}_{k}"]

    return Lazy(array, len(place))


def predictions_of(
    model: Model, of: str, samples: Sequence[Sample], store: Store, name: str, test: bool
) -> Predictions:
    """Predictions of a model, made once per weights and kept part by part."""
    parts = parts_of(samples, store, model.weights_sha256, name, partial(read_part, model), test)
    columns: dict[str, list] = defaultdict(lambda: [None] * len(samples))
    for path, part in parts:
        with opened(path) as arrays:
            for key in ("score", "entry", "in_scope", "declared_in_scope"):
                for i, value in zip(part, arrays[key], strict=True):
                    columns[key][i] = value
    return Predictions(
        of=of,
        model=model,
        score=np.array(columns["score"], float),
        entry=np.array(columns["entry"], int),
        in_scope=np.array(columns["in_scope"]) & np.array(columns["declared_in_scope"]),
        heatmaps=arrays_in(parts, "heatmap"),
    )


def masks_of(samples: Sequence[Sample]) -> list[np.ndarray | None]:
    """The lesion masks of all samples, on the grids of their images."""
    return [mask_of(s) for s in bar(samples, "reading masks")]
