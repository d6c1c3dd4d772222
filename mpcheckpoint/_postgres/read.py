"""Read logs of a server: what is new since the last look, one log or all of them in one message, without any lock.

A look is one statement, so one snapshot: of the head of each log, of whether the batch that was given last is there
still, and of the next batches, some megabytes at most. Where there are more, further looks follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mpcheckpoint._format.control import FORGET, Header, Restored, UnknownControlError, control_name
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.chunk import Told
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.header import no_position
from mpcheckpoint._logfile.judged import LastingEnd, Seen
from mpcheckpoint._postgres.place import require_log
from mpcheckpoint._postgres.rows import int8, int8_array, lines_of, number_in, numbers_in
from mpcheckpoint._postgres.session import statement
from mpcheckpoint._types import Position
from mpcheckpoint.errors import FormatVersionError, InvalidPositionError, RecordsLostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg.pq.abc import PGresult

    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._logfile.near_end import Rest
    from mpcheckpoint._postgres.place import LogPlace

# Below the number of every batch.
START = 0
# Longer texts cost the server more a byte: its memory for them is new each time.
_PAGE_BYTES = 1024 * 1024
_decode_restored = msgspec.json.Decoder(list[Restored]).decode
_PAGE_BATCHES = 5000

# $1: logs. $2: the generation that each was read in, null to go on in whichever it is. $3: after which number.
LOOK = statement(
    "look_1",
    f"""
    select r.at, l.gen, l.generation, l.lineage, l.floor_number,
        (select b.id from mpcheckpoint.batch b where b.gen = l.gen and b.number = r.number),
        coalesce((select max(b.number) from mpcheckpoint.batch b where b.gen = l.gen), 0),
        p.last, p.last_id, p.ends, p.stamps, p.counts, p.bodies, s.logs
    from unnest($1::bigint[], $2::bigint[], $3::bigint[]) with ordinality r (log, gen, number, at)
        join mpcheckpoint.log l on l.id = r.log
        join mpcheckpoint.store s on s.id = l.store
        cross join lateral (
            select case when r.gen is null or r.gen = l.gen then r.number else {START} end
        ) f (number)
        cross join lateral (
            select max(n.number), (array_agg(n.id))[count(*)],
                string_agg(int8send(n.number), ''), string_agg(int8send(n.stamp_us), ''),
                string_agg(int8send(n.lines::bigint), ''),
                string_agg(n.body, ',') filter (where n.lines > 0)
            from (
                select b.* from mpcheckpoint.batch b
                where b.gen = l.gen and b.number > f.number and b.number <= {_PAGE_BYTES} + (
                    select min(c.number) from mpcheckpoint.batch c where c.gen = l.gen and c.number > f.number)
                order by b.number limit {_PAGE_BATCHES}
            ) n
        ) p (last, last_id, ends, stamps, counts, bodies)
    """,
)

# $1: a log. $2: a number. What holds that place, where the log ends, and where it comes from.
AT = statement(
    "at_1",
    """
    select l.gen, l.generation, l.lineage, l.floor_number,
        (select string_agg(u.g, '' order by u.n) from unnest(l.previous) with ordinality u (g, n)), l.restored,
        coalesce((select max(b.number) from mpcheckpoint.batch b where b.gen = l.gen), 0),
        p.number, p.lines::bigint, p.stamp_us, p.id
    from mpcheckpoint.log l left join lateral (
        select b.* from mpcheckpoint.batch b where b.gen = l.gen and b.number >= $2::bigint order by b.number limit 1
    ) p on true
    where l.id = $1::bigint
    """,
)
# $1: a log. $2: how many bytes before its end.
NEAR_END = statement(
    "near_end_1",
    """
    select l.gen, l.generation, l.lineage, p.number, p.stamp_us, p.id
    from mpcheckpoint.log l left join lateral (
        select b.* from mpcheckpoint.batch b where b.gen = l.gen and b.number <= $2::bigint * -1 + (
            select max(c.number) from mpcheckpoint.batch c where c.gen = l.gen)
        order by b.number desc limit 1
    ) p on true
    where l.id = $1::bigint
    """,
)


class Page(NamedTuple):
    """What one look found of one log.

    Attributes:
        gen, generation, lineage, floor: of its head.
        known_id: the id of the batch that the reader was given last; None if it is not there.
        end: the number of the log's last batch.
        last, last_id: of the last batch that was found; 0 and None if none was.
        ends, stamps_us, counts, bodies: of the batches that were found.
    """

    gen: int
    generation: str
    lineage: str
    floor: int
    known_id: bytes | None
    end: int
    last: int
    last_id: bytes | None
    ends: bytes
    stamps_us: bytes
    counts: bytes
    bodies: bytes

    def lines(self) -> Lines:
        """Return the lines that were found."""
        return lines_of(
            self.bodies, numbers_in(self.ends), numbers_in(self.stamps_us), numbers_in(self.counts)
        )


class PostgresReader:
    """Read one log of a server incrementally. See ``Reader`` in ``_store.protocol``.

    Invariant: what was given ends with the batch ``_number``, whose id is ``_known_id`` where that is not None.
    """

    def __init__(self, log: LogPlace, *, resumes: bool) -> None:
        self.given = 0
        self._log = log
        self._resumes = resumes
        self._gen: int | None = None
        self._generation = self._lineage = ""
        self._number = START
        self._known_id: bytes | None = None
        # The place after what was given or sought, as positions order it.
        self._place = 0, 0
        self._skip = -1, 0
        self._is_reset = False
        # What a look at many logs found of this one, and the number after which it looked.
        self._found: tuple[Page, int] | None = None

    # --- poll -------------------------------------------------------------------------------------------------

    def wanted(self) -> tuple[int, int | None, int]:
        """Return which log a look is to be at, in which generation (None: in any), and after which number."""
        return self._log.id, None if self._resumes else self._gen, self._number

    def found(self, page: Page) -> bool:
        """Keep what a look at many logs found for the next ``poll``; return whether that is all there is."""
        self._found = page, self._number
        return page.last >= page.end or not page.ends

    def poll(self) -> Iterator[Chunk]:
        found, self._found = self._found, None
        page = found[0] if found is not None and found[1] == self._number else self._look()
        until = page.end
        while True:
            if self._begins_anew(page):
                page = self._look()
                continue
            lines, following = self._taken_apart(page, until)
            chunk = self._admitted(page, lines)
            if chunk is not None:
                yield chunk
            if self._number >= until or not page.ends:
                return
            assert following is not None
            page = following

    def _look(self) -> Page:
        return page_in(self._log.read(LOOK, *parameters_of([self.wanted()])))

    def _taken_apart(self, page: Page, until: int) -> tuple[Lines, Page | None]:
        """Return the lines of a page, and the page after it where there is to be one: the server makes it meanwhile."""
        if not page.ends or page.last >= until:
            return page.lines(), None
        wanted = self._log.id, None if self._resumes else page.gen, page.last
        taken: list[Lines] = []
        found = self._log.read(LOOK, *parameters_of([wanted]), meanwhile=lambda: taken.append(page.lines()))
        return taken[0], page_in(found)

    def _begins_anew(self, page: Page) -> bool:
        """Return whether the log has to be read from its start, which this page is not.

        Raises:
            RecordsLostError: what a reader that goes on had given is not in the log any more.
        """
        is_same = page.gen == self._gen
        # A compaction keeps all numbers, and leaves out batches below the end it had: the floor.
        may_be_left_out = page.known_id is None and not is_same and self._number <= page.floor
        is_lost = self._known_id not in (None, page.known_id) and not may_be_left_out
        if is_lost and self._resumes:
            raise RecordsLostError(
                f"the log {self._log.log_key!r} of {self._log.place} does not hold any more what was read of it: the "
                "server lost what it had not made durable, or went on as a standby that did not have it",
                path=self._log.place,
                reason="records lost",
                advice="begin anew: read the log from its start, or follow it from its end",
            )
        if self._gen is None or self._resumes or (is_same and not is_lost):
            return False
        self._gen, self._number, self._known_id, self._place = page.gen, START, None, (0, 0)
        self._is_reset = True
        return is_same

    def _admitted(self, page: Page, lines: Lines) -> Chunk | None:
        """Move on to the end of a page, given its lines; return what it holds, if that is anything."""
        self._gen, self._generation, self._lineage = page.gen, page.generation, page.lineage
        is_reset = self._is_reset
        if not page.ends and not is_reset:
            return None
        told = Told()
        for before, (index, line) in enumerate(lines.controls()):
            try:
                control = control_name(line)
            except UnknownControlError as error:
                raise FormatVersionError(
                    f"the log {self._log.log_key!r} of {self._log.place} holds {error}, which this release does not "
                    "know. Use a newer release of mpcheckpoint.",
                    path=self._log.place,
                    reason="unknown control line",
                ) from None
            if control != FORGET or line.stamp_us > self._skip[0]:
                told.take(control, line, index - before)
        records, passed = lines.records(), 0
        while passed < len(records) and (records.stamps_us[passed], -records.mores[passed]) <= self._skip:
            passed += 1
        if passed:
            records = records[passed:]
        is_new = bool(records or told.notes or told.forgets or is_reset)
        durable = self._log.known_durable(page.last) if is_new else 0
        self.given += is_new
        self._is_reset = False
        if page.ends:
            self._number, self._known_id = page.last, page.last_id
            self._place = max(self._place, (numbers_in(page.stamps_us)[-1], 0))
            clock.observe(self._place[0])
        if not is_new:
            return None
        return told.chunk(
            records, page.generation, page.lineage, durable, passed, is_reset=is_reset, begun_us=0
        )

    def seen(self) -> Seen | None:
        if self._gen is None:
            return None
        return Seen(self._generation, SeenEnd(self._gen, max(0, self._number), self._known_id))

    # --- where to begin ---------------------------------------------------------------------------------------

    def seek(self, position: Position) -> None:
        """Go on after ``position``, in whichever generation the log is now."""
        first = position.offset + (1 if position.more else 0)
        row = self._log.read(AT, int8(self._log.id), int8(first))
        value = row.get_value
        floor, end = number_in(value(0, 3)), number_in(value(0, 6))
        header = header_of(self._log.log_key, *(value(0, column) for column in (1, 2, 4, 5)))
        if position.log_key != self._log.log_key or not header.continues(
            position.generation, position.lineage
        ):
            raise self._no_position(position, "of another log")
        if not header.holds(position.generation, position.stamp_us):
            raise self._no_position(position, "not in what this log was copied from")
        self._head(row)
        self._skip = self._place = position.stamp_us, -position.more
        number, count, stamp_us = (number_in(value(0, column)) for column in (7, 8, 9))
        if value(0, 7) is not None and stamp_us == position.stamp_us:
            if position.more:
                self._number, self._known_id = number - count, None
            else:
                self._number, self._known_id = number, value(0, 10)
        elif not is_from_elsewhere(header, position.generation) and (
            position.offset > max(floor, 0) or (position.offset > end and position.offset)
        ):
            raise self._no_position(position, "records lost")
        # Else it was left out by a compaction, or its place is not known: stamps tell what comes after it.

    def _no_position(self, position: Position, reason: str) -> InvalidPositionError:
        return no_position(position, self._log.log_key, self._log.place, reason)

    def begin_near_end(self, length_bytes: int) -> int | None:
        """Begin at a batch about so many bytes before the end; return the stamp of the one before it."""
        row = self._log.read(NEAR_END, int8(self._log.id), int8(length_bytes))
        self._head(row)
        self._number, self._known_id, self._place = START, None, (0, 0)
        if row.get_value(0, 3) is None:
            return None
        self._number, stamp_us = number_in(row.get_value(0, 3)), number_in(row.get_value(0, 4))
        self._known_id, self._place = row.get_value(0, 5), (stamp_us, 0)
        return stamp_us

    def _head(self, row: PGresult) -> None:
        self._gen = number_in(row.get_value(0, 0))
        self._generation, self._lineage = ((row.get_value(0, column) or b"").hex() for column in (1, 2))

    def rest(self) -> Rest | None:
        """Return None: a batch is there whole, or not at all."""
        return None

    def position(self) -> Position:
        stamp_us, less = self._place
        return Position(
            self._log.log_key, self._generation, max(0, self._number), stamp_us, -less, self._lineage
        )

    def release(self) -> None:
        """Nothing to give back."""


def header_of(
    log_key: str,
    generation: bytes | None,
    lineage: bytes | None,
    previous: bytes | None,
    restored: bytes | None,
) -> Header:
    """Return what the head of a log says of its generations; ``previous``: one after the other."""
    names = (previous or b"").hex()
    return Header(
        log_key,
        (generation or b"").hex(),
        0,
        tuple(names[at : at + 32] for at in range(0, len(names), 32)),
        EndState(0, 0, 0),
        (lineage or b"").hex(),
        tuple(_decode_restored(restored or b"[]")),
    )


def is_from_elsewhere(header: Header, generation: str) -> bool:
    """Return whether a generation is not surely one of this log here: places in it may be those of another storage."""
    to, previous = header.restored[-1].to if header.restored else "", header.previous
    return generation not in (header.generation, *previous[previous.index(to) + 1 if to in previous else 0 :])


@dataclass(frozen=True, slots=True)
class SeenEnd(LastingEnd):
    """Up to where a log was read: its generation, the number of the last batch, and that one's id."""

    gen: int
    number: int
    id: bytes | None


def parameters_of(wanted: Sequence[tuple[int, int | None, int]]) -> list[bytes | None]:
    """Return what ``LOOK`` needs, of what readers want."""
    logs, gens, numbers = zip(*wanted, strict=True)
    return [int8_array(logs), int8_array(gens), int8_array(numbers)]


def page_in(result: PGresult) -> Page:
    """Return what ``LOOK`` found of one log.

    Raises:
        ServerError: the log is gone.
    """
    return pages_in(require_log(result))[0][0]


def pages_in(result: PGresult) -> tuple[dict[int, Page], int]:
    """Return what ``LOOK`` found, by the place of the reader (from 0), and how many logs the store has."""
    pages: dict[int, Page] = {}
    logs = 0
    for row in range(result.ntuples):
        at, gen, generation, lineage, floor, known_id, end, last, last_id, *batches, logs_ = (
            result.get_value(row, column) for column in range(result.nfields)
        )
        logs = number_in(logs_)
        pages[number_in(at) - 1] = Page(
            number_in(gen),
            (generation or b"").hex(),
            (lineage or b"").hex(),
            number_in(floor),
            known_id,
            number_in(end),
            number_in(last),
            last_id,
            *(each or b"" for each in batches),
        )
    return pages, logs
