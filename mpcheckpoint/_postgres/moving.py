"""Logs of a server on their way: read in one snapshot, and made of the logs of another storage.

Both run in one transaction of a session of their own. So what is read is of one moment whatever is compacted meanwhile;
and of a log that was not made to the end, the server itself leaves nothing.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from mpcheckpoint._format.control import MAX_PREVIOUS, Header
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._postgres.faults import NO_SUCH_STORE, ConnectionLostError, ServerError, UnreachableError
from mpcheckpoint._postgres.next_generation import add_leading
from mpcheckpoint._postgres.place import FLUSH
from mpcheckpoint._postgres.read import LOOK, START, header_of, page_in, parameters_of
from mpcheckpoint._postgres.rows import body_of, bytea_array, int8, int8_array, new_id, number_in
from mpcheckpoint._postgres.session import BEGIN, COMMIT, Call, lock_timeout, statement
from mpcheckpoint._postgres.sessions import told
from mpcheckpoint._store.moving import already_there, batches_of, came_from, content_of
from mpcheckpoint.errors import NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._postgres.session import Session
    from mpcheckpoint._postgres.sessions import Sessions
    from mpcheckpoint._store.moving import LogCut

# What schema.sql has as the first floor of a log: lower numbers are for what was dropped.
FIRST_FLOOR = 1_048_576
_AT_ONCE_BYTES = 4 * 1024 * 1024
_AT_ONCE = 5000

_SNAPSHOT = statement("cut_begin", "begin isolation level repeatable read, read only")
_HEADS = statement(
    "heads_1",
    """
    select l.id, l.key, l.generation, l.lineage,
        (select string_agg(u.g, '' order by u.n) from unnest(l.previous) with ordinality u (g, n)),
        l.restored, greatest(l.floor_stamp_us, b.stamp_us), coalesce(b.number, l.floor_number) - l.removed_bytes
    from mpcheckpoint.store s left join mpcheckpoint.log l on l.store = s.id left join lateral (
        select b.number, b.stamp_us from mpcheckpoint.batch b where b.gen = l.gen order by b.number desc limit 1
    ) b on true
    where s.id = $1::bigint order by l.key
    """,
)
_EXISTS = statement(
    "adopt_exists_1",
    "select id from mpcheckpoint.log where store = $1::bigint and key_hash = sha256($2::bytea)",
)
# Of no condition was a part of these judged: a reader that has seen any of them has seen them all.
_ADD = statement(
    "adopt_batches_1",
    "insert into mpcheckpoint.batch select $1::bigint, n.number, n.stamp_us, n.lines, gen_random_uuid(), '{}', n.body "
    "from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[]) n (number, stamp_us, lines, body)",
)
_LOCK_STORE = statement(
    "adopt_store_1", "select id from mpcheckpoint.store where id = $1::bigint for no key update"
)
_HEAD = statement(
    "adopt_head_1",
    "insert into mpcheckpoint.log (id, store, key, gen, generation, lineage, previous, restored, floor_number, "
    "floor_stamp_us, removed_bytes) values ($1::bigint, $2::bigint, $3::bytea, $4::bigint, $5::bytea, $6::bytea, "
    "$7::bytea[], $8::bytea, $9::bigint, $10::bigint, $11::bigint) on conflict do nothing",
)
_COUNT = statement("adopt_count_1", "update mpcheckpoint.store set logs = logs + 1 where id = $1::bigint")


class SnapshotLog:
    """A log as a snapshot has it. See ``LogCut``."""

    is_of_one_moment = True

    def __init__(
        self, session: Session, place: str, log_id: int, header: Header, last_us: int, size: int
    ) -> None:
        self._session = session
        self._place = place
        self._id = log_id
        self.header = header
        self.last_us = last_us
        self.size_bytes = size

    def lines(self) -> Iterator[Lines]:
        """Yield what it holds, some megabytes at a time."""
        number = START
        while True:
            with told(f"reading the log {self.header.log_key!r}", self._place, is_read=True):
                page = page_in(self._session.read_one(LOOK, *parameters_of([(self._id, None, number)])))
            if not page.ends:
                return
            if lines := page.lines():
                yield lines
            number = page.last


@contextmanager
def cut_of_store(
    sessions: Sessions, store_id: int, *, retry_s: float, read_only: bool
) -> Iterator[Sequence[SnapshotLog]]:
    """Give all logs of a store as one snapshot has them. See ``Movable.cut``."""
    what, place = "reading the logs", sessions.place
    with told(what, place, is_read=True), sessions.another(what) as session:
        found = session.call(Call(_SNAPSHOT, is_last=False), Call(_HEADS, [int8(store_id)]))[1]
        if not read_only:
            # What the snapshot shows was committed before this: it is durable once this is.
            sessions.read(lambda main: main.call_one(FLUSH), what, retry_s=retry_s)
        if not found.ntuples:
            raise ServerError(NO_SUCH_STORE, "no such store")
        logs = []
        for row in range(found.ntuples):
            log_id, key, *names, last_us, size = (
                found.get_value(row, column) for column in range(found.nfields)
            )
            if key is None:
                break  # the store has no logs
            header = header_of((key or b"").decode(), *names)
            logs.append(
                SnapshotLog(session, place, number_in(log_id), header, number_in(last_us), number_in(size))
            )
        yield sorted(logs, key=lambda log: log.header.log_key)


class Adoption:
    """Makes a log of a store of what another one held. See ``Movable.adopt_log``.

    Invariant: until the commit nobody sees any of it; the store's row is locked for the last step only.
    """

    def __init__(self, sessions: Sessions, store_id: int, log: LogCut, pace: Callable[[int], None]) -> None:
        self._sessions = sessions
        self._store_id = store_id
        self._log = log
        self._pace = pace
        self._log_key = log.header.log_key
        self._key = self._log_key.encode()
        self._number = FIRST_FLOOR
        self._size = 0

    def run(self, timeout_s: float | None) -> None:
        """Make the log, durably: whole, or not at all."""
        what, place = f"copying the log {self._log_key!r}", self._sessions.place
        with told(what, place), self._sessions.another(what) as session:
            session.call(lock_timeout(timeout_s))
            session.call_one(BEGIN)
            if session.call_one(_EXISTS, int8(self._store_id), self._key).ntuples:
                raise already_there(self._log_key, place)
            gen = new_id()
            self._copy(session, gen)
            self._make_head(session, gen)
            try:
                session.call_one(COMMIT)
            except UnreachableError:
                raise  # it was not asked for
            except (ConnectionLostError, ServerError) as error:
                # A session that was ended at the commit may have committed.
                if isinstance(error, ServerError) and not error.is_of_session:
                    raise
                raise NoAnswerError(
                    f"{what} to {place}: the server gave no answer ({error}): the log is there, whole, or it is not. "
                    "Copy again to find out",
                    path=place,
                    reason="no answer",
                ) from None
        clock.observe(self._log.last_us)

    def _copy(self, session: Session, gen: int) -> None:
        leading, _, rest = content_of(self._log, self._pace)
        payloads = [payload for batch in leading for payload in batch]
        add_leading(session, gen, payloads)
        self._size = sum(len(body_of([payload])) for payload in payloads)
        waiting, size = _Waiting(), 0
        for lines in rest:
            ends = [index for index, more in enumerate(lines.mores) if not more]
            for batch, end in zip(batches_of(lines), ends, strict=True):
                body = body_of(batch)
                self._number += len(body)
                self._size += len(body)
                size += len(body)
                waiting.add(self._number, lines.stamps_us[end], len(batch), body)
                if size > _AT_ONCE_BYTES or len(waiting.numbers) == _AT_ONCE:
                    waiting.write(session, gen)
                    waiting, size = _Waiting(), 0
        waiting.write(session, gen)

    def _make_head(self, session: Session, gen: int) -> None:
        old = came_from(self._log)
        previous = [bytes.fromhex(each) for each in (*old.previous, old.generation)[-MAX_PREVIOUS:]]
        session.call_one(_LOCK_STORE, int8(self._store_id))
        made = session.call_one(
            _HEAD,
            int8(new_id()),
            int8(self._store_id),
            self._key,
            int8(gen),
            os.urandom(16),
            bytes.fromhex(old.lineage) or os.urandom(16),
            bytea_array(previous),
            msgspec.json.encode(old.restored),
            int8(self._number),
            int8(self._log.last_us),
            int8(self._number - self._size),
        )
        if not made.command_tuples:
            raise already_there(self._log_key, self._sessions.place)
        session.call_one(_COUNT, int8(self._store_id))


class _Waiting:
    """Batches that are still to be written."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._stamps_us: list[int] = []
        self._counts: list[int] = []
        self._bodies: list[bytes] = []

    def add(self, number: int, stamp_us: int, count: int, body: bytes) -> None:
        self.numbers.append(number)
        self._stamps_us.append(stamp_us)
        self._counts.append(count)
        self._bodies.append(body)

    def write(self, session: Session, gen: int) -> None:
        if self.numbers:
            columns = map(int8_array, (self.numbers, self._stamps_us, self._counts))
            session.call_one(_ADD, int8(gen), *columns, bytea_array(self._bodies))
