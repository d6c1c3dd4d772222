"""The append side of one log in one process: its locks, its current generation, its poison."""

from __future__ import annotations

import errno
import logging
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mpcheckpoint import _system as system
from mpcheckpoint._storage.faults import translated, typed
from mpcheckpoint._storage.generation import Generation, outcome_unknown
from mpcheckpoint._storage.header import read_header
from mpcheckpoint._storage.mutex import Mutex
from mpcheckpoint._storage.poison import Poison
from mpcheckpoint._storage.reader import LogReader
from mpcheckpoint._storage.switch import switch_generation
from mpcheckpoint._types import Position
from mpcheckpoint.errors import (
    CheckpointError,
    LockTimeoutError,
    LogNotFoundError,
    OutcomeUnknownError,
    PoisonedLogError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._storage.paths import LogPaths
    from mpcheckpoint._types import Repair

_REOPEN_LIMIT = 100

logger = logging.getLogger("mpcheckpoint")

T = TypeVar("T")


class Appended(NamedTuple):
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
        self._lock_file: system.Descriptor | None = None
        self._generation: Generation | None = None

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

        def write(generation: Generation) -> Appended:
            found = guard() if guard is not None else None
            if found is not None:
                # That record may be visible and not yet durable: what the log holds now is to be covered.
                return Appended(generation, generation.end, found)
            return Appended(generation, generation.append(payloads))

        appended = self._exclusive(timeout_s, write)
        self.appends += 1
        return appended

    def make_durable(self, appended: Appended) -> Position:
        """Return the position of an append once it survives a loss of power.

        Raises:
            OutcomeUnknownError: the sync failed, or the log was replaced and the record is not in its successor.
        """
        generation, end, _ = appended
        position = self.position_of(appended)
        try:
            self._cover(generation, end.offset, position)
            is_current = self._is_current(generation)
        except CheckpointError:
            raise
        except OSError as error:  # nothing is wrong with the log: it is synced, but may have been replaced
            cause = f"its path cannot be looked at ({error.strerror or error})"
            raise self._unknown(position, cause) from error
        except BaseException as error:  # a Ctrl-C: the record stays, and whoever catches it should know
            error.add_note(f"mpcheckpoint: the record at {position} was written; it may not be durable")
            raise
        if is_current:
            return position
        return self._find_in_successor(position)

    def position_of(self, appended: Appended) -> Position:
        """Return the position right behind the record that was appended, or found."""
        generation, end, found = appended
        return found or Position(self.paths.log_key, generation.header.generation, end.offset, end.stamp_us)

    def sync(self, timeout_s: float | None) -> int:
        """Make everything durable that the log holds now; return the offset below which that is so.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, OutcomeUnknownError
        """
        generation, end, _ = self._exclusive(timeout_s, lambda current: Appended(current, current.end))
        self._cover(generation, end.offset, None)
        # If the log got another generation meanwhile, that holds the same records and was synced before it
        # was put there.
        return end.offset

    def _cover(self, generation: Generation, offset: int, position: Position | None) -> None:
        try:
            generation.cover(offset)
        except OSError as error:
            self._mark_poisoned(generation, error)
            self._tell()
            raise self._unknown(position, f"its sync failed ({error.strerror or error})") from error

    def known_durable(self, generation: str) -> int:
        """Return the offset below which this process knows that generation to be durable; 0 if it knows nothing."""
        current = self._generation
        return current.known_durable if current is not None and current.header.generation == generation else 0

    @property
    def syncs(self) -> int:
        """How many syncs of the current generation this process did."""
        return self._generation.syncs if self._generation is not None else 0

    # --- the append lock --------------------------------------------------------------------------------------

    def _exclusive(self, timeout_s: float | None, action: Callable[[Generation], T]) -> T:
        """Return what ``action`` does under the append lock, given a current generation whose end is established.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, WriteFailedError: nothing was appended.
        """
        repairs: list[Repair] = []

        def prepared(generation: Generation) -> T:
            with translated("reading", self.paths.poison):
                self._refuse_poisoned(generation)
            repair = self._established(generation)
            if repair is not None:
                repairs.append(repair)
            return action(generation)

        try:
            return self._locked(timeout_s, prepared)
        finally:
            for repair in repairs:
                logger.warning(
                    "repaired the torn end of log %r: %d bytes at offset %d moved to %s",
                    repair.log_key,
                    repair.length_bytes,
                    repair.offset,
                    repair.path,
                )

    def _locked(self, timeout_s: float | None, action: Callable[[Generation], T]) -> T:
        """Return what ``action`` does under the append lock, given the current generation, whatever its state.

        Rejected: a context manager. Its exit is a call of its own, and a Ctrl-C at the start of that call
        would leave the lock to whoever drops the traceback.

        Raises:
            LockTimeoutError: nothing was appended.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._mutex.refuse_reentry()  # before the try: its finally would give back what the outer call holds
        try:
            if not self._mutex.acquire(timeout_s):
                raise self._timed_out(timeout_s)
            with translated("locking", self.paths.lock):
                self._lock(deadline, timeout_s)
            self.holds_append_lock = True
            with translated("opening", self.paths.log):
                generation = self._open_current()
            return action(generation)
        finally:
            try:
                self._let_go()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                self._let_go()
                raise
            self._tell()

    def _tell(self) -> None:
        """Log what there is to tell. Requires: no lock is held."""
        generation = self._generation
        while generation is not None and generation.notices:
            logger.warning("%s", generation.notices.pop(0))

    def _let_go(self) -> None:
        """Give back both locks, if this thread has them; else nothing."""
        if self._mutex.is_owned():
            self._unlock()
            self.holds_append_lock = False
            self._mutex.release_if_owned()

    def _established(self, generation: Generation) -> Repair | None:
        try:
            return generation.establish_end()
        except CheckpointError:
            raise
        except OSError as error:
            if generation.is_poisoned:
                self._mark_poisoned(generation, error)
                raise self._poisoned(error.strerror or str(error)) from error
            raise typed(error, doing="preparing to append to", path=self.paths.log) from error

    def _lock(self, deadline: float | None, timeout_s: float | None) -> None:
        for _ in range(_REOPEN_LIMIT):
            if self._lock_file is None:
                self._lock_file = system.open_file(self.paths.lock, write=True, create=True)
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not system.lock(self._lock_file.fd, left_s):
                raise self._timed_out(timeout_s)
            # The lock file is never replaced by us. If somebody did it by hand, others lock another file.
            if self._same_file(self._lock_file.fd, self.paths.lock):
                return
            self._lock_file.close()
            self._lock_file = None
        raise OSError(errno.EAGAIN, "the lock file is being replaced again and again")

    def _unlock(self) -> None:
        if self._lock_file is None:
            return
        try:
            system.unlock(self._lock_file.fd)
        except OSError:
            self._lock_file.close()  # closing the only descriptor of this lock gives it back too
            self._lock_file = None

    def _open_current(self) -> Generation:
        current = self._generation
        if current is None or not self._is_current(current):
            try:
                current = self._generation = Generation(self.paths)
            except FileNotFoundError:
                raise LogNotFoundError(
                    f"there is no log {self.paths.log_key!r} at {self.paths.log}; was the store removed?",
                    path=self.paths.log,
                    reason="no such log",
                ) from None
        return current

    def _is_current(self, generation: Generation) -> bool:
        try:
            status = system.stat_path(self.paths.log)
        except FileNotFoundError:
            return False
        return generation.identity == (status.st_dev, status.st_ino)

    @staticmethod
    def _same_file(fd: int, path: str) -> bool:
        try:
            at_path = system.stat_path(path)
        except FileNotFoundError:
            return False
        opened = system.stat_fd(fd)
        return (opened.st_dev, opened.st_ino) == (at_path.st_dev, at_path.st_ino)

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

        self._locked(timeout_s, switch)

    def _find_in_successor(self, position: Position) -> Position:
        """Return where a record stands that was written just before the log got another generation."""
        reader = LogReader(self.paths)
        try:
            for chunk in reader.news():
                for line in chunk.lines:
                    if line.stamp_us == position.stamp_us and line.more == 0:
                        return Position(self.paths.log_key, chunk.generation, line.end, line.stamp_us)
        except CheckpointError as error:
            raise self._unknown(
                position, f"the log was replaced by one that cannot be read ({error})"
            ) from error
        finally:
            reader.release()
        raise self._unknown(position, "the log was replaced by one that does not hold it")

    def _unknown(self, position: Position | None, cause: str) -> OutcomeUnknownError:
        return outcome_unknown(self.paths, cause, position)

    # --- poison -----------------------------------------------------------------------------------------------

    def _mark_poisoned(self, generation: Generation, error: OSError) -> None:
        failure = self._poison.mark(generation.header.generation, error)
        if failure is not None:
            generation.notices.append(failure)

    def _refuse_poisoned(self, generation: Generation) -> None:
        reason = "an earlier sync by this process failed" if generation.is_poisoned else None
        reason = reason or self._poison.reason(generation.header.generation)
        if reason is not None:
            raise self._poisoned(reason)

    def _poisoned(self, reason: str) -> PoisonedLogError:
        return PoisonedLogError(
            f"a sync of the log {self.paths.log_key!r} failed ({reason}), so what was written last may not be on disk "
            f"({self.paths.log}). Nothing was written; call Log.recover() when the disk is sound.",
            path=self.paths.log,
            reason=reason,
        )

    def is_poisoned(self) -> bool:
        """Return whether the log takes no appends because a sync of it failed. Only reads."""
        current = self._generation
        if current is not None and current.is_poisoned and self._is_current(current):
            return True
        log = system.open_file(self.paths.log)
        header = read_header(log.fd, self.paths.log, log_key=self.paths.log_key)
        return self._poison.reason(header.generation) is not None

    # --- fork -------------------------------------------------------------------------------------------------

    def pause_for_fork(self, timeout_s: float) -> bool:
        """Take the mutex if its holder also holds the append lock, for no longer than ``timeout_s``."""
        return self.holds_append_lock and not self._mutex.is_owned() and self._mutex.acquire(timeout_s)

    def resume_after_fork(self) -> None:
        """Give back what ``pause_for_fork`` took, in the parent."""
        self._mutex.release_if_owned()

    def reset_after_fork(self) -> None:
        """Let go of everything inherited, in the child.

        Close, never unlock: the open file is shared with the parent, and an unlock here would free its lock.
        Not to close would keep the lock alive when the parent dies.
        """
        self._mutex = Mutex(f"the log {self.paths.log_key!r}")
        self.holds_append_lock = False
        self.appends = 0
        lock_file, self._lock_file = self._lock_file, None
        generation, self._generation = self._generation, None
        if lock_file is not None:
            lock_file.close()
        if generation is not None:
            generation.close()
