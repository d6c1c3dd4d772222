"""Worker processes of our own. Each runs one item at a time, and has the next one at hand.

Rejected: ProcessPoolExecutor. When one of its processes dies, it kills the others and fails everything given out, so
that nobody can tell which item was to blame, and its processes cannot be stopped before they are done. Here a death
costs the one item that ran in the process, and counts against that item only.
"""

from __future__ import annotations

import math
import multiprocessing
import select
import signal
import time
from collections import deque
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from mpcheckpoint._store.process import process
from mpcheckpoint._work.flag import Flag
from mpcheckpoint._work.held_signals import HeldSignals
from mpcheckpoint._work.item_pipe import ItemSender
from mpcheckpoint._work.member import TERMINATE_S, Given, Member
from mpcheckpoint._work.memory_watch import OverMemory
from mpcheckpoint._work.messages import receive
from mpcheckpoint._work.refusals import invalid_item, item_message
from mpcheckpoint._work.report import ItemReport, Kind, received
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint._work.start_errors import cannot_start, died_in_initializer, not_ready
from mpcheckpoint._work.start_process import start_process
from mpcheckpoint._work.worker_options import WorkerOptions, memory_error
from mpcheckpoint._work.worker_process import Clock, Hello, Leaving, Trouble, Unreadable, Unready, serve
from mpcheckpoint.errors import CheckpointError, InvalidItemError, WorkerDiedError

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan

_LOOK_S = 1.0
_UNWIND_S = 2.0
_SEND_LIMIT = 3
_START_LIMIT = 3
_MOST_AHEAD = 8
_EXIT_PRIORITY = 10


class ProcessPool:
    """Starts worker processes as items come, up to ``jobs``, and replaces those that die. See ``WorkerPool``.

    Each has an item ahead in its pipe, so that it need not wait for us; some more where items are so short that it had
    to. No worker is idle beside an item that waits in another one's pipe: it is withdrawn from there. With
    ``timeout_s``, a process whose item's function runs for longer is ended and replaced; so is one that has more memory
    than allowed, or has run as many items as it may.
    """

    def __init__(self, plan: Plan, jobs: int, context: BaseContext, options: WorkerOptions) -> None:
        self._plan = plan
        self._options = options
        self._timeout_s = options.timeout_s
        self._jobs = jobs
        self.most = 2 * jobs
        self._ahead = 1
        # Several failures that end a map are counted here: what is ahead may begin before the count is known.
        is_counting = plan.permit is not None and not plan.permit.is_for_one
        self._most_ahead = 1 if is_counting else _MOST_AHEAD
        self._context: Any = context  # typeshed's common base class knows no Process
        self._members: list[Member] = []
        self._by_fd: dict[int, Member] = {}  # by the descriptor of its pipe
        self._poll = select.poll()  # of these descriptors
        self._waiting: deque[Given] = deque()
        self._failed_starts = 0  # in a row
        self._is_alive_due_s = 0.0
        self._is_stopping = Flag()
        process.register(self)
        # At exit multiprocessing waits for its children, which wait for us, so they must be released first.
        Finalize(self, _release, args=(self._members, self._is_stopping), exitpriority=_EXIT_PRIORITY)

    # --- items ------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        given = len(self._waiting) + sum([len(member.given) for member in self._members])
        return given < self._jobs * (1 + self._ahead)

    def submit(self, entry: Input) -> None:
        """Give out an item.

        Raises:
            WorkerDiedError: worker processes cannot be started.
            InvalidItemError: the item cannot be sent, and what was given out before it is done.
            OSError: the machine is short of something, and the item was not given out.
        """
        message: bytes | InvalidItemError
        try:
            message = item_message(entry, self._context)
        except InvalidItemError as error:
            message = error  # raised when its turn comes: what runs before it is not to be given back for it
        self._give(Given(entry, message))

    def _give(self, given: Given) -> None:
        """Send an item to a worker: an idle one, a new one, or one that has it ahead; else keep it here."""
        for _ in range(_SEND_LIMIT):
            fewest = min([len(member.given) for member in self._members], default=1)
            if fewest and len(self._members) < self._jobs:
                member: Member | None = self._start()
            else:
                member = self._member_for(given, fewest)
            if member is None:
                self._waiting.append(given)
                return
            try:
                member.send(given)
            except (BrokenPipeError, ConnectionResetError):
                member.given.remove(given)
                if not member.given:
                    self._bury(member)  # it died while it was idle
                    continue
                self._waiting.append(given)  # what it ran is reported first
            return
        raise cannot_start("it died before it was given anything")

    def _member_for(self, given: Given, fewest: int) -> Member | None:
        """Return the first worker that may be sent an item of those that have the fewest; no worker has fewer."""
        for count in range(fewest, self._ahead + 1):
            for each in self._members:
                if len(each.given) == count and (not count or each.has_room_ahead(given, self._ahead)):
                    return each
        return None

    def recall(self) -> list[Input]:
        """Take back what waits here, or in the pipe of a worker that is busy."""
        recalled = [given.entry for given in self._waiting]
        self._waiting.clear()
        for member in self._members:
            while len(member.given) > 1 and (found := member.withdraw()) is not None:
                recalled.append(found.entry)
        return recalled

    def _share_out(self) -> list[tuple[Input, ItemReport]]:
        """Give what waits to workers that are idle, and to those what other workers have ahead.

        Returns reports of items for which no process can be started.
        """
        found: list[tuple[Input, ItemReport]] = []
        idle = self._jobs - sum([bool(member.given) for member in self._members])
        if idle <= 0:
            return found
        ahead = [member for member in self._members if len(member.given) > 1]
        while idle > 0 and (self._waiting or ahead):
            given = self._waiting.popleft() if self._waiting else ahead[-1].withdraw()
            if given is not None:
                found += self._given_again(given)
                idle -= 1
            if ahead and (given is None or len(ahead[-1].given) <= 1):
                ahead.pop()
        return found

    def _given_again(self, given: Given) -> list[tuple[Input, ItemReport]]:
        """Give an item to another process; report a shortage that keeps one from starting."""
        given.number = None
        try:
            self._give(given)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            return [(given.entry, ItemReport(Kind.SHORT, shortage=shortage))]
        return []

    # --- reports ----------------------------------------------------------------------------------------------

    def collect(self, timeout_s: float | None) -> list[tuple[Input, ItemReport]]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            now_s = time.monotonic()
            left_s = _LOOK_S if deadline is None else deadline - now_s
            # If nothing is left to be had at once, those who have something share it.
            found = self._share_out() if left_s > 0 or self._waiting else []
            ready = self._ready(0.0 if found else self._look_s(left_s))
            for member in ready:
                if member in self._members:  # else another one's death has shown that it is dead
                    found += self._heard(member)
            for member in list(self._members) if self._timeout_s is not None else ():
                member.end_if_due(time.monotonic())
            found += self._found_dead()
            if found or left_s <= 0:
                return found

    def _ready(self, timeout_s: float) -> list[Member]:
        """Wait for messages; return the workers whose pipes have one, or no other end any more."""
        # The members, not the descriptors: a member that comes meanwhile may get the number of one that has gone.
        return [self._by_fd[fd] for fd, _ in self._poll.poll(max(0, math.ceil(timeout_s * 1000)))]

    def _found_dead(self) -> list[tuple[Input, ItemReport]]:
        """Look, now and then, for dead processes of which no pipe tells: another one has inherited its other end."""
        now_s = time.monotonic()
        if now_s < self._is_alive_due_s:
            return []
        self._is_alive_due_s = now_s + _LOOK_S
        dead = [each for each in self._members if not each.process.is_alive() and not each.pipe.poll()]
        return [report for member in dead for report in self._settle_death(member)]

    def _look_s(self, left_s: float) -> float:
        """Return how long to wait for a message before an item's time may be up."""
        if self._timeout_s is not None:
            due_s = [member.due_s - time.monotonic() for member in self._members if member.due_s is not None]
            left_s = min([left_s, *due_s])
        return min(_LOOK_S, max(0.0, left_s))

    def _heard(self, member: Member) -> list[tuple[Input, ItemReport]]:
        try:
            message = received(receive(member.pipe))
        except (EOFError, OSError):
            return self._settle_death(member)
        if isinstance(message, Hello):
            member.has_started = True
            member.is_ready = message.is_ready
            self._failed_starts = 0 if message.is_ready else self._failed_starts
            return []
        if isinstance(message, Unready):
            raise not_ready(message.text) from message.raised.error
        if isinstance(message, OverMemory):
            member.over_memory = message
            return []
        if isinstance(message, Clock):
            if not member.is_late and self._timeout_s is not None:
                member.due_s = time.monotonic() + self._timeout_s if message.is_running else None
            return []
        if isinstance(message, Leaving):
            return self._left(member)
        entry = member.finished().entry
        found: list[tuple[Input, ItemReport]] = []
        if member.is_late:
            member.process.kill()
            found = self._left(member)  # it was told to end, and finished at the last moment
        if isinstance(message, Unreadable):
            raise invalid_item(entry, message.text)
        if isinstance(message, Trouble):
            raise message.raised.error or CheckpointError(
                f"a worker process failed: {message.text}", reason="worker failed"
            )
        if message.is_idle:
            self._ahead = min(2 * self._ahead, self._most_ahead)  # it waits for us
        return [(entry, message), *found]

    def _left(self, member: Member) -> list[tuple[Input, ItemReport]]:
        """Reap a process that begins nothing more; give what it had ahead to another one."""
        self._bury(member)
        return [report for given in member.given for report in self._given_again(given)]

    def _settle_death(self, member: Member) -> list[tuple[Input, ItemReport]]:
        """Reap a process that died; report the item that it had begun."""
        not_begun: list[Given] = []
        while (withdrawn := member.withdraw()) is not None:
            not_begun.append(withdrawn)
        cause = self._bury(member)
        code = member.process.exitcode
        begun = member.given.popleft() if member.given else None
        # Taken, and perhaps claimed, but begun only after a report on the one before it.
        not_begun += member.given
        found: list[tuple[Input, ItemReport]] = []
        if begun is not None and member.is_late:
            assert self._timeout_s is not None
            late = f"timed out after {self._timeout_s:g} s"
            found = [(begun.entry, ItemReport(Kind.TIMED_OUT, cause=late, duration_s=self._timeout_s))]
        elif begun is not None and member.over_memory is not None:
            assert self._options.memory_bytes is not None
            used_bytes, duration_s = member.over_memory
            cause = memory_error(used_bytes, self._options.memory_bytes)
            found = [(begun.entry, ItemReport(Kind.OVER_MEMORY, cause=cause, duration_s=duration_s))]
        elif begun is not None:
            found = [(begun.entry, ItemReport(Kind.DIED, cause=cause, exit_code=code or 0))]
        elif not member.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _START_LIMIT:
                raise (
                    died_in_initializer(cause, _START_LIMIT) if member.has_started else cannot_start(cause)
                ) from None
        found = [(entry, report._replace(worker=str(member.process.pid))) for entry, report in found]
        for given in not_begun:
            found += self._given_again(given)
        return found

    # --- processes --------------------------------------------------------------------------------------------

    def stop(self, *, is_interrupted: bool) -> None:
        """End all processes. What they run is given back: a claim ends with its worker.

        At a Ctrl-C the terminal has interrupted them too, so they get a moment to unwind before they are told to end.
        If another Ctrl-C interrupts this, the processes that are left are killed here or by the next call.

        Invariant: a process is forgotten only after it was reaped (held by tests/map/test_map_endings.py).
        """
        is_again = self._is_stopping.is_set
        self._is_stopping.set()
        self._waiting.clear()
        for member in self._members:
            member.sender.close()
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
            if member.given and member.process.pid is not None:
                member.process.terminate()
        _join(self._members, TERMINATE_S)

    def reset_after_fork(self) -> None:
        """In a forked child, a worker or any other: close our ends of the pipes, so that our death is noticed."""
        members, self._members = self._members, []
        for member in members:
            member.sender.forget()

    def _start(self) -> Member:
        with HeldSignals():  # else a process may run that nobody knows of
            return self._started()

    def _started(self) -> Member:
        sender = ItemSender(self._context)
        arguments = sender.worker_end, self._plan, self._options
        child = self._context.Process(target=serve, args=arguments, name="mpcheckpoint-map")
        member = Member(child, sender)
        self._members.append(member)
        self._by_fd[sender.pipe.fileno()] = member
        self._poll.register(sender.pipe.fileno(), select.POLLIN)
        try:
            start_process(member.process)
        except Exception:
            self._forget(member)
            raise
        finally:
            sender.close_worker_end()
        return member

    def _forget(self, member: Member) -> None:
        self._members.remove(member)
        self._poll.unregister(member.pipe.fileno())
        del self._by_fd[member.pipe.fileno()]
        member.sender.close()

    def _bury(self, member: Member) -> str:
        """Reap a dead process; return how it died."""
        member.due_s = None
        member.process.join(TERMINATE_S)
        self._forget(member)
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


def _release(members: list[Member], is_stopping: Flag) -> None:
    """Close the pipes: an idle process ends, a busy one when its item is done; at once if a stop was interrupted."""
    for member in members:
        member.sender.close()
        if is_stopping.is_set:
            _kill(member)
    members.clear()


# An interrupt may have come before a member's process was started: it has no pid then.


def _kill(member: Member) -> None:
    if member.process.pid is not None and member.process.is_alive():
        member.process.kill()


def _join(members: list[Member], timeout_s: float | None) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    for member in members:
        if member.process.pid is not None:
            member.process.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
