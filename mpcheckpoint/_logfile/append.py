"""The append side of one log in one process. The way of an append, top to bottom:

1. *lock*: the mutex of the threads, then the kernel's lock of all processes (``append_lock``).
2. *end*: where the log ends, borne out by its own bytes; a torn end is cut off (``opened``).
3. *condition*: what the caller relies on is judged while nobody else can append.
4. *write*: one batch, by one write after the end. From now on every reader sees it.
5. *unlock*.
6. *durable*: a sync that covers the batch, shared with all that was written meanwhile (``group_commit``).
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.append_lock import AppendLock
from mpcheckpoint._logfile.faults import translated, typed
from mpcheckpoint._logfile.group_commit import GroupCommit
from mpcheckpoint._logfile.judged import judged
from mpcheckpoint._logfile.known_end import durable_of, go_on_from
from mpcheckpoint._logfile.let_go import let_go
from mpcheckpoint._logfile.native_append import NativeAppends, is_durable_natively
from mpcheckpoint._logfile.notices import tell
from mpcheckpoint._logfile.opened import Appended, OpenLog
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint._logfile.queued import AppendQueue, QueuedAppend
from mpcheckpoint._logfile.replaced import has_a_successor, is_replaced_by_now
from mpcheckpoint._logfile.successor import find_in_successor, outcome_unknown
from mpcheckpoint._types import Position
from mpcheckpoint.errors import CheckpointError, LogNotFoundError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.known_end import KnownEnd
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._types import Repair

_REOPEN_LIMIT = 100
_WRITER_ID_BYTES = 8
_LOCK_WAIT_AT_RELEASE_S = 0.1

T = TypeVar("T")
# Stands for an append that native code is to do after all.
_AGAIN: Any = object()

logger = logging.getLogger("mpcheckpoint")


class LogWriter:
    """Append to one log, with every thread of this process and every other process.

    The locking rules are those of AppendLock and GroupCommit.
    """

    def __init__(self, paths: LogPaths, known: KnownEnd | None = None) -> None:
        """Append to the log at ``paths``, of which that much is ``known`` from when its files were given back."""
        self.paths, self.known = paths, known
        # Open since the first append; another object once the log has got another generation.
        self.log: OpenLog | None = None
        self.poison = Poison(paths)
        self.lock = AppendLock(paths)
        self.commit = GroupCommit(paths.sync)
        self.queue = AppendQueue()
        self.native = NativeAppends(paths, self.lock, self.commit)
        self._id = os.urandom(_WRITER_ID_BYTES)

    # --- append -----------------------------------------------------------------------------------------------

    def append(
        self,
        payloads: list[Payload],
        *,
        timeout_s: float | None,
        guard: Callable[[], Position | None] | None = None,
        is_durable: bool = False,
    ) -> Appended:
        """Write one batch. It is visible then, and durable after ``wait_durable``.

        Args:
            payloads: the records; at least one.
            timeout_s: how long to wait for other writers.
            is_durable: have native code see to that at once, if it can.
            guard: called under the append lock. What it raises is raised with nothing written; if it returns a
                position, nothing is written and that is ``found``. It waits for no lock but the mutex of a view.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, WriteFailedError: nothing was appended.
        """

        def under_lock(log: OpenLog | None) -> Appended:
            log = log or self.opened()
            try:
                log.find_end()
            except OSError as error:
                raise self._not_established(log, error) from error
            found = judged(guard, log.generation, log.state.end) if guard is not None else None
            # A record that was found may be visible and not yet durable: what the log holds now is to be covered.
            try:
                end = log.state.end if found is not None else self.queue.write(log, payloads)
            except OSError as error:
                if not log.file.is_lost_by(error):
                    raise
                self.establish(log)
                end = self.queue.write(log, payloads)
            if system.native is not None:
                self.native.attach(log)
            return Appended(log, end, log.state.beginning, found)

        if self.lock.is_owned():  # before the queue, which the outer append of this very thread would serve
            self.lock.refuse_reentry()
        if guard is not None:
            done = self.native.append_judged(self.log, payloads, guard, is_durable, timeout_s is None)
            return self.exclusive(timeout_s, under_lock) if done is None else done
        while True:
            tried, log = 0, self.log
            if system.native is not None and log is not None and log.state.is_ready:
                tried = log.state.attachments
                done = self.native.append(log, payloads, is_durable=is_durable, may_wait=timeout_s is None)
                if done is not None:
                    return done
            log = None  # it may be replaced now, and is to be closed then
            appended = self._append_in_python(payloads, timeout_s, under_lock, tried)
            if appended is not None:
                return appended

    def _append_in_python(
        self,
        payloads: list[Payload],
        timeout_s: float | None,
        under_lock: Callable[[OpenLog | None], Appended],
        tried: int,
    ) -> Appended | None:
        """Append a batch without a condition, or have it written by another thread.

        Return None where native code can be asked again: a thread that needed Python was inside when it was ``tried``,
        and others need not follow it.
        """
        is_joint = self.lock.is_entered and self.queue.takes(payloads)
        if not is_joint and system.native is None:
            return self.exclusive(timeout_s, under_lock)

        def is_native_again() -> Appended | None:
            state = self.log.state if self.log is not None and system.native is not None else None
            return _AGAIN if state is not None and state.is_ready and state.attachments != tried else None

        def exclusive(done: Callable[[], Appended | None]) -> Appended:
            return self.exclusive(timeout_s, under_lock, lambda: done() or is_native_again())

        queued = QueuedAppend(payloads)
        appended = self.queue.append(queued, exclusive, self.paths) if is_joint else exclusive(lambda: None)
        return None if appended is _AGAIN else appended

    def wait_durable(self, appended: Appended) -> Position:
        """Return the position of an append once it survives a loss of power.

        Raises:
            OutcomeUnknownError: the sync failed, or the log was replaced and the record is not in its successor.
        """
        log = appended.log
        position = self.position_of(appended)
        try:
            if log.state.is_ready and system.native is not None and is_durable_natively(log, appended):
                return position
            try:
                failure, appended.failure = appended.failure, None
                if failure is not None:
                    raise failure
                status = self.commit.wait_durable(log, appended.end.offset)
            except OSError as error:
                failure = None  # kept, it would keep files open
                if log.file.is_poisoned:
                    raise self._not_covered(position, error) from error
                is_replaced = is_replaced_by_now(appended, position, self.paths, self._cover_all)
            else:
                is_named = status is not None and status.links > 0
                is_same = is_named and log.state.beginning == appended.beginning
                is_replaced = not is_same and has_a_successor(appended, position, self.paths, self._cover_all)
            if log.file.notices:
                tell(log.file)
        except CheckpointError:
            raise
        except OSError as error:  # nothing is wrong with the log: it is synced, but may have been replaced
            cause = f"its file cannot be looked at ({error.strerror or error})"
            raise outcome_unknown(self.paths, cause, position) from error
        except BaseException as error:  # a Ctrl-C: the record stays, and the code that catches it should know
            self.commit.settle_failed_sync(log)
            error.add_note(f"mpcheckpoint: the record at {position} was written; it may not be durable")
            raise
        return find_in_successor(self.paths, position) if is_replaced else position

    def position_of(self, appended: Appended) -> Position:
        """Return the position right after the record that was appended, or found."""
        offset, _, stamp_us = appended.end
        header = appended.log.end.header
        return appended.found or Position(
            self.paths.log_key, header.generation, offset, stamp_us, 0, header.lineage
        )

    # --- the lock, and the log that stands there under it -----------------------------------------------------

    def exclusive(
        self,
        timeout_s: float | None,
        act: Callable[[OpenLog | None], T],
        done: Callable[[], T | None] | None = None,
    ) -> T:
        """Return what ``act`` does under the append lock.

        Args:
            act: given the generation that stands at the log's path, if that is open already; else None: see ``opened``.
            done: asked once no other thread of this process is inside; what it returns makes ``act`` needless.

        Raises:
            LockTimeoutError, WriteFailedError: before ``act``. And what that raises.
        """
        lock, before = self.lock, [self.log]
        if lock.is_owned():  # before the try: its finally would give back what the outer call holds
            lock.refuse_reentry()
        try:
            lock.enter(timeout_s)
            if done is not None and (found := done()) is not None:
                return found
            if self.log is not None:
                self.log.state.detach()  # until an append in Python has gone well
            return act(self._locked())
        finally:
            try:
                lock.give_back()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                lock.give_back()
                raise
            if (known := self.log) is not None:
                if known.state.waiters:
                    known.state.wake()
                if known.file.notices:
                    tell(known.file)
            let_go(before, self.log)

    def _locked(self) -> OpenLog | None:
        """Take the append lock, as AppendLock says; return the open log, if that stands at the log's path under it."""
        lock = self.lock
        try:
            for _ in range(_REOPEN_LIMIT):
                lock.take()
                log = self.log
                if log is not None and self.is_current(log):
                    return log
                # Replaced by hand, as its lock file may be, too: then others lock another one.
                if lock.is_at_path():
                    return None
                lock.close_file()
            raise OSError(errno.EAGAIN, "the lock file is being replaced again and again")
        except OSError as error:
            if isinstance(error, CheckpointError):
                raise
            raise typed(error, doing="locking", path=self.paths.lock) from error

    def is_current(self, log: OpenLog) -> bool:
        """Return whether an open log is what stands at the log's path."""
        try:
            return system.path_status(self.paths.log)[:2] == log.file.identity
        except FileNotFoundError:
            return False

    def opened(self) -> OpenLog:
        """Open what stands at the log's path. Requires: the append lock.

        Raises:
            LogNotFoundError, CorruptLogError, FormatVersionError, WrongLogError, WriteFailedError
        """
        self.queue.written = self.appends
        with translated("opening", self.paths.log):
            try:
                self.log = OpenLog(
                    self.paths,
                    self.poison,
                    sync_turn=self.commit.turn.lock,
                    require_lock=self.lock.require_held,
                    writer_id=self._id,
                )
                go_on_from(self.log, self.known)
            except FileNotFoundError:
                raise LogNotFoundError(
                    f"there is no log {self.paths.log_key!r} at {self.paths.log}; was the store removed?",
                    path=self.paths.log,
                    reason="no such log",
                ) from None
        return self.log

    def establish(self, log: OpenLog) -> Repair | None:
        """Find where the log ends; return what was cut off, if anything. Requires: the append lock.

        Raises:
            CorruptLogError, PoisonedLogError, WriteFailedError: nothing was appended.
        """
        try:
            return log.find_end()
        except OSError as error:
            raise self._not_established(log, error) from error

    def _not_established(self, log: OpenLog, error: OSError) -> CheckpointError:
        if isinstance(error, CheckpointError):
            return error
        if log.file.is_poisoned:
            return self.poison.refusal(error.strerror or str(error))
        return typed(error, doing="preparing to append to", path=self.paths.log)

    # --- durable ----------------------------------------------------------------------------------------------

    def sync(self, timeout_s: float | None) -> int:
        """Make everything durable that the log holds now; return the offset below which that is so.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, OutcomeUnknownError
        """
        # If the log got another generation meanwhile, that holds the same records and was synced before it came there.
        covered = self._cover_all(timeout_s, None, tries=2)
        tell(covered.log.file)
        return covered.end.offset

    def _cover_all(self, timeout_s: float | None, position: Position | None, *, tries: int) -> Appended:
        """Make everything durable that the log holds now; return where it ends.

        Args:
            tries: how often, where somebody closed its file.
        """
        while True:
            there = self.exclusive(timeout_s, self._as_it_is)
            tries -= 1
            try:
                self.commit.wait_durable(there.log, there.end.offset)
            except OSError as error:
                if there.log.file.is_poisoned or not tries:
                    raise self._not_covered(position, error) from error
            else:
                return there

    def _not_covered(self, position: Position | None, error: OSError) -> OutcomeUnknownError:
        if self.log is not None:
            tell(self.log.file)
        return outcome_unknown(self.paths, f"its sync failed ({error.strerror or error})", position)

    def release_padding(self) -> None:
        """Cut off the padding after the log's end, if there is any and nobody is writing now. Raises nothing."""
        if self.log is None or not self.log.has_padding:
            return
        try:
            self.exclusive(_LOCK_WAIT_AT_RELEASE_S, self._cut_padding)
        except (CheckpointError, OSError) as error:
            logger.debug("left the padding of log %r: %s", self.paths.log_key, error)

    def _cut_padding(self, log: OpenLog | None) -> None:
        log = log or self.opened()
        self.establish(log)
        log.cut_padding()

    def known_durable(self, generation: str) -> int:
        """Return the offset below which this process knows that generation to be durable; 0 if it knows nothing."""
        if self.log is not None:
            return self.log.end.known_durable if self.log.generation == generation else 0
        return durable_of(self.known, generation)

    @property
    def appends(self) -> int:
        """How many appends this process did."""
        return self.queue.written + (self.log.state.appends if self.log is not None else 0)

    @property
    def syncs(self) -> int:
        """How many syncs of the current generation this process did."""
        return self.log.state.syncs if self.log is not None else 0

    def _as_it_is(self, log: OpenLog | None) -> Appended:
        log = log or self.opened()
        self.establish(log)
        return Appended(log, log.state.end, log.state.beginning)

    # --- fork -------------------------------------------------------------------------------------------------

    def pause_for_fork(self, timeout_s: float, resumes: list[Callable[[], None]]) -> None:
        """Let threads that hold the append lock, or lead a sync, finish: no longer than ``timeout_s`` for each."""
        state = self.log.state if self.log is not None else None
        self.lock.pause_for_fork(timeout_s, resumes, is_held=state is not None and state.is_inside)
        self.commit.pause_for_fork(timeout_s, resumes, is_leading=state is not None and state.is_leading)

    def reset_after_fork(self) -> None:
        """Let go of everything inherited, in the child."""
        self._id = os.urandom(_WRITER_ID_BYTES)
        self.lock.reset_after_fork()
        self.commit.reset_after_fork()
        self.queue = AppendQueue()
        log, self.log = self.log, None
        if log is not None:
            log.state.detach()
            log.close()
