"""Batch: the studies that a worker was at when it ended; one that always ends it is given up."""

from __future__ import annotations

from collections import Counter

from medic_ad.batch.files import Folder
from medic_ad.errors import BatchError

ATTEMPTS = "attempts"
MOST = 3  # attempts to read a study; a worker may also be lost by chance


class Attempts:
    """Marks on the studies of one shard that are begun and have not ended.

    A mark is an empty file beside the results, named by the shard, the study's row in it and the
    attempt. Whoever is killed leaves the marks of the studies that it had begun.

    Args:
        folder: of the output.
        shard: name of the shard.

    Attributes:
        before: row -> attempts that did not end.
    """

    def __init__(self, folder: Folder, shard: str) -> None:
        self.folder, self.shard = folder, shard
        marks = [name for name in folder.names(ATTEMPTS) if name.startswith(f"{shard}.")]
        self.before = Counter(int(name.split(".")[-2]) for name in marks)
        self.open: set[int] = set()

    def begin(self, row: int) -> None:
        """Mark a study.

        Raises:
            BatchError: it was begun `MOST` times and never ended.
        """
        if self.before[row] >= MOST:
            raise BatchError(
                f"expected a study that can be read, but the worker ended {MOST} times while "
                "reading it; try it alone with medic-ad read."
            )
        self.folder.touch(self._mark(row, self.before[row]))
        self.open.add(row)

    def end(self, row: int) -> None:
        """Take a study's mark away, whether it was read or not."""
        if row in self.open:
            self.open.remove(row)
            self.folder.remove(self._mark(row, self.before[row]))

    def keep(self, row: int) -> None:
        """Let the mark stand: this attempt counts."""
        self.open.discard(row)

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        """Whoever ends in order, by an error too, leaves no marks of its own but those kept."""
        for row in list(self.open):
            self.end(row)

    def forget(self) -> None:
        """The shard is done: take away what earlier workers left."""
        for row, attempts in self.before.items():
            for attempt in range(attempts):
                self.folder.remove(self._mark(row, attempt))

    def _mark(self, row: int, attempt: int) -> str:
        return f"{ATTEMPTS}/{self.shard}.{row}.{attempt}"
