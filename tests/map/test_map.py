"""``Log.map``: what is missing is run, in parallel, once, and recorded before it is given out."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, MapRun, Outcome
from mpcheckpoint._format import codec
from mpcheckpoint._logfile.mutex import Mutex
from mpcheckpoint._logfile.read import LogReader
from mpcheckpoint._view import log_handle
from mpcheckpoint._work import item_states
from mpcheckpoint.errors import (
    ChangedItemError,
    ChangedVersionError,
    InvalidKeyError,
    ItemFailedError,
    OutcomeUnknownError,
    ReadOnlyError,
    WorkerDiedError,
    WriteFailedError,
)
from mpcheckpoint.log import handle_of
from support import process_tree, tally
from support.verbs import Faults, bounded, inside, tree, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.processes import Children

START_METHODS = multiprocessing.get_all_start_methods()
NAMES = [f"item{number}" for number in range(12)]


class Runs:
    """Counts how often each item was run, in a file that any number of processes append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, item: object) -> None:
        with self.path.open("ab") as file:
            file.write(f"{item}\n".encode())

    def __iter__(self) -> Iterator[str]:
        return iter(self.path.read_text().splitlines() if self.path.exists() else [])

    def count(self, item: object) -> int:
        return list(self).count(str(item))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def noted(runs: Runs, item: Any) -> str:
    """Run: take a note of it, return something of the item."""
    runs.note(item)
    return f"<{item}>"


def failing(runs: Runs, item: str) -> str:
    """Run, and fail for items that end in 1."""
    runs.note(item)
    if item.endswith("1"):
        raise ValueError(f"no good: {item}")
    return item


def done(run: MapRun) -> dict[str, Outcome]:
    return {outcome.object_key: outcome for outcome in run}


# --- what is run -------------------------------------------------------------------------------------------


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("method", START_METHODS)
def test_map_in_processes_of_any_start_method_runs_each_item_once(
    method: str, log: Log, runs: Runs, store: Path
) -> None:
    context = multiprocessing.get_context(method)
    outcomes = done(log.map(partial(noted, runs), NAMES, jobs=2, mp_context=context))

    assert sorted(outcomes) == sorted(NAMES) == sorted(runs)
    assert all(outcome.ok and outcome.value == f"<{outcome.item}>" for outcome in outcomes.values())
    assert not any(outcome.repeated for outcome in outcomes.values())
    assert list(inside(store, "workers").iterdir()) == []


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("method", START_METHODS)
def test_map_in_an_executor_handed_in_runs_there_and_leaves_it_open(
    method: str, log: Log, runs: Runs
) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as executor:
        outcomes = done(log.map(partial(noted, runs), NAMES, executor=executor))

        assert executor.submit(abs, -1).result() == 1
    assert sorted(outcomes) == sorted(NAMES) == sorted(runs)


def test_function_without_a_name_runs_in_forked_processes(log: Log) -> None:
    context = multiprocessing.get_context("fork")

    assert [outcome.value for outcome in log.map(lambda item: f"<{item}>", ["ab"], mp_context=context)] == [
        "<ab>"
    ]


def test_map_called_again_runs_nothing_and_gives_the_same(
    log: Log, runs: Runs, store: Path, threads: ThreadPoolExecutor
) -> None:
    first = done(log.map(partial(noted, runs), NAMES, executor=threads))

    again = done(Checkpoint(store).log("a").map(partial(noted, runs), NAMES, executor=threads))

    assert len(list(runs)) == len(NAMES)
    assert {key: outcome.value for key, outcome in again.items()} == {
        key: outcome.value for key, outcome in first.items()
    }
    assert all(outcome.repeated for outcome in again.values())


def test_map_called_with_more_items_runs_the_new_ones(
    log: Log, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    done(log.map(partial(noted, runs), NAMES[:5], executor=threads))

    done(log.map(partial(noted, runs), NAMES, executor=threads))

    assert sorted(runs) == sorted(NAMES)


def test_outcomes_that_were_there_are_left_out_if_asked(
    log: Log, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    done(log.map(partial(noted, runs), NAMES[:5], executor=threads))

    rest = done(log.map(partial(noted, runs), NAMES + NAMES[6:8], executor=threads, include_done=False))

    assert sorted(rest) == sorted(NAMES[5:])


def test_items_that_come_twice_run_once_and_share_the_outcome(
    log: Log, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    items = [*NAMES, *NAMES[:3], *NAMES]
    outcomes = list(log.map(partial(noted, runs), items, executor=threads))

    assert sorted(runs) == sorted(NAMES)
    assert sorted(outcome.item for outcome in outcomes) == sorted(items)
    assert sum(not outcome.repeated for outcome in outcomes) == len(NAMES)
    assert all(outcome.value == f"<{outcome.item}>" for outcome in outcomes)


def test_map_of_nothing_gives_nothing(log: Log) -> None:
    assert list(log.map(len, [])) == []


@pytest.mark.guarantee(1)
def test_outcome_whose_sync_fails_is_not_given_out(
    log: Log, threads: ThreadPoolExecutor, faults: Faults
) -> None:
    log.append("before", 1)
    done(log.map(len, ["one"], executor=threads))
    faults.fail("sync_data", errno.EIO, on=r"a\.jsonl$")

    with pytest.raises(OutcomeUnknownError):
        next(log.map(len, ["two"], executor=threads))


@pytest.mark.guarantee(9)
def test_full_disk_ends_the_map_with_its_error_and_the_next_start_carries_on(
    log: Log, runs: Runs, threads: ThreadPoolExecutor, faults: Faults
) -> None:
    done(log.map(partial(noted, runs), NAMES[:5], executor=threads))
    fault = faults.fail("write_at", errno.ENOSPC, times=sys.maxsize, on=r"a\.jsonl$")

    with pytest.raises(WriteFailedError):
        list(log.map(partial(noted, runs), NAMES, executor=threads))
    fault.clear()
    outcomes = done(log.map(partial(noted, runs), NAMES, executor=threads))

    assert sorted(outcomes) == sorted(NAMES)
    assert len(set(runs)) == len(NAMES)


def test_map_through_a_read_only_handle_is_refused_and_nothing_is_written(store: Path, log: Log) -> None:
    done(log.map(len, NAMES[:1], jobs=1))
    before = tree(store)

    with pytest.raises(ReadOnlyError):
        Checkpoint(store, read_only=True).log("a").map(len, NAMES)

    assert tree(store) == before


# --- streaming ---------------------------------------------------------------------------------------------


def test_items_without_end_are_taken_as_outcomes_are_asked_for(log: Log, threads: ThreadPoolExecutor) -> None:
    taken = itertools.count()
    with log.map(str.upper, (f"item{next(taken)}" for _ in itertools.count()), executor=threads) as run:
        first = list(itertools.islice(run, 20))

    assert len(first) == 20
    assert next(taken) < 20 + 4 * os.cpu_count() + 20  # type: ignore[operator] - it is known here


def test_work_starts_at_the_call(log: Log, runs: Runs, threads: ThreadPoolExecutor) -> None:
    run = log.map(partial(noted, runs), NAMES[:2], executor=threads)

    wait_until(lambda: len(list(runs)) == 2, "both items were run")
    run.close()


def test_ordered_outcomes_come_in_the_order_of_the_items(log: Log, threads: ThreadPoolExecutor) -> None:
    items = [*range(40, 0, -1), 7]
    outcomes = list(
        log.map(lambda n: time.sleep(n % 5 / 500), items, key=str, executor=threads, ordered=True)
    )

    assert [outcome.item for outcome in outcomes] == items


def test_ordered_outcomes_that_wait_for_a_slow_one_are_bounded(
    log: Log, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpcheckpoint._work.output_queue._MOST_HELD", 10)
    gate = threading.Event()
    ran: list[int] = []

    def wait_if_first(number: int) -> None:
        ran.append(number)
        if number == 0:
            gate.wait(30)

    run = log.map(wait_if_first, range(50), key=str, executor=threads, ordered=True, jobs=4)
    bounded_next = threading.Thread(target=lambda: next(run))
    bounded_next.start()
    wait_until(lambda: len(ran) >= 10, "all that may be ahead is")
    gate.set()
    bounded_next.join()

    assert max(ran[:10]) < 10 + 1
    assert [outcome.item for outcome in run] == list(range(1, 50))


# --- keys, versions, inputs --------------------------------------------------------------------------------


def test_items_that_are_no_strings_need_a_key(log: Log, runs: Runs) -> None:
    with pytest.raises(TypeError, match="key="):
        log.map(partial(noted, runs), [1, 2])

    assert list(runs) == []


def test_key_that_gives_no_string_is_refused(log: Log) -> None:
    with pytest.raises(InvalidKeyError):
        log.map(len, [(1,)], key=len)  # type: ignore[arg-type] - that is the point


def test_items_with_a_key_are_given_to_the_function_and_recorded(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    items = [{"n": n} for n in range(3)]
    outcomes = list(
        log.map(lambda item: item["n"] * 2, items, key=lambda item: f"k{item['n']}", executor=threads)
    )

    assert sorted((outcome.object_key, outcome.item["n"], outcome.value) for outcome in outcomes) == [
        ("k0", 0, 0),
        ("k1", 1, 2),
        ("k2", 2, 4),
    ]
    results = {outcome.object_key: outcome for outcome in Checkpoint(store).log("a").results()}
    assert results["k2"].item == {"n": 2}


@pytest.mark.parametrize("gap", [0, 50])
def test_same_key_with_another_input_in_one_run_raises(
    gap: int, log: Log, threads: ThreadPoolExecutor
) -> None:
    items = [{"n": 1}, *({"n": n} for n in range(100, 100 + gap)), {"n": 1, "other": True}]

    with pytest.raises(ChangedItemError, match="'1'"):
        list(log.map(len, items, key=lambda item: str(item["n"]), executor=threads))


@pytest.mark.parametrize(
    ("first", "second"), [({"a": 1}, {"a": 2}), (1, True), (1, 1.0), ("x", ["x"]), ([], {})]
)
def test_same_key_with_another_input_in_another_run_raises_and_does_not_run(
    first: Any, second: Any, log: Log, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    def key(item: object) -> str:
        return "x"

    done(log.map(partial(noted, runs), [first], key=key, executor=threads))

    with pytest.raises(ChangedItemError):
        list(log.map(partial(noted, runs), [second], key=key, executor=threads))
    assert len(list(runs)) == 1
    assert done(log.map(partial(noted, runs), [first], key=key, executor=threads))["x"].repeated


def test_items_that_are_no_json_are_compared_within_the_run(log: Log, threads: ThreadPoolExecutor) -> None:
    def key(item: object) -> str:
        return "x"

    outcomes = list(log.map(repr, [(1, 2), (1, 2)], key=key, executor=threads))
    assert [outcome.value for outcome in outcomes] == ["(1, 2)"] * 2
    with pytest.raises(ChangedItemError):
        list(log.map(repr, [(1, 2), (1, 3)], key=key, executor=threads))
    assert [outcome.item for outcome in log.results()] == ["x"]


def test_other_version_is_refused_and_runs_nothing(log: Log, runs: Runs, threads: ThreadPoolExecutor) -> None:
    done(log.map(partial(noted, runs), NAMES[:2], version="1", executor=threads))

    with pytest.raises(ChangedVersionError, match="rerun"):
        log.map(partial(noted, runs), NAMES, version="2", executor=threads)
    assert len(list(runs)) == 2


def test_rerun_runs_everything_again_and_takes_another_version(
    log: Log, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    done(log.map(partial(noted, runs), NAMES[:2], version="1", executor=threads))

    again = done(log.map(partial(noted, runs), NAMES[:2], version="2", rerun="again", executor=threads))
    more = done(log.map(partial(noted, runs), NAMES[:3], version="2", rerun="again", executor=threads))

    assert not any(outcome.repeated for outcome in again.values())
    assert sorted(runs) == sorted(NAMES[:2] * 2 + NAMES[2:3])
    assert [outcome.repeated for outcome in more.values()].count(True) == 2
    assert len(list(log.results())) == 3


def test_map_that_goes_on_elsewhere_with_another_version_ends_with_an_error(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    run = log.map(len, itertools.cycle(["x"]), version="1", executor=threads)
    assert [next(run).repeated for _ in range(2000)].count(False) == 1

    done(Checkpoint(store).log("a").map(len, ["y"], version="2", if_changed="keep", executor=threads))

    with pytest.raises(ChangedVersionError, match="went on as '2' while it ran here as '1'"):
        list(run)


@pytest.mark.parametrize(
    "arguments",
    [
        {"on_error": "ignore"},
        {"jobs": 0},
        {"jobs": True},
        {"executor": ThreadPoolExecutor(1), "mp_context": multiprocessing.get_context()},
        {"executor": ThreadPoolExecutor(1), "timeout_s": 1},
        {"retries": -1},
        {"retries": 1.0},
        {"retry_delay_s": -0.1},
        {"retry_delay_s": float("nan")},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"timeout_s": True},
        {"if_changed": "keep-failed"},
        {"rerun": True},
        {"rerun": False},
        {"rerun": ""},
        {"rerun": "-j"},
        {"rerun": "a\nb"},
        {"rerun": "\ud800"},
        {"rerun": "x" * 201},
    ],
)
def test_argument_that_makes_no_sense_is_refused(arguments: dict[str, Any], log: Log) -> None:
    with pytest.raises(
        ValueError, match=r"on_error|jobs|executor|retries|retry_delay_s|timeout_s|if_changed|rerun"
    ):
        log.map(len, NAMES, **arguments)
    assert log.map_status() is None  # nothing was started


@pytest.mark.parametrize("version", ["\ud800", 1, None])
def test_version_that_is_no_text_is_refused(version: Any, log: Log) -> None:
    with pytest.raises(ValueError, match="version"):
        log.map(len, NAMES, version=version)


# --- failures ----------------------------------------------------------------------------------------------


def test_exception_is_recorded_with_its_type_message_and_place(log: Log, runs: Runs) -> None:
    outcomes = done(log.map(partial(failing, runs), NAMES, jobs=2))

    failed = outcomes["item1"]
    assert not failed.ok
    assert failed.value is None
    assert failed.error is not None
    assert failed.error.startswith("ValueError: no good: item1\n")
    assert "in failing" in failed.error
    assert [key for key, outcome in outcomes.items() if not outcome.ok] in (
        ["item1", "item11"],
        ["item11", "item1"],
    )


def test_failed_items_are_done_until_retry_failed(log: Log, runs: Runs, threads: ThreadPoolExecutor) -> None:
    done(log.map(partial(failing, runs), NAMES, executor=threads))

    again = done(log.map(partial(failing, runs), NAMES, executor=threads))
    assert not again["item1"].ok
    assert runs.count("item1") == 1

    retried = done(log.map(partial(noted, runs), NAMES * 2, executor=threads, retry_failed=True))
    assert retried["item1"].ok
    assert (runs.count("item1"), runs.count("item11"), runs.count("item2")) == (2, 2, 1)


def test_items_that_fail_in_a_retry_are_not_retried_by_it_again(
    log: Log, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    done(log.map(partial(failing, runs), NAMES, executor=threads))

    done(log.map(partial(failing, runs), NAMES * 5, executor=threads, retry_failed=True))

    assert runs.count("item1") == 2


@pytest.mark.parametrize("where", ["threads", "processes"])
def test_on_error_raise_raises_what_the_function_raised_once_it_is_recorded(
    where: str, log: Log, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    executor = threads if where == "threads" else None
    with pytest.raises(ValueError, match="no good: item1"):
        list(log.map(partial(failing, runs), ["item1"], executor=executor, jobs=2, on_error="raise"))

    assert [outcome.ok for outcome in log.results()] == [False]
    with pytest.raises(ItemFailedError, match="no good: item1"):  # what is known of it now
        list(log.map(partial(failing, runs), ["item1"], executor=executor, jobs=2, on_error="raise"))
    assert runs.count("item1") == 1


def raise_what_does_not_pickle(item: str) -> None:
    class LocalError(Exception):
        pass

    raise LocalError(item)


def test_exception_that_cannot_be_sent_is_raised_as_what_was_recorded(log: Log) -> None:
    with pytest.raises(ItemFailedError, match="LocalError: x"):
        list(log.map(raise_what_does_not_pickle, ["x"], jobs=1, on_error="raise"))


@pytest.mark.guarantee(10)
@pytest.mark.parametrize(
    "value", [{1, 2}, (1, 2), float("nan"), b"bytes", {1: 2}, object(), "\ud800", [[(1,)]], Path("x")]
)
def test_result_that_is_no_json_value_is_recorded_as_a_failure_that_says_so(
    value: object, log: Log, threads: ThreadPoolExecutor
) -> None:
    (outcome,) = log.map(lambda item: value, ["x"], executor=threads)

    assert not outcome.ok
    assert outcome.error is not None
    assert "no JSON value" in outcome.error


def test_result_that_is_too_large_is_recorded_as_a_failure_that_says_so(
    log: Log, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MAX_LINE_BYTES", 2000)
    monkeypatch.setattr(codec, "_PLAINLY_SMALL_BYTES", 0)  # so that the limit is looked at

    (outcome,) = log.map(lambda item: "a" * 3000, ["x"], executor=threads)

    assert not outcome.ok
    assert outcome.error is not None
    assert "too large" in outcome.error


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), ValueError("\ud800"), ValueError("a" * 100_000)],
)
def test_whatever_is_raised_is_recorded_in_bounded_length(
    error: BaseException, log: Log, threads: ThreadPoolExecutor
) -> None:
    def fail(item: str) -> None:
        raise error

    (outcome,) = log.map(fail, ["x"], executor=threads)

    assert outcome.error is not None
    assert type(error).__name__ in outcome.error
    assert len(outcome.error) < 10_000


# --- sharing -----------------------------------------------------------------------------------------------


def share(store: Path, runs: Runs, count: int) -> None:
    """Take part in a map, and see all of its outcomes."""
    items = [f"item{number}" for number in range(count)]
    log = Checkpoint(store).log("a")
    with ThreadPoolExecutor(2) as executor:
        assert len(list(log.map(partial(noted, runs), items, executor=executor))) == count


def test_processes_that_run_the_same_map_share_it_and_no_item_runs_twice(
    store: Path, runs: Runs, children: Children
) -> None:
    for _ in range(4):
        children.start(share, store, runs, 150)
    children.wait_all()

    assert sorted(runs) == sorted(f"item{number}" for number in range(150))


def test_item_taken_by_another_is_waited_for_at_the_end_only(
    log: Log, store: Path, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    with Checkpoint(store).log("a").claim("item0") as claim:
        assert claim is not None
        run = log.map(partial(noted, runs), NAMES, executor=threads)
        others = [next(run) for _ in NAMES[1:]]

    last = bounded(next, run)

    assert sorted(outcome.item for outcome in others) == sorted(NAMES[1:])
    assert last.item == "item0"
    assert next(run, None) is None


# --- workers that die, and interrupts ----------------------------------------------------------------------


def die_the_first_time(runs: Runs, item: str) -> str:
    """Run; kill this process if it is the item's first time and its name ends in 1."""
    runs.note(item)
    if item.endswith("1") and runs.count(item) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("method", START_METHODS)
def test_item_whose_worker_process_dies_runs_again_and_no_other_does(
    method: str, log: Log, runs: Runs
) -> None:
    context = multiprocessing.get_context(method)

    outcomes = done(log.map(partial(die_the_first_time, runs), NAMES, jobs=3, mp_context=context))
    tally.add("kills", 2)

    assert all(outcome.ok for outcome in outcomes.values())
    assert {item: runs.count(item) for item in NAMES} == {
        item: 2 if item.endswith("1") else 1 for item in NAMES
    }


def exit_at_item1(runs: Runs, item: str) -> str:
    runs.note(item)
    if item == "item1":
        os._exit(7)
    return item


def test_item_that_kills_its_worker_each_time_is_recorded_as_failed_the_third_time(
    log: Log, runs: Runs
) -> None:
    outcomes = done(log.map(partial(exit_at_item1, runs), NAMES, jobs=2))

    assert sorted(outcomes) == sorted(NAMES)
    assert [key for key, outcome in outcomes.items() if not outcome.ok] == ["item1"]
    assert outcomes["item1"].error is not None
    assert "exit code 7" in outcomes["item1"].error
    assert runs.count("item1") == 3
    assert len(list(runs)) == len(NAMES) + 2


class CannotArrive:
    """Pickles, and cannot be unpickled."""

    def __call__(self, item: str) -> None: ...

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_worker_processes_that_cannot_start_end_the_map_with_an_error(log: Log) -> None:
    with pytest.raises(WorkerDiedError, match=r"could not start.*exit code 3"):
        list(log.map(CannotArrive(), NAMES, mp_context=multiprocessing.get_context("spawn"), jobs=1))

    assert list(log.results()) == []


def test_executor_that_was_shut_down_ends_the_map_with_an_error_and_what_ran_stays(log: Log) -> None:
    executor = ThreadPoolExecutor(1)
    # More than are under way at a time, however long we take to shut it down.
    run = log.map(str, [f"item{number}" for number in range(200)], executor=executor, ordered=True)
    first = next(run)
    executor.shutdown()

    with pytest.raises(WorkerDiedError, match="was shut down"):
        list(run)
    with pytest.raises(WorkerDiedError, match="was shut down"):
        log.map(str, ["item199"], executor=executor)

    assert first.ok
    assert "item0" in {outcome.item for outcome in log.results()}


def test_broken_executor_of_the_caller_s_ends_the_map_with_an_error(log: Log, runs: Runs) -> None:
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor,
        pytest.raises(WorkerDiedError, match="executor"),
    ):
        list(log.map(partial(exit_at_item1, runs), ["item1"], executor=executor))


def stay(runs: Runs, item: str) -> None:
    """Run for ever."""
    runs.note(item)
    signal.pause()


@contextmanager
def staying(log: Log, runs: Runs, method: str = "spawn") -> Iterator[MapRun]:
    """A map of two items whose function does not return."""
    with log.map(
        partial(stay, runs), NAMES[:2], jobs=2, mp_context=multiprocessing.get_context(method)
    ) as run:
        wait_until(lambda: len(list(runs)) == 2, "both items run")
        yield run


@pytest.mark.parametrize("method", START_METHODS)
def test_closing_ends_the_workers_and_gives_back_what_runs(
    method: str, log: Log, store: Path, runs: Runs
) -> None:
    earlier = process_tree.living_descendants()
    with staying(log, runs, method) as run:
        run.close()
        run.close()

        assert process_tree.living_descendants() - earlier == set()
        with log.claim(NAMES[0]) as claim:
            assert claim is not None
        assert list(run) == []
    assert sorted(log.pending(NAMES[:2])) == NAMES[:2]
    assert list(inside(store, "workers").iterdir()) == []


def interrupt_myself(runs: Runs, number: int) -> None:
    """Interrupt this process as soon as so many items run."""
    wait_until(lambda: len(list(runs)) == number, "the items run")
    os.kill(os.getpid(), signal.SIGINT)


def be_interrupted(store: Path, runs: Runs) -> None:
    log = Checkpoint(store).log("a")
    threading.Thread(target=interrupt_myself, args=(runs, 2)).start()
    with pytest.raises(KeyboardInterrupt):
        list(log.map(partial(stay, runs), NAMES, jobs=2))
    assert process_tree.living_descendants() == set()
    with log.claim(NAMES[0]) as claim:
        assert claim is not None


def test_ctrl_c_gives_back_what_runs_ends_the_workers_and_is_passed_on(
    store: Path, runs: Runs, children: Children
) -> None:
    children.start(be_interrupted, store, runs, method="spawn")
    children.wait_all()

    assert len(list(runs)) == 2


def wait_for_go(runs: Runs, item: str) -> str:
    runs.note(item)
    wait_until((runs.path.parent / "go").exists, "the items may go on")
    return item


def run_until_told(directory: Path, item: str) -> str:
    (directory / "runs").touch()
    wait_until((directory / "go").exists, "it is told to go on")
    return item


def map_until_killed(store: Path, directory: Path, timeout_s: float | None) -> None:
    fork = multiprocessing.get_context("fork")
    run = partial(run_until_told, directory)
    list(Checkpoint(store).log("a").map(run, ["x"], jobs=1, mp_context=fork, timeout_s=timeout_s))


@pytest.mark.parametrize("timeout_s", [None, 60])
def test_worker_whose_map_was_killed_records_what_it_has_done(
    timeout_s: float | None, store: Path, tmp_path: Path, children: Children
) -> None:
    child = children.start(map_until_killed, store, tmp_path, timeout_s)
    wait_until((tmp_path / "runs").exists, "the item runs")
    child.kill()

    (tmp_path / "go").touch()

    log = Checkpoint(store).log("a")
    wait_until(lambda: [outcome.value for outcome in log.results()] == ["x"], "the outcome is recorded")


def ignore_interrupts(store: Path, runs: Runs, method: str) -> None:
    """Run a map as a job in the background does, to which a shell passes on no Ctrl-C; and send it some."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context(method)
    with (
        Checkpoint(store)
        .log("a")
        .map(partial(wait_for_go, runs), NAMES[:2], jobs=2, mp_context=context) as run
    ):
        wait_until(lambda: len(list(runs)) == 2, "both items run")
        for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
            assert pid is not None
            os.kill(pid, signal.SIGINT)
        (runs.path.parent / "go").touch()
        assert [outcome.ok for outcome in run] == [True, True]


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("method", START_METHODS)
def test_map_that_ignores_ctrl_c_is_not_ended_by_one_and_neither_are_its_workers(
    method: str, store: Path, runs: Runs, children: Children
) -> None:
    children.start(ignore_interrupts, store, runs, method, method="spawn")
    children.wait_all()

    assert sorted(runs) == NAMES[:2]


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("method", START_METHODS)
def test_killed_map_leaves_no_worker_and_the_next_start_runs_what_is_missing(
    method: str, store: Path, runs: Runs, children: Children, log: Log
) -> None:
    child = children.start(run_slowly, store, runs, method)
    wait_until(lambda: len(list(runs)) >= 4, "some items run")
    child.kill()
    recorded = {outcome.item for outcome in log.results()}
    before = list(runs)

    outcomes = done(log.map(partial(noted, runs), NAMES, jobs=2))

    assert sorted(outcomes) == sorted(NAMES)
    assert not recorded & set(list(runs)[len(before) :])


def run_slowly(store: Path, runs: Runs, method: str) -> None:
    log = Checkpoint(store).log("a")
    list(log.map(partial(slow, runs), NAMES, jobs=2, mp_context=multiprocessing.get_context(method)))


def slow(runs: Runs, item: str) -> str:
    time.sleep(0.05)
    return noted(runs, item)


def test_map_that_nobody_finished_does_not_keep_the_interpreter_from_exiting(store: Path) -> None:
    script = f"""
import time
from mpcheckpoint import Checkpoint
run = Checkpoint({str(store)!r}).log("a").map(len, ["a", "bb", "ccc"], jobs=2)
next(run)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")


# --- pending, results --------------------------------------------------------------------------------------


def test_pending_on_a_log_without_a_map_are_those_without_an_event(log: Log) -> None:
    log.append("item3", "anything")

    assert list(log.pending(NAMES[:5])) == ["item0", "item1", "item2", "item4"]


def test_pending_on_a_log_with_a_map_are_those_without_an_outcome(
    log: Log, runs: Runs, threads: ThreadPoolExecutor
) -> None:
    log.append("item0", "anything")
    done(log.map(partial(failing, runs), ["item1", "item2"], executor=threads))

    assert list(log.pending(NAMES[:4])) == ["item0", "item3"]


def test_pending_is_as_it_stands_when_its_turn_comes(log: Log) -> None:
    pending = log.pending(["a", "b"])
    next(pending)
    log.append("b", 1)

    assert list(pending) == []


def test_pending_items_with_a_key_are_the_items(log: Log) -> None:
    log.append("1", "x")

    assert list(log.pending([1, 2], key=str)) == [2]
    with pytest.raises(TypeError, match="key="):
        list(log.pending([1]))  # type: ignore[list-item]


def test_results_of_a_log_without_a_map_are_none(log: Log) -> None:
    log.append("x", {"run": 1, "ok": True})

    assert list(log.results()) == []


def test_results_are_the_last_outcome_of_each_and_other_events_are_none_of_them(
    log: Log, threads: ThreadPoolExecutor
) -> None:
    log.append("item0", {"ok": True})
    done(log.map(len, NAMES, executor=threads))
    log.append("item0", "an event of somebody else's")
    done(log.map(lambda item: item, NAMES[:3], executor=threads, rerun="again"))

    assert sorted((outcome.item, outcome.value) for outcome in log.results()) == sorted(
        (name, name if name in NAMES[:3] else len(name)) for name in NAMES
    )
    assert Checkpoint(inside(log_path(log)).parent, read_only=True).log("a").count("item0") == 4


def log_path(log: Log) -> Path:
    return Path(handle_of(log).store.path).parent


def test_executor_with_more_workers_than_processors_is_used_whole(log: Log) -> None:
    barrier = threading.Barrier(9)
    with ThreadPoolExecutor(9) as executor:
        outcomes = list(log.map(lambda item: barrier.wait(30), NAMES[:9], executor=executor))

    assert all(outcome.ok for outcome in outcomes)


# --- how often it looks at the log -------------------------------------------------------------------------


@pytest.fixture
def recent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a view of any age do where what is judged on it is judged again."""
    for module in (log_handle, item_states):
        monkeypatch.setattr(module, "RECENT_S", 60.0)


def test_item_costs_three_looks_at_the_log(recent: None, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, poll = itertools.count(), LogReader.poll
    monkeypatch.setattr(LogReader, "poll", lambda reader: next(looks) < 0 or poll(reader))

    with ThreadPoolExecutor(1) as one:
        list(log.map(str, [str(number) for number in range(50)], executor=one))

    assert next(looks) < 3 * 50 + 15


def test_item_that_another_finished_since_the_last_look_is_not_run_again(
    recent: None, log: Log, runs: Runs, store: Path, threads: ThreadPoolExecutor
) -> None:
    def items() -> Iterator[str]:
        yield "a"
        list(Checkpoint(store).log("a").map(partial(noted, runs), ["b"], executor=threads))
        yield "b"

    outcomes = done(log.map(partial(noted, runs), items(), executor=threads))

    assert {item: outcome.repeated for item, outcome in outcomes.items()} == {"a": False, "b": True}
    assert sorted(runs) == ["a", "b"]


def test_view_of_a_forked_child_is_not_recent(recent: None, log: Log) -> None:
    log.append("x", 1)
    handle = handle_of(log)
    assert handle.query(lambda view: len(view.records.numbers_of("x"))) == 1
    Checkpoint(handle.store.settings.path).log("a").append("x", 2)
    handle.store.mutex = Mutex("a thread reads")
    with handle.store.mutex.guard():
        handle.store.reset_after_fork()  # the view may be half read, and is read anew

    assert handle.query(lambda view: len(view.records.numbers_of("x")), max_age_s=60.0) == 2
