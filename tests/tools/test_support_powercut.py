"""The control of all power cuts: a plain writer that does everything right, and one that does not sync.

If the first lost something, or the second never did, a power cut here would say nothing about this library.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
from mpcheckpoint.testing._power_cuts import loopback
from mpcheckpoint.testing._power_cuts.loopback import LoopFileSystem
from mpcheckpoint.testing._power_cuts.mounts import BusyMountError
from support.processes import Children

if TYPE_CHECKING:
    from collections.abc import Callable

CUTS = 3
RECORD_BYTES = 100
ACKNOWLEDGED_BEFORE_CUT = 50


def record(number: int) -> bytes:
    return f"{number:>{RECORD_BYTES - 1}}\n".encode()


def append_and_sync(path: Path, writer: AcknowledgementWriter) -> None:
    """Append records until something fails: each is synced, then acknowledged."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    number = os.fstat(descriptor).st_size // RECORD_BYTES
    try:
        while True:
            os.write(descriptor, record(number))
            os.fdatasync(descriptor)
            writer.acknowledge(number)
            number += 1
    except OSError:
        pass  # the power is gone


def create_durably(path: Path) -> None:
    path.touch()
    descriptor = os.open(path.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_power_cut_of_synced_writes_keeps_all_acknowledged_before(
    loop_file_system: LoopFileSystem,
    acknowledgements: AcknowledgementJournal,
    children: Children,
    intensity: int,
) -> None:
    path = loop_file_system.mountpoint / "records"
    create_durably(path)

    for _ in range(CUTS * intensity):
        so_far = len(acknowledgements.acknowledged())
        child = children.start(append_and_sync, path, acknowledgements.writer)
        acknowledgements.wait_for(so_far + ACKNOWLEDGED_BEFORE_CUT)
        acknowledged = acknowledgements.acknowledged()
        loop_file_system.cut_power()
        child.wait()
        loop_file_system.restore()

        (last,) = acknowledged[-1]
        survived = path.read_bytes()[: (last + 1) * RECORD_BYTES]
        assert survived == b"".join(map(record, range(last + 1)))
        os.truncate(path, path.stat().st_size // RECORD_BYTES * RECORD_BYTES)


def test_power_cut_of_unsynced_writes_loses_them(loop_file_system: LoopFileSystem) -> None:
    path = loop_file_system.mountpoint / "records"
    create_durably(path)

    path.write_bytes(record(0) * 1000)
    loop_file_system.cut_power()
    loop_file_system.restore()

    assert path.read_bytes() == b""


def test_power_cut_of_a_file_in_an_unsynced_directory_loses_the_file(
    loop_file_system: LoopFileSystem,
) -> None:
    (loop_file_system.mountpoint / "new").touch()

    loop_file_system.cut_power()
    loop_file_system.restore()

    assert not (loop_file_system.mountpoint / "new").exists()


def test_file_system_after_power_cut_refuses_writes_until_restored(loop_file_system: LoopFileSystem) -> None:
    path = loop_file_system.mountpoint / "records"
    create_durably(path)

    loop_file_system.cut_power()

    with pytest.raises(OSError, match="Input/output error"):
        path.write_bytes(b"x")
    loop_file_system.restore()
    path.write_bytes(b"x")


def test_restore_while_a_file_is_open_names_who_has_it(loop_file_system: LoopFileSystem) -> None:
    path = loop_file_system.mountpoint / "records"
    create_durably(path)

    with path.open("rb"):
        loop_file_system.cut_power()
        with pytest.raises(BusyMountError, match=f"process {os.getpid()} .*records"):
            loop_file_system.restore()

    loop_file_system.restore()


def test_file_system_that_another_table_of_mounts_holds_for_a_moment_is_mounted_once_that_is_gone(
    loop_file_system: LoopFileSystem,
) -> None:
    path = loop_file_system.mountpoint / "file"
    create_durably(path)
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo ready; sleep 0.7"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"

    loop_file_system.cut_power()
    loop_file_system.restore()

    assert holder.wait() == 0
    assert path.exists()
    holder.stdout.close()


def test_file_system_that_another_table_of_mounts_goes_on_holding_is_not_taken_for_what_is_on_the_disk(
    loop_file_system: LoopFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a cut, too: what is in memory only would be read.
    monkeypatch.setattr(loopback, "_LONGEST_HELD_S", 0.1)
    path = loop_file_system.mountpoint / "file"
    create_durably(path)
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo ready; read word"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"

        with pytest.raises(OSError, match="some process still holds the file system"):
            loop_file_system.restore()

    loop_file_system.restore()
    assert path.exists()


def test_child_of_another_user_keeps_no_file_system_in_its_own_table_of_mounts(
    loop_file_system: LoopFileSystem, run_as_nobody: Callable[..., Any]
) -> None:
    name_space, table = run_as_nobody(name_space_and_mounts)

    is_our_own = name_space == os.readlink("/proc/self/ns/mnt")  # where everybody may reach this Python
    assert is_our_own or str(loop_file_system.mountpoint) not in table


def name_space_and_mounts() -> tuple[str, str]:
    return os.readlink("/proc/self/ns/mnt"), Path("/proc/self/mounts").read_text()
