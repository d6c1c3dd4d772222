"""The least that a durable append to a server can be: a lock, the last number, a row, a commit, and nothing else.

What ``postgres.py --flat`` puts beside the engine, to tell what the server and a round trip cost from what we add. It
judges nothing, retries nothing, tells nobody, and knows neither ids of batches nor what a line is about.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

import msgspec
from psycopg import connect, pq

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FLAT = "flat"
# Any number.
_LOCK = 4_242
_SCHEMA = f"""
create schema if not exists mpcheckpoint_flat;
create table if not exists mpcheckpoint_flat.batch (
    store text, number bigint, stamp_us bigint, lines integer, body bytea, primary key (store, number)
);
create or replace function mpcheckpoint_flat.append(
    p_store text, p_stamp_us bigint, p_lines integer, p_body bytea, p_is_durable boolean
) returns bigint language plpgsql as $$
declare
    v_done text;
    v_number bigint;
    v_stamp_us bigint;
begin
    if not p_is_durable then
        v_done := set_config('synchronous_commit', 'off', true);
    end if;
    v_done := pg_advisory_xact_lock({_LOCK}, hashtext(p_store))::text;
    select b.number, b.stamp_us into v_number, v_stamp_us
        from mpcheckpoint_flat.batch b where b.store = p_store order by b.number desc limit 1;
    v_number := coalesce(v_number, 0) + length(p_body);
    insert into mpcheckpoint_flat.batch
        values (p_store, v_number, greatest(coalesce(v_stamp_us, 0) + 1, p_stamp_us), p_lines, p_body);
    return v_number;
end $$
"""
_APPEND = "select mpcheckpoint_flat.append($1::text, $2::bigint, $3::integer, $4::bytea, $5::boolean)"
_FLUSH = "select pg_logical_emit_message(true, 'flat', '')"


class FlatLog:
    """A log in a table, for one thread.

    Attributes:
        is_apart: whether commits do not wait for the disk, and a second transaction in the same message does: for
            several processes.
    """

    def __init__(self, address: str, *, is_apart: bool) -> None:
        conninfo, _, store = address.partition("#")
        self._store = store.encode()
        self.is_apart = is_apart
        self._whole = connect(conninfo, autocommit=True)
        self._whole.execute("select pg_advisory_lock(%s)", [_LOCK])
        self._whole.execute(_SCHEMA)
        self._whole.execute("select pg_advisory_unlock(%s)", [_LOCK])
        self._connection = self._whole.pgconn
        for name, sql in ((b"append", _APPEND), (b"flush", _FLUSH)):
            self._connection.prepare(name, sql.encode())
        self._connection.enter_pipeline_mode()

    def append(self, object_key: str, event: object) -> None:
        """Append one record, durably."""
        self.append_many([(object_key, event)])

    def append_many(self, records: Sequence[tuple[str, object]]) -> None:
        """Append some records, durably."""
        body = msgspec.json.encode(records)
        connection, is_durable = self._connection, b"\0" if self.is_apart else b"\1"
        stamp = struct.pack("!q", time.time_ns() // 1000)
        parameters = [self._store, stamp, struct.pack("!i", len(records)), body, is_durable]
        connection.send_query_prepared(b"append", parameters, [1] * 5, 1)
        connection.pipeline_sync()
        syncs = 1
        if self.is_apart:
            connection.send_query_prepared(b"flush", [], None, 1)
            connection.pipeline_sync()
            syncs = 2
        while syncs:
            result = connection.get_result()  # which waits
            if result is None:
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                syncs -= 1
            elif result.status != pq.ExecStatus.TUPLES_OK:
                raise RuntimeError(result.error_message.decode())

    def read(self) -> Iterator[object]:
        """Yield all records."""
        self._connection.exit_pipeline_mode()
        rows = self._whole.execute(
            "select body from mpcheckpoint_flat.batch where store = %s order by number",
            [self._store.decode()],
        )
        for (body,) in rows.fetchall():
            yield from msgspec.json.decode(body)

    def close(self) -> None:
        """End the session."""
        self._whole.close()
