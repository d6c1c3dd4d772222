"""One log for one process at a time: its mutex and its append lock, and the generation that stands there under them."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.faults import translated, typed
from mpcheckpoint._logfile.generation import Generation
from mpcheckpoint._logfile.group_commit import GroupSync
from mpcheckpoint._logfile.lock_file import LockFile
from mpcheckpoint._logfile.lock_waits import Wait
from mpcheckpoint._logfile.mutex import Mutex
from mpcheckpoint._logfile.notices import tell, timed_out
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint.errors import CheckpointError, LogNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._types import Repair

_REOPEN_LIMIT = 100
_WRITER_ID_BYTES = 8

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ExclusiveLog:
    """Keep the threads of this process and all other processes apart, while one of them writes to a log.

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
        self._poison = Poison(paths)
        self._mutex = Mutex(f"the log {paths.log_key!r}")
        self._append_lock = LockFile(paths.lock, Wait(paths.log_key, paths.lock))
        self._group_sync = GroupSync(paths.sync, self._poison)
        self._generation: Generation | None = None
        # By which writers know each other's entries in the page.
        self._id = os.urandom(_WRITER_ID_BYTES)

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
            tell(repair, self._generation)

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
            raise timed_out(self.paths, timeout_s)
        try:
            for _ in range(_REOPEN_LIMIT):
                if deadline is not None:
                    left_s = max(0.0, deadline - time.monotonic())
                if not self._append_lock.take(left_s):
                    raise timed_out(self.paths, timeout_s)
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
                self._generation.require_lock = self._append_lock.require_held
            except FileNotFoundError:
                raise LogNotFoundError(
                    f"there is no log {self.paths.log_key!r} at {self.paths.log}; was the store removed?",
                    path=self.paths.log,
                    reason="no such log",
                ) from None
        return self._generation

    def _is_current(self, generation: Generation) -> bool:
        try:
            return generation.identity == system.path_status(self.paths.log).identity
        except FileNotFoundError:
            return False

    def _lock_whatever_it_holds(self, timeout_s: float | None) -> None:
        """Take the mutex and the append lock of a log whose header may be damaged.

        As ``_lock``, but nothing is opened, so that the lock file's path is compared each time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._mutex.acquire(timeout_s):
            raise timed_out(self.paths, timeout_s)
        with translated("locking", self.paths.lock):
            for _ in range(_REOPEN_LIMIT):
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._append_lock.take(left_s):
                    raise timed_out(self.paths, timeout_s)
                self.holds_append_lock = True
                if self._append_lock.is_at_path():
                    return
                self._append_lock.close()
            raise OSError(errno.EAGAIN, "the lock file is being replaced again and again")

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
        self._append_lock.close()
        self._group_sync.reset_after_fork()
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.close()
