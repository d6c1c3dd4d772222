"""All generations of a log share a lineage: positions stay valid where the header no longer names their generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Cursor, Log, Position
from mpcheckpoint._format import control
from mpcheckpoint._format.control import Header, encode_header, parse_header
from mpcheckpoint.errors import InvalidPositionError
from mpcheckpoint.maintenance import repair, restore
from support.verbs import become_a_new_process, flip, inside, log_file

if TYPE_CHECKING:
    from pathlib import Path

GENERATION = "5f0c2d9e8b7a41d3a6c1e4f70b92d815"


def header_of(store: Path) -> Header:
    header = parse_header(log_file(store).read_bytes())
    assert isinstance(header, Header)
    return header


def events_after(store: Path, position: Position) -> list[object]:
    with Checkpoint(store) as checkpoint:
        read = [record.event for record in checkpoint.log("a").read(after=position)]
        followed = [
            record.event for record in checkpoint.follow(Cursor.of({"a": position}), idle_timeout_s=0)
        ]
    assert read == followed
    return read


def make_log_without_lineage(store: Path) -> Log:
    """Make the log as releases did that knew of no lineage."""
    Checkpoint(store).log("a")
    header, _ = encode_header("a", GENERATION, 1_790_000_000_000_000, stamp_us=1_790_000_000_000_000)
    for path in inside(store).glob("a.*"):
        path.unlink()
    log_file(store).write_bytes(header)
    become_a_new_process()
    return Checkpoint(store).log("a")


def test_generations_of_a_log_share_a_lineage_and_logs_do_not(store: Path, log: Log) -> None:
    first = log.append("x", 1)
    log.recover()
    second = log.append("x", 2)
    other = Checkpoint(store).log("b").append("x", 1)

    assert first.lineage == second.lineage == header_of(store).lineage
    assert first.generation != second.generation
    assert len({first.lineage, first.generation, second.generation, other.lineage, other.generation}) == 5


def test_every_position_of_a_log_has_its_lineage(log: Log, store: Path) -> None:
    lineage = header_of(store).lineage
    appended = [log.append("x", 1, record_id="id"), log.append("x", 1, record_id="id")]
    many = log.append_many([("x", 2), ("y", 3)])
    records = [record.position for record in log.read()]
    with Checkpoint(store) as checkpoint:
        reading = checkpoint.read()
        merged = [record.position for record in reading]
        last = [record.position for record in checkpoint.read(last=1)]
        objects = [found.last.position for found in checkpoint.objects()]
        cursor = list(reading.cursor)

    positions = [*appended, many, *records, *merged, *last, *objects, *cursor]
    assert {position.lineage for position in positions if position is not None} == {lineage}


def test_position_of_a_generation_that_the_header_forgot_reads_on(
    log: Log, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_PREVIOUS", 2)
    first = log.append("x", 1)
    log.append("x", 2)
    for _ in range(4):
        log.recover()
    become_a_new_process()
    without = Position(first.log_key, first.generation, first.offset, first.stamp_us, first.more)

    assert first.generation not in header_of(store).previous
    assert events_after(store, first) == [2]
    assert events_after(store, Position.parse(str(first))) == [2]
    with pytest.raises(InvalidPositionError, match="is no position of the log"):
        events_after(store, without)


def test_log_without_a_lineage_takes_positions_of_its_earlier_generations(store: Path) -> None:
    log = make_log_without_lineage(store)
    first = log.append("x", 1)
    log.append("x", 2)
    assert (first.lineage, first.generation) == ("", GENERATION)
    assert str(first).count(":") == 3

    log.recover()
    third = log.append("x", 3)

    assert len(third.lineage) == 32
    assert events_after(store, first) == [2, 3]
    log.recover()
    assert log.append("x", 4).lineage == third.lineage
    assert events_after(store, Position.parse(str(first))) == [2, 3, 4]
    assert events_after(store, third) == [4]


def test_position_without_a_lineage_belongs_to_no_log_without_one(store: Path) -> None:
    position = make_log_without_lineage(store).append("x", 1)
    other = Position("a", "0" * 32, position.offset, position.stamp_us)

    with pytest.raises(InvalidPositionError, match="is no position of the log"):
        events_after(store, other)


def test_position_of_another_lineage_is_refused(store: Path, log: Log) -> None:
    position = log.append("x", 1)
    other = Position("a", "1" * 32, position.offset, position.stamp_us, 0, "2" * 32)

    with pytest.raises(InvalidPositionError, match="is no position of the log"):
        events_after(store, other)


@pytest.mark.parametrize("piece", [b'"header"', b'"previous"'])
def test_salvage_of_a_lost_header_keeps_the_lineage(store: Path, piece: bytes) -> None:
    log = Checkpoint(store).log("a")
    first = log.append("x", 1)
    log.append("x", 2)
    path = log_file(store)
    path.write_bytes(path.read_bytes().replace(piece, b"?" * len(piece), 1))
    become_a_new_process()

    assert [each.is_done for each in repair(store)] == [True]

    header = header_of(store)
    assert header.lineage == first.lineage
    assert header.previous == (first.generation,)
    assert events_after(store, first) == [2]


def test_position_with_and_without_its_lineage_are_equal() -> None:
    """Text that was kept by an earlier release names the same place."""
    whole = Position("a", GENERATION, 300, 5, 1, "1" * 32)
    text = str(whole)
    older = Position.parse(text.rpartition(":")[0])

    assert older == whole
    assert hash(older) == hash(whole)
    assert (older.lineage, Position.parse(text).lineage) == ("", "1" * 32)
    assert not older < whole <= older
    with pytest.raises(InvalidPositionError):
        Position.parse(text[:-1])


@pytest.mark.guarantee(3)
def test_salvage_of_a_lost_header_remembers_the_restore(store: Path, log: Log, tmp_path: Path) -> None:
    place = tmp_path / "backup"
    Checkpoint(store).backup(place)
    gone = log.append("x", "gone")
    restore(place, store)
    log.append("x", "new")
    flip(store, 30)
    become_a_new_process()
    list(repair(store))

    again = Checkpoint(store).log("a")
    assert again.events("x") == (0, "new")
    with pytest.raises(InvalidPositionError, match="after what a backup had"):
        list(again.read(after=gone))


def test_log_without_a_lineage_gets_one_that_stays_with_each_restore(store: Path, tmp_path: Path) -> None:
    place = tmp_path / "backup"
    make_log_without_lineage(store)
    Checkpoint(store).backup(place)
    lineages = set()
    for _ in range(2):
        Checkpoint(store).log("a").append("x", "later")
        restore(place, store)
        lineages.add(Checkpoint(store).log("a").append("x", "new").lineage)
    assert len(lineages) == 1
