"""Worker processes of our own. Each runs one item at a time.

Rejected: ProcessPoolExecutor. When one of its processes dies, it kills the others and fails everything given out, so
that nobody can tell which item was to blame, and its processes cannot be stopped before they are done. Here a death
costs the one item that ran in the process, and counts against that item only.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from multiprocessing import connection as connections
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from mpcheckpoint._store.process import process
from mpcheckpoint._work.refusals import invalid_item, item_message
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint._work.start_process import start_process
from mpcheckpoint._work.worker_process import Clock, Hello, Trouble, Unreadable, serve
from mpcheckpoint.errors import CheckpointError, WorkerDiedError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import BaseContext

    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan

_LOOK_S = 1.0
_UNWIND_S = 2.0
_TERMINATE_S = 5.0
_SEND_LIMIT = 3
_START_LIMIT = 3
_EXIT_PRIORITY = 10


class _Member:
    """One worker process, as seen by the process that started it."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.entry: Input | None = None
        self.has_started = False
        # While its item's function runs: when to tell it to end; once it was told, when to kill it.
        self.due_s: float | None = None
        self.is_late = False

    def end_if_due(self, now_s: float) -> None:
        """If its item's time is up, tell the process to end; kill it if it has not after a moment."""
        if self.due_s is None or now_s < self.due_s:
            return
        if self.is_late:
            self.process.kill()
            self.due_s = None
        else:
            self.is_late = True
            self.process.terminate()
            self.due_s = now_s + _TERMINATE_S


class ProcessPool:
    """Starts worker processes as items come, up to ``jobs``, and replaces those that die.

    With ``timeout_s``, a process whose item's function runs for longer is ended and replaced.
    """

    def __init__(self, plan: Plan, jobs: int, context: BaseContext, timeout_s: float | None = None) -> None:
        self._plan = plan
        self._timeout_s = timeout_s
        self.most = jobs
        self._context: Any = context  # typeshed's common base class knows no Process
        self._members: list[_Member] = []
        self._failed_starts = 0  # in a row
        self._is_stopping = threading.Event()
        process.register(self)
        # At exit multiprocessing waits for its children, which wait for us, so they must be released first.
        Finalize(self, _release, args=(self._members, self._is_stopping), exitpriority=_EXIT_PRIORITY)

    def has_room(self) -> bool:
        """Return whether another item can be given out now."""
        return sum(member.entry is not None for member in self._members) < self.most

    def submit(self, entry: Input) -> None:
        """Give out an item.

        Raises:
            WorkerDiedError: worker processes cannot be started.
            InvalidItemError: the item cannot be sent.
            OSError: the machine is short of something, and the item was not given out.
        """
        message = item_message(entry, self._context)
        for _ in range(_SEND_LIMIT):
            member = next((each for each in self._members if each.entry is None), None) or self._start()
            member.entry = entry  # before it is sent: an interrupt in between must not hide it
            try:
                member.pipe.send_bytes(message)
            except (BrokenPipeError, ConnectionResetError):
                self._bury(member)  # it died while it was idle
                continue
            except Exception:
                member.entry = None  # it cannot be pickled, and nothing of it was sent
                raise
            return
        raise _cannot_start("it died before it was given anything")

    def collect(self, timeout_s: float | None) -> list[tuple[Input, ItemReport]]:
        """Return reports as soon as there are any."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = _LOOK_S if deadline is None else deadline - time.monotonic()
            busy = [member for member in self._members if member.entry is not None]
            ready = connections.wait([member.pipe for member in busy], self._look_s(left_s))
            found = []
            for member in busy:
                # The pipe does not tell of a death if another process inherited its other end.
                if member.pipe in ready or not member.process.is_alive():
                    found += self._heard(member)
                member.end_if_due(time.monotonic())
            if found or left_s <= 0:
                return found

    def _look_s(self, left_s: float) -> float:
        """Return how long to wait for a message before an item's time may be up."""
        due_s = min((member.due_s for member in self._members if member.due_s is not None), default=None)
        if due_s is not None:
            left_s = min(left_s, due_s - time.monotonic())
        return min(_LOOK_S, max(0.0, left_s))

    def recall(self) -> list[Input]:
        """Take back nothing: an item starts as soon as it is given out."""
        return []

    def stop(self, *, is_interrupted: bool) -> None:
        """End all processes. What they run is given back: a claim ends with its worker.

        At a Ctrl-C the terminal has interrupted them too, so they get a moment to unwind before they are told to end.
        If another Ctrl-C interrupts this, the processes that are left are killed here or by the next call.

        Invariant: a process is forgotten only after it was reaped (held by tests/map/test_map_endings.py).
        """
        is_again = self._is_stopping.is_set()
        self._is_stopping.set()
        for member in self._members:
            member.pipe.close()
        try:
            if not is_again:
                self._end_gently(is_interrupted=is_interrupted)
        finally:
            for member in self._members:
                _kill(member)
            while self._members:
                _join(self._members[-1:], None)
                self._members.pop()

    def _end_gently(self, *, is_interrupted: bool) -> None:
        if is_interrupted:
            _join(self._members, _UNWIND_S)
        for member in self._members:
            if member.entry is not None and member.process.pid is not None:
                member.process.terminate()
        _join(self._members, _TERMINATE_S)

    def reset_after_fork(self) -> None:
        """In a forked child, a worker or any other: close our ends of the pipes, so that our death is noticed."""
        members, self._members = self._members, []
        for member in members:
            member.pipe.close()

    def _start(self) -> _Member:
        ours, theirs = self._context.Pipe()
        arguments = theirs, self._plan, self._timeout_s is not None
        child = self._context.Process(target=serve, args=arguments, name="mpcheckpoint-map")
        member = _Member(child, ours)
        self._members.append(member)  # before it starts: an interrupt in between must not hide it
        try:
            start_process(member.process)
        except Exception:
            self._members.remove(member)
            ours.close()
            raise
        finally:
            theirs.close()
        return member

    def _heard(self, member: _Member) -> list[tuple[Input, ItemReport]]:
        entry = member.entry
        assert entry is not None
        try:
            message = member.pipe.recv()
        except (EOFError, OSError):
            cause = self._bury(member)
            code = member.process.exitcode
            if member.is_late:
                assert self._timeout_s is not None
                late = f"timed out after {self._timeout_s:g} s"
                return [(entry, ItemReport(Kind.TIMED_OUT, cause=late, duration_s=self._timeout_s))]
            if member.has_started:
                return [(entry, ItemReport(Kind.DIED, cause=cause, exit_code=code or 0))]
            self._failed_starts += 1
            if self._failed_starts >= _START_LIMIT:
                raise _cannot_start(cause) from None
            return self._given_again(entry)
        if isinstance(message, Hello):
            member.has_started = True
            self._failed_starts = 0
            return []
        if isinstance(message, Clock):
            if not member.is_late and self._timeout_s is not None:
                member.due_s = time.monotonic() + self._timeout_s if message.is_running else None
            return []
        member.entry = None
        if member.is_late:
            member.process.kill()
            self._bury(member)  # it was told to end, and finished at the last moment
        if isinstance(message, Unreadable):
            raise invalid_item(entry, message.text)
        if isinstance(message, Trouble):
            raise message.raised.error or CheckpointError(
                f"a worker process failed: {message.text}", reason="worker failed"
            )
        return [(entry, message)]

    def _given_again(self, entry: Input) -> list[tuple[Input, ItemReport]]:
        """Give an item to another process; report a shortage that keeps one from starting."""
        try:
            self.submit(entry)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            return [(entry, ItemReport(Kind.SHORT, shortage=shortage))]
        return []

    def _bury(self, member: _Member) -> str:
        """Reap a dead process; return how it died."""
        self._members.remove(member)
        member.pipe.close()
        member.process.join(_TERMINATE_S)
        code = member.process.exitcode
        if code is not None and code < 0:
            return f"it was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"it ended with exit code {code}"


def require_children_allowed() -> None:
    """Refuse to be in a process that may start none.

    Raises:
        WorkerDiedError: this is a worker of a ``multiprocessing.Pool``, or another daemonic process.
    """
    if multiprocessing.current_process().daemon:
        raise WorkerDiedError(
            "a daemonic process, like a worker of multiprocessing.Pool, may not start worker processes. Hand in "
            "executor=ThreadPoolExecutor(...), or use ProcessPoolExecutor, whose workers may. Nothing was run",
            reason="daemonic process",
        )


def _release(members: list[_Member], is_stopping: threading.Event) -> None:
    """Close the pipes: an idle process ends, a busy one when its item is done; at once if a stop was interrupted."""
    for member in members:
        member.pipe.close()
        if is_stopping.is_set():
            _kill(member)
    members.clear()


# An interrupt may have come before a member's process was started: it has no pid then.


def _kill(member: _Member) -> None:
    if member.process.pid is not None and member.process.is_alive():
        member.process.kill()


def _join(members: list[_Member], timeout_s: float | None) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    for member in members:
        if member.process.pid is not None:
            member.process.join(None if deadline is None else max(0.0, deadline - time.monotonic()))


def _cannot_start(cause: str) -> WorkerDiedError:
    return WorkerDiedError(
        f"a worker process could not start: {cause}. The start methods spawn and forkserver import the main module "
        "again, so put what starts the map under `if __name__ == '__main__':`",
        reason="worker cannot start",
    )
