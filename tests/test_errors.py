"""Every error crosses process borders whole, and is also the builtin one that a caller would expect."""

from __future__ import annotations

import inspect
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Position, errors
from mpcheckpoint.errors import (
    BadLineError,
    CheckpointError,
    ConflictError,
    CorruptLogError,
    OutcomeUnknownError,
)
from support.processes import call

if TYPE_CHECKING:
    from collections.abc import Callable

ALL_ERRORS = [
    each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, CheckpointError)
]
POSITION = Position("a", "0" * 32, 100, 5, 0)
OWN: dict[type[CheckpointError], Callable[[], CheckpointError]] = {
    BadLineError: lambda: BadLineError("source.jsonl", 3, 7, "not JSON"),
    CorruptLogError: lambda: CorruptLogError("/path", 7, expected="a line", found="none", log_key="a"),
    ConflictError: lambda: ConflictError("x", expected=1, found=2, position=POSITION),
    OutcomeUnknownError: lambda: OutcomeUnknownError(
        "what, where", position=POSITION, path="/path", reason="why"
    ),
}


def example_of(kind: type[CheckpointError]) -> CheckpointError:
    """Return an error with everything set that can be set."""
    if kind in OWN:
        error = OWN[kind]()
    elif "offset" in inspect.signature(kind).parameters:
        error = kind("what, where, what to do", path="/path", offset=7, reason="why")
    else:
        required: Any = [
            each for each in inspect.signature(kind).parameters.values() if each.default is each.empty
        ]
        error = kind(*["text" for _ in required])
    if isinstance(error, OSError):
        error.errno = 28
    error.add_note("a note")
    return error


@pytest.mark.parametrize("kind", ALL_ERRORS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_error_survives_pickling_whole(kind: type[CheckpointError], protocol: int) -> None:
    error = example_of(kind)

    copy = pickle.loads(pickle.dumps(error, protocol))

    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert getattr(copy, "errno", None) == getattr(error, "errno", None)


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_error_is_also_a_builtin_that_a_caller_would_expect(kind: type[CheckpointError]) -> None:
    expected = [base for base in kind.__mro__ if base.__module__ == "builtins"]

    assert kind is CheckpointError or expected != [Exception, BaseException, object]


def raise_example(kind: type[CheckpointError]) -> None:
    raise example_of(kind)


def test_error_out_of_another_process_is_caught_as_what_it_is() -> None:
    with pytest.raises(ConflictError) as caught:
        call(raise_example, ConflictError)

    assert caught.value.position == POSITION
