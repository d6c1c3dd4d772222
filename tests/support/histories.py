"""Histories made by hand and by chance, a log as simple as can be, and a checker that tries every order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from mpcheckpoint import Position
from mpcheckpoint.testing._histories.operation import Operation

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence

    from mpcheckpoint.testing._histories.operation import Outcome

Span = tuple[int, int | None]


def position(place: int, log_key: str = "a") -> Position:
    return Position(log_key, "0" * 32, place * 100, place)


class History:
    """A history written by hand. ``at`` is (start, end); an end of None is an unknown outcome."""

    def __init__(self, log_key: str = "a") -> None:
        self.log_key = log_key
        self.operations: list[Operation] = []

    def append(self, object_key: str, event: Any, at: Span, place: int | None = None, **given: Any) -> Self:
        return self._add("append", at, self._at(place), records=((object_key, event),), **given)

    def conflict(
        self, object_key: str, event: Any, at: Span, expected: int, found: int, **given: Any
    ) -> Self:
        records = ((object_key, event),)
        return self._add("append", at, found, "conflict", records=records, expected_count=expected, **given)

    def batch(self, records: Sequence[tuple[str, Any]], at: Span, place: int | None = None) -> Self:
        return self._add("append_many", at, self._at(place), records=tuple(records))

    def events(self, object_key: str, events: Iterable[Any], at: Span) -> Self:
        return self._add("events", at, tuple(events), object_key=object_key)

    def count(self, object_key: str, number: int, at: Span) -> Self:
        return self._add("count", at, number, object_key=object_key)

    def read(self, records: Iterable[tuple[str, Any]], at: Span) -> Self:
        return self._add("read", at, tuple((object_key, event, None) for object_key, event in records))

    def _at(self, place: int | None) -> Position | None:
        return None if place is None else position(place, self.log_key)

    def _add(self, kind: Any, at: Span, result: Any, outcome: Any = "ok", **given: Any) -> Self:
        start_ns, end_ns = at
        if end_ns is None:
            outcome, result = "unknown", None
        number = len(self.operations) + 1
        operation = Operation(
            f"p{number}", number, self.log_key, kind, start_ns, end_ns, outcome, result=result, **given
        )
        self.operations.append(operation)
        return self


# --- every order -----------------------------------------------------------------------------------------------------


def is_explained(operations: Sequence[Operation], *, use_positions: bool) -> bool:
    """Return whether a history is linearizable: try every order, with any of the unknown ones, on a list of records."""
    return _is_explained([], list(operations), use_positions=use_positions)


def _is_explained(order: list[Operation], rest: list[Operation], *, use_positions: bool) -> bool:
    model = Model()
    if not all(model.is_answer(each) for each in order):
        return False
    if all(each.outcome == "unknown" for each in rest) and (not use_positions or model.are_positions_right()):
        return True
    return any(
        _is_explained(
            [*order, each], [other for other in rest if other is not each], use_positions=use_positions
        )
        for each in rest
        if not any(other.end_ns is not None and other.end_ns < each.start_ns for other in rest)
    )


class Model:
    """What a log does, as simply as can be."""

    def __init__(self) -> None:
        self.records: list[tuple[str, Any, str | None]] = []
        self.objects: dict[str | None, list[Any]] = defaultdict(list)
        # Of each append that wrote: it, and those with the same record id that found it done.
        self.authors: list[list[Operation]] = []
        self.by_id: dict[tuple[str, str], list[Operation]] = {}

    def do(self, operation: Operation) -> tuple[Outcome, Any]:
        """Do it, and return its outcome and result; the result of an append is how many appends wrote before."""
        if operation.kind == "events":
            return "ok", tuple(self.objects[operation.object_key])
        if operation.kind == "count":
            return "ok", len(self.objects[operation.object_key])
        if operation.kind == "read":
            return "ok", tuple(self.records)
        object_key, record_id = operation.records[0][0], operation.record_id
        if record_id is not None and (authors := self.by_id.get((object_key, record_id))):
            authors.append(operation)
            return "ok", self.authors.index(authors)
        found = len(self.objects[object_key])
        if operation.expected_count not in (None, found):
            return "conflict", found
        self.authors.append([operation])
        if record_id is not None:
            self.by_id[object_key, record_id] = self.authors[-1]
        for each, event in operation.records:
            self.records.append((each, event, record_id))
            self.objects[each].append(event)
        return "ok", len(self.authors) - 1

    def is_answer(self, operation: Operation) -> bool:
        outcome, result = self.do(operation)
        if operation.outcome != "ok" or operation.is_append:
            return operation.outcome in (outcome, "unknown" if outcome == "ok" else outcome) and (
                outcome == "ok" or operation.result == result
            )
        return repr(result) == repr(operation.result)  # as values, 1 and True would be equal

    def are_positions_right(self) -> bool:
        """Return whether positions rise along the log, and each record has one of its own."""
        given = [{each.result for each in authors if each.result is not None} for authors in self.authors]
        known = [positions for positions in given if positions]
        if any(len(positions) != 1 for positions in known):
            return False
        return all(min(one) < min(other) for one, other in pairwise(known))


# --- histories by chance ---------------------------------------------------------------------------------------------


def good_history(chance: random.Random, size: int, *, processes: int = 8, objects: int = 20) -> History:
    """Return what processes did to a log that is linearizable, one operation of each process at a time."""
    history, model = History(), Model()
    for instant_ns, start_ns, end_ns, process in sorted(times(chance, size, processes)):
        object_key = f"object {chance.randrange(objects)}"
        kind: Any = chance.choice(["append"] * 5 + ["append_many", "events", "events", "count"])
        given: dict[str, Any]
        if kind == "append":
            expected = chance.choice([None, None, len(model.objects[object_key]), 3])
            given = {"records": ((object_key, instant_ns),), "expected_count": expected}
        elif kind == "append_many":
            given = {"records": tuple((f"object {number}", instant_ns) for number in range(3))}
        else:
            given = {"object_key": object_key}
        operation = Operation(f"p{process}", instant_ns, "a", kind, start_ns, **given)
        if chance.random() < 0.01 and operation.is_append:
            if chance.random() < 0.5:
                model.do(operation)
        else:
            outcome, result = model.do(operation)
            if operation.is_append and outcome == "ok":
                result = position(result)
            operation = replace(operation, end_ns=end_ns, outcome=outcome, result=result)
        history.operations.append(operation)
    end_ns = max(each.end_ns or each.number for each in history.operations) + 1
    return history.read([(key, event) for key, event, _ in model.records], (end_ns, end_ns + 1))


def times(chance: random.Random, size: int, processes: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield instant, start, end and process of operations."""
    for process in range(processes):
        end_ns = 0
        for _ in range(size // processes):
            start_ns = end_ns + chance.randint(1, 500)
            instant_ns = start_ns + chance.randint(0, 5000)
            end_ns = instant_ns + chance.randint(0, 5000)
            yield instant_ns, start_ns, end_ns, process


def without_positions(operations: Iterable[Operation]) -> list[Operation]:
    return [
        replace(each, result=None) if each.outcome == "ok" and each.is_append else each for each in operations
    ]


def changed(operations: list[Operation]) -> Iterator[list[Operation]]:
    """Yield the histories in which one answer is another one."""
    for index, operation in enumerate(operations):
        if operation.end_ns is None:
            continue
        for answer in other_answers(operation):
            yield [*operations[:index], replace(operation, **answer), *operations[index + 1 :]]


def other_answers(operation: Operation) -> Iterator[dict[str, Any]]:
    result = operation.result
    if operation.outcome == "conflict":
        yield {"outcome": "ok", "result": None}
        yield {"result": result + 1}
    elif operation.kind in ("append", "append_many"):
        if operation.kind == "append" and operation.expected_count is not None:
            yield {"outcome": "conflict", "result": operation.expected_count + 1}
        if result is not None:
            yield {"result": position(result.stamp_us + 1)}
    elif operation.kind == "count":
        yield {"result": result + 1}
        yield {"result": max(0, result - 1)}
    else:
        yield {"result": result[:-1]}
        yield {"result": result[::-1]}
        yield {"result": result + result[-1:]}
