"""Tails give what came since the last call: everything, once, in order, at once, and without waiting."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Cursor, Log, Position, Tail
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.read import LogReader
from mpcheckpoint.errors import (
    ClosedError,
    CorruptLogError,
    InvalidPositionError,
    LogNotFoundError,
    OutcomeUnknownError,
    PoisonedLogError,
    ReentrancyError,
)
from mpcheckpoint.maintenance import restore
from support.processes import METHODS, call, in_a_child
from support.verbs import Faults, flip, inside, log_file, tear, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mpcheckpoint import Record
    from mpcheckpoint._logfile.chunk import Chunk
    from support.processes import Children

pytestmark = [pytest.mark.guarantee(4)]


def events(records: Iterable[Record]) -> list[Any]:
    return [record.event for record in records]


# --- what comes ----------------------------------------------------------------------------------------------


def test_tail_gives_what_is_new_once_and_nothing_when_nothing_is(store: Path, log: Log) -> None:
    of_log, of_all = log.tail(), Checkpoint(store).tail()
    for tail in (of_log, of_all):
        assert events(tail.new()) == [0]
        assert tail.new() == []

    log.append("x", 1)
    Checkpoint(store).log("a").append_many([("x", 2), ("y", 3)])

    for tail in (of_log, of_all):
        assert events(tail.new()) == [1, 2, 3]
        assert tail.new() == []


def test_records_of_a_tail_are_those_of_read(store: Path, log: Log) -> None:
    log.append("y", {"a": [1, None]}, record_id="id")
    log.append_many([("x", 1), ("x", 2)])

    assert log.tail().new() == Checkpoint(store).tail().new() == list(log.read())


@pytest.mark.parametrize("after", ["start", "end", "position", "cursor", "inside a batch"])
def test_tail_begins_where_it_is_told(store: Path, log: Log, after: str) -> None:
    log.append_many([("x", 1), ("x", 2), ("x", 3)])
    places = [record.position for record in log.read()]
    place = {"position": places[-1], "cursor": Cursor((places[-1],)), "inside a batch": places[1]}.get(after)
    tail = log.tail(after if place is None else place)
    log.append("x", 4)

    expected = {"start": [0, 1, 2, 3, 4], "inside a batch": [2, 3, 4]}.get(after, [4])
    assert events(tail.new()) == expected
    assert tail.new() == []


def test_tail_of_all_logs_finds_logs_that_are_added(store: Path, log: Log) -> None:
    tail = Checkpoint(store).tail("end")
    assert tail.new() == []
    Checkpoint(store).log("b").append("y", "in b")
    log.append("x", "in a")

    assert events(tail.new()) == ["in b", "in a"]
    Checkpoint(store).log("c").append("y", "in c")
    assert events(tail.new()) == ["in c"]


@pytest.mark.guarantee(3)
def test_tail_of_all_logs_is_in_the_merged_order(store: Path, log: Log) -> None:
    checkpoint = Checkpoint(store)
    tail = checkpoint.tail()
    others = [checkpoint.log(key) for key in "cab"]
    for number in range(1, 20):
        others[number * 7 % 3].append_many([("x", [number, 0]), ("y", [number, 1])])

    assert tail.new() == list(checkpoint.read())


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("is_damaged", [False, True])
def test_tail_shows_no_effect_without_its_cause(
    store: Path, log: Log, is_damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An effect comes to a log that is read later, its cause to one that was read before, in the same call."""
    first, second = Checkpoint(store).log("a"), Checkpoint(store).log("b")
    tail = Checkpoint(store).tail("end")
    assert tail.new() == []
    poll, polled = type(log.tail()._followed.logs["a"].reader).poll, 0

    def poll_while_others_write(reader: Any) -> Any:
        nonlocal polled
        found = poll(reader)
        polled += 1
        if polled == 1:
            found = list(found)
            first.append("x", "cause")
            place = second.append("x", "effect").offset
            if is_damaged:
                second.append("x", "damaged")
                flip(store, place + 20, "b")
        return found

    monkeypatch.setattr("mpcheckpoint._logfile.read.LogReader.poll", poll_while_others_write)
    assert events(tail.new()) == ["cause", "effect"]


@pytest.mark.guarantee(3)
def test_tail_shows_no_effect_without_a_cause_in_a_log_that_was_not_there(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one log of the store is read when another one was made, after the look for new logs."""
    writer = Checkpoint(store)
    effects = writer.log("a")
    tail = Checkpoint(store).tail("end")
    assert tail.new() == []
    poll, polled = LogReader.poll, 0

    def poll_once_others_wrote(reader: LogReader) -> Iterable[Chunk]:
        nonlocal polled
        polled += 1
        if polled == 1:
            writer.log("b").append("x", "cause")
            effects.append("x", "effect")
        return poll(reader)

    monkeypatch.setattr(LogReader, "poll", poll_once_others_wrote)
    assert events(tail.new()) == ["cause", "effect"]


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("read_only", [False, True])
def test_durable_tail_gives_what_is_durable(store: Path, read_only: bool) -> None:
    writer = Checkpoint(store, durability="never").log("a")
    tail = Checkpoint(store, read_only=read_only).log("a").tail(durable=True)
    writer.append("x", 0)

    assert events(tail.new()) == ([] if read_only else [0])
    writer.flush()
    writer.append("x", 1)  # it states that the one before is durable
    assert events(tail.new()) == ([0] if read_only else [1])
    assert tail.new() == []


@pytest.mark.guarantee(1)
def test_durable_tail_gives_what_a_new_generation_made_durable(store: Path) -> None:
    writer = Checkpoint(store, durability="never").log("a")
    tail = Checkpoint(store, read_only=True).log("a").tail(durable=True)
    writer.append_many([("x", 0), ("y", 1)])
    assert tail.new() == []
    writer.compact(drop="x")

    assert events(tail.new()) == [1]
    assert tail.new() == []


@pytest.mark.guarantee(9)
def test_tail_that_cannot_sync_gives_the_records_later(store: Path, faults: Faults) -> None:
    writer = Checkpoint(store, durability="never").log("a")
    tail = writer.tail(durable=True)
    writer.append("x", 0)
    assert events(tail.new()) == [0]
    writer.append("x", 1)
    faults.fail("sync_data", errno.EIO, on=r"a\.jsonl$")

    with pytest.raises(OutcomeUnknownError):
        tail.new()
    with pytest.raises(PoisonedLogError):
        tail.new()
    writer.recover()
    assert events(tail.new()) == [1]


# --- where it stands -----------------------------------------------------------------------------------------


def test_cursor_goes_on_in_another_tail(store: Path, log: Log) -> None:
    tail = log.tail()
    assert tail.cursor == Cursor()
    tail.new()
    log.append("x", 1)
    assert str(tail.cursor) == str(next(log.read()).position)

    for text in (str(tail.cursor), str(Cursor.parse(str(tail.cursor)))):
        assert events(log.tail(Cursor.parse(text)).new()) == [1]
        assert events(log.tail(Position.parse(text)).new()) == [1]
        assert events(Checkpoint(store).tail(Cursor.parse(text)).new()) == [1]
        assert events(log.follow(Cursor.parse(text), idle_timeout_s=0)) == [1]


def test_cursor_of_a_tail_at_the_end_knows_the_logs_that_were_there(store: Path, log: Log) -> None:
    cursor = Checkpoint(store).tail("end").cursor
    log.append("x", 1)
    Checkpoint(store).log("b").append("x", 2)

    assert events(Checkpoint(store).tail(cursor).new()) == [1, 2]


@pytest.mark.parametrize("after", ["middle", 0, None, 1.5])
def test_tail_from_what_is_no_place_is_refused(store: Path, log: Log, after: Any) -> None:
    for tail in (log.tail, Checkpoint(store).tail):
        with pytest.raises(ValueError, match="after is a position, a cursor"):
            tail(after)


def test_tail_from_a_place_in_another_log_is_refused(store: Path, log: Log) -> None:
    place = Checkpoint(store).log("b").append("x", 1)
    with pytest.raises(InvalidPositionError, match="not among those followed"):
        log.tail(place)
    with pytest.raises(InvalidPositionError):
        log.tail(Position.parse("a@" + 32 * "0" + ":100:1:0"))


# --- compaction ----------------------------------------------------------------------------------------------


@pytest.mark.guarantee(12)
@pytest.mark.parametrize("given", [0, 5, 9])
@pytest.mark.parametrize("of", ["log", "store"])
def test_tail_goes_on_over_a_compaction(store: Path, given: int, of: str) -> None:
    log = Checkpoint(store).log("a")
    tail = log.tail() if of == "log" else Checkpoint(store).tail()
    for number in range(given):
        log.append("x", number)
    assert events(tail.new()) == list(range(given))
    for number in range(given, 10):
        log.append("x", number)

    in_a_child(_compact, store)
    log.append("x", 10)

    assert events(tail.new()) == [*range(max(given, 6), 10), 10]
    assert tail.new() == []


def _compact(store: Path) -> None:
    assert Checkpoint(store).log("a").compact(keep_last=4).is_changed


# --- damage --------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_tail_passes_over_a_torn_end(store: Path, log: Log) -> None:
    tail = log.tail()
    tear(store)

    assert events(tail.new()) == [0]
    assert tail.new() == []
    log.append("x", 1)
    assert events(tail.new()) == [1]


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("of", ["log", "store"])
def test_tail_gives_what_is_before_damage_and_of_other_logs_and_then_raises(store: Path, of: str) -> None:
    checkpoint = Checkpoint(store)
    log, other = checkpoint.log("a"), checkpoint.log("b")
    for number in range(4):
        log.append("x", number)
        other.append("x", 10 + number)
    tail = log.tail() if of == "log" else checkpoint.tail()
    place = list(log.read())[1].position.offset + 20
    flip(store, place)

    assert events(tail.new()) == ([0, 1] if of == "log" else [0, 10, 1, 11, 12, 13])
    for _ in range(2):
        with pytest.raises(CorruptLogError):
            tail.new()
    if of == "store":
        other.append("x", 14)
        assert events(tail.new()) == [14]
        with pytest.raises(CorruptLogError):
            tail.new()
    flip(store, place)
    assert events(tail.new()) == [2, 3]


def test_tail_of_a_log_that_was_removed_says_so(store: Path, log: Log) -> None:
    Checkpoint(store).log("b")
    of_log, of_all = log.tail(), Checkpoint(store).tail()
    assert events(of_log.new()) == events(of_all.new()) == [0]
    log_file(store).unlink()

    Checkpoint(store).log("b").append("x", 1)
    assert events(of_all.new()) == [1]
    for tail in (of_log, of_all):
        with pytest.raises(LogNotFoundError):
            tail.new()


@pytest.mark.guarantee(11)
def test_tail_from_before_a_restore_is_refused_where_its_records_went(
    store: Path, log: Log, tmp_path: Path
) -> None:
    Checkpoint(store).backup(tmp_path / "backup")
    log.append("x", 1)
    tail = log.tail()
    assert events(tail.new()) == [0, 1]
    restore(tmp_path / "backup", store)

    for _ in range(2):
        with pytest.raises(InvalidPositionError):
            tail.new()


# --- life ----------------------------------------------------------------------------------------------------


def test_tail_that_is_closed_or_whose_handle_is_raises(store: Path) -> None:
    checkpoint = Checkpoint(store)
    log = checkpoint.log("a")
    with log.tail() as closed, checkpoint.tail() as of_all:
        assert closed.new() == of_all.new() == []
    closed.close()
    of_handle = [log.tail(), checkpoint.tail()]
    for tail in of_handle:
        tail.new()
    checkpoint.close()

    for tail in (closed, of_all, *of_handle):
        with pytest.raises(ClosedError):
            tail.new()
    assert "'a'" in repr(closed)


def test_tail_shared_by_threads_gives_each_record_to_one_of_them(store: Path, log: Log) -> None:
    tail, found = log.tail("end"), list[Any]()
    is_over = threading.Event()

    def take() -> None:
        while not is_over.is_set():
            found.extend(events(tail.new()))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(200):
            log.append("x", number, durability="never")
        wait_until(lambda: len(found) >= 200, "all are found")
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert sorted(found) == list(range(200))


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("of", ["log", "store"])
def test_tail_at_a_fork_goes_on_on_both_sides(store: Path, log: Log, of: str) -> None:
    tail = log.tail() if of == "log" else Checkpoint(store).tail()
    assert events(tail.new()) == [0]
    log.append("x", 1)

    assert call(_append_and_take, tail, log, method="fork") == [1, "child"]
    assert events(tail.new()) == [1, "child"]


def _append_and_take(tail: Tail, log: Log) -> list[Any]:
    log.append("x", "child")
    return events(tail.new())


@pytest.mark.guarantee(7)
def test_tail_at_a_fork_without_hooks_goes_on_on_both_sides(log: Log) -> None:
    assert in_a_child(_fork_without_hooks, log) == 0


def _fork_without_hooks(log: Log) -> int:
    tail = log.tail()
    assert events(tail.new()) == [0]
    log.append("x", "parent")
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        os._exit(0 if events(tail.new()) == ["parent"] and tail.new() == [] else 1)
    _, status = os.waitpid(child, 0)
    assert events(tail.new()) == ["parent"]
    return os.waitstatus_to_exitcode(status)


@pytest.mark.guarantee(7)
def test_tail_at_a_fork_in_the_midst_of_a_call_loses_nothing_in_the_child(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 1)
    tail = log.tail()
    in_child: list[list[Any]] = []
    original = Tail._passes

    def forked_inside(self: Tail, polled: Any) -> Any:
        found = original(self, polled)
        forking = threading.Thread(
            target=lambda: in_child.append(call(_events_of, tail, original, method="fork"))
        )
        forking.start()  # another thread than the one that is inside
        forking.join()
        return found

    with monkeypatch.context() as patches:
        patches.setattr(Tail, "_passes", forked_inside)
        assert events(tail.new()) == [0, 1]

    assert in_child == [[0, 1]]


def _events_of(tail: Tail, passes: Callable[..., Any]) -> list[Any]:
    Tail._passes = passes  # type: ignore[method-assign]
    return events(tail.new())


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("of", ["log", "store"])
def test_pickled_tail_goes_on_from_its_place_in_another_process(
    store: Path, log: Log, children: Children, of: str, method: str
) -> None:
    tail = log.tail() if of == "log" else Checkpoint(store).tail()
    assert events(tail.new()) == [0]
    log.append("x", 1)

    children.start(_take_and_append, tail, log, method=method)
    children.wait_all()

    assert events(tail.new()) == [1, "child", [1, "child"]]


def _take_and_append(tail: Tail, log: Log) -> None:
    log.append("x", "child")
    log.append("x", events(tail.new()))


def test_pickled_tail_keeps_what_it_was_asked(store: Path) -> None:
    writer = Checkpoint(store, durability="never").log("a")
    tail = Checkpoint(store, read_only=True).log("a").tail(durable=True)
    writer.append("x", 0)

    assert pickle.loads(pickle.dumps(tail)).new() == []


def test_tail_entered_again_by_a_signal_handler_refuses(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    tail, refused = log.tail(), list[BaseException]()
    observe = clock.observe

    def handler(stamp_us: int) -> None:
        try:
            tail.new()
        except ReentrancyError as error:
            refused.append(error)
        observe(stamp_us)

    with monkeypatch.context() as patches:
        patches.setattr(clock, "observe", handler)
        assert events(tail.new()) == [0]
    assert refused


@pytest.mark.parametrize("of", ["log", "store"])
def test_tail_interrupted_anywhere_gives_every_record_once(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    log.append_many([("x", 1), ("x", 2)])
    Checkpoint(store).log("b").append("x", 3)
    for number in itertools.count(1):
        tail = log.tail() if of == "log" else Checkpoint(store).tail()
        real, calls = clock.observe, itertools.count(1)

        def observe(stamp_us: int, real: Any = real, calls: Any = calls, number: int = number) -> None:
            if next(calls) == number:
                raise KeyboardInterrupt
            real(stamp_us)

        is_interrupted = False
        with monkeypatch.context() as patches:
            patches.setattr(clock, "observe", observe)
            try:
                found = tail.new()
            except KeyboardInterrupt:
                is_interrupted = True
                found = tail.new()
        assert events(found) == ([0, 1, 2] if of == "log" else [0, 1, 2, 3])
        if not is_interrupted:
            break
    assert number > 1


# --- other processes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_tail_sees_what_another_process_was_told_is_appended(
    store: Path, log: Log, children: Children, method: str
) -> None:
    """G4, at each of 50 appends: what was acknowledged before the call is in what it returns."""
    tail, of_all = log.tail("end"), Checkpoint(store).tail("end")
    children.start(_append_and_acknowledge, store, 50, method=method)
    seen, seen_of_all = list[int](), list[int]()

    def take() -> bool:
        acknowledged = _acknowledged(store)
        seen.extend(events(tail.new()))
        seen_of_all.extend(events(of_all.new()))
        assert len(seen) >= acknowledged
        assert len(seen_of_all) >= acknowledged
        return acknowledged == 50

    wait_until(take, "the child has appended all", timeout_s=60)
    children.wait_all()

    assert seen == seen_of_all == list(range(50))


def _append_and_acknowledge(store: Path, number: int) -> None:
    log = Checkpoint(store).log("a")
    with inside(store, "acknowledged").open("ab", buffering=0) as acknowledged:
        for each in range(number):
            log.append("x", each, durability="never")
            acknowledged.write(b".")


def _acknowledged(store: Path) -> int:
    try:
        return inside(store, "acknowledged").stat().st_size
    except FileNotFoundError:
        return 0
