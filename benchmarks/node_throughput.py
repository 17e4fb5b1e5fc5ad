"""1,000 images over 4 associations in parallel: the node beside a bare storage SCP of pynetdicom.

`python benchmarks/node_throughput.py [IMAGES] [ASSOCIATIONS] [ROUNDS]`. The bare SCP writes each
data set to a file and answers; the node also waits until file and queue are on the disk (fsync).
Both are processes of their own, senders too, and take turns in one run. Exit status 1 when an image
was not answered with success, or was answered and is not in the node's queue and folder.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from node_cases import WAIT_SECONDS, free_port, running, send  # noqa: E402
from road_cases import write_dicom  # noqa: E402

ANSWER_SECONDS = 15.0  # without an answer, after which a sender gives an association up
MOST_ASSOCIATIONS = 10  # of one sender
SIDE = 256  # px, 16 bits: 128 KiB an image


def bare_scp(port: int, folder: Path, ready: Connection) -> None:
    """The least that a storage SCP can do: a file for each data set."""

    def store(event: evt.Event) -> int:
        uid = event.request.AffectedSOPInstanceUID  # type: ignore[union-attr]
        (folder / str(uid)).write_bytes(event.encoded_dataset())
        return 0

    entity = AE("MEDIC_AD")
    entity.network_timeout = WAIT_SECONDS
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax or "")
    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    ready.send(None)
    ready.recv()
    entity.shutdown()


def make_images(folder: Path, count: int) -> list[Path]:
    """Images of 10 series, each with a UID of its own."""
    folder.mkdir()
    noise = np.random.default_rng(0).random((SIDE, SIDE))
    dataset = pydicom.dcmread(write_dicom(folder / "first.dcm", noise))
    series = [generate_uid() for _ in range(10)]
    files = []
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.SeriesInstanceUID = series[number % len(series)]
        files.append(folder / f"{number}.dcm")
        dataset.save_as(files[-1])
    return files


def insist(port: int, files: list[Path]) -> tuple[int, int]:
    """Send all files as an archive does: what got no answer is sent again over a new association.

    Returns:
        Answers of success, and associations that it took.
    """
    left, associations = files, 0
    while left and associations < MOST_ASSOCIATIONS:
        associations += 1
        statuses = send(port, left, timeout=ANSWER_SECONDS)
        left = left[statuses.count(0) :]
    return len(files) - len(left), associations


def measure(port: int, files: list[Path], associations: int) -> dict[str, float]:
    """Send all files, divided among the associations; count the answers of success."""
    parts = [(port, files[n::associations]) for n in range(associations)]
    with multiprocessing.get_context("fork").Pool(associations) as senders:
        start = time.monotonic()
        done = senders.starmap(insist, parts, chunksize=1)
        seconds = time.monotonic() - start
    return {
        "sent": len(files),
        "answered": sum(answered for answered, _ in done),
        "associations": sum(associations for _, associations in done),
        "seconds": round(seconds, 2),
        "per_second": round(len(files) / seconds, 1),
    }


def main(images: int = 1000, associations: int = 4, rounds: int = 3) -> dict[str, object]:
    """Both receivers in turn, the same number of fresh images each."""
    measured: dict[str, list[dict[str, float]]] = {"bare": [], "node": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in range(rounds):
            files = make_images(folder / f"images{number}", images)
            kept = folder / f"bare{number}"
            kept.mkdir()
            ours, theirs = multiprocessing.Pipe()
            port = free_port()
            bare = multiprocessing.get_context("fork").Process(
                target=bare_scp, args=(port, kept, theirs)
            )
            bare.start()
            ours.recv()
            try:
                figures = measure(port, files, associations)
            finally:
                ours.send(None)
                bare.join()
            measured["bare"].append({**figures, "kept": len(list(kept.iterdir()))})
            with running(
                folder / f"node{number}", "dicom://NOBODY@127.0.0.1:9", settle=9999
            ) as node:
                figures = measure(node.port, files, associations)
                kept = node.folder / "incoming"
                figures |= {"kept": len(list(kept.rglob("*.dcm")))}
                figures |= {"queued": node.health()["instances"]}
                measured["node"].append(figures)
    ratios = [
        node["per_second"] / bare["per_second"]
        for node, bare in zip(measured["node"], measured["bare"], strict=True)
    ]
    every = [figures for of in measured.values() for figures in of]
    return {
        "associations": associations,
        "image_bytes": SIDE * SIDE * 2,
        "processors": os.cpu_count(),
        **measured,
        "node_of_bare": {
            "median": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        },
        "unanswered": sum(f["sent"] - f["answered"] for f in every),
        "lost": sum(f["answered"] - min(f["kept"], f["queued"]) for f in measured["node"]),
    }


def wrong(figures: dict[str, object]) -> bool:
    """Whether an image got no answer of success, or was answered and is not there."""
    return bool(figures["unanswered"] or figures["lost"])


if __name__ == "__main__":
    if len(sys.argv) > 4:
        sys.exit("usage: python benchmarks/node_throughput.py [IMAGES] [ASSOCIATIONS] [ROUNDS]")
    figures = main(*map(int, sys.argv[1:]))
    print(json.dumps(figures, indent=1))
    sys.exit(wrong(figures))
