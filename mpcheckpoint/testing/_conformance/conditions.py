"""What a StoredLog promises of a condition that says what it relies on, and that is judged before the lock is taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint._format.concern import concern_of_notes, concerns_of_objects
from mpcheckpoint._format.control import Note, forget_payload, note_payload
from mpcheckpoint._logfile.judged import Judged, Seen
from mpcheckpoint._view.view import MAP
from mpcheckpoint._work.claims import claim_payload
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.verbs import UNSYNCED, Background, T, append, events, payload, raises

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.protocol import StoredLog
    from mpcheckpoint._types import Position

_PAUSE_S = 0.001
_X = concerns_of_objects("x")
_MAPS = frozenset((concern_of_notes(MAP),))


class _RefusedError(Exception):
    """What a condition raises that is not met."""


class _Looks:
    """Judges a log by how many records it has: so many as ``wants``, or any number.

    Attributes:
        judged: how many there were, each time.
    """

    def __init__(self, log: StoredLog, *, wants: int | None = None) -> None:
        self._reader = log.reader()
        self._log = log
        self._wants = wants
        self._found = 0
        self.judged: list[int] = []

    def early(self) -> Seen | None:
        """Judge without the lock."""
        for chunk in self._reader.poll():
            self._found = len(chunk.lines) + (0 if chunk.is_reset else self._found)
        self.judged.append(self._found)
        return self._reader.seen() if self._wants in (None, self._found) else None

    def late(self) -> Position | None:
        """Judge under the lock."""
        self.judged.append(len(events(self._log)))
        if self._wants not in (None, self.judged[-1]):
            raise _RefusedError
        return None

    def condition(self, relies_on: frozenset[bytes] | None) -> Judged:
        """Return the condition, judged once."""
        condition = Judged(self.late, self.early, relies_on)
        condition.is_met_anew()
        return condition


class ConditionTests(StorageUnderTest):
    """Conditions that were judged before something else was appended."""

    def add(self, *payloads: Payload) -> None:
        """Append a batch by another store."""
        self.open_log().append(list(payloads), durability=UNSYNCED, timeout_s=self.patience_s)

    def test_condition_is_judged_of_each_later_line_that_concerns_what_it_relies_on(self) -> None:
        about_x = [
            payload("late"),
            forget_payload("x"),
            claim_payload("x", "0" * 32),
            claim_payload("x", None),
        ]
        other, note = payload("other", "y"), note_payload(Note(MAP, {"run": 0, "version": ""}))
        cases: list[tuple[frozenset[bytes] | None, list[Payload]]] = [(_X, [each]) for each in about_x]
        cases += [
            (_X, [other, about_x[0], other]),
            (_X | concerns_of_objects("z"), [about_x[0]]),
            (_MAPS, [note]),
            (_X | _MAPS, [other, note]),
            (None, [other]),
            (None, [note]),
        ]
        for number, (relies_on, batch) in enumerate(cases):
            log, looks = self.open_log(), _Looks(self.open_log())
            condition = looks.condition(relies_on)
            self.add(*batch)
            append(log, "on a condition", guard=condition)

            before = len(events(log)) - 1
            assert looks.judged[-1] == before, (
                f"case {number}: judged of {looks.judged[-1]} of {before} records"
            )
            assert len(looks.judged) > 1, f"case {number}: not judged again"

    def test_condition_that_is_not_met_any_more_refuses_the_append(self) -> None:
        log = self.open_log()
        for relies_on in (_X, _X | _MAPS, None):
            looks = _Looks(log, wants=len(events(log)))
            condition = looks.condition(relies_on)
            self.add(payload("late"))
            before = events(log)
            with raises(_RefusedError):
                append(log, "never", guard=condition)
            assert events(log) == before

    def test_condition_is_met_whatever_is_appended_that_does_not_concern_it(self) -> None:
        log = self.open_log()
        append(log, 0)
        for relies_on in (_X, _MAPS, frozenset[bytes]()):
            condition = _Looks(log).condition(relies_on)
            self.add(payload("y", "y"), claim_payload("y", None), forget_payload("z"))
            before = len(events(log))
            append(log, "taken", guard=condition)
            assert events(log)[before:] == ["taken"]

    def test_condition_judged_before_a_compaction_is_judged_again(self) -> None:
        handle = self.open_handle().log("a")
        for number in range(4):
            handle.append("x", number)
        log, looks = self.open_log(), _Looks(self.open_log())
        condition = looks.condition(_X)
        handle.compact(keep_last=1)
        append(log, "on a condition", guard=condition)

        assert (looks.judged[0], looks.judged[-1]) == (4, 1)

    def test_batch_is_the_one_that_was_chosen_last(self) -> None:
        log = self.open_log()
        looks, batch = _Looks(log), [payload("never")]

        def choosing(judge: Callable[[], T]) -> T:
            said = judge()
            batch[:] = [payload(looks.judged[-1])]
            return said

        condition = Judged(lambda: choosing(looks.late), lambda: choosing(looks.early), _X)
        condition.is_met_anew()
        self.add(payload("late"), payload("later"))
        log.append(batch, durability=UNSYNCED, timeout_s=self.patience_s, guard=condition)

        assert events(log) == ["late", "later", 2]

    def test_each_of_several_threads_judges_what_the_others_appended(self) -> None:
        log = self.open_log()

        def count_up(number: int) -> None:
            own, object_key = self.open_log(), "xy"[number % 2]
            relies_on, reader, found = concerns_of_objects(object_key), own.reader(), 0
            batch: list[Payload] = []

            def look() -> Seen | None:
                nonlocal found
                for chunk in reader.poll():
                    found += sum(line.object_key == object_key for line in chunk.lines)
                batch[:] = [payload(found, object_key)]
                return reader.seen()

            def look_under_the_lock() -> None:
                look()

            for _ in range(15):
                condition = Judged(look_under_the_lock, look, relies_on)
                condition.is_met_anew()
                time.sleep(_PAUSE_S)  # so that another thread gets between
                own.append(batch, durability=UNSYNCED, timeout_s=self.patience_s, guard=condition)

        for thread in [Background(count_up, number) for number in range(4)]:
            thread.result(self.patience_s)

        found: dict[str, list[object]] = {"x": [], "y": []}
        for chunk in log.reader().poll():
            for line in chunk.lines:
                found[str(line.object_key)].append(int(line.event))
        assert found == {"x": list(range(30)), "y": list(range(30))}
