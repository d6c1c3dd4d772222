"""One order for everybody, in step with cause and effect; every place in it has a name that keeps."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Cursor, Log, Position
from mpcheckpoint import _system as system
from mpcheckpoint._logfile.clock import YEAR_2200_US, clock
from mpcheckpoint.errors import ClockError, ClosedError, InvalidPositionError
from support.processes import METHODS, call
from support.verbs import Faults, become_a_new_process, bounded, log_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from support.processes import Children

HOUR_US = 3_600_000_000


@pytest.fixture
def log(store: Path) -> Log:
    return Checkpoint(store).log("a")


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the wall clock, in microseconds since 1970. What this process has seen of time is forgotten afterwards."""
    monkeypatch.setattr(clock, "highest_us", clock.highest_us)
    return lambda now_us: monkeypatch.setattr(system, "now_us", lambda: now_us)


# --- one order ---------------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
def test_object_written_through_many_logs_by_many_processes_has_one_order(
    store: Path, children: Children
) -> None:
    long_lived = Checkpoint(store)
    for number in range(4):
        children.start(append_through_all_logs, store, number, method="fork")
    while any(child.is_running for child in children.all):
        assert_each_in_order(long_lived.getCheckpoints("x"))
    children.wait_all()

    events = long_lived.getCheckpoints("x")
    assert len(events) == 4 * 60
    assert_each_in_order(events)
    become_a_new_process()
    assert Checkpoint(store).getCheckpoints("x") == events
    assert call(Checkpoint(store, read_only=True).getCheckpoints, "x") == events
    assert_order_is_by_stamp_log_and_place(store, events)


def append_through_all_logs(store: Path, writer: int) -> None:
    checkpoint = Checkpoint(store)
    for number in range(60):
        log = checkpoint.log(f"log {(writer + number) % 5}")
        log.append("x", [writer, number])


def assert_each_in_order(events: list[list[int]]) -> None:
    """Each writer's events come in the order in which it wrote them, for each saw its own."""
    for writer in range(4):
        numbers = [number for name, number in events if name == writer]
        assert numbers == sorted(numbers)


def assert_order_is_by_stamp_log_and_place(store: Path, events: list[object]) -> None:
    checkpoint = Checkpoint(store, read_only=True)
    records = [record for log_key in checkpoint.logs() for record in checkpoint.log(log_key).read()]
    records.sort(key=lambda record: (record.stamp_us, record.log_key, record.position.offset))
    assert [record.event for record in records] == events


@pytest.mark.guarantee(3)
@pytest.mark.guarantee(4)
def test_token_passed_round_finds_every_earlier_event_in_front(store: Path, children: Children) -> None:
    import multiprocessing

    pipes = [multiprocessing.Pipe() for _ in range(4)]
    for number in range(4):
        receive, send = pipes[number][0], pipes[(number + 1) % 4][1]
        children.start(hold_token, store, number, receive, send, method="spawn" if number else "fork")
    pipes[0][1].send(0)
    children.wait_all()

    assert Checkpoint(store).getCheckpoints("x") == list(range(80))


def hold_token(store: Path, number: int, receive: Connection, send: Connection) -> None:
    """See what all holders before wrote, new logs included, in order; then write, and pass the token on."""
    checkpoint = Checkpoint(store)
    # Four clocks that disagree by hours: order must come from what was seen.
    system.now_us = lambda: time.time_ns() // 1000 - number * HOUR_US
    for _ in range(20):
        assert receive.poll(60)
        token = receive.recv()
        assert checkpoint.getCheckpoints("x") == list(range(token)), number
        checkpoint.log(f"log {token // 7} of {token % 3}").append("x", token)
        send.send(token + 1)


@pytest.mark.guarantee(3)
@pytest.mark.rule(20)
def test_clock_that_goes_back_an_hour_does_not_change_the_order(
    store: Path, set_clock: Callable[[int], None]
) -> None:
    now_us = time.time_ns() // 1000
    set_clock(now_us)
    checkpoint = Checkpoint(store)
    checkpoint.log("b").append("x", 0)
    set_clock(now_us - HOUR_US)
    checkpoint.log("a").append("x", 1)
    become_a_new_process()
    clock.highest_us = 0
    fresh = Checkpoint(store)
    assert fresh.getCheckpoints("x") == [0, 1]
    fresh.log("c").append("x", 2)
    fresh.log("b").append("x", 3)

    assert checkpoint.getCheckpoints("x") == [0, 1, 2, 3]
    stamps = [record.stamp_us for record in fresh.log("b").read()]
    assert stamps == sorted(set(stamps))


@pytest.mark.guarantee(3)
def test_stamps_of_one_log_rise_though_the_clock_stands(log: Log, set_clock: Callable[[int], None]) -> None:
    set_clock(1_700_000_000_000_000)
    for number in range(20):
        log.append("x", number)
        become_a_new_process()
        clock.highest_us = 0

    assert all(before.stamp_us < after.stamp_us for before, after in pairwise(log.read()))


@pytest.mark.parametrize("now_us", [YEAR_2200_US, YEAR_2200_US * 2, -1])
def test_append_under_a_wall_clock_out_of_range_is_refused(
    store: Path, log: Log, set_clock: Callable[[int], None], now_us: int
) -> None:
    log.append("x", 0)
    before = log_file(store).read_bytes()
    set_clock(now_us)

    with pytest.raises(ClockError, match="set it right"):
        log.append("x", 1)
    with pytest.raises(ClockError):
        Checkpoint(store).log("new")

    assert log_file(store).read_bytes() == before
    set_clock(time.time_ns() // 1000)
    log.append("x", 2)
    assert log.events("x") == (0, 2)


# --- positions and cursors ---------------------------------------------------------------------------------


@pytest.fixture
def filled(log: Log) -> Log:
    """A log with single records, batches, and a generation behind it."""
    log.append("x", 0)
    log.append_many([("x", 1), ("y", 2), ("x", 3)])
    log.append("x", 4)
    log.recover()
    log.append_many([("y", 5), ("x", 6)])
    return log


def test_positions_rise_and_survive_text_and_pickle(filled: Log) -> None:
    positions = [record.position for record in filled.read()]

    assert all(before < after and before != after for before, after in pairwise(positions))
    positions.reverse()
    assert sorted(positions) == positions[::-1]
    positions.reverse()
    assert [Position.parse(str(position)) for position in positions] == positions
    copies = pickle.loads(pickle.dumps(positions))
    assert copies == positions
    assert not any(copy != position for copy, position in zip(copies, positions, strict=True))
    assert all(
        copy >= position and copy <= position for copy, position in zip(copies, positions, strict=True)
    )
    assert len({*positions, *copies}) == len(positions)


def test_positions_of_different_logs_do_not_compare(store: Path, filled: Log) -> None:
    other = Checkpoint(store).log("other").append("x", 1)
    (first, *_) = filled.read()

    with pytest.raises(TypeError):
        assert first.position < other
    assert first.position != other


@pytest.mark.parametrize("log_key", ["", "a@b", "a;b", "a b", "ä/../b", "%41", "x" * 300])
def test_position_of_any_log_key_survives_text(store: Path, log_key: str) -> None:
    position = Checkpoint(store).log(log_key).append("x", 1)
    cursor = Cursor((position, Checkpoint(store).log("other").append("x", 1)))

    assert Position.parse(str(position)) == position
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text", ["", "a", "a@b:1:2:3", "a@" + "0" * 32 + ":x:1:0", "a@" + "0" * 31 + ":1:1:0", "a\n"]
)
def test_text_that_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidPositionError, match="not a position"):
        Position.parse(text)


def test_read_after_each_record_gives_the_rest(filled: Log) -> None:
    records = list(filled.read())
    assert [record.event for record in records] == [0, 1, 2, 3, 4, 5, 6]

    for number, record in enumerate(records):
        assert list(filled.read(record.position)) == records[number + 1 :]
        assert list(filled.read(Position.parse(str(record.position)))) == records[number + 1 :]
    filled.recover()
    for number, record in enumerate(records):
        assert [rest.event for rest in filled.read(record.position)] == list(range(number + 1, 7))


def test_position_that_an_append_returned_is_that_of_its_last_record(log: Log) -> None:
    returned = [log.append("x", 0), log.append_many([("x", 1), ("x", 2)]), log.append("x", 3)]
    with log.transaction() as transaction:
        transaction.append("x", 4)

    positions = [record.position for record in log.read()]
    assert [*returned, transaction.position] == [positions[0], positions[2], positions[3], positions[4]]


def test_position_of_another_log_or_store_is_refused(store: Path, filled: Log, tmp_path: Path) -> None:
    other = Checkpoint(store).log("other").append("x", 1)
    elsewhere = Checkpoint(tmp_path / "elsewhere").log("a").append("x", 1)

    for position in (other, elsewhere):
        with pytest.raises(InvalidPositionError):
            list(filled.read(position))
        with pytest.raises(InvalidPositionError):
            filled.follow(position)


# --- followers ---------------------------------------------------------------------------------------------


@pytest.mark.guarantee(4)
def test_follow_from_start_end_and_a_position(log: Log) -> None:
    log.append("x", 0)
    position = log.append("x", 1)
    followers = [log.follow(after, idle_timeout_s=0) for after in ("start", "end", position)]

    log.append("x", 2)

    assert [[record.event for record in follower] for follower in followers] == [[0, 1, 2], [2], [2]]


@pytest.mark.parametrize("after", ["beginning", "", None, 5])
def test_follow_from_no_place_is_refused(store: Path, log: Log, after: Any) -> None:
    for follow in (log.follow, Checkpoint(store).follow):
        with pytest.raises((ValueError, TypeError)):
            follow(after)


def test_follow_from_a_cursor_goes_on_where_it_was_taken(store: Path, filled: Log) -> None:
    checkpoint = Checkpoint(store)
    checkpoint.log("b").append("x", "b")
    everything = [(each.log_key, each.event) for each in checkpoint.follow(idle_timeout_s=0)]
    follower = checkpoint.follow(idle_timeout_s=0)
    seen = []
    for _ in everything:
        record = next(follower)
        seen.append((record.log_key, record.event))
        # Taken at every record, inside batches too, through text and a new process.
        rest = Checkpoint(store).follow(Cursor.parse(str(follower.cursor)), idle_timeout_s=0)
        assert seen + [(each.log_key, each.event) for each in rest] == everything


def test_follow_with_an_idle_timeout_ends_quietly_when_nothing_comes(log: Log) -> None:
    log.append("x", 0)
    started = time.monotonic()

    assert [record.event for record in log.follow(idle_timeout_s=0.2)] == [0]
    assert 0.2 <= time.monotonic() - started < 5


@pytest.mark.parametrize("of", ["log", "checkpoint"])
def test_follower_closed_by_another_thread_ends_at_once(store: Path, log: Log, of: str) -> None:
    follower = log.follow() if of == "log" else Checkpoint(store).follow()
    ended = threading.Event()

    def wait() -> None:
        with follower:
            assert list(follower) == []
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    follower.close()

    assert ended.wait(5)
    assert next(follower, None) is None


@pytest.mark.guarantee(4)
@pytest.mark.parametrize("method", METHODS)
def test_follower_gets_what_another_process_appends(store: Path, children: Children, method: str) -> None:
    follower = Checkpoint(store).follow(idle_timeout_s=60)
    children.start(append_to_new_logs, store, method=method)

    seen = [next(follower) for _ in range(6)]

    children.wait_all()
    for log_key in ("a", "b", "c"):
        assert [record.event for record in seen if record.log_key == log_key] == [0, 1]


def append_to_new_logs(store: Path) -> None:
    for log_key in ("a", "b", "c"):
        for number in range(2):
            Checkpoint(store).log(log_key).append("x", number)


def test_follower_of_a_handle_that_was_closed_says_so(store: Path, log: Log) -> None:
    checkpoint = Checkpoint(store)
    follower = checkpoint.follow()
    checkpoint.close()

    with pytest.raises(ClosedError):
        bounded(next, follower)


# --- durable reads -----------------------------------------------------------------------------------------


def reads_durably(log: Log) -> Iterator[list[object]]:
    yield [record.event for record in log.read(durable=True)]
    yield [record.event for record in log.follow(idle_timeout_s=0, durable=True)]


@pytest.mark.guarantee(1)
@pytest.mark.rule(17)
def test_durable_read_syncs_what_it_gives_out(store: Path, faults: Faults) -> None:
    log = Checkpoint(store, durability="never").log("a")
    log.append("x", 0)
    log.append("x", 1)
    syncs = faults.watch("sync_data", on=r"\.jsonl$")

    assert len(list(log.read())) == 2
    assert syncs.seen == 0
    assert list(reads_durably(log)) == [[0, 1], [0, 1]]
    assert syncs.seen == 1


@pytest.mark.guarantee(1)
def test_durable_read_whose_sync_fails_gives_nothing_out(store: Path, faults: Faults) -> None:
    log = Checkpoint(store, durability="never").log("a")
    log.append("x", 0)
    faults.fail("sync_data", 5, on=r"\.jsonl$")

    with pytest.raises(OSError, match="durable"):
        next(log.read(durable=True))


@pytest.mark.guarantee(1)
def test_durable_read_without_writing_gives_what_the_log_itself_vouches_for(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    log.append("x", 1)
    log.append("x", 2, durability="never")
    reader = Checkpoint(store, read_only=True, log_keys=["a"]).log("a")

    # The line of 1 says that 0 is durable, the line of 2 that 1 is.
    assert list(reads_durably(reader)) == [[0, 1], [0, 1]]
    log.append("x", 3)
    log.append("x", 4)
    assert list(reads_durably(reader)) == [[0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(11)
@pytest.mark.parametrize("after", ["start", "end"])
def test_durable_follower_without_writing_gives_out_what_a_recovery_made_durable(
    store: Path, after: str
) -> None:
    log = Checkpoint(store, durability="never").log("a")
    log.append("x", 0, durability="always")
    log.append("x", 1, durability="always")
    reader = Checkpoint(store, read_only=True, log_keys=["a"])
    follower = reader.log("a").follow(after=after, idle_timeout_s=0, durable=True)
    seen = [record.event for record in follower]
    for number in range(2, 5):
        log.append("x", number)
    seen += [record.event for record in follower]  # 1 at most: nothing states the others as durable

    log.recover()
    seen += [record.event for record in follower]
    for number in range(5, 8):
        log.append("x", number)
    log.recover()
    log.append("x", 8)
    last = list(follower)
    seen += [record.event for record in last]

    first = 0 if after == "start" else 2
    assert seen == [*range(first, 8)]
    for record in last:  # its place is that of the generation it was given out from
        assert [each.event for each in log.read(after=record.position)] == [*range(record.event + 1, 9)]


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(11)
def test_durable_follower_gives_out_nothing_that_a_switch_of_generations_left_behind(
    store: Path, tmp_path: Path
) -> None:
    log = Checkpoint(store, durability="never").log("a")
    log.append("x", 0)
    shutil.copytree(store, tmp_path / "earlier")
    earlier = Checkpoint(tmp_path / "earlier").log("a")
    earlier.recover()
    log.append("x", "is not in the generation that is put in its place")
    reader = Checkpoint(store, read_only=True, log_keys=["a"])
    follower = reader.log("a").follow(idle_timeout_s=0, durable=True)
    assert list(follower) == []

    log_file(tmp_path / "earlier").rename(log_file(store))

    assert [record.event for record in follower] == [0]


# --- several logs --------------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
def test_objects_are_listed_by_their_first_event_whatever_log_it_stands_in(store: Path) -> None:
    first, second = (Checkpoint(store).log(log_key) for log_key in ("a", "b"))
    second.append("x", 1)
    first.append("y", 2)
    first.append("x", 3)

    assert list(Checkpoint(store)) == ["x", "y"]
    assert list(Checkpoint(store).snapshot()) == ["x", "y"]


@pytest.mark.guarantee(3)
def test_snapshot_over_logs_holds_no_effect_without_its_cause(store: Path, faults: Faults) -> None:
    causes, effects = (Checkpoint(store).log(log_key) for log_key in ("a", "b"))
    reader = Checkpoint(store, read_only=True)
    assert len(reader) == 0

    def write_first(real: Any, *args: Any) -> Any:
        causes.append("cause", 1)
        effects.append("effect", 1)
        return real(*args)

    faults.act("read_once", write_first, on=r"b\.jsonl$")  # when the first log was passed already

    assert list(reader.snapshot()) == ["cause", "effect"]


@pytest.mark.guarantee(3)
def test_snapshot_of_one_log_holds_no_effect_without_a_cause_in_a_log_that_was_made_meanwhile(
    store: Path, faults: Faults
) -> None:
    writer = Checkpoint(store)
    effects = writer.log("b")
    reader = Checkpoint(store, read_only=True)
    assert len(reader) == 0

    def write_first(real: Any, *args: Any) -> Any:
        writer.log("a").append("cause", 1)
        effects.append("effect", 1)
        return real(*args)

    faults.act("read_once", write_first, on=r"b\.jsonl$")  # after the look for new logs

    assert list(reader.snapshot()) == ["cause", "effect"]
