"""Node: one worker process: take a job, read it by the one road, send what was found."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from medic_ad.dicom.write import write_dicom
from medic_ad.errors import MedicADError, ModelError, is_passing
from medic_ad.load import Model, load_model
from medic_ad.node.archive import Peer, PeerError
from medic_ad.node.lock import worker_of
from medic_ad.node.logs import failure, log, start_logs
from medic_ad.node.peers import peer_of
from medic_ad.node.priors import study_with_priors
from medic_ad.node.queue import Job, Queue
from medic_ad.node.settings import NodeArguments
from medic_ad.node.store import Store
from medic_ad.road import read

IDLE_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 3600.0
UNFIT = 3  # exit status of a worker without the node's model: no other one would have it


def work(settings: NodeArguments, weights: str, alive: Connection) -> None:
    """Work until the main process closes the other end of a pipe.

    A pipe has no lock that a killed worker could take with it.

    Raises:
        SystemExit: with `UNFIT`, where there is no model, or not the node's; the pipe says why.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the main process sees to it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    start_logs()
    with worker_of(settings.folder):
        try:
            worker = Worker(settings, weights)
        except ModelError as error:
            log("model not loaded", level=logging.ERROR, **failure(error))
            with suppress(BrokenPipeError):  # a node that ends meanwhile asks no more
                alive.send(str(error))
            raise SystemExit(UNFIT) from error
        log("worker ready", worker=os.getpid())
        wait = 0.0
        while not alive.poll(wait):
            job = worker.queue.claim(os.getpid())
            if job is not None:
                worker.do(job)
            wait = IDLE_SECONDS if job is None else 0.0


class Worker:
    """What a worker process keeps between jobs: the model, the queue, the peers.

    Raises:
        ModelError: it does not load, or its weights are not those of this hash.
    """

    def __init__(self, settings: NodeArguments, weights: str) -> None:
        self.settings = settings
        self.store = Store(settings.folder)
        self.queue = Queue(settings.folder / "node.db", weights)
        self.results = peer_of(settings.results, settings)
        self.priors: Peer | None = peer_of(settings.priors, settings) if settings.priors else None
        self.model: Model = load_model(settings.model, settings.device)
        if self.model.weights_sha256 != weights:
            raise ModelError(
                f"expected the weights of {settings.model} that the node began with "
                f"({weights[:16]}), a new worker found others "
                f"({self.model.weights_sha256[:16]}); start the node again, its jobs are kept"
            )

    def do(self, job: Job) -> None:
        """Read and send one job, and write down how it ended."""
        if job.attempts > self.settings.attempts:  # the process died each time
            self._give_up(job, "the worker ended without a word in each attempt")
            return
        start = time.monotonic()
        try:
            files = self._results(job)
            self.results.send(files)
        except MedicADError as error:
            if is_passing(error):  # a full disk is no bad input
                self._again(job, error)
            else:
                self._give_up(job, str(error), **failure(error))
        except Exception as error:  # a peer, the disk, the memory: it may be better later
            self._again(job, error)
        else:
            self.queue.finish(job, len(files))
            self.store.forget(job)
            log("job done", job=job.id, results=len(files), seconds=_since(start))

    def _results(self, job: Job) -> list[Path]:
        known = self.queue.instances(job.unit)
        here = {path.stem for path in self.store.images(job.unit)}
        if missing := len(set(known) - here):  # an image may lie here before its row is written
            raise MedicADError(
                f"expected the {len(known)} images that came of this series, {missing} of them "
                f"were removed after {self.settings.keep_days:g} days; send all again."
            )
        return self.store.make_results(job, lambda folder: self._read(job, folder))

    def _read(self, job: Job, folder: Path) -> None:
        self.store.forget(job)
        try:
            study = study_with_priors(
                self.store.unit(job.unit),
                self.priors,
                self.settings.most_priors,
                self.store.fetched(job.message),
                job.message,
            )
            write_dicom(read(study, self.model), folder)
        finally:  # its moves are over: the door takes no more of them
            self.store.forget(job)

    def _again(self, job: Job, error: Exception) -> None:
        if job.attempts >= self.settings.attempts:
            self._give_up(job, f"{type(error).__name__}: {error}", **failure(error))
            return
        delay = min(self.settings.backoff * 2 ** (job.attempts - 1), LONGEST_DELAY_SECONDS)
        self.queue.retry(job, delay)
        said = "archive failed" if isinstance(error, PeerError) else "job failed"
        log(said, level=logging.WARNING, job=job.id, retry_in=delay, **failure(error))

    def _give_up(self, job: Job, reason: str, **fields: str) -> None:
        try:
            self.store.bury(job, reason)
        except OSError as error:  # a full disk must not keep the job at the head of the queue
            log("reason not written", level=logging.ERROR, job=job.id, **failure(error))
        self.queue.bury(job)
        log("job given up", level=logging.ERROR, job=job.id, attempts=job.attempts, **fields)


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)
