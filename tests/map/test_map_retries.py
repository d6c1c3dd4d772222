"""``Log.map`` where items fail: tried again after a pause, ended when their time is up, or the whole map halted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, Outcome
from mpcheckpoint import _system as system
from mpcheckpoint._work import member
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.outcomes import outcome_of
from mpcheckpoint._work.plan import LogRef, Plan
from mpcheckpoint._work.report import Kind
from mpcheckpoint._work.retries import LONGEST_PAUSE_S, Rests, Retries
from mpcheckpoint._work.run_item import FunctionCall, run_item
from mpcheckpoint._work.runs import Attempts, join_run
from mpcheckpoint.errors import ItemFailedError
from mpcheckpoint.log import handle_of
from support.executors import Late
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = [f"item{number}" for number in range(6)]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


class Flaky:
    """A function that fails so many times an item before it is well; counts its calls."""

    def __init__(self, **failures: int) -> None:
        self.calls: list[str] = []
        self._failures = failures
        self._lock = threading.Lock()

    def __call__(self, item: str) -> str:
        with self._lock:
            self.calls.append(item)
            times = self.calls.count(item)
        if times <= self._failures.get(item, 0):
            raise OSError(f"{item} is not ready")
        return item


def mapped(log: Log, fn: Any, items: list[str] = NAMES, **options: Any) -> dict[str, Outcome]:
    return {outcome.item: outcome for outcome in log.map(fn, items, **({"retry_delay_s": 0.01} | options))}


# --- retries -----------------------------------------------------------------------------------------------


def test_item_that_fails_is_tried_again_until_it_is_well(log: Log, threads: ThreadPoolExecutor) -> None:
    fn = Flaky(item1=2)

    outcomes = mapped(log, fn, retries=3, executor=threads)

    assert {item: outcome.attempts for item, outcome in outcomes.items()} == dict.fromkeys(NAMES, 1) | {
        "item1": 3
    }
    assert all(outcome.ok for outcome in outcomes.values())
    assert fn.calls.count("item1") == 3
    assert {outcome.item: outcome.attempts for outcome in log.results()}["item1"] == 3


def test_attempts_that_failed_can_be_read_in_the_log(log: Log, threads: ThreadPoolExecutor) -> None:
    mapped(log, Flaky(item1=2), retries=3, executor=threads, retry_delay_s=0.02)

    first, second, last = log.events("item1")
    assert [list(event)[:2] for event in (first, second, last)] == [
        ["run", "attempt"],
        ["run", "attempt"],
        ["run", "ok"],
    ]
    assert (first["attempt"], second["attempt"], last["attempts"]) == (1, 2, 3)
    assert first["error"].startswith("OSError: item1 is not ready\n")
    assert 0.015 <= first["pause_s"] <= 0.02
    assert 0.03 <= second["pause_s"] <= 0.04
    (only,) = log.events("item2")
    assert "attempts" not in only  # as it has always been recorded


def test_item_that_fails_too_often_has_failed_with_its_last_error(
    log: Log, threads: ThreadPoolExecutor
) -> None:
    fn = Flaky(item1=99)

    outcomes = mapped(log, fn, retries=2, executor=threads)

    assert (outcomes["item1"].ok, outcomes["item1"].attempts) == (False, 3)
    assert fn.calls.count("item1") == 3
    assert mapped(log, fn, retries=2, executor=threads)["item1"].repeated  # done, until retry_failed


def test_other_items_run_while_one_rests(log: Log) -> None:
    fn = Flaky(item0=1)

    with ThreadPoolExecutor(1) as one:
        mapped(log, fn, retries=1, executor=one, retry_delay_s=0.2)

    assert fn.calls == [*NAMES, "item0"]


@pytest.mark.parametrize("retries", [0, 1])
def test_limit_and_pause_hold_over_a_restart(retries: int, store: Path, threads: ThreadPoolExecutor) -> None:
    log, fn = Checkpoint(store).log("a"), Flaky(item0=99)
    with log.map(fn, ["item0"], retries=1, retry_delay_s=0.5, executor=threads):
        wait_until(lambda: log.count("item0") == 1, "the first attempt is recorded")
    failed_s = time.monotonic()

    outcomes = mapped(
        Checkpoint(store).log("a"), fn, ["item0"], retries=retries, retry_delay_s=0.5, executor=threads
    )

    assert time.monotonic() - failed_s > 0.3
    assert fn.calls == ["item0"] * 2
    assert outcomes["item0"].attempts == 2


def test_two_that_share_the_items_share_the_limit(store: Path) -> None:
    fn = Flaky(**dict.fromkeys(NAMES, 2))

    def take_part() -> None:
        with ThreadPoolExecutor(2) as executor:
            outcomes = mapped(Checkpoint(store).log("a"), fn, retries=2, executor=executor)
        assert {outcome.attempts for outcome in outcomes.values()} == {3}
        assert all(outcome.ok for outcome in outcomes.values())

    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(take_part) for _ in range(2)]:
            done.result()

    assert sorted(fn.calls) == sorted(NAMES * 3)


def test_item_that_somebody_has_tried_since_it_was_given_out_is_left_alone(log: Log) -> None:
    fn = Flaky(x=99)
    plan = Plan(
        LogRef(handle_of(log)),
        join_run(handle_of(log), "", rerun=None, retry_failed=False),
        FunctionCall(fn),
        Retries(5, 60),
    )
    entry = Input(0, "x", "x", {})

    assert run_item(plan, entry).kind is Kind.TO_RETRY
    assert run_item(plan, entry).kind is Kind.TAKEN
    assert run_item(plan, entry._replace(attempts=1)).kind is Kind.TO_RETRY
    assert fn.calls == ["x"] * 2


def test_attempts_are_counted_anew_after_an_outcome(log: Log, threads: ThreadPoolExecutor) -> None:
    fn = Flaky(item0=99)
    mapped(log, fn, ["item0"], retries=1, executor=threads)

    retried = mapped(log, fn, ["item0"], retries=2, executor=threads, retry_failed=True)
    rerun = mapped(log, fn, ["item0"], retries=0, executor=threads, rerun="again")

    assert (retried["item0"].attempts, rerun["item0"].attempts) == (3, 1)
    assert len(fn.calls) == 2 + 3 + 1


def test_on_error_raise_raises_when_the_last_attempt_has_failed(
    log: Log, threads: ThreadPoolExecutor
) -> None:
    fn = Flaky(item0=99)

    with pytest.raises(OSError, match="item0 is not ready"):
        mapped(log, fn, ["item0"], retries=2, executor=threads, on_error="raise")

    assert len(fn.calls) == 3


def die(item: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_item_that_kills_its_worker_is_not_retried_beyond_its_third_death(log: Log) -> None:
    outcomes = mapped(log, die, ["item0"], retries=5, jobs=1, mp_context=multiprocessing.get_context("fork"))

    assert outcomes["item0"].error is not None
    assert "3 times" in outcomes["item0"].error
    assert [next(iter(list(event)[1:])) for event in log.events("item0")] == ["death", "death", "ok"]


def test_attempt_recorded_by_a_writer_of_another_kind_is_no_obstacle(
    log: Log, threads: ThreadPoolExecutor
) -> None:
    mapped(log, len, ["other"], executor=threads)
    log.append("item0", {"run": 1, "attempt": "first", "pause_s": "long"})

    assert mapped(log, len, ["item0"], executor=threads)["item0"].attempts == 2


def test_outcome_recorded_before_there_were_attempts_took_one() -> None:
    outcome = outcome_of(b'{"run":1,"ok":true,"error":null,"value":1,"duration_s":0.5}', "x", 7, {})

    assert outcome.attempts == 1
    assert outcome.worker is None


def test_pauses_double_up_to_a_minute_and_vary_by_a_quarter() -> None:
    for delay_s, attempts, longest_s in [
        (1.0, 1, 1.0),
        (1.0, 2, 2.0),
        (1.0, 5, 16.0),
        (1.0, 7, LONGEST_PAUSE_S),
        (1.0, 10**6, LONGEST_PAUSE_S),
        (90.0, 3, 90.0),
        (0.0, 4, 0.0),
    ]:
        pauses_s = [Retries(9, delay_s).pause_s(attempts) for _ in range(50)]
        assert all(0.75 * longest_s <= pause_s <= longest_s for pause_s in pauses_s)
        assert len(set(pauses_s)) > 40 or not delay_s


def test_pause_is_counted_from_the_failure_and_never_longer_than_it_is() -> None:
    rests, now_us = Rests(), system.now_us()

    def is_resting(object_key: str, attempts: Attempts) -> bool:
        rests.rest_after(object_key, attempts)
        return rests.is_resting(object_key)

    assert not is_resting("never failed", Attempts())
    assert not is_resting("long ago", Attempts(1, now_us - 61_000_000, 60.0))
    assert is_resting("just now", Attempts(1, now_us - 1_000_000, 60.0))
    # The wall clock was set back by an hour since.
    assert is_resting("from the future", Attempts(1, now_us + 3_600_000_000, 0.05))
    wait_until(lambda: not rests.is_resting("from the future"), "the pause is over", timeout_s=5)
    assert not is_resting("from the future", Attempts(1, now_us + 3_600_000_000, 0.05))
    assert is_resting("from the future", Attempts(2, now_us, 60.0))


# --- a limit to the time -----------------------------------------------------------------------------------


def stay_if_slow(directory: Path, item: str) -> str:
    """Take note of the call; stay for ever if the item is to be slow, and with SIGTERM ignored if it is stubborn."""
    with (directory / "calls").open("a") as file:
        file.write(f"{item}\n")
    if "stubborn" in item:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while "slow" in item:
        time.sleep(10)
    return item


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_item_whose_time_is_up_has_failed_and_its_worker_is_replaced(
    method: str, log: Log, tmp_path: Path
) -> None:
    # Starting the interpreter alone takes longer than this, with spawn, and does not count.
    outcomes = mapped(
        log,
        partial(stay_if_slow, tmp_path),
        ["a", "slow", "b", "c"],
        jobs=1,
        timeout_s=0.1,
        mp_context=multiprocessing.get_context(method),
    )

    assert {item for item, outcome in outcomes.items() if not outcome.ok} == {"slow"}
    assert (outcomes["slow"].error, outcomes["slow"].duration_s) == ("timed out after 0.1 s", 0.1)
    assert log.map_status() is not None


def test_time_out_counts_as_a_failed_attempt(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "TERMINATE_S", 0.2)
    context = multiprocessing.get_context("fork")

    outcomes = mapped(
        log,
        partial(stay_if_slow, tmp_path),
        ["slow and stubborn", "a"],
        jobs=2,
        timeout_s=0.1,
        retries=1,
        mp_context=context,
    )

    assert outcomes["slow and stubborn"].attempts == 2
    assert (tmp_path / "calls").read_text().count("slow") == 2
    with pytest.raises(ItemFailedError, match="timed out after"):
        mapped(log, len, ["slow and stubborn"], jobs=1, on_error="raise", mp_context=context)


def test_time_out_is_raised_as_one_if_asked(log: Log, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"timed out after 0\.1 s"):
        mapped(
            log,
            partial(stay_if_slow, tmp_path),
            ["slow"],
            timeout_s=0.1,
            on_error="raise",
            mp_context=multiprocessing.get_context("fork"),
        )


# --- halting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
def test_halted_map_records_what_runs_and_starts_nothing_more(ordered: bool, log: Log) -> None:
    items = [f"item{number}" for number in range(50)]
    calls, started = [], []

    def fail_third(item: str) -> str:
        calls.append(item)
        if item == "item2":
            wait_until(lambda: "item3" in calls, "another one runs")
            raise ValueError(item)
        if item not in items[:3]:
            wait_until(lambda: started and started[0].is_halted, "the failure was seen")
        return item

    with (
        ThreadPoolExecutor(2) as two,
        log.map(fail_third, items, executor=two, ordered=ordered, on_error="halt") as run,
    ):
        started.append(run)
        outcomes = list(run)

    assert run.is_halted
    # What the thread takes from the queue before the failure is seen here runs, too.
    assert set(items[:4]) <= set(calls) <= set(items[:5])
    assert sorted(outcome.item for outcome in outcomes) == sorted(calls)
    if ordered:
        assert [outcome.item for outcome in outcomes] == items[: len(calls)]
    assert sorted(outcome.item for outcome in log.results()) == sorted(calls)


def test_halted_map_started_again_runs_the_others(log: Log, threads: ThreadPoolExecutor) -> None:
    fn = Flaky(item0=1)
    mapped(log, fn, executor=threads, on_error="halt")

    again = mapped(log, fn, executor=threads, on_error="halt")
    once_more = mapped(log, fn, executor=threads, on_error="halt", retry_failed=True)

    assert sorted(again) == sorted(NAMES)  # a failure of before halts nothing
    assert [item for item, outcome in again.items() if not outcome.ok] == ["item0"]
    assert once_more["item0"].ok
    assert sorted(fn.calls) == sorted([*NAMES, "item0"])


def test_map_halts_in_spite_of_items_that_rest_or_are_taken(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    fn = Flaky(item0=99, item1=99)
    with Checkpoint(store).log("a").claim("item5") as claim:
        assert claim is not None
        run = log.map(
            fn, ["item5", "item0"], executor=threads, on_error="halt", retries=1, retry_delay_s=0.05
        )
        outcomes = list(run)  # does not wait for the one that is taken

    assert [outcome.item for outcome in outcomes] == ["item0"]
    assert run.is_halted


# --- items that come again -----------------------------------------------------------------------------------


def test_failure_of_a_retry_is_not_retried_by_it_when_its_item_comes_again(log: Log) -> None:
    def fail(item: str) -> None:
        ran.append(item)
        raise ValueError(item)

    ran: list[str] = []
    at_once = Late(lambda: None)
    list(log.map(fail, ["item"], executor=at_once))
    others = [f"{number}" for number in range(10)]

    list(log.map(fail, ["item", *others, "item"], executor=at_once, retry_failed=True))

    assert ran == ["item", "item", *others]
