"""What a map is to do: what its workers need to know, and what the caller chose."""

from __future__ import annotations

import logging
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mpcheckpoint._work.retries import Death, Retries, Retry
from mpcheckpoint._work.shortage import ShortageEvent, log_shortage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._progress.snapshot import ProgressDisplay
    from mpcheckpoint._store.worker_protocol import Worker
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._work.halt import Halt
    from mpcheckpoint._work.outcomes import Result
    from mpcheckpoint._work.permit import Permit
    from mpcheckpoint._work.run_again import RunAgain
    from mpcheckpoint._work.runs import JoinedRun

_MOST_LOGS = 8


class ItemCall(Protocol):
    """What is done with an item."""

    def __call__(self, item: Any, worker: Worker) -> Result | None:
        """Return the result; None if the item was given up and is to be given back.

        Raises only interrupts, and a shortage that kept it from starting (see ``shortage_of``).
        """


class Plan(NamedTuple):
    """What a worker needs to know of a map. Pickles if ``call`` does."""

    log: LogRef
    run: JoinedRun
    call: ItemCall
    retries: Retries = Retries()
    permit: Permit | None = None  # if failures end the map


class LogRef:
    """A log that pickles: each process opens it once, however often it is sent there."""

    def __init__(self, log: LogHandle) -> None:
        self.log = log

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, self.log.without_default()  # what a map records is JSON already


@lru_cache(maxsize=_MOST_LOGS)
def _opened(reopen: Callable[..., LogHandle], arguments: tuple[Any, ...]) -> LogRef:
    return LogRef(reopen(*arguments))


class OnError(Enum):
    """What a failed item means for the map."""

    RECORD = "record"
    HALT = "halt"
    RAISE = "raise"


def _log_wait(text: str, is_left: bool) -> None:
    logging.getLogger("mpcheckpoint").log(logging.WARNING if is_left else logging.INFO, "%s", text)


class Options(NamedTuple):
    """How outcomes are given out, and what is called when something happens.

    Attributes:
        total: returns the number of items; None while it is unknown.
        halt: the failures that end the map; None: none do.
        progress: where it is shown how far the map is.
        max_invalid_results: stop after so many results in a row that are no JSON value.
        again: which outcomes that are there already do not count; None: all of them do.
        on_wait: called with a text, and whether a killed map left what is waited for.
    """

    ordered: bool = False
    on_error: OnError = OnError.RECORD
    include_done: bool = True
    on_retry: Callable[[Retry], None] = lambda _: None
    total: Callable[[], int | None] = lambda: None
    max_invalid_results: int | None = None
    on_wait: Callable[[str, bool], None] = _log_wait
    on_death: Callable[[Death], None] = lambda _: None
    on_shortage: Callable[[ShortageEvent], None] = log_shortage
    again: RunAgain | None = None
    halt: Halt | None = None
    progress: ProgressDisplay | None = None
