"""A disk that is full, refuses, or takes half: a clear error, nothing lost, nothing acknowledged that is not there."""

from __future__ import annotations

import errno
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import WriteFailedError
from support.processes import call
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    become_a_new_process,
    inside,
    log_file,
    seen_anew,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.tmpfs import TmpFileSystem

pytestmark = pytest.mark.guarantee(9)

REFUSALS = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EINTR]


# --- a write that is refused -------------------------------------------------------------------------------


@pytest.mark.guarantee(2)
@pytest.mark.rule(15)
def test_append_in_short_writes_is_whole(log: Log, faults: Faults) -> None:
    faults.act("write_at", lambda real, fd, data, offset: real(fd, data[:7], offset), times=1000, on=LOG)

    log.append("x", "a" * 500)

    assert_goes_on(log, [0, "a" * 500])


@pytest.mark.parametrize("taken_bytes", [0, 1, 40])
@pytest.mark.parametrize("refusal", REFUSALS, ids=errno.errorcode.get)
def test_append_refused_changes_nothing_and_the_handle_goes_on(
    store: Path, log: Log, faults: Faults, refusal: int, taken_bytes: int
) -> None:
    before = log_file(store).read_bytes()
    faults.fail_in_mid_write(refusal, taken_bytes=taken_bytes, on=LOG)

    with pytest.raises(WriteFailedError, match=r"a\.jsonl.*nothing was appended") as caught:
        log.append("x", 1)

    assert caught.value.errno == refusal
    assert caught.value.path == str(log_file(store))
    assert log_file(store).read_bytes() == before
    assert log.repairs() == []
    assert_goes_on(log, [0])


@pytest.mark.guarantee(2)
def test_batch_refused_after_its_first_line_is_not_there_at_all(log: Log, faults: Faults) -> None:
    faults.fail_in_mid_write(errno.ENOSPC, taken_bytes=150, on=LOG)

    with pytest.raises(WriteFailedError):
        log.append_many([("x", number) for number in range(10)])

    assert_goes_on(log, [0])


def test_append_whose_write_takes_nothing_for_ever_raises(log: Log, faults: Faults) -> None:
    fault = faults.act("write_at", lambda real, *args: 0, on=LOG, times=1000)

    with pytest.raises(WriteFailedError):
        log.append("x", 1)
    fault.clear()

    assert_goes_on(log, [0])


@pytest.mark.guarantee(6)
def test_append_refused_whose_undoing_fails_too_is_repaired_by_the_next(log: Log, faults: Faults) -> None:
    faults.fail_in_mid_write(errno.ENOSPC, taken_bytes=30, on=LOG)
    faults.fail("truncate", errno.EIO, on=LOG)

    with pytest.raises(WriteFailedError):
        log.append("x", 1)
    assert seen_anew(log) == [0]

    assert_goes_on(log, [0])
    assert [repair.length_bytes for repair in log.repairs()] == [30]


# --- a file or directory that cannot be made -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["open_file", "write_at", "sync_data", "publish", "sync_directory"])
def test_new_log_refused_is_not_half_there(store: Path, faults: Faults, name: str) -> None:
    checkpoint = Checkpoint(store)
    checkpoint.log("other").append("x", 0)
    fault = faults.fail(
        name, errno.ENOSPC, on=r"\.checkpoint$" if name == "sync_directory" else r"a\.jsonl.*tmp$"
    )

    with pytest.raises(WriteFailedError):
        checkpoint.log("a")

    assert fault.hits == 1
    assert list(checkpoint["x"]) == [0]
    checkpoint.log("a").append("x", 1)
    assert list(inside(store).glob("*.tmp")) == []
    become_a_new_process()
    assert Checkpoint(store, read_only=True)["x"] == (0, 1)


@pytest.mark.parametrize("name", ["make_directory", "sync_directory"])
def test_new_store_refused_raises_and_the_next_try_works(store: Path, faults: Faults, name: str) -> None:
    faults.fail(name, errno.ENOSPC)

    with pytest.raises(WriteFailedError, match="opening the store"):
        Checkpoint(store)

    Checkpoint(store).log("a").append("x", 1)


# --- real ones ---------------------------------------------------------------------------------------------


@pytest.mark.rule(15)
def test_append_on_a_full_disk_fails_and_with_room_again_the_same_handle_appends(
    make_tmpfs: Callable[[int], TmpFileSystem],
) -> None:
    disk = make_tmpfs(1 << 20)
    call(fill_the_disk, disk, method="fork")
    disk.resize(4 << 20)
    call(append_again, disk.mountpoint / "store", method="fork")


def fill_the_disk(disk: TmpFileSystem) -> None:
    log = Checkpoint(disk.mountpoint / "store").log("a")
    acknowledged: list[str] = []
    with pytest.raises(WriteFailedError, match="free some space") as caught:  # noqa: PT012  # until it does
        while True:
            event = f"{len(acknowledged):0100000}"
            log.append("x", event)
            acknowledged.append(event)
    assert caught.value.errno == errno.ENOSPC
    assert len(acknowledged) > 3
    assert seen_anew(log) == acknowledged
    before = log_file(disk.mountpoint / "store").read_bytes()

    for _ in range(3):
        with pytest.raises(WriteFailedError):
            log.append_many([("x", "b" * 50_000), ("x", "c" * 50_000)])
    assert log_file(disk.mountpoint / "store").read_bytes() == before

    disk.resize(2 << 20)
    log.append("x", acknowledged[0])
    become_a_new_process()
    assert seen_anew(log) == [*acknowledged, acknowledged[0]]


def append_again(store: Path) -> None:
    assert_goes_on(log := Checkpoint(store).log("a"), list(log.events("x")))


@pytest.mark.rule(15)
def test_append_beyond_the_limit_on_file_sizes_fails_and_with_a_higher_one_works(store: Path) -> None:
    call(meet_the_limit, store, method="fork")


def meet_the_limit(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    before = log_file(store).read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, resource.RLIM_INFINITY))

    # The kernel takes the first thousand bytes, and refuses the rest at the second try.
    with pytest.raises(WriteFailedError, match="limit on the size of files"):
        log.append("x", "a" * 5000)
    assert log_file(store).read_bytes() == before
    log.append("x", 1)

    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.append("x", 2)
    assert_goes_on(log, [0, 1, 2])
