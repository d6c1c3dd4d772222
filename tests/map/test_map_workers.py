"""What worker processes do beside the items: an initializer and its state, replacement, and a limit on memory."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._work import worker_options
from mpcheckpoint._work.memory_watch import MemoryWatch, OverMemory
from mpcheckpoint._work.worker_options import memory_error, parse_memory
from mpcheckpoint.errors import InvalidFunctionError, WorkerDiedError
from support import process_tree
from support.shell import CommandLine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(7)

METHODS = multiprocessing.get_all_start_methods()
NAMES = [f"item{number}" for number in range(6)]
MIB = 1 << 20
needs_memory = pytest.mark.skipif(
    not system.can_tell_memory(), reason="nothing tells the memory of a process"
)


def mapped(
    log: Log, fn: Any, items: list[str] = NAMES, method: str = "fork", **options: Any
) -> dict[str, Any]:
    run = log.map(fn, items, mp_context=multiprocessing.get_context(method), **options)
    return {outcome.item: outcome for outcome in run}


# --- an initializer ----------------------------------------------------------------------------------------


def load(runs: Path) -> dict[str, int]:
    with runs.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return {"pid": os.getpid(), "items": 0}


def use(item: str, state: dict[str, int]) -> list[int]:
    state["items"] += 1
    return [state["pid"], os.getpid(), state["items"]]


@pytest.mark.parametrize("method", METHODS)
def test_initializer_runs_once_in_each_worker_and_its_state_is_handed_to_the_function(
    method: str, log: Log, tmp_path: Path
) -> None:
    outcomes = mapped(log, use, method=method, jobs=2, initializer=partial(load, tmp_path / "runs"))

    values = [outcome.value for outcome in outcomes.values()]
    pids = (tmp_path / "runs").read_text().split()
    assert len(pids) == len(set(pids)) <= 2
    assert all(state_pid == pid and str(pid) in pids for state_pid, pid, _ in values)
    for pid in pids:  # the state is kept from item to item
        counts = sorted(count for _, each, count in values if str(each) == pid)
        assert counts == list(range(1, len(counts) + 1))


def set_up() -> None:
    os.environ["MPCHECKPOINT_TEST_STATE"] = "ready"


def is_set_up(item: str) -> str | None:
    return os.environ.get("MPCHECKPOINT_TEST_STATE")


def test_initializer_that_returns_nothing_leaves_the_function_its_one_argument(log: Log) -> None:
    outcomes = mapped(log, is_set_up, jobs=2, initializer=set_up)

    assert {outcome.value for outcome in outcomes.values()} == {"ready"}


def fail() -> None:
    raise ValueError("no model")


@pytest.mark.parametrize("method", METHODS)
def test_initializer_that_raises_stops_the_map_at_once_and_fails_no_item(method: str, log: Log) -> None:
    with pytest.raises(WorkerDiedError, match=r"initializer .* failed: ValueError: no model") as caught:
        mapped(log, is_set_up, method=method, jobs=2, initializer=fail)

    assert isinstance(caught.value.__cause__, ValueError)
    assert list(log.results()) == []
    assert mapped(log, is_set_up, jobs=1)["item0"].ok


def die(runs: Path) -> None:
    with runs.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", METHODS)
def test_worker_that_dies_in_its_initializer_is_started_a_few_times_and_no_more(
    method: str, log: Log, tmp_path: Path
) -> None:
    with pytest.raises(WorkerDiedError, match=r"died in their initializer.*SIGKILL"):
        mapped(log, is_set_up, method=method, jobs=1, initializer=partial(die, tmp_path / "runs"))

    assert (tmp_path / "runs").read_text() == "xxx"
    assert [log.events(name) for name in NAMES] == [()] * len(NAMES)


def die_once(directory: Path) -> None:
    try:
        (directory / "died").touch(exist_ok=False)
    except FileExistsError:
        return
    os._exit(3)


def test_worker_that_dies_once_in_its_initializer_is_replaced_and_costs_no_item_anything(
    log: Log, tmp_path: Path
) -> None:
    outcomes = mapped(log, is_set_up, jobs=1, initializer=partial(die_once, tmp_path))

    assert all(outcome.ok for outcome in outcomes.values())
    assert [len(log.events(name)) for name in NAMES] == [1] * len(NAMES)


def fork_and_return_too() -> None:
    if os.fork():
        os.wait()


def test_forked_child_of_an_initializer_that_returns_too_counts_for_nothing(log: Log) -> None:
    outcomes = mapped(log, is_set_up, jobs=1, initializer=fork_and_return_too)

    assert [len(log.events(name)) for name in outcomes] == [1] * len(NAMES)


def test_initializer_that_cannot_be_sent_is_refused(log: Log) -> None:
    with pytest.raises(InvalidFunctionError, match="lambda"):
        mapped(log, is_set_up, method="spawn", initializer=lambda: None)

    assert list(log.results()) == []


def test_close_while_an_initializer_runs_ends_it(log: Log) -> None:
    earlier = process_tree.living_descendants()
    context = multiprocessing.get_context("fork")
    run = log.map(is_set_up, NAMES, jobs=2, initializer=partial(time.sleep, 1000), mp_context=context)
    started_s = time.monotonic()

    run.close()

    assert time.monotonic() - started_s < 10
    assert process_tree.living_descendants() == earlier


# --- replacement -------------------------------------------------------------------------------------------


def pid_of(item: str) -> int:
    return os.getpid()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tasks", [1, 4])
def test_worker_is_replaced_after_so_many_items(method: str, tasks: int, log: Log) -> None:
    outcomes = mapped(log, pid_of, method=method, jobs=1, tasks_per_worker=tasks)

    pids = [outcome.value for outcome in outcomes.values()]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == {1: [1] * 6, 4: [4, 2]}[tasks]
    assert [len(log.events(name)) for name in NAMES] == [1] * len(NAMES)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_number_of_tasks_that_is_none_is_refused(value: Any, log: Log) -> None:
    with pytest.raises(ValueError, match="tasks_per_worker is a number of items"):
        log.map(pid_of, NAMES, tasks_per_worker=value)


# --- memory ------------------------------------------------------------------------------------------------


def take_memory(size_mib: int, item: str) -> str:
    if item == "item2":
        taken = bytearray(os.urandom(1) * (size_mib * MIB))
        time.sleep(60)
        return f"{len(taken)}"
    return item


@needs_memory
@pytest.mark.parametrize("method", METHODS)
def test_item_that_takes_too_much_memory_fails_as_such_and_the_others_run(method: str, log: Log) -> None:
    outcomes = mapped(log, partial(take_memory, 300), method=method, jobs=2, memory="200M")

    failed = outcomes.pop("item2")
    assert all(outcome.ok for outcome in outcomes.values())
    assert re.match(r"exceeded the memory limit of 200 MiB: used [23]\d\d MiB", failed.error)
    assert 0 < failed.duration_s < 30
    assert [len(log.events(name)) for name in NAMES] == [1] * len(NAMES)  # no death is counted


@needs_memory
def test_too_much_memory_is_a_failed_attempt_and_raised_as_a_memory_error(log: Log) -> None:
    outcomes = mapped(log, partial(take_memory, 300), jobs=1, memory=200 * MIB, retries=1, retry_delay_s=0.01)
    assert outcomes["item2"].attempts == 2

    with pytest.raises(MemoryError, match="exceeded the memory limit"):
        mapped(log, partial(take_memory, 300), ["item2"], rerun="x", jobs=1, memory="200M", on_error="raise")


def have_a_child_take_memory(item: str) -> None:
    hungry = "import time; x = bytearray(b'x') * (300 << 20); time.sleep(20)"
    subprocess.run([sys.executable, "-c", hungry], check=False)


@needs_memory
def test_memory_of_what_the_function_started_counts(log: Log) -> None:
    outcomes = mapped(log, have_a_child_take_memory, ["x"], jobs=1, memory="200M")

    assert "exceeded the memory limit" in outcomes["x"].error
    process_tree.end(process_tree.living_descendants())


def rest(item: str) -> str:
    time.sleep(0.2)
    return item


@needs_memory
def test_memory_that_a_worker_shares_with_the_mapping_process_does_not_count(log: Log) -> None:
    loaded = bytearray(b"x") * (400 * MIB)

    outcomes = mapped(log, rest, ["a", "b"], jobs=2, memory="200M")

    assert all(outcome.ok for outcome in outcomes.values())
    assert len(loaded) == 400 * MIB


def test_watch_ends_nothing_once_the_function_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, goes_on, told = threading.Event(), threading.Event(), list[OverMemory]()

    def above(pid: int, limit_bytes: int) -> int:
        asked.set()
        assert goes_on.wait(30)
        return 2 * limit_bytes

    monkeypatch.setattr(system, "memory_above", above)

    def tell(over: OverMemory) -> None:
        told.append(over)
        raise SystemExit  # ends the thread, before it ends this process

    watch = MemoryWatch(1, tell)
    watch.start()
    watch.begin()
    assert asked.wait(30)
    watch.end()  # while it measures
    goes_on.set()
    time.sleep(0.2)

    assert told == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("2G", 2 << 30), ("1.5 GiB", 3 << 29), ("500m", 500 << 20), ("64KB", 64 << 10), ("1T", 1 << 40), (7, 7)],
)
def test_sizes_are_read_as_people_write_them(text: Any, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("value", [0, -1, "0", "", "G", "1e9", "2 P", "-1G", 1.5, True, "99999999T", "٣G"])
def test_size_that_is_none_is_refused(value: Any, log: Log) -> None:
    with pytest.raises(ValueError, match="memory is a size above 0"):
        log.map(pid_of, NAMES, memory=value)


def test_limit_that_nobody_could_watch_is_refused(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "can_tell_memory", lambda: False)

    with pytest.raises(ValueError, match="does not tell how much memory"):
        log.map(pid_of, NAMES, memory="1G")


def test_sizes_are_shown_in_units() -> None:
    assert memory_error(5 << 29, 2 << 30) == "exceeded the memory limit of 2 GiB: used 2.5 GiB"
    assert worker_options.in_units(512) == "512 bytes"


@pytest.mark.parametrize("name", ["timeout_s", "memory", "initializer", "tasks_per_worker"])
def test_what_only_own_workers_can_do_is_refused_with_an_executor(name: str, log: Log) -> None:
    value = set_up if name == "initializer" else 1
    with ThreadPoolExecutor(1) as one, pytest.raises(ValueError, match=f"executor and {name} exclude"):
        log.map(pid_of, NAMES, executor=one, **{name: value})


# --- commands ----------------------------------------------------------------------------------------------

HUNGRY = (
    "import sys, time\n"
    "print('begun', flush=True)\n"
    "if sys.argv[1] == 'big':\n"
    "    taken = bytearray(b'x') * (300 << 20)\n"
    "    time.sleep(60)\n"
)


@needs_memory
@pytest.mark.parametrize("shell", [False, True], ids=["itself", "its child"])
def test_command_that_takes_too_much_memory_fails_as_such(shell: bool, tmp_path: Path) -> None:
    line = CommandLine(tmp_path)
    (tmp_path / "hungry.py").write_text(HUNGRY)
    command = [sys.executable, "hungry.py"]
    if shell:
        command = ["sh", "-c", f"{sys.executable} hungry.py $1; exit 0", "x"]

    ended = line.run(
        *("map", "--store", "store", "--key", "a", "--memory", "200M", "--", *command), stdin=b"big\nsmall\n"
    )

    assert ended.code == 1
    with Checkpoint(tmp_path / "store") as checkpoint:
        outcomes = {outcome.item: outcome for outcome in checkpoint.log("a").results()}
    assert outcomes["small"].ok
    assert re.match(r"exceeded the memory limit of 200 MiB: used [23]\d\d MiB", outcomes["big"].error or "")
    assert outcomes["big"].value["output"] == "begun\n"


def test_memory_that_is_no_size_is_bad_usage(tmp_path: Path) -> None:
    ended = CommandLine(tmp_path).run(
        *("map", "--store", "store", "--key", "a", "--memory", "much", "--", "true"), stdin=b"x\n"
    )

    assert ended.code == 2
    assert "memory is a size above 0" in ended.err
    assert not (tmp_path / "store").exists()
