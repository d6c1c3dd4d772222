"""Log a warning while this process waits long for an append lock, and name the holder: the wait may never end.

A thread of its own logs it. The waiting thread sleeps in the kernel and holds the mutex of its log, under which no
handler of log messages may run. The watching thread exists only while this process has to wait for locks now and then;
a lock that is free costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakSet

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from mpcheckpoint._logfile.append_state import PureAppendState

_LONG_S = 1.0
_LOOK_EVERY_S = 0.25
_IDLE_EXIT_S = 5.0
_TELL_EVERY_S = 60.0
_MOST_SHOWN = 200

logger = logging.getLogger("mpcheckpoint")


class LockWait:
    """The waits of this process for one append lock: a ``with`` block is one of them.

    Concurrency: for one thread at a time, like the lock file.
    """

    __slots__ = ("__weakref__", "log_key", "path", "since_s", "state", "told_s")

    def __init__(self, log_key: str, path: str) -> None:
        self.log_key = log_key
        self.path = path
        self.since_s = 0.0
        self.told_s = -_TELL_EVERY_S
        # What native code does with this log, if it does.
        self.state: PureAppendState | None = None

    def __enter__(self) -> None:
        self.since_s = time.monotonic()
        try:
            waits.begin(self)
        except BaseException:  # a Ctrl-C in there: no __exit__ follows
            waits.end(self)
            raise

    def __exit__(self, *_: object) -> None:
        waits.end(self)


class LockWaits:
    """All waits of this process for append locks, and the thread that watches them.

    Invariant: while there is a wait, there is a thread, unless none can be started. A wait is added before the thread
    is looked for; the thread takes itself out before it looks for waits once more.
    """

    def __init__(self) -> None:
        self._waiting: set[LockWait] = set()
        self._thread: threading.Thread | None = None
        # Those of native code, which says itself since when it waits, if at all.
        self._native: WeakSet[LockWait] = WeakSet()

    def begin(self, wait: LockWait) -> None:
        """Watch a wait. In few steps: every contended append comes here."""
        self._waiting.add(wait)
        if self._thread is None:
            self._start()

    def end(self, wait: LockWait) -> None:
        """Stop watching a wait."""
        self._waiting.discard(wait)

    def watch(self, wait: LockWait, state: PureAppendState) -> None:
        """Have native code wait by itself, as long as somebody watches: if this process has had to wait lately."""
        if self._thread is not None:
            wait.state = state
            self._native.add(wait)
            state.is_watched = (
                self._thread is not None
            )  # looked at after it was added: the thread may just be ending

    def reset_after_fork(self) -> None:
        """Forget the waits of the parent, and its thread, which does not exist here."""
        self._waiting = set()
        self._native = WeakSet()
        self._thread = None

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="mpcheckpoint-waits", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except BaseException as error:  # after a Ctrl-C it may not run
            self._thread = None
            if not isinstance(error, RuntimeError):  # no more threads: nothing is logged then
                raise

    def _run(self) -> None:
        quiet_since_s = time.monotonic()
        while True:
            time.sleep(_LOOK_EVERY_S)
            if self._thread is not threading.current_thread():
                return  # another one watches
            now_s = time.monotonic()
            waiting = self._all_waiting()
            for wait in waiting:
                if now_s - wait.since_s > _LONG_S and now_s - wait.told_s >= _TELL_EVERY_S:
                    self._tell(wait, now_s)
            if waiting:
                quiet_since_s = now_s
            elif now_s - quiet_since_s > _IDLE_EXIT_S:
                self._thread = None
                for wait in tuple(self._native):
                    if wait.state is not None:
                        wait.state.is_watched = False
                if not self._all_waiting():
                    return
                # A wait began in between. If it has started another thread, that one leaves.
                self._thread = threading.current_thread()

    def _all_waiting(self) -> list[LockWait]:
        waiting = list(self._waiting)
        for wait in tuple(self._native):
            since_ns = 0 if wait.state is None else wait.state.waiting_since_ns
            if since_ns:
                wait.since_s = since_ns / 1e9
                waiting.append(wait)
        return waiting

    def _tell(self, wait: LockWait, now_s: float) -> None:
        holder = system.lock_status(wait.path).holder
        waited_s = now_s - wait.since_s
        if wait not in self._all_waiting():
            return
        wait.told_s = now_s
        logger.warning(
            "waiting for the append lock of log %r for %.1f s; %s (%s)",
            wait.log_key,
            waited_s,
            _told_of(holder),
            wait.path,
        )


def _told_of(holder: system.LockHolder | None) -> str:
    if holder is None:
        return "it is unknown who holds it"
    if holder.command is None:
        return f"it was taken by process {holder.pid}, which is gone or hidden; one forked from it may still hold it"
    command = " ".join(holder.command.split())[:_MOST_SHOWN]  # a script given by -c has lines
    return f"process {holder.pid} holds it{' and is stopped' if holder.is_stopped else ''}: {command}"


waits = LockWaits()
