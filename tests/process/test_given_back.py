"""Files that a closed handle gives back, and what this process goes on knowing of their logs."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.errors import CheckpointError, CorruptLogError, OutcomeUnknownError, PoisonedLogError
from mpcheckpoint.testing import SimulatedDisk, SimulatedProcess
from support.verbs import LOG, Faults, generation_of, inside, log_file, page_file, seen_anew, writer_of

if TYPE_CHECKING:
    from pathlib import Path

# What is written after it makes others of its blocks dirty, not all.
BLOCKS = "-" * 3 * 4096


def files_in(store: Path) -> list[str]:
    """Return what this process has open, or mapped, of a store."""
    inside_it = str(store.resolve())
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # that of the listing
            pass
    with open("/proc/self/maps") as maps:
        links += [line.split(maxsplit=5)[-1] for line in maps]
    return sorted(link for link in links if link.startswith(inside_it))


def use(checkpoint: Checkpoint, event: object) -> Log:
    log = checkpoint.log("a")
    log.append("x", event)
    return log


@pytest.mark.guarantee(7)
def test_last_handle_that_is_closed_gives_all_files_back(store: Path) -> None:
    with Checkpoint(store) as first, Checkpoint(store) as second:
        use(first, 0)
        use(second, 1)
        assert next(first.log("a").follow(after="start")).event == 0
        first.close()
        assert str(inside(store, "a.lock").resolve()) in files_in(store)
        use(second, 2)

    gc.collect()  # what a follower has open goes with the follower
    assert files_in(store) == []
    assert seen_anew(Checkpoint(store).log("a")) == [0, 1, 2]


@pytest.mark.guarantee(7)
def test_handle_that_nobody_has_any_more_keeps_no_files_once_another_is_closed(store: Path) -> None:
    use(Checkpoint(store), 0)  # not closed

    Checkpoint(store).close()

    assert files_in(store) == []


@pytest.mark.guarantee(1)
def test_append_in_progress_is_done_with_the_files_that_are_given_back(store: Path, faults: Faults) -> None:
    checkpoint = Checkpoint(store)
    log = use(checkpoint, 0)
    inside_sync, go_on = threading.Event(), threading.Event()
    faults.act("sync_data", lambda real, fd: (inside_sync.set(), go_on.wait(20), real(fd))[2], on=LOG)
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()
    assert inside_sync.wait(20)

    checkpoint.close()
    go_on.set()
    thread.join(20)

    assert use(Checkpoint(store), 2).events("x") == (0, 1, 2)


@pytest.mark.guarantee(6)
def test_log_that_is_opened_again_is_neither_proven_nor_synced_once_more(store: Path, faults: Faults) -> None:
    with Checkpoint(store) as checkpoint:
        use(checkpoint, 0)
    syncs, directories = faults.watch("sync_data"), faults.watch("sync_directory")

    with Checkpoint(store) as checkpoint:
        use(checkpoint, 1)

    assert (syncs.seen, directories.seen) == (1, 0)
    assert seen_anew(Checkpoint(store).log("a")) == [0, 1]


@pytest.mark.guarantee(1)
def test_log_that_was_not_durable_when_it_was_closed_is_written_again(store: Path, faults: Faults) -> None:
    with Checkpoint(store, durability="never") as checkpoint:
        use(checkpoint, 0)
    writes = faults.watch("write_at", on=LOG)

    with Checkpoint(store) as checkpoint:
        use(checkpoint, 1)

    assert writes.seen == 2  # of what was there, and of the record
    with Checkpoint(store) as checkpoint:
        use(checkpoint, 2)
    assert writes.seen == 3


@pytest.mark.guarantee(1)
@pytest.mark.rule(14)
def test_what_another_wrote_meanwhile_is_written_again_before_it_is_built_on(
    disk: SimulatedDisk, tmp_path: Path
) -> None:
    # Its sync failed, which leaves its pages clean, and it died before it could say so. Who had the file open would
    # hear of that from the next sync.
    store, other = disk.root / "store", SimulatedProcess()
    with Checkpoint(store) as checkpoint:
        use(checkpoint, 0)
    with other:
        use(Checkpoint(store, durability="never"), BLOCKS)
        disk.fail(errno.EIO, name="sync_data", on=LOG)
        with pytest.raises(OSError, match="Input/output error"):
            system.sync_data(generation_of(store).file.fd)

    with Checkpoint(store) as checkpoint:
        use(checkpoint, 2)

    images = disk.images()
    assert len(images) > 1
    for image in images:
        place = tmp_path / f"after {image.number}"
        image.write_to(place)
        assert seen_anew(Checkpoint(place / "store").log("a")) == [0, BLOCKS, 2]


@pytest.mark.guarantee(1)
def test_store_that_was_moved_meanwhile_has_its_new_name_made_durable(store: Path, faults: Faults) -> None:
    with Checkpoint(store) as checkpoint:
        use(checkpoint, 0)
    elsewhere = store.with_name("elsewhere") / "store"
    elsewhere.parent.mkdir()
    store.rename(elsewhere)
    new_name = faults.watch("sync_directory", on=r"/elsewhere$")

    with Checkpoint(elsewhere) as checkpoint:
        use(checkpoint, 1)

    assert new_name.seen == 1


@pytest.mark.guarantee(6)
def test_handle_that_only_read_leaves_what_is_known(store: Path, faults: Faults) -> None:
    with Checkpoint(store) as checkpoint:
        use(checkpoint, 0)
    with Checkpoint(store) as checkpoint:
        assert checkpoint.log("a").events("x") == (0,)
    syncs = faults.watch("sync_data")

    with Checkpoint(store) as checkpoint:
        use(checkpoint, 1)

    assert syncs.seen == 1


def fail_without_a_note(log: Log, store: Path, faults: Faults) -> None:
    """Let a sync fail, of which nothing but this process knows, as if there had been no room for a note."""
    faults.fail("sync_data", errno.EIO, on=LOG)
    with pytest.raises(OutcomeUnknownError):
        log.append("x", "lost?")
    for note in (inside(store, "a.poison"), page_file(store)):
        note.unlink(missing_ok=True)


@pytest.mark.guarantee(9)
def test_poisoned_writer_is_the_last_that_the_bound_on_open_files_forgets(
    store: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "most_open_files", lambda: 32)  # two writers
    checkpoint = Checkpoint(store)
    log = use(checkpoint, 0)
    fail_without_a_note(log, store, faults)

    for log_key in "bcd":
        checkpoint.log(log_key).append("x", 0)

    with pytest.raises(PoisonedLogError):
        use(checkpoint, 1)


@pytest.mark.guarantee(6)
def test_older_copy_in_the_place_of_what_was_durable_is_not_gone_on_from_as_if_nothing_was(
    store: Path,
) -> None:
    with Checkpoint(store) as checkpoint:
        use(checkpoint, 0)
        older = log_file(store).read_bytes()
        use(checkpoint, 1)
        page_file(store).unlink()
    log_file(store).write_bytes(older)  # the same file

    with Checkpoint(store) as checkpoint, pytest.raises(CorruptLogError, match="knows to be durable"):
        checkpoint.log("a").events("x")


@pytest.mark.guarantee(1)
def test_line_that_was_flipped_meanwhile_is_found(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        for number in range(3):
            use(checkpoint, number)
    data = bytearray(log_file(store).read_bytes())
    data[-5] ^= 1  # of the crc that the log ends with
    log_file(store).write_bytes(data)

    with Checkpoint(store) as checkpoint, pytest.raises(CorruptLogError):
        use(checkpoint, 3)


@pytest.mark.guarantee(9)
def test_poison_that_found_no_room_for_its_note_is_known_after_a_close(store: Path, faults: Faults) -> None:
    checkpoint = Checkpoint(store)
    log = use(checkpoint, 0)
    fail_without_a_note(log, store, faults)
    checkpoint.close()

    with Checkpoint(store) as checkpoint, pytest.raises(PoisonedLogError):
        use(checkpoint, 1)


@pytest.mark.guarantee(12)
def test_log_that_ended_with_a_seal_is_unsealed_after_a_close(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        use(checkpoint, 0)
        opened = generation_of(store)

        def seal(_: object) -> None:
            opened.find_end()
            opened.seal("ab" * 16)

        writer_of(store).exclusive(None, seal)
        checkpoint.log("a").flush()

    with Checkpoint(store) as checkpoint:
        use(checkpoint, 1)

    assert log_file(store).read_bytes().count(b'"unsealed"') == 1
    assert seen_anew(Checkpoint(store).log("a")) == [0, 1]


@pytest.mark.guarantee(3)
def test_store_that_is_made_anew_in_the_place_of_a_closed_one_begins_at_its_own_start(store: Path) -> None:
    for number in range(3):
        with Checkpoint(store) as checkpoint:
            use(checkpoint, number)
            assert checkpoint["x"] == (number,)
        shutil.rmtree(store)

    with pytest.raises(CheckpointError):
        Checkpoint(store, create=False)
    assert files_in(store) == []
