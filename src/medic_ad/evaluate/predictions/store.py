"""Evaluation: what every part is given, what it returns, and the caches beside the card."""

from __future__ import annotations

import datetime
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from medic_ad.errors import DataError
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.sources import reachable, source_of
from medic_ad.load import Model

Arrays = dict[str, np.ndarray]


def digest(*parts: object) -> str:
    """Twelve hexadecimal digits over anything with a stable `repr`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def code(*modules: str) -> str:
    """`digest` over the source files that some modules of this package depend on."""
    return digest([path.read_text(encoding="utf-8") for path in reachable(*modules)])


def damaged(path: Path) -> DataError:
    """The refusal of a file that a run kept and that something else has spoilt."""
    return DataError(
        f"expected {path} as an earlier run kept it, but it is damaged; delete it and run again"
    )


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Arrays by their names, each read when asked for.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with np.load(path) as arrays:
            yield arrays
    except (BadZipFile, zlib.error, ValueError, EOFError, KeyError, TypeError) as error:
        raise damaged(path) from error


# What predictions are made with, beside the weights; a change of it makes them anew.
READ_WITH = code(
    "medic_ad.road", "medic_ad.evaluate.predictions.sweep", "medic_ad.evaluate.predictions.pairs"
)


@dataclass(frozen=True)
class Part:
    """One section of the card.

    Attributes:
        title: its heading.
        notes: sentences on what was measured and how.
        figures: in the order of the table.
    """

    title: str
    notes: list[str]
    figures: list[Figure]


@dataclass(frozen=True)
class Store:
    """Files of one evaluation: test material, predictions per weights, and the log of openings.

    What is kept is made anew when the file changes that holds the function which makes it;
    predictions also with `READ_WITH`.

    The test split counts as opened when predictions on it exist: the line is written when the first
    are made, before they are kept. A run that fails before that has shown nobody anything; one that
    fails after it goes on with what is kept, and its figures are no second opening.
    """

    out: Path
    command: str

    def material(self, name: str, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Arrays that do not depend on any weights, made once."""
        return self._cached(self._named(self.out / "material", name, key, make), make)

    def predictions(
        self, weights: str, name: str, key: str, make: Callable[[], Arrays], test: bool = True
    ) -> Arrays:
        """What some weights say of some material, made once per weights.

        Making it opens the test split for these weights, which is written down.
        """
        path = self._named(self._folder(weights), name, key, make)

        def logged() -> Arrays:
            before = self._openings() if test else []
            arrays = make()
            if test:
                self._log(before, weights, name, key)
            return arrays

        return self._cached(path, logged)

    def parts(
        self, weights: str, name: str, makes: dict[str, Callable[[], Arrays]], test: bool = True
    ) -> list[Path]:
        """Files of `predictions` in parts, each kept as soon as it is made.

        A run that was killed goes on at the first part that lacks. All parts are one opening; what
        a later run adds is another line, which says how many parts were there.
        """
        folder = self._folder(weights)
        paths = {key: self._named(folder, name, key, make) for key, make in makes.items()}
        lacking = [key for key, path in paths.items() if not path.is_file()]

        def logged() -> Arrays:
            before = self._openings() if test else []
            arrays = makes[lacking[0]]()
            if test:
                self._log(before, weights, name, digest(*makes), len(makes) - len(lacking))
            return arrays

        for key in bar(lacking, f"reading {name}"):
            self._cached(paths[key], logged if key == lacking[0] else makes[key])
        return list(paths.values())

    def _folder(self, weights: str) -> Path:
        return self.out / "predictions" / f"{weights[:16]}-{READ_WITH[:6]}"

    @staticmethod
    def _named(folder: Path, name: str, key: str, make: Callable[[], Arrays]) -> Path:
        return folder / f"{name}-{key}-{digest(source_of(make))[:6]}.npz"

    def _cached(self, path: Path, make: Callable[[], Arrays]) -> Arrays:
        if not path.is_file():
            arrays = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez(part, **arrays)  # type: ignore[arg-type]
            part.rename(path)
        with opened(path) as arrays:
            return dict(arrays.items())

    @property
    def _opened(self) -> Path:
        return self.out / "opened.jsonl"

    def _openings(self) -> list[tuple[str, str, str]]:
        """Weights, predictions and material of every opening so far."""
        text = self._opened.read_text() if self._opened.is_file() else ""
        try:
            lines = [json.loads(line) for line in text.splitlines()]
            return [(x["weights_sha256"], x["what"], x["material"]) for x in lines]
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(self._opened) from error

    def _log(
        self, before: list[tuple[str, str, str]], weights: str, name: str, key: str,
        parts_there: int = 0,
    ) -> None:  # fmt: skip
        line = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "weights_sha256": weights,
            "what": name,
            "material": key,
            "times_opened_before": before.count((weights, name, key)),
            "parts_there_before": parts_there,
            "command": self.command,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        with self._opened.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Context:
    """What a part measures with.

    Attributes:
        model: the model, calibrated.
        root: folder that holds the data sets under their names.
        store: caches.
        seed: of synthesis and resampling.
        resamples: of the bootstrap.
        pairs: synthetic pairs of the compare part.
        read_pairs: how many of them are also read as files, in both orders.
        unet: folder of the reference U-Net, `None` without one.
    """

    model: Model
    root: Path
    store: Store
    seed: int = 0
    resamples: int = 1000
    pairs: int = 300
    read_pairs: int = 60
    unet: Path | None = None
    seen: dict[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        return self.model.weights_sha256

    @property
    def of(self) -> str:
        """The model's short name in tables."""
        return Path(self.model.name).name

    def resampling(self, groups, unit: str, split: str) -> Resampling:
        return Resampling(groups, unit, split, self.seed, self.resamples)
