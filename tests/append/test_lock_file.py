"""The append lock of a log: of one kind, shared by nobody, its file never removed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.errors import LockTimeoutError
from support.processes import call
from support.verbs import LOCK, LOG, Faults, assert_goes_on, bounded, is_locked, lock_file, opened_until, tear

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.guarantee(8)


@pytest.mark.guarantee(8)
def test_append_lock_lets_nobody_share_it(store: Path, log: Log, faults: Faults) -> None:
    def try_to_share(real: Callable[..., int], *args: Any) -> int:
        with lock_file(store).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return real(*args)

    fault = faults.act("write_at", try_to_share, on=LOG)
    log.append("x", 1)

    assert fault.hits == 1


@pytest.mark.guarantee(8)
def test_append_that_must_not_wait_for_the_lock_does_not(store: Path, log: Log) -> None:
    impatient = Checkpoint(store, lock_timeout_s=0).log("a")
    holder = system.open_file(str(lock_file(store)), write=True)
    system.lock(holder.fd)
    try:
        with pytest.raises(LockTimeoutError):
            bounded(impatient.append, "x", 1, timeout_s=5)
    finally:
        holder.close()

    assert_goes_on(log, [0])


@pytest.mark.guarantee(8)
def test_lock_file_is_never_removed_nor_replaced(store: Path, log: Log) -> None:
    inode = lock_file(store).stat().st_ino

    for use in (lambda: log.append("x", 1), lambda: tear(store), lambda: log.append("x", 2), log.recover):
        use()
        assert lock_file(store).stat().st_ino == inode


@pytest.mark.guarantee(8)
@pytest.mark.rule(12)
def test_lock_outlives_the_closing_of_another_descriptor_and_keeps_threads_apart(
    log: Log, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_around(real: Callable[..., int], *args: object) -> int:
        with lock_file(store).open("r+b"):
            pass  # closing this would drop a POSIX record lock
        assert is_locked(lock_file(store))
        assert call(is_locked, lock_file(store), method="fork")
        return real(*args)

    fault = Faults(monkeypatch).act("write_at", look_around, on=r"a\.jsonl$")
    log.append("x", 1)

    assert fault.hits == 1
    assert not is_locked(lock_file(store))


@pytest.mark.guarantee(8)
@pytest.mark.rule(13)
def test_every_append_lock_is_of_one_kind(log: Log, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(real: Callable[..., int], *args: object) -> int:
        inode = lock_file(store).stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        kinds.update(fields[1] for fields in locks if fields[5].endswith(f":{inode}"))
        return real(*args)

    kinds: set[str] = set()
    Faults(monkeypatch).act("write_at", look_up, on=r"a\.jsonl$")
    log.append("x", 1)

    assert kinds == {"FLOCK"}


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("becomes", ["closed", "another file", "another file of ours"])
def test_lock_whose_descriptor_is_closed_while_it_is_waited_for_is_taken_anew(
    store: Path, log: Log, faults: Faults, becomes: str
) -> None:
    other: list[Any] = []

    def lose(real: Callable[..., bool], fd: int, timeout_s: float | None) -> bool:
        holder.close()
        taken = real(fd, timeout_s)
        os.close(fd)
        if becomes == "another file":
            other.append(os.dup2(os.open(os.devnull, os.O_RDWR), fd))
        elif becomes == "another file of ours":
            other.extend(opened_until(fd, str(store)))
        return taken

    holder = system.open_file(str(lock_file(store)), write=True)
    system.lock(holder.fd)
    fault = faults.act("lock", lose, on=LOCK)
    log.append("x", 1)

    assert fault.hits == 1
    assert_goes_on(log, [0, 1])
