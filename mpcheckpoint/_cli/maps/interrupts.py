"""Signals that end a map: Ctrl-C, SIGTERM, SIGHUP."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from types import TracebackType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C asked us to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


class Interrupts:
    """Raise in the main thread what other signals than Ctrl-C ask for, and let every thread know at once of any.

    The interpreter raises in the main thread, when that gets to run. A pipe that its handler writes to, in whatever
    thread the signal arrives, tells sooner: a command interrupted with us must not be taken for one that failed.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                self._before[number] = signal.signal(number, _stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._reading)
        os.close(self._writing)

    def have_come(self, timeout_s: float) -> bool:
        """Return whether a signal has come, or comes within so long. For any thread."""
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


def _stop(signal_number: int, frame: object) -> NoReturn:
    del frame
    raise Stopped(signal_number)
