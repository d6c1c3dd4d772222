"""Torn bytes are kept before they are cut off, whatever fails or dies on the way."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.errors import WriteFailedError
from mpcheckpoint.testing import DiskImage, SimulatedDisk
from mpcheckpoint.testing._simulation.seam import Seam, SeamCall
from support import tally
from support.processes import call
from support.unsynced import done_without_syncs
from support.verbs import LOG, TORN, Faults, assert_goes_on, log_file, seen_anew, tear, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.tmpfs import TmpFileSystem


@pytest.mark.guarantee(6)
def test_torn_bytes_are_durable_in_quarantine_before_they_are_cut_off(
    disk: SimulatedDisk, faults: Faults
) -> None:
    def look(real: Callable[..., None], *args: Any) -> None:
        images.extend(disk.images())
        real(*args)

    images: list[DiskImage] = []
    log = Checkpoint(disk.root / "store").log("a")
    log.append("x", 0)
    tear(disk.root / "store")
    faults.act("truncate", look)

    log.append("x", 1)

    assert images
    for image in images:
        assert [data for path, data in image.content.items() if "/quarantine/" in path] == [TORN]


@pytest.mark.guarantee(6)
@pytest.mark.rule(30)
def test_repair_is_warned_of_listed_and_counted(
    log: Log, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    end = log_file(store).stat().st_size
    tear(store, b"torn")

    log.append("x", 1)

    (repair,) = log.repairs()
    assert (repair.log_key, repair.offset, repair.length_bytes) == ("a", end, 4)
    assert Path(repair.path).read_bytes() == b"torn"
    assert log.stats()["repairs"] == 1
    (warning,) = [record.getMessage() for record in told(caplog)]
    assert all(part in warning for part in ("'a'", f"offset {end}", "4 bytes", repair.path))
    assert system.stat_path(repair.path).st_size == 4


# --- a call that fails ---------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(6)
@pytest.mark.parametrize("name", ["make_directory", "open_file", "write_at", "sync_data", "sync_directory"])
def test_repair_whose_quarantine_fails_cuts_nothing(store: Path, log: Log, faults: Faults, name: str) -> None:
    tear(store)
    torn = log_file(store).read_bytes()
    fault = faults.fail(name, errno.ENOSPC, on="/quarantine")

    with pytest.raises(WriteFailedError):
        log.append("x", 1)

    assert fault.hits == 1
    assert log_file(store).read_bytes() == torn
    assert seen_anew(log) == [0]
    assert_goes_on(log, [0])
    assert [Path(repair.path).read_bytes() for repair in log.repairs()] == [TORN]


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(6)
def test_repair_whose_new_quarantine_could_not_be_made_durable_is_made_so_by_the_next(
    store: Path, log: Log, faults: Faults
) -> None:
    tear(store)
    faults.fail("sync_directory", errno.EIO, on=r"\.checkpoint$")
    with pytest.raises(WriteFailedError):
        log.append("x", 1)

    syncs = faults.watch("sync_directory", on=r"\.checkpoint$")
    log.append("x", 1)

    assert syncs.seen == 1
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(6)
def test_repair_on_a_disk_where_only_the_cut_fails_is_done_again_by_the_next(
    store: Path, log: Log, faults: Faults
) -> None:
    tear(store)
    faults.fail("truncate", errno.EIO, on=LOG)

    with pytest.raises(WriteFailedError):
        log.append("x", 1)

    assert_goes_on(log, [0])


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(6)
def test_torn_end_on_a_full_disk_stays_until_its_bytes_can_be_kept(
    make_tmpfs: Callable[[int], TmpFileSystem],
) -> None:
    disk = make_tmpfs(1 << 20)
    call(tear_on_a_full_disk, disk, method="fork")


def tear_on_a_full_disk(disk: TmpFileSystem) -> None:
    store = disk.mountpoint / "store"
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    tear(store, b'["0000' + b"7" * 300_000)
    torn = log_file(store).read_bytes()
    filler = disk.mountpoint / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:  # noqa: PT012  # until it does
        while True:
            file.write(bytes(4096))

    with pytest.raises(WriteFailedError, match="No space left"):
        log.append("x", 1)
    assert log_file(store).read_bytes() == torn
    assert seen_anew(log) == [0]

    filler.unlink()
    assert_goes_on(log, [0])
    assert len(log.repairs()) == 1


# --- killed in a repair --------------------------------------------------------------------------------------


LONG_TORN = b'["000000ff",17' + b"torn" * 2000


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(6)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("kind", ["append", "recover"])
def test_process_killed_at_any_call_of_a_repair_loses_no_record_and_no_torn_byte(
    tmp_path: Path, without_syncs: None, kind: str
) -> None:
    Checkpoint(tmp_path / "torn").log("a").append_many([("x", number) for number in range(3)])
    tear(tmp_path / "torn", LONG_TORN)

    number, is_reached = 0, True
    while is_reached:
        number += 1
        store = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "torn", store)
        # The second dies in the repair of what the first one's repair left.
        is_reached = killed_at(store, kind, number, before=True)
        killed_at(store, kind, number, before=False)

        assert Checkpoint(store, read_only=True).log("a").events("x")[:3] == (0, 1, 2)
        log = Checkpoint(store, lock_timeout_s=0).log("a")
        log.append("y", "repaired")
        events = list(log.events("x"))
        assert events in ([0, 1, 2], [0, 1, 2, "a"], [0, 1, 2, "a", "a"]), number
        assert is_kept(log), number
        assert_goes_on(log, events)
        shutil.rmtree(store)
    assert number > 20


def is_kept(log: Log) -> bool:
    return LONG_TORN in [Path(repair.path).read_bytes() for repair in log.repairs()]


def test_repair_that_keeps_half_of_the_torn_bytes_is_found_out(log: Log, store: Path, faults: Faults) -> None:
    tear(store, LONG_TORN)
    faults.act(
        "write_at", lambda real, fd, data, offset: real(fd, data[:100], offset) and len(data), on="quarantine"
    )

    log.append("x", 1)

    assert len(log.repairs()) == 1
    assert not is_kept(log)


def killed_at(store: Path, kind: str, number: int, *, before: bool) -> bool:
    """Have another process repair and be killed right before, or right behind, its ``number``-th call of the system;
    return whether there was one."""
    pid = os.fork()
    if pid == 0:
        try:
            with Seam(lambda made: kill_at(made, number, before=before)):
                use(Checkpoint(store).log("a"), kind)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    is_killed = os.WIFSIGNALED(status)
    tally.add("kills", int(is_killed))
    return is_killed


def kill_at(made: SeamCall, number: int, *, before: bool) -> Any:
    if made.number == number and before:
        os.kill(os.getpid(), signal.SIGKILL)
    result = done_without_syncs(made)
    if made.number == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def use(log: Log, kind: str) -> None:
    if kind == "append":
        log.append("x", "a")
    else:
        log.recover()
