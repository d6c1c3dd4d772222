"""The common append in native code, from the lock to the sync, by one call; see native/append.c and native/commit.c.

Native code does only what is usual, and makes the system calls that ``LogWriter``, ``AppendLock``, ``OpenLog`` and
``GroupCommit`` make. Whatever is unusual it leaves to them, before anything was changed; and what has failed, as it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.judged import Judged
from mpcheckpoint._logfile.notices import tell
from mpcheckpoint._logfile.opened import Appended
from mpcheckpoint._logfile.partial_write import PartialWrite, note_written
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.append_lock import AppendLock
    from mpcheckpoint._logfile.group_commit import GroupCommit
    from mpcheckpoint._logfile.opened import OpenLog
    from mpcheckpoint._logfile.paths import LogPaths

# What native code returns: ``enum outcome`` in native/state.h.
_, _CONTENDED, _WRITTEN, _DURABLE, _NOT_WRITTEN, _NOT_SYNCED = range(6)

_tuple_new = tuple.__new__  # a NamedTuple is made by a function in Python


class NativeAppends:
    """The appends of one process to one log, by native code."""

    def __init__(self, paths: LogPaths, lock: AppendLock, commit: GroupCommit) -> None:
        self._paths = paths
        self._lock = lock
        self._commit = commit

    def attach(self, log: OpenLog) -> None:
        """Have native code append from now on. Requires: the append lock, and that an append has just gone well."""
        lock = self._lock.for_native()
        if lock is not None and system.has_statx():
            self._lock.watch(log.state)
            log.attach(*lock, *self._commit.for_native())

    def append(
        self,
        log: OpenLog,
        payloads: list[Payload],
        *,
        is_durable: bool,
        may_wait: bool,
        seen: EndState | None = None,
    ) -> Appended | None:
        """Append a batch, and make it durable if that is asked; return what came of it.

        None if something is unusual, or the log does not end at ``seen``: then nothing was changed.

        Args:
            may_wait: whether other threads and processes are waited for.
            seen: where the log has to end; None for anywhere.

        Raises:
            WriteFailedError: nothing was appended.
        """
        state, lock = log.state, self._lock
        told: list[Any] = []  # filled by native code: a Ctrl-C right after a call takes what the call returns
        beginning = state.beginning
        try:
            outcome = state.append(payloads, told, is_durable, may_wait, seen)
            if outcome < _WRITTEN:
                if outcome == _CONTENDED:
                    lock.note_busy()
                return None
            if outcome == _NOT_WRITTEN:
                return Appended(log, state.end, beginning) if _is_written_after_all(log) else None
            if lock.is_owned():  # native code could not give it back
                lock.close_file()
            appended = Appended(log, _tuple_new(EndState, told[0]), beginning, None, outcome == _DURABLE)
            if outcome == _NOT_SYNCED:
                appended.failure = self._commit.settle_failed_sync(log)
            elif state.slow_sync_s:
                _tell_slow_sync(log)
        except BaseException as error:
            self._settle(log, told, error)
            raise
        finally:
            if lock.is_owned():
                state.is_inside = False
                lock.give_back()
                state.wake()
                if log.file.notices:
                    tell(log.file)
        return appended

    def append_judged(
        self,
        log: OpenLog | None,
        payloads: list[Payload],
        guard: Callable[[], object],
        is_durable: bool,
        may_wait: bool,
    ) -> Appended | None:
        """Append a batch if the log holds what its condition was judged of, and that was met; else judge it anew.

        None if it is to be judged under the lock: then nothing was changed. Raises as ``append`` does.
        """
        while system.native is not None and log is not None and log.state.is_ready:
            if not isinstance(guard, Judged) or guard.seen is None or guard.seen.generation != log.generation:
                break
            end = guard.seen.end
            assert isinstance(end, EndState)
            done = self.append(log, payloads, is_durable=is_durable, may_wait=may_wait, seen=end)
            if done is not None or not guard.is_met_anew():
                return done
        return None

    def _settle(self, log: OpenLog, told: list[Any], error: BaseException) -> None:
        """Settle what native code has left, where a Ctrl-C came right after it; have the error say what was written."""
        if log.state.failed_write is not None and self._lock.is_owned():
            write, _ = _failed_write(log)
            write.settle(log.file, log.end, self._paths.log, error)
            log.state.failed_write = None
            log.state.settle_taken()
        self._commit.settle_failed_sync(log)
        if isinstance(error, CheckpointError):
            return
        if told and told[0] is not None:
            note_written(error, self._paths.log, told[0][0])
        elif told or isinstance(error, MemoryError):  # perhaps for what was to be told: the next append looks
            error.add_note(f"mpcheckpoint: the record may have been written to {self._paths.log}")


def is_durable_natively(log: OpenLog, appended: Appended) -> bool:
    """Make an append durable in native code; return whether that has come to a good end, and the log was not replaced.
    If not, ``GroupCommit`` finds out why."""
    outcome = log.state.make_durable(appended.end.offset, appended.beginning)
    if log.state.slow_sync_s:
        _tell_slow_sync(log)
    return outcome == _DURABLE


def _is_written_after_all(log: OpenLog) -> bool:
    """Go on from a write that failed, or was cut short; return whether the batch of this thread is in the log now. If
    not, it is to be appended by itself, or to the file opened anew.

    Raises:
        WriteFailedError: it is not, and there is nothing else to try.
    """
    write, code = _failed_write(log)
    try:
        _write_rest(log, write, code)
    except OSError as error:
        if not log.file.is_lost_by(error) and len(write.ends) == 1:
            raise
        return log.state.end.offset >= write.ends[0].offset
    return True


def _failed_write(log: OpenLog) -> tuple[PartialWrite, int]:
    """Return the write of native code that has failed, and the number of its error; 0 if it was cut short."""
    assert log.state.failed_write is not None
    data, ends, code = log.state.failed_write
    return PartialWrite(data, log.state.end, [EndState(*end) for end in ends]), code


def _write_rest(log: OpenLog, write: PartialWrite, code: int) -> None:
    """Go on as ``OpenLog.append`` does where a write has failed, or was cut short.

    Raises:
        WriteFailedError: not all was written.
    """
    try:
        if code:
            raise OSError(code, os.strerror(code))
        write_whole(log.file.fd, write.data, write.before.offset)
        log.end.move_to(write.ends[-1])
    except BaseException as error:
        log.settle_failed(write, error)
        raise
    finally:
        log.state.failed_write = None
        log.state.settle_taken()
    log.publish()


def _tell_slow_sync(log: OpenLog) -> None:
    took_s, log.state.slow_sync_s = log.state.slow_sync_s, 0.0
    log.file.note_sync(took_s)
    tell(log.file)
