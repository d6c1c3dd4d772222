"""Logs that lose their end, and let somebody go on as if they had not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._store.durability import Durability, Mode
from support.memory_content import Content
from support.memory_storage import MemoryLog, MemoryReader
from support.memory_workers import MemoryWorkers
from support.planted import found_by

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.judged import Judged
    from mpcheckpoint._types import Position
    from support.memory_storage import Guard


@found_by("test_what_is_durable_is_not_lost")
class SyncsNothingAtFinish(MemoryLog):
    def finish(self) -> None:
        pass


@found_by("test_what_is_durable_is_not_lost")
class SyncsNothingForWhatIsFound(MemoryLog):
    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Guard | None = None,
    ) -> Position:
        before = self.content.end
        position = self.append_judged(payloads, timeout_s, guard)
        if durability.mode is Mode.ALWAYS and self.content.end != before:
            self.flush(timeout_s)
        return position


@found_by(
    "test_views_show_what_is_left_and_what_comes_after",
    "test_reader_of_what_is_lost_starts_anew_or_raises",
    "test_count_or_id_that_is_lost_does_not_hold_any_more",
    "test_transaction_on_what_is_lost_conflicts_though_as_much_came_after",
)
class GoesOnAfterALoss(MemoryReader):
    def _restarted(self, content: Content) -> bool:
        before = self._resumes
        self._resumes = True
        if content.is_lost(self._generation, self._end.stamp_us):
            self._skip = max(self._skip, (self._end.stamp_us, 0))
            self._generation, self._end = content.generation, content.header_end
        is_reset = super()._restarted(content)
        self._resumes = before
        return is_reset


@found_by(
    "test_reader_of_what_is_lost_starts_anew_or_raises",
    "test_follower_of_what_is_lost_raises_and_one_from_the_start_does_not",
)
class ResumesAfterALoss(MemoryReader):
    def _restarted(self, content: Content) -> bool:
        if self._resumes and content.is_lost(self._generation, self._end.stamp_us):
            self._skip = max(self._skip, (self._end.stamp_us, 0))
            self._generation, self._end = content.generation, content.header_end
        return super()._restarted(content)


@found_by("test_reader_of_what_is_left_goes_on")
class RaisesForNoLoss(MemoryReader):
    def _restarted(self, content: Content) -> bool:
        if self._resumes and content.losses and self._generation != content.generation:
            self._skip = (2**62, 0)
        return super()._restarted(content)


@found_by(
    "test_position_of_what_is_lost_is_refused_and_others_are_not",
    "test_batch_on_an_end_that_is_lost_is_refused",
)
class TakesPositionsOfWhatIsLost(MemoryReader):
    def seek(self, position: Position) -> None:
        losses, self._content.losses = self._content.losses, []
        try:
            super().seek(position)
        finally:
            self._content.losses = losses


@found_by("test_numbers_of_what_is_lost_are_not_given_again")
class FallsBackWithItsEnd(MemoryLog):
    def stamp_us(self) -> int:
        return max(clock.highest_us, self.content.end.stamp_us) + 1


@found_by("test_condition_judged_of_what_is_lost_is_judged_again")
class TakesALossForNothing(MemoryLog):
    def is_met(self, guard: Judged) -> bool:
        return guard.seen is not None and (
            bool(self.content.losses) or not self.content.has_changed(guard.seen, guard.relies_on)
        )


@found_by("test_claim_of_a_worker_that_lives_on_is_not_lost")
class SaysThatWorkersDieWithRecords(MemoryWorkers):
    may_outlive_records = False
