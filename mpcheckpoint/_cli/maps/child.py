"""One command that runs: its output, how it ends, and how it is made to end."""

from __future__ import annotations

import os
import select
import signal
import time
from enum import Enum
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.byte_text import to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._cli.maps.spawn import Spawner
    from mpcheckpoint._store.worker_protocol import Worker

_READ_BYTES = 64 * 1024
_LOOK_S = 0.1
_MEMORY_LOOK_S = 0.05
_DRAIN_S = 1.0
_PEEK_S = 0.02
_LEFTOVERS_S = 0.05
# Leftovers get so long to end by themselves, then to obey SIGTERM, then to be gone after SIGKILL.
_LEFTOVER_STAGES = ((0.5, signal.SIGTERM), (1.5, signal.SIGKILL), (1.0, signal.SIGKILL))


class KeptOutput:
    """The beginning and the end of what a command writes, in bounded memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._most_head = (limit_bytes + 1) // 2
        self._most_end = limit_bytes // 2
        self._head = bytearray()
        self._end = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Add what the command wrote next."""
        self._total += len(data)
        room = self._most_head - len(self._head)
        self._head += data[:room]
        self._end += data[room:]
        if len(self._end) > 2 * self._most_end:  # not at each call: that would copy all of it each time
            self._trim()

    def fields(self) -> dict[str, object]:
        """Return what is recorded: ``output``; if some was left out, also ``output_end`` and ``left_out_bytes``."""
        self._trim()
        left_out = self._total - len(self._head) - len(self._end)
        if left_out == 0:
            return {"output": to_text(bytes(self._head + self._end))}
        return {
            "output": to_text(bytes(self._head)),
            "output_end": to_text(bytes(self._end)),
            "left_out_bytes": left_out,
        }

    def _trim(self) -> None:
        del self._end[: max(0, len(self._end) - self._most_end)]


class End(Enum):
    """How a command came to its end, or is to come to it."""

    ENDED = "by itself"
    LATE = "its time is up"
    OVER_MEMORY = "it has more memory than allowed"


class _Stop(Enum):
    """Why nothing more is read."""

    CLOSED = "all writers have closed their end"
    ENDED = "the command has ended; a daemon that it started may hold the other end"
    LATE = "its time is up"
    OVER_MEMORY = "it has more memory than allowed"


class Child:
    """A command that was started.

    It belongs to our process group, so that a Ctrl-C reaches it too. If its time or its memory is limited, it leads a
    group of its own: only a group can be ended with all that the command has started.

    Attributes:
        used_bytes: how much memory it had, with its descendants, when that was found to be too much.

    Invariant: the leader of a group is not reaped before the group got its last signal; else its number might belong to
    strangers by then. Only ``reap`` reaps, and its callers hold the lock under which signals are sent.
    """

    def __init__(
        self,
        spawner: Spawner,
        argv: list[bytes],
        worker_fd: int,
        *,
        leads_group: bool,
        memory_bytes: int | None = None,
    ) -> None:
        self._leads_group = leads_group
        self._memory_bytes = memory_bytes
        self._memory_due_s = 0.0
        self.used_bytes = 0
        self._code: int | None = None
        self._pipe, writing = os.pipe()
        try:
            self._pid = spawner.start(argv, writing, worker_fd, leads_group=leads_group)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(writing)

    @property
    def group(self) -> int:
        """The process group it was started in."""
        return self._pid if self._leads_group else os.getpgrp()

    def finish(self, kept: KeptOutput, timeout_s: float | None) -> End:
        """Read all its output and wait for its end, or for why it is to be ended. It is still to be reaped."""
        due_s = None if timeout_s is None else time.monotonic() + timeout_s
        stop = self._read(kept, due_s)
        if stop in (_Stop.LATE, _Stop.OVER_MEMORY):
            return End.LATE if stop is _Stop.LATE else End.OVER_MEMORY
        if due_s is None and self._memory_bytes is None and hasattr(os, "waitid"):
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
            return End.ENDED
        while not self._has_ended():
            if due_s is not None and time.monotonic() >= due_s:
                return End.LATE
            if self._is_over_memory():
                return End.OVER_MEMORY
            time.sleep(_PEEK_S)
        return End.ENDED

    def kill(self, kept: KeptOutput) -> None:
        """End a group at once, and read what it had written. The command is still to be reaped."""
        self._memory_bytes = None
        self.signal(signal.SIGKILL)
        self._read(kept, time.monotonic() + _DRAIN_S)

    def end(self, kept: KeptOutput, patience_s: float) -> None:
        """End a group: send SIGTERM and read on until all of it closed their output or ``patience_s`` is over. Then
        send SIGKILL to the rest. The command is still to be reaped."""
        self._memory_bytes = None
        self.signal(signal.SIGTERM)
        due_s = time.monotonic() + patience_s
        while self._read(kept, due_s) is _Stop.ENDED and time.monotonic() < due_s:
            time.sleep(_PEEK_S)  # the command has ended; others of its group may still run
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the command, or to its whole group. Not to one that was reaped: its number may be another's
        by now. That of a group is kept while there is somebody in it."""
        if self._code is not None and not self._leads_group:
            return
        try:
            if self._leads_group:
                os.killpg(self._pid, number)
            else:
                os.kill(self._pid, number)
        except ProcessLookupError:
            pass

    def reap(self) -> int:
        """Return its exit code; minus the signal if one ended it."""
        os.close(self._pipe)
        if self._code is None:
            self._take_code(0)
        assert self._code is not None
        return self._code

    def _is_over_memory(self) -> bool:
        """Return whether it has more memory than allowed; looks now and then."""
        now_s = time.monotonic()
        if self._memory_bytes is None or now_s < self._memory_due_s:
            return False
        self._memory_due_s = now_s + _MEMORY_LOOK_S
        used_bytes = system.memory_above(self._pid, self._memory_bytes)
        self.used_bytes = used_bytes or 0
        return used_bytes is not None

    def _has_ended(self) -> bool:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._code is not None or self._take_code(os.WNOHANG)
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _take_code(self, options: int) -> bool:
        """Reap the command if it has ended, or wait for that; return whether it has."""
        try:
            pid, status = os.waitpid(self._pid, options)
        except ChildProcessError:  # nobody is told of it where SIGCHLD is ignored
            pid, status = self._pid, 0
        if pid == 0:
            return False
        self._code = os.waitstatus_to_exitcode(status)
        return True

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
            if self._is_over_memory():
                return _Stop.OVER_MEMORY
            most_s = _LOOK_S if self._memory_bytes is None else _MEMORY_LOOK_S
            look_s = most_s if due_s is None else min(most_s, max(0.0, due_s - now_s))
            if poll.poll(0 if drained_s is not None else look_s * 1000):
                data = os.read(self._pipe, _READ_BYTES)
                if not data:
                    return _Stop.CLOSED
                kept.add(data)
            elif drained_s is not None:
                return _Stop.ENDED  # all that it had written was read
            elif self._has_ended():
                drained_s = now_s + _DRAIN_S


def end_leftovers(worker: Worker, group: int, is_urgent: Callable[[], bool]) -> None:
    """End the processes in ``group`` that still hold the descriptor of an item's worker; return when that is done.

    A shell that is ended does not take along the command it waits for, which would go on beside the item's rerun. A
    process that left the group has chosen to live on. One that closed the descriptor is not known to be the command's.
    Both are left alone. Only Linux tells the holders; elsewhere this does nothing.
    """
    for patience_s, number in _LEFTOVER_STAGES:
        deadline = time.monotonic() + patience_s
        while (left := _leftovers(worker, group)) and time.monotonic() < deadline and not is_urgent():
            time.sleep(_LEFTOVERS_S)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL if is_urgent() else number)
            except (ProcessLookupError, PermissionError):
                pass  # it has ended, or its number is another user's by now
        if not left:
            return


def _leftovers(worker: Worker, group: int) -> list[int]:
    return [each.pid for each in worker.others() if _group_of(each.pid) == group]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
