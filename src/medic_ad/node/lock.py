"""Node: one node in a folder at a time, and none before the workers of the last one ended."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

from medic_ad.errors import NodeError

NODE, WORKERS = "node.lock", "workers.lock"  # the system lets go of both however a process ends


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, once the workers of a node that was killed are gone.

    Raises:
        NodeError: another node holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NODE).open("w") as node, (folder / WORKERS).open("w") as workers:
        try:
            fcntl.flock(node, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NodeError(
                f"{folder}: expected a folder of this node alone, came one that another node "
                "uses; stop that one, or give another --folder."
            ) from error
        fcntl.flock(workers, fcntl.LOCK_EX)
        fcntl.flock(workers, fcntl.LOCK_UN)
        yield


@contextmanager
def worker_of(folder: Path) -> Iterator[None]:
    """Be one of the workers of the node that started this process, and end at once if it dies.

    Without that, a worker could go on with a job that the next node has given to another.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    with (folder / WORKERS).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
