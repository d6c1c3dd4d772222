"""In which order outcomes are given out."""

from __future__ import annotations

import logging
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mpcheckpoint._work.shortage import log_shortage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._work.deaths import Death
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.retries import Retry
    from mpcheckpoint._work.shortage import ShortageEvent

_MOST_HELD = 1000


class OnError(Enum):
    """What a failed item means for the map."""

    RECORD = "record"
    HALT = "halt"
    RAISE = "raise"


def _log_wait(text: str, is_left: bool) -> None:
    logging.getLogger("mpcheckpoint").log(logging.WARNING if is_left else logging.INFO, "%s", text)


class Options(NamedTuple):
    """How outcomes are given out, who is told of attempts that failed, deaths, shortages and of what is waited for, who
    knows how many items there are, and how many results in a row no JSON may be able to hold."""

    ordered: bool = False
    on_error: OnError = OnError.RECORD
    include_done: bool = True
    on_retry: Callable[[Retry], None] = lambda _: None
    total: Callable[[], int | None] = lambda: None
    max_invalid_results: int | None = None
    on_wait: Callable[[str, bool], None] = _log_wait
    on_death: Callable[[Death], None] = lambda _: None
    on_shortage: Callable[[ShortageEvent], None] = log_shortage


class Finished(NamedTuple):
    """What is ready for one input; no outcome where it is not to be given out."""

    outcome: Outcome | None
    raised: BaseException | None = None


class Outlet(Protocol):
    """Holds what is ready until it is asked for."""

    def put(self, place: int, finished: Finished) -> None:
        """Take in what is ready for the input at ``place``."""

    def take(self) -> Finished | None:
        """Return what is to be given out next; None if that is not ready."""

    def has_room(self, place: int) -> bool:
        """Return whether the input at ``place`` may be worked on: what is held is bounded."""


class AsTheyCome:
    """Give out what is ready first, first."""

    def __init__(self) -> None:
        self._ready: deque[Finished] = deque()

    def put(self, place: int, finished: Finished) -> None:
        """Take in what is ready."""
        del place
        if finished.outcome is not None:
            self._ready.append(finished)

    def take(self) -> Finished | None:
        """Return what is next, if it is ready."""
        return self._ready.popleft() if self._ready else None

    def has_room(self, place: int) -> bool:
        """Return whether there is room for what becomes of the input at ``place``."""
        del place
        return len(self._ready) < _MOST_HELD


class InOrder:
    """Give out in the order of the inputs, which may be ahead of the slowest by so many."""

    def __init__(self) -> None:
        self._ready: dict[int, Finished] = {}
        self._next = 0

    def put(self, place: int, finished: Finished) -> None:
        """Take in what is ready."""
        self._ready[place] = finished

    def take(self) -> Finished | None:
        """Return what is next, if it is ready."""
        while self._next in self._ready:
            finished = self._ready.pop(self._next)
            self._next += 1
            if finished.outcome is not None:
                return finished
        return None

    def has_room(self, place: int) -> bool:
        """Return whether there is room for what becomes of the input at ``place``."""
        return place - self._next < _MOST_HELD
