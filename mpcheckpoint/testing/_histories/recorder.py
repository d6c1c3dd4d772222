"""Histories: what processes did to logs, when each call began and returned, and what it answered.

Each process writes a file of its own into a shared directory, one JSON line for a call and one for its return. A killed
process leaves a call without a return: it may have happened or not. ``check_history`` judges the whole.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from mpcheckpoint._types import Position
from mpcheckpoint._view.conditions import START, conditions
from mpcheckpoint.errors import CheckpointError, ConflictError, OutcomeUnknownError
from mpcheckpoint.testing._histories.operation import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mpcheckpoint._types import Record
    from mpcheckpoint.testing._histories.operation import Kind, Outcome

T = TypeVar("T")

_SUFFIX = ".history.jsonl"


class RecordableLog(Protocol):
    """What a recorder needs of a log: a ``mpcheckpoint.Log``, or a wrapper of one."""

    @property
    def log_key(self) -> str:
        """The key of this log."""

    def append(
        self,
        object_key: str,
        event: object,
        *,
        expected_count: int | None = None,
        record_id: str | None = None,
        durability: str | None = None,
    ) -> Position | None:
        """Append one record; raise ConflictError, and write nothing, if the condition does not hold."""

    def append_many(
        self,
        records: Iterable[tuple[str, object]],
        *,
        durability: str | None = None,
        expected_counts: Mapping[str, int] | None = None,
        expected_end: Position | Literal["start"] | None = None,
    ) -> Position | None:
        """Append a batch: all or nothing. The conditions are passed on only if there are any."""

    def events(self, object_key: str, *, start: int = 0) -> tuple[Any, ...]:
        """Return the events of an object, from one on. ``start`` is passed on only if it is not 0."""

    def last(self, object_key: str, n: int = 1) -> tuple[Any, ...]:
        """Return the last events of an object."""

    def count(self, object_key: str) -> int:
        """Return how many events of an object there are."""

    def read(self) -> Iterator[Record]:
        """Yield the records of the log."""


class HistoryRecorder:
    """Passes calls on to a log, and records each with its answer.

    Use it in place of the log in every process of a test, with one directory for all; then
    ``check_history(load_history(directory))``.

    A line is written before each call and after each return. An error of the library that says that nothing was written
    is recorded as refused, a ConflictError as a conflict; every other error leaves the outcome unknown, as a kill does.
    A line that cannot be written raises OSError: a history with gaps would prove nothing.

    Concurrency: any number of threads; a forked child goes on with a file of its own; pickles if the log does.
    """

    def __init__(
        self, log: RecordableLog, directory: str | os.PathLike[str], *, process_name: str = ""
    ) -> None:
        """Record into ``directory``, which is created if need be.

        Args:
            log: a ``Log``, or a wrapper of one.
            directory: for history files, one for all processes of a test. Not the store's.
            process_name: what to call this process in a history; the process id if it is "".
        """
        self._log = log
        self._directory = os.fspath(directory)
        self._process_name = process_name
        self._journals: dict[int, _Journal] = {}  # by process id: a child inherits what its parent had
        os.makedirs(self._directory, exist_ok=True)

    @property
    def log_key(self) -> str:
        """The key of the log."""
        return self._log.log_key

    def append(
        self,
        object_key: str,
        event: object,
        *,
        expected_count: int | None = None,
        record_id: str | None = None,
        durability: str | None = None,
    ) -> Position | None:
        """As ``Log.append``."""
        condition: dict[str, Any] = {"expected_count": expected_count, "record_id": record_id}
        return self._recorded(
            "append",
            lambda: self._log.append(object_key, event, durability=durability, **condition),
            _text_of,
            records=[(object_key, event)],
            **condition,
        )

    def append_many(
        self,
        records: Iterable[tuple[str, object]],
        *,
        durability: str | None = None,
        expected_counts: Mapping[str, int] | None = None,
        expected_end: Position | Literal["start"] | None = None,
    ) -> Position | None:
        """As ``Log.append_many``. An empty batch that expects nothing is no operation and is not recorded, nor is a
        condition that is refused as such (InvalidKeyError, ValueError).

        Of a ConflictError ``object_key`` and ``found`` are recorded and judged; ``position`` and ``end`` are not. An
        InvalidPositionError is recorded as refused: nothing judges whether the position was lost.
        """
        batch = list(records)
        given: dict[str, Any] = {"durability": durability}
        if expected_counts is not None:
            given["expected_counts"] = dict(expected_counts)
        if expected_end is not None:
            given["expected_end"] = expected_end
        if not conditions(expected_counts, expected_end) and not batch:
            return self._log.append_many(batch, **given)
        return self._recorded(
            "append_many",
            lambda: self._log.append_many(batch, **given),
            _text_of,
            records=batch,
            expected_counts=given.get("expected_counts"),
            expected_end=_text_of(expected_end),
        )

    def events(self, object_key: str, *, start: int = 0) -> tuple[Any, ...]:
        """As ``Log.events``."""
        given = {"start": start} if start != 0 else {}
        return self._recorded(
            "events", lambda: self._log.events(object_key, **given), list, object_key=object_key, **given
        )

    def last(self, object_key: str, n: int = 1) -> tuple[Any, ...]:
        """As ``Log.last``."""
        return self._recorded("last", lambda: self._log.last(object_key, n), list, object_key=object_key, n=n)

    def count(self, object_key: str) -> int:
        """As ``Log.count``."""
        return self._recorded("count", lambda: self._log.count(object_key), int, object_key=object_key)

    def read(self) -> list[Record]:
        """Return all that ``Log.read`` yields: the log as it was at one instant of this call."""
        return self._recorded(
            "read",
            lambda: list(self._log.read()),
            lambda records: [
                (record.object_key, record.event, record.record_id, str(record.position))
                for record in records
            ],
        )

    def close(self) -> None:
        """Close this process's files. If the recorder is used again, it begins another file."""
        journals, self._journals = self._journals, {}
        for journal in journals.values():
            journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(HistoryRecorder, process_name=self._process_name), (self._log, self._directory)

    def _recorded(
        self, kind: Kind, act: Callable[[], T], answer: Callable[[T], object], **arguments: object
    ) -> T:
        journal = self._journal()
        number = journal.call(kind, self._log.log_key, arguments)
        try:
            result = act()
        except ConflictError as conflict:
            named = {"object_key": conflict.object_key}
            journal.answer(number, time.monotonic_ns(), "conflict", conflict.found, **named)
            raise
        except OutcomeUnknownError:
            raise
        except CheckpointError:
            journal.answer(number, time.monotonic_ns(), "refused", None)
            raise
        end_ns = time.monotonic_ns()
        journal.answer(number, end_ns, "ok", answer(result))
        return result

    def _journal(self) -> _Journal:
        # Rejected: a lock. A child that is forked while another thread holds it would wait for ever.
        # Rejected: the parent's file. A child would number its calls as the parent does.
        pid = os.getpid()
        journal = self._journals.get(pid)
        if journal is None:
            fresh = _Journal(self._directory, self._process_name)
            journal = self._journals.setdefault(pid, fresh)
            if journal is not fresh:  # another thread was quicker; an empty file does no harm
                fresh.close()
        return journal


def _text_of(position: Position | str | None) -> str | None:
    return None if position is None else str(position)


class _Journal:
    """The history file of one recorder in one process."""

    def __init__(self, directory: str, process_name: str) -> None:
        self._process = process_name or f"process {os.getpid()}"
        self._numbers = count(1)
        path = os.path.join(directory, f"{os.getpid()}-{secrets.token_hex(8)}{_SUFFIX}")
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)

    def call(self, kind: Kind, log_key: str, arguments: dict[str, object]) -> int:
        """Record that a call begins now; return its number."""
        number = next(self._numbers)
        given = {name: value for name, value in arguments.items() if value is not None}
        call = {"call": number, "process": self._process, "log_key": log_key, "kind": kind, **given}
        self._write(call | {"start_ns": time.monotonic_ns()})
        return number

    def answer(self, number: int, end_ns: int, outcome: Outcome, result: object, **more: object) -> None:
        """Record that a call has returned."""
        self._write({"return": number, "end_ns": end_ns, "outcome": outcome, "result": result, **more})

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, line: dict[str, object]) -> None:
        # A value that is no JSON goes in as text: the log decides whether to refuse it.
        data = json.dumps(line, default=repr).encode() + b"\n"
        # Crash: the kernel takes it whole, unless it is megabytes long; then the beginning of a line may be left.
        written = os.write(self._fd, data)
        if written != len(data):
            raise OSError(f"a line of the history was cut at {written} of {len(data)} bytes")


def load_history(directory: str | os.PathLike[str]) -> list[Operation]:
    """Return the operations that recorders wrote into a directory, in the order of the calls.

    The outcome is unknown if a call has no return, or the return is cut off at the end of its file.

    Raises:
        FileNotFoundError: there is no such directory: a history of nothing would prove anything.
        ValueError: a file is no history.
    """
    operations: list[Operation] = []
    for path in sorted(Path(directory) / name for name in os.listdir(directory) if name.endswith(_SUFFIX)):
        *lines, _cut = path.read_bytes().split(b"\n")
        try:
            operations += _operations(map(json.loads, lines))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no history: {error!r}") from error
    return sorted(operations, key=lambda operation: operation.start_ns)


def _operations(lines: Iterable[dict[str, Any]]) -> Iterator[Operation]:
    calls: dict[int, dict[str, Any]] = {}
    for line in lines:
        if "call" in line:
            calls[line["call"]] = line
        else:
            yield _operation(calls.pop(line["return"]), line)
    for call in calls.values():
        yield _operation(call, {})


def _operation(call: dict[str, Any], answer: dict[str, Any]) -> Operation:
    kind: Kind = call["kind"]
    outcome: Outcome = answer.get("outcome", "unknown")
    result: Any = answer.get("result")
    positions: tuple[Position, ...] = ()
    if outcome == "ok" and kind in ("append", "append_many"):
        result = None if result is None else Position.parse(result)
    elif outcome == "ok" and kind == "read":
        # Recorders of earlier releases left the positions out.
        positions = tuple(Position.parse(position) for _, _, _, *there in result for position in there)
        result = tuple((object_key, event, record_id) for object_key, event, record_id, *_ in result)
    elif outcome == "ok" and kind in ("events", "last"):
        result = tuple(result)
    end: Any = call.get("expected_end")
    return Operation(
        process=call["process"],
        number=call["call"],
        log_key=call["log_key"],
        kind=kind,
        start_ns=call["start_ns"],
        end_ns=answer.get("end_ns"),
        outcome=outcome,
        object_key=call.get("object_key", answer.get("object_key")),
        records=tuple((object_key, event) for object_key, event in call.get("records", ())),
        expected_count=call.get("expected_count"),
        record_id=call.get("record_id"),
        result=result,
        expected_counts=call.get("expected_counts"),
        expected_end=end if end in (None, START) else Position.parse(end),
        start=call.get("start", 0),
        n=call.get("n", 1),
        positions=positions,
    )
