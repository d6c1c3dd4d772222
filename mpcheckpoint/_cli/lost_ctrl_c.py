"""A Ctrl-C whose exception comes in a finalizer: Python prints it, and the command goes on."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_AGAIN_S = 0.02


def _raise(error: KeyboardInterrupt) -> None:
    raise error


class LostCtrlC:
    """Raise an exception of a signal that a finalizer lost again a moment later, while a ``with`` block lasts.

    In a thread that is not the main one it does nothing: no signal is handled there.
    """

    def __init__(
        self,
        again: Callable[[KeyboardInterrupt], None] = _raise,
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        """Do nothing yet.

        Args:
            again: called, in the main thread, with the exception that is to be raised again.
            is_ours: whether an exception that was lost is to be raised again; else it is told of as any other.
        """
        self._again = again
        self._is_ours = is_ours
        self._hook_before: Any = None
        self._alarm_before: Any = None  # known once it was replaced

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._hook_before, sys.unraisablehook = sys.unraisablehook, self._take
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook_before is not None:
            sys.unraisablehook = self._hook_before
        if self._alarm_before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._alarm_before)

    def _take(self, lost: sys.UnraisableHookArgs) -> None:
        error = lost.exc_value
        if not isinstance(error, KeyboardInterrupt) or not self._is_ours():
            self._hook_before(lost)
            return
        # Rejected: to raise the signal itself again. Its handler would run in here, and what it raises be lost.
        before = signal.signal(signal.SIGALRM, lambda *_: self._again(error.with_traceback(None)))
        self._alarm_before = self._alarm_before or before
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
