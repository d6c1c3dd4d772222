"""The append side of one log in one process: its locks, its current generation, its poison."""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._storage.faults import translated, typed
from mpcheckpoint._storage.generation import Generation
from mpcheckpoint._storage.group_sync import GroupSync
from mpcheckpoint._storage.header import read_header
from mpcheckpoint._storage.lock_file import LockFile
from mpcheckpoint._storage.mutex import Mutex
from mpcheckpoint._storage.poison import Poison
from mpcheckpoint._storage.salvage.salvaging import salvage_log
from mpcheckpoint._storage.successor import find_in_successor, outcome_unknown
from mpcheckpoint._storage.switch import switch_generation
from mpcheckpoint._storage.waits import Wait
from mpcheckpoint._types import Position
from mpcheckpoint.errors import (
    CheckpointError,
    LockTimeoutError,
    LogNotFoundError,
    OutcomeUnknownError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._storage.paths import LogPaths
    from mpcheckpoint._storage.salvage.salvaging import Salvage
    from mpcheckpoint._types import Repair

_REOPEN_LIMIT = 100
_WRITER_ID_BYTES = 8
_LOCK_WAIT_AT_RELEASE_S = 0.1

logger = logging.getLogger("mpcheckpoint")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Appended(msgspec.Struct, gc=False):
    """What an append left under its lock: where the log ends, and in which generation.

    ``found`` is the position of the record that made writing needless, or None if something was written.
    """

    generation: Generation
    end: EndState
    found: Position | None = None


class LogWriter:
    """Append to one log, with every thread of this process and every other process.

    Locking rules:
    1. ``_mutex``, then the append lock (flock on the ``.lock`` file), never the other way.
    2. The append lock is taken with ``_mutex`` held and given back before ``_mutex`` is.
    3. No sync happens under either, but for a first use, a repair and a switch of generations.
    4. A reader and the fork hook wait for neither while somebody waits for the append lock: a stopped lock holder
       elsewhere must not hang reads or forks here. The fork hook waits, for a moment, where ``holds_append_lock``.
    5. User code never runs inside: events are encoded before, warnings logged after.
    """

    def __init__(self, paths: LogPaths) -> None:
        self.paths = paths
        self.holds_append_lock = False
        self.appends = 0
        self._poison = Poison(paths)
        self._mutex = Mutex(f"the log {paths.log_key!r}")
        self._append_lock = LockFile(paths.lock, Wait(paths.log_key, paths.lock))
        self._group_sync = GroupSync(paths.sync, self._poison)
        self._generation: Generation | None = None
        # By which writers know each other's entries in the page.
        self._id = os.urandom(_WRITER_ID_BYTES)

    # --- append and sync --------------------------------------------------------------------------------------

    def append(
        self,
        payloads: list[Payload],
        *,
        timeout_s: float | None,
        guard: Callable[[], Position | None] | None = None,
    ) -> Appended:
        """Write one batch. It is visible then, and durable after ``make_durable``.

        Args:
            payloads: the records; at least one.
            timeout_s: how long to wait for other writers.
            guard: called under the append lock. What it raises is raised with nothing written; if it returns a
                position, nothing is written and that is ``found``. It must not wait for any lock but the
                mutex of a view.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, WriteFailedError: nothing was appended.
        """

        repair: Repair | None = None
        self._mutex.refuse_reentry()  # before the try: its finally would give back what the outer call holds
        try:
            generation = self._lock(timeout_s)
            try:
                repair = generation.establish_end()
            except OSError as error:
                raise self._not_established(generation, error) from error
            found = guard() if guard is not None else None
            # A record that was found may be visible and not yet durable: what the log holds now is to be covered.
            end = generation.end if found is not None else generation.append(payloads)
            self.appends += 1
        finally:
            try:
                self._let_go()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                self._let_go()
                raise
            if repair is not None or (self._generation is not None and self._generation.notices):
                self._tell(repair)
        return Appended(generation, end, found)

    def make_durable(self, appended: Appended) -> Position:
        """Return the position of an append once it survives a loss of power.

        Raises:
            OutcomeUnknownError: the sync failed, or the log was replaced and the record is not in its successor.
        """
        generation, end = appended.generation, appended.end
        position = self.position_of(appended)
        try:
            try:
                self._group_sync.cover(generation, end.offset)
            except OSError as error:
                raise self._not_covered(position, error) from error
            if generation.notices:
                self._tell_notices(generation)
            is_replaced = system.stat_fd(generation.fd).st_nlink == 0
        except CheckpointError:
            raise
        except OSError as error:  # nothing is wrong with the log: it is synced, but may have been replaced
            cause = f"its file cannot be looked at ({error.strerror or error})"
            raise outcome_unknown(self.paths, cause, position) from error
        except BaseException as error:  # a Ctrl-C: the record stays, and whoever catches it should know
            error.add_note(f"mpcheckpoint: the record at {position} was written; it may not be durable")
            raise
        if is_replaced:
            return find_in_successor(self.paths, position)
        return position

    def position_of(self, appended: Appended) -> Position:
        """Return the position right behind the record that was appended, or found."""
        offset, _, stamp_us = appended.end
        generation = appended.generation.header.generation
        return appended.found or Position(self.paths.log_key, generation, offset, stamp_us)

    def sync(self, timeout_s: float | None) -> int:
        """Make everything durable that the log holds now; return the offset below which that is so.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, OutcomeUnknownError
        """
        appended = self._exclusive(timeout_s, self._established, _as_it_is)
        generation, end = appended.generation, appended.end
        try:
            self._group_sync.cover(generation, end.offset)
        except OSError as error:
            raise self._not_covered(None, error) from error
        self._tell_notices(generation)
        # If the log got another generation meanwhile, that holds the same records and was synced before it
        # was put there.
        return end.offset

    def _not_covered(self, position: Position | None, error: OSError) -> OutcomeUnknownError:
        self._tell(None)
        return outcome_unknown(self.paths, f"its sync failed ({error.strerror or error})", position)

    @property
    def has_padding(self) -> bool:
        """Whether there is padding behind the end of the log, as far as this process knows."""
        return self._generation is not None and self._generation.has_padding

    def release_padding(self) -> None:
        """Cut off the padding behind the log's end, if there is any and nobody is writing now. Raises nothing."""
        if not self.has_padding:
            return
        try:
            self._exclusive(_LOCK_WAIT_AT_RELEASE_S, self._established, Generation.cut_padding)
        except (CheckpointError, OSError) as error:
            logger.debug("left the padding of log %r: %s", self.paths.log_key, error)

    def known_durable(self, generation: str) -> int:
        """Return the offset below which this process knows that generation to be durable; 0 if it knows nothing."""
        current = self._generation
        return current.known_durable if current is not None and current.header.generation == generation else 0

    @property
    def syncs(self) -> int:
        """How many syncs of the current generation this process did."""
        return self._generation.syncs if self._generation is not None else 0

    # --- the append lock --------------------------------------------------------------------------------------

    def _exclusive(
        self,
        timeout_s: float | None,
        prepare: Callable[[Generation], Repair | None],
        action: Callable[[Generation, *Ts], T],
        *arguments: *Ts,
    ) -> T:
        """Return what ``action`` does under the append lock, given the current generation, ``prepare`` d for it.

        Rejected: a context manager. Its exit is a call of its own, and a Ctrl-C at the start of that call
        would leave the lock to whoever drops the traceback.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, WriteFailedError: nothing was appended.
        """
        repair: Repair | None = None
        self._mutex.refuse_reentry()  # before the try: its finally would give back what the outer call holds
        try:
            generation = self._lock(timeout_s)
            repair = prepare(generation)
            return action(generation, *arguments)
        finally:
            try:
                self._let_go()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                self._let_go()
                raise
            self._tell(repair)

    def _tell(self, repair: Repair | None) -> None:
        """Log what there is to tell. Requires: no lock is held."""
        if repair is not None:
            logger.warning(
                "repaired the torn end of log %r: %d bytes at offset %d moved to %s",
                repair.log_key,
                repair.length_bytes,
                repair.offset,
                repair.path,
            )
        if self._generation is not None:
            self._tell_notices(self._generation)

    @staticmethod
    def _tell_notices(generation: Generation) -> None:
        """Log what a generation has to tell. Requires: no lock is held."""
        while generation.notices:
            try:
                notice = generation.notices.pop(0)
            except IndexError:  # another thread told it
                return
            logger.warning("%s", notice)

    def _let_go(self) -> None:
        """Give back both locks, if this thread has them; else nothing."""
        lock = self._mutex.lock
        if lock._is_owned():
            self._append_lock.give_back()
            self.holds_append_lock = False
            lock.release()

    def _established(self, generation: Generation) -> Repair | None:
        """Establish where the log ends, and let appends go on behind it."""
        try:
            return generation.establish_end()
        except OSError as error:
            raise self._not_established(generation, error) from error

    def _not_established(self, generation: Generation, error: OSError) -> CheckpointError:
        if isinstance(error, CheckpointError):
            return error
        if generation.is_poisoned:
            generation.mark_poisoned(error)
            return self._poison.refusal(error.strerror or str(error))
        return typed(error, doing="preparing to append to", path=self.paths.log)

    def _lock(self, timeout_s: float | None) -> Generation:
        """Take the mutex and the append lock, and return the generation that stands at the log's path under it."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        left_s = timeout_s
        if not self._mutex.acquire(timeout_s):
            raise self._timed_out(timeout_s)
        try:
            for _ in range(_REOPEN_LIMIT):
                if deadline is not None:
                    left_s = max(0.0, deadline - time.monotonic())
                if not self._append_lock.take(left_s):
                    raise self._timed_out(timeout_s)
                self.holds_append_lock = True
                if self._generation is not None and self._is_current(self._generation):
                    return self._generation
                # Whoever replaced the log by hand may have replaced its lock file, too: then others lock another one.
                if self._append_lock.is_at_path():
                    return self._opened()
                self._append_lock.close()
            raise OSError(errno.EAGAIN, "the lock file is being replaced again and again")
        except OSError as error:
            if isinstance(error, CheckpointError):
                raise
            raise typed(error, doing="locking", path=self.paths.lock) from error

    def _opened(self) -> Generation:
        with translated("opening", self.paths.log):
            try:
                self._generation = Generation(self.paths, self._poison, self._group_sync.mutex, self._id)
            except FileNotFoundError:
                raise LogNotFoundError(
                    f"there is no log {self.paths.log_key!r} at {self.paths.log}; was the store removed?",
                    path=self.paths.log,
                    reason="no such log",
                ) from None
        return self._generation

    def _is_current(self, generation: Generation) -> bool:
        try:
            status = system.stat_path(self.paths.log)
        except FileNotFoundError:
            return False
        return generation.identity == (status.st_dev, status.st_ino)

    def _timed_out(self, timeout_s: float | None) -> LockTimeoutError:
        return LockTimeoutError(
            f"the log {self.paths.log_key!r} was locked by another writer for {timeout_s} s ({self.paths.lock}). "
            "Nothing was written; try again, or give a longer lock_timeout_s.",
            path=self.paths.lock,
            reason="lock timeout",
        )

    # --- another generation -----------------------------------------------------------------------------------

    def recover(self, timeout_s: float | None) -> None:
        """Put a new generation with the same records in the place of this one, and forget that a sync failed.

        Requires: the store lock.

        Raises:
            LockTimeoutError, CorruptLogError, WriteFailedError: nothing was changed.
        """

        def switch(old: Generation) -> None:
            switch_generation(self.paths, old)
            with translated("removing", self.paths.poison):
                self._poison.clear()

        self._exclusive(timeout_s, _as_found, switch)

    def repair_end(self, timeout_s: float | None) -> Repair | None:
        """Repair a torn end as the next append would, and make what is left durable; return what was cut off, if any.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError: nothing was changed.
            WriteFailedError: nothing was cut.
        """
        repairs: list[Repair | None] = []

        def prepare(_: Generation) -> Repair | None:
            # As a process that has just begun: whoever believes the page does not look behind padding.
            repairs.append(self._established(self._opened()))
            return repairs[0]

        self._exclusive(timeout_s, prepare, lambda _: None)
        return repairs[0]

    def salvage(self, timeout_s: float | None) -> Salvage | None:
        """Put what can be proven of a corrupt log into a new generation, in the place of this one.

        Requires: the store lock.

        Returns:
            What was done; None if the log is not corrupt any more.

        Raises:
            LockTimeoutError, FormatVersionError, WriteFailedError: nothing was changed.
        """
        self._mutex.refuse_reentry()
        try:
            self._lock_whatever_it_holds(timeout_s)
            salvage = salvage_log(self.paths)
            if salvage is not None:
                self._forget_poison()
            return salvage
        finally:
            try:
                self._let_go()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                self._let_go()
                raise

    def _forget_poison(self) -> None:
        with translated("removing", self.paths.poison):
            self._poison.clear()

    def _lock_whatever_it_holds(self, timeout_s: float | None) -> None:
        """Take the mutex and the append lock of a log whose header may be damaged."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._mutex.acquire(timeout_s):
            raise self._timed_out(timeout_s)
        with translated("locking", self.paths.lock):
            for _ in range(_REOPEN_LIMIT):
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._append_lock.take(left_s):
                    raise self._timed_out(timeout_s)
                self.holds_append_lock = True
                if self._append_lock.is_at_path():
                    return
                self._append_lock.close()
            raise OSError(errno.EAGAIN, "the lock file is being replaced again and again")

    # --- poison -----------------------------------------------------------------------------------------------

    def is_poisoned(self) -> bool:
        """Return whether the log takes no appends because a sync of it failed. Only reads."""
        current = self._generation
        if current is not None and current.is_poisoned and self._is_current(current):
            return True
        log = system.open_file(self.paths.log)
        header = read_header(log.fd, self.paths.log, log_key=self.paths.log_key)
        return self._poison.reason(header.generation) is not None

    # --- fork -------------------------------------------------------------------------------------------------

    def pause_for_fork(self, timeout_s: float, resumes: list[Callable[[], None]]) -> None:
        """Take the mutex of whoever holds the append lock or the leader lock; wait no longer than ``timeout_s``.

        What gives it back goes to ``resumes``, before it is taken: a Ctrl-C must not leave us with it.
        """
        if self.holds_append_lock and not self._mutex.is_owned():
            resumes.append(self._mutex.release_if_owned)
            self._mutex.acquire(timeout_s)
        self._group_sync.pause_for_fork(timeout_s, resumes)

    def reset_after_fork(self) -> None:
        """Let go of everything inherited, in the child.

        Close, never unlock: the open file is shared with the parent, and an unlock here would free its lock.
        Not to close would keep the lock alive when the parent dies.
        """
        self._mutex = Mutex(f"the log {self.paths.log_key!r}")
        self._id = os.urandom(_WRITER_ID_BYTES)
        self.holds_append_lock = False
        self.appends = 0
        self._append_lock.close()
        self._group_sync.reset_after_fork()
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.close()


def _as_found(generation: Generation) -> None:
    """Prepare nothing: the log is taken in whatever state it is."""
    del generation


def _as_it_is(generation: Generation) -> Appended:
    return Appended(generation, generation.end)
