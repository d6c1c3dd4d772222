"""A log that judges the conditions of batches as it should is accepted, one that does not is found out."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import ConflictError
from mpcheckpoint.testing import HistoryRecorder, NotLinearizableError, check_history, load_history
from support.histories import LogWrapper

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mpcheckpoint import Log, Position

pytestmark = [pytest.mark.guarantee(3), pytest.mark.guarantee(4)]


class IgnoresCounts(LogWrapper):
    def append_many(
        self, records: Iterable[tuple[str, object]], *, expected_counts: object = None, **given: Any
    ) -> Position | None:
        return self._log.append_many(records, **given)


class JudgesTheFirstCountOnly(LogWrapper):
    def append_many(
        self, records: Iterable[tuple[str, object]], *, expected_counts: Any = None, **given: Any
    ) -> Position | None:
        first = dict([*(expected_counts or {}).items()][:1])
        return self._log.append_many(records, expected_counts=first, **given)


class JudgesStaleCounts(LogWrapper):
    """Counts an object once, and appends by that."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._seen: dict[str, int] = {}

    def append_many(
        self, records: Iterable[tuple[str, object]], *, expected_counts: Any = None, **given: Any
    ) -> Position | None:
        for object_key, expected in (expected_counts or {}).items():
            found = self._seen.setdefault(object_key, self._log.count(object_key))
            if found != expected:
                raise ConflictError(object_key, expected=expected, found=found, position=None)
        return self._log.append_many(records, **given)


class IgnoresTheEnd(LogWrapper):
    def append_many(
        self, records: Iterable[tuple[str, object]], *, expected_end: object = None, **given: Any
    ) -> Position | None:
        return self._log.append_many(records, **given)


class JudgesAStaleEnd(LogWrapper):
    """Takes the end of the log that it saw first for its end."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._seen: list[Position] = []

    def append_many(
        self, records: Iterable[tuple[str, object]], *, expected_end: Any = None, **given: Any
    ) -> Position | None:
        self._seen = self._seen or [record.position for record in self._log.read()]
        if expected_end is not None and self._seen[-1:] != [expected_end]:
            raise ConflictError(None, expected=0, found=1, position=None)
        return self._log.append_many(records, **given)


class GivesTheLastOfAnother(LogWrapper):
    def last(self, object_key: str, n: int = 1) -> tuple[Any, ...]:
        return self._log.last("y", n)


class StartsOneTooLate(LogWrapper):
    def events(self, object_key: str, *, start: int = 0) -> tuple[Any, ...]:
        return self._log.events(object_key, start=start + 1 if start else 0)


FAULTY = [
    IgnoresCounts,
    JudgesTheFirstCountOnly,
    JudgesStaleCounts,
    IgnoresTheEnd,
    JudgesAStaleEnd,
    GivesTheLastOfAnother,
    StartsOneTooLate,
]


def act(chance: random.Random, log: HistoryRecorder, known: list[Position]) -> None:
    """Do one thing, and add to the positions that are known here."""
    object_key, event = chance.choice("xyz"), chance.randrange(10**6)
    place = None
    try:
        match chance.choice(("batch", "counts", "end", "nothing", "last", "since")):
            case "batch":
                place = log.append_many([(object_key, event), ("z", event)])
            case "counts":
                counts = {each: log.count(each) for each in "xy"}
                counts["y"] += chance.randrange(2)
                place = log.append_many([(object_key, event)], expected_counts=counts)
            case "end":
                place = log.append_many([(object_key, event)], expected_end=chance.choice(known[-2:]))
            case "nothing":
                log.append_many([], expected_counts={"x": log.count("x")}, expected_end=known[-1])
            case "last":
                log.last(object_key, chance.randint(1, 2))
            case "since":
                log.events(object_key, start=chance.randrange(log.count(object_key) + 1))
    except ConflictError as conflict:
        place = conflict.end
    if place is not None:
        known.append(place)


def history_of(store: Path, histories: Path, wrap: type[LogWrapper]) -> list[Any]:
    """Have two handles, one of them wrapped, act in turns; return what was recorded, with a look at the end of it."""
    chance = random.Random(1)
    with Checkpoint(store, durability="never") as one, Checkpoint(store, durability="never") as other:
        logs = [HistoryRecorder(log, histories) for log in (wrap(one.log("a")), other.log("a"))]
        logs[1].append_many([("x", 0)], expected_end="start")
        known = [[record.position for record in log.read()] for log in logs]
        for _ in range(100):
            turn = chance.randrange(2)
            act(chance, logs[turn], known[turn])
        with one.log("a").claim("x"):  # the log ends after its last record then
            for _ in range(5):
                act(chance, logs[0], known[0])
        logs[1].append("x", "end")
        logs[1].read()
        for log in logs:
            log.close()
    return load_history(histories)


def test_log_that_judges_conditions_as_it_should_is_accepted(store: Path, tmp_path: Path) -> None:
    history = history_of(store, tmp_path / "histories", LogWrapper)

    assert check_history(history).operations == len(history) > 90
    for outcome in ("ok", "conflict"):
        batches = [each for each in history if each.kind == "append_many" and each.outcome == outcome]
        assert any(each.records and each.expected_counts for each in batches)
        assert any(each.records and each.expected_end for each in batches)
        assert any(not each.records for each in batches)


@pytest.mark.parametrize("wrap", FAULTY)
def test_log_with_a_fault_is_found_out(store: Path, tmp_path: Path, wrap: type[LogWrapper]) -> None:
    history = history_of(store, tmp_path / "histories", wrap)

    with pytest.raises(NotLinearizableError):
        check_history(history)
