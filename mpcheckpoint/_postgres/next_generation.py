"""The next generation of a log of a server, while a compaction writes it; and what compactions have left over."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from mpcheckpoint._postgres.faults import ServerError
from mpcheckpoint._postgres.read import START
from mpcheckpoint._postgres.rows import body_of, bytea_array, int4, int8, int8_array, new_id, number_in
from mpcheckpoint._postgres.session import Call, statement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._postgres.batches import Batches
    from mpcheckpoint._postgres.place import LogPlace
    from mpcheckpoint._postgres.session import Session

_LEADING_BYTES = 16 * 1024 * 1024
_DELETED_AT_ONCE = 5000

_NEXT_GEN = statement(
    "next_gen_1",
    "insert into mpcheckpoint.leftover values ($1::bigint, $2::bigint)",
)
_ADD = statement(
    "add_1",
    "insert into mpcheckpoint.batch "
    "values ($1::bigint, $2::bigint, $3::bigint, $4::integer, $5::uuid, '{}', $6::bytea)",
)
# $1: from which generation, $2: into which. $3, $4: after and up to which number; but for those in $5.
_COPY = statement(
    "copy_1",
    "insert into mpcheckpoint.batch select $2::bigint, b.number, b.stamp_us, b.lines, b.id, b.concerns, b.body "
    "from mpcheckpoint.batch b where b.gen = $1::bigint and b.number > $3::bigint and b.number <= $4::bigint "
    "and not b.number = any($5::bigint[])",
)
# $3: numbers, $4: the bodies that those batches have from now on; an empty one leaves the id alone.
_CHANGE = statement(
    "change_1",
    "insert into mpcheckpoint.batch select $2::bigint, b.number, b.stamp_us, "
    "case when length(n.body) = 0 then 0 else b.lines end, b.id, b.concerns, n.body "
    "from unnest($3::bigint[], $4::bytea[]) n (number, body) "
    "join mpcheckpoint.batch b on b.gen = $1::bigint and b.number = n.number",
)
_LEFTOVER = statement(
    "leftover_1",
    "select r.gen from mpcheckpoint.leftover r join mpcheckpoint.log l on l.id = r.log "
    "where r.log = $1::bigint and r.gen <> l.gen",
)
_DELETE = statement(
    "delete_1",
    "delete from mpcheckpoint.batch where gen = $1::bigint and number <= (select max(b.number) from (select number "
    f"from mpcheckpoint.batch where gen = $1::bigint order by number limit {_DELETED_AT_ONCE}) b)",
)
_SIZE = statement(
    "kept_size_1",
    "select coalesce(sum(length(b.body)), 0)::bigint from mpcheckpoint.batch b where b.gen = $1::bigint "
    "and b.number > $2::bigint and b.number <= $3::bigint and not b.number = any($4::bigint[])",
)
_DELETED = statement("deleted_1", "delete from mpcheckpoint.leftover where gen = $1::bigint")
logger = logging.getLogger("mpcheckpoint")


class NextGeneration:
    """The next generation of a log: rows that no head names.

    Attributes:
        gen, generation: its number, and its name.
    """

    def __init__(self, session: Session, place: LogPlace, source: int) -> None:
        """Begin a copy of the generation ``source``. Requires: the compaction lock."""
        self._session = session
        self._source = source
        self.generation = os.urandom(16)
        self.gen = new_id()
        session.call_one(_NEXT_GEN, int8(place.id), int8(self.gen))

    def add_leading(self, leading: Sequence[Payload]) -> None:
        """Write the lines that say what was dropped, below the numbers of all batches."""
        add_leading(self._session, self.gen, leading)

    def add(self, batches: Batches, changed: Mapping[int, bytes | None]) -> None:
        """Write what stays of some batches; ``changed`` as ``Batches.changed`` says it."""
        if not batches.ends:
            return
        old, new = int8(self._source), int8(self.gen)
        copying = Call(
            _COPY, (old, new, int8(batches.after), int8(batches.ends[-1]), int8_array(list(changed)))
        )
        bodies = {number: body for number, body in changed.items() if body is not None}
        changing = Call(_CHANGE, (old, new, int8_array(list(bodies)), bytea_array(list(bodies.values()))))
        self._session.call(copying, *([changing] if bodies else []))


def add_leading(session: Session, gen: int, leading: Sequence[Payload]) -> None:
    """Write the lines that say what was dropped to a generation, below the numbers of all batches."""
    number, rest = START, list(leading)
    while rest:
        count = size = 0
        while count < len(rest) and (not count or size + len(rest[count].event) < _LEADING_BYTES):
            size += len(rest[count].event)
            count += 1
        number += count
        lines = int4(count), os.urandom(16), body_of(rest[:count])
        session.call_one(_ADD, int8(gen), int8(number), int8(0), *lines)
        del rest[:count]


def kept_bytes(session: Session, gen: int, batches: Batches, changed: Mapping[int, bytes | None]) -> int:
    """Return how many bytes are left of some batches of a generation."""
    numbers = int8(gen), int8(batches.after), int8(batches.ends[-1]), int8_array(list(changed))
    same = number_in(session.call_one(_SIZE, *numbers).get_value(0, 0))
    return same + sum(len(body or b"") for body in changed.values())


def remove_leftovers(session: Session, place: LogPlace) -> None:
    """Remove the rows of generations that the log is not in. Requires: the compaction lock."""
    found = session.call_one(_LEFTOVER, int8(place.id))
    for row in range(found.ntuples):
        gen = found.get_value(row, 0)
        while session.call_one(_DELETE, gen).command_tuples:
            pass
        session.call_one(_DELETED, gen)


def vacuum(session: Session, place: LogPlace) -> None:
    """Have the server let go of what was removed, as far as we may ask."""
    try:
        session.script("vacuum mpcheckpoint.batch")
    except ServerError as error:
        logger.warning(
            "what was removed of the log %r of %s is in the files of the server until it vacuums "
            "mpcheckpoint.batch: %s",
            place.log_key,
            place.place,
            error,
        )
