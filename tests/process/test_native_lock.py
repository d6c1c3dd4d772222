"""The process that asks for a lock, to prove that locks keep processes apart: what it answers, and who notices it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import _core
from mpcheckpoint import _system as system
from support.processes import call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not hasattr(_core.native, "lock_in_child"), reason="an interpreter is started for it"
)


SIGNALS = 300


def answer(path: Path) -> int | None:
    return _core.native.lock_in_child(os.fsencode(path))  # type: ignore[union-attr]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


@pytest.fixture
def locked(path: Path) -> Iterator[Path]:
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path


@pytest.mark.guarantee(8)
def test_lock_that_is_held_is_refused_and_one_that_is_free_is_granted_and_given_back(path: Path) -> None:
    assert answer(path) == 0
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child, which had it, has ended
        assert answer(path) == errno.EWOULDBLOCK
    assert answer(path) == 0


@pytest.mark.guarantee(8)
def test_process_that_cannot_ask_gives_no_answer(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").touch()

    assert answer(tmp_path / "missing") is None
    assert answer(tmp_path / "link") is None
    with pytest.raises(TypeError):
        _core.native.lock_in_child("a string")  # type: ignore[union-attr]


@pytest.mark.guarantee(7)
def test_nobody_in_the_process_notices_the_child(locked: Path) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _: told.append(number))
    try:
        open_files, mask = os.listdir("/proc/self/fd"), signal.pthread_sigmask(signal.SIG_BLOCK, [])

        assert answer(locked) == errno.EWOULDBLOCK

        assert told == []
        assert os.listdir("/proc/self/fd") == open_files
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
        assert "zombie" not in {state_of(number) for number in children()}
    finally:
        signal.signal(signal.SIGCHLD, before)


def children() -> list[str]:
    with open(f"/proc/self/task/{os.getpid()}/children") as listed:
        return listed.read().split()


def state_of(pid: str) -> str:
    with open(f"/proc/{pid}/status") as status:
        return "zombie" if "State:\tZ" in status.read() else "other"


@pytest.mark.guarantee(8)
def test_many_threads_ask_at_once_and_each_has_its_own_answer(locked: Path, tmp_path: Path) -> None:
    (tmp_path / "free").touch()
    paths = [locked, tmp_path / "missing"] * 200

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, paths))

    assert answers == [errno.EWOULDBLOCK, None] * 200


@pytest.mark.guarantee(7)
def test_signal_to_the_whole_group_is_not_handled_in_the_child(locked: Path) -> None:
    assert call(asked_amid_signals, locked, method="fork") <= SIGNALS


def asked_amid_signals(path: Path) -> int:
    """Ask again and again while signals come to all of this group; return how many were handled."""
    os.setpgid(0, 0)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)  # a handler in a process with our memory writes there, too
    signal.signal(signal.SIGUSR1, lambda *_: None)

    sender = os.fork()
    if not sender:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for _ in range(SIGNALS):
            os.killpg(0, signal.SIGUSR1)
            time.sleep(0.001)
        os._exit(0)
    while os.waitpid(sender, os.WNOHANG) == (0, 0):
        answer(path)
    return len(os.read(reading, 4 * SIGNALS))


# --- what a store makes of it ----------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
def test_locks_are_proven_without_an_interpreter(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")

    assert system.locks._proof_by_child(str(locked)) == system.LockProof(True)
