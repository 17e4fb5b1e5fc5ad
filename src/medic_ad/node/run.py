"""Node: the main process; it listens, keeps the workers alive and stops in good order."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from medic_ad.errors import NodeError
from medic_ad.models import checkpoint_folder, weights_sha256
from medic_ad.node.lock import alone
from medic_ad.node.logs import failure, log, start_logs
from medic_ad.node.metrics import serve_metrics
from medic_ad.node.peers import peer_of
from medic_ad.node.queue import Queue
from medic_ad.node.receive import Receiver
from medic_ad.node.settings import NodeArguments
from medic_ad.node.store import Store
from medic_ad.node.worker import UNFIT, work

LOOK_SECONDS = 0.2  # between two looks after the workers
PURGE_SECONDS = 600.0
DAY_SECONDS = 86400.0
# Imported once, for all workers; the second is imported late by who draws, and slowly.
PRELOADED = [work.__module__, "medic_ad.report.figure"]


def main(settings: NodeArguments) -> None:
    """Run a node until SIGTERM or SIGINT.

    Raises:
        NodeError: settings that cannot work, a folder that another node uses, or a model that a
            worker cannot load, or finds with other weights than the node began with.
        ModelError: there is no such model.
    """
    for address in filter(None, (settings.results, settings.priors)):
        peer_of(address, settings)  # refused now, not by the first job
    weights = weights_sha256(checkpoint_folder(settings.model))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    start_logs()
    os.umask(0o077)  # whatever is written from here on may name a patient
    with alone(settings.folder, stop):
        if not stop.is_set():  # while it waited
            Node(settings, weights).run(stop)


class Node:
    """The processes of a node."""

    def __init__(self, settings: NodeArguments, weights: str) -> None:
        self.settings, self.weights = settings, weights
        self.store = Store(settings.folder)
        self.queue = Queue(settings.folder / "node.db", weights)
        self.receiver = Receiver(settings, self.queue, self.store)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.workers: list[ForkServerProcess] = []
        # while its pipe is open, a worker goes on; through it comes why one has no model
        self.pipes: list[Connection] = []
        self.restarts = 0
        self.stopping = False

    def run(self, stop: threading.Event) -> None:
        """Work until the event is set, then finish what is under way within the grace."""
        self.store.clean()
        recovered = self.queue.recover()
        http = serve_metrics(
            self.settings.http_host, self.settings.http_port, self.queue, self.health
        )
        try:
            for _ in range(self.settings.workers):
                self._start_worker()
            self.receiver.start()
            log("node ready", port=self.settings.port, recovered=recovered)
            purged = 0.0
            while not stop.wait(LOOK_SECONDS):
                self._look_after_workers()
                if time.monotonic() - purged > PURGE_SECONDS:
                    try:
                        self._purge()
                    except OSError as error:  # another hour will do
                        log("not purged", level=logging.ERROR, **failure(error))
                    purged = time.monotonic()
        finally:
            self._end()
            http.shutdown()
            log("node stopped")

    def health(self) -> dict[str, Any]:
        """What /health shows; counts only."""
        alive = sum(worker.is_alive() for worker in self.workers)
        return {
            "ok": not self.stopping and alive == self.settings.workers,
            "workers": alive,
            "restarts": self.restarts,
            "associations": self.receiver.busy,
            **self.queue.counts(),
        }

    def _start_worker(self) -> None:
        theirs, ours = self.context.Pipe()
        arguments = (self.settings, self.weights, theirs)
        worker = self.context.Process(target=work, args=arguments, daemon=True)
        worker.start()
        theirs.close()
        self.workers.append(worker)
        self.pipes.append(ours)

    def _look_after_workers(self) -> None:
        for worker in [w for w in self.workers if not w.is_alive()]:
            number = self.workers.index(worker)
            released = self.queue.release(worker.pid or 0)
            log("worker ended", level=logging.ERROR, exit=worker.exitcode, released=released)
            if worker.exitcode == UNFIT:
                raise NodeError(self.pipes[number].recv())
            del self.workers[number]
            self.pipes.pop(number).close()
            self.restarts += 1
            self._start_worker()

    def _purge(self) -> None:
        before = time.time() - self.settings.keep_days * DAY_SECONDS
        purged = sum(self.store.purge(unit) for unit in self.queue.outdated(before))
        self.store.purge_results(before)
        if purged:
            log("files of finished jobs removed", units=purged)

    def _end(self) -> None:
        self.stopping = True
        deadline = time.monotonic() + self.settings.grace
        for pipe in self.pipes:
            pipe.close()
        self.receiver.close()
        while self.receiver.busy and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for worker in self.workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():  # its job stays in the queue
                worker.kill()
                worker.join()
        self.receiver.abort()
