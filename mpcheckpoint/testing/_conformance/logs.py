"""What a StoredLog promises: batches, conditions, waiting, and care."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._store.durability import Durability
from mpcheckpoint.errors import LockTimeoutError, ReentrancyError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.verbs import (
    UNSYNCED,
    Background,
    append,
    batches,
    clock_of_another_process,
    events,
    held,
    news_of,
    payload,
    raises,
    records,
)

if TYPE_CHECKING:
    from mpcheckpoint._types import Position

_HOUR_US = 3_600_000_000
_SHORT_S = 0.05


class _RefusedError(Exception):
    """What a guard raises."""


def _refuse() -> None:
    raise _RefusedError


class AppendTests(StorageUnderTest):
    """Batches, one after the other."""

    def test_events_are_read_in_the_order_they_were_appended(self) -> None:
        log = self.open_log()
        appended = [9, 1, 5, 3, 7, 1, 1, 0]
        for event in appended:
            append(log, event)

        assert events(log) == appended

    def test_batch_is_read_whole_and_as_one(self) -> None:
        log = self.open_log()
        append(log, *range(5))
        append(log, 5)
        append(log, 6, 7)

        assert batches(records(log)) == [[0, 1, 2, 3, 4], [5], [6, 7]]

    def test_batch_is_never_seen_in_part_by_a_reader_that_looks_between(self) -> None:
        log = self.open_log()
        writer = Background(lambda: [append(log, *range(20)) for _ in range(60)])
        deadline_s = time.monotonic() + self.patience_s

        reader, found, is_last = log.reader(), 0, False
        while not is_last:
            is_last = writer.is_done or time.monotonic() > deadline_s
            for chunk in reader.poll():
                assert len(chunk.lines) % 20 == 0, f"{len(chunk.lines)} records of batches of 20"
                found += len(chunk.lines)
        writer.result(0)
        assert found == 60 * 20

    def test_position_of_an_append_is_that_of_its_last_record(self) -> None:
        log = self.open_log()
        returned = [append(log, *range(size)) for size in (1, 3, 1, 2)]

        assert returned == [record.position for record in records(log) if record.more == 0]
        assert returned == sorted(returned)

    def test_group_is_read_as_batches_of_their_own_in_their_order(self) -> None:
        log = self.open_log()
        for setting in ("always", "interval:60000", "never"):
            group = [[payload(setting), payload(1)], [payload(2)], [payload(3)]]
            found = log.append_group(group, durability=Durability.parse(setting), timeout_s=self.patience_s)
            read = records(log)[-4:]

            assert batches(read) == [[setting, 1], [2], [3]]
            assert found == [record.position for record in read if record.more == 0]
            assert len({record.stamp_us for record in read}) == 3

    def test_group_that_waits_for_too_long_leaves_nothing(self) -> None:
        log = self.open_log()
        append(log, 0)
        with held(log, self.patience_s), raises(LockTimeoutError):
            log.append_group([[payload(1)], [payload(2)]], durability=UNSYNCED, timeout_s=_SHORT_S)
        assert events(log) == [0]

    def test_stamps_rise_from_batch_to_batch(self) -> None:
        log = self.open_log()
        for _ in range(50):
            append(log, 1, 2)

        stamps = [record.stamp_us for record in records(log) if record.more == 0]
        assert stamps == sorted(set(stamps))
        assert len(stamps) == 50

    def test_append_after_a_later_stamp_was_seen_gets_a_later_one(self) -> None:
        """An effect sorts after its cause, in any log, also if the clock of the cause's process is ahead."""
        cause, effect = self.open_log("cause"), self.open_log("effect")
        ahead_us = system.now_us() + _HOUR_US
        with clock_of_another_process(ahead_us):
            caused = append(cause, "cause")
        assert caused.stamp_us > ahead_us

        with clock_of_another_process():
            assert events(cause) == ["cause"]
            assert append(effect, "effect").stamp_us > caused.stamp_us
        with clock_of_another_process():
            clock.observe(caused.stamp_us)
            assert append(self.open_log("third"), "effect").stamp_us > caused.stamp_us

    def test_list_changed_after_its_append_changes_nothing(self) -> None:
        log = self.open_log()
        batch = [payload(1), payload(2)]
        log.append(batch, durability=UNSYNCED, timeout_s=self.patience_s)
        assert batch == [payload(1), payload(2)]

        batch[0] = payload(3)
        batch.clear()

        assert events(log) == [1, 2]

    def test_append_of_each_durability_is_visible_when_it_returns(self) -> None:
        log, other = self.open_log(), self.open_log()
        for number, setting in enumerate(["always", "interval:60000", "never"]):
            append(log, number, durability=Durability.parse(setting))

            assert events(other) == list(range(number + 1))
        log.finish()

    def test_threads_that_append_at_once_lose_nothing(self) -> None:
        shared = self.open_log()

        def write(number: int) -> list[Position]:
            log = shared if number % 2 else self.open_log()
            return [append(log, *[[number, index]] * 3) for index in range(20)]

        threads = [Background(write, number) for number in range(4)]
        returned = [position for thread in threads for position in thread.result(self.patience_s)]

        found = records(shared)
        whole = batches(found)
        assert sorted(batch[0] for batch in whole) == [[n, i] for n in range(4) for i in range(20)]
        assert all(batch == [batch[0]] * 3 for batch in whole)
        for number in range(4):
            assert [batch[0][1] for batch in whole if batch[0][0] == number] == list(range(20))
        # Each position was returned once, and they rise as the records do.
        assert sorted(returned) == [record.position for record in found if record.more == 0]


class GuardTests(StorageUnderTest):
    """Appends on a condition, and waiting for the log."""

    def test_guard_is_called_once_after_all_that_came_before(self) -> None:
        log = self.open_log()
        append(log, 0)
        looks: list[list[object]] = []

        append(log, 1, guard=lambda: looks.append(events(log)))

        assert looks == [[0]]
        assert events(log) == [0, 1]

    def test_guard_that_raises_leaves_nothing_written_and_the_log_free(self) -> None:
        log = self.open_log()
        append(log, 0)

        with raises(_RefusedError):
            append(log, 1, 2, guard=_refuse)

        assert events(log) == [0]
        append(self.open_log(), 3, timeout_s=self.patience_s)
        assert events(log) == [0, 3]

    def test_guard_that_returns_a_position_leaves_nothing_written_and_has_it_returned(self) -> None:
        log = self.open_log()
        first = append(log, 0)
        append(log, 1)

        assert append(log, 2, guard=lambda: first) == first
        assert events(log) == [0, 1]

    def test_guard_that_chooses_among_the_payloads_has_only_these_appended(self) -> None:
        log = self.open_log()
        append(log, 0)
        payloads = [payload(event) for event in (1, 2, 3, 4)]

        def choose() -> None:
            payloads[:] = [payloads[len(events(log))], payloads[3]]

        log.append(payloads, durability=UNSYNCED, timeout_s=self.patience_s, guard=choose)

        assert batches(records(log)) == [[0], [2, 4]]
        assert events(self.open_log()) == [0, 2, 4]

    def test_nothing_is_appended_between_a_guard_and_its_batch(self) -> None:
        log = self.open_log()

        def take_turns() -> int:
            own, won = self.open_log(), 0
            for _ in range(15):
                found = len(events(own))

                def guard(found: int = found) -> None:
                    if len(events(own)) != found:
                        raise _RefusedError

                try:
                    append(own, found, guard=guard)
                    won += 1
                except _RefusedError:
                    pass
            return won

        threads = [Background(take_turns) for _ in range(4)]
        won = sum(thread.result(self.patience_s) for thread in threads)

        assert events(log) == list(range(won))

    def test_append_while_another_holds_the_log_times_out_with_nothing_written(self) -> None:
        log = self.open_log()
        for waiting in (log, self.open_log()):
            with held(log, self.patience_s):
                for timeout_s in (0, _SHORT_S):
                    began_s = time.monotonic()
                    with raises(LockTimeoutError):
                        append(waiting, "late", timeout_s=timeout_s)
                    waited_s = time.monotonic() - began_s
                    assert 0.9 * timeout_s <= waited_s < self.patience_s / 2, f"waited {waited_s} s"

        assert events(log) == []
        append(log, "after")
        assert events(log) == ["after"]

    def test_append_that_may_wait_for_ever_gets_its_turn(self) -> None:
        log = self.open_log()
        with held(log, self.patience_s):
            waiting = Background(lambda: append(self.open_log(), "late", timeout_s=None))
            with raises(LockTimeoutError):
                append(log, "too late", timeout_s=_SHORT_S)
            assert not waiting.is_done

        waiting.result(self.patience_s)
        assert events(log) == ["late"]

    def test_reader_does_not_wait_for_the_holder_of_the_log(self) -> None:
        log = self.open_log()
        append(log, 0)
        known = log.reader()
        assert list(known.poll())

        with held(log, self.patience_s):
            fresh = Background(lambda: events(self.open_store(self.place).find_log("a")))
            assert fresh.result(self.patience_s / 2) == [0]
            assert Background(lambda: list(known.poll())).result(self.patience_s / 2) == []

    def test_care_while_another_holds_the_log_is_taken_or_times_out(self) -> None:
        log = self.open_log()
        append(log, 0)
        with held(log, self.patience_s):
            for care in (log.flush, log.recover):
                try:
                    Background(care, _SHORT_S).result(self.patience_s / 2)
                except LockTimeoutError:
                    pass

        append(log, 1)
        assert events(log) == [0, 1]

    def test_append_inside_a_guard_of_the_same_log_is_refused(self) -> None:
        """As when a signal handler or a finalizer runs inside an append: waiting would never end."""
        log = self.open_log()
        raised = threading.Event()

        def guard() -> None:
            with raises(ReentrancyError):
                append(log, "inner", timeout_s=self.patience_s)
            raised.set()

        Background(lambda: append(log, "outer", guard=guard, timeout_s=self.patience_s)).result(
            2 * self.patience_s
        )

        assert raised.is_set()
        assert events(log) == ["outer"]


class CareTests(StorageUnderTest):
    """Flush, finish, recover, repairs and figures."""

    def test_flush_finish_recover_and_repairs_of_a_sound_log_do_no_harm(self) -> None:
        log = self.open_log()
        append(log, 0, durability=Durability.parse("interval:60000"))

        for care in (log.flush, log.recover):
            care(self.patience_s)
            append(log, len(events(log)))
        log.finish()

        assert events(log) == [0, 1, 2]
        assert log.repairs() == []

    def test_stats_give_the_documented_figures(self) -> None:
        log = self.open_log()
        append(log, 0)
        before = log.stats()
        append(log, "x" * 1000)
        after = log.stats()

        for figure in ("size_bytes", "appends", "syncs", "repairs"):
            assert type(after[figure]) is int, f"{figure} is {after[figure]!r}"
        assert after["appends"] == int(str(before["appends"])) + 1
        assert int(str(after["size_bytes"])) > int(str(before["size_bytes"]))
        assert after["repairs"] == 0
        assert after["is_poisoned"] is False
        assert after.keys().isdisjoint({"records", "objects"})

    def test_recover_keeps_records_batches_stamps_and_positions(self) -> None:
        log = self.open_log()
        places = [append(log, 1, 2), append(log, 3)]
        before = records(log)

        log.recover(self.patience_s)

        assert records(log) == before  # positions compare by what stays
        for place, left in zip(places, ([3], []), strict=True):
            reader = log.reader()
            reader.seek(place)
            assert [record.event for record in news_of(reader, log.log_key)] == left
        assert append(log, 4) > places[-1]
        assert batches(records(log)) == [[1, 2], [3], [4]]

    def test_reader_of_a_recovered_log_goes_on_or_says_that_it_starts_anew(self) -> None:
        log = self.open_log()
        append(log, 1)
        plain, resuming = log.reader(), log.reader(resumes=True)
        for reader in (plain, resuming):
            assert [record.event for record in news_of(reader, log.log_key)] == [1]

        log.recover(self.patience_s)
        append(log, 2)

        assert [record.event for record in news_of(resuming, log.log_key)] == [2]
        chunks = list(plain.poll())
        is_anew = any(chunk.is_reset for chunk in chunks)
        assert sum(len(chunk.lines) for chunk in chunks) == (2 if is_anew else 1)
