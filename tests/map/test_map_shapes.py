"""``Log.map`` where it may be called from, how much memory it takes, and what others see of it meanwhile."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, MapStatus
from mpcheckpoint._store.workers import WorkerFiles
from mpcheckpoint._work.presence import Presence, map_starts
from mpcheckpoint.errors import ChangedVersionError, WorkerDiedError
from support.executors import Late
from support.processes import call, in_a_child
from support.verbs import LOCK, Faults, inside, tree, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.processes import Children


class InThisThread(Executor):
    """Runs what it is given at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return a future that is done."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


# --- where it may be called from ---------------------------------------------------------------------------


def map_in_a_daemon(store: Path) -> tuple[str, list[Any]]:
    """Map in worker processes, which is refused, and in threads."""
    log = Checkpoint(store).log("a")
    try:
        log.map(len, ["a"])
    except WorkerDiedError as error:
        refused = str(error)
    else:
        refused = ""
    assert log.map_status() is None
    with ThreadPoolExecutor(2) as executor:
        return refused, [outcome.value for outcome in log.map(len, ["a", "b"], executor=executor)]


@pytest.mark.guarantee(7)
def test_map_in_a_worker_of_a_pool_is_refused_with_what_to_do_and_runs_in_threads(store: Path) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        refused, values = pool.apply(map_in_a_daemon, (store,))

    assert "daemonic" in refused
    assert "executor=ThreadPoolExecutor" in refused
    assert values == [1, 1]


@pytest.mark.guarantee(7)
def test_map_in_the_workers_of_pytest_xdist_shares_one_log(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
        import multiprocessing
        from pathlib import Path
        import pytest
        from mpcheckpoint import Checkpoint

        def noted(item):
            with open("runs", "a") as file:
                file.write(item + "\\n")
            return item.upper()

        @pytest.mark.parametrize("method", ["fork", "spawn"])
        def test_map(method):
            log = Checkpoint("store").log("photos")
            context = multiprocessing.get_context(method)
            outcomes = list(log.map(noted, ["a", "b", "c", "d"], jobs=1, mp_context=context))
            assert sorted(outcome.value for outcome in outcomes) == ["A", "B", "C", "D"]
        """)
    )

    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "xdist", "--rootdir", "."],
        cwd=tmp_path,
        env=os.environ
        | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # what else is there takes a while to import
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout
    assert "2 passed" in ended.stdout
    assert sorted((tmp_path / "runs").read_text().split()) == ["a", "b", "c", "d"]


# --- memory ------------------------------------------------------------------------------------------------


def taken_bytes(log: Log, count: int) -> int:
    """Return the most memory that a map over so many items, of which few are not done yet, takes at a time."""
    items = (f"item{number % 50}" for number in range(count))
    tracemalloc.start()
    for _ in log.map(len, items, executor=InThisThread(), jobs=4):
        pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_of_a_map_does_not_grow_with_the_items_to_come(log: Log) -> None:
    taken_bytes(log, 100)

    # More than are ever held at a time.
    few, many = taken_bytes(log, 2_500), taken_bytes(log, 5_500)

    # A list of the items, or of their outcomes, would take more than twice as much.
    assert many < few + 100_000


def test_memory_of_items_that_nobody_takes_is_bounded(log: Log) -> None:
    taken = 0

    def items() -> Iterator[str]:
        nonlocal taken
        for number in range(10**9):
            taken = number
            yield f"item{number}"

    with log.map(len, items(), executor=InThisThread(), jobs=4, ordered=True):
        assert taken < 2000


# --- what others see ---------------------------------------------------------------------------------------


@contextmanager
def at_work(log: Log, items: Any) -> Iterator[threading.Event]:
    """A map in two threads that goes on when the event is set."""
    gate = threading.Event()
    with ThreadPoolExecutor(2) as two, log.map(lambda item: gate.wait(30), items, executor=two) as run:
        try:
            yield gate
        finally:
            gate.set()
            list(run)


def status(store: Path, log_key: str = "a") -> MapStatus:
    """Return how far the map is, for somebody who may only read."""
    with Checkpoint(store, read_only=True) as checkpoint:
        found = checkpoint.log(log_key).map_status()
    assert found is not None
    return found


def test_status_tells_what_runs_where_and_how_many_items_there_are(log: Log, store: Path) -> None:
    log.append("item0", "an event of another kind")
    with at_work(log, ["a", "b", "c"]):
        wait_until(lambda: len(status(store).running) == 2, "two items run")
        before = tree(store)
        seen = status(store)
        assert tree(store) == before

        assert (seen.ok, seen.failed, seen.to_retry, seen.items) == (0, 0, 0, 3)
        assert {item.object_key for item in seen.running} == {"a", "b"}  # whichever thread was first
        assert all(0 <= item.elapsed_s < 60 for item in seen.running)
        assert [start.items for start in seen.starts] == [3]
        assert status(store).version == ""

    seen = status(store)
    assert (seen.ok, seen.running, seen.starts, seen.items) == (3, (), (), None)
    assert list(inside(store, "workers").iterdir()) == []


def test_status_knows_how_many_items_there_are_when_their_end_is_reached(log: Log, store: Path) -> None:
    with at_work(log, iter("abcdefghij")):
        assert status(store).items is None
    with at_work(log, iter("ab")):
        wait_until(lambda: status(store).items == 10, "what was done before counts")


def test_status_of_a_log_without_a_map_is_none_and_of_another_log_s_map_its_own(
    log: Log, store: Path
) -> None:
    other = Checkpoint(store).log("other")
    assert other.map_status() is None
    list(other.map(len, ["x"], jobs=1))

    with at_work(log, ["a"]):
        assert status(store, "other").starts == ()
        assert status(store, "other").running == ()
        assert len(status(store).starts) == 1


def stay(store: Path) -> None:
    with ThreadPoolExecutor(1) as one:
        list(Checkpoint(store).log("a").map(lambda item: threading.Event().wait(), ["a"], executor=one))


@pytest.mark.guarantee(8)
def test_start_that_was_killed_is_no_longer_under_way(store: Path, log: Log, children: Children) -> None:
    child = children.start(stay, store)
    wait_until(lambda: log.map_status() is not None and status(store).running, "the item runs")
    assert [start.pid for start in status(store).starts] == [child.pid]

    child.kill()

    assert (status(store).starts, status(store).running) == ((), ())


@pytest.mark.guarantee(9)
def test_disk_that_has_no_room_for_who_is_at_work_is_no_obstacle(
    log: Log, store: Path, faults: Faults
) -> None:
    fault = faults.fail("write_at", errno.ENOSPC, times=sys.maxsize, on="workers/")

    with at_work(log, ["a"]):
        wait_until(lambda: len(status(store).running) == 1, "the item runs")
        assert status(store).starts == ()

    assert fault.hits > 0
    assert status(store).ok == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"log_key":"a","run":1}', b'{"run":"1"}'])
def test_file_of_a_worker_that_says_something_else_is_passed_over(content: bytes, tmp_path: Path) -> None:
    workers = WorkerFiles(str(tmp_path))
    presence = Presence(workers, "a", 1)
    assert len(list(map_starts(workers, "a"))) == 1
    (file,) = (tmp_path / "workers").iterdir()

    file.write_bytes(content)

    assert list(map_starts(workers, "a")) == []
    presence.retire()
    presence.retire()
    assert list((tmp_path / "workers").iterdir()) == []


def test_number_of_items_is_read_whole_however_long_it_is(tmp_path: Path) -> None:
    workers = WorkerFiles(str(tmp_path))
    presence = Presence(workers, "a", 1)
    for count in (None, 7, 10**12, 10, None):
        presence.has_items(count)
        (start,) = map_starts(workers, "a")
        assert start.items == count
    presence.retire()


def test_forked_child_does_not_end_what_its_parent_has_under_way(tmp_path: Path) -> None:
    workers = WorkerFiles(str(tmp_path))
    presence = Presence(workers, "a", 1)

    call(presence.retire, method="fork")

    assert len(list(map_starts(workers, "a"))) == 1
    presence.retire()


# --- others at the same moment -------------------------------------------------------------------------------


def test_item_that_another_finished_before_it_was_taken_does_not_run(store: Path, log: Log) -> None:
    def finish_it_elsewhere() -> None:
        in_a_child(map_elsewhere, store, "")

    ran: list[str] = []
    outcomes = list(log.map(ran.append, ["item"], executor=Late(finish_it_elsewhere)))

    assert ran == []
    assert [(outcome.value, outcome.repeated) for outcome in outcomes] == [(4, True)]


def test_map_started_at_the_same_moment_with_another_version_is_refused(
    store: Path, log: Log, faults: Faults
) -> None:
    def let_another_start(real: Callable[..., bool], *args: Any) -> bool:
        in_a_child(map_elsewhere, store, "theirs")
        return real(*args)

    faults.act("try_lock", let_another_start, on=LOCK)

    with pytest.raises(ChangedVersionError):
        log.map(len, ["item"], version="ours", executor=Late(lambda: None))

    assert [outcome.value for outcome in log.results()] == [4]


def map_elsewhere(store: Path, version: str) -> None:
    """Run a whole map as another process would."""
    list(Checkpoint(store).log("a").map(len, ["item"], version=version, executor=Late(lambda: None)))
