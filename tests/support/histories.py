"""Histories made by hand and by chance, a log as simple as can be, and a checker that tries every order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import pytest

from mpcheckpoint import Position
from mpcheckpoint.testing._histories.linearizability import check_history
from mpcheckpoint.testing._histories.operation import Operation, counts_expected, object_in_conflict
from mpcheckpoint.testing._histories.verdict import NotLinearizableError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence

    from mpcheckpoint import Log

Span = tuple[int, int | None]


def position(place: int, log_key: str = "a") -> Position:
    return Position(log_key, "0" * 32, place * 100, place)


class LogWrapper:
    """Stands in front of a log and passes everything on."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


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

    def batch(
        self, records: Sequence[tuple[str, Any]], at: Span, place: int | None = None, **given: Any
    ) -> Self:
        return self._add("append_many", at, self._at(place), records=tuple(records), **given)

    def refused_batch(self, at: Span, about: str | None, found: int, **given: Any) -> Self:
        """A conflict about an object, or, if that is None, about the end of the log."""
        records = (("new", "never"),)
        return self._add("append_many", at, found, "conflict", object_key=about, records=records, **given)

    def events(self, object_key: str, events: Iterable[Any], at: Span, **given: Any) -> Self:
        return self._add("events", at, tuple(events), object_key=object_key, **given)

    def last(self, object_key: str, events: Iterable[Any], at: Span, n: int = 1) -> Self:
        return self._add("last", at, tuple(events), object_key=object_key, n=n)

    def count(self, object_key: str, number: int, at: Span) -> Self:
        return self._add("count", at, number, object_key=object_key)

    def read(self, records: Iterable[tuple[str, Any]], at: Span, places: Iterable[int] = ()) -> Self:
        """A read of the whole log, with the places of all its records or of none."""
        result = tuple((object_key, event, None) for object_key, event in records)
        positions = tuple(position(place, self.log_key) for place in places)
        return self._add("read", at, result, positions=positions)

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


def accept(history: History, **options: Any) -> None:
    """Require that a history is accepted, whatever the order its operations are given in."""
    check_history(history.operations, **options)
    check_history(reversed(history.operations), **options)


def reject(history: History, **options: Any) -> NotLinearizableError:
    """Return why a history is refused, whatever the order its operations are given in."""
    with pytest.raises(NotLinearizableError):
        check_history(reversed(history.operations), **options)
    with pytest.raises(NotLinearizableError) as caught:
        check_history(history.operations, **options)
    return caught.value


# --- every order -----------------------------------------------------------------------------------------------------


def is_explained(operations: Sequence[Operation], *, use_positions: bool) -> bool:
    """Return whether a history is linearizable: try every order, with any of the unknown ones, on a list of records."""
    happened = [each for each in operations if each.outcome != "refused"]
    return _is_explained([], happened, use_positions=use_positions)


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
    """What a log does, as simply as can be. A position is how many records there are up to it."""

    def __init__(self) -> None:
        self.records: list[tuple[str, Any, str | None]] = []
        self.objects: dict[str | None, list[Any]] = defaultdict(list)
        # Of each append that wrote: it, and those with the same record id that found it done.
        self.authors: list[list[Operation]] = []
        self.by_id: dict[tuple[str, str], tuple[list[Operation], Position]] = {}

    def do(self, operation: Operation) -> dict[str, Any]:
        """Do it, and return what differs in the operation then."""
        if operation.kind in ("append", "append_many"):
            return self._append(operation)
        events = self.objects[operation.object_key]
        result: Any = tuple(events[operation.start :])
        if operation.kind == "last":
            result = tuple(events[max(0, len(events) - operation.n) :])
        elif operation.kind == "count":
            result = len(events)
        elif operation.kind == "read":
            places = range(1, len(self.records) + 1)
            return {
                "outcome": "ok",
                "result": tuple(self.records),
                "positions": tuple(position(place) for place in places),
            }
        return {"outcome": "ok", "result": result}

    def _append(self, operation: Operation) -> dict[str, Any]:
        key, end = _key_of(operation), operation.expected_end
        if key in self.by_id:
            authors, there = self.by_id[key]
            authors.append(operation)
            return {"outcome": "ok", "result": there}
        if isinstance(end, Position) and end.stamp_us > len(self.records):
            return {"outcome": "refused"}
        for object_key, found in self.conflicts(operation):
            return {"outcome": "conflict", "object_key": object_key, "result": found}
        if not operation.records:
            return {"outcome": "ok"}
        self.authors.append([operation])
        for each, event in operation.records:
            self.records.append((each, event, operation.record_id))
            self.objects[each].append(event)
        there = position(len(self.records))
        if key is not None:
            self.by_id[key] = self.authors[-1], there
        return {"outcome": "ok", "result": there}

    def conflicts(self, operation: Operation) -> list[tuple[str | None, int]]:
        """Return all that it expects in vain: the object, or None for the end, and what there is."""
        there = [(object_key, len(self.objects[object_key])) for object_key in counts_expected(operation)]
        found: list[tuple[str | None, int]] = [*(set(there) - set(counts_expected(operation).items()))]
        end = operation.expected_end
        if end is not None:
            more = len(self.records) - (end.stamp_us if isinstance(end, Position) else 0)
            found += [(None, more)] if more else []
        return sorted(found, key=repr)

    def is_answer(self, operation: Operation) -> bool:
        if operation.outcome == "conflict":
            answer = object_in_conflict(operation), operation.result
            return _key_of(operation) not in self.by_id and answer in self.conflicts(operation)
        answer_now = self.do(operation)
        if answer_now["outcome"] != "ok" or operation.kind in ("append", "append_many"):
            return bool(answer_now["outcome"] == "ok")
        return repr(answer_now["result"]) == repr(operation.result)  # as values, 1 and True would be equal

    def are_positions_right(self) -> bool:
        """Return whether positions rise along the log, and each record has one of its own."""
        given = [{each.result for each in authors if each.result is not None} for authors in self.authors]
        known = [positions for positions in given if positions]
        if any(len(positions) != 1 for positions in known):
            return False
        return all(min(one) < min(other) for one, other in pairwise(known))


def _key_of(operation: Operation) -> tuple[str, str] | None:
    """Return what is in the log once, if it has a record id."""
    return None if operation.record_id is None else (operation.records[0][0], operation.record_id)


# --- histories by chance ---------------------------------------------------------------------------------------------


def good_history(
    chance: random.Random, size: int, *, processes: int = 8, objects: int = 20, is_read: bool = True
) -> History:
    """Return what processes did to a log that is linearizable, one operation of each process at a time.

    If it is not read in the end, nothing is in it that could not be judged then.
    """
    history, model = History(), Model()
    for instant_ns, start_ns, end_ns, process in sorted(times(chance, size, processes)):
        object_key = f"object {chance.randrange(objects)}"
        kind: Any = chance.choice(
            ["append"] * 5 + ["append_many"] * 2 + ["events", "events", "count", "last"]
        )
        given: dict[str, Any]
        if kind == "append":
            expected = chance.choice([None, None, len(model.objects[object_key]), 3])
            given = {"records": ((object_key, instant_ns),), "expected_count": expected}
        elif kind == "append_many":
            given = {"records": tuple((f"object {number}", instant_ns) for number in range(3))}
            given |= chance.choice(list(conditions(model, object_key, is_read=is_read)))
        elif kind == "events":
            given = {"object_key": object_key, "start": chance.choice([0, 0, 1, 3]) if is_read else 0}
        else:
            n = chance.choice([1, 2]) if is_read else len(model.objects[object_key]) + 1
            given = {"object_key": object_key, "n": n}
        operation = Operation(f"p{process}", instant_ns, "a", kind, start_ns, **given)
        if chance.random() < 0.01 and operation.is_append:
            if chance.random() < 0.5:
                model.do(operation)
        else:
            operation = replace(operation, end_ns=end_ns, **model.do(operation))
        history.operations.append(operation)
    if not is_read:
        return history
    end_ns = max(each.end_ns or each.number for each in history.operations) + 1
    records = [(object_key, event) for object_key, event, _ in model.records]
    return history.read(records, (end_ns, end_ns + 1), range(1, len(records) + 1))


def conditions(model: Model, object_key: str, *, is_read: bool) -> Iterator[dict[str, Any]]:
    """Yield what batches may expect; some of it does not hold."""
    count, there = len(model.objects[object_key]), len(model.records)
    yield {}
    yield {"expected_counts": {object_key: count}}
    yield {"expected_counts": {object_key: count, "object 0": 3}}
    if is_read:
        yield {"expected_end": position(there) if there else "start"}
        yield {"expected_end": position(max(1, there - 1)), "records": ()}


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
            other = replace(operation, **answer)
            if other != operation:
                yield [*operations[:index], other, *operations[index + 1 :]]


def other_answers(operation: Operation) -> Iterator[dict[str, Any]]:
    result = operation.result
    if operation.outcome == "refused":
        return
    if operation.outcome == "conflict":
        yield {"outcome": "ok", "result": None}
        yield {"result": result + 1}
    elif operation.kind in ("append", "append_many"):
        for object_key, count in counts_expected(operation).items():
            yield {"outcome": "conflict", "object_key": object_key, "result": count + 1}
        if operation.expected_end is not None:
            yield {"outcome": "conflict", "object_key": None, "result": 1}
        if result is not None:
            yield {"result": position(result.stamp_us - len(operation.records))}  # that of the append before
    elif operation.kind == "count":
        yield {"result": result + 1}
        yield {"result": max(0, result - 1)}
    else:
        places = operation.positions
        more = position(len(places) + 1)
        yield {"result": result[:-1], "positions": places[:-1]}
        yield {"result": result[::-1]}
        yield {"result": result + result[-1:], "positions": (*places, more) if places else ()}
