"""After whatever hits a log: verify, repair, and all is whole; what was not hit is there, and no byte is gone."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Cursor, Log, Position
from mpcheckpoint import _system as system
from mpcheckpoint.errors import (
    CorruptLogError,
    InvalidPositionError,
    LockTimeoutError,
    OutcomeUnknownError,
    WriteFailedError,
)
from mpcheckpoint.maintenance import LogRepair, plan_repairs, repair, verify
from mpcheckpoint.testing import Ledger, explore_crashes, explore_faults, restart
from support.shell import CommandLine
from support.verbs import (
    TORN,
    Faults,
    become_a_new_process,
    flip,
    hold_append_lock,
    inside,
    is_locked,
    log_file,
    seeded,
    tear,
    tree,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children

pytestmark = pytest.mark.guarantee(6)

Records = list[tuple[str, Any]]


class Bench:
    """A log of four records, a batch of three, and four more, to be damaged again and again."""

    def __init__(self, store: Path) -> None:
        self.store = store
        log = Checkpoint(store).log("a")
        for number in range(4):
            log.append("x", number)
        log.append_many([("batch", number) for number in range(3)])
        for number in range(4, 8):
            log.append("x", number)
        become_a_new_process()
        self.good = log_file(store).read_bytes()
        self.lines = self.good.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.records = records_in(store)

    def but(self, *hit: int) -> Records:
        """Return the records of all lines but these; of a batch that lost one, none."""
        gone = {*hit, *((5, 6, 7) if {5, 6, 7} & set(hit) else ())}
        return [record for number, record in enumerate(self.records, 1) if number not in gone]

    def lines_at(self, start: int, stop: int) -> list[int]:
        """Return which lines the bytes from ``start`` to ``stop`` are of."""
        return [
            number
            for number in range(len(self.lines))
            if self.starts[number] < stop and self.starts[number + 1] > start
        ]

    def repair(self, data: bytes) -> tuple[str, Records]:
        """Let the log have these bytes, and repair it; return what it was, and what it holds then.

        Whatever it was: it is whole then, nothing is left to repair, no byte is gone, and appends go on.
        """
        for path in inside(self.store).rglob("*"):
            if path.is_file():
                path.unlink()
        log_file(self.store).write_bytes(data)
        become_a_new_process()
        (planned,) = plan_repairs(self.store)
        (done,) = repair(self.store)
        assert done.error is None
        assert (done.action, done.records_kept, done.removed) == (
            planned.action,
            planned.records_kept,
            planned.removed,
        )
        assert done.is_done == (done.action != "nothing")
        self._require_every_byte(data, done)
        become_a_new_process()
        (after,) = verify(self.store)
        assert after.state == "whole", (planned, after)
        assert [each.action for each in repair(self.store)] == ["nothing"]
        found = records_in(self.store)
        assert after.records == len(found) == done.records_kept
        Checkpoint(self.store).log("a").append("new", 1)
        assert records_in(self.store) == [*found, ("new", 1)]
        return planned.check.state, found

    def _require_every_byte(self, data: bytes, done: LogRepair) -> None:
        for kept in done.repairs:
            with open(kept.path, "rb") as file:
                assert file.read() == data[kept.offset : kept.offset + kept.length_bytes]
        if done.action != "nothing":
            kept_bytes = sum(kept.length_bytes for kept in done.repairs)
            assert kept_bytes == done.removed_bytes or not data[done.removed[0][0] :].strip(b"\n")


def records_in(store: Path) -> Records:
    with Checkpoint(store, read_only=True) as checkpoint:
        return [(record.object_key, record.event) for record in checkpoint.log("a").read()]


@pytest.fixture
def bench(store: Path, without_syncs: None) -> Bench:
    """A log to be damaged again and again."""
    return Bench(store)


# --- bytes that change ----------------------------------------------------------------------------------------


def test_repair_of_one_bit_anywhere_costs_the_record_it_hit_and_no_other(
    bench: Bench, intensity: int
) -> None:
    chance = seeded("bits")
    for at in [
        *range(0, len(bench.good), max(1, 17 // intensity)),
        *(start - 1 for start in bench.starts[1:]),
        *bench.starts[:-1],
    ]:
        data = bytearray(bench.good)
        data[at] ^= 1 << chance.randrange(8)
        hit = max(number for number, start in enumerate(bench.starts[:-1]) if start <= at)

        state, found = bench.repair(bytes(data))

        assert state == ("torn" if hit == len(bench.lines) - 1 else "corrupt")
        # What hits only the end of a line, be it a batch's, costs nothing: the line after it proves it.
        is_mended = hit < len(bench.lines) - 1 and bench.starts[hit + 1] - 12 <= at
        assert found == (bench.records if is_mended or not hit else bench.but(hit)), at


def test_repair_of_zeros_keeps_what_follows_a_line_that_can_vouch_for_it(
    bench: Bench, intensity: int
) -> None:
    for at in range(bench.starts[1], len(bench.good), max(1, 47 // intensity)):
        for size in (1, 40, 300):
            data = bench.good[:at] + bytes(min(size, len(bench.good) - at)) + bench.good[at + size :]
            hit = bench.lines_at(at, min(at + size, len(bench.good)))

            state, found = bench.repair(data)

            if state == "torn":
                assert found == bench.records[: len(found)]
                continue
            assert is_within(found, bench.records)
            lost = set(bench.records) - set(found)
            # The line behind the last that was hit is lost with it if the crc field before it is.
            assert lost <= set(bench.records) - set(bench.but(*hit, hit[-1] + 1)), (at, size)


@pytest.mark.parametrize("inserted", [b"x", b"\n", b"garbage\n", b"\0" * 600, b'["00000028"'])
def test_repair_of_bytes_put_in_between_keeps_all_around_them(
    bench: Bench, inserted: bytes, intensity: int
) -> None:
    for at in [*bench.starts[1:], *range(5, len(bench.good), max(1, 97 // intensity))]:
        number = max(number for number, start in enumerate(bench.starts) if start <= at)
        is_between = at in bench.starts
        hit = [number] if not is_between else [number] if number in (6, 7) else []

        state, found = bench.repair(bench.good[:at] + inserted + bench.good[at:])

        if state != "torn":
            assert is_within(found, bench.records)
            lost = set(bench.records) - set(found)
            behind = [*hit, *(each + 1 for each in hit)]
            assert lost <= set(bench.records) - set(bench.but(*behind)), (at, lost)


def test_repair_of_lines_removed_repeated_or_moved_keeps_the_others_once(bench: Bench) -> None:
    lines = bench.lines
    for one in range(1, len(lines)):
        state, found = bench.repair(b"".join(lines[:one] + lines[one + 1 :]))
        assert state == ("whole" if one == len(lines) - 1 else "torn" if one == len(lines) - 2 else "corrupt")
        if state == "corrupt":
            assert found == bench.but(one, one + 1), one  # nothing leads to the line behind it
    for one in (1, 4, 8, 10):
        for to in (2, 4, 8, 9, 11):
            _, found = bench.repair(b"".join(lines[:to] + lines[one : one + 2] + lines[to:]))
            assert found == bench.records or to > 10, (one, to)


def test_repair_of_a_block_of_another_log_takes_none_of_it(bench: Bench, tmp_path: Path) -> None:
    other = Checkpoint(tmp_path / "other").log("another log")
    for number in range(6):
        other.append("foreign", number)
    foreign = log_file(tmp_path / "other", "another log").read_bytes().splitlines(keepends=True)[1:]
    become_a_new_process()
    for count in (1, 3, 5):
        block = b"".join(foreign[:count])
        for number in range(1, 6):
            start = bench.starts[number] + 13
            over = bench.good[:start] + block + bench.good[start + len(block) :]
            between = b"".join(bench.lines[:number]) + block + b"".join(bench.lines[number:])
            _, found = bench.repair(over)
            assert is_within(found, bench.records)
            _, found = bench.repair(between)
            assert found == bench.records


def test_repair_of_a_block_of_another_log_of_the_same_time_takes_none_of_it(
    store: Path, tmp_path: Path, without_syncs: None
) -> None:
    """By their stamps its records would fit in; that they call durable what ends no batch here tells them apart."""
    log, other = Checkpoint(store).log("a"), Checkpoint(tmp_path / "other").log("another log")
    for number in range(4):
        log.append("x", number)
    starts = len(log_file(store).read_bytes())
    log.append("x", "." * 300)
    for number in range(3):
        other.append("foreign", number)
    for number in range(4, 8):
        log.append("x", number)
    block = b"".join(log_file(tmp_path / "other", "another log").read_bytes().splitlines(keepends=True)[1:])
    data = log_file(store).read_bytes()
    log_file(store).write_bytes(data[: starts + 20] + block + data[starts + 20 + len(block) :])
    become_a_new_process()

    (done,) = repair(store)

    assert [event for _, event in records_in(store)] == [*range(8)]
    assert sum(left.records for left in done.left_out) == 2


def is_within(found: Records, records: Records) -> bool:
    """Return whether all that was found was written, in that order."""
    left = iter(records)
    return all(record in left for record in found)


def test_repair_of_a_log_without_batches_keeps_the_record_behind_a_damage_that_says_nothing(
    store: Path,
) -> None:
    log = Checkpoint(store, durability="never").log("a")
    for number in range(6):
        log.append("x", number)
    log.flush()
    log.append("x", 6)
    data = log_file(store).read_bytes()
    lines = data.splitlines(keepends=True)
    at = sum(map(len, lines[:3]))
    log_file(store).write_bytes(
        data[:at] + b"?" * 40 + data[at + 40 :]
    )  # its opening is gone; its end is not
    become_a_new_process()

    (done,) = repair(store)

    assert (done.check.state, done.left_out) == ("corrupt", ())
    assert [event for _, event in records_in(store)] == [0, 1, 3, 4, 5, 6]


def test_repair_leaves_out_what_may_be_the_rest_of_a_batch_and_names_it(bench: Bench) -> None:
    data = bytearray(bench.good)
    data[bench.starts[5] + 3] ^= 1
    log_file(bench.store).write_bytes(bytes(data))
    become_a_new_process()

    (done,) = repair(bench.store)

    (left,) = done.left_out
    assert (left.records, left.object_keys) == (2, ("batch", "batch"))
    assert (left.offset, left.length_bytes) == (bench.starts[6], bench.starts[8] - bench.starts[6])
    assert records_in(bench.store) == bench.but(5)


# --- the header -------------------------------------------------------------------------------------------------


def header_is_hit(store: Path, log_key: str, piece: bytes) -> None:
    path = log_file(store, log_key)
    data = path.read_bytes()
    assert data.count(piece, 0, data.index(b"\n")) == 1
    path.write_bytes(data.replace(piece, b"?" * len(piece), 1))
    become_a_new_process()


@pytest.mark.parametrize("piece", [b'"header"', b'"log_key"', b'"previous"', b"mpcheckpoint"])
def test_repair_of_a_damaged_header_keeps_all_records_and_positions(store: Path, piece: bytes) -> None:
    log = Checkpoint(store).log("a")
    positions = [log.append("x", number) for number in range(3)]
    header_is_hit(store, "a", piece)
    with pytest.raises(CorruptLogError):
        Checkpoint(store).log("a")

    (done,) = repair(store)

    assert done.is_done
    assert [event for _, event in records_in(store)] == [0, 1, 2]
    with Checkpoint(store) as checkpoint:
        assert [record.event for record in checkpoint.log("a").read(after=positions[0])] == [1, 2]


def test_repair_of_a_lost_generation_takes_its_name_from_the_page_or_refuses_positions(store: Path) -> None:
    log = Checkpoint(store).log("a")
    position = log.append("x", 0)
    log.append("x", 1)
    header_is_hit(store, "a", position.generation.encode())
    data = log_file(store).read_bytes()

    assert [each.is_done for each in repair(store)] == [True]
    assert [record.event for record in Checkpoint(store).log("a").read(after=position)] == [1]

    for path in (log_file(store), inside(store, "a.page")):
        path.unlink()
    log_file(store).write_bytes(data.replace(position.lineage.encode(), b"?" * 32))  # that is lost, too
    become_a_new_process()
    assert [each.is_done for each in repair(store)] == [True]
    with pytest.raises(InvalidPositionError):
        list(Checkpoint(store).log("a").read(after=position))
    assert [event for _, event in records_in(store)] == [0, 1]


def test_repair_of_a_hashed_name_takes_the_key_from_the_header_or_refuses(store: Path) -> None:
    log_key = "k" * 300
    Checkpoint(store).log(log_key).append("x", 0)
    good = log_file(store, log_key).read_bytes()
    header_is_hit(store, log_key, b'"previous"')
    (done,) = repair(store)
    assert (done.is_done, done.check.log_key) == (True, log_key)
    assert Checkpoint(store).log(log_key).events("x") == (0,)

    log_file(store, log_key).write_bytes(good)
    header_is_hit(store, log_key, b"k" * 300)
    before = tree(store)
    (planned,) = plan_repairs(store)
    (done,) = repair(store)
    assert planned.action == done.action == "impossible"
    assert "cannot be told" in (done.check.problem or "")
    assert tree(store) == before


@pytest.mark.parametrize("data", [b"", b"\0" * 700, b"rubbish\n" * 9])
def test_repair_of_a_log_of_which_nothing_can_be_proven_leaves_an_empty_one(store: Path, data: bytes) -> None:
    Checkpoint(store).log("a").append("x", 0)
    log_file(store).write_bytes(data)
    inside(store, "a.page").unlink()
    become_a_new_process()

    (done,) = repair(store)

    assert done.is_done
    assert records_in(store) == []
    assert sum(kept.length_bytes for kept in done.repairs) == len(data)
    Checkpoint(store).log("a").append("x", 1)


# --- torn, poisoned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [TORN, b"\n" * 300 + TORN])
def test_repair_of_a_torn_end_is_that_of_the_next_writer(store: Path, log: Log, torn: bytes) -> None:
    end = log_file(store).stat().st_size
    tear(store, torn)  # also behind padding, where who trusts the page does not look

    before = tree(store)
    (planned,) = plan_repairs(store)
    assert tree(store) == before
    (done,) = repair(store)

    assert planned.action == done.action == "cut"
    assert planned.removed == ((end, len(torn)),)
    assert [(kept.offset, kept.length_bytes) for kept in log.repairs()] == [(end, len(torn))]
    assert log_file(store).stat().st_size == end
    log.append("x", 1)
    assert log.events("x") == (0, 1)


def poison(log: Log, faults: Faults) -> None:
    fault = faults.fail("sync_data", errno.EIO, on=r"a\.jsonl$")
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)
    fault.clear()


@pytest.mark.parametrize("damage", ["none", "torn", "corrupt"])
def test_repair_of_a_poisoned_log_lets_it_take_appends_again(
    store: Path, log: Log, faults: Faults, damage: str
) -> None:
    poison(log, faults)
    if damage == "torn":
        tear(store)
    elif damage == "corrupt":
        flip(store, 300)

    (done,) = repair(store)

    assert done.is_done
    assert done.action == ("salvage" if damage == "corrupt" else "recover")
    assert not inside(store, "a.poison").exists()
    log.append("x", 2)
    assert log.events("x") == ((1, 2) if damage == "corrupt" else (0, 1, 2))
    assert [each.state for each in verify(store)] == ["whole"]


def test_repair_of_what_is_whole_or_not_known_changes_nothing(store: Path, log: Log) -> None:
    Checkpoint(store).log("b").append("x", 1)
    newer = log_file(store, "b").read_bytes().replace(b'"version":1', b'"version":7')
    log_file(store, "b").write_bytes(newer)
    before = tree(store)

    actions = [each.action for each in repair(store)]

    assert actions == ["nothing", "impossible"]
    assert tree(store) == before


# --- who has the log open ------------------------------------------------------------------------------------------


def test_repair_keeps_handles_positions_cursors_and_followers_going(store: Path, log: Log) -> None:
    positions = [log.append("x", number) for number in range(1, 8)]
    follower = log.follow(idle_timeout_s=0)
    assert [record.event for record in follower] == list(range(8))
    cursor = Checkpoint(store).follow(Cursor.of({"a": positions[4]}), idle_timeout_s=0).cursor
    lines = log_file(store).read_bytes().splitlines(keepends=True)
    flip(store, sum(map(len, lines[:2])) + 40)

    (done,) = repair(store)
    assert done.is_done
    assert done.generation != positions[0].generation

    assert log.append("x", 8).generation == done.generation
    assert log.events("x") == (0, 2, 3, 4, 5, 6, 7, 8)
    for number, position in enumerate(positions, 1):
        behind = [record.event for record in log.read(after=Position.parse(str(position)))]
        assert behind == [event for event in log.events("x") if event > number]
    followed = Checkpoint(store).follow(Cursor.parse(str(cursor)), idle_timeout_s=0)
    assert [record.event for record in followed] == [6, 7, 8]
    again = log.follow(after=positions[-1], idle_timeout_s=0)
    assert [record.event for record in again] == [8]


@pytest.mark.guarantee(1)
def test_repair_under_a_live_writer_loses_nothing_acknowledged(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    log.append("hit", 0)
    log.append("x", 1)
    lines = log_file(store).read_bytes().splitlines(keepends=True)
    children.start(append_until_killed, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(20)
    flip_in_place(store, sum(map(len, lines[:2])) + 30)

    for _ in range(2):
        (done,) = repair(store, lock_timeout_s=30)
        acknowledgements.wait_for(len(acknowledgements.acknowledged()) + 20)
        flip_in_place(store, system.stat_path(str(log_file(store))).st_size // 2)
        acknowledgements.wait_for(len(acknowledgements.acknowledged()) + 20)
    (done,) = repair(store, lock_timeout_s=30)
    children.kill_all()
    become_a_new_process()
    list(repair(store))

    assert done.error is None
    numbers = [event for object_key, event in records_in(store) if object_key == "w"]
    acknowledged = [each[0] for each in acknowledgements.acknowledged()]
    assert numbers == sorted(set(numbers))
    assert len(set(acknowledged) - set(numbers)) <= 2  # the two that were hit


def append_until_killed(store: Path, writer: AcknowledgementWriter) -> None:
    log = Checkpoint(store).log("a")
    number = 0
    while True:
        number += 1
        try:
            log.append("w", number)
        except CorruptLogError:
            time.sleep(0.01)  # whoever opens a new generation validates it: to be repaired first
        else:
            writer.acknowledge(number)


def flip_in_place(store: Path, offset: int) -> None:
    """Change one bit, and nothing that somebody appends meanwhile."""
    with log_file(store).open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 2]), offset)


def test_repair_of_a_log_that_is_locked_is_an_error_of_that_log_only(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    log.append("x", 1)
    flip(store, 250)
    Checkpoint(store).log("b").append("x", 1)
    tear(store, log_key="b")
    before = log_file(store).read_bytes()
    children.start(hold_append_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)

    locked, other = repair(store, lock_timeout_s=0.05)

    assert isinstance(locked.error, LockTimeoutError)
    assert not locked.is_done
    assert other.is_done
    assert log_file(store).read_bytes() == before
    children.kill_all()
    assert [each.is_done for each in repair(store)] == [True, False]


# --- what can go wrong -----------------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
def test_repair_without_room_for_a_copy_changes_nothing(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 1)
    flip(store, 250)
    list(repair(store, log_keys=[]))
    monkeypatch.setattr(system, "free_bytes", lambda fd: 1_000_000)
    before = {
        name: looks for name, looks in tree(store).items() if "lock" not in name and name != ".checkpoint"
    }

    (done,) = repair(store)

    assert isinstance(done.error, WriteFailedError)
    assert "1,000,000 are free" in str(done.error)
    assert {name: looks for name, looks in tree(store).items() if name in before} == before
    assert not inside(store, "quarantine").exists()


def test_repair_of_more_damages_than_files_makes_sense_keeps_them_in_one(
    store: Path, without_syncs: None
) -> None:
    log = Checkpoint(store).log("a")
    for number in range(400):
        log.append("x", number)
    become_a_new_process()
    lines = log_file(store).read_bytes().splitlines(keepends=True)
    for number in range(2, 400, 4):
        lines[number] = lines[number].replace(b'"x"', b'"?"')
    log_file(store).write_bytes(b"".join(lines))

    (done,) = repair(store)

    assert len(done.removed) == 100
    assert len(done.repairs) == 1
    assert len(records_in(store)) == 300


def damaged_and_repaired(store: Path, ledger: Ledger) -> None:
    """A log is hit in the middle, and repaired."""
    log = Checkpoint(store).log("a")
    ledger.append(log, "x", 0, durability="never")
    ledger.append(log, "x", 1)
    ledger.append(log, "y", 0)  # which calls the two before it durable
    restart()
    lines = log_file(store).read_bytes().splitlines(keepends=True)
    flip_in_place(store, len(lines[0]) + len(lines[1]) + 41)  # the event of the second record
    _repair_and_raise(store)
    ledger.append(Checkpoint(store).log("a"), "x", 4)


def _repair_and_raise(store: Path) -> None:
    for done in repair(store):
        if done.error is not None:
            raise done.error


def check_repaired(store: Path, ledger: Ledger) -> None:
    """Whatever is found, a repair makes it whole; all that was acknowledged and not hit is there, and nothing else."""
    written = [record for attempt in ledger.attempts for record in attempt.records]
    sure = [record for attempt in ledger.attempts if attempt.is_acknowledged for record in attempt.records]
    Checkpoint(store)
    _repair_and_raise(store)
    restart()
    assert {each.state for each in verify(store)} <= {"whole"}
    found = records_in(store) if log_file(store).exists() else []
    assert is_within(found, written)
    assert [record for record in sure if record not in found] in ([], [("x", 1)])
    ledger.append(Checkpoint(store).log("a"), "z", len(ledger.attempts))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(2)
def test_repair_that_dies_at_any_call_leaves_the_old_or_the_new_and_the_next_one_completes_it(
    intensity: int,
) -> None:
    tried = explore_crashes(damaged_and_repaired, check=check_repaired, images=intensity, nested=1)

    assert tried.points > 20


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(9)
def test_repair_with_a_call_that_fails_is_a_typed_error_and_loses_nothing() -> None:
    tried = explore_faults(damaged_and_repaired, check=check_repaired, errors=[errno.EIO], images=1)

    assert tried.points > 20


@pytest.mark.guarantee(9)
@pytest.mark.parametrize(
    "name", ["write_at", "sync_data", "sync_directory", "replace", "open_file", "remove"]
)
def test_repair_on_a_disk_that_fills_up_leaves_the_log_and_the_next_one_does_it(
    bench: Bench, faults: Faults, name: str
) -> None:
    data = bytearray(bench.good)
    data[bench.starts[2] + 41] ^= 1
    for at in range(1, 30):
        log_file(bench.store).write_bytes(bytes(data))
        become_a_new_process()
        fault = faults.fail(name, errno.ENOSPC, at=at)

        (done,) = repair(bench.store)

        fault.clear()
        is_old = log_file(bench.store).read_bytes() == bytes(data)
        assert done.error is not None or not fault.hits or done.is_done or done.action == "impossible"
        assert is_old or records_in(bench.store) == bench.but(2)
        assert not is_old or not done.is_done
        assert [each.error for each in repair(bench.store)] == [None]
        assert records_in(bench.store) == bench.but(2)
        assert not list(inside(bench.store).glob("*.jsonl.*.tmp"))
        if not fault.hits:
            return
    raise AssertionError("it calls that more often than is tried here")


@pytest.mark.parametrize("is_renamed", [False, True], ids=["before", "behind"])
def test_repair_interrupted_at_its_rename_keeps_every_byte_that_it_took_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_renamed: bool
) -> None:
    data = bytearray(bench.good)
    data[bench.starts[2] + 41] ^= 1
    hit = bytes(data[bench.starts[2] : bench.starts[3]])
    log_file(bench.store).write_bytes(bytes(data))
    become_a_new_process()
    replace = system.replace

    def interrupted(source: str, target: str) -> None:
        if is_renamed:
            replace(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(system, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(repair(bench.store))

    is_old = log_file(bench.store).read_bytes() == bytes(data)
    assert is_old is not is_renamed
    assert is_old or hit in [path.read_bytes() for path in (inside(bench.store) / "quarantine").iterdir()]
    assert [each.error for each in repair(bench.store)] == [None]
    assert records_in(bench.store) == bench.but(2)
    assert not list(inside(bench.store).glob("*.jsonl.*.tmp"))


def test_repair_whose_rename_is_done_and_reported_as_failed_keeps_every_byte_that_it_took_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(bench.good)
    data[bench.starts[2] + 41] ^= 1
    log_file(bench.store).write_bytes(bytes(data))
    become_a_new_process()
    replace = system.replace

    def failing(source: str, target: str) -> None:
        replace(source, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(system, "replace", failing)
        (done,) = repair(bench.store)

    assert done.error is not None
    hit = bytes(data[bench.starts[2] : bench.starts[3]])
    assert hit in [path.read_bytes() for path in (inside(bench.store) / "quarantine").iterdir()]
    assert [each.error for each in repair(bench.store)] == [None]
    assert records_in(bench.store) == bench.but(2)


# --- the command ------------------------------------------------------------------------------------------------


def test_repair_command_plans_then_repairs_then_has_nothing_to_do(bench: Bench, tmp_path: Path) -> None:
    store = bench.store
    shell = CommandLine(tmp_path)
    data = bytearray(bench.good)
    data[bench.starts[2] + 40] ^= 1
    data[bench.starts[6] + 40] ^= 1
    log_file(store).write_bytes(bytes(data))
    Checkpoint(store).log("b").append("x", 1)
    tear(store, log_key="b")
    before = tree(store)

    plan = shell.run("repair", "--store", "store")

    assert plan.code == 1
    assert tree(store) == before
    assert "a: corrupt; is to be salvaged: a new generation with 7 records" in plan.out
    assert f"lost: 58 bytes at offset {bench.starts[2]}; records between " in plan.out
    assert plan.out.count("if a forget was lost there, its objects are back: forget them again") == 1
    assert "left out: 1 record of 'batch' at offset" in plan.out
    assert f"b: torn; the torn end ({len(TORN)} bytes at offset" in plan.out
    assert plan.out.endswith("to repair 2 logs: mpcheckpoint repair --store store --yes\n")

    done = shell.good("repair", "--store", "store", "--yes", "--json")
    first, second = done.rows
    assert (first["action"], first["is_done"], first["records_kept"]) == ("salvage", True, 7)
    assert [kept["offset"] for kept in first["repairs"]] == [bench.starts[2], bench.starts[5]]
    assert (second["action"], second["is_done"]) == ("cut", True)
    assert shell.good("repair", "--store", "store").out == "nothing to repair\n"
    whole = shell.good("verify", "--store", "store")
    assert "salvaged from generation" in whole.out
    assert "records may be missing in 2 places, and forgets: their objects are back" in whole.out
    assert records_in(store) == bench.but(2, 6)


def test_repair_command_says_in_words_what_it_cannot_do(store: Path, log: Log, tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)
    assert "there is no store" in shell.refused("repair", "--store", "nowhere", "--yes")
    log_file(store).write_bytes(log_file(store).read_bytes().replace(b'"version":1', b'"version":9'))
    ended = shell.run("repair", "--store", "store", "--yes")
    assert ended.code == 2
    assert "cannot be repaired: " in ended.out
    assert "0 logs repaired, 1 could not be" in ended.out


def test_repair_command_interrupted_while_it_waits_changes_nothing(
    store: Path, log: Log, tmp_path: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    log.append("x", 1)
    flip(store, 250)
    before = log_file(store).read_bytes()
    children.start(hold_append_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    locks = inside(store, "store.lock")
    locks.unlink(missing_ok=True)
    with CommandLine(tmp_path).beside("repair", "--store", "store", "--yes") as command:
        await_store_lock(locks)
        ended = command.interrupt()

    assert (ended.code, ended.err.strip()) == (130, "mpcheckpoint: interrupted")
    assert log_file(store).read_bytes() == before


def await_store_lock(path: Path) -> None:
    wait_until(lambda: is_locked(path), "the repair has the store's lock and waits for the log's")
