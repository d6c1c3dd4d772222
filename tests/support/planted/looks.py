"""Looks at several logs that are taken in a faulty way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from support.memory_content import Content
from support.memory_storage import MemoryReader, MemoryStore
from support.planted import PAUSE_S, found_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpcheckpoint._format.frame import EndState
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._store.protocol import Reader


class _Collects(MemoryReader):
    """Moves on at a look, and keeps the chunks for the next poll."""

    kept: tuple[Chunk, ...] = ()

    def look(self) -> EndState:
        given = self.given
        self.keep(tuple(super().poll()))
        self.given = given
        return self._end

    def keep(self, chunks: tuple[Chunk, ...]) -> None:
        """Keep what a look found."""
        self.kept += chunks

    def poll(self) -> Iterator[Chunk]:
        for chunk in self.kept:
            self.kept = self.kept[1:]
            self.given += 1
            yield chunk
        yield from super().poll()


@found_by("test_look_that_nobody_polled_loses_nothing_and_doubles_nothing")
class KeepsTheLastLookAlone(_Collects):
    def keep(self, chunks: tuple[Chunk, ...]) -> None:
        self.kept = chunks


@found_by("test_look_that_nobody_polled_loses_nothing_and_doubles_nothing")
class DropsALookAtItsRelease(_Collects):
    def release(self) -> None:
        self.kept = ()


@found_by("test_look_that_nobody_polled_loses_nothing_and_doubles_nothing")
class GivesEachLookFromTheStart(_Collects):
    def look(self) -> EndState:
        before = self._end
        end = super().look()
        self._end = before
        return end

    def poll(self) -> Iterator[Chunk]:
        if not self.kept:
            yield from super().poll()
            return
        yield from self.kept
        self.given += len(self.kept)
        self.kept = ()
        list(MemoryReader.poll(self))


@found_by("test_polls_after_a_look_give_what_each_log_holds_once")
class LooksAtTheFirstOnly(MemoryStore):
    def look(self, readers: Sequence[Reader]) -> bool:
        super().look(readers)
        for reader in readers[1:]:
            assert isinstance(reader, MemoryReader)
            assert reader._found is not None
            reader._found.end = reader._end
        return True


@found_by("test_polls_after_a_look_give_what_each_log_holds_once")
class GivesALookForEver(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        found = self._found
        yield from super().poll()
        self._found = found


@found_by("test_look_while_chunks_were_left_gives_the_rest_once")
class LosesWhatWasLeft(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        for chunk in super().poll():
            for line in chunk.lines:
                yield chunk._replace(lines=[line], notes=[])


@found_by("test_look_at_readers_that_begin_elsewhere_gives_what_follows")
class LooksFromTheStart(MemoryReader):
    def look(self) -> EndState:
        self._skip = (-1, 0)
        return super().look()


@found_by("test_look_at_a_log_that_was_compacted_starts_anew_once")
class RestartsAtALook(MemoryReader):
    def look(self) -> EndState:
        end = super().look()
        assert self._found is not None
        self._restarted(self._found)
        return end


@found_by("test_look_of_one_moment_shows_nothing_later_and_then_that")
class CallsNoLookAMoment(MemoryStore):
    def look(self, readers: Sequence[Reader]) -> bool:
        return True


@found_by("test_look_of_one_moment_shows_no_effect_without_its_cause")
class LooksAtOneAfterTheOther(MemoryStore):
    def look(self, readers: Sequence[Reader]) -> bool:
        for reader in reversed(readers):
            assert isinstance(reader, MemoryReader)
            reader.look()
            time.sleep(PAUSE_S)
        return True


@found_by("test_log_that_was_added_changes_the_token_that_is_asked_after_a_look")
class KeepsTheFirstToken(MemoryStore):
    _token: object = None

    def change_token(self) -> object:
        self._token = self._token or super().change_token()
        return self._token


@found_by("test_handle_sees_at_once_what_came_after_its_last_look")
class LooksOnce(MemoryReader):
    _first: Content | None = None

    def look(self) -> EndState:
        end = super().look()
        self._found = self._first = self._first or self._found
        return end
