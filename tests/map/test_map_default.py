"""default= in a map: results that are no JSON are recorded as what it makes of them."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import InvalidFunctionError, InvalidResultError
from support.executors import workers

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

pytestmark = pytest.mark.guarantee(10)

KINDS = ["threads", "pool", "fork", "spawn"]


class Loop:
    """A value that holds itself."""


def pair(item: str) -> Any:
    return (item, {len(item)})


def beside(item: str, state: Any = None) -> Any:
    return (item, state)


def listed(value: Any) -> Any:
    if isinstance(value, Loop):
        return [value]
    if isinstance(value, tuple | set):
        return list(value)
    raise TypeError(f"no JSON for {value!r}")


def slow(value: Any) -> Any:
    time.sleep(60)
    return listed(value)


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_what_default_makes_wherever_the_items_run(kind: str, log: Log) -> None:
    with workers(kind, 2) as options:
        outcomes = list(log.map(pair, ["a", "bb"], default=listed, ordered=True, **options))

    assert [(outcome.ok, outcome.value) for outcome in outcomes] == [(True, ["a", [1]]), (True, ["bb", [2]])]
    assert {outcome.item: outcome.value for outcome in log.results()} == {"a": ["a", [1]], "bb": ["bb", [2]]}


def test_results_of_a_function_with_a_state_are_what_default_makes(log: Log) -> None:
    context = multiprocessing.get_context("fork")

    found = log.map(beside, ["a"], initializer=lambda: {7}, default=listed, mp_context=context)

    assert [outcome.value for outcome in found] == [["a", [7]]]


@pytest.mark.parametrize("kind", KINDS)
def test_default_of_the_handle_makes_results_too(kind: str, store: Path) -> None:
    log = Checkpoint(store, default=listed).log("a")
    with workers(kind, 2) as options:
        assert [outcome.value for outcome in log.map(pair, ["a"], **options)] == [["a", [1]]]


def test_default_of_the_handle_need_not_be_sent_where_the_map_has_its_own(store: Path) -> None:
    log = Checkpoint(store, default=lambda value: None).log("a")
    spawn = multiprocessing.get_context("spawn")

    assert [each.value for each in log.map(pair, ["a"], default=listed, mp_context=spawn)] == [["a", [1]]]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_default_that_cannot_be_sent_is_refused_before_anything_runs(method: str, store: Path) -> None:
    context = multiprocessing.get_context(method)

    for default in (None, lambda value: [*value]):
        log = Checkpoint(store, default=lambda value: [*value]).log("a")
        with pytest.raises(
            InvalidFunctionError, match=r"default=, the lambda, cannot be sent to worker proc"
        ):
            log.map(pair, ["a"], default=default, mp_context=context)
    assert log.map_status() is None


def test_default_that_is_no_function_is_refused_before_anything_runs(log: Log) -> None:
    with pytest.raises(
        InvalidFunctionError, match="default is a function that makes JSON of a value, not a str"
    ):
        log.map(pair, ["a"], default="str")  # type: ignore[arg-type]

    assert log.map_status() is None


def test_what_default_raises_is_the_failure_of_its_item_and_final(
    log: Log, threads: ThreadPoolExecutor
) -> None:
    calls: list[str] = []

    def mixed(item: str) -> Any:
        calls.append(item)
        return object() if item == "bad" else item

    options: dict[str, Any] = {"executor": threads, "retries": 3}
    found = {each.item: each for each in log.map(mixed, ["bad", "good"], default=listed, **options)}

    assert found["good"].ok
    error = found["bad"].error or ""
    assert error.startswith(
        "InvalidResultError: the result is no JSON value: default= raised for it: TypeError: no JSON for <object"
    )
    assert "in listed" in error
    assert calls.count("bad") == 1


def test_default_that_never_makes_json_stops_the_map(log: Log, threads: ThreadPoolExecutor) -> None:
    names = [f"item{number}" for number in range(100)]

    with pytest.raises(InvalidResultError, match="3 items in a row") as caught:
        list(log.map(lambda item: object(), names, default=listed, executor=threads))

    assert caught.value.type_name == "object"


def test_default_that_raises_ends_a_map_that_raises(log: Log, threads: ThreadPoolExecutor) -> None:
    with pytest.raises(InvalidResultError) as caught:
        list(log.map(lambda item: object(), ["a"], default=listed, executor=threads, on_error="raise"))

    assert isinstance(caught.value.__cause__, TypeError)


def test_value_without_end_is_the_failure_of_its_item(log: Log, threads: ThreadPoolExecutor) -> None:
    (outcome,) = log.map(lambda item: Loop(), ["a"], default=listed, executor=threads)

    assert "Loop contains itself" in (outcome.error or "")


def test_time_of_default_is_limited_as_that_of_the_function(log: Log) -> None:
    context = multiprocessing.get_context("fork")

    (outcome,) = log.map(pair, ["a"], default=slow, mp_context=context, jobs=1, timeout_s=0.5)

    assert outcome.error == "timed out after 0.5 s"
