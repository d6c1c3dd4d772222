"""Who holds a lock, as the kernel's table tells it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import _system as system
from mpcheckpoint._system import holders
from mpcheckpoint._system.holders import LockState
from support.capabilities import require
from support.verbs import hold_append_lock, lock_file, wait_until

if TYPE_CHECKING:
    from mpcheckpoint import Log
    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
    from support.processes import Child, Children


MINE = "FLOCK  ADVISORY  WRITE -1"


def table_tells_all() -> bool:
    """Return whether this system shows every lock to this process."""
    try:
        return (
            os.readlink("/proc/self/ns/pid") == holders._FIRST_PID_NAMESPACE and Path("/proc/locks").exists()
        )
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _table() -> None:
    require(table_tells_all(), "the system does not show all locks to this process")


@pytest.fixture
def path(store: Path, log: Log) -> str:
    """The file of an append lock that is free."""
    return str(lock_file(store))


def start_holder(store: Path, children: Children, journal: AcknowledgementJournal) -> Child:
    """Return a process that holds the append lock."""
    child = children.start(hold_append_lock, store, journal.writer, method="fork")
    journal.wait_for(1)
    return child


def take(path: str) -> None:
    """Wait for a lock for ever."""
    descriptor = system.open_file(path, write=True)
    system.lock(descriptor.fd)


def hold_in_a_child_of_a_dead_process(path: str) -> None:
    """Take a lock, leave it to a forked child, and die."""
    descriptor = system.open_file(path, write=True)
    system.lock(descriptor.fd)
    if os.fork():
        os._exit(0)
    signal.pause()


def test_lock_that_nobody_holds_is_free(path: str) -> None:
    assert system.lock_status(path) == (LockState.FREE, None, 0)


def test_lock_whose_file_is_missing_is_free_and_nothing_is_created(tmp_path: Path) -> None:
    assert system.lock_status(str(tmp_path / "none.lock")).state is LockState.FREE
    assert list(tmp_path.iterdir()) == []


def test_lock_that_is_held_names_the_holder_and_counts_who_waits(
    path: str, store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    holder = start_holder(store, children, acknowledgements)
    for _ in range(2):
        children.start(take, path, method="fork")
    wait_until(lambda: system.lock_status(path).waiters == 2, "both wait in the kernel")

    status = system.lock_status(path)

    assert status.state is LockState.HELD
    assert status.holder is not None
    assert status.holder.pid == holder.pid
    assert status.holder.command == Path(f"/proc/{holder.pid}/cmdline").read_text().replace("\0", " ").strip()
    assert not status.holder.is_stopped
    holder.stop()
    stopped = system.lock_status(path).holder
    assert stopped is not None
    assert stopped.is_stopped


def test_lock_that_a_dead_process_left_to_its_child_is_held_by_one_that_is_gone(
    path: str, children: Children
) -> None:
    child = children.start(hold_in_a_child_of_a_dead_process, path, method="fork")
    assert child.wait() == 0

    assert system.lock_status(path) == (LockState.HELD, (child.pid, None, False), 0)


def test_lock_of_another_file_with_the_same_inode_number_is_not_taken_for_this_one(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = os.stat(path).st_ino
    table = (
        f"1: FLOCK  ADVISORY  WRITE 77 ff:fe:{inode} 0 EOF\n"
        f"2: POSIX  ADVISORY  WRITE 78 {name_of(path)} 0 EOF\n"
    )
    show_table(monkeypatch, table)

    assert system.lock_status(path).state is LockState.FREE


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("1: FLOCK  ADVISORY  WRITE 0 NAME 0 EOF\n", (LockState.HELD, None, 0)),  # of another name space
        (
            "".join(f"7: {lock} NAME 0 EOF\n" for lock in (MINE, f"-> {MINE}", f" -> {MINE}")),
            (LockState.HELD, None, 2),
        ),
        ("nonsense NAME\n", (LockState.UNKNOWN, None, None)),
    ],
)
def test_table_of_another_kind_is_never_told_as_something_wrong(
    path: str, monkeypatch: pytest.MonkeyPatch, table: str, expected: tuple[object, ...]
) -> None:
    show_table(monkeypatch, table.replace("NAME", name_of(path)))

    assert system.lock_status(path) == expected


@pytest.mark.parametrize("missing", ["/proc/locks", "/proc/self/mountinfo", "/proc/self/fdinfo"])
def test_lock_is_unknown_where_the_system_does_not_tell(
    path: str, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real = holders._read

    def read(file: str, most_bytes: int = 1 << 30) -> str:
        if file.startswith(missing):
            raise FileNotFoundError(file)
        return real(file, most_bytes)

    monkeypatch.setattr(holders, "_read", read)

    assert system.lock_status(path) == (LockState.UNKNOWN, None, None)


def test_lock_not_in_the_table_is_unknown_in_another_name_space_of_processes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "_FIRST_PID_NAMESPACE", "pid:[1]")

    assert system.lock_status(path) == (LockState.UNKNOWN, None, None)


def name_of(path: str) -> str:
    descriptor = system.open_file(path)
    name = holders._name_in_table(descriptor.fd)
    assert name is not None
    return name


def show_table(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    real = holders._read
    monkeypatch.setattr(
        holders, "_read", lambda file, *size: table if file == "/proc/locks" else real(file, *size)
    )
