"""What a machine can be short of at a start, and how a map goes on with what there is.

A shortage is nobody's failure: the item is given back, and starts pause. What may run at a time falls to what runs, and
grows again in steps, each after a pause; a step that meets the shortage again doubles the pause. So a map whose limit
is five processes goes on with five, asks seldom for a sixth, and is back to full width soon after it is allowed to.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mpcheckpoint.errors import OutcomeUnknownError, ShortageError

if TYPE_CHECKING:
    from collections.abc import Callable

# A map that nothing moves for so long stops.
STANDSTILL_S = 60.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
_JITTER = 0.25
_NO_THREAD = "can't start new thread"

T = TypeVar("T")
logger = logging.getLogger("mpcheckpoint")


class Shortage(NamedTuple):
    """What there is too little of.

    Attributes:
        what: of what, as one says "short of ...".
        cause: the words of the operating system.
        advice: what to do about it.
        number: its errno.
    """

    what: str
    cause: str
    advice: str
    number: int

    def __str__(self) -> str:
        return f"short of {self.what} ({self.cause})"


_KINDS = {
    errno.EMFILE: ("open files", "raise the limit on the open files of a process (ulimit -n)"),
    errno.ENFILE: ("open files on this machine", "raise its limit (sysctl fs.file-max), or close some"),
    errno.EAGAIN: (
        "processes or threads",
        "raise their limit (ulimit -u; in a container or service its limit on pids or tasks)",
    ),
    errno.ENOMEM: (
        "memory",
        "free some, or raise its limit (ulimit -v; in a container or service its limit)",
    ),
}


def shortage_of(error: BaseException) -> Shortage | None:
    """Return what an error that came up at a start says there is too little of; None if it is another error.

    Rejected: to take "outcome unknown" for one, whatever its errno: what may have been written is not tried again.
    """
    if isinstance(error, OutcomeUnknownError):
        return None
    if isinstance(error, OSError) and error.errno in _KINDS:
        what, advice = _KINDS[error.errno]
        return Shortage(
            what, getattr(error, "reason", "") or error.strerror or str(error), advice, error.errno
        )
    if isinstance(error, RuntimeError) and str(error).startswith(_NO_THREAD):
        return Shortage("threads", str(error), _KINDS[errno.EAGAIN][1], errno.EAGAIN)
    if isinstance(error, MemoryError):
        what, advice = _KINDS[errno.ENOMEM]
        return Shortage(what, str(error) or "out of memory", advice, errno.ENOMEM)
    return None


def shortage_error(shortage: Shortage) -> ShortageError:
    """Return the error that stops a map."""
    error = ShortageError(
        f"{shortage} for {STANDSTILL_S:g} s in which nothing ran. No item has failed for it; what is done is recorded. "
        f"{shortage.advice[:1].upper()}{shortage.advice[1:]}, then start the same map again: it carries on",
        reason=f"short of {shortage.what}",
    )
    error.errno = shortage.number
    return error


class ShortageEvent(NamedTuple):
    """News of a shortage: it has begun, or, with ``is_over``, it is over. ``lasted_s`` is how long ago it began."""

    shortage: Shortage
    is_over: bool = False
    lasted_s: float = 0.0

    def __str__(self) -> str:
        if self.is_over:
            return f"no longer short of {self.shortage.what}, after {self.lasted_s:.1f} s"
        return (
            f"{self.shortage}: starts pause, and go on with what there is; no item fails for it. "
            f"To end it, {self.shortage.advice}"
        )


def log_shortage(event: ShortageEvent) -> None:
    """Log news of a shortage."""
    logger.warning("%s", event)


def patiently(
    action: Callable[[], T], patience_s: float, tell: Callable[[ShortageEvent], None] | None = None
) -> T:
    """Return what ``action`` returns; where a shortage keeps it from that, try again, ever further apart.

    Raises: what ``action`` raised, where it met a shortage for so long.
    """
    begun_s, pause_s = time.monotonic(), FIRST_PAUSE_S
    short: Shortage | None = None
    while True:
        try:
            found = action()
        except Exception as error:
            shortage, is_news = shortage_of(error), short is None
            if shortage is None or time.monotonic() - begun_s >= patience_s:
                raise
            short = shortage
        else:
            if short is not None and tell is not None:
                tell(ShortageEvent(short, is_over=True, lasted_s=time.monotonic() - begun_s))
            return found
        if is_news and tell is not None:
            tell(ShortageEvent(short))
        time.sleep(_jittered(pause_s))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def begun(action: Callable[[], T], tell: Callable[[ShortageEvent], None] = log_shortage) -> T:
    """Return what ``action`` returns, which a map needs to go on; wait where the machine is short of what it takes.

    Raises:
        ShortageError: it was of no use for a minute.
    """
    try:
        return patiently(action, STANDSTILL_S, tell)
    except Exception as error:
        shortage = shortage_of(error)
        if shortage is None:
            raise
        raise shortage_error(shortage) from error


class Starts:
    """How many items of a map may be under way, while the machine is short of something.

    Invariant: ``_limit`` is None exactly while there is no shortage (held by tests/map/test_map_shortage.py).
    """

    def __init__(self, most: int, tell: Callable[[ShortageEvent], None] = log_shortage) -> None:
        """Judge for workers that take ``most`` items at a time."""
        self._most = most
        self._tell = tell
        self._limit: int | None = None
        self._shortage: Shortage | None = None
        self._pause_s = FIRST_PAUSE_S
        self._due_s = 0.0
        self._steps = 0  # since the last item that could not be started
        self._begun_s = 0.0
        self._still_since_s: float | None = None
        self._has_moved = False  # since the last step
        self._is_getting_on = False  # since the last item that could not be started

    def has_room(self, under_way: int) -> bool:
        """Return whether another item may be started beside those that are under way."""
        if self._limit is not None and time.monotonic() >= self._due_s:
            self._step(under_way)
        return self._limit is None or under_way < self._limit

    def patience_s(self, patience_s: float | None, under_way: int) -> float | None:
        """Return how long to wait for a report, given how long one would without a shortage."""
        self.has_room(under_way)  # what is due now is not waited for
        if self._limit is None:
            return patience_s
        left_s = max(0.0, self._due_s - time.monotonic())
        return left_s if patience_s is None else min(patience_s, left_s)

    def has_failed(self, shortage: Shortage, under_way: int, moves: Callable[[], bool]) -> None:
        """Take note of an item that could not be started, while so many others are under way.

        ``moves`` tells whether anything has got on elsewhere since it was asked last; asked only where nothing is
        under way.

        Raises:
            ShortageError: for a minute nothing was under way and nothing moved.
        """
        now_s = time.monotonic()
        is_news = self._limit is None
        if is_news:
            self._begun_s, self._pause_s = now_s, FIRST_PAUSE_S
        elif not under_way and self._is_getting_on:
            self._pause_s = FIRST_PAUSE_S  # a coincidence: nothing is to stand still for long
        elif self._steps:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if is_news or self._steps or not under_way:  # else one of several that were started at once
            self._due_s = now_s + _jittered(self._pause_s)
        self._is_getting_on = False
        self._shortage, self._steps = shortage, 0
        self._limit = under_way if self._limit is None else min(self._limit, under_way)
        if is_news:
            self._tell(ShortageEvent(shortage))
        is_moving = bool(under_way) or moves()
        if is_moving:
            self._still_since_s = None
        elif self._still_since_s is None:
            self._still_since_s = now_s
        elif now_s - self._still_since_s >= STANDSTILL_S:
            raise shortage_error(shortage)

    def has_moved(self) -> None:
        """Take note that something has got on."""
        self._still_since_s = None
        self._has_moved = self._is_getting_on = True

    def _step(self, under_way: int) -> None:
        """Allow some more, if what was allowed last was made use of and has met no shortage."""
        assert self._limit is not None
        assert self._shortage is not None
        now_s = time.monotonic()
        if self._steps and (under_way or self._has_moved):
            self._pause_s = FIRST_PAUSE_S
            if self._limit >= self._most:
                self._limit = self._still_since_s = None
                self._tell(ShortageEvent(self._shortage, is_over=True, lasted_s=now_s - self._begun_s))
                return
        if not self._steps or under_way >= self._limit or self._has_moved:
            self._limit = min(self._limit + max(1, self._limit // 2), self._most)
        self._steps += 1
        self._has_moved = False
        self._due_s = now_s + _jittered(self._pause_s)


def _jittered(pause_s: float) -> float:
    """Return a pause shortened at random: maps that ran short together do not ask again together."""
    return pause_s * (1 - random.uniform(0, _JITTER))
