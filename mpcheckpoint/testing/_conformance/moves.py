"""What a storage promises of logs that go to another one, or come from there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import CLAIM, Note, forget_payload, note_payload
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._store.moving import batches_of
from mpcheckpoint.errors import BackupPlaceError, InvalidPositionError, LogNotFoundError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.verbs import (
    UNSYNCED,
    Background,
    append,
    clock_of_another_process,
    events,
    payload,
    raises,
    records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._format.control import Header
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.moving import LogCut
    from mpcheckpoint._store.protocol import Store, StoredLog
    from mpcheckpoint._types import Position


# The event of a record that a compaction drops, since its object was forgotten later.
_FORGOTTEN = b'{"a":[1.5,null]}'


_AHEAD_US = 3_600_000_000
_CUTS = 20


class _StoppedError(Exception):
    """Ends a copy."""


class _Broken(NamedTuple):
    """A log that cannot be read to its end."""

    header: Header
    last_us: int
    size_bytes: int
    log: LogCut
    is_of_one_moment: bool = True

    def lines(self) -> Iterator[Lines]:
        yield from self.log.lines()
        raise _StoppedError


def _nothing(_bytes: int) -> None:
    """Be told of progress."""


def said(store: Store, log_key: str = "a") -> list[tuple[int, list[Payload]]]:
    """Return the batches of a log as a cut has them, each with its stamp, but for what was dropped."""
    with store.cut(None) as logs:
        (log,) = (log for log in logs if log.header.log_key == log_key)
        found = []
        for lines in log.lines():
            ends = [line.stamp_us for line in lines if not line.more]
            found += list(zip(ends, batches_of(lines), strict=True))
    return [(stamp_us, batch) for stamp_us, batch in found if b'"dropped"' not in batch[0].event]


class MoveTests(StorageUnderTest):
    """Cuts of all logs, and logs made of them."""

    def _filled(self) -> StoredLog:
        """Return a log of batches, notes, record ids, and an object that was forgotten."""
        log = self.open_log()
        append(log, 1, 2, 3)
        claim = note_payload(Note(CLAIM, {"object_key": "x", "worker": "ab"}))
        for batch in (
            [payload({"a": [1.5, None]}, "y", "id-1"), claim, payload("\u00fc", "\U0001f600")],
            [forget_payload("y")],
            [claim],
            [payload(4, "y", "id-2")],
        ):
            log.append(batch, durability=UNSYNCED, timeout_s=self.patience_s)
        return log

    def _moved(self, source: Store | None = None) -> Store:
        """Return a store on the other place with copies of all logs."""
        target = self.open_store(self.other_place)
        with (source or self.open_store(self.place)).cut(self.patience_s) as logs:
            for log in logs:
                target.adopt_log(log, timeout_s=self.patience_s, pace=_nothing)
        return target

    # --- cuts -------------------------------------------------------------------------------------------------

    def test_cut_gives_all_logs_in_order_and_says_batch_by_batch_what_they_hold(self) -> None:
        log = self._filled()
        self.open_log("B")
        append(self.open_log("\u00e9"), "other")
        store = self.open_store(self.place)

        with store.cut(self.patience_s) as logs:
            assert [each.header.log_key for each in logs] == ["B", "a", "\u00e9"]
            assert logs[1].last_us >= records(log)[-1].stamp_us

        assert [len(batch) for _, batch in said(store)] == [3, 3, 1, 1, 1]
        assert [stamp_us for stamp_us, batch in said(store) if len(batch) == 3] == sorted(
            {record.stamp_us for record in records(log)[:5]}
        )
        assert said(store, "B") == []

    def test_cut_stays_as_it_was_while_others_append_and_compact(self) -> None:
        log, handle = self._filled(), self.open_handle()
        store = self.open_store(self.place)
        before = said(store)

        with store.cut(self.patience_s) as logs:
            append(log, "later")
            handle.log("a").compact(keep_last=1)
            append(log, "later still")
            found = [batch for lines in logs[0].lines() for batch in batches_of(lines)]

        assert found == [batch for _, batch in before]

    def test_cut_with_an_effect_has_its_cause(self) -> None:
        """The writer appends to one log, and then to another one, again and again."""
        causes, effects, is_over = self.open_log("z"), self.open_log("a"), threading.Event()
        store = self.open_store(self.place)

        def write() -> int:
            rounds = 0
            while not is_over.is_set():
                append(causes, rounds)
                append(effects, rounds)
                rounds += 1
            return rounds

        def counted() -> list[int]:
            with store.cut(self.patience_s) as logs:
                return [sum(map(len, log.lines())) for log in logs]

        writing = Background(write)
        try:
            for _ in range(_CUTS):
                found = counted()
                assert found[0] <= found[1] <= found[0] + 1
        finally:
            is_over.set()
            rounds = writing.result(self.patience_s)
        assert counted() == [rounds, rounds]

    # --- logs made of them ------------------------------------------------------------------------------------

    def test_adopted_log_says_the_same_with_the_same_stamps(self) -> None:
        log = self._filled()
        target = self._moved()

        assert target.log_keys() == ["a"]
        assert said(target) == said(self.open_store(self.place))
        found = records(target.find_log("a"))
        assert [each[:5] for each in found] == [each[:5] for each in records(log)]

    def test_adopted_log_counts_on_after_compactions(self) -> None:
        handle = self.open_handle()
        log = handle.log("a")
        for number in range(6):
            log.append(f"o{number % 2}", number, record_id=f"id-{number}")
        log.compact(keep_last=1)
        log.append("o0", "last")
        self._moved()

        copied = self.open_checkpoint(self.other_place, durability="never").log("a")
        for _ in range(2):
            assert [copied.count(key) for key in ("o0", "o1")] == [4, 3]
            copied.append("o0", 0, record_id="id-0")
            assert copied.events("o0") == (4, "last")
            copied.compact(keep_last=2)
        assert copied.events("o0") == (4, "last")

    def test_appends_to_an_adopted_log_come_after_all_of_it(self) -> None:
        """Also where its writer's clock went ahead of that of the process that appends."""
        with clock_of_another_process(system.now_us() + _AHEAD_US):
            last = records(self._filled())[-1]
            self._moved()
        with clock_of_another_process():
            position = append(self.open_log(place=self.other_place), "new")

        assert position.stamp_us > last.stamp_us
        assert events(self.open_log(place=self.other_place))[-1] == "new"

    def test_process_that_adopted_a_log_stamps_all_that_it_appends_later(self) -> None:
        """Also to other logs: they are appended after it was there."""
        with clock_of_another_process(system.now_us() + _AHEAD_US):
            last = records(self._filled())[-1]
            with self.open_store(self.place).cut(self.patience_s) as logs:
                clock.highest_us = 0
                target = self.open_store(self.other_place)
                target.adopt_log(logs[0], timeout_s=self.patience_s, pace=_nothing)

            other = target.open_log("other", create=True, timeout_s=self.patience_s)
            assert append(other, "new").stamp_us > last.stamp_us

    def test_positions_of_the_source_are_valid_in_an_adopted_log_also_once_it_is_compacted(self) -> None:
        log = self._filled()
        known = [record.position for record in records(log)]
        expected = [_after(log, position) for position in known]
        self._moved()
        copied = self.open_log(place=self.other_place)

        assert [_after(copied, position) for position in known] == expected
        assert self.open_checkpoint(self.other_place).log("a").compact(keep_last=100).is_changed
        left = [[event for event in later if event != _FORGOTTEN] for later in expected]
        assert [_after(copied, position) for position in known] == left

    def test_positions_of_an_adopted_log_are_valid_in_the_source(self) -> None:
        log = self._filled()
        self._moved()
        copied = self.open_log(place=self.other_place)

        for record in records(copied):
            assert _after(log, record.position) == _after(copied, record.position)

    def test_position_that_the_source_gave_later_is_refused(self) -> None:
        log = self._filled()
        self._moved()
        position = append(log, "later")
        copied = self.open_log(place=self.other_place)
        for number in range(3):
            append(copied, number)

        with raises(InvalidPositionError):
            copied.reader().seek(position)

    def test_positions_of_an_adopted_log_of_its_own_are_valid_in_it(self) -> None:
        self._filled()
        self._moved()
        copied = self.open_log(place=self.other_place)
        position = append(copied, "own")
        append(copied, "after")
        assert _after(copied, position) == [b'"after"']

        self.open_checkpoint(self.other_place).log("a").compact(keep_last=100)
        assert _after(copied, position) == [b'"after"']

    def test_log_that_is_there_is_not_adopted_over(self) -> None:
        self._filled()
        append(self.open_log(place=self.other_place), "mine")

        with raises(BackupPlaceError):
            self._moved()
        assert events(self.open_log(place=self.other_place)) == ["mine"]

    def test_log_that_could_not_be_read_to_its_end_is_not_there(self) -> None:
        self._filled()
        target = self.open_store(self.other_place)
        with self.open_store(self.place).cut(self.patience_s) as logs:
            log = logs[0]
            broken = _Broken(log.header, log.last_us, log.size_bytes, log)
            with raises(_StoppedError):
                target.adopt_log(broken, timeout_s=self.patience_s, pace=_nothing)

            assert target.log_keys() == []
            with raises(LogNotFoundError):
                target.find_log("a")
            target.adopt_log(log, timeout_s=self.patience_s, pace=_nothing)
        assert said(target) == said(self.open_store(self.place))

    def test_nobody_sees_an_adopted_log_before_it_is_whole(self) -> None:
        self._filled()
        target, seen = self.open_store(self.other_place), list[Any]()
        with self.open_store(self.place).cut(self.patience_s) as logs:
            target.adopt_log(
                logs[0],
                timeout_s=self.patience_s,
                pace=lambda _: seen.append(self.open_store(self.other_place).log_keys()),
            )

        assert seen
        assert not any(seen)
        assert target.log_keys() == ["a"]

    def test_adopted_log_changes_the_token_of_other_stores(self) -> None:
        self._filled()
        other = self.open_store(self.other_place)
        token = other.change_token()
        self._moved()

        assert token is None or other.change_token() != token

    def test_log_adopted_twice_over_is_the_same(self) -> None:
        """From here to there, and on to a third place: the copy of a copy."""
        log = self._filled()
        known = [record.position for record in records(log)]
        expected, before = [_after(log, position) for position in known], said(self.open_store(self.place))
        third = self.place.with_name("third")
        try:
            target = self.open_store(third)
            with self._moved().cut(self.patience_s) as logs:
                target.adopt_log(logs[0], timeout_s=self.patience_s, pace=_nothing)

            assert said(target) == before
            copied = self.open_log(place=third)
            assert [_after(copied, position) for position in known] == expected
        finally:
            self.discard(third)


def _after(log: StoredLog, position: Position) -> list[Any]:
    """Return the events after a position."""
    reader = log.reader()
    try:
        reader.seek(position)
        return [line.event for chunk in reader.poll() for line in chunk.lines]
    finally:
        reader.release()
