"""Random kill -9 of the node's workers while studies come in: what is lost, doubled, half-written.

`python benchmarks/node_kills.py [KILLS] [SEED]`; 200 and 0 when not given. The node is the real
command with the model nano, the archive a storage SCP of this process. Attempts are not limited
here: with the default of 5, a study whose worker is killed each time goes to the dead letters.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pydicom

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from node_cases import Archive, ended, running, send, sources, until  # noqa: E402
from road_cases import planted, write_dicom  # noqa: E402

WORKERS = 2
BACKLOG = 4  # studies that wait or are read, while kills go on
LONGEST_SECONDS = 1.4  # between two kills


def main(kills: int = 200, seed: int = 0) -> dict[str, object]:
    """Kill, wait for the rest, count."""
    luck, start = random.Random(seed), time.monotonic()
    sent: set[str] = set()
    under_way = 0
    with tempfile.TemporaryDirectory() as temporary, Archive() as archive:
        folder = Path(temporary)
        with running(folder / "node", archive.address, workers=WORKERS, attempts=10**6) as node:

            def backlog() -> int:
                health = node.health()
                return health["waiting"] + health["running"]

            for _ in range(kills):
                while backlog() < BACKLOG:
                    file = write_dicom(folder / "one.dcm", planted().current, f"P{len(sent)}")
                    assert send(node.port, [file]) == [0]
                    sent.add(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
                worker = luck.choice(until(node.workers, "a worker"))
                time.sleep(luck.uniform(0, LONGEST_SECONDS))
                under_way += node.health()["running"] > 0
                os.kill(worker, signal.SIGKILL)
                until(partial(ended, worker), "its end")
            done_before_the_last_kill = node.health()["done"]
            until(lambda: backlog() == 0, "the rest of the studies", 300)
            health = node.health()
        reports = Counter(uid for report in archive.reports() for uid in sources(report))
        files = sorted((folder / "node" / "results").rglob("*.dcm"))
        stored = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, files)}
        broken = [uid for uid, kept in archive.kept.items() if stored.get(uid) != kept]
        strays = list((folder / "node").rglob(".*"))
    return {
        "kills": kills,
        "seed": seed,
        "kills_with_a_job_under_way": under_way,
        "worker_restarts": health["restarts"],
        "studies_accepted": len(sent),
        "studies_done_before_the_last_kill": done_before_the_last_kill,
        "studies_lost": len(sent - set(reports)),
        "reports_stored_twice": sum(count - 1 for count in reports.values()),
        "results_stored": len(archive.kept),
        "results_sent_again_under_the_same_uid": sum(archive.answered.values()) - len(archive.kept),
        "files_half_written": len(strays) + len(broken) + len(set(stored) ^ set(archive.kept)),
        "seconds": round(time.monotonic() - start, 1),
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit("usage: python benchmarks/node_kills.py [KILLS] [SEED]")
    figures = main(*map(int, sys.argv[1:]))
    print(json.dumps(figures, indent=1))
    wrong = ("studies_lost", "reports_stored_twice", "files_half_written")
    sys.exit(any(figures[name] for name in wrong))
