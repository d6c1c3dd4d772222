"""Worker processes of our own, one item at a time each.

Rejected: ProcessPoolExecutor. When one of its processes dies it kills the others and fails everything given out, so
that nobody can tell which item was to blame, and its processes cannot be stopped before they are done. Here a death
costs the one item that ran in it, and is counted against that item.
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
from mpcheckpoint._work.perform import Kind, Report
from mpcheckpoint._work.refusals import invalid_item, item_message
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint._work.start_process import start_process
from mpcheckpoint._work.worker_process import Clock, Hello, Trouble, Unreadable, serve
from mpcheckpoint.errors import CheckpointError, WorkerDiedError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import BaseContext

    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.perform import Plan

_LOOK_S = 1.0
_UNWIND_S = 2.0
_TERMINATE_S = 5.0
_SEND_LIMIT = 3
_START_LIMIT = 3
_EXIT_PRIORITY = 10


class _Member:
    """One worker process, seen from the one that started it."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.entry: Input | None = None
        self.has_started = False
        # When it is to be told to end, or, if it was, to be ended: it has an item whose function runs.
        self.due_s: float | None = None
        self.is_late = False

    @property
    def is_there(self) -> bool:
        """Whether the process was started, as far as that was noted: an interrupt may have come before."""
        return self.process.pid is not None

    def terminate(self) -> None:
        """Ask it to end."""
        if self.is_there:
            self.process.terminate()

    def kill(self) -> None:
        """End it, if it still runs."""
        if self.is_there and self.process.is_alive():
            self.process.kill()

    def join(self, timeout_s: float | None) -> None:
        """Wait for its end."""
        if self.is_there:
            self.process.join(timeout_s)

    def end_if_due(self, now_s: float) -> None:
        """End the process if its item's time is up: with a moment to unwind, then without."""
        if self.due_s is None or now_s < self.due_s:
            return
        if self.is_late:
            self.process.kill()
            self.due_s = None
        else:
            self.is_late = True
            self.process.terminate()
            self.due_s = now_s + _TERMINATE_S


class ProcessCrew:
    """Start worker processes as items come, up to ``jobs``, and start another one where one has died.

    With ``timeout_s`` a process whose item's function runs for longer is ended, and another one started.
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
        # At exit multiprocessing waits for its children, which wait for us: they have to be let go before.
        Finalize(self, _let_go, args=(self._members, self._is_stopping), exitpriority=_EXIT_PRIORITY)

    def has_room(self) -> bool:
        """Return whether another item can be given out now."""
        return sum(member.entry is not None for member in self._members) < self.most

    def submit(self, entry: Input) -> None:
        """Give out an item.

        Raises:
            WorkerDiedError: worker processes cannot be started.
            InvalidItemError: the item cannot be sent.
            OSError: the machine is short of what it takes to start one; the item was not given out.
        """
        message = item_message(entry, self._context)
        for _ in range(_SEND_LIMIT):
            member = next((each for each in self._members if each.entry is None), None) or self._start()
            member.entry = entry  # before it has it: an interrupt in between leaves nobody at work unseen
            try:
                member.pipe.send_bytes(message)
            except (BrokenPipeError, ConnectionResetError):
                self._bury(member)  # it died while it had nothing to do
                continue
            except Exception:
                member.entry = None  # it cannot be pickled, and nothing of it was sent
                raise
            return
        raise _cannot_start("it died before it was given anything")

    def collect(self, timeout_s: float | None) -> list[tuple[Input, Report]]:
        """Return reports as soon as there are any.

        Raises:
            WorkerDiedError: worker processes cannot be started.
            InvalidItemError: an item could not be read there.
            CheckpointError: an outcome could not be recorded.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = _LOOK_S if deadline is None else deadline - time.monotonic()
            busy = [member for member in self._members if member.entry is not None]
            ready = connections.wait([member.pipe for member in busy], self._look_s(left_s))
            found = []
            for member in busy:
                # A process that died is missed by the pipe if something else inherited its other end.
                if member.pipe in ready or not member.process.is_alive():
                    found += self._heard(member)
                member.end_if_due(time.monotonic())
            if found or left_s <= 0:
                return found

    def _look_s(self, left_s: float) -> float:
        """Return how long to wait for a message before something else may be due."""
        due_s = min((member.due_s for member in self._members if member.due_s is not None), default=None)
        if due_s is not None:
            left_s = min(left_s, due_s - time.monotonic())
        return min(_LOOK_S, max(0.0, left_s))

    def recall(self) -> list[Input]:
        """Take back nothing: items are given to processes that have none."""
        return []

    def stop(self, *, is_interrupted: bool) -> None:
        """End all processes. What one of them runs is given back: a claim ends with its worker.

        At a Ctrl-C the terminal has interrupted them, too; they get a moment to unwind. Then, or at once, they are
        ended. Those that are left if another Ctrl-C interrupts this are killed here or, at the latest, by the next
        call.

        Invariant: a process is forgotten only once it was reaped (held by tests/map/test_map_endings.py).
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
                member.kill()
            while self._members:
                self._members[-1].join(None)
                self._members.pop()

    def _end_gently(self, *, is_interrupted: bool) -> None:
        if is_interrupted:
            _join(self._members, _UNWIND_S)
        for member in self._members:
            if member.entry is not None:
                member.terminate()
        _join(self._members, _TERMINATE_S)

    def reset_after_fork(self) -> None:
        """In a forked child, a worker or any other: close our ends of the pipes, else nobody would notice our death."""
        members, self._members = self._members, []
        for member in members:
            member.pipe.close()

    def _start(self) -> _Member:
        ours, theirs = self._context.Pipe()
        member = _Member(
            self._context.Process(
                target=serve,
                args=(theirs, self._plan, self._timeout_s is not None),
                name="mpcheckpoint-map",
            ),
            ours,
        )
        self._members.append(member)  # before it is there: an interrupt in between leaves nobody unseen
        try:
            start_process(member.process)
        except Exception:
            self._members.remove(member)
            ours.close()
            raise
        finally:
            theirs.close()
        return member

    def _heard(self, member: _Member) -> list[tuple[Input, Report]]:
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
                return [(entry, Report(Kind.TIMED_OUT, cause=late, duration_s=self._timeout_s))]
            if member.has_started:
                return [(entry, Report(Kind.DIED, cause=cause, exit_code=code or 0))]
            self._failed_starts += 1
            if self._failed_starts >= _START_LIMIT:
                raise _cannot_start(cause) from None
            return self._given_again(entry)
        if isinstance(message, Hello):
            member.has_started = True
            self._failed_starts = 0
            return []
        if isinstance(message, Clock):
            self._set_clock(member, message)
            return []
        member.entry = None
        if member.is_late:
            member.process.kill()
            self._bury(member)  # it was done at the last moment, and was told to end
        if isinstance(message, Unreadable):
            raise invalid_item(entry, message.text)
        if isinstance(message, Trouble):
            raise message.carried.error or CheckpointError(
                f"a worker process failed: {message.text}", reason="worker failed"
            )
        return [(entry, message)]

    def _given_again(self, entry: Input) -> list[tuple[Input, Report]]:
        """Give an item to another process; where none can be started for want of something, say so."""
        try:
            self.submit(entry)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            return [(entry, Report(Kind.SHORT, shortage=shortage))]
        return []

    def _set_clock(self, member: _Member, message: Clock) -> None:
        if not member.is_late and self._timeout_s is not None:
            member.due_s = time.monotonic() + self._timeout_s if message.is_running else None

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
            "a daemonic process, as the workers of multiprocessing.Pool are, may not start worker processes. Hand in "
            "executor=ThreadPoolExecutor(...), or use ProcessPoolExecutor, whose workers may. Nothing was run",
            reason="daemonic process",
        )


def _let_go(members: list[_Member], is_stopping: threading.Event) -> None:
    """Close the pipes: a process that has nothing to do ends, one that is at work ends when it is done.

    If the crew was being stopped, that was interrupted: they end now.
    """
    for member in members:
        member.pipe.close()
        if is_stopping.is_set():
            member.kill()
    members.clear()


def _join(members: list[_Member], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for member in members:
        member.join(max(0.0, deadline - time.monotonic()))


def _cannot_start(cause: str) -> WorkerDiedError:
    return WorkerDiedError(
        f"a worker process could not start: {cause}. With the start methods spawn and forkserver the main module is "
        "imported anew, so what starts the map belongs under `if __name__ == '__main__':`",
        reason="worker cannot start",
    )
