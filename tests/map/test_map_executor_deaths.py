"""Processes of an executor of the caller's that die: deaths are counted, and fail no innocent neighbour."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._work import executor_deaths
from mpcheckpoint._work.reruns import head_of_decoded
from mpcheckpoint.errors import WorkerDiedError
from mpcheckpoint.log import handle_of
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.guarantee(11)

NAMES = [f"item{number}" for number in range(9)]
KILLER = "item2"


@pytest.fixture(autouse=True)
def short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_deaths, "HELD_S", 0.05)


def note(runs: Path, text: str) -> None:
    with runs.open("ab") as file:
        file.write(f"{text}\n".encode())


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def killing(runs: Path, item: str) -> str:
    """Run; one item waits until another one runs beside it, if any does, and kills its process."""
    note(runs, f"begin {item}")
    if item == KILLER:
        for _ in range(20):
            if lines_of(runs)[-1] != f"begin {item}":
                break
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    note(runs, f"end {item}")
    return item


def started_until_done(log: Log, runs: Path, jobs: int) -> tuple[list[str], dict[str, Any]]:
    """Start the map, in a new executor each time, until it is done; return what was told of each break."""
    told: list[str] = []
    fn, names = partial(killing, runs), NAMES
    for number in range(10):
        note(runs, f"start {number}")
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as executor:
            try:
                return told, {outcome.item: outcome for outcome in log.map(fn, names, executor=executor)}
            except WorkerDiedError as error:
                told.append(str(error))
    pytest.fail(f"the map never gets further: {told[-1]}")


def deaths_of(log: Log, item: str) -> int:
    heads = [head_of_decoded(event) for event in log.events(item)]
    return sum(head is not None and head.is_death for head in heads)


@pytest.mark.parametrize("jobs", [1, 3])
def test_item_that_kills_its_process_in_an_executor_has_failed_after_three_deaths_and_no_other_item(
    jobs: int, log: Log, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"

    told, found = started_until_done(log, runs, jobs)

    assert found.keys() == set(NAMES)
    assert [name for name in NAMES if not found[name].ok] == [KILLER]
    error = found[KILLER].error or ""
    assert error.startswith("the process that ran it died: ")
    assert "BrokenProcessPool" in error
    assert "3 times" in error
    assert found[KILLER].worker is None
    assert deaths_of(log, KILLER) == 2
    assert len(told) == 3
    assert all(repr(KILLER) in each for each in told)
    # A neighbour dies with it at most once: then it runs alone.
    assert all(lines_of(runs).count(f"begin {name}") <= 2 for name in NAMES if name != KILLER)
    assert all(deaths_of(log, name) <= 1 for name in NAMES if name != KILLER)


def test_item_that_has_died_runs_alone_in_an_executor(log: Log, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    started_until_done(log, runs, 3)

    beside: list[set[str]] = []  # what ran at any time beside the killer, in each start
    running = set[str]()
    for verb, item in map(str.split, lines_of(runs)):
        if verb == "start":
            running = set()
            beside.append(set())
        elif verb == "end":
            running.discard(item)
        else:
            running.add(item)
            beside[-1] |= running if KILLER in running else set()
    assert len(beside) == 4
    assert beside[1:3] == [{KILLER}, {KILLER}]


def stay(runs: Path, item: str) -> str:
    """Run until the process is killed, the first time."""
    note(runs, f"{item} {os.getpid()}")
    if len(lines_of(runs)) <= 2:
        threading.Event().wait(60)
    return item


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        yield executor


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def broken(log: Log, tmp_path: Path, pool: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A map two items of which run, and the process of one of them was killed."""
    runs = tmp_path / "runs"
    run = log.map(partial(stay, runs), ["a", "b", "c", "d"], executor=pool)
    wait_until(lambda: len(lines_of(runs)) == 2, "two items run")
    pids = [int(line.split()[1]) for line in lines_of(runs)]
    ended = partial(wait_until, lambda: all(map(is_gone, pids)), "the executor has ended its processes")
    monkeypatch.setattr(executor_deaths, "_hold", ended)
    os.kill(pids[0], signal.SIGKILL)
    return run


def test_items_that_waited_in_an_executor_that_broke_have_not_died(log: Log, broken: Any) -> None:
    with pytest.raises(WorkerDiedError, match=r"in another executor.*'a', 'b'"):
        list(broken)

    assert [deaths_of(log, item) for item in "abcd"] == [1, 1, 0, 0]


def test_executor_that_a_signal_to_the_whole_job_breaks_counts_no_deaths(
    log: Log, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(executor_deaths, "_hold", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(broken)

    assert [log.events(item) for item in "abcd"] == [()] * 4


@pytest.fixture
def left(store: Path) -> None:
    """The claim of a process that is dead is left on an item that the executor is given, but does not begin."""
    pid = os.fork()
    if not pid:
        with Checkpoint(store).log("a").claim("c"):
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.usefixtures("left")
def test_item_that_an_earlier_map_left_and_that_only_waited_in_this_executor_has_not_died(
    log: Log, broken: Any
) -> None:
    assert handle_of(log).query(lambda view: view.claim_of("c")) is not None

    with pytest.raises(WorkerDiedError):
        list(broken)

    assert [deaths_of(log, item) for item in "abcd"] == [1, 1, 0, 0]


def test_items_that_wait_to_run_alone_are_given_back_when_the_map_is_closed(
    log: Log, broken: Any, tmp_path: Path
) -> None:
    with pytest.raises(WorkerDiedError):
        list(broken)
    runs, names = tmp_path / "runs", ["x", "a", "b", "c"]

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        with log.map(partial(stay, runs), names, executor=executor) as run:
            assert next(run).ok
        found = list(log.map(partial(stay, runs), names, executor=executor))

    assert sorted(outcome.item for outcome in found if outcome.ok) == sorted(names)
    assert [deaths_of(log, item) for item in "abcx"] == [1, 1, 0, 0]
