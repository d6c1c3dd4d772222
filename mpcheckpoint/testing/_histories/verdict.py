"""The verdicts on a history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpcheckpoint.testing._histories.operation import Operation


@dataclass(eq=False, repr=False)
class NotLinearizableError(AssertionError):
    """No order of the operations on a log explains what they returned.

    Attributes:
        message: what is wrong, as ``str()`` gives it.
        log_key: the log.
        operation: the first whose answer nothing explains.
        ordered: those before it, in the closest order found that explains all earlier answers.
        unordered: the others that had been called by then.
    """

    message: str
    log_key: str
    operation: Operation
    ordered: tuple[Operation, ...] = ()
    unordered: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        super().__init__(*vars(self).values())  # pickled with these

    def __str__(self) -> str:
        return self.message


class UndecidedHistoryError(RuntimeError):
    """The history has more orders than were tried, or answers that no read of it shows enough to judge. It may be
    linearizable or not.

    Read a log whole once all its writers are done, or let more operations return positions: both leave fewer orders.
    """


@dataclass(frozen=True, slots=True)
class HistorySummary:
    """What was found linearizable.

    Attributes:
        operations: how many were ordered, those of unknown outcome included.
        unknown: how many had an unknown outcome.
        logs, processes: how many there were.
        states: how many states of the logs were tried.
    """

    operations: int
    unknown: int
    logs: int
    processes: int
    states: int


def contradiction(log_key: str, what: str, *operations: Operation) -> NotLinearizableError:
    """Return the error for operations that exclude each other, whenever they happened."""
    origin_ns = min(operation.start_ns for operation in operations)
    lines = [f"log {log_key!r}: {what}"]
    lines += [f"  {operation.described(origin_ns)}" for operation in operations]
    return NotLinearizableError("\n".join(lines), log_key, operations[-1], (), operations)
