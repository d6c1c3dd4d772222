"""Disks that fail for real: nothing acknowledged is lost, typed errors say so, and with room all goes on.

No fault is simulated here. More of the kind is in tests/append/test_failed_writes.py (one process on a full disk, a
torn end on one, RLIMIT_FSIZE) and in test_removed_stores.py, test_process_limits.py and test_stopped_writers.py.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import (
    CheckpointError,
    OutcomeUnknownError,
    PoisonedLogError,
    WriteFailedError,
)
from mpcheckpoint.testing._power_cuts.loopback import FS_TYPES, FsType
from support.full_disk import fill
from support.processes import call
from support.verbs import (
    assert_goes_on,
    inside,
    log_file,
    seeded,
    seen_anew,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.full_disk import ThinDisk
    from support.processes import Children
    from support.tmpfs import TmpFileSystem

pytestmark = pytest.mark.guarantee(9)


# --- syncs that fail: the disk behind the file system is full ------------------------------------------------


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("when", ["at once", "when mounted anew"])
@pytest.mark.parametrize("fstype", FS_TYPES)
def test_sync_that_fails_for_want_of_blocks_poisons_until_recovered(
    make_thin_disk: Callable[..., ThinDisk], fstype: FsType, when: str
) -> None:
    disk = make_thin_disk(fstype)

    # In processes of their own: whoever has a file open is in the way of the next mount.
    acknowledged, error = call(append_until_a_sync_fails, disk, when == "at once", method="fork")
    disk.give_room()
    disk.mount_anew()

    assert error == errno.ENOSPC
    assert len(acknowledged) > 5
    call(verify_after_mount, disk.mountpoint / "store", acknowledged, method="fork")


@pytest.mark.guarantee(1)
def test_sync_that_fails_with_the_journal_poisons_until_mounted_anew(
    make_thin_disk: Callable[..., ThinDisk],
) -> None:
    disk = make_thin_disk("ext4", journal_has_room=False)

    acknowledged, error = call(append_until_a_sync_fails, disk, False, method="fork")
    disk.give_room()
    disk.mount_anew()

    assert error == errno.EIO
    assert len(acknowledged) > 5
    call(verify_after_mount, disk.mountpoint / "store", acknowledged, method="fork")


def append_until_a_sync_fails(disk: ThinDisk, recovers: bool) -> tuple[list[str], int | None]:
    """Append until a sync fails, then all that can be tried; return what was acknowledged, and the errno."""
    store = disk.mountpoint / "store"
    log = Checkpoint(store).log("a")
    acknowledged: list[str] = []
    for _ in range(6):
        append_event(log, acknowledged)

    disk.take_room()
    with pytest.raises(OutcomeUnknownError, match="its sync failed") as caught:  # noqa: PT012  # until it does
        while True:
            append_event(log, acknowledged)
    error = caught.value.__cause__
    assert isinstance(error, OSError)

    assert_refused(store, log, acknowledged)
    with pytest.raises(CheckpointError):
        log.recover()
    disk.give_room()
    assert_refused(store, log, acknowledged)
    if recovers:
        log.recover()
        unknown = len(acknowledged)
        acknowledged.append(log.events("x")[unknown])  # what was refused as unknown came through: it stays
        append_event(log, acknowledged)
        assert list(log.events("x")) == acknowledged
    return acknowledged, error.errno


def append_event(log: Log, acknowledged: list[str]) -> None:
    event = f"{len(acknowledged):01000}"
    log.append("x", event)
    acknowledged.append(event)


def assert_refused(store: Path, log: Log, acknowledged: list[str]) -> None:
    """No append is taken, here or by another process; what was acknowledged is read by both."""
    before = log_file(store).read_bytes()
    with pytest.raises(PoisonedLogError, match=r"Log\.recover"):
        log.append("x", "refused")
    with pytest.raises(CheckpointError) as caught:
        call(append_anew, store, method="fork")
    # On a disk that has become read-only there is no telling the others why, and they cannot write either.
    assert isinstance(caught.value, PoisonedLogError) or not is_writable(store)
    assert log_file(store).read_bytes() == before
    assert list(log.events("x"))[: len(acknowledged)] == acknowledged
    assert seen_anew(log)[: len(acknowledged)] == acknowledged


def append_anew(store: Path) -> None:
    Checkpoint(store).log("a").append("x", "refused")


def is_writable(directory: Path) -> bool:
    try:
        (directory / "probe").mkdir()
        (directory / "probe").rmdir()
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return False
    return True


def verify_after_mount(store: Path, acknowledged: list[str]) -> None:
    assert Checkpoint(store, read_only=True)["x"][: len(acknowledged)] == tuple(acknowledged)
    log = Checkpoint(store).log("a")
    try:
        log.append("x", "after")
    except PoisonedLogError:  # the note about the failed sync came through
        log.recover()
        log.append("x", "after")
    found = list(log.events("x"))
    assert "refused" not in found
    assert found[: len(acknowledged)] == acknowledged
    assert found[-1] == "after"
    assert len(set(found)) == len(found)
    assert_goes_on(log, found)


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
@pytest.mark.parametrize("fstype", FS_TYPES)
def test_syncs_that_fail_under_several_writers_lose_nothing_acknowledged(
    make_thin_disk: Callable[..., ThinDisk],
    acknowledgements: AcknowledgementJournal,
    children: Children,
    intensity: int,
    fstype: FsType,
) -> None:
    disk = make_thin_disk(fstype)
    for number in range(3 * intensity):
        store = disk.mountpoint / f"store{number}"
        before = len(acknowledgements.acknowledged())
        for name in range(3):
            children.start(append_until_refused, store, name, acknowledgements.writer, method="fork")
        acknowledgements.wait_for(before + 30)

        disk.take_room()
        children.wait_all()  # each met an error of its own, and no other kind
        disk.give_room()
        disk.mount_anew()

        acknowledged = acknowledgements.acknowledged()[before:]
        call(verify_batches, store, acknowledged, method="fork")


def append_until_refused(store: Path, name: int, writer: AcknowledgementWriter) -> None:
    chance = seeded(f"{store.name} {name}")
    try:
        log = Checkpoint(store).log("a")
        number = 0
        while True:
            parts = chance.choice((1, 1, 3))
            log.append_many([("x", [name, number, part, parts, "." * 700]) for part in range(parts)])
            writer.acknowledge(name, number)
            number += 1
    except CheckpointError:
        pass


def verify_batches(store: Path, acknowledged: list[tuple[int, int]]) -> None:
    """Every batch is whole, and every acknowledged one is there, once."""
    log = Checkpoint(store).log("a")
    try:
        log.append("y", 0)
    except PoisonedLogError:
        log.recover()
        log.append("y", 0)
    assert_whole([tuple(event[:4]) for event in log.events("x")], acknowledged)
    assert acknowledged


def assert_whole(found: list[tuple[int, ...]], acknowledged: list[tuple[int, int]]) -> None:
    batches = [(name, number) for name, number, part, _ in found if part == 0]
    whole = {(name, number): parts for name, number, part, parts in found if part == 0}
    assert sorted(found) == sorted(
        (*batch, part, parts) for batch, parts in whole.items() for part in range(parts)
    )
    assert len(set(batches)) == len(batches)
    assert set(acknowledged) <= set(batches)


@pytest.mark.parametrize(
    "found", [[(0, 0, 0, 1)], [(0, 0, 0, 1), (0, 1, 0, 2)], [(0, 0, 0, 1), (0, 1, 0, 1)] * 2]
)
def test_batches_lost_cut_or_doubled_are_found_out(found: list[tuple[int, ...]]) -> None:
    assert_whole([(0, 0, 0, 1), (0, 1, 0, 1)], [(0, 0), (0, 1)])
    with pytest.raises(AssertionError):
        assert_whole(found, [(0, 0), (0, 1)])


def test_appends_that_nobody_asked_to_sync_are_lost_by_such_a_disk(
    make_thin_disk: Callable[..., ThinDisk],
) -> None:
    # The control: it does lose what it took, and whoever never syncs is not told.
    disk = make_thin_disk("xfs")

    appended = call(append_without_syncs, disk, method="fork")
    disk.give_room()
    disk.mount_anew()

    found = call(read_all, disk.mountpoint / "store", method="fork")
    assert 0 < len(found) < appended


def append_without_syncs(disk: ThinDisk) -> int:
    log = Checkpoint(disk.mountpoint / "store", durability="never").log("a")
    log.append("x", [0, ""], durability="always")
    disk.take_room()
    for number in range(1, 200):
        log.append("x", [number, "." * 1000])
    os.sync()  # as the kernel does in time: nobody is there to be told
    return 200


def read_all(store: Path) -> tuple[Any, ...]:
    return Checkpoint(store, read_only=True)["x"]


# --- no room -------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(2)
def test_full_disk_under_several_writers_takes_all_or_nothing_and_all_go_on_with_room(
    make_tmpfs: Callable[[int], TmpFileSystem],
    acknowledgements: AcknowledgementJournal,
    children: Children,
) -> None:
    disk = make_tmpfs(6 << 20)
    store, ballast = disk.mountpoint / "store", disk.mountpoint / "ballast"
    ballast.write_bytes(bytes(3 << 20))
    for name in range(3):
        children.start(append_past_a_full_disk, store, name, ballast, acknowledgements.writer, method="fork")
    wait_until(lambda: count_of(acknowledgements, "refused") == 3, "all writers were refused")

    found = call(read_all, store, method="fork")
    assert call(follow_all, store, method="fork") == list(found)
    os.truncate(ballast, 0)  # a removed file gives its room back when its name is gone already
    ballast.unlink()
    children.wait_all()

    batches = [tuple(values[1:]) for values in acknowledgements.acknowledged() if values[0] == "appended"]
    assert count_of(acknowledgements, "went on") == 3
    call(verify_exactly, store, batches, method="fork")


def append_past_a_full_disk(store: Path, name: int, ballast: Path, writer: AcknowledgementWriter) -> None:
    """Append records, batches and transactions until the disk is full; with room again go on with the same handle."""
    chance = seeded(f"full disk {name}")
    log = Checkpoint(store).log("a")
    number = 0

    def append() -> None:
        parts = chance.choice((1, 2, 5))
        events = [[name, number, part, parts, "." * chance.choice((10, 30_000))] for part in range(parts)]
        if chance.random() < 0.3:
            with log.transaction() as transaction:
                for event in events:
                    transaction.append("x", event)
        else:
            log.append_many([("x", event) for event in events])
        writer.acknowledge("appended", name, number)

    refusals = 0
    while refusals < 5:  # what is too large for the rest may be followed by what is not
        try:
            append()
        except WriteFailedError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017  # there is no `raises` in a loop that may go well
            refusals += 1
        number += 1
    writer.acknowledge("refused", name)
    wait_until(lambda: not ballast.exists(), "there is room")
    for _ in range(5):
        append()
        number += 1
    writer.acknowledge("went on", name)


def count_of(journal: AcknowledgementJournal, what: str) -> int:
    return sum(values[0] == what for values in journal.acknowledged())


def follow_all(store: Path) -> list[Any]:
    follower = Checkpoint(store, read_only=True).follow(idle_timeout_s=0)
    return [record.event for record in follower]


def verify_exactly(store: Path, batches: list[tuple[int, int]]) -> None:
    """Exactly what was acknowledged is there: a refused write has appended nothing."""
    log = Checkpoint(store).log("a")
    found = [tuple(event[:4]) for event in log.events("x")]
    assert sorted((name, number) for name, number, part, _ in found if part == 0) == sorted(batches)
    whole = {(name, number): parts for name, number, _, parts in found}
    assert sorted(found) == sorted(
        (*batch, part, parts) for batch, parts in whole.items() for part in range(parts)
    )
    assert log.repairs() == []  # what did not fit was taken back by whom it happened to
    assert_goes_on(log, list(log.events("x")))


def test_creating_on_a_full_disk_raises_and_the_same_handle_creates_with_room(
    make_tmpfs: Callable[[int], TmpFileSystem],
) -> None:
    call(create_on_a_full_disk, make_tmpfs(1 << 20), method="fork")


def create_on_a_full_disk(disk: TmpFileSystem) -> None:
    store = disk.mountpoint / "store"
    checkpoint = Checkpoint(store)
    checkpoint.log("a").append("x", 0)
    filler = disk.mountpoint / "filler"
    fill(filler)

    for _ in range(3):
        with pytest.raises(WriteFailedError, match="free some space"):
            checkpoint.log("b")
        with pytest.raises(WriteFailedError, match="free some space"):
            Checkpoint(disk.mountpoint / "new").log("b")
    assert checkpoint.logs() == ["a"]
    assert not log_file(disk.mountpoint / "new", "b").exists()
    assert dict(checkpoint.items()) == {"x": (0,)}

    filler.unlink()
    checkpoint.log("b").append("x", 1)
    assert checkpoint["x"] == (0, 1)
    assert list(inside(store).glob("*.tmp")) == []
    assert_goes_on(Checkpoint(disk.mountpoint / "new").log("b"), [])
