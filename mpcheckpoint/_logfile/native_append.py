"""The common append in native code: lock, end, write, page and unlock by one call; see native/append.c.

Native code does only what is usual, and makes the system calls that ``LogWriter``, ``AppendLock`` and ``OpenLog`` make.
Whatever is unusual it leaves to them, before anything was changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.native_outcome import native_append
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._logfile.append_lock import AppendLock
    from mpcheckpoint._logfile.opened import OpenLog

# What is returned when the kernel's lock is held elsewhere: ``enum outcome`` in native/append.c.
_CONTENDED = 1


def append_natively(log: OpenLog, lock: AppendLock, payloads: list[Payload]) -> EndState | None:
    """Append a batch; return where the log ends then, or None if something is unusual: then nothing was changed, and
    the kernel's lock may be held.

    Requires: ``lock.enter``, and ``lock.give_back`` afterwards.

    Raises:
        LockTimeoutError, WriteFailedError: nothing was appended.
    """
    told: list[Any] = []  # filled by native code: a Ctrl-C right after a call takes what the call returns
    try:
        outcome = _tried(log, lock, payloads, told, is_locked=False)
        if outcome == _CONTENDED and _is_taken(lock):
            _tried(log, lock, payloads, told, is_locked=True)
        if not told:
            lock.end_loan(is_held=False)
            return None
        done = native_append(told[0])
        log.take_note(done)
        if done.is_written and not done.is_unlocked:
            lock.close_file()  # which gives it back, too, as ``AppendLock.give_back`` has it
        lock.end_loan(is_held=not done.is_written, is_returned=done.is_written)
    except BaseException as error:
        if told:
            log.settle_native(native_append(told[0]), error)
        elif isinstance(error, MemoryError):
            # Perhaps for what was to be told: the next append looks.
            error.add_note("mpcheckpoint: the record may have been written")
        raise
    if not done.is_written:
        log.go_on_from_native(done)
    return done.after


def _tried(
    log: OpenLog, lock: AppendLock, payloads: list[Payload], told: list[Any], *, is_locked: bool
) -> int | None:
    """Return what native code makes of an append; None if it is not to be used now.

    Everything is asked for each time. While the lock was waited for its file may have been opened anew, other threads
    may have seen higher stamps, and a test may have put a fault in the system's place.
    """
    native, known, descriptor = system.native, log.for_native(), lock.lend()
    if native is None or known is None or descriptor is None:
        return None
    outcome: int = native.append_batch(known, descriptor.fd, descriptor.identity, payloads, told, is_locked)
    return outcome


def _is_taken(lock: AppendLock) -> bool:
    """Wait for the kernel's lock, which is held elsewhere; return False where its file cannot be used."""
    lock.end_loan(is_held=False)  # a fork must not wait for a lock that is held elsewhere
    try:
        lock.take(is_busy=True)
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        return False  # Python finds out what is wrong with it
    return True
