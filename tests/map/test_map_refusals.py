"""What a map cannot run is refused at once, typed, with what helps; and what no JSON can hold does not burn a night."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import subprocess
import sys
import threading
from collections import namedtuple
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, Outcome
from mpcheckpoint._work import process_pool
from mpcheckpoint.errors import (
    CheckpointError,
    InvalidEventError,
    InvalidFunctionError,
    InvalidItemError,
    InvalidResultError,
)
from support.verbs import inside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

NAMES = [f"item{number}" for number in range(12)]
SENDING = [method for method in multiprocessing.get_all_start_methods() if method != "fork"]


@pytest.fixture
def one_thread() -> Iterator[ThreadPoolExecutor]:
    """One thread, so that items run in their order."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def plain(item: object) -> int:
    return 1


async def later(item: object) -> int:
    return 1


def many(item: object) -> Iterator[int]:
    yield 1


async def many_later(item: object) -> AsyncIterator[int]:
    yield 1


def with_another(other: object, item: object) -> int:
    return 1


class Work:
    """A callable object, with a method or two."""

    def __init__(self, held: object = None) -> None:
        self.held = held

    def __call__(self, item: object) -> int:
        return 1

    def method(self, item: object) -> int:
        return 1

    async def async_method(self, item: object) -> int:
        return 1


class AsyncWork:
    async def __call__(self, item: object) -> int:
        return 1


def local_function() -> Callable[[object], int]:
    def inner(item: object) -> int:
        return 1

    return inner


# --- workers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"mp_context": "spawn"},
            "mp_context is a context .* multiprocessing.get_context\\(\"spawn\"\\), not 'spawn'",
        ),
        ({"executor": "threads"}, "executor is an executor, as ThreadPoolExecutor\\(4\\), not 'threads'"),
        ({"executor": ThreadPoolExecutor}, "executor is an executor, .* not <class .*ThreadPoolExecutor'>"),
    ],
)
def test_what_starts_no_workers_is_refused(log: Log, given: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        log.map(len, NAMES, **given)

    assert not list(log)


def test_initializer_that_is_no_function_is_called_by_its_name(log: Log) -> None:
    with pytest.raises(
        InvalidFunctionError, match=r"^initializer is a function without arguments, not an int: 3"
    ):
        log.map(len, NAMES, initializer=3)  # type: ignore[arg-type]


# --- functions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (5, "not an int: 5"),
        ("plain", "not a str: 'plain'"),
        (plain("x"), "not an int: 1"),
        (later, r"later\(\) is an async function.* asyncio\.run\(later\(item\)\)"),
        (partial(later), r"functools\.partial\(later\(\), \.\.\.\) is an async function"),
        (partial(partial(later)), "is an async function"),
        (Work().async_method, r"Work\.async_method\(\) is an async function"),
        (AsyncWork(), r"AsyncWork is an async function.* asyncio\.run\(fn\(item\)\)"),
        (many, r"many\(\) is a generator function.* return instead of yield"),
        (partial(many), "is a generator function"),
        (many_later, "is a generator function"),
    ],
)
@pytest.mark.parametrize("where", ["processes", "threads"])
def test_function_whose_call_runs_nothing_is_refused_at_once(
    fn: Any, says: str, where: str, log: Log, one_thread: ThreadPoolExecutor
) -> None:
    with pytest.raises(InvalidFunctionError, match=says) as caught:
        log.map(fn, NAMES, executor=one_thread if where == "threads" else None)

    assert "Nothing was run or recorded" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert log.map_status() is None


def test_async_function_run_as_the_refusal_says_is_run(log: Log, one_thread: ThreadPoolExecutor) -> None:
    def run(item: object) -> int:
        return asyncio.run(later(item))

    assert [outcome.value for outcome in log.map(run, NAMES[:2], executor=one_thread)] == [1, 1]


NOT_SENT = {
    "lambda": (lambda item: 1, "the lambda cannot be sent .*: a lambda has no name", True),
    "local function": (local_function(), r"inner\(\), defined inside another function, cannot", True),
    "partial of a lambda": (
        partial(lambda item: 1),
        "its function is the lambda: a lambda has no name",
        True,
    ),
    "partial with a lambda": (
        partial(with_another, lambda: 1),
        "its argument 1 is the lambda: a lambda has no name",
        True,
    ),
    "partial with a lock": (
        partial(with_another, threading.Lock()),
        r"partial\(with_another\(\), \.\.\.\) cannot .*: its argument 1 is a _thread\.lock: cannot pickle",
        False,
    ),
    "partial with a named lock": (partial(plain, held=threading.Lock()), "its argument held is a", False),
    "object with a lock": (Work(threading.Lock()), "its attribute held is a _thread.lock", False),
    "object with a lambda": (Work(lambda: 1), "its attribute held is the lambda", True),
    "method of an object with a lock": (
        Work(threading.Lock()).method,
        r"Work\.method\(\) cannot .*: its object is a .*Work: its attribute held is a",
        False,
    ),
}


@pytest.mark.parametrize("method", SENDING)
@pytest.mark.parametrize("name", NOT_SENT)
def test_function_that_cannot_be_sent_is_refused_at_once_with_what_helps(
    name: str, method: str, log: Log
) -> None:
    fn, says, is_nameless = NOT_SENT[name]

    with pytest.raises(InvalidFunctionError, match=says) as caught:
        log.map(fn, NAMES, mp_context=multiprocessing.get_context(method))

    message = str(caught.value)
    assert f"worker processes that {method} starts" in message
    assert ("module, a .py file that is imported" in message) is is_nameless
    assert ("Make it where it is used" in message) is not is_nameless
    assert 'mp_context=multiprocessing.get_context("fork")' in message
    assert "executor=ThreadPoolExecutor()" in message
    assert log.map_status() is None


@pytest.mark.parametrize("name", NOT_SENT)
def test_function_that_cannot_be_sent_runs_in_what_the_refusal_names(
    name: str, log: Log, one_thread: ThreadPoolExecutor, store: Path
) -> None:
    fn: Any = NOT_SENT[name][0]
    is_wrong_call = name == "partial with a named lock"  # it takes no such argument; it was sent all the same

    forked = list(log.map(fn, ["x"], mp_context=multiprocessing.get_context("fork"), jobs=1))
    threaded = list(Checkpoint(store).log("b").map(fn, ["x"], executor=one_thread))

    assert [outcome.ok for outcome in [*forked, *threaded]] == [not is_wrong_call] * 2


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_lambda_for_a_process_pool_executor_is_refused_however_that_starts(method: str, log: Log) -> None:
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as executor,
        pytest.raises(InvalidFunctionError, match=r"ProcessPoolExecutor: .* or leave out executor= and"),
    ):
        log.map(lambda item: 1, NAMES, executor=executor)

    assert log.map_status() is None


class Elsewhere(Executor):
    """An executor of another library, which may send what pickle does not."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(fn, *args, **kwargs)


def test_executor_that_is_not_known_is_given_any_function(log: Log) -> None:
    assert [outcome.value for outcome in log.map(lambda item: 1, ["x"], executor=Elsewhere())] == [1]


SESSION = """
import multiprocessing

from mpcheckpoint import Checkpoint
from test_map_refusals import plain


def work(item):
    return 1

class Thing:
    pass

def tried(fn, items, method, **options):
    context = multiprocessing.get_context(method)
    try:
        print([outcome.value for outcome in log.map(fn, items, mp_context=context, jobs=1, **options)])
    except Exception as error:
        print(type(error).__name__, log.map_status() is None, error)

log = Checkpoint("{store}").log("a")
tried(work, ["1"], "{method}")
tried(plain, ["2"], "{method}")
tried(plain, [Thing()], "{method}", key=lambda item: "3")
tried(work, ["4"], "fork")
tried(plain, [Thing()], "fork", key=lambda item: "5")
"""


@pytest.mark.parametrize("method", SENDING)
@pytest.mark.parametrize("how", ["command", "prompt", "prompt behind a program"])
def test_function_of_a_session_is_refused_at_once_where_no_child_finds_it(
    how: str, method: str, tmp_path: Path
) -> None:
    text = SESSION.format(store=tmp_path / "store", method=method)
    program = tmp_path / "program.py"
    program.write_text("")
    arguments = {"command": ["-c", text], "prompt": ["-i"], "prompt behind a program": ["-i", str(program)]}

    session = subprocess.run(
        [sys.executable, *arguments[how]],
        input="" if how == "command" else text,
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    lines = session.stdout.splitlines()
    assert len(lines) == 5, session.stderr
    assert lines[0].startswith("InvalidFunctionError True work() cannot be sent"), lines
    assert "no other process finds it" in lines[0]
    assert "Put it at the top level of a module" in lines[0]
    assert lines[1] == lines[3] == lines[4] == "[1]"
    if how != "prompt behind a program":  # a class does not say where it was typed
        assert lines[2].startswith("InvalidItemError False the item <__main__.Thing"), lines


@pytest.mark.parametrize("method", SENDING)
def test_program_from_standard_input_is_refused_where_children_run_it_anew(
    method: str, tmp_path: Path
) -> None:
    session = subprocess.run(
        [sys.executable, "-"],
        input=SESSION.format(store=tmp_path / "store", method=method),
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    lines = session.stdout.splitlines()
    assert len(lines) == 5, session.stderr
    for line in lines[:3]:
        assert line.startswith("InvalidFunctionError True ")
        assert "Put the program into a file" in line
    assert lines[3:] == ["[1]", "[1]"]


def settle_start_method_after_a_map(store: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        assert len(list(Checkpoint(store).log("a").map(plain, ["x"], executor=executor))) == 1
    multiprocessing.set_start_method("spawn")


def test_map_in_threads_leaves_the_start_method_of_processes_to_be_set(store: Path) -> None:
    run = "import sys; from test_map_refusals import *; settle_start_method_after_a_map(sys.argv[1])"

    subprocess.run([sys.executable, "-c", run, store], check=True, timeout=60)


# --- items -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_item_that_cannot_be_sent_is_refused_with_what_helps_and_not_run(method: str, log: Log) -> None:
    with pytest.raises(InvalidItemError, match=r"object key 'x'\) cannot be sent .*cannot pickle") as caught:
        list(
            log.map(
                plain,
                [threading.Lock()],
                key=lambda item: "x",
                mp_context=multiprocessing.get_context(method),
            )
        )

    assert "a path instead of an open file" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert log.count("x") == 0


def test_item_that_cannot_be_sent_leaves_what_ran_before_it(log: Log) -> None:
    items = ["a", "b", threading.Lock()]
    with pytest.raises(InvalidItemError):
        for _ in log.map(plain, items, key=lambda item: item if item in ("a", "b") else "x", jobs=1):
            pass

    assert [outcome.object_key for outcome in log.results()] == ["a", "b"]


def test_item_that_an_executor_of_processes_cannot_send_is_refused(log: Log) -> None:
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(InvalidItemError, match=r"object key 'x'\) cannot be sent"),
    ):
        list(log.map(plain, [threading.Lock()], key=lambda item: "x", executor=executor))


class CannotArrive:
    """Can be pickled; cannot be made anew of that."""

    def __reduce__(self) -> tuple[Any, ...]:
        return {}.__getitem__, ("state",)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_item_that_cannot_be_read_where_it_arrives_is_refused(method: str, log: Log) -> None:
    context = multiprocessing.get_context(method)
    with pytest.raises(InvalidItemError, match=r"object key 'x'\) cannot be sent .*KeyError: 'state'"):
        list(log.map(plain, [CannotArrive()], key=lambda item: "x", mp_context=context))

    assert log.count("x") == 0


def test_item_that_cannot_be_sent_runs_in_threads(log: Log, one_thread: ThreadPoolExecutor) -> None:
    (outcome,) = log.map(plain, [threading.Lock()], key=lambda item: "x", executor=one_thread)

    assert outcome.ok


class NoTypeFitsError(Exception):
    pass


def raise_in_worker(item: str) -> None:
    raise NoTypeFitsError(item)


def test_error_of_a_function_in_an_executor_of_processes_is_not_taken_for_its_item_s(log: Log) -> None:
    with ProcessPoolExecutor(1) as executor, pytest.raises(NoTypeFitsError):
        list(log.map(raise_in_worker, ["x"], executor=executor, on_error="raise"))


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (5, "as key=str; got an int: 5"),
        (b"a", r"as key=lambda item: item\['id'\]; got a bytes"),
        ({"id": "a"}, r"as key=lambda item: item\['id'\]; got a dict: \{'id': 'a'\}"),
    ],
)
def test_item_without_a_key_says_what_a_key_may_be(item: object, says: str, log: Log) -> None:
    with pytest.raises(TypeError, match=says):
        log.map(plain, [item])


# --- results -----------------------------------------------------------------------------------------------

Odd = namedtuple("Odd", "left right")


def stopped(log: Log, fn: Callable[[Any], object], executor: Executor, **options: Any) -> list[bool]:
    """Return of each item that ran before the map stopped whether it is well."""
    with pytest.raises(InvalidResultError):
        list(log.map(fn, NAMES, executor=executor, **options))
    return [outcome.ok for outcome in log.results()]


def test_result_that_no_json_can_hold_stops_the_map_once_it_has_repeated(
    log: Log, one_thread: ThreadPoolExecutor
) -> None:
    ran = []

    def odd(item: str) -> object:
        ran.append(item)
        return {"score": [Odd(1, 2)]}

    given_out: list[Outcome] = []
    with pytest.raises(InvalidResultError) as caught:
        given_out.extend(log.map(odd, NAMES, executor=one_thread))

    # The one that stops the map may be reported together with those before it.
    assert [outcome.object_key for outcome in given_out] == NAMES[: min(len(given_out), 2)]
    assert 3 <= len(ran) <= 5  # a little more is given out than runs
    results = list(log.results())
    assert [outcome.object_key for outcome in results] == ran
    for outcome in results:
        assert outcome.error is not None
        assert outcome.error.startswith(
            f"InvalidResultError: the result is no JSON value: result['score'][0]: a {__name__}.Odd would"
        )
    message = str(caught.value)
    assert "for 3 items in a row, the last of them 'item2'. result['score'][0]: a " in message
    assert "use x._asdict(), or list(x), instead. Results are None" in message
    assert "retry_failed=True" in message
    assert "max_invalid_results" in message
    assert caught.value.type_name == f"{__name__}.Odd"
    assert isinstance(caught.value, InvalidEventError)


def odd_in_a_worker(item: str) -> object:
    return {1, 2}


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_result_that_no_json_can_hold_stops_a_map_in_processes_too(
    method: str, log: Log, store: Path
) -> None:
    names = [f"item{number}" for number in range(100)]
    jobs = 2

    with pytest.raises(InvalidResultError, match="a set would not come back as one; use list"):
        list(log.map(odd_in_a_worker, names, jobs=jobs, mp_context=multiprocessing.get_context(method)))

    # The map ends with the third that it hears of. More than that each worker has in work and at hand, at most.
    assert 3 <= len(list(log.results())) <= 3 + jobs * (1 + process_pool._MOST_AHEAD)
    assert list(inside(store, "workers").iterdir()) == []


def test_map_stopped_by_its_results_carries_on_once_the_function_is_mended(
    log: Log, one_thread: ThreadPoolExecutor
) -> None:
    stopped(log, lambda item: {1}, one_thread)

    outcomes = list(log.map(lambda item: [1], NAMES, executor=one_thread, retry_failed=True))

    assert [outcome.value for outcome in outcomes] == [[1]] * len(NAMES)


@pytest.mark.parametrize(("limit", "least"), [(1, 1), (2, 2), (5, 5)])
def test_limit_of_invalid_results_is_as_set(
    limit: int, least: int, log: Log, one_thread: ThreadPoolExecutor
) -> None:
    ran = stopped(log, lambda item: {1}, one_thread, max_invalid_results=limit)

    assert least <= len(ran) <= least + 2


def test_limit_of_invalid_results_of_none_lets_the_map_run_to_its_end(
    log: Log, one_thread: ThreadPoolExecutor
) -> None:
    outcomes = list(log.map(lambda item: {1}, NAMES, executor=one_thread, max_invalid_results=None))

    assert [outcome.ok for outcome in outcomes] == [False] * len(NAMES)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
def test_limit_of_invalid_results_that_is_none_is_refused(limit: Any, log: Log) -> None:
    with pytest.raises(ValueError, match="max_invalid_results is a number of items"):
        log.map(plain, NAMES, max_invalid_results=limit)
    assert log.map_status() is None


class Whole:
    """A whole number of another library, as numpy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


def test_whole_number_of_another_library_is_taken_for_one(log: Log, one_thread: ThreadPoolExecutor) -> None:
    numbers: dict[str, Any] = {"jobs": Whole(1), "retries": Whole(0), "max_invalid_results": Whole(3)}

    outcomes = list(log.map(plain, NAMES, executor=one_thread, retry_delay_s=Fraction(1, 2), **numbers))

    assert len(outcomes) == len(NAMES)


@pytest.mark.parametrize("name", ["jobs", "retries", "max_invalid_results", "retry_delay_s", "timeout_s"])
@pytest.mark.parametrize("value", [True, -1, "1", Whole(-1)])
def test_what_is_no_number_or_too_small_is_refused_by_name(name: str, value: Any, log: Log) -> None:
    with pytest.raises(ValueError, match=f"^{name} is a number of .*, not "):
        log.map(plain, NAMES, **{name: value})
    assert log.map_status() is None


def failing(item: str) -> None:
    raise ValueError(item)


ODD, NAN, GOOD, RAISES = {1}, math.nan, 1.5, "raises"


@pytest.mark.parametrize(
    ("results", "is_stopped"),
    [
        ([ODD], True),
        ([NAN], True),
        ([math.inf], True),
        (["\ud800"], True),
        ([ODD, ODD, GOOD], False),  # it can do better
        ([ODD, GOOD], False),
        ([GOOD, ODD, ODD, ODD], True),
        ([GOOD, NAN, NAN, NAN, NAN], False),  # that is the matter of those items
        ([NAN, NAN, GOOD, NAN, NAN, NAN], False),
        ([ODD, RAISES, ODD, RAISES], True),  # an exception says nothing of the results
        ([RAISES], False),
        ([NAN, ODD, NAN], True),
    ],
)
def test_map_stops_where_results_that_no_json_can_hold_come_in_a_row(
    results: list[Any], is_stopped: bool, log: Log, one_thread: ThreadPoolExecutor
) -> None:
    coming = cycle(results)

    def next_result(item: str) -> object:
        result = next(coming)
        return failing(item) if result == RAISES else result

    try:
        count = len(list(log.map(next_result, NAMES, executor=one_thread)))
    except InvalidResultError:
        assert is_stopped
    else:
        assert (count, is_stopped) == (len(NAMES), False)


def test_result_that_no_json_can_hold_is_not_retried(log: Log, one_thread: ThreadPoolExecutor) -> None:
    ran = []

    def odd(item: str) -> object:
        ran.append(item)
        return {1}

    (outcome,) = log.map(odd, ["x"], executor=one_thread, retries=5, retry_delay_s=0)

    assert (ran, outcome.ok, outcome.attempts) == (["x"], False, 1)


def test_failures_of_earlier_starts_do_not_count(log: Log, one_thread: ThreadPoolExecutor) -> None:
    stopped(log, lambda item: {1}, one_thread)

    assert len(list(log.map(plain, NAMES, executor=one_thread))) == len(NAMES)


def test_same_item_many_times_counts_once(log: Log, one_thread: ThreadPoolExecutor) -> None:
    outcomes = list(log.map(lambda item: {1}, ["x"] * 5 + ["y"] * 5, executor=one_thread))

    assert len(outcomes) == 10


def test_first_result_that_no_json_can_hold_is_raised_if_asked(
    log: Log, one_thread: ThreadPoolExecutor
) -> None:
    with pytest.raises(InvalidResultError, match=r"^result: a set would") as caught:
        list(log.map(lambda item: {1}, NAMES, executor=one_thread, on_error="raise"))

    assert caught.value.type_name == "set"


def refused_inside(item: str) -> None:
    raise InvalidEventError("an event of my own", type_name="set")


def test_refusal_that_the_function_itself_met_is_a_failure_like_any_other(
    log: Log, one_thread: ThreadPoolExecutor
) -> None:
    assert len(list(log.map(refused_inside, NAMES, executor=one_thread))) == len(NAMES)
    assert issubclass(InvalidResultError, CheckpointError)
