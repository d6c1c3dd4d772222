"""The lock of a whole store: who it keeps out, that it dies with its holder, and that nobody's forks suffer from it."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import _system as system
from mpcheckpoint._system import locks
from mpcheckpoint._system.locks import store_locks
from support.verbs import wait_until

if TYPE_CHECKING:
    from support.processes import Children


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.lock"
    path.touch()
    return path


def is_free(path: Path) -> bool:
    try:
        with system.store_lock(str(path), 0):
            return True
    except TimeoutError:
        return False


FILELOCK = """
import sys
import filelock

lock = filelock.FileLock(sys.argv[1], timeout=0, fallback_to_soft=False)
with lock:
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
try:
    lock.acquire()
except filelock.Timeout:
    print("refused", flush=True)
"""


def times_open(path: Path) -> int:
    """Return how many descriptors this process has of a file."""
    found = Path("/proc/self/fd").iterdir()
    return sum(descriptor.exists() and descriptor.samefile(path) for descriptor in found)


def test_lock_excludes_programs_that_take_it_by_filelock(path: Path) -> None:
    """Versions before this one did, and scripts of administrators may.

    In another process: where it was imported, threads may not fork at the same time, which other tests do.
    """
    command = [sys.executable, "-c", FILELOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as theirs:
        assert theirs.stdin is not None
        assert theirs.stdout is not None
        assert theirs.stdout.readline() == "held\n"
        assert not is_free(path)

        theirs.stdin.write("\n")
        theirs.stdin.flush()
        assert theirs.stdout.readline() == "released\n"
        with system.store_lock(str(path), 0):
            theirs.stdin.write("\n")
            theirs.stdin.flush()
            assert theirs.stdout.readline() == "refused\n"
    assert theirs.returncode == 0
    assert is_free(path)


def test_lock_is_waited_for_and_then_held_on_the_file_that_has_its_name(path: Path) -> None:
    goes_on = threading.Event()
    held: list[bool] = []

    def hold() -> None:
        with system.store_lock(str(path), 20):
            held.append(True)
            goes_on.wait(20)

    thread = threading.Thread(target=hold)
    with system.store_lock(str(path), None):
        thread.start()
        wait_until(lambda: times_open(path) == 2, "the thread has the file open, and waits for its lock")
        path.unlink()
        path.touch()
    try:
        wait_until(lambda: bool(held), "the lock is held")
        assert not is_free(path)
    finally:
        goes_on.set()
        thread.join(20)
    assert is_free(path)


def test_lock_is_free_after_a_ctrl_c_at_its_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(type(store_locks.files)):  # type: ignore[misc]
        def discard(self, item: object) -> None:
            raise KeyboardInterrupt

    files = Interrupted()
    monkeypatch.setattr(store_locks, "files", files)
    with contextlib.suppress(KeyboardInterrupt), system.store_lock(str(path), None):
        pass
    monkeypatch.undo()
    gc.collect()
    assert is_free(path)


def test_failed_wait_leaves_no_file_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with system.store_lock(str(path), None):
        for _ in range(5):
            assert not is_free(path)
        assert len(os.listdir("/proc/self/fd")) == before + 1
    path.unlink()
    with pytest.raises(FileNotFoundError), system.store_lock(str(path), None):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_file_that_never_is_the_one_at_its_name_is_an_error_and_no_endless_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.touch()
    monkeypatch.setattr(locks, "path_status", lambda path: system.path_status(str(elsewhere)))
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(OSError, match="replaced again and again"), system.store_lock(str(path), None):
        pass

    assert len(os.listdir("/proc/self/fd")) == before


def test_link_in_the_place_of_the_file_is_refused(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")

    with pytest.raises(OSError, match="symbolic"), system.store_lock(str(path), None):
        pass


def fork_and_hold(path: Path, forked: Path) -> None:
    """Hold the lock for ever, and leave a child that lives for ever."""
    with system.store_lock(str(path), None):
        if os.fork() == 0:
            forked.with_suffix(".new").write_text(str(is_free(path)))
            forked.with_suffix(".new").rename(forked)
        threading.Event().wait()


@pytest.mark.guarantee(7)
def test_child_that_was_forked_under_the_lock_neither_has_it_nor_keeps_it_from_others(
    path: Path, tmp_path: Path, children: Children
) -> None:
    holder = children.start(fork_and_hold, path, tmp_path / "forked")
    wait_until((tmp_path / "forked").exists, "the child lives")
    assert (tmp_path / "forked").read_text() == "False"
    assert not is_free(path)

    holder.kill()

    assert is_free(path)


FORKS = """
import os, sys, threading
from mpcheckpoint import Checkpoint

hooks = []
sys.addaudithook(lambda event, arguments: hooks.append(event) if event == "sys.addaudithook" else None)
Checkpoint(sys.argv[1]).log("a").append("x", 1)  # makes the log, under the lock of the store
Checkpoint(sys.argv[1]).log("a").recover()
refused = []

def fork():
    for _ in range(100):
        try:
            child = os.fork()
        except Exception as error:
            refused.append(error)
            continue
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

threads = [threading.Thread(target=fork) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(refused[:1], hooks, "filelock" in sys.modules)
"""


@pytest.mark.guarantee(7)
def test_threads_of_a_program_with_a_store_may_fork_at_the_same_time(store: Path) -> None:
    """From Python 3.12 on filelock, once imported, refuses that, and each open of a file calls its audit hook."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, str(store)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "[] [] False\n", "")
