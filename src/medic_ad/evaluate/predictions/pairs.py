"""Evaluation: pairs of dates through the road's `align` and `compare_slices`, gate or no gate."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from medic_ad.align import align
from medic_ad.change import change_scores, compare_slices
from medic_ad.data.sample import Sample, read_info, read_samples
from medic_ad.errors import DataError
from medic_ad.evaluate.predictions.store import Arrays, Store, digest
from medic_ad.evaluate.predictions.table import arrays_in, chosen, refuse_missing
from medic_ad.finding import change_label
from medic_ad.image import Image
from medic_ad.load import Model
from medic_ad.readers import read_image
from medic_ad.road import declared_out_of_scope
from medic_ad.train.run import split
from medic_ad.words import CHANGE_LABELS, EXCHANGED

BATCH = 8  # pairs of 2-D images that are kept in one file
COLUMNS = ("label", "back", "scores", "back_scores", "in_scope")  # what is kept of every pair
FOREGROUND = 0.02  # of the range of grey values, above its low end


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two dates of one patient.

    Attributes:
        sample: the row of the table; of a volume that is listed slice by slice the first one.
        slices: those that the table lists, `None` for a 2-D image or all of a volume.
        change_mask: path of the unsigned mask of what changed, where the table has one.
    """

    sample: Sample
    slices: tuple[int, ...] | None
    change_mask: str | None

    def image(self, path: str | None) -> Image:
        """The image or volume of one of the pair's files."""
        s = self.sample
        return read_image(str(path), modality=s.modality, body_part=s.body_part)

    def listed(self, grid: np.ndarray) -> np.ndarray:
        """The listed slices `(n, H, W)` of something on the current grid."""
        whole = grid if grid.ndim == 3 else grid[None]
        return whole if self.slices is None else whole[list(self.slices)]


def change_masks(data: str) -> dict[tuple[str, str], str]:
    """(image, prior) -> change mask, of the rows whose label is empty."""
    root = Path(read_info(data).root)
    return {
        (str(root / s.image), str(root / s.prior)): str(root / s.mask)
        for s in read_samples(data)
        if s.prior and s.mask and math.isnan(s.label)
    }


def pairs_of(data: str, name: str) -> tuple[list[Pair], list[str]]:
    """The pairs of one split, each once, whose change is known by label or mask, and notes.

    Raises:
        DataError: there is none, two labels for one pair, or a file that is gone.
    """
    rows = [s for s in split(data, name) if s.prior]
    found: dict[tuple[str, str], list[Sample]] = {}
    for s in rows:
        found.setdefault((s.image, str(s.prior)), []).append(s)
    pairs, masks = [], change_masks(data)
    for files, same in found.items():
        labels = {s.change for s in same if s.change}
        if len(labels) > 1:
            raise DataError(
                f"expected one change for {same[0].image} and its prior, got "
                f"{' and '.join(sorted(labels))} in {data}; correct the table"
            )
        slices = sorted({s.slice for s in same if s.slice is not None})
        one = dataclasses.replace(
            same[0], change=labels.pop() if labels else None, slice=None, question=None, answer=None
        )
        pairs.append(Pair(one, tuple(slices) or None, masks.get(files)))
    known = [p for p in pairs if p.sample.change or p.change_mask]
    if not known:
        raise DataError(
            f"expected pairs with a known change in split {name!r} of {data}, got {len(pairs)} "
            "pairs and none of them; fill the columns prior and change, or mask where label is "
            "empty"
        )
    files_of = ((p.sample.image, p.sample.prior, p.change_mask) for p in known)
    refuse_missing(itertools.chain.from_iterable(files_of), data)
    notes = []
    if len(pairs) < len(rows):
        notes.append(f"{len(rows)} rows of the split show {len(pairs)} different pairs.")
    if len(known) < len(pairs):
        notes.append(f"{len(pairs) - len(known)} pairs without a known change are left out.")
    return known, notes


def compare_images(model: Model, current: Image, prior: Image) -> Arrays:
    """What the road says of two images, whether in scope or not.

    Returns:
        `label`; `scores` `(3,)` of worse, stable and better; `map` signed on the current grid;
        `in_scope`, whether both dates pass the gate; `prior_on_current`. Scores and map are NaN
        where the images cannot be compared.
    """
    alignment = align(current, prior)
    out = {"prior_on_current": alignment.prior_on_current().astype(np.float32)}
    if not alignment.ok:
        return out | {
            "label": np.array("not_comparable"), "scores": np.full(len(CHANGE_LABELS), np.nan),
            "map": np.full(current.grid, np.nan, np.float32), "in_scope": np.array(False),
        }  # fmt: skip
    calibration, seen = model.network.calibration, compare_slices(alignment, model)
    scores = change_scores(seen.outputs, calibration.temperature())
    gates = [calibration.entry(gate) for gate in seen.gates]
    return out | {
        "label": np.array(change_label(scores)),
        "scores": np.array([scores[name] for name in CHANGE_LABELS]),
        "map": alignment.to_current(seen.map).astype(np.float32),
        "in_scope": np.array(all(distance <= limit for _, distance, limit in gates)),
    }


def inverse_of(labels: np.ndarray) -> np.ndarray:
    """The labels that the same pairs have with their dates exchanged."""
    return np.array([EXCHANGED.get(str(label), label) for label in labels])


def foreground(current: Image) -> np.ndarray:
    """Pixels of the current grid that are not the dark surroundings."""
    low, high = np.nanmin(current.pixels), np.nanmax(current.pixels)
    return current.pixels > low + FOREGROUND * (high - low)


@dataclasses.dataclass(frozen=True)
class PairPredictions:
    """What one model says of n pairs, in their order.

    Attributes:
        of, model: the model.
        label, back: `(n,)` label of the pair, and of the same two files with the dates exchanged.
        scores, back_scores: `(n, 3)` of worse, stable and better; NaN where not comparable.
        in_scope: `(n,)` whether both dates are.
        maps, priors: signed map, and prior, on the current grid; read from the cache when asked.
    """

    of: str
    model: Model
    label: np.ndarray
    back: np.ndarray
    scores: np.ndarray
    back_scores: np.ndarray
    in_scope: np.ndarray
    maps: Sequence[np.ndarray]
    priors: Sequence[np.ndarray]

    def subset(self, keep: np.ndarray) -> PairPredictions:
        """Those of some pairs."""
        return dataclasses.replace(
            self, **{name: getattr(self, name)[keep] for name in COLUMNS},
            maps=chosen(self.maps, keep), priors=chosen(self.priors, keep),
        )  # fmt: skip


def state_of(pair: Pair) -> tuple[object, ...]:
    """What tells the files of a pair from other versions of themselves without reading them."""
    s = pair.sample
    stats = [Path(str(path)).stat() for path in (s.image, s.prior)]
    said = (s.image, s.prior, s.modality, s.body_part)
    return *said, *((stat.st_size, int(stat.st_mtime)) for stat in stats)


def read_part(model: Model, pairs: Sequence[Pair]) -> Arrays:
    """Predictions of pairs, each order by a call of its own."""
    out: Arrays = {}
    for k, pair in enumerate(pairs):
        current, prior = (pair.image(path) for path in (pair.sample.image, pair.sample.prior))
        ahead, back = compare_images(model, current, prior), compare_images(model, prior, current)
        declared = declared_out_of_scope(current, model.config) is None
        out |= {f"{name}_{k}": value for name, value in ahead.items()}
        out |= {f"back_{k}": back["label"], f"back_scores_{k}": back["scores"]}
        out[f"in_scope_{k}"] = ahead["in_scope"] & declared
    return out


def pair_predictions(
    model: Model, of: str, pairs: Sequence[Pair], store: Store, name: str, test: bool
) -> PairPredictions:
    """Predictions of a model, made once per weights and kept part by part."""
    volumes = [[i] for i, p in enumerate(pairs) if p.slices is not None]
    flat = [i for i, p in enumerate(pairs) if p.slices is None]
    parts = [*volumes, *(flat[k : k + BATCH] for k in range(0, len(flat), BATCH))]
    makes: dict[str, Callable[[], Arrays]] = {
        digest([state_of(pairs[i]) for i in part]): partial(
            read_part, model, [pairs[i] for i in part]
        )
        for part in parts
    }
    paths = store.parts(model.weights_sha256, f"pairs-{name}", makes, test)
    kept = partial(arrays_in, list(zip(paths, parts, strict=True)))
    return PairPredictions(
        of, model, **{name: np.array(list(kept(name))) for name in COLUMNS},
        maps=kept("map"), priors=kept("prior_on_current"),
    )  # fmt: skip
