"""One command under way: what it writes, how it ends, and how it is made to."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._cli.maps.output import KeptOutput

_READ_BYTES = 64 * 1024
_LOOK_S = 0.1
_DRAIN_S = 1.0
_PEEK_S = 0.02


class _Stop(Enum):
    """Why nothing more is read."""

    CLOSED = "all who could write have closed their end"
    ENDED = "the command has ended; a daemon of its may hold the other end"
    LATE = "its time is up"


class Child:
    """A command that was started.

    It belongs to our process group, so that a Ctrl-C reaches it as it reaches us; or, where its time is limited, it
    leads one of its own: only a group can be ended whole, with all that the command has started.

    Invariant: a group's leader is not reaped before the group got its last signal; else its number might be that of
    strangers by then (held by ``reap`` alone reaping, and by whoever calls it holding the lock that signals are sent
    under).
    """

    def __init__(self, argv: Sequence[bytes], worker_fd: int, *, leads_group: bool) -> None:
        self._leads_group = leads_group
        # Rejected: stdout=PIPE. Python 3.11.3 forgets /dev/null where it can open that, and no pipe any more.
        reading, writing = os.pipe()
        self._pipe = os.fdopen(reading, "rb", buffering=0)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.STDOUT,
                pass_fds=[worker_fd],
                process_group=0 if leads_group else None,
            )
        except BaseException:
            self._pipe.close()
            raise
        finally:
            os.close(writing)

    @property
    def group(self) -> int:
        """The process group it was started in."""
        return self._process.pid if self._leads_group else os.getpgrp()

    def finish(self, kept: KeptOutput, timeout_s: float | None) -> bool:
        """Read all it writes, and wait for its end; return whether it came in time. It is still to be reaped."""
        due_s = None if timeout_s is None else time.monotonic() + timeout_s
        stop = self._read(kept, due_s)
        if stop is _Stop.LATE:
            return False
        while not self._has_ended():
            if due_s is None and hasattr(os, "waitid"):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            elif due_s is not None and time.monotonic() >= due_s:
                return False
            else:
                time.sleep(_PEEK_S)
        return True

    def end(self, kept: KeptOutput, patience_s: float) -> None:
        """End a group: ask it to, read what it still writes, and after a while, or as soon as all of it closed their
        output, end what is left. The command is still to be reaped."""
        self.signal(signal.SIGTERM)
        due_s = time.monotonic() + patience_s
        while self._read(kept, due_s) is _Stop.ENDED and time.monotonic() < due_s:
            time.sleep(_PEEK_S)  # the command itself was quick; others of its group may still be at it
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the command, or to its whole group. Requires: it was not reaped."""
        try:
            if self._leads_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)
        except ProcessLookupError:
            pass

    def reap(self) -> int:
        """Return its exit code, minus the signal if that ended it."""
        self._pipe.close()
        return self._process.wait()

    def _has_ended(self) -> bool:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._process.poll() is not None
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _read(self, kept: KeptOutput, due_s: float | None) -> _Stop:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        drained_s: float | None = None
        while True:
            now_s = time.monotonic()
            if drained_s is not None and now_s >= drained_s:
                return _Stop.ENDED
            if due_s is not None and now_s >= due_s and drained_s is None:
                return _Stop.LATE
            look_s = _LOOK_S if due_s is None else min(_LOOK_S, max(0.0, due_s - now_s))
            if poll.poll(0 if drained_s is not None else look_s * 1000):
                data = os.read(self._pipe.fileno(), _READ_BYTES)
                if not data:
                    return _Stop.CLOSED
                kept.add(data)
            elif drained_s is not None:
                return _Stop.ENDED  # what it had written was read
            elif self._has_ended():
                drained_s = now_s + _DRAIN_S
