"""The batch on a Ray cluster of several nodes of which one is lost: one result each, none lost."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from batch_cases import arguments, pictures, results

from medic_ad.batch.run import run_batch
from medic_ad.errors import BatchError
from medic_ad.models import MODELS

ray = pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
STUDIES = 10
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 10**8}


@pytest.fixture()
def cluster() -> Iterator:
    """A head without room for actors, and two nodes with room for one each; one a test, since Ray
    keeps the actors of a run that failed."""
    from ray.cluster_utils import Cluster

    settings = pytest.MonkeyPatch()
    settings.setenv("RAY_enable_metrics_collection", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(**NODE) for _ in range(2)]
    ray.init(made.address, log_to_driver=False)
    yield made, nodes
    ray.shutdown()
    made.shutdown()
    settings.undo()


def test_what_stops_a_worker_is_one_sentence_here(cluster, tmp_path: Path) -> None:
    pictures(tmp_path / "in", 2)
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(MODELS["nano"].path / "config.json", broken)
    (broken / "model.safetensors").write_text("no tensors")
    order = arguments(tmp_path / "in", tmp_path / "out", engine="ray", model=str(broken))
    with pytest.raises(BatchError, match=f"expected a checkpoint that loads in {broken}, but: "):
        run_batch(order)
    assert not (tmp_path / "out" / "results").exists()


def test_a_lost_node_costs_no_study_and_doubles_none(cluster, tmp_path: Path) -> None:
    made, nodes = cluster
    pictures(tmp_path / "in", STUDIES - 1)
    (tmp_path / "in" / "z.png").write_text("no picture")
    found = tmp_path / "out" / "results"
    order = arguments(tmp_path / "in", tmp_path / "out", engine="ray", actors=2, shard=1)
    with ThreadPoolExecutor(1) as driver:  # Ray starts nodes from the main thread alone
        running = driver.submit(run_batch, order)
        while len(list(found.glob("*.parquet"))) < 3 and not running.done():
            time.sleep(0.01)
        made.remove_node(nodes[0], allow_graceful=False)
        lost = len(list(found.glob("*.parquet")))
        made.add_node(**NODE)
        outcome = running.result()
    assert 3 <= lost < STUDIES, "the node was lost on the way"
    assert (outcome.studies, outcome.failed) == (STUDIES, 1)
    assert set(Counter(row["study"] for row in results(tmp_path / "out")).values()) == {1}
    names = {path.name for path in (tmp_path / "in").iterdir()}
    assert {row["study"] for row in results(tmp_path / "out")} == names
    assert not list((tmp_path / "out").rglob(".*"))
    kept = {path: path.stat().st_mtime_ns for path in found.iterdir()}
    run_batch(arguments(tmp_path / "in", tmp_path / "out", shard=1))  # nothing is left to read
    assert {path: path.stat().st_mtime_ns for path in found.iterdir()} == kept
