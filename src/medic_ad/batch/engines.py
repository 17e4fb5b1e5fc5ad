"""Batch: who reads the shards: this process, or actors of Ray Data on any number of machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medic_ad.batch.files import Folder
from medic_ad.batch.manifest import RESULTS, Run, shard_at
from medic_ad.batch.shard import OUT_OF_MEMORY, read_shard
from medic_ad.errors import BatchError, MedicADError
from medic_ad.load import load_model


@dataclass(frozen=True)
class Job:
    """What a worker must know, plain enough to be sent to another machine.

    Attributes:
        out: address of the output folder.
        run: of it.
        device: as `load_model` takes it.
    """

    out: str
    run: Run
    device: str | None


Engine = Callable[[Job, list[int]], Iterator[int]]
"""Reads shards by number, in any order; yields the number of studies of each when it is done."""


class Reader:
    """A worker: the model is loaded once, shards come one by one."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder = job, Folder.at(job.out)
        self.model = load_model(job.run.model, job.device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of Ray Data with one shard's number -> the number of its studies.

        What another worker finished before it was lost is not read again.
        """
        shard = shard_at(self.folder, self.job.run, int(batch["shard"][0]))
        if not self.folder.has(f"{RESULTS}/{shard.name}"):
            read_shard(shard, self.job.run, self.model, self.folder)
        return {"studies": [len(shard.rows)]}


class Actor:
    """A `Reader` in a process of Ray; what ends the run is a row, as Ray would hand on a traceback.

    The reader is made with the first shard: an actor whose constructor fails starts again for ever.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.reader: Reader | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch with one shard's number -> the number of its studies, or why there is none."""
        try:
            self.reader = self.reader or Reader(self.job)
            return {**self.reader(batch), "error": [""]}
        except MedicADError as error:
            reason = str(error)
        except (OSError, *OUT_OF_MEMORY) as error:
            reason = (
                "expected a worker with room for the model and the results, but it failed: "
                f"{type(error).__name__}: {error}; put that right, and give the same command again."
            )
        return {"studies": [0], "error": [reason]}


def local(job: Job, shards: list[int]) -> Iterator[int]:
    """One process: torch has the cores, and a thread of it reads the next studies from disk."""
    reader = Reader(job)
    for number in shards:
        yield reader({"shard": [number]})["studies"][0]


def gpus_each(device: str | None, cluster: Mapping[str, float]) -> int:
    """GPUs that an actor is given: 1 or 0, by what the cluster has; the driver may have none.

    Args:
        device: as `load_model` takes it; without one the GPUs of the cluster, if it has any.
        cluster: resource -> how much of it all nodes have together.

    Raises:
        BatchError: a GPU is asked for, and the cluster has none.
    """
    has = cluster.get("GPU", 0) >= 1
    if device is None:
        return int(has)
    asked = device.partition(":")[0] == "cuda"
    if asked and not has:
        raise BatchError(
            f"expected a Ray cluster with GPUs for --device {device}, came one without; give "
            "--device cpu, or a cluster that has them."
        )
    return int(asked)


def on_ray(actors: int) -> Engine:
    """`actors` processes of a Ray cluster, the running one or one of this machine's own.

    A lost actor starts again wherever the cluster has room, and its shard is read again: Ray
    Data's own default, without end.

    Raises:
        BatchError: Ray is not installed.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_items
    except ModuleNotFoundError as error:
        raise BatchError(
            f"expected the package {error.name} for --engine ray, which is not installed; run "
            "pip install '.[ray]' in a checkout of this project."
        ) from error

    def engine(job: Job, shards: list[int]) -> Iterator[int]:
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        gpus = gpus_each(job.device, ray.cluster_resources())
        numbers = from_items([{"shard": n} for n in shards], override_num_blocks=len(shards))
        read = numbers.map_batches(
            Actor,
            batch_size=1,
            fn_constructor_args=(job,),
            compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=gpus,
        )
        for row in read.iter_rows():
            if row["error"]:
                raise BatchError(row["error"])
            yield row["studies"]

    return engine
