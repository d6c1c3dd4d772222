"""Rules that mutants of our own code found without a test, or held by chance or in minutes only (`tox -e mutants`).

In the order of `tests/mutants/list.toml`, where each mistake stands with the test that catches it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import json
import os
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import Payload, encode_line, running_crc
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.descriptors import pool
from mpcheckpoint._store.process import process
from mpcheckpoint._work.claims import give_back
from mpcheckpoint._work.workers import Worker
from mpcheckpoint.errors import (
    ChangedVersionError,
    ConflictError,
    CorruptLogError,
    FormatVersionError,
    LockTimeoutError,
    OutcomeUnknownError,
    PoisonedLogError,
    ReadFailedError,
)
from mpcheckpoint.testing import DiskImage, SimulatedDisk
from support.processes import call
from support.verbs import (
    TORN,
    Faults,
    assert_goes_on,
    become_a_new_process,
    bounded,
    hold_store_lock,
    inside,
    lock_file,
    log_file,
    seen_anew,
    tear,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
    from support.processes import Children

LOG = r"a\.jsonl$"
LOCK = r"a\.lock$"
NEVER_DUE = "interval:600000"
HANGS_AFTER_S = 6


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SimulatedDisk]:
    (tmp_path / "disk").mkdir()
    with SimulatedDisk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returns in a forked child; raise TimeoutError if it hangs there."""
    return call(function, *args, method="fork", timeout_s=HANGS_AFTER_S)


def stores_after_a_loss_of_power(disk: SimulatedDisk) -> Iterator[Path]:
    """Yield what the power may leave of the store on a disk, each time to a process that knows nothing of it."""
    for image in disk.images(32):
        place = disk.root.with_name(f"after {image.number}")
        image.write_to(place)
        become_a_new_process()
        yield place / "store"


def append_elsewhere(store: Path, object_key: str, event: Any, record_id: str | None = None) -> None:
    """Append as another process would."""
    Checkpoint(store).log("a").append(object_key, event, record_id=record_id)


# --- what makes bytes durable ----------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
def test_record_written_during_a_sync_is_not_covered_by_it(log: Log, faults: Faults) -> None:
    def write_behind_it(real: Callable[..., None], fd: int) -> None:
        real(fd)
        log.append("x", 2, durability="never")

    syncs = faults.act("sync_data", write_behind_it, on=LOG)
    log.append("x", 1)
    before = syncs.seen

    log.flush()

    assert log.events("x") == (0, 1, 2)
    assert syncs.seen == before + 1


@pytest.mark.guarantee(9)
def test_sync_inside_which_another_failed_acknowledges_nothing(log: Log, faults: Faults) -> None:
    def append_and_be_silent(real: Callable[..., None], fd: int) -> None:
        failing = faults.fail("sync_data", 5, on=LOG)
        with pytest.raises(OutcomeUnknownError):  # as a signal handler may do it, and hold its tongue
            log.append("x", 2)
        failing.clear()
        real(fd)

    faults.act("sync_data", append_and_be_silent, on=LOG)

    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)


@pytest.mark.guarantee(1)
def test_log_whose_creation_returned_survives_the_power(disk: SimulatedDisk) -> None:
    Checkpoint(disk.root / "store" / "deep").log("a")

    for store in stores_after_a_loss_of_power(disk):
        survivor = Checkpoint(store / "deep", create=False)
        assert survivor.logs() == ["a"]
        assert survivor.log("a").append("x", 1)


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
@pytest.mark.parametrize("last", ["append", "first use", "recovery"])
def test_disk_that_the_power_leaves_holds_what_was_acknowledged_and_takes_appends(
    disk: SimulatedDisk, last: str
) -> None:
    log = Checkpoint(disk.root / "store").log("a")
    for number in range(3):
        log.append("x", f"{number}" * 1000)
    log.append_many([("x", f"{number}" * 1000) for number in range(3, 6)], durability="never")
    acknowledged = 3
    if last == "append":
        log.append("x", "6")
        acknowledged = 7
    elif last == "first use":
        become_a_new_process()
        log.append("x", "6", durability="never")  # calls durable what was found: so it must be
        acknowledged = 3
    else:
        log.recover()
        acknowledged = 6
    events = log.events("x")

    for store in stores_after_a_loss_of_power(disk):
        survivor = Checkpoint(store).log("a")
        found = survivor.events("x")
        assert found == events[: len(found)]
        assert len(found) >= acknowledged
        assert_goes_on(survivor, list(found))


@pytest.mark.guarantee(1)
def test_record_found_by_its_id_is_durable_when_that_is_said(log: Log, faults: Faults) -> None:
    position = log.append("x", 1, record_id="id", durability="never")
    syncs = faults.watch("sync_data", on=LOG)

    assert log.append("x", 1, record_id="id") == position

    assert syncs.seen == 1


# --- the settings ----------------------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("of_the_handle", ["always", NEVER_DUE, "never"])
@pytest.mark.parametrize("of_the_append", ["always", NEVER_DUE, "never", None])
def test_append_syncs_as_its_setting_says(
    store: Path, log: Log, faults: Faults, of_the_handle: str, of_the_append: str | None
) -> None:
    with Checkpoint(store, durability=of_the_handle) as checkpoint:
        handle = checkpoint.log("a")
        syncs = faults.watch("sync_data", on=LOG)

        handle.append("x", 1, durability=of_the_append)

        assert syncs.seen == ((of_the_append or of_the_handle) == "always")
        handle.flush()
        assert syncs.seen == 1


@pytest.mark.guarantee(1)
def test_log_released_has_synced_what_the_interval_setting_left(
    store: Path, log: Log, faults: Faults
) -> None:
    checkpoint = Checkpoint(store, durability=NEVER_DUE)
    checkpoint.createCheckpointLog("a")
    checkpoint.writeCheckpoint("a", "x", 1)
    syncs = faults.watch("sync_data", on=LOG)

    checkpoint.releaseCheckpointLog("a")

    assert syncs.seen == 1


# --- the append lock -------------------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
def test_append_lock_lets_nobody_share_it(store: Path, log: Log, faults: Faults) -> None:
    def try_to_share(real: Callable[..., int], *args: Any) -> int:
        with lock_file(store).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return real(*args)

    fault = faults.act("write_at", try_to_share, on=LOG)
    log.append("x", 1)

    assert fault.hits == 1


@pytest.mark.guarantee(8)
def test_append_that_must_not_wait_for_the_lock_does_not(store: Path, log: Log) -> None:
    impatient = Checkpoint(store, lock_timeout_s=0).log("a")
    holder = system.open_file(str(lock_file(store)), write=True)
    system.lock(holder.fd)
    try:
        with pytest.raises(LockTimeoutError):
            bounded(impatient.append, "x", 1, timeout_s=5)
    finally:
        holder.close()

    assert_goes_on(log, [0])


@pytest.mark.guarantee(8)
def test_lock_file_is_never_removed_nor_replaced(store: Path, log: Log) -> None:
    inode = lock_file(store).stat().st_ino

    for use in (lambda: log.append("x", 1), lambda: tear(store), lambda: log.append("x", 2), log.recover):
        use()
        assert lock_file(store).stat().st_ino == inode


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("condition", [{"expected_count": 1}, {"record_id": "id"}])
def test_condition_that_ceases_to_hold_before_the_lock_is_given_is_refused(
    store: Path, log: Log, faults: Faults, condition: dict[str, Any]
) -> None:
    def let_another_in(real: Callable[..., bool], *args: Any) -> bool:
        elsewhere(append_elsewhere, store, "x", "theirs", "id")
        return real(*args)

    faults.act("try_lock", let_another_in, on=LOCK)
    try:
        log.append("x", "ours", **condition)
    except ConflictError:
        assert "expected_count" in condition

    assert log.events("x") == (0, "theirs")


def test_recovery_while_the_store_lock_is_held_times_out_and_changes_nothing(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    impatient = Checkpoint(store, lock_timeout_s=0.1).log("a")
    before = log_file(store).read_bytes()
    children.start(hold_store_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)

    with pytest.raises(LockTimeoutError):
        impatient.recover()

    assert log_file(store).read_bytes() == before


# --- repair ----------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_writer_that_finds_its_own_synced_record_damaged_refuses_and_cuts_nothing(
    store: Path, log: Log
) -> None:
    log.append("x", 1)
    damaged = bytearray(log_file(store).read_bytes())
    damaged[-5] ^= 1  # in the last crc, behind which nothing vouches for the record: but we do
    log_file(store).write_bytes(damaged)

    for _ in range(2):
        with pytest.raises(CorruptLogError):
            log.append("x", 2)
        assert log_file(store).read_bytes() == damaged


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


# --- poison and recovery ---------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
def test_note_of_a_failed_sync_survives_the_power_with_its_reason(disk: SimulatedDisk) -> None:
    log = Checkpoint(disk.root / "store").log("a")
    log.append("x", 0)
    disk.fail(errno.EIO, name="sync_data", on=LOG)
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)

    for store in stores_after_a_loss_of_power(disk):
        with pytest.raises(PoisonedLogError, match=os.strerror(errno.EIO)):
            Checkpoint(store).log("a").append("x", 2)


@pytest.mark.guarantee(9)
def test_recovery_leaves_nothing_of_the_failed_sync_behind(store: Path, log: Log, faults: Faults) -> None:
    faults.fail("sync_data", 5, on=LOG)
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)
    assert inside(store, "a.poison").exists()

    log.recover()

    assert not inside(store, "a.poison").exists()


@pytest.mark.guarantee(9)
def test_recovery_forgets_the_failed_sync_only_when_the_new_generation_survives_the_power(
    disk: SimulatedDisk, faults: Faults
) -> None:
    # A removed note may reach the disk before a rename does: then a log whose sync failed would take appends.
    def look(real: Callable[..., None], path: str) -> None:
        left.update(image.content[f"store/.checkpoint/{log_file(disk.root).name}"] for image in disk.images())
        real(path)

    left: set[bytes | None] = set()
    log = Checkpoint(disk.root / "store").log("a")
    log.append("x", 0)
    faults.act("remove", look, on=r"\.poison$")

    log.recover()

    assert left == {log_file(disk.root / "store").read_bytes()}


def test_recovery_carries_claims_and_the_run_of_a_map_over(log: Log, threads: ThreadPoolExecutor) -> None:
    assert [outcome.value for outcome in log.map(len, ["item"], executor=threads)] == [4]

    with log.claim("y"):
        log.recover()
        with log.claim("y") as second:
            assert second is None
    assert [outcome.value for outcome in log.results()] == [4]
    assert [outcome.repeated for outcome in log.map(len, ["item"], executor=threads)] == [True]


# --- fork ------------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(7)
@pytest.mark.guarantee(8)
def test_child_of_a_fork_without_hooks_does_not_share_its_parent_s_lock(store: Path, log: Log) -> None:
    assert elsewhere(fork_by_the_c_library_inside_an_append, store) == "LockTimeoutError"
    assert log.events("x") == (0, 1)


def fork_by_the_c_library_inside_an_append(store: Path) -> str:
    """Return how an append by such a child ends, while its parent holds the lock."""
    log = Checkpoint(store, lock_timeout_s=0.1).log("a")
    log.append("y", 1)
    endings = []

    def fork(real: Callable[..., int], *args: Any) -> int:
        receiver, sender = os.pipe()
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            try:
                log.append("x", "child")
            except BaseException as error:  # noqa: BLE001 - how it ends is the question
                os.write(sender, type(error).__name__.encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(sender)
        endings.append(os.read(receiver, 100).decode())
        os.close(receiver)
        return real(*args)

    with pytest.MonkeyPatch.context() as patches:
        Faults(patches).act("write_at", fork, on=LOG)
        log.append("x", 1)
    return endings[0]


MUTEXES: dict[str, Callable[[Log], Any]] = {
    "the registry": lambda log: process._mutex,
    "the clock": lambda log: clock._mutex,
    "the descriptor pool": lambda log: pool._mutex,
    "the interval setting": lambda log: process.interval._condition,
    "the view": lambda log: log._session.mutex.lock,
    "the writer": lambda log: log._state().stored._writer().lock._mutex.lock,  # type: ignore[attr-defined]  # an engine's
}


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("of", MUTEXES)
def test_forked_child_waits_for_no_mutex_that_a_thread_of_its_parent_held(log: Log, of: str) -> None:
    is_held, may_go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with MUTEXES[of](log):
            is_held.set()
            may_go_on.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(20)
    try:
        assert elsewhere(use_everything, log) == (0, 1, 2)
    finally:
        may_go_on.set()
        holder.join(20)


def use_everything(log: Log) -> tuple[Any, ...]:
    log.append("x", 1)
    log.append("x", 2, durability="interval:1")
    assert log.events("x") == (0, 1, 2)
    return Checkpoint(log._session.settings.path)["x"]


# --- the format ------------------------------------------------------------------------------------------------


def append_crafted_line(
    store: Path, *, size: int = 1, later_us: int = 1, durable: int = 0, more: int = 0
) -> None:
    """Write behind a log's end a line of which only what is asked for is wrong."""
    content = log_file(store).read_bytes()
    stored_crc = int(content[-11:-3], 16)
    stamp_us = json.loads(content.splitlines()[-1])[1] + later_us
    payload = Payload(b'"x"', b'"%b"' % (b"." * size))
    line, _ = encode_line(payload, stamp_us=stamp_us, durable=durable, more=more, crc=running_crc(stored_crc))
    tear(store, line)


# Lines are read one by one where there are few bytes, in bulk where there are many: both ways have their own checks.
@pytest.mark.guarantee(2)
@pytest.mark.parametrize("size", [1, 2000])
@pytest.mark.parametrize(
    ("lines", "more", "later_us"),
    [(1, 0, 1), (3, 0, 0), (2, 0, 1)],
    ids=["a batch", "one that does not count down", "one of two stamps"],
)
def test_batch_is_there_whole_or_not_at_all_however_it_is_read(
    store: Path, log: Log, size: int, lines: int, more: int, later_us: int
) -> None:
    start = log_file(store).stat().st_size
    log.append_many([("x", "." * size)] * lines, durability="never")
    first = log_file(store).read_bytes()[start:].splitlines(keepends=True)[0]
    become_a_new_process()
    os.truncate(log_file(store), start)
    tear(store, first)

    assert len(seen_anew(log)) == (2 if lines == 1 else 1)
    append_crafted_line(store, size=size, more=more, later_us=later_us)
    assert len(seen_anew(log)) == (3 if lines == 1 else 1)


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("size", [1, 2000])
def test_line_that_states_more_durable_than_lies_before_it_is_none_however_it_is_read(
    store: Path, log: Log, size: int
) -> None:
    end = log_file(store).stat().st_size

    append_crafted_line(store, size=size, durable=end + 1)
    assert seen_anew(log) == [0]
    os.truncate(log_file(store), end)
    append_crafted_line(store, size=size, durable=end)
    assert len(seen_anew(log)) == 2


@pytest.mark.guarantee(8)
def test_log_named_like_the_store_s_own_lock_can_be_recovered(store: Path) -> None:
    log = Checkpoint(store, lock_timeout_s=1).log("store")
    log.append("x", 0)

    log.recover()

    assert_goes_on(log, [0])


@pytest.mark.guarantee(6)
def test_record_behind_kilobytes_of_newlines_is_not_lost_in_silence(store: Path, log: Log) -> None:
    start = log_file(store).stat().st_size
    end = log.append("x", "." * 20_000).offset
    log.append("x", 2)
    closing_bytes = 12
    with log_file(store).open("r+b") as file:
        file.seek(start)
        file.write(b"\n" * (end - start - closing_bytes))
    become_a_new_process()  # which does not know that this was durable, and has to find out

    with pytest.raises(CorruptLogError):
        seen_anew(log)


# --- order -----------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
def test_event_written_after_another_was_read_sorts_after_it_whatever_the_clocks_say(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "_highest_us", clock._highest_us)  # put back for the tests to come
    elsewhere(append_an_hour_ahead, store)
    assert log.events("x") == (0, "an hour ahead")

    Checkpoint(store).log("b").append("x", "after")

    assert Checkpoint(store)["x"] == (0, "an hour ahead", "after")


def append_an_hour_ahead(store: Path) -> None:
    now_us = system.now_us() + 3_600_000_000
    system.now_us = lambda: now_us
    append_elsewhere(store, "x", "an hour ahead")


@pytest.mark.guarantee(3)
def test_objects_are_listed_by_their_first_event_whatever_log_it_stands_in(store: Path) -> None:
    first, second = (Checkpoint(store).log(log_key) for log_key in ("a", "b"))
    second.append("x", 1)
    first.append("y", 2)
    first.append("x", 3)

    assert list(Checkpoint(store)) == ["x", "y"]
    assert list(Checkpoint(store).snapshot()) == ["x", "y"]


# --- readers ---------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(4)
def test_record_of_the_length_of_a_torn_end_in_its_place_is_seen(store: Path, log: Log) -> None:
    start = log_file(store).stat().st_size
    log.append("x", 1, durability="never")
    line = log_file(store).read_bytes()[start:]
    become_a_new_process()
    log_file(store).write_bytes(log_file(store).read_bytes()[:start] + b"#" * len(line))
    reader = Checkpoint(store, read_only=True)
    for _ in range(3):
        assert reader["x"] == (0,)

    with log_file(store).open("r+b") as file:
        file.seek(start)
        file.write(line)

    assert reader["x"] == (0, 1)


@pytest.mark.guarantee(4)
@pytest.mark.parametrize("at_read", range(1, 10))
def test_write_that_ends_between_any_two_reads_of_a_look_is_seen_at_the_next(
    store: Path, log: Log, faults: Faults, at_read: int
) -> None:
    log.append("x", 1, durability="never")
    whole = log_file(store).read_bytes()
    become_a_new_process()
    log_file(store).write_bytes(whole[:-10])
    reader = Checkpoint(store, read_only=True)
    assert reader["x"] == (0,)

    def go_on_writing(real: Callable[..., bytes], *args: Any) -> bytes:
        data = real(*args)
        log_file(store).write_bytes(whole)
        return data

    fault = faults.act("read_at", go_on_writing, at=at_read, on=LOG)
    while not fault.hits:
        assert reader["x"] in ((0,), (0, 1))

    assert reader["x"] == (0, 1)


@pytest.mark.guarantee(4)
def test_log_overwritten_in_place_under_a_reader_is_read_anew(store: Path, log: Log) -> None:
    older = log_file(store).read_bytes()
    for number in range(1, 4):
        log.append("x", number, durability="never")
    become_a_new_process()
    reader = Checkpoint(store, read_only=True)
    assert reader["x"] == (0, 1, 2, 3)

    log_file(store).write_bytes(older)  # as `cp` does: the inode stays
    log.append("x", "." * 1000)

    assert reader["x"] == (0, "." * 1000)


@pytest.mark.guarantee(4)
def test_handle_that_has_read_sees_a_log_that_is_made_later(store: Path, log: Log) -> None:
    reader = Checkpoint(store, read_only=True)
    for number in range(1, 4):
        assert reader["x"] == tuple(range(number))
        Checkpoint(store).log(f"b{number}").append("x", number)

    assert reader["x"] == (0, 1, 2, 3)


@pytest.mark.guarantee(6)
def test_log_whose_header_was_refused_is_refused_at_every_look(store: Path, log: Log) -> None:
    reader = Checkpoint(store)
    assert reader["x"] == (0,)
    newer = store / "newer"
    newer.write_bytes(log_file(store).read_bytes().replace(b'"version":1', b'"version":2'))
    os.replace(newer, log_file(store))

    for _ in range(3):
        with pytest.raises(FormatVersionError):
            reader["x"]


@pytest.mark.guarantee(9)
def test_read_that_the_disk_refuses_raises(store: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, size: int, offset: int) -> bytes:
        raise OSError(5, os.strerror(5))

    reader = Checkpoint(store, read_only=True)
    with monkeypatch.context() as patches:
        patches.setattr(os, "pread", refuse)
        with pytest.raises(ReadFailedError):
            log.events("x")
        with pytest.raises(ReadFailedError):
            reader["x"]

    assert log.events("x") == reader["x"] == (0,)


@pytest.mark.guarantee(5)
def test_record_id_of_a_log_that_was_replaced_can_be_used_again(store: Path, log: Log) -> None:
    log.append("x", 1, record_id="id")
    assert log.events("x") == (0, 1)
    other = Checkpoint(store / "other").log("a")
    other.append("x", "other")
    os.replace(log_file(store / "other"), log_file(store))
    assert log.events("x") == ("other",)

    log.append("x", 2, record_id="id")

    assert log.events("x") == ("other", 2)


@pytest.mark.guarantee(4)
def test_follower_interrupted_anywhere_in_a_look_gives_out_every_record(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append_many([("x", 1), ("x", 2)])
    log.append("x", 3)
    for number in itertools.count(1):
        follower = log.follow(idle_timeout_s=0)
        found = []
        with monkeypatch.context() as patches:
            calls = interrupt_at_call(patches, number)
            try:
                found += follower
            except KeyboardInterrupt:
                found += follower
        assert [record.event for record in found] == [0, 1, 2, 3]
        if len(calls) < number:
            break
    assert number > 1


def interrupt_at_call(patches: pytest.MonkeyPatch, number: int) -> list[int]:
    """Raise KeyboardInterrupt at the so-many-th note that the clock takes: readers are in mid-step then."""
    real, calls = clock.observe, list[int]()

    def observe(stamp_us: int) -> None:
        calls.append(stamp_us)
        if len(calls) == number:
            raise KeyboardInterrupt
        real(stamp_us)

    patches.setattr(clock, "observe", observe)
    return calls


@pytest.mark.guarantee(4)
def test_reader_whose_file_is_given_back_in_mid_read_reads_on(
    store: Path, log: Log, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint(store).log("b").append("y", 1)
    other = Checkpoint(store, log_keys=["b"])
    monkeypatch.setattr(pool, "_limit", 1)

    def read_another_log(real: Callable[..., bytes], *args: Any) -> bytes:
        assert other["y"] == (1,)
        return real(*args)

    fault = faults.act("read_at", read_another_log, times=100, on=LOG)

    assert Checkpoint(store, log_keys=["a"])["x"] == (0,)
    assert [record.event for record in log.read()] == [0]
    assert fault.hits > 1


# --- conditions ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("expected_count", [0, 1, 3, 4, 5])
def test_expected_count_is_that_of_the_object_in_this_log_exactly(
    store: Path, log: Log, expected_count: int
) -> None:
    log.append_many([("x", 1), ("y", 0), ("y", 1), ("y", 2)])
    Checkpoint(store).log("b").append("x", "elsewhere")

    with pytest.raises(ConflictError) as caught:
        log.append("x", "no", expected_count=expected_count)

    assert (caught.value.expected, caught.value.found) == (expected_count, 2)
    log.append("x", "yes", expected_count=2)
    assert log.events("x") == (0, 1, "yes")


def test_record_id_is_that_of_its_object_alone(store: Path, log: Log) -> None:
    first = log.append("x", 1, record_id="id")
    log.append("x", 2, record_id="another")
    log.append("y", 3, record_id="id")
    log.append("y", 4)

    assert log.append("x", 5, record_id="id") == first
    assert (log.events("x"), log.events("y")) == ((0, 1, 2), (3, 4))


def test_transaction_sees_what_it_appends_and_nobody_else_does_before_it_ends(log: Log) -> None:
    with log.transaction() as transaction:
        transaction.append("x", 1)
        transaction.append("y", 2)
        assert (transaction.events("x"), transaction.events("y")) == ((0, 1), (2,))
        assert "y" in transaction
        assert (log.events("x"), log.events("y")) == ((0,), ())

    assert (log.events("x"), log.events("y")) == ((0, 1), (2,))


@pytest.mark.guarantee(3)
def test_transaction_that_read_what_has_changed_since_lands_nothing(log: Log) -> None:
    with pytest.raises(ConflictError), log.transaction() as transaction:  # noqa: PT012 - all or nothing
        assert transaction.events("x") == (0,)
        log.append("x", "between")
        transaction.append("y", 1)

    assert log.events("y") == ()
    with log.transaction() as transaction:  # what it did not read may change
        log.append("x", "again")
        transaction.append("y", 1)
    assert log.events("y") == (1,)


@pytest.mark.guarantee(3)
def test_transaction_that_only_read_what_has_changed_since_says_so(log: Log) -> None:
    with pytest.raises(ConflictError), log.transaction() as transaction:  # noqa: PT012 - all or nothing
        assert transaction.events("x") == (0,)
        log.append("x", "between")


# --- claims and maps -------------------------------------------------------------------------------------------


def test_claim_given_back_by_whoever_does_not_hold_it_stays(log: Log) -> None:
    with log.claim("x"):
        with Worker(log.workers_directory) as another:
            give_back(log, "x", another)

        with log.claim("x") as second:
            assert second is None


class Late(Executor):
    """Runs each call at once, but not before something else was done."""

    _max_workers = 1

    def __init__(self, first: Callable[[], object]) -> None:
        self._first = first

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        self._first()
        future = Future[Any]()
        future.set_result(fn(*args, **named))
        return future


def test_item_that_another_finished_before_it_was_taken_does_not_run(store: Path, log: Log) -> None:
    def finish_it_elsewhere() -> None:
        elsewhere(map_elsewhere, store, "")

    ran: list[str] = []
    outcomes = list(log.map(ran.append, ["item"], executor=Late(finish_it_elsewhere)))

    assert ran == []
    assert [(outcome.value, outcome.repeated) for outcome in outcomes] == [(4, True)]


def test_map_started_at_the_same_moment_with_another_version_is_refused(
    store: Path, log: Log, faults: Faults
) -> None:
    def let_another_start(real: Callable[..., bool], *args: Any) -> bool:
        elsewhere(map_elsewhere, store, "theirs")
        return real(*args)

    faults.act("try_lock", let_another_start, on=LOCK)

    with pytest.raises(ChangedVersionError):
        log.map(len, ["item"], version="ours", executor=Late(lambda: None))

    assert [outcome.value for outcome in log.results()] == [4]


def map_elsewhere(store: Path, version: str) -> None:
    """Run a whole map as another process would."""
    list(Checkpoint(store).log("a").map(len, ["item"], version=version, executor=Late(lambda: None)))


def test_failure_of_a_retry_is_not_retried_by_it_when_its_item_comes_again(log: Log) -> None:
    def fail(item: str) -> None:
        ran.append(item)
        raise ValueError(item)

    ran: list[str] = []
    at_once = Late(lambda: None)
    list(log.map(fail, ["item"], executor=at_once))
    others = [f"{number}" for number in range(10)]

    list(log.map(fail, ["item", *others, "item"], executor=at_once, retry_failed=True))

    assert ran == ["item", "item", *others]
