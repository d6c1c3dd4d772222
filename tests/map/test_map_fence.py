"""Only the worker that holds an item, and only that process, says what became of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, MapRun, Outcome
from mpcheckpoint.errors import ChangedVersionError, ClosedError
from support import process_tree
from support.verbs import inside, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.processes import Children

pytestmark = pytest.mark.guarantee(11)

START_METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture
def one() -> Iterator[ThreadPoolExecutor]:
    """Yield an executor of one thread."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def told(log: Log, object_key: str = "x") -> list[Any]:
    """Return of each outcome and failed attempt that was recorded for an object its value, or else its error."""
    return [
        event["value"] if event.get("ok") else event["error"].partition("\n")[0]
        for event in log.events(object_key)
    ]


def lose_claims(store: Path) -> None:
    """Remove the files of all workers, as an administrator's clean-up might: others take them for dead."""
    for file in inside(store, "workers").iterdir():
        file.unlink()


# --- a worker that lost its item ---------------------------------------------------------------------------


class Worker:
    """A map of the item "x" in a thread, whose function waits in the middle of it, and then fails if it is told to."""

    def __init__(self, store: Path, name: str, **options: Any) -> None:
        self._name = name
        self._runs, self._goes_on = threading.Event(), threading.Event()
        self._fails = options.pop("fails", False)
        self._executor = ThreadPoolExecutor(1)
        self.run = Checkpoint(store).log("a").map(self._call, ["x"], executor=self._executor, **options)

    def _call(self, item: str) -> str:
        self._runs.set()
        assert self._goes_on.wait(30)
        if self._fails:
            raise ValueError(f"{self._name}'s")
        return f"{self._name}'s"

    def wait_for_the_middle(self) -> None:
        assert self._runs.wait(30)

    def go_on(self) -> list[Outcome]:
        """Let it end; return what it gives out."""
        self._goes_on.set()
        return list(self.run)

    def close(self) -> None:
        self._goes_on.set()
        self._executor.shutdown()


@contextmanager
def working(store: Path, name: str, **options: Any) -> Iterator[Worker]:
    """Have a worker in the middle of the item."""
    worker = Worker(store, name, **options)
    try:
        worker.wait_for_the_middle()
        yield worker
    finally:
        worker.close()


@pytest.mark.parametrize("fails", [False, True])
def test_outcome_of_a_worker_whose_item_another_has_finished_is_not_recorded(
    fails: bool, log: Log, store: Path
) -> None:
    with working(store, "first", fails=fails) as first:
        lose_claims(store)
        with working(store, "second") as second:
            second.go_on()

            (outcome,) = first.go_on()

    assert (outcome.value, outcome.repeated) == ("second's", True)
    assert told(log) == ["second's"]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("retries", [0, 1])
def test_outcome_of_a_worker_whose_item_another_holds_is_not_recorded_and_the_other_s_is_waited_for(
    fails: bool, retries: int, log: Log, store: Path
) -> None:
    with working(store, "first", fails=fails, retries=retries) as first:
        lose_claims(store)
        with working(store, "second") as second:
            gone_on = threading.Thread(target=first.go_on)
            gone_on.start()
            wait_until(lambda: first.run._dispatcher.waiting, "the first knows that it has lost the item")
            with Checkpoint(store).log("a").claim("x") as claim:
                assert claim is None  # the first has not given back what the second holds

            second.go_on()
            gone_on.join()

    assert told(log) == ["second's"]


def test_attempt_that_failed_is_recorded_if_nobody_else_has_the_item(store: Path, log: Log) -> None:
    with working(store, "first", fails=True, retries=1, retry_delay_s=0.01) as first:
        lose_claims(store)

        first.go_on()

    assert told(log) == ["ValueError: first's"] * 2


def test_outcome_is_recorded_though_the_claim_has_vanished(store: Path, log: Log) -> None:
    with working(store, "first") as first:
        lose_claims(store)

        (outcome,) = first.go_on()

    assert (outcome.value, outcome.repeated) == ("first's", False)
    assert told(log) == ["first's"]


def test_outcome_is_recorded_if_the_one_who_took_the_item_meanwhile_has_given_it_back_or_died(
    store: Path, log: Log
) -> None:
    with working(store, "first") as first:
        lose_claims(store)
        with log.claim("x") as claim:
            assert claim is not None
        with log.claim("x") as claim:
            assert claim is not None
            lose_claims(store)

            (outcome,) = first.go_on()

    assert (outcome.value, outcome.repeated) == ("first's", False)
    assert told(log) == ["first's"]


def test_outcome_of_a_run_that_was_started_anew_meanwhile_is_not_recorded(store: Path, log: Log) -> None:
    with working(store, "first", version="1") as first:
        lose_claims(store)
        with working(store, "second", version="2", if_changed="keep") as second:
            second.go_on()

            with pytest.raises(ChangedVersionError, match="went on as '2'"):
                first.go_on()

    assert told(log) == ["second's"]


def stay_until_told(directory: Path, item: str) -> str:
    (directory / "runs").touch()
    wait_until((directory / "go").exists, "it is told to go on")
    return "first's"


def map_in_a_process(store: Path, directory: Path, is_apart: bool) -> None:
    log = Checkpoint(store).log("a")
    if is_apart:
        context = multiprocessing.get_context("fork")
        (outcome,) = log.map(partial(stay_until_told, directory), ["x"], jobs=1, mp_context=context)
    else:
        with ThreadPoolExecutor(1) as executor:
            (outcome,) = log.map(partial(stay_until_told, directory), ["x"], executor=executor)
    assert (outcome.value, outcome.repeated) == ("second's", True)


@pytest.mark.rule(41)
@pytest.mark.parametrize("is_apart", [False, True], ids=["thread", "worker process"])
def test_process_that_was_stopped_while_another_took_its_item_records_nothing_when_it_wakes_up(
    is_apart: bool, store: Path, log: Log, tmp_path: Path, children: Children, one: ThreadPoolExecutor
) -> None:
    child = children.start(map_in_a_process, store, tmp_path, is_apart)
    wait_until((tmp_path / "runs").exists, "the item runs")
    child.stop()
    lose_claims(store)
    (outcome,) = log.map(lambda item: "second's", ["x"], executor=one)
    assert outcome.value == "second's"
    before = inside(store, "a.jsonl").read_bytes().rstrip(b"\n")

    (tmp_path / "go").touch()
    child.resume()

    assert child.wait() == 0
    assert told(log) == ["second's"]
    assert inside(store, "a.jsonl").read_bytes().rstrip(b"\n") == before


# --- a forked child of the function ------------------------------------------------------------------------


def fork_and_return(item: str) -> list[Any]:
    """Return from the child as well as from the parent, which tells how the child ended."""
    child = os.fork()
    if child == 0:
        return ["the child's"]
    _, status = os.waitpid(child, 0)
    return ["the parent's", os.waitstatus_to_exitcode(status)]


def fork_and_end(how: Callable[[], Any], item: str) -> int:
    """End the child in some way; return its exit code."""
    child = os.fork()
    if child == 0:
        how()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@contextmanager
def workers(kind: str) -> Iterator[dict[str, Any]]:
    """Yield the options of ``map`` for workers of some kind, two of them."""
    executor: Executor
    if kind == "threads":
        with ThreadPoolExecutor(2) as executor:
            yield {"executor": executor}
    elif kind == "pool":
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
            yield {"executor": executor}
    elif kind == "timed":
        yield {"jobs": 2, "timeout_s": 30, "mp_context": multiprocessing.get_context("fork")}
    else:
        yield {"jobs": 2, "mp_context": multiprocessing.get_context(kind)}


KINDS = [*START_METHODS, "timed", "threads", "pool"]


@pytest.mark.rule(42)
@pytest.mark.parametrize("kind", KINDS)
def test_forked_child_of_the_function_that_returns_too_counts_for_nothing(kind: str, log: Log) -> None:
    names = [f"item{number}" for number in range(6)]

    with workers(kind) as options:
        outcomes = list(log.map(fork_and_return, names, **options))

    assert sorted(outcome.item for outcome in outcomes) == names
    assert [outcome.value for outcome in outcomes] == [["the parent's", 0]] * 6
    assert {name: len(log.events(name)) for name in names} == dict.fromkeys(names, 1)


def leave_by_value_error() -> None:
    raise ValueError("in the child")


def leave_by_interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["fork", "timed", "threads", "pool"])
@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        (partial(sys.exit, 3), 3, ""),
        (sys.exit, 0, ""),
        (partial(sys.exit, "done for"), 1, "done for\n"),
        (leave_by_value_error, 1, "ValueError: in the child\n"),
        (leave_by_interrupt, 130, ""),
    ],
    ids=["exit 3", "exit", "exit with words", "exception", "interrupt"],
)
def test_forked_child_of_the_function_that_raises_ends_as_a_process_of_its_own_would(
    kind: str,
    how: Callable[[], Any],
    code: int,
    said: str,
    log: Log,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with workers(kind) as options:
        (outcome,) = log.map(partial(fork_and_end, how), ["x"], **options)

    assert (outcome.ok, outcome.value) == (True, code)
    printed = capfd.readouterr().err
    assert printed.endswith(said)
    assert bool(printed) == bool(said)


def leave_a_child(directory: Path, is_killed: bool, item: str) -> str:
    """Leave a child that lives on until it is told; die the first time if so asked."""
    child = os.fork()
    if child == 0:
        wait_until((directory / "go").exists, "it is told to end")
        return "the child's"
    if is_killed and not (directory / "killed").exists():
        (directory / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "the parent's"


@pytest.mark.parametrize("is_killed", [False, True])
def test_forked_child_that_outlives_its_worker_keeps_nothing_claimed_and_says_nothing(
    is_killed: bool, log: Log, store: Path, tmp_path: Path, children: Children
) -> None:
    context = multiprocessing.get_context("fork")
    call = partial(leave_a_child, tmp_path, is_killed)

    outcomes = list(log.map(call, ["x", "y"], jobs=1, mp_context=context))

    with log.claim("x") as claim:
        assert claim is not None
    (tmp_path / "go").touch()
    children.end()
    assert [outcome.value for outcome in outcomes] == ["the parent's"] * 2
    deaths = 1 if is_killed else 0
    assert told(log)[deaths:] == told(log, "y") == ["the parent's"]
    assert len(told(log)) == 1 + deaths
    assert list(inside(store, "workers").iterdir()) == []


# --- a forked child of the process that maps ---------------------------------------------------------------


def go_on_in_a_forked_child(run: MapRun) -> int:
    """Fork; return how the child ended, which uses the map as its parent does."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with run:  # leaving the block closes it
                next(run)
        except ClosedError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("kind", ["fork", "threads"])
def test_forked_child_of_the_mapping_process_has_no_part_in_the_map(
    kind: str, log: Log, tmp_path: Path
) -> None:
    names = [f"item{number}" for number in range(8)]
    with workers(kind) as options:
        run = log.map(len, names, **options)

        codes = [go_on_in_a_forked_child(run)]
        first = next(run)
        codes.append(go_on_in_a_forked_child(run))
        others = list(run)

    assert codes == [0, 0]
    assert sorted(outcome.item for outcome in [first, *others]) == names


def items_that_fork(pids: list[int], *, raises: bool) -> Iterator[str]:
    """Fork after the first item, and go on in both."""
    yield "a"
    pid = os.fork()
    pids.append(pid)
    if pid == 0 and raises:
        sys.exit(7)
    yield "b"


@pytest.mark.parametrize(("raises", "code"), [(False, 0), (True, 7)])
@pytest.mark.parametrize("kind", ["fork", "threads"])
def test_forked_child_of_an_iterable_that_goes_on_too_ends_and_counts_for_nothing(
    kind: str, raises: bool, code: int, log: Log
) -> None:
    pids: list[int] = []
    with workers(kind) as options:
        outcomes = list(log.map(str, items_that_fork(pids, raises=raises), **options))

    assert sorted(outcome.item for outcome in outcomes) == ["a", "b"]
    [pid] = pids
    if process_tree.await_exit({pid}, 20):
        os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
