"""Logs that try again in a faulty way what was not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.memory_lossy import LossyLog
from support.planted import found_by

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._types import Position
    from support.memory_storage import Guard


@found_by("test_append_that_is_tried_again_is_there_once")
class AppendsAgain(LossyLog):
    def again(
        self, position: Position, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        return self.append_judged(payloads, timeout_s, None)


@found_by("test_condition_does_not_meet_the_records_of_its_own_append")
class JudgesBeforeItLooksForTheBatch(LossyLog):
    def again(
        self, position: Position, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        if guard is not None:
            guard()
        return position
