"""Faulty cuts, and faulty logs that are made of those of another store."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.frame import MAX_STAMP_US
from mpcheckpoint.errors import InvalidPositionError
from support.memory_content import Content
from support.memory_storage import MemoryCut, MemoryReader, MemoryStore
from support.planted import PAUSE_S, found_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.moving import LogCut
    from mpcheckpoint._types import Position

_IN_ORDER = "test_cut_gives_all_logs_in_order_and_says_batch_by_batch_what_they_hold"
_AS_IT_WAS = "test_cut_stays_as_it_was_while_others_append_and_compact"
_SAME = "test_adopted_log_says_the_same_with_the_same_stamps"
_COUNTS = "test_adopted_log_counts_on_after_compactions"
_LATER = "test_appends_to_an_adopted_log_come_after_all_of_it"
_CLOCK = "test_process_that_adopted_a_log_stamps_all_that_it_appends_later"
_POSITIONS = "test_positions_of_the_source_are_valid_in_an_adopted_log_also_once_it_is_compacted"
_BACK = "test_positions_of_an_adopted_log_are_valid_in_the_source"
_BEYOND = "test_position_that_the_source_gave_later_is_refused"
_OWN = "test_positions_of_an_adopted_log_of_its_own_are_valid_in_it"
_THERE = "test_log_that_is_there_is_not_adopted_over"
_BROKEN = "test_log_that_could_not_be_read_to_its_end_is_not_there"
_WHOLE = "test_nobody_sees_an_adopted_log_before_it_is_whole"
_TOKEN = "test_adopted_log_changes_the_token_of_other_stores"
_TWICE = "test_log_adopted_twice_over_is_the_same"


@found_by(_IN_ORDER)
class CutsInAnyOrder(MemoryStore):
    @contextmanager
    def cut(self, timeout_s: float | None) -> Iterator[list[MemoryCut]]:
        with super().cut(timeout_s) as logs:
            yield logs[::-1]


@found_by(_AS_IT_WAS)
class CutsThatGrow(MemoryStore):
    class _Growing(MemoryCut):
        def __init__(self, content: Content) -> None:
            super().__init__(content)
            self._content = content

        def lines(self) -> Iterator[Lines]:
            self.__init__(self._content)  # type: ignore[misc]
            return super().lines()

    cut_type = _Growing


@found_by("test_cut_with_an_effect_has_its_cause")
class CutsOneAfterTheOther(MemoryStore):
    @contextmanager
    def cut(self, timeout_s: float | None) -> Iterator[list[MemoryCut]]:
        cut = []
        for log_key in self.log_keys():
            cut.append(MemoryCut(self.contents[log_key]))
            time.sleep(PAUSE_S)
        yield cut


class _TakesOtherwise(Content):
    """Content whose batches are changed on their way."""

    def take(self, batch: list[Payload], stamp_us: int) -> None:
        raise NotImplementedError


@found_by(_SAME, _TWICE)
class AdoptsWithNewStamps(MemoryStore):
    class _Anew(_TakesOtherwise):
        def take(self, batch: list[Payload], stamp_us: int) -> None:
            Content.take(self, batch, max(stamp_us, self.end.stamp_us) + 1)

    content_type = _Anew


@found_by(_SAME, _TWICE)
class AdoptsRecordsAlone(MemoryStore):
    class _Alone(_TakesOtherwise):
        def take(self, batch: list[Payload], stamp_us: int) -> None:
            if batch := [each for each in batch if each.object_key != b"null"]:
                Content.take(self, batch, stamp_us)

    content_type = _Alone


@found_by(_COUNTS)
class AdoptsWithoutWhatWasDropped(MemoryStore):
    class _WithoutIt(_TakesOtherwise):
        def take(self, batch: list[Payload], stamp_us: int) -> None:
            if b'"dropped"' not in batch[0].event:
                Content.take(self, batch, stamp_us)

    content_type = _WithoutIt


class _MadeOtherwise(MemoryStore):
    """Adopts logs that are not quite what they should be."""

    def add_log(self, made: Content) -> None:
        self.spoil(made)
        super().add_log(made)

    def spoil(self, made: Content) -> None:
        raise NotImplementedError


@found_by(_LATER)
class StampsByTheWallClock(_MadeOtherwise):
    def spoil(self, made: Content) -> None:
        made.end = made.end._replace(stamp_us=0)


@found_by(_POSITIONS, _TWICE)
class AdoptsUnderNoEarlierName(_MadeOtherwise):
    def spoil(self, made: Content) -> None:
        made.previous, made.lineage = (), uuid.uuid4().hex


@found_by(_BACK)
class AdoptsAsAnotherLog(_MadeOtherwise):
    def spoil(self, made: Content) -> None:
        made.lineage = uuid.uuid4().hex


@found_by(_TWICE)
class AdoptsUnderTheLastNameOnly(_MadeOtherwise):
    def spoil(self, made: Content) -> None:
        made.previous, made.lineage = made.previous[-1:], uuid.uuid4().hex


@found_by(_BEYOND)
class TakesAnyPositionOfTheSource(_MadeOtherwise):
    def spoil(self, made: Content) -> None:
        made.restored = ()


@found_by(_OWN)
class RefusesItsOwnPositions(MemoryReader):
    def seek(self, position: Position) -> None:
        restored = self._content.restored
        if position.stamp_us > min((each.cut_us for each in restored), default=MAX_STAMP_US):
            raise InvalidPositionError("not this one", reason="of another log")
        super().seek(position)


@found_by(_THERE)
class AdoptsOverWhatIsThere(MemoryStore):
    def add_log(self, made: Content) -> None:
        self.contents[made.log_key] = made


@found_by(_BROKEN, _WHOLE)
class AdoptsInTheOpen(MemoryStore):
    def adopt_log(self, log: LogCut, *, timeout_s: float | None, pace: Callable[[int], None]) -> None:
        log_key = log.header.log_key
        if log_key not in self.contents:
            self.contents[log_key] = Content(log_key)
            made = Content.made_of(log, pace)
            self.contents[log_key] = made
        else:
            super().adopt_log(log, timeout_s=timeout_s, pace=pace)


@found_by(_CLOCK)
class AdoptsUnseen(MemoryStore):
    def adopt_log(self, log: LogCut, *, timeout_s: float | None, pace: Callable[[int], None]) -> None:
        made = Content.made_of(log, pace)
        with self._mutex:
            self.add_log(made)


@found_by(_TOKEN)
class KeepsTheTokenOfAdoptedLogs(MemoryStore):
    _adopted: dict[str, set[str]] = {}  # noqa: RUF012 - all stores share it

    def add_log(self, made: Content) -> None:
        self._adopted.setdefault(self.path, set()).add(made.log_key)
        super().add_log(made)

    def change_token(self) -> Any:
        return len(set(self.contents) - self._adopted.get(self.path, set()))
