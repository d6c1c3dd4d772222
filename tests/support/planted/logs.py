"""Faulty logs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import encode_batch
from mpcheckpoint._logfile.chunk import Chunk
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._store.durability import Durability, Mode
from mpcheckpoint._types import Position
from mpcheckpoint.errors import LockTimeoutError
from support.memory_storage import MemoryLog, MemoryReader
from support.planted import PAUSE_S, found_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._types import Repair
    from mpcheckpoint.errors import CheckpointError
    from support.memory_storage import Guard


# --- appends --------------------------------------------------------------------------------------------


@found_by("test_batch_is_read_whole_and_as_one")
class DropsTheLastOfABatch(MemoryLog):
    def write(self, payloads: list[Payload]) -> Position:
        return super().write(payloads[:-1] or payloads)


@found_by("test_batch_is_read_whole_and_as_one")
class WritesOneByOne(MemoryLog):
    def write(self, payloads: list[Payload]) -> Position:
        return [super(WritesOneByOne, self).write([payload]) for payload in payloads][-1]


@found_by("test_batch_is_never_seen_in_part_by_a_reader_that_looks_between")
class ShowsHalfBatches(MemoryLog):
    def write(self, payloads: list[Payload]) -> Position:
        half = len(payloads) // 2
        super().write(payloads[:half])
        time.sleep(PAUSE_S)
        return super().write(payloads[half:])


@found_by("test_group_is_read_as_batches_of_their_own_in_their_order")
class WritesAGroupAsOneBatch(MemoryLog):
    def append_group(
        self, batches: Sequence[list[Payload]], *, durability: Durability, timeout_s: float | None
    ) -> list[Position | CheckpointError]:
        together = [payload for batch in batches for payload in batch]
        return [self.append(together, durability=durability, timeout_s=timeout_s)] * len(batches)


@found_by("test_group_is_read_as_batches_of_their_own_in_their_order")
class WritesAGroupFromItsEnd(MemoryLog):
    def append_group(
        self, batches: Sequence[list[Payload]], *, durability: Durability, timeout_s: float | None
    ) -> list[Position | CheckpointError]:
        return super().append_group(batches[::-1], durability=durability, timeout_s=timeout_s)[::-1]


@found_by("test_group_that_waits_for_too_long_leaves_nothing")
class WritesTheFirstOfAGroupWithoutTheLock(MemoryLog):
    def append_group(
        self, batches: Sequence[list[Payload]], *, durability: Durability, timeout_s: float | None
    ) -> list[Position | CheckpointError]:
        first = self.write(batches[0])
        return [first, *super().append_group(batches[1:], durability=durability, timeout_s=timeout_s)]


@found_by("test_position_of_an_append_is_that_of_its_last_record")
class ReturnsTheFirstLinesPosition(MemoryLog):
    def write(self, payloads: list[Payload]) -> Position:
        end = super().write(payloads)
        return Position(end.log_key, end.generation, end.offset, end.stamp_us, len(payloads) - 1)


@found_by(
    "test_position_of_an_append_is_that_of_its_last_record",
    "test_records_are_read_with_all_that_was_said_of_them",
)
class ReturnsAnotherStamp(MemoryLog):
    def write(self, payloads: list[Payload]) -> Position:
        end = super().write(payloads)
        return Position(end.log_key, end.generation, end.offset, end.stamp_us + 1)


@found_by("test_append_after_a_later_stamp_was_seen_gets_a_later_one")
class StampsByTheWallAlone(MemoryLog):
    def stamp_us(self) -> int:
        return max(system.now_us(), self.content.end.stamp_us + 1)


@found_by("test_events_over_logs_have_one_order_for_all_that_is_the_order_of_the_appends")
class StampsByCounting(MemoryLog):
    def stamp_us(self) -> int:
        return self.content.end.stamp_us + 1


@found_by("test_list_changed_after_its_append_changes_nothing")
class KeepsTheCallersList(MemoryLog):
    def write(self, payloads: list[Payload]) -> Position:
        position = super().write(payloads)
        payloads.clear()
        return position


@found_by("test_append_of_each_durability_is_visible_when_it_returns")
class WritesLater(MemoryLog):
    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Guard | None = None,
    ) -> Position:
        if durability.mode is Mode.INTERVAL:
            return Position(self.log_key, self.content.generation, self.content.end.offset, clock.next(0))
        return super().append(payloads, durability=durability, timeout_s=timeout_s, guard=guard)


@found_by("test_threads_that_append_at_once_lose_nothing")
class WritesWithoutLock(MemoryLog):
    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        return self.write(payloads)

    def write(self, payloads: list[Payload]) -> Position:
        end = self.content.end
        data, new_end = encode_batch(payloads, end=end, stamp_us=self.stamp_us(), durable=end.offset)
        time.sleep(PAUSE_S)
        self.content.publish(data, new_end)
        return Position(self.log_key, self.content.generation, new_end.offset, new_end.stamp_us)


# --- guards and waiting ---------------------------------------------------------------------------------


class _Guards(MemoryLog):
    """Does something else with a guard."""

    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        if guard is None:
            return self.plain(payloads, timeout_s)
        return self.guarded(payloads, guard, timeout_s)

    def plain(self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None = None) -> Position:
        """Append as a sound engine does."""
        return super().append_judged(payloads, timeout_s, guard)

    def guarded(self, payloads: list[Payload], guard: Guard, timeout_s: float | None) -> Position:
        """Append on a condition, wrongly."""
        raise NotImplementedError


@found_by(
    "test_guard_is_called_once_after_all_that_came_before",
    "test_guard_that_raises_leaves_nothing_written_and_the_log_free",
    "test_guard_that_returns_a_position_leaves_nothing_written_and_has_it_returned",
    "test_append_on_a_count_that_does_not_hold_conflicts_and_writes_nothing",
    "test_transaction_lands_whole_or_conflicts_with_nothing_written",
    "test_append_of_a_record_id_that_is_there_returns_its_position",
    "test_forgetting_and_the_same_again_is_a_change_also_over_a_compaction",
    "test_batch_lands_if_all_counts_are_as_expected_and_else_conflicts",
    "test_batch_on_the_end_of_a_log_lands_if_no_record_came_after_it",
    "test_end_of_another_log_is_refused_with_nothing_written",
    "test_transaction_relies_on_the_part_of_an_object_that_it_read",
)
class IgnoresGuards(_Guards):
    def guarded(self, payloads: list[Payload], guard: Guard, timeout_s: float | None) -> Position:
        return self.plain(payloads, timeout_s)


@found_by("test_guard_is_called_once_after_all_that_came_before")
class CallsGuardsTwice(_Guards):
    def guarded(self, payloads: list[Payload], guard: Guard, timeout_s: float | None) -> Position:
        return self.plain(payloads, timeout_s, lambda: guard() or guard())


@found_by("test_guard_that_chooses_among_the_payloads_has_only_these_appended")
class EncodesBeforeItAsks(_Guards):
    def guarded(self, payloads: list[Payload], guard: Guard, timeout_s: float | None) -> Position:
        return self.plain(payloads.copy(), timeout_s, guard)


@found_by(
    "test_guard_is_called_once_after_all_that_came_before",
    "test_guard_that_raises_leaves_nothing_written_and_the_log_free",
)
class AsksGuardsAfterwards(_Guards):
    def guarded(self, payloads: list[Payload], guard: Guard, timeout_s: float | None) -> Position:
        position = self.plain(payloads, timeout_s)
        return guard() or position


@found_by(
    "test_nothing_is_appended_between_a_guard_and_its_batch",
    "test_updates_of_threads_with_handles_of_their_own_all_count",
)
class AsksGuardsBeforeItLocks(_Guards):
    def guarded(self, payloads: list[Payload], guard: Guard, timeout_s: float | None) -> Position:
        found = guard()
        time.sleep(PAUSE_S)
        return found or self.plain(payloads, timeout_s)


@found_by("test_guard_that_raises_leaves_nothing_written_and_the_log_free")
class StaysLockedWhenGuardsRaise(_Guards):
    def guarded(self, payloads: list[Payload], guard: Guard, timeout_s: float | None) -> Position:
        self.content.mutex.acquire(timeout_s)
        position = guard() or self.write(payloads)
        self.content.mutex.release_if_owned()
        return position


@found_by("test_guard_that_returns_a_position_leaves_nothing_written_and_has_it_returned")
class WritesThoughFound(_Guards):
    def guarded(self, payloads: list[Payload], guard: Guard, timeout_s: float | None) -> Position:
        def asked() -> None:
            guard()

        return self.plain(payloads, timeout_s, asked)


class _Waits(MemoryLog):
    """Waits otherwise for who holds the log."""

    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        try:
            return super().append_judged(payloads, self.patience_s(timeout_s), guard)
        except LockTimeoutError as error:
            return self.timed_out(payloads, error)

    def patience_s(self, timeout_s: float | None) -> float | None:
        """Return how long to wait."""
        return timeout_s

    def timed_out(self, payloads: list[Payload], error: LockTimeoutError) -> Position:
        """Say so."""
        raise error


@found_by(
    "test_append_while_another_holds_the_log_times_out_with_nothing_written",
    "test_append_through_a_handle_times_out_with_nothing_written",
)
class SwallowsTimeouts(_Waits):
    def timed_out(self, payloads: list[Payload], error: LockTimeoutError) -> Position:
        return self.write(payloads)


@found_by("test_append_while_another_holds_the_log_times_out_with_nothing_written")
class RaisesBuiltinTimeouts(_Waits):
    def timed_out(self, payloads: list[Payload], error: LockTimeoutError) -> Position:
        raise TimeoutError from error


@found_by("test_append_while_another_holds_the_log_times_out_with_nothing_written")
class WritesThoughTimedOut(_Waits):
    def timed_out(self, payloads: list[Payload], error: LockTimeoutError) -> Position:
        self.write(payloads)
        raise error


@found_by("test_append_while_another_holds_the_log_times_out_with_nothing_written")
class NeverWaits(_Waits):
    def patience_s(self, timeout_s: float | None) -> float | None:
        return 0


@found_by("test_append_while_another_holds_the_log_times_out_with_nothing_written")
class WaitsTooLong(_Waits):
    def patience_s(self, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else 0.5


@found_by("test_append_that_may_wait_for_ever_gets_its_turn")
class WaitsNotForEver(_Waits):
    def patience_s(self, timeout_s: float | None) -> float | None:
        return timeout_s or 0


@found_by("test_append_inside_a_guard_of_the_same_log_is_refused")
class LetsAppendsNest(MemoryLog):
    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        found = guard() if guard is not None else None
        return found or self.write(payloads)


# --- looking after --------------------------------------------------------------------------------------


@found_by(
    "test_flush_finish_recover_and_repairs_of_a_sound_log_do_no_harm",
    "test_durable_read_gives_everything_once_it_is_synced",
)
class CannotFlush(MemoryLog):
    def flush(self, timeout_s: float | None) -> None:
        raise NotImplementedError


@found_by("test_care_while_another_holds_the_log_is_taken_or_times_out")
class FlushesHoweverLongItTakes(MemoryLog):
    def flush(self, timeout_s: float | None) -> None:
        with self.content.mutex.guard():
            pass


@found_by("test_flush_finish_recover_and_repairs_of_a_sound_log_do_no_harm")
class RepairsNone(MemoryLog):
    def repairs(self) -> list[Repair]:
        return None  # type: ignore[return-value]  # that is the fault


@found_by("test_stats_give_the_documented_figures")
class CountsNothing(MemoryLog):
    def stats(self) -> dict[str, object]:
        return super().stats() | {"appends": 0}


@found_by("test_stats_give_the_documented_figures")
class LacksFigures(MemoryLog):
    def stats(self) -> dict[str, object]:
        return {"appends": self.content.appends}


@found_by(
    "test_flush_finish_recover_and_repairs_of_a_sound_log_do_no_harm",
    "test_recover_keeps_records_batches_stamps_and_positions",
)
class RecoversNothing(MemoryLog):
    def recover(self, timeout_s: float | None) -> None:
        self.content.end = self.content.header_end
        del self.content.data[self.content.end.offset :]


@found_by("test_recover_keeps_records_batches_stamps_and_positions")
class ForgetsPositionsInRecovery(MemoryLog):
    def recover(self, timeout_s: float | None) -> None:
        self.content.generation = self.content.lineage = "0" * 32


@found_by("test_reader_of_a_recovered_log_goes_on_or_says_that_it_starts_anew")
class StartsAnewInSilence(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        if self._content.appends > 1:
            self._end = self._content.header_end
        return super().poll()
