"""The queue of the node: known images change nothing, late ones make a new read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")

from medic_ad.node.queue import Job, Queue
from medic_ad.node.store import Store, put


def states(queue: Queue) -> dict[str, int]:
    names = ("waiting", "running", "done", "dead")
    return {name: int(n) for name, n in queue.counts().items() if name in names and n}


def claimed(queue: Queue, owner: int = 1) -> Job:
    job = queue.claim(owner)
    assert job is not None
    return job


def test_a_known_image_changes_nothing_and_another_makes_the_unit_due_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q", "w")
    assert queue.accept("a", "unit", 0) and not queue.accept("a", "unit", 0)
    job = claimed(queue)
    assert (job.revision, job.attempts) == (1, 1) and queue.claim(2) is None
    queue.finish(job, 3)
    assert states(queue) == {"done": 1}
    assert not queue.accept("a", "unit", 0) and states(queue) == {"done": 1}
    assert queue.accept("b", "unit", 0) and states(queue) == {"waiting": 1}
    assert claimed(queue).revision == 2 and queue.instances("unit") == ["a", "b"]


def test_an_image_that_comes_while_its_unit_is_read_makes_it_read_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q", "w")
    queue.accept("a", "unit", 0)
    job = claimed(queue)
    queue.accept("b", "unit", 0)
    assert states(queue) == {"running": 1}
    queue.finish(job, 3)
    assert states(queue) == {"waiting": 1} and claimed(queue).revision == 2


def test_images_that_came_while_a_job_failed_are_read(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q", "w")
    queue.accept("a", "unit", 0)
    job = claimed(queue)
    queue.accept("b", "unit", 0)
    queue.bury(job)
    assert states(queue) == {"waiting": 1}
    again = claimed(queue)
    assert (again.revision, again.attempts) == (2, 1)
    queue.bury(again)
    assert states(queue) == {"dead": 1}


def test_a_worker_that_lost_its_job_changes_nothing(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q", "w")
    queue.accept("a", "unit", 0)
    lost = claimed(queue)
    queue.recover()
    now = claimed(queue)
    for end in (
        lambda: queue.finish(lost, 1),
        lambda: queue.retry(lost, 0),
        lambda: queue.bury(lost),
    ):
        end()
        assert states(queue) == {"running": 1}
    queue.finish(now, 1)
    assert states(queue) == {"done": 1}
    queue.accept("b", "unit", 0)
    anew = claimed(queue)  # its attempts begin anew, as those of the lost one did
    assert anew.attempts == lost.attempts
    queue.bury(lost)
    assert states(queue) == {"running": 1}


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q", "w")
    base = sqlite3.connect(tmp_path / "q")
    base.executescript(
        "CREATE TABLE parents (key TEXT PRIMARY KEY);"
        "CREATE TABLE children (key TEXT REFERENCES parents DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TRIGGER spoil AFTER INSERT ON instances WHEN NEW.key = 'bad' "
        "BEGIN INSERT INTO children VALUES ('none'); END;"
    )
    with queue._open() as own:
        own.execute("PRAGMA foreign_keys = ON")  # checked at the commit, which then fails
    with pytest.raises(sqlite3.IntegrityError):
        queue.accept("bad", "unit", 0)
    assert queue.counts()["instances"] == 0
    assert queue.accept("good", "unit", 0) and claimed(queue).unit == "unit"


def test_a_unit_is_not_due_before_it_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("medic_ad.node.queue.time", SimpleNamespace(time=lambda: now[0]))
    queue = Queue(tmp_path / "q", "w")
    queue.accept("a", "unit", 10)
    now[0] += 6
    queue.accept("b", "unit", 10)
    now[0] += 6
    assert queue.claim(1) is None
    now[0] += 5
    assert claimed(queue).revision == 2


def test_a_dead_job_gets_another_try_when_its_image_comes_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q", "w")
    queue.accept("a", "unit", 0)
    queue.bury(claimed(queue))
    assert states(queue) == {"dead": 1}
    queue.accept("a", "unit", 0)
    assert claimed(queue).attempts == 1


def test_a_worker_that_died_gives_back_its_own_jobs_alone(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q", "w")
    for name in ("a", "b"):
        queue.accept(name, name, 0)
    first, _ = claimed(queue, 11), claimed(queue, 12)
    assert queue.release(11) == 1
    again = claimed(queue, 13)
    assert (again.id, again.attempts) == (first.id, 2)
    assert queue.recover() == 2 and states(queue) == {"waiting": 2}


@pytest.mark.parametrize("end", [lambda q, job: q.finish(job, 3), Queue.bury], ids=["done", "dead"])
def test_an_image_that_came_under_other_weights_is_read_after_the_return_to_the_former(
    tmp_path: Path, end: Callable[[Queue, Job], None]
) -> None:
    a, b = Queue(tmp_path / "q", "a"), Queue(tmp_path / "q", "b")
    for name in ("read", "other"):
        a.accept(name, name, 0)
        end(a, claimed(a))
    before = states(a)
    b.recover()
    b.accept("late", "read", 0)
    a.recover()
    assert states(a).pop("waiting") == 1 and sum(states(a).values()) == sum(before.values())
    job = claimed(a)
    assert (job.unit, job.revision, job.attempts) == ("read", 2, 1)
    assert a.instances("read") == ["late", "read"]
    a.finish(job, 1)
    a.recover()
    assert a.claim(1) is None and "waiting" not in states(a)


def test_other_weights_read_the_same_images_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q", "old")
    queue.accept("a", "read", 0)
    queue.finish(claimed(queue), 3)
    queue.accept("b", "waiting", 0)
    new = Queue(tmp_path / "q", "new")
    new.recover()
    assert claimed(new).unit == "waiting"  # for today's weights, though it came before
    assert new.claim(1) is None
    new.accept("a", "read", 0)
    assert claimed(new).unit == "read"
    assert queue.claim(1) is None


def test_results_appear_as_a_whole_and_are_made_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path), []
    job = Job(1, "u", revision=1, attempts=1, weights="w", owner=1, started=0.0)

    def write(folder: Path) -> None:
        made.append(folder)
        put(folder / "a.dcm", b"a")
        if len(made) == 1:
            raise OSError("disk full")
        put(folder / "b.dcm", b"b")

    with pytest.raises(OSError):
        store.make_results(job, write)
    assert not store.results(job).exists()
    assert [p.name for p in store.make_results(job, write)] == ["a.dcm", "b.dcm"]
    assert len(store.make_results(job, write)) == 2 and len(made) == 2
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["u-1-w"]


def test_results_are_those_of_their_images_and_weights(tmp_path: Path) -> None:
    """A number of a job comes again: what was waiting for other weights is deleted."""
    store = Store(tmp_path)
    job = Job(7, "unit", revision=2, attempts=1, weights="a" * 64, owner=1, started=0.0)
    others = [
        replace(job, unit="another"),
        replace(job, revision=3),
        replace(job, weights="a" * 63 + "b"),
    ]

    def write(number: int, folder: Path) -> None:
        put(folder / "a.dcm", str(number).encode())

    for number, each in enumerate((job, *others)):
        store.make_results(each, partial(write, number))
    found = [store.make_results(each, lambda _: None)[0].read_bytes() for each in (job, *others)]
    assert found == [b"0", b"1", b"2", b"3"]
    again = replace(job, id=8, attempts=2, owner=2, started=1.0)
    assert store.make_results(again, lambda _: None)[0].read_bytes() == b"0"
