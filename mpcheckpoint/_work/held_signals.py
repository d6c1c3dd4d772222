"""Steps that a Ctrl-C must not cut in two: it comes after them."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

from mpcheckpoint._store.process import process

if TYPE_CHECKING:
    from types import FrameType

# Programs have handlers of these that raise.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


class HeldSignals:
    """Hold the program's handlers of Ctrl-C and the like back while a ``with`` block lasts; then call them.

    For code of others that takes locks in Python, as ``threading`` and executors do: a handler that raises at the wrong
    instant leaves such a lock taken, and whoever needs it next hangs. The block must be short. Should it wait all the
    same, the second signal of a kind is not held.

    Rejected: to block the signals. Another thread takes them then, and the handler still runs in the main thread.

    Concurrency: handlers run in the main thread alone, so elsewhere, and in a child that is forked meanwhile, this does
    nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._held: dict[int, FrameType | None] = {}
        # Invariant: while it is false, ``_take`` does what the handler does that it stands for. So it may stay in that
        # one's place (held by tests/map/test_held_signals.py).
        self._holds = False

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        process.register(self)
        self._holds = True
        try:
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._take)
        except ValueError:  # the main thread of another interpreter: no handler runs there
            self._handlers.clear()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._pass_on()

    def reset_after_fork(self) -> None:
        """In a forked child: hold nothing."""
        self._held = {}
        if self._holds and threading.current_thread() is threading.main_thread():
            self._end()

    def _end(self) -> None:
        self._holds = False
        try:
            self._restore()
        except BaseException:  # of a signal that came since
            self._restore()
            raise

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._take:
                signal.signal(number, handler)

    def _pass_on(self) -> None:
        """Call the handlers of what was held: all of them, though one raises."""
        if self._held:
            number = next(iter(self._held))
            try:
                # Nothing here goes on referring to the frame: what it refers to is to end with the exception.
                self._handlers[number](number, self._held.pop(number))
            finally:
                self._pass_on()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._holds and number not in self._held:
            self._held[number] = frame
        else:
            self._handlers[number](number, frame)
