"""Batch: folders on any file system that fsspec knows, and files that are whole or not there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        return {name for name in self._listed(folder) if not name.startswith(".")}

    def touch(self, name: str) -> None:
        """An empty file."""
        self._make_parent(name)
        self.files.pipe_file(self.of(name), b"")

    def remove(self, name: str) -> None:
        """Remove a file, which another process may have done already."""
        with suppress(FileNotFoundError):
            self.files.rm_file(self.of(name))

    @contextmanager
    def new(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write, put under its name when the block ends well; else it never was there.

        Several processes may write the same name: each its own part, of which the last one stays.
        """
        last = name.rpartition("/")[2]
        part = f"{name.removesuffix(last)}.{last}.{uuid.uuid4().hex}{PART}"
        self._make_parent(name)
        try:
            with self.files.open(self.of(part), "wb") as file:
                yield file
            try:
                self.files.mv(self.of(part), self.of(name))
            except FileNotFoundError:  # swept by a run that had finished the same file
                if not self.has(name):
                    raise
        except BaseException:
            self.remove(part)
            raise

    def sweep(self, folder: str) -> None:
        """Remove what killed writers left in a folder of it, of files that are there by now."""
        names = self._listed(folder)
        for part in names:
            whole = part.removeprefix(".").removesuffix(PART).rpartition(".")[0]
            if part.startswith(".") and part.endswith(PART) and whole in names:
                self.remove(f"{folder}/{part}")

    def _make_parent(self, name: str) -> None:
        self.files.makedirs(self.of(name).rpartition("/")[0], exist_ok=True)

    def _listed(self, folder: str) -> set[str]:
        self.files.invalidate_cache()
        if not self.files.isdir(self.of(folder)):
            return set()
        return {path.rpartition("/")[2] for path in self.files.ls(self.of(folder), detail=False)}
