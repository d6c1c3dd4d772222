"""The model of a disk: what survives a loss of power, what may, and what a failed sync leaves."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile.page import stated_durable
from mpcheckpoint._system import path_status
from mpcheckpoint.errors import CheckpointError
from mpcheckpoint.testing import SimulatedCrash, SimulatedDisk, SimulatedProcess
from support.verbs import is_locked, lock_file

if TYPE_CHECKING:
    from pathlib import Path


def create(disk: SimulatedDisk, name: str, data: bytes = b"") -> system.Descriptor:
    file = system.open_file(str(disk.root / name), write=True, create=True)
    if data:
        system.write_at(file.fd, data, 0)
    return file


def create_synced(disk: SimulatedDisk, name: str, data: bytes) -> None:
    file = create(disk, name, data)
    system.sync_data(file.fd)


def contents(disk: SimulatedDisk, name: str, limit: int = 1000) -> set[bytes | None]:
    """Return what a loss of power may leave of a file; None if it may be gone."""
    return {image.content.get(name) for image in disk.images(limit)}


def test_file_that_was_not_synced_may_be_gone_empty_or_in_parts(disk: SimulatedDisk) -> None:
    create(disk, "a", b"x" * 1024)

    zeros, xs = bytes(512), b"x" * 512
    assert contents(disk, "a") == {None, b"", zeros + zeros, zeros + xs, xs + zeros, xs + xs}


def test_file_that_was_synced_in_a_directory_that_was_not_may_be_gone(disk: SimulatedDisk) -> None:
    file = create(disk, "a", b"x")
    system.sync_data(file.fd)

    assert contents(disk, "a") == {None, b"x"}
    system.sync_directory(str(disk.root))
    assert contents(disk, "a") == {b"x"}


def test_sectors_written_behind_a_sync_survive_in_any_subset_and_any_version(disk: SimulatedDisk) -> None:
    file = create(disk, "a", b"1" * 1024)
    system.sync_data(file.fd)
    system.sync_directory(str(disk.root))
    system.write_at(file.fd, b"2" * 512, 0)
    system.write_at(file.fd, b"3" * 1024, 0)

    halves = {(content[:512], content[512:]) for content in contents(disk, "a") if content}
    assert halves == {(a * 512, b * 512) for a in (b"1", b"2", b"3") for b in (b"1", b"3")}


def test_write_inside_a_sector_keeps_or_changes_all_of_it(disk: SimulatedDisk) -> None:
    file = create(disk, "a", b"1" * 600)
    system.sync_data(file.fd)
    system.sync_directory(str(disk.root))
    system.write_at(file.fd, b"2" * 10, 100)

    assert contents(disk, "a") == {b"1" * 600, b"1" * 100 + b"2" * 10 + b"1" * 490}


def test_truncation_that_was_not_synced_may_be_undone(disk: SimulatedDisk) -> None:
    file = create(disk, "a", b"1" * 600)
    system.sync_data(file.fd)
    system.sync_directory(str(disk.root))
    system.truncate(file.fd, 100)

    found = contents(disk, "a")
    assert {b"1" * 600, b"1" * 100} <= found
    system.sync_data(file.fd)
    assert contents(disk, "a") == {b"1" * 100}


def test_rename_is_there_whole_or_not_at_all(disk: SimulatedDisk) -> None:
    for name in ("a", "b"):
        create_synced(disk, name, name.encode())
    system.sync_directory(str(disk.root))
    system.replace(str(disk.root / "b"), str(disk.root / "a"))

    found = {(image.content.get("a"), image.content.get("b")) for image in disk.images(100)}
    assert found == {(b"a", b"b"), (b"b", None)}


def test_directory_that_was_not_synced_takes_with_it_what_is_in_it(disk: SimulatedDisk) -> None:
    system.make_directory(str(disk.root / "new"))
    create_synced(disk, "new/a", b"x")
    system.sync_directory(str(disk.root / "new"))

    assert {tuple(sorted(image.content)) for image in disk.images(100)} == {(), ("new", "new/a")}
    system.sync_directory(str(disk.root))
    assert contents(disk, "new/a") == {b"x"}


def test_sync_that_failed_leaves_bytes_that_no_later_sync_makes_durable(disk: SimulatedDisk) -> None:
    file = create(disk, "a", b"1" * 512)
    system.sync_data(file.fd)
    system.sync_directory(str(disk.root))
    system.write_at(file.fd, b"2" * 512, 0)
    disk.fail(errno.EIO, name="sync_data")
    with pytest.raises(OSError, match="Input/output"):
        system.sync_data(file.fd)

    system.sync_data(file.fd)
    assert contents(disk, "a") == {b"1" * 512, b"2" * 512}

    system.write_at(file.fd, b"2" * 512, 0)
    system.sync_data(file.fd)
    assert contents(disk, "a") == {b"2" * 512}


def test_sync_that_failed_is_told_once_to_every_descriptor_that_was_open(disk: SimulatedDisk) -> None:
    first = create(disk, "a", b"1")
    second = system.open_file(str(disk.root / "a"), write=True)
    disk.fail(errno.EIO, name="sync_data")
    with pytest.raises(OSError, match="Input/output"):
        system.sync_data(first.fd)
    later = system.open_file(str(disk.root / "a"), write=True)

    system.sync_data(first.fd)
    system.sync_data(later.fd)
    with pytest.raises(OSError, match="Input/output"):
        system.sync_data(second.fd)
    system.sync_data(second.fd)


def test_file_changed_by_other_means_counts_as_not_synced(disk: SimulatedDisk) -> None:
    file = create(disk, "a", b"1")
    system.sync_data(file.fd)
    system.sync_directory(str(disk.root))
    with (disk.root / "a").open("ab") as outside:
        outside.write(b"2")

    assert contents(disk, "a") == {b"1", b"1\0", b"12"}


def test_number_of_a_removed_file_given_to_another_does_not_confuse_them(disk: SimulatedDisk) -> None:
    create_synced(disk, "a", b"old")
    system.sync_directory(str(disk.root))
    system.remove(str(disk.root / "a"))
    create_synced(disk, "b", b"new")  # most file systems give it the inode of a

    found = {(image.content.get("a"), image.content.get("b")) for image in disk.images(100)}
    assert found == {(a, b) for a in (b"old", None) for b in (b"new", None)}


def test_images_are_the_same_for_the_same_seed_and_differ_for_another(tmp_path: Path) -> None:
    def sample(seed: int, place: Path) -> list[object]:
        place.mkdir()
        with SimulatedDisk(place, seed=seed) as disk:
            create(disk, "a", b"".join(bytes([number]) * 512 for number in range(1, 30)))
            return [image.content for image in disk.images(20)]

    first = sample(1, tmp_path / "1")
    assert len(first) == 20
    assert first == sample(1, tmp_path / "2")
    assert first != sample(2, tmp_path / "3")
    assert first[0] == {"a": b"".join(bytes([number]) * 512 for number in range(1, 30))}


def test_image_put_in_the_place_of_the_disk_is_durable(disk: SimulatedDisk) -> None:
    create(disk, "a", b"x" * 1024)
    (image,) = [each for each in disk.images(100) if each.content.get("a") == b"x" * 512 + bytes(512)]

    disk.restore(image)

    assert (disk.root / "a").read_bytes() == b"x" * 512 + bytes(512)
    assert [each.content for each in disk.images(100)] == [image.content]


def test_crash_stops_every_later_call_until_a_new_process_runs(disk: SimulatedDisk) -> None:
    file = create(disk, "a", b"1")
    disk.crash(name="write_at", when="in")
    with pytest.raises(SimulatedCrash):
        system.write_at(file.fd, b"2345", 0)
    with pytest.raises(SimulatedCrash):
        system.sync_data(file.fd)
    assert (disk.root / "a").read_bytes() == b"23"

    disk.revive()
    assert system.write_at(file.fd, b"abcd", 0) == 4


@pytest.mark.parametrize(("when", "left"), [("before", b"1"), ("in", b"23"), ("after", b"2345")])
def test_crash_at_a_write_leaves_none_half_or_all_of_it(disk: SimulatedDisk, when: str, left: bytes) -> None:
    file = create(disk, "a", b"1")
    disk.crash(name="write_at", when=when)  # type: ignore[arg-type] # parametrised with its literals

    with pytest.raises(SimulatedCrash):
        system.write_at(file.fd, b"2345", 0)

    assert (disk.root / "a").read_bytes() == left


def test_disk_that_is_full_takes_what_fits_and_then_refuses_until_there_is_room(disk: SimulatedDisk) -> None:
    file = create(disk, "a")
    disk.fill_up(5)

    assert system.write_at(file.fd, b"123", 0) == 3
    assert system.write_at(file.fd, b"456", 3) == 2
    with pytest.raises(OSError, match="No space"):
        system.write_at(file.fd, b"6", 5)
    disk.clear()
    assert system.write_at(file.fd, b"6", 5) == 1


def test_fault_hits_the_calls_it_is_for_and_no_others(disk: SimulatedDisk) -> None:
    first, second = create(disk, "a"), create(disk, "b")
    disk.fail(errno.EIO, at=2, times=2, name="write_at", on="b$")

    for _ in range(5):
        assert system.write_at(first.fd, b"1", 0) == 1
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(system.write_at(second.fd, b"1", 0))
        except OSError as error:
            outcomes.append(error.errno)
    assert outcomes == [1, errno.EIO, errno.EIO, 1]


def test_fault_for_a_function_that_does_not_exist_is_refused(disk: SimulatedDisk) -> None:
    with pytest.raises(ValueError, match="no function of the seam: 'fsync'"):
        disk.fail(errno.EIO, name="fsync")
    with pytest.raises(ValueError, match="counted from 1"):
        disk.crash(at=0)


# --- simulated processes -----------------------------------------------------------------------------------


def test_simulated_process_that_is_killed_gives_its_locks_back_and_others_keep_theirs(
    disk: SimulatedDisk,
) -> None:
    store = disk.root / "store"
    first, second = SimulatedProcess(), SimulatedProcess()
    with first:
        log = Checkpoint(store).log("a")
        log.append("x", 1)
        disk.crash(name="sync_data")
        disk.crash(name="unlock")
        with pytest.raises(SimulatedCrash):
            log.append("x", 2)
    disk.revive()
    assert is_locked(lock_file(store))

    with second, pytest.raises(CheckpointError):
        Checkpoint(store, lock_timeout_s=0).log("a").append("x", 3)
    first.kill()
    with second:
        Checkpoint(store, lock_timeout_s=0).log("a").append("x", 3)
        assert Checkpoint(store)["x"] == (1, 2, 3)


def test_simulated_processes_know_nothing_of_each_other(disk: SimulatedDisk) -> None:
    first, second = SimulatedProcess(), SimulatedProcess()
    with first:
        one = Checkpoint(disk.root / "store").log("a")
        one.append("x", 1)
    with second:
        two = Checkpoint(disk.root / "store").log("a")
        two.append("x", 2)
        assert two.stats()["appends"] == 1
    with first:
        assert one.stats()["appends"] == 1
        assert one.events("x") == (1, 2)
    with first, pytest.raises(RuntimeError, match="turn"):
        first.kill()
    for player in (first, second):
        player.kill()


def test_image_is_no_copy_to_the_page_that_vouches_for_a_log_in_it(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    with SimulatedDisk(root) as disk:
        log = Checkpoint(root / "store").log("a")
        for number in range(40):
            log.append("x", number)
        image = disk.images()[0]
    place = tmp_path / "image"
    image.write_to(place)

    for store in (root / "store", place / "store"):
        log_path, page_path = (store / ".checkpoint" / name for name in ("a.jsonl", "a.page"))
        generation = json.loads(log_path.read_bytes().partition(b"\n")[0])[5]["generation"]
        assert stated_durable(str(page_path), generation, path_status(str(log_path))) > 1000
