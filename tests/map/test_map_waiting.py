"""A map that waits: an iterable may wait for its outcomes, and what others have is said."""

from __future__ import annotations

import contextvars
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log, MapRun
from mpcheckpoint import _system as system
from mpcheckpoint._store.workers import WorkerFiles
from mpcheckpoint._work.held_items import HeldItem, held_items, sentence
from mpcheckpoint.errors import ReentrancyError
from support.executors import workers
from support.process_tree import describe, living_descendants
from support.shell import MPCHECKPOINT
from support.verbs import bounded, told, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.processes import Child, Children

pytestmark = pytest.mark.guarantee(11)


def names_of_children(item: str) -> list[str]:
    return [item + "0", item + "1"] if len(item) < 4 else []


# --- an iterable that waits for an outcome -----------------------------------------------------------------

KINDS = pytest.mark.parametrize("kind", ["fork", "threads", "pool"])
JOBS = pytest.mark.parametrize("jobs", [1, 2, 8])


@KINDS
@JOBS
@pytest.mark.parametrize("ordered", [False, True])
def test_iterable_that_waits_until_an_outcome_is_given_out_is_waited_for(
    kind: str, jobs: int, ordered: bool, log: Log
) -> None:
    given_out: set[str] = set()

    def items() -> Iterator[str]:
        for number in range(5):
            yield f"item{number}"
            wait_until(lambda number=number: f"item{number}" in given_out, "its outcome is given out")

    def run() -> None:
        with workers(kind, jobs) as options:
            for outcome in log.map(len, items(), ordered=ordered, **options):
                given_out.add(outcome.item)

    bounded(run)

    assert given_out == {f"item{number}" for number in range(5)}


@KINDS
@JOBS
def test_iterable_that_is_fed_with_the_outcomes_of_its_map_walks_a_whole_tree(
    kind: str, jobs: int, log: Log
) -> None:
    found = deque(["r"])
    open_items = 1
    changed = threading.Condition()

    def items() -> Iterator[str]:
        while True:
            with changed:
                changed.wait_for(lambda: found or not open_items, 20)
                if not found:
                    return
                item = found.popleft()
            yield item

    def walk() -> list[str]:
        nonlocal open_items
        seen = []
        with workers(kind, jobs) as options:
            for outcome in log.map(names_of_children, items(), **options):
                seen.append(outcome.item)
                with changed:
                    found.extend(outcome.value)
                    open_items += len(outcome.value) - 1
                    changed.notify_all()
        return seen

    seen = bounded(walk)

    assert sorted(seen) == sorted(
        "r" + format(number, f"0{length}b") if length else "r"
        for length in range(4)
        for number in range(1 << length)
    )


@JOBS
def test_iterable_that_waits_until_an_outcome_is_recorded_is_waited_for_also_if_its_first_try_fails(
    jobs: int, log: Log, store: Path
) -> None:
    tries: list[str] = []

    def flaky(item: str) -> str:
        tries.append(item)
        if tries.count(item) == 1:
            raise ValueError(item)
        return item

    def items() -> Iterator[str]:
        with Checkpoint(store, read_only=True) as seen:
            for item in "abc":
                yield item
                wait_until(lambda item=item: len(seen.getCheckpoints(item)) == 2, "it is recorded")

    def run() -> list[str]:
        with ThreadPoolExecutor(jobs) as executor:
            run = log.map(flaky, items(), executor=executor, retries=1, retry_delay_s=0.01)
            return [outcome.value for outcome in run]

    assert bounded(run) == ["a", "b", "c"]


def test_items_that_are_done_are_given_out_before_more_are_asked_for(log: Log) -> None:
    given_out: list[str] = []

    def items() -> Iterator[str]:
        yield "a"
        wait_until(lambda: given_out, "what was done is given out")
        yield "b"

    def run() -> None:
        with ThreadPoolExecutor(1) as one:
            list(log.map(len, ["a"], executor=one))
            for outcome in log.map(len, items(), executor=one):
                given_out.append(outcome.item)  # noqa: PERF401 - one by one: the items wait for it

    bounded(run)

    assert given_out == ["a", "b"]


def test_what_an_iterable_raises_is_raised_and_items_before_it_are_recorded(log: Log) -> None:
    def items() -> Iterator[str]:
        yield "a"
        raise LookupError("no more")

    with ThreadPoolExecutor(1) as one, pytest.raises(LookupError, match="no more"):
        list(log.map(len, items(), executor=one))

    assert {outcome.item for outcome in log.results()} <= {"a"}
    assert log.map_status() is not None


def begun(directory: Path, item: str) -> str:
    """Run; b tells that it has begun, and waits until it may go on."""
    if item == "b":
        (directory / "begun").touch()
        wait_until((directory / "goes on").exists, "it may go on", 60)
    return item


@KINDS
@pytest.mark.parametrize("is_list", [False, True])
def test_items_that_run_when_their_iterable_raises_are_given_back_or_recorded_in_an_executor(
    kind: str, is_list: bool, log: Log, tmp_path: Path
) -> None:
    given_out: list[str] = []

    class Items(list[str]):
        def __iter__(self) -> Iterator[str]:
            yield from "ab"
            wait_until((tmp_path / "begun").exists, "b runs")
            if kind != "fork":
                (tmp_path / "goes on").touch()  # the end waits for it
            raise LookupError("no more")

    def run() -> None:
        with workers(kind, 1) as options:
            items = Items("ab") if is_list else iter(Items())
            given_out.extend(each.item for each in log.map(partial(begun, tmp_path), items, **options))

    with pytest.raises(LookupError, match="no more"):
        run()

    assert set(given_out) <= {outcome.item for outcome in log.results()}
    assert (log.events("b") == ()) == (kind == "fork")
    (tmp_path / "goes on").touch()
    assert {each.item for each in log.map(partial(begun, tmp_path), ["a", "b", "c"], jobs=1)} == {
        "a",
        "b",
        "c",
    }


def test_iterable_is_asked_for_no_more_than_there_is_room_for_and_in_the_context_of_the_call(
    log: Log,
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    asked: list[str] = []
    gate = threading.Event()

    def items() -> Iterator[str]:
        for number in range(100):
            asked.append(variable.get())
            yield f"item{number}"

    token = variable.set("the caller's")
    with ThreadPoolExecutor(1) as one, log.map(lambda item: gate.wait(30), items(), executor=one, jobs=1):
        wait_until(lambda: len(asked) == 2, "as many as there is room for")
        gate.set()
    variable.reset(token)

    assert asked == ["the caller's"] * 2


def test_items_that_come_from_iterating_over_their_own_map_are_refused_with_what_to_do(log: Log) -> None:
    own: list[MapRun] = []

    def items() -> Iterator[str]:
        yield "a"
        wait_until(lambda: own, "the map is there")
        yield from (outcome.item for outcome in own[0])

    def run() -> None:
        with ThreadPoolExecutor(1) as one:
            own.append(log.map(len, items(), executor=one))
            list(own[0])

    with pytest.raises(ReentrancyError, match="put them into a queue"):
        bounded(run)
    assert [outcome.item for outcome in log.results()] == ["a"]


def test_list_is_iterated_over_in_the_caller_s_thread(log: Log) -> None:
    threads: list[int] = []

    def key(item: int) -> str:
        threads.append(threading.get_ident())
        return str(item)

    with ThreadPoolExecutor(1) as one:
        list(log.map(str, [1, 2], key=key, executor=one))

    assert threads == [threading.get_ident()] * 2


def test_closed_map_leaves_no_thread_unless_the_iterable_never_answers(log: Log) -> None:
    before = set(threading.enumerate())
    gate = threading.Event()

    def items() -> Iterator[str]:
        yield "a"
        gate.wait(30)

    with ThreadPoolExecutor(1) as one:
        with log.map(len, items(), executor=one) as run:
            assert next(run).item == "a"
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 5
        gate.set()

    wait_until(lambda: set(threading.enumerate()) <= before, "the thread has ended")


# --- what others have is said ------------------------------------------------------------------------------


def start(directory: Path, children: Children, said: str, *command: str, jobs: int = 3) -> Child:
    """Start a map of three items beside the test; what it says goes into a file."""
    (directory / "items").write_text("a\nb\nc\n")
    with (directory / said).open("wb") as stderr:
        return children.start_command(
            [
                *MPCHECKPOINT,
                "map",
                "--store",
                "store",
                "--key",
                "k",
                "-j",
                str(jobs),
                "-a",
                "items",
                "--",
                *command,
            ],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )


def runs(directory: Path) -> list[str]:
    path = directory / "runs"
    return path.read_text().split() if path.exists() else []


COMMAND = ("sh", "-c", "echo $$ >> runs; while [ ! -e go ]; do sleep 0.05; done", "x")


def test_restart_says_what_it_waits_for_with_the_process_and_once(tmp_path: Path, children: Children) -> None:
    first = start(tmp_path, children, "first", *COMMAND)
    wait_until(lambda: len(runs(tmp_path)) == 3, "three commands run")
    first.kill()

    second = start(tmp_path, children, "second", *COMMAND)
    said = tmp_path / "second"
    wait_until(lambda: "waiting for" in said.read_text(), "it says what it waits for")
    text = said.read_text()
    (tmp_path / "go").touch()

    assert second.wait() == 0
    assert (
        "waiting for 3 items: a map that was killed left processes that still run; end them, or wait" in text
    )
    for pid in runs(tmp_path)[:3]:
        assert f"process {pid} (sh -c echo" in text
    assert said.read_text().count("waiting for") == 1


def test_restart_names_who_holds_the_item_if_the_command_itself_has_ended(
    tmp_path: Path, children: Children
) -> None:
    # The shell is killed, and what it had started has its descriptors.
    command = ("sh", "-c", "echo $$ >> runs; [ -e go ] || sleep 1000; true", "x")
    first = start(tmp_path, children, "first", *command, jobs=1)
    # The shell takes note of itself a moment before.
    wait_until(lambda: ": sleep 1000 " in describe(living_descendants()), "what the shell starts runs")
    first.kill()
    os.kill(int(runs(tmp_path)[0]), signal.SIGKILL)
    (tmp_path / "go").touch()

    second = start(tmp_path, children, "second", *command)
    said = tmp_path / "second"
    wait_until(lambda: "waiting for a: process" in said.read_text(), "it says what it waits for")
    text = said.read_text()
    pid = int(text.partition("waiting for a: process ")[2].split()[0])
    assert f"process {pid} (sleep 1000) still runs, left by a map that was killed; end it" in text

    os.kill(pid, signal.SIGKILL)

    assert second.wait() == 0
    assert said.read_text().count("waiting for") == 1


def test_start_that_shares_the_items_says_who_works_on_the_last_ones(
    tmp_path: Path, children: Children
) -> None:
    first = start(tmp_path, children, "first", *COMMAND)
    wait_until(lambda: len(runs(tmp_path)) == 3, "three commands run")

    second = start(tmp_path, children, "second", *COMMAND)
    said = tmp_path / "second"
    wait_until(lambda: "waiting for" in said.read_text(), "it says what it waits for")
    (tmp_path / "go").touch()

    assert (first.wait(), second.wait()) == (0, 0)
    assert f"waiting for 3 items that other processes work on: a: process {first.pid} (" in said.read_text()
    assert "killed" not in said.read_text()


def test_map_in_python_says_it_in_the_log_messages(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mpcheckpoint")
    with ThreadPoolExecutor(1) as one:
        with log.claim("x"):
            waiter = threading.Thread(target=list, args=(log.map(len, ["x"], executor=one),))
            waiter.start()
            wait_until(lambda: told(caplog), "it says what it waits for")
        waiter.join()

    (record,) = told(caplog)
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith(f"waiting for x: process {os.getpid()} (")
    assert record.getMessage().endswith(") works on it")


def test_nothing_is_said_while_something_is_done_here_or_if_it_takes_less_than_a_second(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpcheckpoint")
    gate = threading.Event()
    threading.Timer(1.5, gate.set).start()
    with ThreadPoolExecutor(1) as one:
        with log.claim("x"):
            run = log.map(lambda item: gate.wait(30), ["x", "y"], executor=one)
            assert next(run).item == "y"
        assert next(run).item == "x"

    assert told(caplog) == []


GONE = system.LockHolder(4711, None, is_stopped=False)


@pytest.mark.parametrize(
    ("taker", "openers", "wait"),
    [
        # Of a user whose descriptors we may not see: who took the lock is gone, or is not.
        (GONE, [], HeldItem("x", None, is_left=True)),
        (GONE._replace(command="map"), [], HeldItem("x", GONE._replace(command="map"), is_left=False)),
        # A system that tells nothing.
        (None, [], HeldItem("x", None, is_left=False)),
        # The number of the dead map is somebody else's by now.
        (
            GONE._replace(command="other"),
            [GONE._replace(pid=12)],
            HeldItem("x", GONE._replace(pid=12), is_left=True),
        ),
    ],
)
def test_who_holds_an_item_is_told_as_far_as_it_can_be(
    taker: system.LockHolder | None,
    openers: list[system.LockHolder],
    wait: HeldItem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = system.LockStatus(system.LockState.HELD, taker, None)
    monkeypatch.setattr(system, "lock_status", lambda path: status)
    monkeypatch.setattr(system, "openers", lambda paths: dict.fromkeys(paths, openers))

    assert held_items(WorkerFiles("/store"), [("x", "0" * 32)]) == [wait]


def test_of_many_items_some_are_named_and_long_commands_are_cut() -> None:
    holder = system.LockHolder(1, "c" * 100, is_stopped=False)
    waits = [HeldItem(f"item{number}", holder, is_left=False) for number in range(5)]

    text = sentence(waits, is_left=False)

    who = f"process 1 ({'c' * 57}...)"
    assert text == (
        f"waiting for 5 items that other processes work on: item0: {who}, item1: {who}, item2: {who} and 2 more"
    )
    assert sentence([HeldItem("x", None, is_left=True)], is_left=True).startswith(
        "waiting for x: another process still runs, left by"
    )
