"""How appends become durable, many of them with one sync: of all threads of a process, and of all processes.

Whoever has appended and is not covered yet tries to become the leader of its group. The leader syncs the log once, for
all that stands in it then, says in the page how far that reaches, and wakes everybody; who could not become leader has
waited for just that. Rejected: to hand a lock on from waiter to waiter. The running process takes it back before the
woken one gets there: groups stay at 1.1, and others starve. Rejected: to let the leader wait for company; on two cores
that cost more than it gave.

Nobody depends on a leader. One that was killed has given back its lock; whoever waits looks again after
``_LOOK_AGAIN_S``. One that is stopped keeps it: who has looked ``_LOOKS`` times syncs alone, and waits no more until
a leader has been heard of again.
"""

from __future__ import annotations

import errno
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from mpcheckpoint._logfile.established import SLOW_SYNC_S
from mpcheckpoint._logfile.lock_file import LockFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.generation import Generation
    from mpcheckpoint._logfile.page import Known, Page
    from mpcheckpoint._logfile.poison import Poison

_LOOK_AGAIN_S = 0.01
_LOOKS = 6
_LOOKS_BELIEVED = 2


class GroupSync:
    """Makes the appends of one log durable: see ``_sync``. A first use and a repair sync for themselves.

    Locking rules:
    1. ``mutex``, then the leader lock (flock on the ``.sync`` file), never the other way.
    2. ``cover`` is called without the append lock, and takes no other lock inside. So a first use and a repair may take
       ``mutex`` under the append lock.
    3. The leader lock is never waited for, only tried.
    4. No reader waits for either; a fork waits for a leader of its own process, for a moment.
    """

    def __init__(self, path: str, poison: Poison) -> None:
        self._leader_lock = LockFile(path)
        self._poison = poison
        # Also held by whoever syncs the log for a repair: of two syncs of one descriptor only one hears of a failure.
        # An RLock: a signal handler that appends may run in the thread that is syncing. It then leads a group inside
        # the group: both syncs are whole, and the leader lock is only given back too early, which costs others a sync.
        self.mutex: Any = threading.RLock()
        self._is_patient = True
        self.is_leading = False

    def cover(self, generation: Generation, offset: int) -> None:
        """Return when every byte below ``offset`` is durable.

        Requires: ``offset`` is an ``end`` that this process established under the append lock.

        Raises:
            OSError: a sync failed; the generation is poisoned.
        """
        if generation.durable >= offset and not generation.is_poisoned:
            return
        with self.mutex:
            # Threads that came here during a sync find their records covered by it, or share the next one.
            if generation.is_poisoned:
                raise _poisoned()
            if generation.durable >= offset:
                return
            page = generation.page
            if page is None or generation.is_alone:
                # Nobody wrote between our last two appends: nobody waits for us, and who comes now leads a group. Its
                # sync and ours may run side by side. Without a page everybody syncs alone.
                self._sync(generation, generation.end.offset)
            else:
                self._sync_together(generation, page, offset)

    # --- in a group -------------------------------------------------------------------------------------------

    def _sync_together(self, generation: Generation, page: Page, offset: int) -> None:
        for look in range(_LOOKS):
            known = page.known()
            if (known.durable >= offset or known.is_poisoned) and self._is_covered(generation, known, offset):
                return
            # While somebody leads, to try is in vain. If he is dead, the page says so for ever.
            is_led = known.target and look < _LOOKS_BELIEVED and self._is_patient
            if not is_led and self._leads(generation, page, offset):
                return
            if not self._is_patient:
                break
            # Whoever leads now covers us, or began too early for that: then the next one does.
            group = known.group if known.target >= offset else known.group + 1
            page.words[group % 2].wait(known.words[group % 2], _LOOK_AGAIN_S)
        # A stopped leader must stop nobody. Nothing is published: the next leader does.
        self._is_patient = False
        self._sync(generation, generation.end.offset)

    def _is_covered(self, generation: Generation, known: Known, offset: int) -> bool:
        """Return whether somebody's sync has covered ``offset``.

        The word cannot be a stale one: whoever establishes the end of the log sees to it that none stands above it.
        """
        if known.is_poisoned:
            generation.is_poisoned = True
            raise _poisoned()
        if known.durable < offset:
            return False
        generation.durable = max(generation.durable, known.durable)
        self._is_patient = True
        return True

    def _leads(self, generation: Generation, page: Page, offset: int) -> bool:
        """Sync for everybody, if nobody else does; return False if somebody does."""
        is_leader = True  # until we know better: a Ctrl-C may come right behind the lock
        group = None
        try:
            is_leader = self._takes_leader_lock()
            if is_leader:
                self.is_leading = True
                known = page.known()
                if not self._is_covered(
                    generation, known, offset
                ):  # else the leader before us has done it meanwhile
                    group = known.group + 1
                    self._lead(generation, page, known, group)
        finally:
            if is_leader:
                try:
                    self._stop_leading(page, group)
                except BaseException:  # a Ctrl-C in there: every step of it can be done again
                    self._stop_leading(page, group)
                    raise
        if is_leader:
            self._is_patient = True
        return is_leader

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
            self._is_patient = False
            return False

    def _lead(self, generation: Generation, page: Page, known: Known, group: int) -> None:
        end = generation.end.offset  # read before the sync begins, as is what others left
        left = page.read().end
        # A power cut, or a backup, can leave an end in the page that the log has not reached: the log bears it out.
        if left is not None and left.offset > end and generation.bears_out(left):
            end = left.offset
        page.begin_group(group, end)
        try:
            self._sync(generation, end)
        finally:
            durable = max(generation.durable, known.durable)
            page.publish_group(durable, known, group)

    # --- the one place where bytes become durable -------------------------------------------------------------

    def _sync(self, generation: Generation, end: int) -> None:
        """Make all below ``end`` durable. Requires: it was written, and ``end`` read, before this is called.

        A failed sync is final, so the poison is there before anybody else can lead; what has the log open gets the
        error from its own next sync, too.
        """
        beginning = generation.beginning
        began_s = monotonic()
        try:
            generation.sync_file()
        except OSError as error:
            if generation.is_poisoned:
                generation.mark_poisoned(error)
            raise
        generation.syncs += 1
        sync_s = monotonic() - began_s
        if sync_s >= SLOW_SYNC_S:
            generation.note_duration(sync_s)
        if generation.is_poisoned:  # a sync nested in this one failed, and took the error with it
            raise _poisoned()
        if generation.beginning is beginning:  # else somebody put other bytes into the file meanwhile
            generation.durable = max(generation.durable, end)

    # --- fork -------------------------------------------------------------------------------------------------

    def pause_for_fork(self, timeout_s: float, resumes: list[Callable[[], None]]) -> None:
        """Let whoever leads finish, for no longer than ``timeout_s``; what has to be done after the fork goes to
        ``resumes``, before anything is done here: a Ctrl-C must not leave us with the mutex."""
        if self.is_leading and not self.mutex._is_owned():
            resumes.append(self._resume_after_fork)
            self.mutex.acquire(timeout=timeout_s)

    def _resume_after_fork(self) -> None:
        if self.mutex._is_owned():
            self.mutex.release()

    def reset_after_fork(self) -> None:
        """In the child: let go of the mutex and the lock file, without unlocking."""
        self.mutex = threading.RLock()
        self._is_patient = True
        self.is_leading = False
        self._leader_lock.close()


def _poisoned() -> OSError:
    return OSError(errno.EIO, "an earlier sync of this log failed")
