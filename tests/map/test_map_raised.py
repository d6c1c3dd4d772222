"""Whatever the code of an item raises is its outcome: only a Ctrl-C is none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from mpcheckpoint import Log
from mpcheckpoint.errors import InvalidItemError, WorkerDiedError
from support.executors import workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

pytestmark = pytest.mark.guarantee(11)

KINDS = ["threads", "pool", "fork"]


class OwnError(BaseException):
    """Derived from what all exceptions are, as pytest's skip is."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "cancelled": lambda: asyncio.CancelledError("by nobody"),
    "future": lambda: concurrent.futures.CancelledError("by nobody"),
    "generator": lambda: GeneratorExit("by nobody"),
    "exit": lambda: SystemExit("by nobody"),
    "own": lambda: OwnError("by nobody"),
    "skip": lambda: pytest.skip.Exception("by nobody"),
    "pytest": lambda: pytest.exit.Exception("by nobody"),
    "group": lambda: BaseExceptionGroup("by nobody", [OwnError(), ValueError()]),
}


def raised(item: str) -> NoReturn:
    raise RAISED[item]()


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_function_raises_is_the_outcome_of_its_item_wherever_it_runs(
    kind: str, log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    with workers(kind, 2) as options:
        found = {each.item: each for each in log.map(raised, RAISED, retries=1, retry_delay_s=0, **options)}

    assert found.keys() == RAISED.keys()
    for item, outcome in found.items():
        name = type(RAISED[item]()).__name__
        assert not outcome.ok
        assert f"{name}: by nobody" in (outcome.error or "").partition("\n")[0]
        assert "in raised" in (outcome.error or "")
        assert outcome.attempts == 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_map_that_raises_what_failed_raises_that_whatever_it_is(kind: str, log: Log) -> None:
    with workers(kind, 1) as options, pytest.raises(OwnError, match="by nobody"):
        list(log.map(raised, ["own"], on_error="raise", **options))

    assert [outcome.item for outcome in log.results()] == ["own"]


def interrupted(item: str) -> NoReturn:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        if item == "plain":
            raise
        raise BaseExceptionGroup("of tasks", [ValueError(), BaseExceptionGroup("inner", [error])]) from None
    raise AssertionError


@pytest.mark.parametrize("item", ["plain", "group"])
def test_ctrl_c_is_no_outcome_alone_or_in_a_group(item: str, log: Log) -> None:
    with workers("pool", 1) as options, pytest.raises(KeyboardInterrupt):
        list(log.map(interrupted, [item], **options))

    assert list(log.results()) == []
    assert log.events(item) == ()


def unfit(item: str) -> object:
    return RAISED[item]()


def no_json(value: Any) -> NoReturn:
    raise value


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_default_raises_is_final(kind: str, log: Log) -> None:
    with workers(kind, 2) as options:
        found = {
            each.item: each
            for each in log.map(
                unfit, RAISED, default=no_json, retries=3, max_invalid_results=None, **options
            )
        }

    assert found.keys() == RAISED.keys()
    for outcome in found.values():
        start = "InvalidResultError: the result is no JSON value: default= raised for it: "
        assert (outcome.error or "").startswith(start)
        assert outcome.attempts == 1


def forks(value: Any) -> Any:
    pid = os.fork()
    if not pid:
        raise value
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_process_that_default_forks_ends_with_what_it_raised(
    log: Log, threads: ThreadPoolExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = {"a": SystemExit(3), "b": OwnError("in a child")}

    found = {
        each.item: each.value for each in log.map(values.__getitem__, values, default=forks, executor=threads)
    }

    assert found == {"a": 3, "b": 1}
    assert "OwnError: in a child" in capfd.readouterr().err


def initialized() -> NoReturn:
    raise OwnError("no model")


def test_whatever_an_initializer_raises_stops_the_map_at_once(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WorkerDiedError, match=r"initializer .* failed: OwnError: no model") as caught:
        list(log.map(str, ["a"], jobs=1, initializer=initialized))

    assert isinstance(caught.value.__cause__, OwnError)
    assert capfd.readouterr().err == ""


class Sour:
    """Raises where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return spoil, (os.getpid(),)


def spoil(pid: int) -> Sour:
    if os.getpid() != pid:
        raise OwnError("spoilt")
    return Sour()


def test_item_that_raises_as_it_is_read_in_a_worker_is_told_of_whatever_it_raises(log: Log) -> None:
    with pytest.raises(InvalidItemError, match="cannot be read there: OwnError: spoilt"):
        list(log.map(str, [Sour()], key=lambda item: "a", jobs=1))

    assert log.events("a") == ()
