"""How appends become durable, many of them with one sync: of all threads of a process, and of all processes.

A thread whose record is not durable yet tries to sync for its process; the others wait for the end of that sync, all at
once, and look whether it covered them. A process that is to sync tries to become the leader of a group. The leader
syncs the log once, for all that stands in it then, says in the page how far that reaches, and wakes everybody. The
processes that could not become leader have waited for just that. Rejected: to hand a lock on from waiter to waiter. The
running process takes it back before the woken one gets there: groups stay at 1.1, and others starve. Rejected: to let
the leader wait for company; on two cores that cost more than it gave.

Nobody depends on a leader. One that was killed has given back its lock; a process that waits looks again after
``_LOOK_AGAIN_S``. One that is stopped keeps it: a process that has tried ``_TRIES`` times to lead syncs alone, and
waits no more until a leader has been heard of again.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from mpcheckpoint._logfile.lock_file import LockFile
from mpcheckpoint._logfile.opened import sync_failed
from mpcheckpoint._logfile.page import Known

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.opened import OpenLog
    from mpcheckpoint._logfile.page import Page
    from mpcheckpoint._system import FileStatus

_LOOK_AGAIN_S = 0.01
_WAITS_BELIEVED = 2
_TRIES = 4
# A thread is woken when the sync ends that it waits for, unless a Ctrl-C came just there.
_LONGEST_NAP_S = 0.05


class SyncTurn:
    """The right to sync one log: one thread of this process has it at a time.

    ``lock`` is an RLock: its owner is set in the same uninterruptible step that takes it. A signal handler that appends
    may run in the thread that is syncing; it syncs inside the sync, and both are whole.
    """

    def __init__(self) -> None:
        # Any: the type stubs leave out _is_owned, which threading.Condition relies on too.
        self.lock: Any = threading.RLock()
        # A lock each, held: of threads that sleep until the present turn ends.
        self._sleepers: deque[threading.Lock] = deque()

    def enqueue(self) -> threading.Lock:
        """Return what can be acquired once the present turn has ended. If nobody has the turn, nobody ends it: try to
        take it after this call."""
        gate = threading.Lock()
        gate.acquire()
        self._sleepers.append(gate)
        return gate

    def for_native(self) -> tuple[object, ...]:
        """Return this, its lock, and who sleeps."""
        return self, self.lock, self._sleepers

    def end(self) -> None:
        """End the turn of this thread, if it has it, and wake all who sleep."""
        if self.lock._is_owned():
            self.lock.release()
            self.wake()

    def wake(self) -> None:
        """Wake all who sleep: a turn has ended."""
        sleepers = self._sleepers
        for _ in range(len(sleepers)):
            try:
                sleepers.popleft().release()
            except IndexError:  # another thread woke them
                return


class GroupCommit:
    """Makes the appends of one log durable. A first use and a repair sync for themselves, in ``turn``.

    Locking rules:
    1. ``turn``, then the leader lock (flock on the ``.sync`` file), never the other way.
    2. ``wait_durable`` is called without the append lock, and takes no other lock inside. So a first use and a repair
       may wait for ``turn`` under the append lock.
    3. The leader lock is never waited for, only tried.
    4. No reader waits for either; a fork waits for a leader of its own process, for a moment.
    """

    def __init__(self, path: str) -> None:
        self._leader_lock = LockFile(path)
        self.turn = SyncTurn()
        self.is_leading = False

    def wait_durable(self, log: OpenLog, offset: int) -> FileStatus | None:
        """Return when every byte below ``offset`` is durable: what the file was after our sync; None if there was none.

        Requires: ``offset`` is an ``end`` that this process found under the append lock.

        Raises:
            OSError: a sync failed, and the log is poisoned; or, EBADF, somebody had closed the file.
        """
        if self.turn.lock._is_owned():
            # After a sync that failed in native code, or in a signal handler of the thread that is syncing.
            failure = self.settle_failed_sync(log)
            if failure is not None:
                raise failure
            return self._make_durable(log, offset)
        while log.state.durable < offset or log.file.is_poisoned:
            try:
                if self.turn.lock.acquire(blocking=False):
                    return self._make_durable(log, offset)
                # Asked for each time: a signal handler may fork here, and the child has another one.
                gate = self.turn.enqueue()
                if self.turn.lock.acquire(blocking=False):
                    return self._make_durable(log, offset)
            finally:
                try:
                    self.turn.end()
                except BaseException:  # a Ctrl-C in there: every step of it can be done again
                    self.turn.end()
                    raise
                if log.state.waiters:
                    log.state.wake()
            gate.acquire(timeout=_LONGEST_NAP_S)
        return None

    def _make_durable(self, log: OpenLog, offset: int) -> FileStatus | None:
        if log.file.is_poisoned:
            raise sync_failed()
        if log.state.durable >= offset:
            return None
        page = log.page
        if page is None or log.state.is_alone:
            # Nobody wrote between our last two appends: nobody waits for us, and a process that comes now leads a
            # group. Its sync and ours may run side by side. Without a page everybody syncs alone.
            return log.sync(log.state.end.offset)
        return self._sync_together(log, page, offset)

    # --- in a group -------------------------------------------------------------------------------------------

    def _sync_together(self, log: OpenLog, page: Page, offset: int) -> FileStatus | None:
        # While somebody leads, to try is in vain. If that process is dead, the page says so for ever.
        state = log.state
        known = page.await_group(offset, _WAITS_BELIEVED if state.is_patient else 0, _LOOK_AGAIN_S)
        for _ in range(_TRIES):
            if self._is_covered(log, known, offset):
                return None
            is_leader, status = self._leads(log, page, offset)
            if is_leader:
                return status
            if not state.is_patient:
                break
            page.wait(known, offset, _LOOK_AGAIN_S)
            known = page.known()
        # A stopped leader must stop nobody. Nothing is published: the next leader does.
        state.is_patient = False
        return log.sync(state.end.offset)

    def _is_covered(self, log: OpenLog, known: Known, offset: int) -> bool:
        """Return whether somebody's sync has covered ``offset``.

        The word cannot be a stale one: a process that finds the end of the log sees to it that none stands above it.
        """
        if known.is_poisoned:
            log.file.is_poisoned = True
            raise sync_failed()
        if known.durable < offset:
            return False
        log.end.note_durable(known.durable)
        log.state.is_patient = True
        return True

    def _leads(self, log: OpenLog, page: Page, offset: int) -> tuple[bool, FileStatus | None]:
        """Sync for everybody, if nobody else does; return whether that is so, and what the file was after our sync, or
        None if the leader before us has done it."""
        is_leader = True  # until we know better: a Ctrl-C may come right after the lock
        group = status = None
        try:
            is_leader = self._takes_leader_lock()
            if is_leader:
                self.is_leading = True
                known = page.known()
                if not self._is_covered(
                    log, known, offset
                ):  # else the leader before us has done it meanwhile
                    group = known.group + 1
                    status = self._lead(log, page, known, group)
        finally:
            if is_leader:
                try:
                    self._stop_leading(page, group)
                except BaseException:  # a Ctrl-C in there: every step of it can be done again
                    self._stop_leading(page, group)
                    raise
        if is_leader:
            log.state.is_patient = True
        return is_leader, status

    def _stop_leading(self, page: Page, group: int | None) -> None:
        self.is_leading = False
        self._leader_lock.give_back()
        if group is not None:
            page.wake(group)

    def _takes_leader_lock(self) -> bool:
        try:
            return self._leader_lock.try_take()
        except OSError:
            # No room for its file, no descriptor: as if somebody led who does not answer.
            return False

    def _lead(self, log: OpenLog, page: Page, known: Known, group: int) -> FileStatus:
        end = log.state.end.offset  # read before the sync begins, as is what others left
        left = page.hints_in(known.look).end
        # A power cut, or a backup, can leave an end in the page that the log has not reached: the log bears it out.
        if left is not None and left.offset > end and log.end.bears_out(left):
            end = left.offset
        page.begin_group(group, end)
        try:
            return log.sync(end)
        finally:
            page.publish_group(max(log.state.durable, known.durable), known, group)

    # --- by native code ---------------------------------------------------------------------------------------

    def for_native(self) -> tuple[object, ...]:
        """Return the turn, its lock and who sleeps; the descriptor of the leader lock's file, its number, -1 before the
        first lead, which is Python's, and which file that is."""
        own = self._leader_lock.descriptor
        opened = (-1, (0, 0)) if own is None else (own.fd, own.identity)
        return *self.turn.for_native(), own, opened

    def settle_failed_sync(self, log: OpenLog) -> OSError | None:
        """Go on as ``wait_durable`` does where a sync by native code has failed in this thread.

        It has the turn then, and leads if native code did. Return the error: the log is poisoned; or, EBADF, somebody
        had closed the file. None if no sync has failed.
        """
        if log.state.failed_sync is None or not self.turn.lock._is_owned():
            return None
        failure, code, is_leading, group, told = log.state.failed_sync
        known, page = Known(*told), log.page
        try:
            log.fail_sync(failure, code)
        except OSError as error:
            return error
        finally:
            log.state.failed_sync = None
            log.state.is_leading = False
            if is_leading and page is not None:
                page.publish_group(max(log.state.durable, known.durable), known, group)
                self._stop_leading(page, group)
            self.turn.end()
            log.state.wake()

    # --- fork -------------------------------------------------------------------------------------------------

    def pause_for_fork(
        self, timeout_s: float, resumes: list[Callable[[], None]], *, is_leading: bool
    ) -> None:
        """Let a thread that leads, also in native code, finish, for no longer than ``timeout_s``.

        What has to be done after the fork goes to ``resumes``, before anything is done here: a Ctrl-C must not leave us
        with the turn.
        """
        lock = self.turn.lock
        if (self.is_leading or is_leading) and not lock._is_owned():
            resumes += [self.turn.wake, self.turn.end]  # last first; woken also if the end was interrupted
            lock.acquire(timeout=timeout_s)

    def reset_after_fork(self) -> None:
        """In the child: let go of the turn and the lock file, without unlocking."""
        self.turn = SyncTurn()
        self.is_leading = False
        self._leader_lock.close()
