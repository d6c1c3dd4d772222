"""Faulty readers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mpcheckpoint._format.frame import NO_META
from mpcheckpoint._logfile.chunk import Chunk
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.near_end import Rest
from mpcheckpoint._types import Position
from mpcheckpoint.errors import InvalidPositionError
from support.memory_storage import MemoryLog, MemoryReader, MemoryStore
from support.planted import found_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from mpcheckpoint._format.frame import Line

    Guard: TypeAlias = Callable[[], Position | None]


# --- readers --------------------------------------------------------------------------------------------


class _Gives(MemoryReader):
    """Gives other chunks."""

    def poll(self) -> Iterator[Chunk]:
        for chunk in super().poll():
            yield from self.given_for(chunk)

    def given_for(self, chunk: Chunk) -> Iterator[Chunk]:
        """Yield what is given instead."""
        yield chunk._replace(lines=[self.line(line) for line in chunk.lines])

    def line(self, line: Line) -> Line:
        """Return a line as it is given."""
        return line


@found_by(
    "test_events_are_read_in_the_order_they_were_appended",
    "test_log_is_a_mapping_of_its_own_objects_and_the_handle_one_over_all_logs",
)
class ForgetsTheOrder(_Gives):
    def given_for(self, chunk: Chunk) -> Iterator[Chunk]:
        yield chunk._replace(lines=sorted(chunk.lines, key=lambda line: line.event))


@found_by("test_stamps_rise_from_batch_to_batch")
class GivesOneStamp(_Gives):
    def line(self, line: Line) -> Line:
        return line._replace(stamp_us=1)


@found_by("test_append_after_a_later_stamp_was_seen_gets_a_later_one")
class ShowsTheClockNothing(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        highest_us = clock.highest_us
        yield from super().poll()
        clock.highest_us = highest_us


@found_by("test_reader_does_not_wait_for_the_holder_of_the_log")
class ReadsUnderTheLock(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        with self._content.mutex.lock:
            yield from super().poll()


@found_by(
    "test_news_are_given_once",
    "test_value_changed_after_it_was_written_or_read_is_read_as_written",
    "test_readers_of_a_log_go_on_each_by_itself",
)
class GivesEverythingAgain(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        self._end = self._content.header_end
        return super().poll()


@found_by(
    "test_readers_of_every_store_see_an_append_at_once",
    "test_handles_see_each_other_s_records_and_logs_at_once",
)
class SeesLate(MemoryReader):
    looks = 0

    def poll(self) -> Iterator[Chunk]:
        self.looks += 1
        return super().poll() if self.looks % 3 == 1 else iter(())


@found_by("test_news_are_given_once", "test_chunks_are_never_empty_and_given_counts_them")
class GivesEmptyChunks(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        chunks = list(super().poll())
        self.given += not chunks
        yield from chunks or [Chunk([], [], self._content.generation, 0, is_reset=False)]


@found_by("test_chunks_are_never_empty_and_given_counts_them")
class DoesNotCount(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        for chunk in super().poll():
            self.given = 0
            yield chunk


@found_by("test_chunks_are_never_empty_and_given_counts_them")
class CountsTooLate(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        for chunk in super().poll():
            self.given -= 1
            yield chunk
            self.given += 1


@found_by("test_rest_of_news_that_were_not_taken_comes_next")
class ForgetsWhatWasNotTaken(_Gives):
    def given_for(self, chunk: Chunk) -> Iterator[Chunk]:
        for line in chunk.lines:
            self.given += line is not chunk.lines[0]
            yield chunk._replace(lines=[line])


@found_by("test_readers_of_a_log_go_on_each_by_itself")
class ReadersShareAPlace(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        self._end = vars(self._content).get("place", self._end)
        yield from super().poll()
        vars(self._content)["place"] = self._end


@found_by("test_reader_that_was_released_goes_on_where_it_was")
class StartsAnewWhenReleased(MemoryReader):
    def release(self) -> None:
        self._end = self._content.header_end


@found_by("test_reader_that_was_released_goes_on_where_it_was")
class EndsWhenReleased(MemoryReader):
    def release(self) -> None:
        del self._content


@found_by("test_chunk_changed_by_its_taker_changes_nothing")
class GivesItsOwnLists(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        cache = vars(self._content).setdefault("chunks", {})
        start = self._end.offset
        for chunk in super().poll():
            yield cache.setdefault((start, self._end.offset), chunk)


@found_by("test_batches_of_megabytes_are_read_whole_in_whatever_chunks")
class DividesBatches(_Gives):
    def given_for(self, chunk: Chunk) -> Iterator[Chunk]:
        half = len(chunk.lines) // 2
        self.given += bool(half)
        yield from (
            chunk._replace(lines=lines) for lines in (chunk.lines[:half], chunk.lines[half:]) if lines
        )


@found_by(
    "test_batches_of_megabytes_are_read_whole_in_whatever_chunks",
    "test_values_come_back_exactly_in_every_handle",
)
class CutsLargeEvents(_Gives):
    def line(self, line: Line) -> Line:
        return line._replace(event=line.event[:65536] + b'"') if len(line.event) > 65537 else line


# --- places ---------------------------------------------------------------------------------------------


@found_by(
    "test_reader_that_seeks_any_record_begins_right_after_it",
    "test_follower_gives_each_record_once_from_where_it_was_put",
    "test_tail_gives_each_record_once_and_every_one_that_was_appended",
    "test_read_of_a_part_gives_those_of_all_records_that_are_in_it",
    "test_records_are_read_with_all_that_was_said_of_them",
)
class IgnoresSeek(MemoryReader):
    def seek(self, position: Position) -> None:
        super().seek(position)
        self._skip = (-1, 0)


@found_by("test_reader_that_begins_near_the_end_gives_all_that_is_younger_than_it_says")
class PassesOverMoreThanItSays(MemoryReader):
    def begin_near_end(self, length_bytes: int) -> int | None:
        super().begin_near_end(length_bytes)
        self._skip = (self._content.end.stamp_us, 0) if length_bytes == 150 else self._skip
        return None


@found_by("test_rest_of_a_sound_log_is_nothing")
class FindsARest(MemoryReader):
    def rest(self) -> Rest | None:
        return Rest(self._end.offset, 1, is_torn=True)


@found_by("test_reader_that_seeks_any_record_begins_right_after_it")
class SeeksWholeBatches(MemoryReader):
    def seek(self, position: Position) -> None:
        super().seek(position)
        self._skip = (position.stamp_us, 0)


@found_by("test_reader_that_seeks_any_record_begins_right_after_it")
class SeeksOneTooFew(MemoryReader):
    def seek(self, position: Position) -> None:
        super().seek(position)
        self._skip = (position.stamp_us, -position.more - 1)


@found_by("test_reader_that_seeks_any_record_begins_right_after_it")
class NamesGenerationsOddly(MemoryStore):
    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> MemoryLog:
        log = super().open_log(log_key, create=create, timeout_s=timeout_s)
        log.content.generation = "first"
        return log


@found_by("test_position_inside_a_batch_by_the_place_of_its_first_line_is_found")
class SeeksByOffset(_Gives):
    offset = 0

    def seek(self, position: Position) -> None:
        self.offset = position.offset

    def given_for(self, chunk: Chunk) -> Iterator[Chunk]:
        yield chunk._replace(lines=[line for line in chunk.lines if line.end > self.offset])


@found_by("test_reader_that_seeks_the_end_gives_what_comes_later")
class RefusesTheEnd(MemoryReader):
    def seek(self, position: Position) -> None:
        if position.offset >= self._content.end.offset:
            raise InvalidPositionError("there is nothing behind it")
        super().seek(position)


@found_by("test_position_of_a_reader_is_the_place_after_what_it_gave")
class StandsAtTheStart(MemoryReader):
    def position(self) -> Position:
        start = self._content.header_end
        return Position(self._content.log_key, self._content.generation, start.offset, start.stamp_us)


@found_by("test_position_of_a_reader_is_the_place_after_what_it_gave")
class ForgetsWhereItSought(MemoryReader):
    def position(self) -> Position:
        end = self._end
        return Position(self._content.log_key, self._content.generation, end.offset, end.stamp_us)


@found_by("test_position_of_another_log_or_place_is_refused")
class TakesAnyPosition(MemoryReader):
    def seek(self, position: Position) -> None:
        self._skip = (position.stamp_us, -position.more)


@found_by("test_position_of_another_log_or_place_is_refused")
class TakesPositionsByLogKey(TakesAnyPosition):
    def seek(self, position: Position) -> None:
        if position.log_key != self._content.log_key:
            raise InvalidPositionError("of another log")
        super().seek(position)


@found_by("test_offsets_rise_along_a_log")
class HasNoOffsets(_Gives):
    def line(self, line: Line) -> Line:
        return line._replace(offset=0, end=0)


# --- content --------------------------------------------------------------------------------------------


@found_by(
    "test_values_are_read_as_the_bytes_that_were_appended", "test_values_come_back_exactly_in_every_handle"
)
class RoundsNumbers(_Gives):
    def line(self, line: Line) -> Line:
        event = json.loads(line.event, parse_float=lambda text: round(float(text), 6))
        return line._replace(event=json.dumps(event, ensure_ascii=False).encode())


@found_by(
    "test_values_are_read_as_the_bytes_that_were_appended", "test_values_come_back_exactly_in_every_handle"
)
class DropsControlCharacters(_Gives):
    def line(self, line: Line) -> Line:
        return line._replace(event=line.event.replace(rb"\u0000", b""))


@found_by("test_object_keys_are_read_as_they_were_appended")
class StripsObjectKeys(_Gives):
    def line(self, line: Line) -> Line:
        return line._replace(object_key=(line.object_key or "").strip())


@found_by(
    "test_record_ids_are_read_as_they_were_appended",
    "test_records_are_read_with_all_that_was_said_of_them",
    "test_append_of_a_record_id_that_is_there_returns_its_position",
)
class DropsMeta(_Gives):
    def line(self, line: Line) -> Line:
        return line._replace(meta=NO_META)


@found_by(
    "test_notes_come_beside_the_records_and_in_order", "test_claim_keeps_others_out_for_as_long_as_it_is_held"
)
class DropsNotes(_Gives):
    def given_for(self, chunk: Chunk) -> Iterator[Chunk]:
        yield chunk._replace(notes=[])


@found_by("test_notes_come_beside_the_records_and_in_order")
class TurnsNotesRound(_Gives):
    def given_for(self, chunk: Chunk) -> Iterator[Chunk]:
        yield chunk._replace(notes=chunk.notes[::-1])
