"""The engine in memory, as if a server kept it whose every second answer to an append is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.memory_storage import MemoryLog, MemoryStore

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.durability import Durability
    from mpcheckpoint._types import Position
    from support.memory_storage import Guard


class LossyLog(MemoryLog):
    """Tries again what was not answered, and finds it by the name of the batch: here by the list itself."""

    _asked = 0

    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Guard | None = None,
    ) -> Position:
        """Append, and once more if the answer is lost."""
        position = super().append(payloads, durability=durability, timeout_s=timeout_s, guard=guard)
        LossyLog._asked += 1
        return position if LossyLog._asked % 2 else self.again(position, payloads, timeout_s, guard)

    def again(
        self, position: Position, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        """Find what was appended."""
        del payloads, timeout_s, guard
        return position


class LossyStore(MemoryStore):
    """Its logs get every second answer only."""

    log_type = LossyLog
