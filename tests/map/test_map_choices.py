"""Which failures run again (retry_failed=), and how many end a map (halt=)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, Outcome
from mpcheckpoint._work.causes import condition
from mpcheckpoint._work.halt import FailureCount, Halt
from mpcheckpoint._work.pool import ExecutorPool
from support.executors import Late, workers
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def fails_as_named(item: str) -> str:
    """Fail in the way that the item is called."""
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif item == "timed-out":
        time.sleep(60)
    elif item.startswith("exit="):
        os._exit(int(item.partition("=")[2]))
    elif item == "raises":
        raise ValueError("timed out after 3 s, killed by signal 9")
    return item


NAMES = ["killed", "timed-out", "exit=3", "exit=4", "raises", "fine"]


def run(log: Log, items: list[str], **options: Any) -> list[str]:
    """Return which items ran."""
    with ThreadPoolExecutor(1) as threads:
        found = log.map(lambda item: 1, items, executor=threads, **options)
        return [each.item for each in found if not each.repeated]


def failing(log: Log, items: list[str]) -> None:
    def fail(item: str) -> None:
        raise ValueError(item)

    with ThreadPoolExecutor(1) as threads:
        assert len(list(log.map(fail, items, executor=threads))) == len(items)


# --- which failures run again ------------------------------------------------------------------------------


@pytest.fixture
def failed(log: Log) -> Log:
    """A log in which workers failed in each way that there is."""
    fork = multiprocessing.get_context("fork")
    list(log.map(fails_as_named, ["timed-out"], mp_context=fork, jobs=1, timeout_s=0.1))
    # Without a limit: on a busy machine any of these takes longer.
    others = [name for name in NAMES if name != "timed-out"]
    outcomes = list(log.map(fails_as_named, others, mp_context=fork, jobs=3))
    assert [outcome.item for outcome in outcomes if outcome.ok] == ["fine"]
    return log


def test_failures_are_chosen_by_how_they_came_about(failed: Log) -> None:
    for choice in ("killed", "timed-out", "exit=3"):
        assert run(failed, NAMES, retry_failed=choice) == [choice]
        assert run(failed, NAMES, retry_failed=choice) == []
    assert run(failed, NAMES, retry_failed="not-started") == []
    assert run(failed, NAMES, retry_failed=("exit=5", "exit=4")) == ["exit=4"]
    assert run(failed, NAMES, retry_failed=True) == ["raises"]


def outcome(error: str | None, value: object = None) -> Outcome:
    return Outcome("x", "x", error is None, value, error, 1.0, repeated=True)


@pytest.mark.parametrize(
    ("error", "value", "fitting"),
    [
        ("exit code 137, 3 times", {"exit_code": 137}, ["exit=137", "killed"]),
        ("exit code 143", {"exit_code": 143}, ["exit=143", "killed"]),
        ("exit code 1", {"exit_code": 1}, ["exit=1"]),
        ("exit code 1", {"exit_code": True}, []),
        ("killed by signal 9 (SIGKILL), 3 times", {"exit_code": -9}, ["killed"]),
        ("killed by signal 34", {"exit_code": -34}, ["killed"]),
        ("timed out after 5 s", {"exit_code": -15}, ["timed-out"]),
        ("timed out after 5 s", {"exit_code": 143}, ["timed-out", "exit=143"]),
        ("exceeded the memory limit of 2 GiB: used 2.3 GiB", {"exit_code": -9}, ["over-memory"]),
        ("exceeded the memory limit of 2 GiB: used 2.3 GiB", {"exit_code": 137}, ["over-memory", "exit=137"]),
        ("exceeded the memory limit of 2 GiB: used 2.3 GiB", None, ["over-memory"]),
        ("could not be started: No such file or directory", None, ["not-started"]),
        ("the process that ran it died: it was killed by signal 11 (SIGSEGV)", None, ["killed"]),
        ("the process that ran it died: it ended with exit code 1", None, ["exit=1"]),
        ("ValueError: killed by signal 9", None, []),
        ("the process that ran it died: its executor broke (BrokenProcessPool), 3 times", None, ["killed"]),
        ("MemoryError: exceeded the memory limit of 2 GiB", None, []),
        ("TimeoutError: timed out after 5 s", None, []),
        (None, {"exit_code": 0}, []),
    ],
)
def test_cause_of_a_failure_is_told_by_its_outcome(error: str, value: object, fitting: list[str]) -> None:
    names = ["timed-out", "over-memory", "killed", "not-started", "exit=1", "exit=137", "exit=143"]

    assert [name for name in names if condition(name)(outcome(error, value))] == [
        name for name in names if name in fitting
    ]


def test_function_chooses_failures_and_sees_only_those(log: Log) -> None:
    items = ["a", "b", "c"]
    failing(log, items[:2])
    run(log, ["c"])
    seen: list[Outcome] = []

    def choose(found: Outcome) -> bool:
        seen.append(found)
        return found.item == "b"

    assert run(log, items, retry_failed=choose) == ["b"]
    assert sorted(found.item for found in seen) == ["a", "b"]
    assert {found.error for found in seen if found.item == "a"} == {
        next(each.error for each in log.results() if each.item == "a")
    }


def test_what_the_choosing_function_raises_ends_the_map(log: Log) -> None:
    failing(log, ["a"])

    def choose(found: Outcome) -> bool:
        raise LookupError(found.item)

    with pytest.raises(LookupError, match="a"):
        run(log, ["a"], retry_failed=choose)
    assert run(log, ["a"], retry_failed=True) == ["a"]


def test_function_that_chooses_need_not_be_sent_to_workers(log: Log) -> None:
    failing(log, ["a"])
    spawn = multiprocessing.get_context("spawn")

    (found,) = log.map(len, ["a"], retry_failed=lambda _: True, mp_context=spawn)

    assert (found.value, found.repeated) == (1, False)


def test_failure_that_is_chosen_runs_once_in_several_starts(store: Path) -> None:
    first, second = Checkpoint(store).log("a"), Checkpoint(store).log("a")
    failing(first, ["a"])
    others: list[list[str]] = []

    def before() -> None:
        others.append(run(first, ["a"], retry_failed=lambda _: True))

    found = list(second.map(lambda item: 2, ["a"], retry_failed=lambda _: True, executor=Late(before)))

    assert others == [["a"]]
    assert [(each.value, each.repeated) for each in found] == [(1, True)]


def test_failure_of_this_start_is_not_chosen_again(log: Log) -> None:
    calls: list[str] = []

    def fail(item: str) -> None:
        calls.append(item)
        raise ValueError(item)

    items = ["a", *(str(number) for number in range(20)), "a"]
    with ThreadPoolExecutor(1) as one:
        found = list(log.map(fail, items, retry_failed=lambda _: True, executor=one))

    assert len(found) == 22
    assert calls.count("a") == 1


@pytest.mark.parametrize(
    ("retry_failed", "error"),
    [
        ("never", ValueError),
        ("exit=0", ValueError),
        ("exit=256", ValueError),
        ("exit=x", ValueError),
        (["killed", "exit"], ValueError),
        ([], ValueError),
        ([1], TypeError),
        (1, TypeError),
        (None, TypeError),
    ],
)
def test_choice_of_failures_that_says_nothing_is_refused(
    retry_failed: Any, error: type[Exception], log: Log
) -> None:
    with pytest.raises(error, match="exit=CODE, timed-out, over-memory, killed, not-started"):
        run(log, ["a"], retry_failed=retry_failed)

    assert log.map_status() is None


# --- how many failures end a map ---------------------------------------------------------------------------


def fail(item: str) -> None:
    raise ValueError(item)


def fail_when_told(item: str) -> None:
    if item.startswith("bad"):
        raise ValueError(item)


@pytest.mark.parametrize("kind", ["threads", "pool", "fork", "spawn"])
def test_map_ends_after_as_many_failures_as_it_was_told(kind: str, log: Log) -> None:
    items = [f"bad{number}" for number in range(60)]
    with workers(kind, 2) as options, log.map(fail, items, halt=5, **options) as found:
        outcomes = list(found)
        assert found.is_halted
        # Those that were given out may begin before the failures before them are counted.
        assert 5 <= found.failures == len(outcomes) <= 5 + 2 * 2 + 1
    assert len(list(log.pending(items))) == 60 - len(outcomes)


class Counted(list[str]):
    """Items, and how many of them were taken."""

    taken = 0

    def __iter__(self) -> Iterator[str]:
        for item in super().__iter__():
            self.taken += 1
            yield item


def test_few_items_are_ahead_of_the_count_of_failures_however_short_they_are(log: Log) -> None:
    items = Counted(map(str, range(300)))
    fork = multiprocessing.get_context("fork")

    with log.map(fail_when_told, items, halt=5, mp_context=fork, jobs=1) as found:
        ahead = max(items.taken - number for number, _ in enumerate(found, 1))

    assert ahead <= 2


def test_failures_below_the_limit_end_nothing(log: Log, threads: ThreadPoolExecutor) -> None:
    items = ["bad1", "bad2", *map(str, range(20))]
    with log.map(fail_when_told, items, halt=3, executor=threads) as found:
        assert len(list(found)) == 22
        assert (found.is_halted, found.failures) == (False, 2)


def test_failures_of_earlier_starts_do_not_count(log: Log) -> None:
    failing(log, ["bad1", "bad2"])

    assert len(run(log, ["bad1", "bad2", "a", "b"], halt=1)) == 2


def test_share_of_failures_is_judged_from_the_tenth_on(log: Log) -> None:
    items = ["bad0", *map(str, range(8)), "bad1", *map(str, range(8, 30))]
    with ThreadPoolExecutor(1) as one, log.map(fail_when_told, items, halt="20%", executor=one) as found:
        outcomes = list(found)
        assert found.is_halted
    assert 10 <= len(outcomes) <= 13


def test_first_failure_with_halt_1_lets_none_begin_that_was_given_out(log: Log) -> None:
    items = [f"bad{number}" for number in range(20)]
    with ThreadPoolExecutor(1) as one, log.map(fail, items, halt=1, executor=one) as found:
        assert len(list(found)) == 1


def test_worker_sees_that_a_map_of_several_failures_was_halted(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in the executor when the limit is reached does not begin, though it cannot be taken back."""
    monkeypatch.setattr(ExecutorPool, "recall", lambda pool: [])
    begun: list[str] = []
    is_reached = threading.Event()

    def work(item: str) -> None:
        begun.append(item)
        if item == "c":
            assert is_reached.wait(30)
        raise ValueError(item)

    items = ["a", "b", "c", "d"]
    with ThreadPoolExecutor(1) as one, log.map(work, items, halt=2, executor=one, jobs=2) as found:
        wait_until(lambda: "c" in begun, "the third begins")  # nobody has counted a failure yet
        assert [next(found).item, next(found).item] == ["a", "b"]
        is_reached.set()
        assert [each.item for each in found] == ["c"]
        assert found.is_halted
    assert begun == ["a", "b", "c"]


@pytest.mark.parametrize("halt", [0, -1, True, 1.5, "0", "0%", "101%", "5 %", "now,fail=1", "", "%", "-5"])
def test_limit_of_failures_that_is_none_is_refused(halt: Any, log: Log) -> None:
    with pytest.raises(ValueError, match="a map is halted by a number of failures, at least 1, or a share"):
        run(log, ["a"], halt=halt)

    assert log.map_status() is None


def test_map_that_raises_takes_no_limit(log: Log) -> None:
    with pytest.raises(ValueError, match="ends at the first failure"):
        run(log, ["a"], halt=5, on_error="raise")


@pytest.mark.parametrize(
    ("halt", "outcomes", "ends_after"),
    [
        ("3", "....x.x..x..", 10),
        ("50%", "xxxxxxxxx..........", 10),
        ("50%", "x.x.x.x.x.", 10),
        ("50%", "x...........", None),
        ("100%", "xxxxxxxxx.xxxxx", None),
        ("0.5%", "." * 199 + "x", 200),
        ("0.5%", "." * 200 + "x" + ".", None),
        (None, "xxxxxxxxxxxxxxxxx", None),
    ],
)
def test_failures_are_counted_until_they_reach_the_limit(
    halt: str | None, outcomes: str, ends_after: int | None
) -> None:
    count = FailureCount(None if halt is None else Halt.of(halt))
    ends = [number for number, each in enumerate(outcomes, 1) if count.take(is_ok=each == ".")]

    assert (ends[0] if ends else None) == ends_after
    assert count.failed == outcomes.count("x")
