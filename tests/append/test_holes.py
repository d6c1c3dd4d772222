"""What a hostile review broke in the simple model of this log, each hole by name (design, end of section 6).

Held here: first use, the directory, rewriting before the first sync, poison as a file, the durable field, candidates
behind damage, whole batches, the bound stamp, mutexes across kernel locks. Read-only maps and the durable word are held
by tests/append/test_page.py, the stopped leader by tests/append/test_group_commit.py.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import MAX_STAMP_US, Payload, encode_line, running_crc
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint.errors import (
    ClockError,
    CorruptLogError,
    OutcomeUnknownError,
    PoisonedLogError,
    WriteFailedError,
)
from mpcheckpoint.testing import SimulatedDisk
from mpcheckpoint.testing._simulation.seam import path_of
from support.processes import call
from support.verbs import (
    Faults,
    assert_goes_on,
    become_a_new_process,
    bounded,
    inside,
    log_file,
    seen_anew,
    tear,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children

LOG = r"a\.jsonl$"


def overwrite(store: Path, offset: int, data: bytes) -> None:
    with log_file(store).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def append_crafted_line(store: Path, *, stamp_us: int, durable: int, more: int = 0) -> None:
    """Write behind a log's end a line whose length and crc are right."""
    content = log_file(store).read_bytes()
    stored_crc = int(content[-11:-3], 16)
    payload = Payload(b'"x"', b'"crafted"')
    line, _ = encode_line(payload, stamp_us=stamp_us, durable=durable, more=more, crc=running_crc(stored_crc))
    tear(store, line)


# --- first use ---------------------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(6)
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


# --- the directory -----------------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
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


# --- rewriting before the first sync -------------------------------------------------------------------------


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(9)
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


# --- poison as a file --------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
def test_poison_outlives_everybody_who_knew_and_the_power(store: Path, log: Log, faults: Faults) -> None:
    note_synced = faults.watch("sync_directory", on=r"\.checkpoint$")
    fault = faults.fail("sync_data", 5, on=LOG)
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)
    fault.clear()

    assert note_synced.seen == 1
    assert inside(store, "a.poison").read_bytes()
    become_a_new_process()
    with pytest.raises(PoisonedLogError):
        Checkpoint(store).log("a").append("x", 2)
    assert seen_anew(log) == [0, 1]


# --- the durable field -------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_line_that_calls_more_durable_than_lies_before_it_vouches_for_nothing(store: Path, log: Log) -> None:
    size = log_file(store).stat().st_size
    stamp_us = list(log.read())[-1].stamp_us + 1
    append_crafted_line(store, stamp_us=stamp_us, durable=size + 1)

    assert seen_anew(log) == [0]
    assert_goes_on(log, [0])
    assert len(log.repairs()) == 1


@pytest.mark.guarantee(6)
def test_log_shorter_than_this_process_knows_to_be_durable_is_corrupt(store: Path, log: Log) -> None:
    before = log_file(store).read_bytes()
    log.append("x", 1)
    os.truncate(log_file(store), len(before))

    for attempt in (lambda: log.events("x"), lambda: Checkpoint(store)["x"], lambda: log.append("x", 2)):
        with pytest.raises(CorruptLogError):
            attempt()

    assert log_file(store).read_bytes() == before


@pytest.mark.guarantee(6)
def test_what_was_durable_in_another_generation_says_nothing_of_this_one(store: Path, log: Log) -> None:
    log.append("x", "a" * 10_000)
    other = Checkpoint(store / "other").log("a")
    other.append("x", "small")
    os.replace(log_file(store / "other"), log_file(store))
    tear(store)

    assert log.events("x") == ("small",)
    assert_goes_on(log, ["small"])


# --- candidates behind damage --------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("is_joined_by", ["\n", '"]\n', ""])
def test_event_that_contains_log_lines_vouches_for_nothing_when_torn(
    store: Path, log: Log, is_joined_by: str
) -> None:
    for number in range(1, 20):
        log.append("x", number)
    lines = log_file(store).read_text().splitlines()
    expected = list(log.events("x"))
    log.append("x", is_joined_by.join(lines * 500), durability="never")
    os.truncate(log_file(store), log_file(store).stat().st_size - 20)
    become_a_new_process()
    started = time.monotonic()

    assert seen_anew(log) == expected
    assert_goes_on(log, expected)
    assert time.monotonic() - started < 20


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("rubbish", [b'["00000100', b'\n["00000100"', b'"]\n', b"\n", b"\0", b'["'], ids=repr)
def test_megabytes_of_rubbish_behind_the_end_cost_seconds_not_hours(
    store: Path, log: Log, rubbish: bytes
) -> None:
    tear(store, b"#" + rubbish * (3_000_000 // len(rubbish)))
    started = time.monotonic()

    assert seen_anew(log) == [0]
    assert_goes_on(log, [0])

    assert time.monotonic() - started < 20


# --- whole batches -----------------------------------------------------------------------------------------


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("padding", [b"", b"\n\n\n", b"\n" * 5000])
@pytest.mark.parametrize("lines", [1, 2, 4])
def test_batch_cut_behind_a_whole_line_is_not_there_at_all(
    store: Path, log: Log, lines: int, padding: bytes
) -> None:
    start = log_file(store).stat().st_size
    log.append_many([("x", f"batch {number}") for number in range(5)], durability="never")
    batch = log_file(store).read_bytes()[start:].splitlines(keepends=True)
    become_a_new_process()
    os.truncate(log_file(store), start)
    tear(store, b"".join(batch[:lines]) + padding)

    assert seen_anew(log) == [0]
    assert [record.event for record in log.follow(idle_timeout_s=0)] == [0]
    assert_goes_on(log, [0])
    assert log.repairs()[0].offset == start


@pytest.mark.guarantee(2)
def test_batch_with_a_line_of_another_in_it_is_damage_from_its_first_line(store: Path, log: Log) -> None:
    start = log_file(store).stat().st_size
    log.append_many([("x", 1), ("x", 2)], durability="never")
    first, _ = log_file(store).read_bytes()[start:].splitlines(keepends=True)
    stamp_us = list(log.read())[-1].stamp_us
    become_a_new_process()
    for more in (1, 5):
        os.truncate(log_file(store), start)
        tear(store, first)
        append_crafted_line(store, stamp_us=stamp_us, durable=0, more=more)
        assert seen_anew(log) == [0]
    os.truncate(log_file(store), start)
    tear(store, first)
    append_crafted_line(store, stamp_us=stamp_us + 1, durable=0)

    assert seen_anew(log) == [0]
    assert_goes_on(log, [0])


# --- the bound stamp ---------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
def test_large_batch_does_not_run_ahead_of_the_clock(log: Log) -> None:
    log.append_many([("x", number) for number in range(50_000)], durability="never")
    log.append("x", "next")

    *_, last = log.read()
    assert last.stamp_us <= time.time_ns() // 1000


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("stamp_us", [MAX_STAMP_US, MAX_STAMP_US + 1, 2**63, 2**70])
def test_stamp_at_the_bound_is_read_and_beyond_it_no_line(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch, stamp_us: int
) -> None:
    monkeypatch.setattr(clock, "_highest_us", clock._highest_us)
    append_crafted_line(store, stamp_us=stamp_us, durable=0)
    become_a_new_process()

    if stamp_us > MAX_STAMP_US:
        assert seen_anew(log) == [0]
        assert_goes_on(log, [0])
        return
    before = log_file(store).read_bytes()
    assert log.events("x") == (0, "crafted")
    with pytest.raises(ClockError):
        log.append("x", 1)
    assert log_file(store).read_bytes() == before


# --- who stands still in a sync, and mutexes across kernel locks -----------------------------------------------


def stop_in_a_sync(store: Path, writer: AcknowledgementWriter) -> None:
    def stand_still(*_: object) -> None:
        writer.acknowledge("syncing")
        while True:
            signal.pause()

    with pytest.MonkeyPatch.context() as patches:
        log = Checkpoint(store).log("a")
        log.append("x", 1)
        Faults(patches).act("sync_data", stand_still, on=LOG)
        log.append("x", 2)


@pytest.mark.guarantee(8)
def test_process_stopped_in_its_sync_stops_nobody(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(stop_in_a_sync, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    child.stop()
    impatient = Checkpoint(store, lock_timeout_s=2).log("a")

    bounded(impatient.append, "x", 3)
    bounded(impatient.flush)
    assert bounded(impatient.events, "x") == (0, 1, 2, 3)
    child.kill()


@pytest.mark.guarantee(7)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("name", ["sync_data", "write_at", "try_lock"])
def test_thread_that_stands_still_in_the_system_holds_up_neither_reads_nor_forks(
    store: Path, log: Log, faults: Faults, name: str
) -> None:
    may_go_on, is_inside = threading.Event(), threading.Event()

    def stand_still(real: Callable[..., Any], *args: Any) -> Any:
        is_inside.set()
        may_go_on.wait(60)
        return real(*args)

    faults.act(name, stand_still, on=r"a\.(jsonl|lock)$")
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()
    assert is_inside.wait(20)
    started = time.monotonic()

    for _ in range(3):
        assert bounded(log.count, "x") >= 1
        assert bounded(lambda: Checkpoint(store)["x"][0]) == 0
        assert call(log.count, "x", method="fork", timeout_s=20) >= 1

    assert time.monotonic() - started < 10
    may_go_on.set()
    thread.join(20)
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(6)
def test_reader_that_finds_a_write_in_progress_says_nothing_and_looks_again(store: Path, log: Log) -> None:
    log.append("x", 1, durability="never")
    whole = log_file(store).read_bytes()
    checkpoint, follower = Checkpoint(store), log.follow(idle_timeout_s=0)
    assert checkpoint["x"] == (0, 1)
    assert [record.event for record in follower] == [0, 1]
    log.append("x", 2, durability="never")
    written = log_file(store).read_bytes()
    become_a_new_process()

    for size in range(len(whole), len(written)):
        os.truncate(log_file(store), len(whole))
        tear(store, written[len(whole) : size])
        assert checkpoint["x"] == (0, 1)
        before = tree(store)
        assert checkpoint["x"] == (0, 1)
        assert tree(store) == before
    os.truncate(log_file(store), len(whole))
    tear(store, written[len(whole) :])
    assert checkpoint["x"] == (0, 1, 2)


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
