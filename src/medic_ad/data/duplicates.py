"""Training data: exact and near duplicates among images, so that no split tears them apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage.transform import resize

from medic_ad.errors import DataError, MedicADError
from medic_ad.readers import read_image

_SIDE = 32
# Correlation of 32 x 32 thumbnails. Re-saved copies of one slice lie above 0.98, slices of
# different patients of one set below it (measured on brain_mri_253 and brain_tumour_cheng).
_ALIKE = 0.98
_CELLS = 2**26  # correlations held at once: 256 MB


@dataclass(frozen=True)
class Fingerprint:
    """What tells duplicates: a hash of the bytes (and slice) and a thumbnail uint8 (32, 32).

    `grid` is the shape of the image, for checking that masks lie on it.
    """

    digest: str
    grid: tuple[int, ...]
    thumbnail: np.ndarray


def fingerprint(path: Path, index: int | None, modality: str | None) -> Fingerprint:
    """Read one image, or one slice of a volume.

    Raises:
        DataError: the file cannot be read, or the slice does not fit it.
    """
    try:
        image = read_image(path, modality=modality)
    except MedicADError as error:
        raise DataError(str(error)) from error
    depth = image.slices().shape[0]
    if image.is_volume and index is None:
        raise DataError(f"{path} is a volume of {depth} slices: name one in the column slice.")
    if (index or 0) >= depth:
        raise DataError(f"{path} has {depth} slices, so there is no slice {index}.")
    small = resize(image.slices()[index or 0], (_SIDE, _SIDE), anti_aliasing=True)
    small = small - small.min()
    thumbnail = np.rint(small * (255 / max(float(small.max()), 1e-6))).astype(np.uint8)
    return Fingerprint(f"{image.source.sha256}:{index}", tuple(image.grid), thumbnail)


class FingerprintStore:
    """Fingerprints kept in a file beside the work, so that a run that stopped can go on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, Fingerprint] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, digest, grid, packed = json.loads(line)
                    pixels = np.frombuffer(base64.b64decode(packed), np.uint8)
                    self._known[key] = Fingerprint(
                        digest, tuple(grid), pixels.reshape(_SIDE, _SIDE)
                    )
                except ValueError:  # the line that was being written when the run stopped
                    continue

    def get(self, path: Path, index: int | None, modality: str | None) -> Fingerprint:
        """The fingerprint of a file as it is now, read only once."""
        status = path.stat()
        key = f"{path}|{status.st_size}|{status.st_mtime_ns}|{index}|{modality}"
        if key not in self._known:
            found = fingerprint(path, index, modality)
            self._known[key] = found
            if self.path is not None:
                packed = base64.b64encode(found.thumbnail.tobytes()).decode()
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, found.digest, found.grid, packed]) + "\n")
        return self._known[key]


class Groups:
    """Union-find over row numbers."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, i: int) -> int:
        """The representative of the group of row i: its smallest row."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Put rows i and j into one group."""
        a, b = sorted((self.find(i), self.find(j)))
        self._parent[b] = a


def duplicate_pairs(prints: list[Fingerprint]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of exact duplicates and of near ones, mirrored copies included."""
    pairs = []
    first: dict[str, int] = {}
    for j, one in enumerate(prints):
        i = first.setdefault(one.digest, j)
        if i != j:
            pairs.append((i, j))
    pixels = np.stack([one.thumbnail for one in prints]).astype(np.float32)
    plain, mirrored = _unit(pixels), _unit(pixels[:, :, ::-1])
    step = max(1, _CELLS // max(len(prints), 1))
    for start in range(0, len(prints), step):
        block = plain[start : start + step]
        alike = np.maximum(block @ plain.T, block @ mirrored.T) >= _ALIKE
        for i, j in np.argwhere(alike):
            if start + i < j:
                pairs.append((int(start + i), int(j)))
    return pairs


def _unit(pixels: np.ndarray) -> np.ndarray:
    flat = pixels.reshape(len(pixels), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))


def alike_files(
    files: Sequence[tuple[Path, int | None, str | None]],
    store: FingerprintStore,
    track: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[list[tuple[int, int]], int]:
    """Duplicates among files, each given as path, slice and modality.

    Slices of volumes (with an index) count where they are exact: in a common space such as MNI152,
    registered brains of two patients are as alike as copies elsewhere.

    Returns: pairs (i, j), i < j, of positions in `files`, and how many of them are exact.

    Raises:
        DataError: a file cannot be read.
    """
    prints = [store.get(*file) for file in track(files)]
    exact, near = [], []
    for i, j in sorted(set(duplicate_pairs(prints))) if prints else []:
        if prints[i].digest == prints[j].digest:
            exact.append((i, j))
        elif files[i][1] is None and files[j][1] is None:
            near.append((i, j))
    return sorted(exact + near), len(exact)
