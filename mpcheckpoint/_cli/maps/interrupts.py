"""Signals that end a map: Ctrl-C, SIGTERM, SIGHUP."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOST_BYTES = 4096
_AGAIN_S = 1.0


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C asked us to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


class Interrupts:
    """Raise in the main thread what the first signal asks for, and let every thread know at once of any.

    Invariant: one signal raises, later ones are counted; unless the end has not begun a second later, as where the
    exception was lost in a finalizer. So what ends a map runs to its end, at whatever instant the second Ctrl-C comes,
    and hurries if it did (held by tests/map/test_map_endings.py).

    The interpreter raises in the main thread, when that gets to run. A pipe that its handler writes to, in whatever
    thread the signal arrives, tells sooner: a command interrupted with us must not be taken for one that failed.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._before: dict[int, Any] = {}
        self._calls = 0
        self._bytes = 0
        self._is_obeyed = False
        self._raises_from_s = 0.0

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or the background of a script
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._reading)
        os.close(self._writing)

    @property
    def are_urgent(self) -> bool:
        """Whether another signal has come while the first one was obeyed. For any thread."""
        return self._calls > 1 or self._bytes > 1

    def obey(self) -> None:
        """Take note that the end has begun, if a signal has come: from now on others are counted only."""
        self._is_obeyed = self._calls > 0

    def let_end(self) -> None:
        """Have any further signal end this process at once, if one has come: all that is left to do is ours alone."""
        if self._calls:
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)

    def have_come(self, timeout_s: float) -> bool:
        """Return whether a signal has come, or comes within so long. For any thread."""
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def _take(self, signal_number: int, frame: object) -> None:
        del frame
        # One call of this may stand for several signals, if another thread received them; the pipe has a byte of each,
        # or will have: it may be written a moment after.
        signals = 0
        with suppress(BlockingIOError):
            signals = sum(byte in _ENDING for byte in os.read(self._reading, _MOST_BYTES))
        os.write(self._writing, b"\0")  # it stays readable
        self._calls, self._bytes = self._calls + 1, self._bytes + signals
        if not self._is_obeyed and time.monotonic() >= self._raises_from_s:
            self._raises_from_s = time.monotonic() + _AGAIN_S
            self._calls, self._bytes = 1, signals
            raise KeyboardInterrupt if signal_number == signal.SIGINT else Stopped(signal_number)
