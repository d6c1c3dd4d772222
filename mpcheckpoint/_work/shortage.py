"""What a machine can be short of when an item starts, and how a map goes on with what there is.

No item fails because of a shortage: it is given back, and starts pause. The number of items that may run at a time
falls to the number that run now. It grows again in steps, each after a pause, and a step that meets the shortage again
doubles the pause. So a map that may have five processes goes on with five, seldom tries a sixth, and is back to its
full width soon after the shortage ends.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from mpcheckpoint.errors import OutcomeUnknownError, ShortageError

# A map that makes no progress for so long stops.
STANDSTILL_S = 60.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
_JITTER = 0.25
_NO_THREAD = "can't start new thread"

T = TypeVar("T")
logger = logging.getLogger("mpcheckpoint")


class Shortage(NamedTuple):
    """What the machine is short of.

    Attributes:
        what: as in "short of ...".
        cause: the operating system's message.
        advice: what to do about it.
        number: the errno.
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
    """Return the shortage that an error at a start tells of; None if it is another error.

    Rejected: to take OutcomeUnknownError for one, whatever its errno. What may have been written is not tried again.
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
    """A shortage began, or ended (``is_over``) after ``lasted_s``."""

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


def retry_while_short(
    action: Callable[[], T], patience_s: float, notify: Callable[[ShortageEvent], None] = lambda _: None
) -> T:
    """Return what ``action`` returns; on a shortage try again, after ever longer pauses.

    Raises: what ``action`` raised, if the shortage lasts for ``patience_s``.
    """
    started_s, pause_s = time.monotonic(), FIRST_PAUSE_S
    met: Shortage | None = None
    while True:
        try:
            found = action()
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None or time.monotonic() - started_s >= patience_s:
                raise
            if met is None:
                notify(ShortageEvent(shortage))
            met = shortage
        else:
            if met is not None:
                notify(ShortageEvent(met, is_over=True, lasted_s=time.monotonic() - started_s))
            return found
        time.sleep(jittered(pause_s))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def outlast_shortage(action: Callable[[], T], notify: Callable[[ShortageEvent], None] = log_shortage) -> T:
    """Return what ``action`` returns, without which a map cannot go on; wait while the machine is short of something.

    Raises:
        ShortageError: the shortage lasted for a minute.
    """
    try:
        return retry_while_short(action, STANDSTILL_S, notify)
    except Exception as error:
        shortage = shortage_of(error)
        if shortage is None:
            raise
        raise shortage_error(shortage) from error


class StartThrottle:
    """Limits how many items of a map run at a time while the machine is short of something.

    Invariant: ``_limit`` is None exactly while there is no shortage (held by tests/map/test_map_shortage.py).
    """

    def __init__(self, most: int, notify: Callable[[ShortageEvent], None] = log_shortage) -> None:
        """Begin without a limit, for workers that take ``most`` items at a time."""
        self._most = most
        self._notify = notify
        self._limit: int | None = None
        self._shortage: Shortage | None = None
        self._pause_s = FIRST_PAUSE_S
        self._due_s = 0.0  # when the limit may grow
        self._steps = 0  # since the last failed start
        self._started_s = 0.0  # when the shortage began
        self._still_since_s: float | None = None
        self._has_moved = False  # since the last step
        self._is_getting_on = False  # since the last failed start

    def has_room(self, running: int) -> bool:
        """Return whether another item may start while ``running`` others run."""
        if self._limit is not None and time.monotonic() >= self._due_s:
            self._step(running)
        return self._limit is None or running < self._limit

    def patience_s(self, patience_s: float | None, running: int, *, is_wanted: bool) -> float | None:
        """Return how long to wait for a report, given how long one would wait without a shortage.

        Not at all if an item waits to start (``is_wanted``) and there is room for it now.
        """
        if self.has_room(running) and is_wanted:
            return 0.0
        if self._limit is None:
            return patience_s
        left_s = max(0.0, self._due_s - time.monotonic())
        return left_s if patience_s is None else min(patience_s, left_s)

    def has_failed(self, shortage: Shortage, running: int, moves: Callable[[], bool]) -> None:
        """Take note that an item could not start while ``running`` others run.

        ``moves`` returns whether other processes made progress since it was last called. It is called only if nothing
        runs here.

        Raises:
            ShortageError: for a minute nothing ran and nothing moved.
        """
        now_s = time.monotonic()
        is_news = self._limit is None
        if is_news:
            self._started_s, self._pause_s = now_s, FIRST_PAUSE_S
        elif not running and self._is_getting_on:
            self._pause_s = FIRST_PAUSE_S  # a coincidence: the map must not stand still for long
        elif self._steps:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if is_news or self._steps or not running:  # else it is one of several that started together
            self._due_s = now_s + jittered(self._pause_s)
        self._is_getting_on = False
        self._shortage, self._steps = shortage, 0
        self._limit = running if self._limit is None else min(self._limit, running)
        if is_news:
            self._notify(ShortageEvent(shortage))
        is_moving = bool(running) or moves()
        if is_moving:
            self._still_since_s = None
        elif self._still_since_s is None:
            self._still_since_s = now_s
        elif now_s - self._still_since_s >= STANDSTILL_S:
            raise shortage_error(shortage)

    def has_moved(self) -> None:
        """Take note of progress."""
        self._still_since_s = None
        self._has_moved = self._is_getting_on = True

    def _step(self, running: int) -> None:
        """Allow some more, if the last step was used and met no shortage."""
        assert self._limit is not None
        assert self._shortage is not None
        now_s = time.monotonic()
        if self._steps and (running or self._has_moved):
            self._pause_s = FIRST_PAUSE_S
            if self._limit >= self._most:
                self._limit = self._still_since_s = None
                lasted_s = now_s - self._started_s
                self._notify(ShortageEvent(self._shortage, is_over=True, lasted_s=lasted_s))
                return
        if not self._steps or running >= self._limit or self._has_moved:
            self._limit = min(self._limit + max(1, self._limit // 2), self._most)
        self._steps += 1
        self._has_moved = False
        self._due_s = now_s + jittered(self._pause_s)


def jittered(pause_s: float) -> float:
    """Return a pause shortened by up to a quarter at random: what fails together must not try again together."""
    return pause_s * (1 - random.uniform(0, _JITTER))
