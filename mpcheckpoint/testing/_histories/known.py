"""What the reads of a history show of its log, and what the other answers then say about its length."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mpcheckpoint._types import Position
from mpcheckpoint.testing._histories.operation import counts_expected, object_in_conflict
from mpcheckpoint.testing._histories.verdict import contradiction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpcheckpoint.testing._histories.operation import Operation

# What grows: the events of the object of this key; None for the records of the whole log.
Lane = str | None
Token = Any


@dataclass(frozen=True, slots=True)
class Known:
    """What reads show of a log.

    Attributes:
        lanes: what each lane has to become, as far as it was read.
        read_ns: when the last read of the whole of each lane began.
        positions: those of the records of the longest read of the log that has any.
    """

    lanes: dict[Lane, Sequence[Token]]
    read_ns: dict[Lane, int]
    positions: Sequence[Position]

    def lengths_at(self, operation: Operation) -> dict[Lane, Sequence[int] | None]:
        """Return which lengths of lanes explain an answer, in order; None where no read shows enough to tell."""
        lane, result = operation.object_key, operation.result
        if operation.outcome == "conflict":
            lane = object_in_conflict(operation)
            return {lane: (result,) if lane is not None else self._after(operation.expected_end, result)}
        match operation.kind:
            case "read":
                return {None: (len(result),)}
            case "count":
                return {lane: (result,)}
            case "events":
                return {lane: self._from(lane, operation.start, tokens_of(result))}
            case "last":
                return {lane: self._with_last(operation, tokens_of(result))}
        lengths: dict[Lane, Sequence[int] | None] = {
            object_key: (count,) for object_key, count in counts_expected(operation).items()
        }
        if operation.expected_end is not None:
            lengths[None] = self._after(operation.expected_end, 0)
        return lengths

    def _after(self, end: Position | str | None, more: int) -> Sequence[int] | None:
        """Return how long the log is with so many records after a place."""
        if not isinstance(end, Position):
            return (more,)
        # Only the order is asked for: with claims in it, a log need not end at the position of a record.
        # Rejected: the append that returned it. If that was killed, a conflict may have told of its position.
        if not self.positions or end.log_key != self.positions[-1].log_key or end > self.positions[-1]:
            return None
        return (bisect_right(self.positions, end) + more,)

    def _from(self, lane: Lane, start: int, shown: Sequence[Token]) -> Sequence[int] | None:
        """Return how long an object is of which these are all events from one on."""
        if not shown:
            return range(start + 1)
        known, length = self.lanes.get(lane, []), start + len(shown)
        if length > len(known):
            return None
        return (length,) if known[start:length] == shown else ()

    def _with_last(self, operation: Operation, shown: Sequence[Token]) -> Sequence[int] | None:
        """Return how long an object may be that has these last events."""
        lane, n = operation.object_key, operation.n
        if len(shown) < n:
            return (len(shown),)
        read_ns = max(self.read_ns.get(lane, -1), self.read_ns.get(None, -1))
        if operation.end_ns is None or read_ns <= operation.end_ns:
            return None  # it may have been longer than what was read
        known = self.lanes.get(lane, [])
        return [length for length in range(n, len(known) + 1) if known[length - n : length] == shown]


def known_of(log_key: str, operations: Sequence[Operation]) -> Known:
    """Return what was read.

    Raises:
        NotLinearizableError: two reads contradict each other, or a conflict has no cause.
    """
    reads: dict[Lane, list[tuple[Sequence[Token], Operation]]] = defaultdict(list)
    for operation in operations:
        if operation.outcome == "conflict":
            _require_cause(log_key, operation)
        elif operation.outcome == "ok" and operation.kind == "read":
            tokens = [
                (object_key, _token(event), record_id) for object_key, event, record_id in operation.result
            ]
            reads[None].append((tokens, operation))
        elif operation.outcome == "ok" and _shows_all(operation):
            reads[operation.object_key].append((tokens_of(operation.result), operation))
    read_ns = {lane: max(each.start_ns for _, each in of_lane) for lane, of_lane in reads.items()}
    whole = reads[None]
    if whole:
        longest, operation = max(whole, key=lambda read: len(read[0]))
        objects: dict[str, list[Token]] = defaultdict(list)
        for object_key, token, _ in longest:
            objects[object_key].append(token)
        for lane, of_object in objects.items():
            reads[lane].append((of_object, operation))
    lanes = {lane: _longest(log_key, of_lane) for lane, of_lane in reads.items()}
    return Known(lanes, read_ns, _positions(log_key, [operation for _, operation in whole]))


def _shows_all(operation: Operation) -> bool:
    """Return whether it was given all events of an object."""
    if operation.kind == "last":
        return len(operation.result) < operation.n
    return operation.kind == "events" and operation.start == 0


def _require_cause(log_key: str, conflict: Operation) -> None:
    """Raise if what a conflict is about was not expected, or is what was."""
    object_key, counts = object_in_conflict(conflict), counts_expected(conflict)
    if object_key is None:
        is_about_it, expected = conflict.expected_end is not None, 0
    else:
        is_about_it, expected = object_key in counts, counts.get(object_key, 0)
    if not is_about_it:
        raise contradiction(log_key, "a conflict is about something of which nothing was expected", conflict)
    if conflict.result == expected:
        raise contradiction(log_key, "a conflict states what was expected", conflict)


def _longest(log_key: str, reads: list[tuple[Sequence[Token], Operation]]) -> Sequence[Token]:
    """Return the longest of some reads, if each begins with every shorter one."""
    reads.sort(key=lambda read: len(read[0]))
    for (shorter, one), (longer, other) in pairwise(reads):
        if longer[: len(shorter)] != shorter:
            raise contradiction(
                log_key, "two reads contradict each other: neither begins with the other", one, other
            )
    return reads[-1][0] if reads else ()


def _positions(log_key: str, reads: Iterable[Operation]) -> Sequence[Position]:
    """Return the positions of the longest of some reads, if they rise."""
    longest = max(reads, key=lambda read: len(read.positions), default=None)
    if longest is None:
        return ()
    if any(one >= other for one, other in pairwise(longest.positions)):
        raise contradiction(log_key, "the positions of records that were read do not rise", longest)
    return longest.positions


def tokens_of(events: Iterable[object]) -> list[Token]:
    """Return events as the search compares them."""
    return [_token(event) for event in events]


def _token(event: object) -> Token:
    """Return what is equal for equal JSON values only: in Python 1, 1.0 and True are equal."""
    return event if type(event) in (str, int) else (json.dumps(event, sort_keys=True),)
