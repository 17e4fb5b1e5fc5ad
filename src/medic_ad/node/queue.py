"""Node: the durable queue, one SQLite file; what was accepted stays until it is done or dead.

An instance is known by a hash of its SOP Instance UID, a unit of reading (the slices of a series,
or a single image) by a hash of its UID. A job is one unit read with one set of weights.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

STATES = ("waiting", "running", "done", "dead")
BUSY_SECONDS = 60.0
_TABLES = """
CREATE TABLE IF NOT EXISTS instances (
    key TEXT PRIMARY KEY, unit TEXT NOT NULL, received REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS instances_of_unit ON instances (unit);
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY,
    unit TEXT NOT NULL,
    weights TEXT NOT NULL,
    state TEXT NOT NULL,
    revision INTEGER NOT NULL,  -- instances that the unit had: a late one makes it a new read
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL,
    owner INTEGER,  -- process id of the worker
    started REAL,
    finished REAL,
    sent INTEGER NOT NULL DEFAULT 0,
    UNIQUE (unit, weights)
);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (state, due);
"""
_ACCEPT = """
INSERT INTO jobs (unit, weights, state, revision, due) VALUES (:unit, :weights, 'waiting', 1, :due)
ON CONFLICT (unit, weights) DO UPDATE SET
    revision = revision + :new,
    due = CASE WHEN :new OR state = 'dead' THEN :due
               WHEN state = 'waiting' THEN max(due, :due) ELSE due END,
    attempts = CASE WHEN state IN ('done', 'dead') THEN 0 ELSE attempts END,
    state = CASE WHEN state = 'dead' OR (state = 'done' AND :new) THEN 'waiting' ELSE state END
"""
_CLAIM = """
UPDATE jobs SET state = 'running', attempts = attempts + 1, owner = :owner, started = :now
WHERE id = (SELECT id FROM jobs WHERE state = 'waiting' AND due <= :now AND weights = :weights
            ORDER BY due, id LIMIT 1)
RETURNING id, unit, revision, attempts, weights, owner, started
"""
# Of a unit that has a job of today's weights already, as after a return to former ones.
_READ_AGAIN = """
UPDATE jobs SET state = 'waiting', attempts = 0, revision = revision + 1, due = :now
WHERE weights = :weights AND state != 'waiting' AND unit IN
    (SELECT unit FROM jobs WHERE state = 'waiting' AND weights != :weights)
"""
# A lease: who took a job, and when. Attempts do not tell, since they start anew.
_LEASED = "id = :id AND state = 'running' AND owner = :owner AND started = :started"


def key_of(uid: str) -> str:
    """A name for files and rows that is safe as a path and does not show the UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Job:
    """A unit to read, as it was when a worker took it.

    What a worker says of a job that another one took since then changes nothing.
    """

    id: int
    unit: str
    revision: int
    attempts: int
    weights: str
    owner: int
    started: float

    @property
    def message(self) -> int:
        """Number of its C-MOVE messages, by which the priors that arrive are known."""
        return self.id % 0xFFFF + 1


class Queue:
    """Jobs of one set of weights; threads share one, every process opens its own."""

    def __init__(self, path: Path, weights: str) -> None:
        self.weights = weights
        # One connection for all threads: the last one to close would write the whole log back.
        self._base = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._lock = threading.Lock()
        with self._open() as base:
            base.execute("PRAGMA synchronous = FULL")  # an answered C-STORE survives a power cut
            base.executescript("PRAGMA journal_mode = WAL;" + _TABLES)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._base

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._open() as base:
            base.execute("BEGIN IMMEDIATE")
            try:
                yield base
                base.execute("COMMIT")
            except BaseException:
                if base.in_transaction:  # SQLite ends some by itself, as on a full disk
                    base.execute("ROLLBACK")
                raise

    def accept(self, instance: str, unit: str, settle: float) -> bool:
        """Take in an instance; its unit is due once no other came for `settle` seconds.

        Returns:
            Whether it is new. A known one changes nothing, unless its job is dead: sending again
            is how a user has another try.
        """
        now = time.time()
        with self._change() as base:
            new = base.execute(
                "INSERT OR IGNORE INTO instances VALUES (?, ?, ?)", (instance, unit, now)
            ).rowcount
            values = {"unit": unit, "weights": self.weights, "due": now + settle, "new": new}
            base.execute(_ACCEPT, values)
        return bool(new)

    def instances(self, unit: str) -> list[str]:
        with self._open() as base:
            rows = base.execute("SELECT key FROM instances WHERE unit = ? ORDER BY key", (unit,))
            return [key for (key,) in rows]

    def claim(self, owner: int) -> Job | None:
        """The job that is due longest, now the owner's; None when nothing is due."""
        with self._change() as base:
            values = {"owner": owner, "now": time.time(), "weights": self.weights}
            row = base.execute(_CLAIM, values).fetchone()
        return None if row is None else Job(*row)

    def finish(self, job: Job, sent: int) -> None:
        """Mark as done, or as waiting where further instances came while it was read."""
        with self._change() as base:
            base.execute(
                "UPDATE jobs SET state = iif(revision = :revision, 'done', 'waiting'), "
                f"finished = :now, attempts = 0, sent = sent + :sent WHERE {_LEASED}",
                {**asdict(job), "now": time.time(), "sent": sent},
            )

    def retry(self, job: Job, delay: float) -> None:
        with self._change() as base:
            base.execute(
                f"UPDATE jobs SET state = 'waiting', due = :due WHERE {_LEASED}",
                {**asdict(job), "due": time.time() + delay},
            )

    def bury(self, job: Job) -> None:
        """Mark as dead, or as waiting where further instances came while it was read."""
        with self._change() as base:
            base.execute(
                "UPDATE jobs SET state = iif(revision = :revision, 'dead', 'waiting'), "
                "attempts = iif(revision = :revision, attempts, 0), finished = :now "
                f"WHERE {_LEASED}",
                {**asdict(job), "now": time.time()},
            )

    def release(self, owner: int) -> int:
        """Give back what a dead worker had; returns the number of jobs."""
        with self._change() as base:
            return base.execute(
                "UPDATE jobs SET state = 'waiting' WHERE state = 'running' AND owner = ?", (owner,)
            ).rowcount

    def recover(self) -> int:
        """At the start of a node: nothing runs yet, and what waits is for today's weights."""
        values = {"weights": self.weights, "now": time.time()}
        with self._change() as base:
            running = base.execute("UPDATE jobs SET state = 'waiting' WHERE state = 'running'")
            base.execute(
                "UPDATE OR IGNORE jobs SET weights = :weights WHERE state = 'waiting'", values
            )
            base.execute(_READ_AGAIN, values)
            base.execute("DELETE FROM jobs WHERE state = 'waiting' AND weights != :weights", values)
            return running.rowcount

    def outdated(self, before: float) -> list[str]:
        """Units of which every job was done before a point in time."""
        with self._open() as base:
            rows = base.execute(
                "SELECT unit FROM jobs GROUP BY unit "
                "HAVING min(state = 'done') AND max(finished) < ?",
                (before,),
            )
            return [unit for (unit,) in rows]

    def counts(self) -> dict[str, float]:
        """Jobs by state, instances and results in all, and how long the oldest due job waits."""
        now = time.time()
        with self._open() as base:
            states = dict(base.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
            (instances,) = base.execute("SELECT count(*) FROM instances").fetchone()
            sent, oldest = base.execute(
                "SELECT total(sent), min(iif(state = 'waiting', due, NULL)) FROM jobs"
            ).fetchone()
        counted: dict[str, float] = {state: states.get(state, 0) for state in STATES}
        overdue = 0.0 if oldest is None else max(0.0, now - oldest)
        return {**counted, "instances": instances, "sent": sent, "overdue_seconds": overdue}
