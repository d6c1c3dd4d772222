"""Followers, readers, positions and cursors go on over a compaction: nothing comes twice, nothing is passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint.log import handle_of
from mpcheckpoint.testing import SimulatedProcess
from support.processes import in_a_child
from support.verbs import become_a_new_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mpcheckpoint._store.protocol import Reader

pytestmark = pytest.mark.guarantee(12)

HOUR_US = 3_600_000_000


def reader_of(store: Path) -> Reader:
    """Return a reader, of a read-only handle, that goes on over generations."""
    handle = Checkpoint(store, read_only=True)
    return handle_of(handle.log("a")).store.opened("a").reader(resumes=True)


def news(reader: Reader) -> list[bytes]:
    return [line.event for chunk in reader.poll() for line in chunk.lines]


def compact_elsewhere(store: Path, **rules: Any) -> None:
    """Compact as another process does."""
    in_a_child(_compact, store, rules)


def _compact(store: Path, rules: dict[str, Any]) -> None:
    become_a_new_process()
    assert Checkpoint(store).log("a").compact(**rules).is_changed


def taken(follower: Iterator[Any], number: int) -> list[Any]:
    return [next(follower).event for _ in range(number)]


# --- one follower over one compaction --------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("given", [0, 3, 9])
def test_follower_gets_what_is_left_after_its_place_once(
    store: Path, given: int, read_only: bool, durable: bool
) -> None:
    log = Checkpoint(store).log("a")
    for number in range(10):
        log.append("x", number)
    follower = Checkpoint(store, read_only=read_only).log("a").follow(idle_timeout_s=0, durable=durable)
    looks = iter(follower)
    assert taken(looks, given) == list(range(given))

    compact_elsewhere(store, keep_last=5)
    log.append("x", 10)
    log.append("x", 11)

    # What it had read when it stopped it gives; what was dropped otherwise is gone. Of the last record nobody has
    # stated yet that it is durable.
    last = 10 if durable and read_only else 11
    assert [record.event for record in looks] == list(range(given or 5, last + 1))


def test_follower_in_the_middle_of_a_batch_gets_the_rest_of_it_once(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("x", 0), ("y", 1), ("x", 2), ("y", 3), ("x", 4)])
    second = list(log.read())[1].position

    assert log.compact(drop="y").records_after == 3

    assert [record.event for record in log.read(after=second)] == [2, 4]
    assert [record.event for record in log.follow(second, idle_timeout_s=0)] == [2, 4]
    places = [record.position for record in log.read()]
    assert [record.event for record in log.read(after=places[1])] == [4]
    assert [place.more for place in places] == [4, 2, 0]


def test_position_of_every_record_dropped_or_not_leads_to_what_followed_it(store: Path) -> None:
    log = Checkpoint(store).log("a")
    for number in range(4):
        log.append("x", number)
        log.append_many([("x", 10 + number), ("y", 20 + number), ("y", 30 + number)])
    before = [(record.event, record.position) for record in log.read()]

    log.compact(keep_last=1)
    log.append("z", 40)

    kept = {record.event for record in log.read()}
    order = [event for event, _ in before] + [40]
    assert kept == {13, 33, 40}
    for generation in range(2):
        for event, position in before:
            followed = [each for each in order[order.index(event) + 1 :] if each in kept]
            assert [record.event for record in log.read(after=position)] == followed, (generation, event)
        log.append("z", 41 + generation)
        log.compact(drop=lambda record: record.event == 33)
        kept, order = (kept | {41 + generation}) - {33}, [*order, 41 + generation]


def test_cursor_and_merged_follower_go_on(store: Path) -> None:
    checkpoint = Checkpoint(store)
    first, second = checkpoint.log("a"), checkpoint.log("b")
    for number in range(4):
        first.append("x", number)
        second.append("x", 10 + number)
    follower = checkpoint.follow(idle_timeout_s=0)
    looks = iter(follower)
    got = [next(looks).event for _ in range(8)]
    cursor = follower.cursor

    first.compact(keep_last=1)
    second.compact(keep_last=2)
    first.append("x", 4)

    assert sorted(got) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert [record.event for record in checkpoint.follow(cursor, idle_timeout_s=0)] == [4]
    assert [record.event for record in looks] == [4]


def test_reader_asleep_through_three_compactions_catches_up(store: Path) -> None:
    log = Checkpoint(store).log("a")
    for number in range(6):
        log.append("x", number)
    reader = reader_of(store)
    handle = Checkpoint(store, read_only=True)
    assert handle["x"] == tuple(range(6))
    assert len(news(reader)) == 6
    snapshot = handle.snapshot()

    for turn in range(3):
        log.append("x", 6 + turn)
        log.append("y", turn)
        compact_elsewhere(store, keep_last=4 - turn)
    log.append("x", 9)

    assert handle["x"] == log.events("x") == (7, 8, 9)
    assert handle.log("a").count("x") == log.count("x") == 10
    assert snapshot["x"] == tuple(range(6))
    assert news(reader) == [b"7", b"1", b"8", b"2", b"9"]


def test_follower_that_met_a_fold_gets_the_snapshot_and_nothing_else_twice(store: Path) -> None:
    log = Checkpoint(store).log("a")
    for number in range(1, 6):
        log.append("x", number)
    third = list(log.read())[2].position

    log.compact(fold=lambda earlier, later: earlier + later, keep_last=1)
    log.append("x", 6)

    assert [record.event for record in log.read(after=third)] == [10, 5, 6]
    fourth = next(iter(log.read())).position
    assert [record.event for record in log.read(after=fourth)] == [5, 6]


# --- the clock -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["compact", "recover"])
def test_reader_that_saw_the_seal_passes_over_nothing_where_a_clock_stands_behind(
    store: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    writer, other, follower = SimulatedProcess(), SimulatedProcess(), SimulatedProcess()
    with monkeypatch.context() as patches, writer:
        ahead_us = system.now_us() + HOUR_US
        patches.setattr(system, "now_us", lambda: ahead_us)
        log = Checkpoint(store).log("a")
        for number in range(4):
            log.append("x", number)
    with follower:
        reader = reader_of(store)
        assert len(news(reader)) == 4

    real = system.replace

    def seen_just_before(source: str, target: str) -> None:
        with follower:
            assert news(reader) == []  # but the seal
        real(source, target)

    with writer:
        monkeypatch.setattr(system, "replace", seen_just_before)
        log.recover() if way == "recover" else log.compact(keep_last=2)
    with other:
        Checkpoint(store).log("a").append("x", "new")

    with follower:
        assert news(reader) == [b'"new"']
    for each in (writer, other, follower):
        each.kill()
