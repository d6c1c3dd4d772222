"""The first append of a process to a log: what it validates, rewrites and makes durable before it builds upon it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.errors import CheckpointError, CorruptLogError, OutcomeUnknownError, WriteFailedError
from mpcheckpoint.testing import SimulatedDisk
from mpcheckpoint.testing._simulation.seam import path_of
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    become_a_new_process,
    inside,
    log_file,
    page_file,
    seen_anew,
)

# --- bytes ---------------------------------------------------------------------------------------------------


def overwrite(store: Path, offset: int, data: bytes) -> None:
    with log_file(store).open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(6)
@pytest.mark.rule(5)
def test_first_use_validates_every_unsynced_byte_not_just_the_last_line(store: Path, log: Log) -> None:
    # Of an unsynced group the power may keep later blocks without the first: the last line fits the one before it.
    ends = [log.append("x", number, durability="never").offset for number in range(1, 6)]
    overwrite(store, ends[0], bytes(ends[1] - ends[0]))
    become_a_new_process()

    log.append("x", "new")

    assert_goes_on(log, [0, 1, "new"])
    (repair,) = log.repairs()
    assert (repair.offset, repair.length_bytes) == (ends[0], ends[4] - ends[0])


@pytest.mark.guarantee(6)
def test_damage_below_what_a_later_line_calls_durable_is_refused_and_never_cut(store: Path, log: Log) -> None:
    ends = [log.append("x", number).offset for number in range(1, 6)]
    overwrite(store, ends[0], bytes(ends[1] - ends[0]))
    page_file(store).unlink()  # which vouches for them
    become_a_new_process()
    before = log_file(store).read_bytes()

    attempts = (
        log.recover,
        lambda: log.events("x"),
        lambda: list(log.read()),
        lambda: log.append("x", "new"),
    )
    for attempt in attempts:
        with pytest.raises(CorruptLogError, match="Nothing was changed") as caught:
            attempt()
        assert caught.value.offset == ends[0]

    assert log_file(store).read_bytes() == before
    assert log.repairs() == []


@pytest.mark.guarantee(6)
def test_damage_that_came_to_bytes_the_page_vouches_for_leaves_appends_alone(store: Path, log: Log) -> None:
    # A first use validates what nobody has validated in this file, so that it does not depend on the log's length.
    ends = [log.append("x", number).offset for number in range(1, 40)]
    overwrite(store, ends[0], bytes(ends[1] - ends[0]))
    become_a_new_process()
    before = log_file(store).read_bytes()

    log.append("x", "new")

    assert log_file(store).read_bytes().startswith(before)
    with pytest.raises(CorruptLogError) as caught:
        log.events("x")
    assert caught.value.offset == ends[0]


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(9)
@pytest.mark.rule(14)
def test_records_whose_sync_failed_unheard_are_written_again_before_they_are_built_upon(
    store: Path, log: Log
) -> None:
    with SimulatedDisk(store.parent) as disk:
        first, second = "1" * 700, "2" * 700  # in sectors that the third does not touch
        log.append("x", first, durability="never")
        disk.fail(errno.EIO, name="sync_data")
        disk.fail(errno.EIO, name="open_file", on=r"\.tmp$")  # and the disk takes no note either
        with pytest.raises(OutcomeUnknownError):
            log.append("x", second)
        file = str(log_file(store).relative_to(store.parent))
        assert len({image.content[file] for image in disk.images(10)}) > 1

        inside(store, "a.page").unlink()
        become_a_new_process()  # the one that had heard of it is dead
        log.append("x", 3)

        assert log.events("x") == (0, first, second, 3)
        assert {image.content[file] for image in disk.images(10)} == {log_file(store).read_bytes()}


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(6)
@pytest.mark.parametrize("at", range(1, 8))
def test_read_error_while_the_first_use_validates_cuts_nothing(
    store: Path, log: Log, faults: Faults, at: int
) -> None:
    log.append_many([("x", number) for number in range(1, 5)])
    become_a_new_process()
    before = log_file(store).read_bytes()
    fault = faults.fail("read_at", errno.EIO, on=LOG, at=at)

    try:
        log.append("x", 5, durability="never")
    except CheckpointError:
        assert fault.hits == 1
        assert log_file(store).read_bytes() == before
        log.append("x", 5)

    fault.clear()
    assert_goes_on(log, [0, 1, 2, 3, 4, 5])


# --- names ---------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
@pytest.mark.rule(9)
def test_first_use_syncs_the_directory_and_its_parent_whoever_made_the_log(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_sync, real_write = system.sync_directory, system.write_at

    def sync(path: str) -> None:
        real_sync(path)
        calls.append(path)

    def write(fd: int, data: bytes, offset: int) -> int:
        if re.search(LOG, path_of(fd)):
            calls.append("write")
        return real_write(fd, data, offset)

    monkeypatch.setattr(system, "sync_directory", sync)
    monkeypatch.setattr(system, "write_at", write)
    become_a_new_process()

    log.append("x", 1)
    assert {str(store), str(inside(store))} <= set(calls[: calls.index("write")])

    calls.clear()
    log.append("x", 2)
    assert calls == ["write"]


@pytest.mark.guarantee(1)
def test_first_use_makes_every_directory_durable_that_leads_to_the_log(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_a_new_process()  # whoever made the store may have died before it synced what it made
    synced = []
    real = system.sync_directory
    monkeypatch.setattr(system, "sync_directory", lambda path: (synced.append(path), real(path)))

    log.append("x", 1)

    mount_point = next(path for path in (store, *store.parents) if path.is_mount())
    ancestors = [path for path in store.parents if path.is_relative_to(mount_point)]
    assert synced == [str(directory) for directory in (inside(store), store, *ancestors)]

    Checkpoint(store).log("b").append("x", 1)
    assert str(store.parent) not in synced[len(ancestors) + 2 :], "once a process is enough"


@pytest.mark.guarantee(1)
def test_names_whose_sync_failed_are_synced_by_the_next_append(store: Path, log: Log, faults: Faults) -> None:
    become_a_new_process()
    faults.fail("sync_directory", errno.EIO, on=f"{store.parent}$")
    with pytest.raises(WriteFailedError):
        log.append("x", 1)

    syncs = faults.watch("sync_directory", on=f"{store.parent}$")
    log.append("x", 2)

    assert syncs.seen == 1


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(1)
def test_first_append_whose_directory_cannot_be_synced_is_not_acknowledged(log: Log, faults: Faults) -> None:
    become_a_new_process()
    faults.fail("sync_directory", errno.EIO)

    with pytest.raises(CheckpointError):
        log.append("x", 1)

    assert seen_anew(log) == [0]
