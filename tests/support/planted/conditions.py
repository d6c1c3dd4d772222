"""Logs that judge conditions too seldom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._format.control import FORGET
from mpcheckpoint.errors import ConflictError
from support.memory_storage import MemoryLog
from support.planted import found_by

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.judged import Judged
    from mpcheckpoint._types import Position
    from support.memory_storage import Guard

_OF_EACH_LINE = "test_condition_is_judged_of_each_later_line_that_concerns_what_it_relies_on"


@found_by(
    _OF_EACH_LINE,
    "test_condition_that_is_not_met_any_more_refuses_the_append",
    "test_condition_judged_before_a_compaction_is_judged_again",
    "test_each_of_several_threads_judges_what_the_others_appended",
)
class TakesConditionsForMet(MemoryLog):
    def is_met(self, guard: Judged) -> bool:
        return guard.seen is not None


@found_by(
    "test_outcome_of_a_dead_worker_does_not_count_after_that_of_another",
    "test_outcome_of_a_dead_worker_does_not_count_while_another_runs_its_item",
)
class AppendsWhatAConditionRefuses(MemoryLog):
    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        def lenient() -> Position | None:
            try:
                return None if guard is None else guard()
            except Exception:  # noqa: BLE001 - that is the fault
                return None

        return super().append_judged(payloads, timeout_s, lenient)


@found_by("test_claim_that_a_dead_worker_gives_back_is_not_taken_from_another")
class GivesBackWhatOthersHave(MemoryLog):
    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        is_free = all(b'"worker":null' in payload.event for payload in payloads)
        return super().append_judged(payloads, timeout_s, None if is_free and payloads else guard)


@found_by(_OF_EACH_LINE)
class LooksAtTheFirstLineOfEachBatch(MemoryLog):
    def write(self, payloads: list[Payload]) -> Position:
        position = super().write(payloads)
        offset, _ = self.content.concerns[-1]
        self.content.concerns[-1] = offset, frozenset([self.concern_of(payloads[0])])
        return position


@found_by(_OF_EACH_LINE)
class LooksAtRecordsOnly(MemoryLog):
    def concern_of(self, payload: Payload) -> bytes:
        return payload.object_key


@found_by(_OF_EACH_LINE)
class TakesForgetsForNotes(MemoryLog):
    def concern_of(self, payload: Payload) -> bytes:
        return FORGET.encode() if FORGET.encode() in payload.event else super().concern_of(payload)


@found_by(_OF_EACH_LINE)
class LooksForOneObjectOnly(MemoryLog):
    def is_met(self, guard: Judged) -> bool:
        assert guard.seen is not None
        relies_on = guard.relies_on and frozenset([max(guard.relies_on)])
        return not self.content.has_changed(guard.seen, relies_on)


@found_by(_OF_EACH_LINE, "test_condition_that_is_not_met_any_more_refuses_the_append")
class TakesAnythingForNothing(MemoryLog):
    def is_met(self, guard: Judged) -> bool:
        assert guard.seen is not None
        return not self.content.has_changed(guard.seen, guard.relies_on or frozenset())


@found_by("test_condition_judged_before_a_compaction_is_judged_again")
class TakesACompactionForNothing(MemoryLog):
    def is_met(self, guard: Judged) -> bool:
        assert guard.seen is not None
        seen = guard.seen._replace(generation=self.content.generation)
        return not self.content.has_changed(seen, guard.relies_on)


@found_by("test_condition_is_met_whatever_is_appended_that_does_not_concern_it")
class RefusesOnceAnythingWasAppended(MemoryLog):
    def is_met(self, guard: Judged) -> bool:
        assert guard.seen is not None
        if self.content.has_changed(guard.seen, None) and not self.content.has_changed(
            guard.seen, guard.relies_on
        ):
            raise ConflictError("x", expected=0, found=1, position=None)
        return super().is_met(guard)


@found_by("test_batch_is_the_one_that_was_chosen_last")
class EncodesBeforeItJudgesAnew(MemoryLog):
    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        return super().append_judged(payloads.copy(), timeout_s, guard)


@found_by(_OF_EACH_LINE, "test_condition_that_is_not_met_any_more_refuses_the_append")
class AppendsWhatIsMetAnewAtOnce(MemoryLog):
    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        seen = getattr(guard, "seen", None)
        return super().append_judged(payloads, timeout_s, None if seen is not None else guard)
