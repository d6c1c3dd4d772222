"""What tests do to stores: find their files, tear them, hold their locks, put faults in the system's place.

Faults are put in the place of functions of `mpcheckpoint._system`, the seam made for it: the package calls them as its
attributes, so a replaced one is met wherever it is used.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import Payload, encode_line, running_crc
from mpcheckpoint._format.names import file_name
from mpcheckpoint._logfile import padding
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError
from mpcheckpoint.log import handle_of
from mpcheckpoint.testing._simulation.processes import restart

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Log, Position
    from mpcheckpoint._logfile.append import LogWriter
    from mpcheckpoint._logfile.opened import OpenLog
    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementWriter

# What changes something on disk: a crash or a failure can come between any two calls of these.
CHANGING = (
    *("make_directory", "open_file", "publish", "remove", "replace"),
    *("sync_data", "sync_directory", "truncate", "write_at"),
)
_PAUSE_S = 0.002


# --- files -------------------------------------------------------------------------------------------------


def inside(store: Path, name: str = "") -> Path:
    """Return the directory that holds a store's files, or one of them."""
    return store / ".checkpoint" / name


def log_file(store: Path, log_key: str = "a") -> Path:
    """Return the file of a log."""
    return inside(store, f"{file_name(log_key)}.jsonl")


def lock_file(store: Path, log_key: str = "a") -> Path:
    """Return the file of a log's append lock."""
    return inside(store, f"{file_name(log_key)}.lock")


def page_file(store: Path) -> Path:
    return inside(store, "a.page")


# Paths of the files of log "a", as patterns for faults.
LOG = r"a\.jsonl$"
LOCK = r"a\.lock$"
TORN = b'["000000ff",17'


def tear(store: Path, torn: bytes = TORN, log_key: str = "a") -> None:
    """Leave at the end of a log what a dying writer leaves."""
    with log_file(store, log_key).open("ab") as file:
        file.write(torn)


def append_crafted_line(
    store: Path,
    *,
    event: str = "crafted",
    stamp_us: int | None = None,
    later_us: int = 1,
    durable: int = 0,
    more: int = 0,
) -> None:
    """Write after a log's last line one of which only what is asked for is wrong.

    Its stamp is ``stamp_us``, or else that of the last line and ``later_us``.
    """
    content = log_file(store).read_bytes()
    stored_crc = int(content[-11:-3], 16)
    if stamp_us is None:
        stamp_us = json.loads(content.splitlines()[-1])[1] + later_us
    payload = Payload(b'"x"', json.dumps(event).encode())
    line, _ = encode_line(payload, stamp_us=stamp_us, durable=durable, more=more, crc=running_crc(stored_crc))
    tear(store, line)


def flip(store: Path, offset: int, log_key: str = "a", bit: int = 1) -> None:
    """Change one bit of a log."""
    path = log_file(store, log_key)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def tree(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return everything that stands below a directory, the directory included: any write at all changes the answer."""
    return {str(path.relative_to(directory)): _looks(path) for path in [directory, *directory.rglob("*")]}


def _looks(path: Path) -> tuple[int, int, int, bytes]:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return status.st_mode, status.st_ino, status.st_mtime_ns, content


def is_locked(path: Path) -> bool:
    """Return whether somebody holds the lock of a file, whoever it is; False if there is no such file."""
    if not path.exists():
        return False
    descriptor = system.open_file(str(path), write=True)
    try:
        return not system.try_lock(descriptor.fd)
    finally:
        descriptor.close()  # and with it the lock, if it was given


def writer_of(store: Path) -> LogWriter:
    """Return the append side of the log in this process, which has appended to it."""
    (writer,) = (each for each in process._alive if each.paths.log == str(log_file(store)))
    return writer


def generation_of(store: Path) -> OpenLog:
    """Return what this process, which has appended to it, knows of the log."""
    generation = writer_of(store).log
    assert generation is not None
    return generation


# --- processes and threads ---------------------------------------------------------------------------------


def become_a_new_process() -> None:
    """Forget all that this process knows of stores, as if it had just been started. Handles go on as after a fork."""
    restart()


def hold_append_lock(store: Path, writer: AcknowledgementWriter, log_key: str = "a") -> None:
    """Hold the append lock of a log until killed. Acknowledges once it has the lock."""
    descriptor = system.open_file(str(lock_file(store, log_key)), write=True, create=True)
    system.lock(descriptor.fd)
    writer.acknowledge("locked")
    while True:
        signal.pause()


def hold_store_lock(store: Path, writer: AcknowledgementWriter) -> None:
    """Hold the lock of a whole store until killed. Acknowledges once it has the lock."""
    with system.store_lock(str(inside(store, "store.lock")), None):
        writer.acknowledge("locked")
        while True:
            signal.pause()


def bounded(function: Callable[..., Any], *args: Any, timeout_s: float = 20) -> Any:
    """Return what a call returns; raise TimeoutError if it has not returned in time. What hangs goes on hanging."""
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, function(*args)))
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise TimeoutError(f"{function!r} still runs after {timeout_s} s")
    is_ok, value = outcome[0]
    if not is_ok:
        raise value
    return value


def wait_until(
    is_so: Callable[[], object], what: str, timeout_s: float = 30, *, pause_s: float = _PAUSE_S
) -> None:
    """Return once ``is_so()`` is true; raise TimeoutError naming ``what`` if that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {timeout_s} s: {what}")
        threading.Event().wait(pause_s)


# Said of a machine that has much to do, whatever is tested: a second for a sync, a lock or a look at all bytes.
OF_A_BUSY_MACHINE = re.compile(
    r"a sync of log '.*' took \d|waiting for the append lock of log |validated [\d,]+ bytes"
)


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the library has told in log messages, but for what it tells on a busy machine."""
    return [
        record
        for record in caplog.records
        if record.name.partition(".")[0] == "mpcheckpoint"
        and not OF_A_BUSY_MACHINE.match(record.getMessage())
    ]


def seeded(name: str) -> random.Random:
    """Return a source of chance for a test; what it takes to repeat the run stands in a failed test's output."""
    seed = os.environ.get("MPCHECKPOINT_SEED") or str(random.SystemRandom().randrange(1 << 32))
    sys.stderr.write(f"{name}: MPCHECKPOINT_SEED={seed} repeats these choices\n")
    return random.Random(f"{seed} {name}")


def store_of(log: Log) -> Path:
    """Return the directory of the store a log is in."""
    return Path(handle_of(log).store.settings.path)


def append_elsewhere(store: Path, object_key: str, event: Any, record_id: str | None = None) -> None:
    """Append as another process would."""
    Checkpoint(store).log("a").append(object_key, event, record_id=record_id)


def append_and_tell(store: Path) -> str:
    """Append as a process that has just been started; return the name of the error, if there is one."""
    become_a_new_process()
    try:
        Checkpoint(store).log("a").append("x", "by another")
    except CheckpointError as error:
        return type(error).__name__
    return "appended"


def seen_anew(log: Log, object_key: str = "x") -> list[Any]:
    """Return an object's events as somebody finds them who has just opened the store."""
    with Checkpoint(store_of(log), read_only=True, log_keys=[log.log_key]) as checkpoint:
        return checkpoint.getCheckpoints(object_key)


def write_padding_early(after: int = 0, first_bytes: int = 700) -> None:
    """Have this process write padding sooner, and in smaller steps, so that little work meets it often; for a child,
    since nothing undoes it. A test uses the fixture ``early_padding``."""
    padding._EXTENSIONS_BEFORE, padding._FIRST_BYTES = after, first_bytes


def assert_goes_on(log: Log, expected: list[Any]) -> None:
    """The log holds ``expected`` for "x", nobody its lock; it takes one more, here and by a new process."""
    assert list(log.events("x")) == expected
    assert not is_locked(lock_file(store_of(log), log.log_key))
    log.append("x", "next")
    become_a_new_process()
    assert seen_anew(log) == [*expected, "next"]
    log.append("x", "by a new process")
    assert list(log.events("x")) == [*expected, "next", "by a new process"]


# --- faults ------------------------------------------------------------------------------------------------


class Fault:
    """A function of the system that fails at some of its calls.

    ``seen`` counts its calls on the files it was made for, ``hits`` those that failed.
    """

    def __init__(self, name: str, on: str, is_due: Callable[[int], bool], act: Callable[..., Any]) -> None:
        self.name = name
        self.seen = 0
        self.hits = 0
        self.is_cleared = False
        self._on = on
        self._is_due = is_due
        self._act = act
        self._real: Callable[..., Any] = getattr(system, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Stand in for the function."""
        if self.is_cleared or not re.search(self._on, _path_of(args[0])):
            return self._real(*args, **options)
        self.seen += 1
        if not self._is_due(self.seen):
            return self._real(*args, **options)
        self.hits += 1
        return self._act(self._real, *args, **options)

    def clear(self) -> None:
        """Let every call succeed from now on."""
        self.is_cleared = True


class Faults:
    """Puts faults in the place of the system's functions until the end of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def act(self, name: str, act: Callable[..., Any], *, at: int = 1, times: int = 1, on: str = "") -> Fault:
        """Call ``act(real, *args)`` in the place of the ``at``-th call, and ``times`` calls in all.

        ``on`` is a regular expression that confines this to files, or directories, in whose path it is found.
        """
        fault = Fault(name, on, lambda seen: at <= seen < at + times, act)
        self._monkeypatch.setattr(system, name, fault)
        return fault

    def fail(
        self, name: str, error: int | BaseException, *, at: int = 1, times: int = 1, on: str = ""
    ) -> Fault:
        """Raise ``error``, an errno or an exception, before anything is done."""

        def act(real: Callable[..., Any], *args: Any, **options: Any) -> Any:
            raise _error(error)

        return self.act(name, act, at=at, times=times, on=on)

    def fail_afterwards(
        self, name: str, error: int | BaseException, *, at: int = 1, times: int = 1, on: str = ""
    ) -> Fault:
        """Raise ``error`` when everything is done."""

        def act(real: Callable[..., Any], *args: Any, **options: Any) -> Any:
            real(*args, **options)
            raise _error(error)

        return self.act(name, act, at=at, times=times, on=on)

    def fail_in_mid_write(
        self, error: int | BaseException, *, taken_bytes: int, at: int = 1, times: int = 1, on: str = ""
    ) -> Fault:
        """Write ``taken_bytes`` of what the ``at``-th write is given, then raise ``error``."""

        def act(real: Callable[..., Any], fd: int, data: bytes, offset: int) -> Any:
            real(fd, data[:taken_bytes], offset)
            raise _error(error)

        return self.act("write_at", act, at=at, times=times, on=on)

    def watch(self, name: str, *, on: str = "") -> Fault:
        """Fail nothing; count calls."""
        return self.act(name, _impossible, at=sys.maxsize, on=on)

    def any_call(self, number: int, act: Callable[[str], None]) -> list[str]:
        """Call ``act(name)`` before the ``number``-th call of any function that changes something on disk.

        Returns:
            The names of the calls so far; it grows.
        """
        calls: list[str] = []

        def stand_in(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                calls.append(name)
                if len(calls) == number:
                    act(name)
                return real(*args, **options)

            return call

        for name in CHANGING:
            self._monkeypatch.setattr(system, name, stand_in(name, getattr(system, name)))
        return calls


def _impossible(*args: object) -> None:
    raise AssertionError(args)


def _error(error: int | BaseException) -> BaseException:
    return OSError(error, os.strerror(error)) if isinstance(error, int) else error


def _path_of(file: int | str) -> str:
    return os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file


def poison(log: Log, faults: Faults, event: object = 1) -> Position:
    """Let the sync of an append fail; return the position that its record has if it is there."""
    fault = faults.fail("sync_data", errno.EIO, on=LOG)
    with pytest.raises(OutcomeUnknownError, match="not known whether it is durable") as caught:
        log.append("x", event)
    fault.clear()
    assert caught.value.position is not None
    return caught.value.position


def opened_until(number: int, path: str) -> list[system.Descriptor]:
    """Open a file until it gets that number. Lower ones may be free: the garbage collector closes files, too."""
    opened = [system.open_file(path)]
    while opened[-1].fd != number:
        assert opened[-1].fd < number
        opened.append(system.open_file(path))
    return opened
