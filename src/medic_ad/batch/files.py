"""Batch: folders on any file system that fsspec knows, and files that are whole or not there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from medic_ad.errors import BatchError

PART = ".part"


@dataclass(frozen=True)
class Folder:
    """A folder here or far away.

    Attributes:
        url: as it was given: a path, `s3://bucket/folder`, `gs://...`.
        files: its file system.
        path: the folder within it.
    """

    url: str
    files: AbstractFileSystem
    path: str

    @classmethod
    def at(cls, url: str) -> Folder:
        """Raise BatchError where no file system serves such an address."""
        try:
            files, path = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BatchError(
                f"expected a folder or an address such as s3://bucket/folder, got {url!r}, but: "
                f"{error}; install what it names, or give another folder."
            ) from error
        return cls(url, files, path.rstrip("/"))

    def of(self, name: str) -> str:
        """Path of a file in it."""
        return f"{self.path}/{name}"

    @property
    def address(self) -> str:
        """The folder as another process finds it, whatever its working directory."""
        return self.files.unstrip_protocol(self.path)

    def has(self, name: str) -> bool:
        return self.files.exists(self.of(name))

    def names(self, folder: str) -> set[str]:
        """Names of the finished files in a folder of it."""
        self.files.invalidate_cache()
        if not self.files.isdir(self.of(folder)):
            return set()
        found = (path.rpartition("/")[2] for path in self.files.ls(self.of(folder), detail=False))
        return {name for name in found if not name.startswith(".")}

    @contextmanager
    def new(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write, put under its name when the block ends well; else it never was there."""
        target = self.of(name)
        parent = target.rpartition("/")[0]
        part = f"{parent}/.{uuid.uuid4().hex}{PART}"
        self.files.makedirs(parent, exist_ok=True)
        try:
            with self.files.open(part, "wb") as file:
                yield file
            self.files.mv(part, target)
        except BaseException:
            if self.files.exists(part):
                self.files.rm(part)
            raise

    def sweep(self, folder: str) -> None:
        """Remove what killed writers left in a folder of it."""
        for path in self.files.glob(f"{self.of(folder)}/.*{PART}"):
            self.files.rm(path)
