"""The memory of a worker process, looked at while an item's function runs.

Rejected: a limit of the kernel's on address space (RLIMIT_AS). Threads, mapped files and graphics cards reserve many
times what they use, so it ends what is small; and what it ends fails in any way, most often not saying why. Rejected,
too: to look from the process that started this one. It cannot tell whether the item has just ended, and the signal
would meet the next one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S = 0.05
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class OverMemory(NamedTuple):
    """The last message of a worker process that ends itself for the memory of the item that it runs."""

    used_bytes: int
    duration_s: float


class MemoryWatch:
    """Ends this process if it, with what it started, has more memory than allowed while an item's function runs.

    Locking: ``_lock`` guards ``_started_s``, and is held from the last look whether the function runs to the end of the
    process. So the function that ends at that moment either ends in time, or never.
    """

    def __init__(self, limit_bytes: int, tell: Callable[[OverMemory], None]) -> None:
        self._limit_bytes = limit_bytes
        self._tell = tell
        self._lock = threading.Lock()
        self._started_s: float | None = None

    def start(self) -> None:
        """Start the thread that looks. Signals are for the thread that runs the items."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            threading.Thread(target=self._look, name="mpcheckpoint-memory", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def begin(self) -> None:
        """Take note that the function begins."""
        self._started_s = time.monotonic()

    def end(self) -> None:
        """Take note that it has ended. Does not return if the process is being ended for it."""
        with self._lock:
            self._started_s = None

    def _look(self) -> None:
        pid = os.getpid()
        while True:
            time.sleep(_LOOK_S)
            if self._started_s is None:
                continue
            used_bytes = system.memory_above(pid, self._limit_bytes)
            if used_bytes is None:
                continue
            with self._lock:
                if self._started_s is not None:
                    self._tell(OverMemory(used_bytes, time.monotonic() - self._started_s))
                    os.kill(pid, signal.SIGKILL)
