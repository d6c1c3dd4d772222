"""What a handle holds of each log, and what it holds of none once it is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from mpcheckpoint._store.protocol import Reader, StoredLog
    from mpcheckpoint._view.view import LogView
    from mpcheckpoint.errors import ClosedError


class LogState(NamedTuple):
    """One log in one handle: where it is stored, how far it was read, and what came of that."""

    stored: StoredLog
    reader: Reader
    view: LogView


def taken_out(states: Mapping[str, LogState], there: Collection[str]) -> list[str]:
    """Return the logs that a restore has taken out, of those that are not ``there``: of them the quarantine has all."""
    return [
        log_key
        for log_key, state in states.items()
        if log_key not in there and any(repair.offset == 0 for repair in state.stored.repairs())
    ]


class ClosedStates(dict[str, Any]):
    """What a closed handle holds of its logs. A thread that was about to use one is told that it is closed."""

    def __init__(self, error: Callable[[], ClosedError]) -> None:
        super().__init__()
        self._error = error

    def __missing__(self, log_key: str) -> NoReturn:
        raise self._error()
