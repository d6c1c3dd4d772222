"""One operation of a history: what a process did to a log, when, and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcheckpoint._types import Position

Kind = Literal["append", "append_many", "events", "last", "count", "read"]
Outcome = Literal["ok", "conflict", "refused", "unknown"]

_MOST_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one log by one process, and its outcome.

    Attributes:
        process: the name of the process that called.
        number: the 1-based index of the call in that process.
        log_key: the log.
        kind: "append" and "append_many" write; "events", "last" and "count" read an object, "read" the whole log.
        start_ns: a time before it could have any effect, by ``time.monotonic_ns``: on Linux that is CLOCK_MONOTONIC,
            one clock for all processes of the machine until it is booted again.
        end_ns: a time after its effect; None if it never returned.
        outcome: "ok"; "conflict": its condition did not hold; "refused": it raised, and nothing was written; "unknown":
            its process died in it, or got no answer. It may then have happened at any time after its start.
        object_key: the object that "events", "last" and "count" read, or that a conflict of "append_many" names; None
            if that is about the end of the log.
        records: the (object key, event) pairs that it appends.
        expected_count, record_id: as given to ``Log.append``.
        result: of an append its position, or None if the log gives none; of a conflict how many events there were, or
            records after the expected end; of "events" and "last" a tuple of events; of "count" a number; of "read" a
            tuple of (object key, event, record id).
        expected_counts, expected_end: as given to ``Log.append_many``.
        start: as given to ``Log.events``.
        n: as given to ``Log.last``.
        positions: of "read" that of each record; none in histories that were recorded before they were kept.
    """

    process: str
    number: int
    log_key: str
    kind: Kind
    start_ns: int
    end_ns: int | None = None
    outcome: Outcome = "unknown"
    object_key: str | None = None
    records: tuple[tuple[str, Any], ...] = ()
    expected_count: int | None = None
    record_id: str | None = None
    result: Any = None
    expected_counts: Mapping[str, int] | None = None
    expected_end: Position | Literal["start"] | None = None
    start: int = 0
    n: int = 1
    positions: tuple[Position, ...] = ()

    def __post_init__(self) -> None:
        if (self.end_ns is None) != (self.outcome == "unknown"):
            raise ValueError(f"an outcome is unknown if there is no end, and only then: {self!r}")
        if self.end_ns is not None and self.end_ns < self.start_ns:
            raise ValueError(f"ended before it started: {self!r}")
        if self.kind in ("append", "append_many") and not (
            self.records or counts_expected(self) or self.expected_end
        ):
            raise ValueError(f"appends nothing: {self!r}")
        if self.positions and len(self.positions) != len(self.result):
            raise ValueError(f"has not one position for each record: {self!r}")

    @property
    def is_append(self) -> bool:
        """Whether it writes, if its condition holds."""
        return bool(self.records)

    def described(self, origin_ns: int = 0) -> str:
        """Return a line for messages, with times in milliseconds since ``origin_ns``."""
        start_ms = f"{(self.start_ns - origin_ns) / 1e6:.3f}"
        end_ms = "never" if self.end_ns is None else f"{(self.end_ns - origin_ns) / 1e6:.3f}"
        return (
            f"[{start_ms} .. {end_ms} ms] {self.process} #{self.number}: {self._call()} -> {self._answer()}"
        )

    def __str__(self) -> str:
        return self.described()

    def _call(self) -> str:
        if self.kind == "append":
            arguments = [*map(_short, self.records[0])]
            if self.expected_count is not None:
                arguments.append(f"expected_count={self.expected_count}")
            if self.record_id is not None:
                arguments.append(f"record_id={self.record_id!r}")
        elif self.kind == "append_many":
            arguments = [_short(self.records)]
            if self.expected_counts:
                arguments.append(f"expected_counts={dict(self.expected_counts)!r}")
            if self.expected_end is not None:
                arguments.append(f"expected_end={_place(self.expected_end)}")
        else:
            arguments = [] if self.object_key is None else [repr(self.object_key)]
            if self.kind == "last":
                arguments.append(f"n={self.n}")
            if self.start:
                arguments.append(f"start={self.start}")
        return f"{self.kind}({', '.join(arguments)})"

    def _answer(self) -> str:
        if self.outcome == "conflict":
            object_key = object_in_conflict(self)
            what = "after the expected end" if object_key is None else f"of {object_key!r}"
            return f"conflict: there were {self.result} {what}"
        if self.outcome == "ok" and self.kind in ("append", "append_many"):
            return "ok" if self.result is None else f"ok, at {_place(self.result)}"
        return _short(self.result) if self.outcome == "ok" else self.outcome


def counts_expected(operation: Operation) -> dict[str, int]:
    """Return how many events objects have to have for an append to happen."""
    if operation.expected_count is not None:
        return {operation.records[0][0]: operation.expected_count}
    return dict(operation.expected_counts or {})


def object_in_conflict(operation: Operation) -> str | None:
    """Return the object that a conflict is about; None if it is about the end of the log."""
    return operation.records[0][0] if operation.kind == "append" else operation.object_key


def _place(position: Position | str) -> str:
    return repr(position) if isinstance(position, str) else f"{position.stamp_us} us"


def _short(value: Any) -> str:
    """Return a value as Python writes it; of a long one without the middle, since the end is what happened last."""
    if not isinstance(value, tuple) or len(value) <= _MOST_SHOWN:
        text = repr(value)
        return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"
    shown = ", ".join(map(repr, value[-_MOST_SHOWN + 1 :]))
    return f"({value[0]!r}, ... {len(value)} in all ..., {shown})"
