"""Node: the files beside the queue; a name that does not start with a dot is a whole file.

incoming/UNIT/INSTANCE.dcm      accepted images
fetched/MESSAGE/SERIES/*.dcm    priors of a job under way
results/UNIT-REVISION-WEIGHTS/  results, kept for `keep_days`
dead/JOB/                       reason.json, and the images as links
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from medic_ad.node.queue import Job

_FOLDERS = ("incoming", "fetched", "results", "dead")


class Store:
    """Files under one folder; what is put here is on the disk when the call returns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in _FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)

    def clean(self) -> None:
        """Remove what an interrupted node left half-made; only while nothing else runs."""
        for stray in [p for name in _FOLDERS for p in (self.root / name).rglob(".*")]:
            _remove(stray)
        for fetched in (self.root / "fetched").iterdir():
            _remove(fetched)

    def unit(self, unit: str) -> Path:
        return self.root / "incoming" / unit

    def image(self, unit: str, instance: str) -> Path:
        return self.unit(unit) / f"{instance}.dcm"

    def images(self, unit: str) -> list[Path]:
        return sorted(self.unit(unit).glob("*.dcm"))

    def fetched(self, message: int) -> Path:
        return self.root / "fetched" / str(message)

    def results(self, job: Job) -> Path:
        """Where results lie, by the images and the weights that they follow from."""
        return self.root / "results" / f"{job.unit}-{job.revision}-{job.weights}"

    def make_results(self, job: Job, write: Callable[[Path], object]) -> list[Path]:
        """The result files of a job: those of an earlier attempt, else written now, all or none."""
        folder = self.results(job)
        if not folder.is_dir():
            staging = folder.with_name(f".{folder.name}")
            _remove(staging)
            made = staging / "made"
            made.mkdir(parents=True)
            write(made)
            for file in (*made.iterdir(), made):
                _sync(file)
            os.rename(made, folder)
            _sync(folder.parent)
            _remove(staging)
        return sorted(folder.glob("*.dcm"))

    def bury(self, job: Job, reason: str) -> None:
        """Put the reason, and the images as links, where a person looks for what went wrong."""
        folder = self.root / "dead" / str(job.id)
        staging = folder.with_name(f".{folder.name}")
        _remove(staging)
        staging.mkdir()
        for file in self.images(job.unit):
            os.link(file, staging / file.name)
        content = {"reason": reason, "attempts": job.attempts}
        (staging / "reason.json").write_text(json.dumps(content, indent=2) + "\n")
        _remove(folder)
        os.rename(staging, folder)

    def forget(self, job: Job) -> None:
        """Remove what a finished job no longer needs."""
        _remove(self.fetched(job.message))
        _remove(self.root / "dead" / str(job.id))

    def purge(self, unit: str) -> bool:
        """Remove the images of a unit; False where they were removed before."""
        there = self.unit(unit).is_dir()
        _remove(self.unit(unit))
        return there

    def purge_results(self, before: float) -> None:
        """Remove results made before a point in time; who still needs them makes them again."""
        for folder in (self.root / "results").glob("[!.]*"):  # a worker may be making the others
            if folder.stat().st_mtime < before:
                _remove(folder)


def put(path: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, it is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with staging.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
