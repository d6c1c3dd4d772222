"""Every error crosses process borders whole, and is also the builtin one that a caller would expect."""

from __future__ import annotations

import ast
import errno
import inspect
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Position, errors
from mpcheckpoint._logfile.faults import typed
from mpcheckpoint._logfile.notices import timed_out
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint.errors import (
    BadLineError,
    CheckpointError,
    ConflictError,
    CorruptLogError,
    ItemFailedError,
    OutcomeUnknownError,
    shell_text,
)
from support.processes import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
def test_error_is_one_of_the_public_module_wherever_it_is_defined(kind: type[CheckpointError]) -> None:
    assert kind.__module__ == errors.__name__  # where pickles look for it
    assert getattr(errors, kind.__name__) is kind


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


# --- advice: in Python by arguments, on the command line by options ------------------------------------------

# Arguments and methods of Python, which nobody can type on a command line.
PYTHON_ADVICE = re.compile(r"\w=(True|False|None|\w+\()|\w\(\)|\b[a-z]+_[a-z_]*_s\b|\bLog\.\w")
# No command comes to these: they are of handles, transactions and functions that a program has.
ONLY_IN_PYTHON = {
    *("LogNotOpenError", "ReadOnlyError", "ClosedError", "WorkerDiedError", "InvalidEventError"),
    *("InvalidFunctionError", "InvalidItemError", "InvalidResultError"),  # of functions that are mapped
}


def texts_for_shell() -> Iterator[tuple[str, str]]:
    """Yield what the source says in errors that commands may show, each with where it says so."""
    kinds = {each.__name__ for each in ALL_ERRORS} - ONLY_IN_PYTHON
    package = Path(errors.__file__).parent
    for path in package.rglob("*.py"):
        if "testing" in path.parts:
            continue
        for call_node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call_node, ast.Call):
                continue
            name = ast.unparse(call_node.func)
            if name not in kinds and not (path.name.endswith("errors.py") and name == "super().__init__"):
                continue
            spoken = [each for each in call_node.keywords if each.arg == "shell_advice"]
            if not spoken:
                spoken = [each for each in call_node.keywords if each.arg == "advice"]
            for node in [*call_node.args, *(each.value for each in spoken)]:
                for text in ast.walk(node):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        yield f"{path.name}:{text.lineno}", text.value


def test_errors_on_the_command_line_advise_nothing_that_only_python_has() -> None:
    texts = list(texts_for_shell())

    assert len(texts) > 50, "the source is not read as it is written"
    assert [each for each in texts if PYTHON_ADVICE.search(each[1])] == []


@pytest.mark.parametrize(
    ("error", "in_python", "in_shell"),
    [
        (typed(PermissionError(13, "no"), doing="opening", path="/p"), "read_only=True", "as a user who may"),
        (typed(PermissionError(13, "no"), doing="x", path="/p", is_read=True), "who may", "who may"),
        (typed(OSError(errno.EROFS, "no"), doing="opening", path="/p"), "mount it", "mount it"),
        (ItemFailedError("x", "y"), "retry_failed=True", "--retry-failed"),
        (OWN[CorruptLogError](), "Log.read()", "mpcheckpoint repair"),
    ],
)
def test_error_gives_its_advice_in_the_words_of_where_it_is_read(
    error: CheckpointError, in_python: str, in_shell: str
) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert in_python in str(copy)
    assert in_shell in shell_text(copy)
    assert PYTHON_ADVICE.search(shell_text(copy)) is None


def test_error_about_a_path_through_a_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError, match=f"{tmp_path}/file is no directory"):
        Checkpoint(tmp_path / "file" / "sub" / "store")


@pytest.mark.parametrize(
    ("found", "expected", "position", "text"),
    [
        (0, 1, None, "has 0 events in this log where 1 was expected. Nothing"),
        (1, 2, None, "has 1 event in this log where 2 were expected. Nothing"),
        (
            2,
            1,
            POSITION,
            f"has 2 events in this log where 1 was expected (first unexpected record at {POSITION}).",
        ),
    ],
)
def test_conflict_names_the_unexpected_record_only_where_there_is_one(
    found: int, expected: int, position: Position | None, text: str
) -> None:
    message = str(ConflictError("x", expected=expected, found=found, position=position))

    assert text in message
    assert "None" not in message


def test_time_waited_for_a_lock_is_never_less_than_nothing(tmp_path: Path) -> None:
    locked = timed_out(LogPaths.of(str(tmp_path), "a"), -0.0)

    assert "for 0 s (" in str(locked)
    assert "--lock-timeout" in shell_text(locked)
    assert "lock_timeout_s" in str(locked)
