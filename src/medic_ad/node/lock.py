"""Node: one node in a folder at a time, and none before the workers of the last one ended."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from threading import Event, Thread
from typing import TextIO

from medic_ad.errors import NodeError
from medic_ad.node.logs import log

NODE, WORKERS = "node.lock", "workers.lock"  # the system lets go of both however a process ends
LOOK_SECONDS = 0.2  # between two looks whether the workers are gone


@contextmanager
def alone(folder: Path, stop: Event) -> Iterator[None]:
    """Hold the folder, once the workers of a node that was killed are gone, or the event is set.

    Who waits in vain sees in the log for which processes.

    Raises:
        NodeError: another node holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NODE).open("w") as node, (folder / WORKERS).open("a+") as workers:
        try:
            fcntl.flock(node, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NodeError(
                f"{folder}: expected a folder of this node alone, came one that another node "
                "uses; stop that one, or give another --folder."
            ) from error
        if not _taken(workers):
            log("waiting for the workers of the last node", workers=_living(workers))
            while not (_taken(workers) or stop.wait(LOOK_SECONDS)):
                pass
        yield


@contextmanager
def worker_of(folder: Path) -> Iterator[None]:
    """Be one of the workers of the node that started this process, and end at once if it dies.

    Without that, a worker could go on with a job that the next node has given to another.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    with (folder / WORKERS).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _taken(workers: TextIO) -> bool:
    """Whether no worker is left; if so, those that were are forgotten."""
    try:
        fcntl.flock(workers, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    workers.truncate(0)
    fcntl.flock(workers, fcntl.LOCK_UN)  # for the workers to come
    return True


def _living(workers: TextIO) -> str:
    """Process ids of the workers that are left; those that were killed stand in the file too."""
    workers.seek(0)
    return " ".join(pid for pid in workers.read().split() if _lives(int(pid)))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
