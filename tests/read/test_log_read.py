"""One log, read in part: after a position, of some time, the last records. No more of it is read than that takes."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, Record
from mpcheckpoint import _system as system
from mpcheckpoint._view import merged_read, moments
from mpcheckpoint.errors import CorruptLogError, InvalidKeyError, InvalidPositionError
from support.verbs import become_a_new_process, flip, log_file

if TYPE_CHECKING:
    from pathlib import Path

NOW_US = 1_793_536_200_000_000
NOW = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are read near their end a few records at a time."""
    monkeypatch.setattr(merged_read, "_NEAR_END_BYTES", 300)
    monkeypatch.setattr(merged_read, "_USUAL_RECORD_BYTES", 1)
    monkeypatch.setattr(merged_read, "_FARTHER", 2)
    monkeypatch.setattr(merged_read, "_PART_BYTES", 200)


@pytest.fixture
def long_log(store: Path, small_parts: None) -> Log:
    """A log of 40 records of some objects, in batches and not, of which a compaction left out some."""
    del small_parts
    log = Checkpoint(store, durability="never").log("a")
    for number in range(0, 50, 5):
        log.append(f"x{number % 3}", number)
        log.append_many([(f"x{each % 4}", each) for each in range(number + 1, number + 5)])
    log.compact(drop=lambda record: record.event % 5 == 3)
    log.append_many([("x0", 50), ("x1", 51)])
    return log


def wanted(everything: list[Record], choice: dict[str, Any]) -> list[Record]:
    """Return what a choice means, said in the plainest way."""
    after, last = choice.get("after"), choice.get("last")
    found = [
        record
        for record in everything
        if (after is None or record.position > after)
        and choice.get("object_key", record.object_key) == record.object_key
        and choice.get("since", 0) <= record.stamp_us <= choice.get("until", record.stamp_us)
    ]
    return found if last is None else found[max(0, len(found) - last) :]


def test_read_of_a_part_gives_those_of_all_records_that_are_in_it(store: Path, long_log: Log) -> None:
    everything = list(long_log.read())
    assert len(everything) == 42
    some = [0, 1, 2, 3, 17, 18, 19, 20, 40, 41]
    choices = [
        {"after": after, "last": last, **times, **of}
        for after in (None, *(everything[number].position for number in some))
        for last in (None, 0, 1, 3, 20, 100)
        for times in (
            {},
            {"since": everything[18].stamp_us},
            {"until": everything[18].stamp_us},
            {"since": everything[2].stamp_us, "until": everything[30].stamp_us},
            {"since": everything[-1].stamp_us + 1},
        )
        for of in ({}, {"object_key": "x1"})
    ]
    handles = [long_log, Checkpoint(store, read_only=True).log("a")]
    for choice, log in itertools.product(choices, handles):
        assert list(log.read(**choice)) == wanted(everything, choice), choice


@pytest.mark.guarantee(1)
def test_durable_read_of_the_last_records_leaves_out_what_is_not_durable(store: Path, long_log: Log) -> None:
    reader = Checkpoint(store, read_only=True).log("a")
    durable = list(reader.read(durable=True))
    assert 0 < len(durable) < 42  # the compaction made those before it durable
    for last in (0, 1, 3, 20, 100):
        assert list(reader.read(last=last, durable=True)) == durable[max(0, len(durable) - last) :]
    after = durable[10].position
    assert list(reader.read(after, last=5, durable=True)) == durable[-5:]

    everything = list(long_log.read())
    assert list(long_log.read(last=3, durable=True)) == everything[-3:]
    long_log.append("x", "states it")
    assert list(reader.read(last=3, durable=True)) == everything[-3:]


@pytest.mark.guarantee(1)
def test_durable_read_of_the_last_records_while_the_log_is_replaced_gives_nothing_that_was_held_back(
    store: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del small_parts
    writer = Checkpoint(store, durability="never").log("a")
    for number in range(10):
        writer.append(f"x{number}", number)
        if number == 4:
            writer.flush()
    reader = Checkpoint(store, read_only=True).log("a")
    poll, polled = type(reader.tail()._followed.logs["a"].reader).poll, itertools.count()

    def poll_and_have_it_replaced(reader: Any) -> Any:
        yield from poll(reader)
        if next(polled) == 1:  # the first is of the end of the log
            assert writer.compact(drop="x8").is_changed
            writer.append_many([("x", "y" * 200)] * 3)
            writer.flush()
            writer.append("x", "states it")
            yield from poll(reader)

    monkeypatch.setattr("mpcheckpoint._logfile.read.LogReader.poll", poll_and_have_it_replaced)
    assert [record.event for record in reader.read(last=3, durable=True)] == [6, 7, 9]


def test_last_records_of_a_large_log_are_found_without_reading_the_rest(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Checkpoint(store, durability="never").log("a")
    for number in range(0, 60_000, 100):
        log.append_many([("x", [each, "y" * 60]) for each in range(number, number + 100)])
    *_, middle, last = [record.stamp_us for record in log.read() if record.position.more == 0]
    size_bytes = log_file(store).stat().st_size
    become_a_new_process()
    log = Checkpoint(store, read_only=True).log("a")
    read: list[int] = []
    real = system.read_at
    monkeypatch.setattr(system, "read_at", lambda *args: (data := real(*args), read.append(len(data)))[0])

    assert [record.event[0] for record in log.read(last=3)] == [59_997, 59_998, 59_999]
    assert [record.event[0] for record in log.read(since=last)] == list(range(59_900, 60_000))
    assert next(log.read(since=middle + 1)).event[0] == 59_900

    assert sum(read) < size_bytes / 3


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("choice", [{}, {"last": 2}, {"last": 100}, {"since": 1}])
def test_read_of_a_part_gives_what_is_before_damage_and_raises(store: Path, choice: dict[str, Any]) -> None:
    log = Checkpoint(store).log("a")
    for number in range(10):
        log.append("x", number)
    flip(store, list(log.read())[7].position.offset + 20)
    reading, found = log.read(**choice), list[Any]()

    with pytest.raises(CorruptLogError):
        found.extend(record.event for record in iter(reading))

    assert found == list(range(8))[-choice.get("last", 8) :]


def test_read_from_a_position_of_another_log_is_refused_however_it_goes_on(store: Path, log: Log) -> None:
    place = Checkpoint(store).log("b").append("x", 1)
    for choice in ({}, {"last": 1}, {"since": place.stamp_us + 1}):
        with pytest.raises(InvalidPositionError):
            list(log.read(place, **choice))


# --- times ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "stamp_us"),
    [
        (0, 0),
        (NOW_US, NOW_US),
        (NOW, NOW_US),
        (NOW.replace(microsecond=999_999), NOW_US + 999_999),
        (NOW.astimezone(timezone(timedelta(hours=14))), NOW_US),
        (datetime(1969, 12, 31, tzinfo=UTC), 0),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), 253_402_300_799_999_999),
        (timedelta(0), NOW_US),
        (timedelta(hours=1, microseconds=1), NOW_US - 3_600_000_001),
        (timedelta(days=365_000), 0),
    ],
)
def test_time_is_told_to_the_microsecond(moment: Any, stamp_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments.time, "time_ns", lambda: NOW_US * 1000 + 999)

    assert moments.stamp_us_of(moment, "since") == stamp_us


@pytest.mark.parametrize(
    ("moment", "error", "complaint"),
    [
        (datetime(2026, 11, 1), ValueError, "names no time zone"),
        (timedelta(seconds=-1), ValueError, "how long ago"),
        (-1, ValueError, "at least 0, not -1"),
        (1.5, TypeError, "not 1.5"),
        (True, TypeError, "not True"),
        ("2026-11-01", TypeError, "not '2026-11-01'"),
        (date(2026, 11, 1), TypeError, "is a datetime, a timedelta or whole microseconds since 1970"),
    ],
)
@pytest.mark.parametrize("name", ["since", "until"])
def test_what_is_no_time_is_refused_at_once(
    store: Path, log: Log, name: str, moment: Any, error: type[Exception], complaint: str
) -> None:
    checkpoint = Checkpoint(store)
    for call in (log.read, checkpoint.read, checkpoint.objects):
        with pytest.raises(error, match=f"^{name}.*{complaint}"):
            call(**{name: moment})


@pytest.mark.parametrize("last", [-1, 1.0, True, "3"])
def test_what_is_no_number_of_records_is_refused_at_once(store: Path, log: Log, last: Any) -> None:
    for call in (log.read, Checkpoint(store).read):
        with pytest.raises(ValueError, match="last is a number of records"):
            call(last=last)
        with pytest.raises(InvalidKeyError):
            call(object_key=-1)


def test_what_is_no_position_is_refused_at_once(log: Log) -> None:
    for after in ("start", 0, log.follow("end").cursor):
        with pytest.raises(TypeError, match="after is the position of a record, or None for the start, not "):
            log.read(after=after)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("idle_timeout_s", "error"),
    [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_idle_timeout_that_is_no_time_is_refused_at_once(
    store: Path, log: Log, idle_timeout_s: Any, error: type[Exception]
) -> None:
    for handle in (log, Checkpoint(store)):
        with pytest.raises(error, match="idle_timeout_s is a number of seconds, at least 0, or None, not "):
            handle.follow(idle_timeout_s=idle_timeout_s)


def test_times_choose_the_same_in_one_log_and_in_all(store: Path, log: Log) -> None:
    log.append("x", 1)
    first, second = (record.stamp_us for record in log.read())
    checkpoint = Checkpoint(store)

    def chosen(**choice: Any) -> list[Any]:
        found = [record.event for record in checkpoint.read(**choice)]
        assert [record.event for record in log.read(**choice)] == found
        objects = [summary.count for summary in checkpoint.objects(**choice)]
        assert objects == ([len(found)] if found else [])
        return found

    assert chosen(since=second) == chosen(since=in_utc(second)) == [1]
    assert chosen(until=first) == chosen(until=in_utc(first)) == [0]
    assert chosen(since=in_utc(first), until=in_utc(second)) == [0, 1]
    assert chosen(since=timedelta(days=1)) == chosen(until=timedelta(0)) == [0, 1]
    assert chosen(until=timedelta(days=1)) == chosen(since=in_utc(second + 1)) == []


def in_utc(stamp_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=stamp_us)
