"""What a Reader promises: news, each once and in order; places to begin at; and what comes through unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._types import Position
from mpcheckpoint.errors import InvalidPositionError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.verbs import (
    UNSYNCED,
    append,
    batches,
    events,
    news_of,
    payload,
    raises,
    records,
)

if TYPE_CHECKING:
    from mpcheckpoint._store.protocol import Reader, StoredLog

MIB = 1024 * 1024

# What JSON libraries, databases and text files are known to change.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 2**64),
    *(10**600, -(10**600), 0.0, -0.0, 1.0, 0.1, -1.5e-300, 5e-324, 1.7976931348623157e308, 1e16),
    *(123456789.123456789, "", "\0", "".join(map(chr, range(32))), '"\\/', "\x7f\u2028\u2029\ufeff"),
    *("\ud7ff\ue000\U0010ffff", "e\u0301", "line\nbreak", "\r\n", "null"),
    *([], {}, [[]], {"": {"": []}}, [None, True, 1, 1.0, "1"], {"b": 1, "a": 2, "\0": 3}, [[[[1]]]]),
    '["00000028",1,0,0,"x",1,null,"00000000"]\n',
)
OBJECT_KEYS = (
    *("", " ", "a", "A", "\0", "line\nbreak", "\u00e9", "e\u0301", "\U0001f600", '"', "null", "k" * 5000),
)


def take_polled(reader: Reader, log: StoredLog) -> list[Any]:
    """Return the events that are new to a reader."""
    return [record.event for record in news_of(reader, log.log_key)]


class ReaderTests(StorageUnderTest):
    """One log, read forward."""

    def test_news_are_given_once(self) -> None:
        log = self.open_log()
        reader = log.reader()
        assert take_polled(reader, log) == []
        for number in range(5):
            append(log, number, number)

            assert take_polled(reader, log) == [number, number]
            assert list(reader.poll()) == [], "a chunk where there is nothing new"

    def test_chunks_are_never_empty_and_given_counts_them(self) -> None:
        log = self.open_log()
        reader = log.reader()
        taken = 0
        for number in range(3):
            append(log, number)
            log.append([payload(7, record_id="id")], durability=UNSYNCED, timeout_s=self.patience_s)
            for chunk in reader.poll():
                taken += 1
                assert chunk.lines or chunk.notes or chunk.is_reset
                # Counted before the reader goes on: a caller that is interrupted in between must know.
                assert reader.given == taken
            list(reader.poll())
            assert reader.given == taken

    def test_rest_of_news_that_were_not_taken_comes_next(self) -> None:
        log = self.open_log()
        for number in range(4):
            append(log, number, "x" * MIB)
        reader = log.reader()
        found: list[Any] = []
        while chunk := next(iter(reader.poll()), None):
            found += [line.event for line in chunk.lines]

        assert found == [line.event for each in log.reader().poll() for line in each.lines]
        assert len(found) == 8

    def test_readers_of_a_log_go_on_each_by_itself(self) -> None:
        log = self.open_log()
        append(log, 0)
        early = log.reader()
        assert take_polled(early, log) == [0]
        append(log, 1)
        late = log.reader()

        assert take_polled(late, log) == [0, 1]
        assert take_polled(early, log) == [1]

    def test_readers_of_every_store_see_an_append_at_once(self) -> None:
        logs = [self.open_log(), self.open_store(self.place).find_log("a"), self.open_log()]
        readers = [log.reader() for log in logs]
        for number in range(12):
            append(logs[number % 3], number)

            assert [take_polled(reader, logs[0]) for reader in readers] == [[number]] * 3

    def test_reader_that_was_released_goes_on_where_it_was(self) -> None:
        log = self.open_log()
        append(log, 0)
        reader = log.reader()
        reader.release()
        assert take_polled(reader, log) == [0]
        reader.release()
        reader.release()
        append(log, 1)

        assert take_polled(reader, log) == [1]

    def test_chunk_changed_by_its_taker_changes_nothing(self) -> None:
        log = self.open_log()
        append(log, 0, 1)
        for _ in range(2):
            for chunk in log.reader().poll():
                chunk.notes.clear()
                if isinstance(chunk.lines, list):
                    chunk.lines.clear()

        assert events(log) == [0, 1]

    def test_batches_of_megabytes_are_read_whole_in_whatever_chunks(self) -> None:
        log = self.open_log()
        sizes = [(1, 10), (2, MIB), (500, 2000), (1, 2 * MIB), (3, 5)]
        for count, size in sizes:
            append(log, *(["x" * size] * count))

        for chunk in log.reader().poll():
            assert chunk.lines[-1].more == 0, "a batch is divided over two chunks"
        found = batches(records(log))
        assert [(len(batch), len(batch[0])) for batch in found] == sizes
        assert all(
            event == "x" * size for batch, (_, size) in zip(found, sizes, strict=True) for event in batch
        )


class PositionTests(StorageUnderTest):
    """Places in a log."""

    def test_reader_that_seeks_any_record_begins_right_after_it(self) -> None:
        log = self.open_log()
        for start, size in ((0, 1), (1, 3), (4, 1), (5, 4)):
            append(log, *range(start, start + size))
        found = records(log)
        assert [record.event for record in found] == list(range(9))
        assert [record.position for record in found] == sorted(record.position for record in found)

        for store in (self.open_store(self.place), self.open_store(self.place)):
            for record in found:
                reader = store.find_log("a").reader()
                reader.seek(Position.parse(str(record.position)))
                assert take_polled(reader, log) == list(range(record.event + 1, 9))

    def test_position_inside_a_batch_by_the_place_of_its_first_line_is_found(self) -> None:
        """As ``Log.read`` and ``follow`` write it."""
        log = self.open_log()
        append(log, 0)
        append(log, 1, 2, 3)
        lines = [(line, chunk.generation) for chunk in log.reader().poll() for line in chunk.lines]
        place = lines[1][0].offset

        for (line, generation), left in zip(lines[1:3], ([2, 3], [3]), strict=True):
            reader = log.reader()
            reader.seek(Position("a", generation, place, line.stamp_us, line.more))
            assert take_polled(reader, log) == left

    def test_reader_that_seeks_the_end_gives_what_comes_later(self) -> None:
        log = self.open_log()
        end = append(log, 0)
        reader = log.reader()
        reader.seek(end)

        assert take_polled(reader, log) == []
        append(log, 1)
        assert take_polled(reader, log) == [1]

    def test_position_of_a_reader_is_the_place_after_what_it_gave(self) -> None:
        log = self.open_log()
        reader = log.reader()
        assert take_polled(reader, log) == []
        places = [reader.position()]
        for number in range(3):
            returned = append(log, number, number)
            assert take_polled(reader, log) == [number, number]
            assert reader.position() == returned
            places.append(reader.position())

        for number, place in enumerate(places):
            another = log.reader()
            another.seek(place)
            assert another.position() == place
            assert take_polled(another, log) == [event for event in (0, 0, 1, 1, 2, 2) if event >= number]

    def test_position_of_another_log_or_place_is_refused(self) -> None:
        log = self.open_log()
        append(log, 0)
        foreign = [append(self.open_log("b"), 0), append(self.open_log("a", place=self.other_place), 0)]

        for position in foreign:
            with raises(InvalidPositionError):
                log.reader().seek(position)

    def test_reader_that_begins_near_the_end_gives_all_that_is_younger_than_it_says(self) -> None:
        log = self.open_log()
        assert log.reader().begin_near_end(1) is None, "there is nothing to pass over"
        for number in range(40):
            append(log, *range(number % 4 + 1))
        everything = records(log)

        for length_bytes in (0, 1, 150, 1000, 10 * MIB):
            reader = log.reader()
            passed_us = reader.begin_near_end(length_bytes)
            expected = [record for record in everything if passed_us is None or record.stamp_us > passed_us]
            assert news_of(reader, log.log_key) == expected, f"{length_bytes} bytes before the end"
            assert reader.position().stamp_us == everything[-1].stamp_us
            append(log, "next")
            assert take_polled(reader, log) == ["next"]
            everything = records(log)

    def test_rest_of_a_sound_log_is_nothing(self) -> None:
        log = self.open_log()
        reader = log.reader()
        for number in range(3):
            append(log, number, number)
            list(reader.poll())
            assert reader.rest() is None

    def test_offsets_rise_along_a_log(self) -> None:
        log = self.open_log()
        for size in (1, 3, 2):
            append(log, *range(size))

        lines = [line for chunk in log.reader().poll() for line in chunk.lines]
        places = [place for line in lines for place in (line.offset, line.end)]
        assert places == sorted(places)
        assert all(line.offset < line.end for line in lines)


class ContentTests(StorageUnderTest):
    """What comes through unchanged."""

    def test_values_are_read_as_the_bytes_that_were_appended(self) -> None:
        log = self.open_log()
        appended = [payload(value) for value in VALUES]
        log.append(appended, durability=UNSYNCED, timeout_s=self.patience_s)

        found = [line.event for chunk in log.reader().poll() for line in chunk.lines]
        for value, event, sent in zip(VALUES, found, appended, strict=True):
            assert event == sent.event, f"{value!r} was read as {event!r}"

    def test_object_keys_are_read_as_they_were_appended(self) -> None:
        log = self.open_log()
        for object_key in OBJECT_KEYS:
            log.append([payload(1, object_key)], durability=UNSYNCED, timeout_s=self.patience_s)

        assert [record.object_key for record in records(log)] == list(OBJECT_KEYS)

    def test_record_ids_are_read_as_they_were_appended(self) -> None:
        log = self.open_log()
        ids = [None, "", "id", "\0\n\u00e9", None]
        for record_id in ids:
            log.append([payload(1, record_id=record_id)], durability=UNSYNCED, timeout_s=self.patience_s)

        assert [record.record_id for record in records(log)] == ids

    def test_notes_come_beside_the_records_and_in_order(self) -> None:
        log = self.open_log()
        notes = [Note("lease", {"object_key": "x", "worker": str(number)}) for number in range(3)]
        batch = [payload(0), note_payload(notes[0]), note_payload(notes[1]), payload(1)]
        log.append(batch, durability=UNSYNCED, timeout_s=self.patience_s)
        log.append([note_payload(notes[2])], durability=UNSYNCED, timeout_s=self.patience_s)

        chunks = list(log.reader().poll())
        assert [note for chunk in chunks for note in chunk.notes] == notes
        assert [line.event for chunk in chunks for line in chunk.lines] == [b"0", b"1"]
