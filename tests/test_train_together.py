"""Training on two processes is training on one: losses, weights, resume, records."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from together import Job

from medic_ad.errors import DataError, ModelError
from medic_ad.train import detect

STEPS, SAVED = 26, 12


@dataclasses.dataclass(frozen=True)
class Runs:
    """Folders of runs below one root, and what the processes printed."""

    root: Path
    printed: str

    def record(self, name: str) -> dict[str, Any]:
        [file] = (self.root / name).glob("*.run.json")
        loaded: dict[str, Any] = json.loads(file.read_text())
        return loaded

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.root / name / "model.safetensors")


def launch(root: Path, processes: int, jobs: list[Job]) -> str:
    """Run jobs under torchrun, as a user starts it; what was printed."""
    file = root / f"jobs-{processes}.json"
    file.write_text(json.dumps([dataclasses.asdict(job) for job in jobs]))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(processes), str(Path(__file__).with_name("together.py")), str(file)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("together")
    data = tiny.table(root / "data")
    tiny.network().save_pretrained(root / "untrained")
    tiny.processor().save_pretrained(root / "untrained")
    tiny.network().to(torch.bfloat16).save_pretrained(root / "half")  # as 7B is published
    tiny.processor().save_pretrained(root / "half")
    half: dict[str, Any] = {"model": str(root / "half"), "bf16": True, "steps": 8}

    def job(name: str, stage: str = "detect", killed_at: int = 0, lopsided: bool = False,
            **own: Any) -> Job:  # fmt: skip
        common = tiny.arguments(data, root / "cache", batch=3, batches=2, save_steps=SAVED)
        given = {"model": str(root / "untrained"), "out": str(root / name), "steps": STEPS}
        return Job(stage, {**common, **given, **own}, killed_at, lopsided)

    dies = 2 * SAVED + 3  # of one process, which draws both batches of a step
    for alone in (
        job("one"),
        job("other", seed=1),
        job("one-lopsided", lopsided=True, hint_weight=1.0),
        job("one-compare", "compare", lopsided=True),
        job("one-then-two", killed_at=dies),
        job("one-half", **half),
        job("other-half", seed=1, **half),
    ):
        alone.run()
    printed = launch(
        root,
        2,
        [
            job("ddp"),
            job("ddp-lopsided", lopsided=True, hint_weight=1.0),
            job("ddp-compare", "compare", lopsided=True),
            job("one-then-two"),
            job("two-then-one", killed_at=SAVED + 2),
            # last: accelerate divides the weights of every run after the first that did
            job("fsdp", lopsided=True, hint_weight=1.0, fsdp=True),
            job("fsdp-two-then-one", killed_at=SAVED + 2, fsdp=True),
            job("fsdp-half", fsdp=True, **half),
        ],
    )
    job("two-then-one").run()
    launch(root, 1, [job("fsdp-two-then-one", fsdp=True)])
    return Runs(root, printed)


def distance(runs: Runs, first: str, second: str, begun: str = "untrained") -> float:
    """How far two runs end from one another, over the way that the first went."""
    start, a, b = (runs.weights(name) for name in (begun, first, second))
    trained = [k for k in a if not torch.equal(a[k].nan_to_num(), start[k].nan_to_num())]
    assert len(trained) > 30 and set(a) == set(b)
    assert all(a[k].shape == b[k].shape and a[k].dtype == b[k].dtype for k in a)
    apart = sum(float((a[k].double() - b[k].double()).pow(2).sum()) for k in trained)
    way = sum(float((a[k].double() - start[k].double()).pow(2).sum()) for k in trained)
    return (apart / way) ** 0.5


PAIRS = [
    ("one", "ddp"),
    ("one", "one-then-two"),
    ("one", "two-then-one"),
    ("one", "fsdp-two-then-one"),
    ("one-lopsided", "ddp-lopsided"),
    ("one-lopsided", "fsdp"),
    ("one-compare", "ddp-compare"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_processes_together_learn_what_one_learns(runs: Runs, first: str, second: str) -> None:
    """The same batches a step: the same losses and, but for rounding, the same weights."""
    losses = [
        [row["loss"] for row in runs.record(name)["log"] if "loss" in row]
        for name in (first, second)
    ]
    assert len(losses[0]) == len(losses[1]) == 1
    if "then" not in second:  # a resumed run logs the steps since
        assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
    assert distance(runs, first, second) < 0.01


def test_weights_in_bfloat16_are_divided_and_learn_what_one_process_learns(runs: Runs) -> None:
    """FSDP2 computes all of it in bfloat16, autocast on one process keeps the losses in float32."""
    alone, divided = runs.record("one-half"), runs.record("fsdp-half")
    assert divided["distribution"] == "FSDP" and divided["dtype"] == "bfloat16"
    assert divided["final_loss"] == pytest.approx(alone["final_loss"], rel=0.05)
    assert distance(runs, "one-half", "fsdp-half", "half") < 0.2
    assert distance(runs, "one-half", "other-half", "half") > 0.5
    assert divided["frozen"] == alone["frozen"] != runs.record("one")["frozen"]


def test_another_seed_ends_elsewhere(runs: Runs) -> None:
    assert distance(runs, "one", "other") > 0.3


@pytest.mark.parametrize(
    ("name", "processes", "distribution"),
    [("one", 1, "NO"), ("ddp", 2, "MULTI_CPU"), ("fsdp", 2, "FSDP"), ("one-then-two", 2,
     "MULTI_CPU"), ("two-then-one", 1, "NO"), ("fsdp-two-then-one", 1, "FSDP")],
)  # fmt: skip
def test_a_record_says_who_trained_and_proves_the_freezing(
    runs: Runs, name: str, processes: int, distribution: str
) -> None:
    record, alone = runs.record(name), runs.record("one")
    assert (record["processes"], record["distribution"]) == (processes, distribution)
    frozen = record["frozen"]
    assert frozen["sha256_before"] == frozen["sha256_after"]
    assert frozen == alone["frozen"] and frozen["tensors"] > 100
    assert record["trained_parameters"] == alone["trained_parameters"]
    assert record["log"][-1]["step"] == STEPS


def test_only_the_first_process_writes(runs: Runs) -> None:
    writes = [line for line in runs.printed.splitlines() if line.endswith(".run.json")]
    assert len(writes) == 6  # the two that died have none
    assert all(line.startswith("process 0 ") for line in writes)
    for name in ("ddp", "fsdp"):
        assert len(list((runs.root / name).rglob("events.out.tfevents*"))) == 1


def test_a_run_on_several_processes_needs_work_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="--batches as a multiple of the 2 processes, got 3"):
        detect.DetectArguments(data="d", out="o", batches=3)
    assert detect.DetectArguments(data="d", out="o", batches=4).batches == 4
    with pytest.raises(DataError, match="got 1; give a multiple"):
        detect.DetectArguments(data="d", out="o")


def test_weights_are_never_copied_where_they_were_to_be_divided(runs: Runs, tmp_path: Path) -> None:
    """Without GPUs accelerate would copy them and say nothing."""
    own = tiny.arguments(
        runs.root / "data" / "tiny.parquet", runs.root / "cache", steps=1, fsdp=True,
        model=str(runs.root / "untrained"), out=str(tmp_path / "out"),
    )  # fmt: skip
    with pytest.raises(ModelError, match="expected several GPUs for --fsdp"):
        detect.main(detect.DetectArguments(**own))
    assert not (tmp_path / "out" / "model.safetensors").exists()
