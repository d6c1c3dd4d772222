"""A mutex that knows its owner, so that re-entry raises instead of hanging."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint.errors import ReentrancyError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_s(timeout_s: float | None) -> float:
    """Return a time to wait as locks of Python take it: -1 is for ever, and they know none of centuries."""
    return -1 if timeout_s is None else max(0.0, min(timeout_s, threading.TIMEOUT_MAX))


def run_and_end(operation: Callable[[], T], end: Callable[[], object]) -> T:
    """Return what an operation returns, and do what ends it, whatever comes; that can be done again.

    Not a context manager of Python: a Ctrl-C as that begins or ends leaves it unfinished until the exception is
    dropped, and what it holds held until then.
    """
    try:
        return operation()
    finally:
        try:
            end()
        except BaseException:  # a Ctrl-C in there
            end()
            raise


class HeldElsewhereError(Exception):
    """Other threads held a mutex for as long as it was waited for."""


class Mutex:
    """Keep the threads of one process apart.

    A signal handler or finalizer runs in the thread it interrupts: waiting there for a mutex of that same thread would
    never end, and going on would find half-made state.

    The lock inside is an RLock because its owner is set in the same uninterruptible step that takes it: a Ctrl-C right
    after ``acquire`` leaves a mutex that ``release_if_owned`` can still give back.
    """

    __slots__ = ("_what", "lock")

    def __init__(self, what: str) -> None:
        # Any: the type stubs leave out _is_owned, which threading.Condition relies on too.
        self.lock: Any = threading.RLock()
        self._what = what

    def guard(self) -> Any:
        """Return what to hold in a ``with`` statement. It is taken and given back by the interpreter itself, so no
        signal can come between.

        Raises:
            ReentrancyError: if this thread holds it already.
        """
        self.refuse_reentry()
        return self.lock

    def run(self, operation: Callable[[], T], timeout_s: float | None) -> T:
        """Return what an operation returns, which is done with the mutex held; whatever comes, it is given back.

        Raises:
            ReentrancyError: this thread holds it already.
            HeldElsewhereError: other threads held it for ``timeout_s`` seconds.
        """
        self.refuse_reentry()

        def held() -> T:
            if not self.acquire(timeout_s):
                raise HeldElsewhereError
            return operation()

        return run_and_end(held, self.release_if_owned)

    def acquire(self, timeout_s: float | None) -> bool:
        """Take the mutex; return False if ``timeout_s`` seconds did not suffice.

        Requires: ``refuse_reentry`` was called, and then a ``try`` entered whose ``finally`` does what that of ``run``
        does.
        """
        taken: bool = self.lock.acquire(timeout=wait_s(timeout_s))
        return taken

    def release_if_owned(self) -> None:
        """Give the mutex back if this thread holds it."""
        if self.lock._is_owned():
            self.lock.release()

    def is_free(self) -> bool:
        """Return whether no other thread holds the mutex at this moment."""
        taken: bool = self.lock.acquire(blocking=False)
        if taken:
            self.lock.release()
        return taken

    def is_owned(self) -> bool:
        """Return whether this thread holds the mutex."""
        owned: bool = self.lock._is_owned()
        return owned

    def refuse_reentry(self) -> None:
        """Raise ReentrancyError if this thread holds the mutex already."""
        if self.lock._is_owned():
            raise ReentrancyError(
                f"{self._what} was entered again by the thread that is inside it, from a signal handler or a "
                "finalizer; do the call from ordinary code",
                reason="re-entry",
            )
