"""Signals that end a long command: Ctrl-C, SIGTERM, SIGHUP."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import Any, Self

from mpcheckpoint._cli.lost_ctrl_c import LostCtrlC

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOST_BYTES = 4096
_AGAIN_S = 1.0


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C asked us to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


def exit_code_of(error: KeyboardInterrupt) -> int:
    """Return the exit code of a command that a signal ended."""
    return 128 + (error.signal_number if isinstance(error, Stopped) else signal.SIGINT)


class Interrupts:
    """Raise the first signal as an exception in the main thread, and let every thread know of any signal at once.

    Invariant: one signal raises, later ones are only counted. So the end of a map runs through, at whatever instant the
    second Ctrl-C comes, and hurries after it (held by tests/map/test_map_endings.py).

    An exception that comes in a finalizer is lost: it is raised again a moment later. If the end has not begun after a
    second all the same, the next signal raises again.

    The interpreter raises once the main thread gets to run. Its handler also writes to a pipe, in whatever thread the
    signal arrives, and that tells sooner: a command that was interrupted with us must not be taken for a failed one.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._before: dict[int, Any] = {}
        self._lost = LostCtrlC(self._raise_again, lambda: self._calls > 0)
        self._calls = 0
        self._bytes = 0
        self._is_obeyed = False
        self._raises_from_s = 0.0

    def __enter__(self) -> Self:
        self._lost.__enter__()
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or the background of a script
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._lost.__exit__()
        os.close(self._reading)
        os.close(self._writing)

    @property
    def are_urgent(self) -> bool:
        """Whether another signal has come since the first one. For any thread."""
        return self._calls > 1 or self._bytes > 1

    def obey(self) -> None:
        """Say that the end has begun, if a signal has come: from now on signals are only counted."""
        self._is_obeyed = self._calls > 0

    def let_end(self) -> None:
        """Let any further signal end this process at once, if one has come: nothing is left that must not be cut."""
        if self._calls:
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)

    def have_come(self, timeout_s: float) -> bool:
        """Return whether a signal has come, or comes within ``timeout_s``. For any thread."""
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def _take(self, signal_number: int, frame: object) -> None:
        del frame
        # If other threads received signals, one call may stand for several. The pipe has a byte for each, or will have
        # a moment later.
        signals = 0
        with suppress(BlockingIOError):
            signals = sum(byte in ENDING for byte in os.read(self._reading, _MOST_BYTES))
        os.write(self._writing, b"\0")  # it stays readable
        self._calls, self._bytes = self._calls + 1, self._bytes + signals
        if not self._is_obeyed and time.monotonic() >= self._raises_from_s:
            self._raises_from_s = time.monotonic() + _AGAIN_S
            self._calls, self._bytes = 1, signals
            raise KeyboardInterrupt if signal_number == signal.SIGINT else Stopped(signal_number)

    def _raise_again(self, error: KeyboardInterrupt) -> None:
        if not self._is_obeyed:
            raise error
