"""How a server is set for a store: how safe an append is when it returns, and what would get in the way."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from mpcheckpoint._postgres.rows import number_in, text_array
from mpcheckpoint._postgres.session import Call, statement
from mpcheckpoint._store.findings import BAD, OK, WARN, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg.pq.abc import PGresult

    from mpcheckpoint._postgres.session import Session

    Ask = Callable[[Callable[[Session], list[PGresult]]], list[PGresult]]

_ROUND_TRIPS = 20
_FEW_CONNECTIONS = 0.8
_SETTINGS = statement(
    "settings",
    "select name, coalesce(reset_val, ''), coalesce(unit, '') from pg_catalog.pg_settings where name = any("
    "'{fsync,full_page_writes,synchronous_commit,synchronous_standby_names,max_connections,server_version,"
    "data_checksums,idle_session_timeout,tcp_keepalives_idle,autovacuum,wal_sync_method}')",
)
_STATE = statement(
    "state",
    "select pg_is_in_recovery(), (select count(*) from pg_catalog.pg_stat_activity), "
    "(select count(*) from pg_catalog.pg_stat_replication where sync_state in ('sync', 'quorum')), "
    "(select count(*) from pg_catalog.pg_stat_replication)",
)
# What the roles of schema.sql have. All of the catalog: names of what a role may not enter cannot be looked up.
_NEEDED = {
    "select": ("version", "store", "log", "batch", "worker", "leftover"),
    "insert": ("store", "log", "batch", "worker", "leftover"),
    "update": ("store", "log", "worker"),
    "delete": ("batch", "worker", "leftover"),
}
# Rows: what this role lacks, a privilege and a name.
_PRIVILEGES = statement(
    "privileges",
    """
    with schema as (select oid from pg_catalog.pg_namespace where nspname = 'mpcheckpoint')
    select case when not exists (select from schema) then 'create' else 'usage' end, 'mpcheckpoint'
        where not case when exists (select from schema)
            then (select has_schema_privilege(oid, 'usage') from schema)
            else has_database_privilege(current_database(), 'create') end
    union all
    select n.privilege, 'mpcheckpoint.' || n.name
        from unnest($1::text[], $2::text[]) n (privilege, name)
        join pg_catalog.pg_class c on c.relname = n.name and c.relnamespace = (select oid from schema)
        where not has_table_privilege(c.oid, n.privilege)
    union all
    select 'execute', 'mpcheckpoint.' || p.proname
        from pg_catalog.pg_proc p where p.pronamespace = (select oid from schema)
        and not has_function_privilege(p.oid, 'execute')
    order by 1, 2
    """,
)
_NOTHING = statement("nothing", "select 1")


def examine(ask: Ask) -> Iterator[Finding]:
    """Yield how a server is set.

    Args:
        ask: calls an operation with a session, as ``Sessions.read``.
    """
    settings, is_standby, connections, synchronous, standbys = _facts(ask)
    yield _server(settings, is_standby=is_standby)
    yield _sync(settings)
    yield _standbys(settings, synchronous, standbys)
    yield _connections(settings, connections)
    yield _privileges(ask)
    yield _round_trip(ask)


def durability_of(ask: Ask) -> dict[str, object]:
    """Return how durable an append is when it returns: whether the server syncs, and how many standbys have it."""
    settings, _, _, synchronous, _ = _facts(ask)
    return {"is_synced": settings.get("fsync") == "on", "synchronous_standbys": synchronous}


def _facts(ask: Ask) -> tuple[dict[str, str], bool, int, int, int]:
    """Return the settings, whether the server is a standby, and how many there are of connections, of synchronous
    standbys and of standbys."""
    settings_of, state = ask(lambda session: session.call(Call(_SETTINGS), Call(_STATE)))
    settings = {
        (settings_of.get_value(row, 0) or b"").decode(): (settings_of.get_value(row, 1) or b"").decode()
        for row in range(settings_of.ntuples)
    }
    is_standby, connections = state.get_value(0, 0) == b"\1", number_in(state.get_value(0, 1))
    synchronous, standbys = number_in(state.get_value(0, 2)), number_in(state.get_value(0, 3))
    return (settings, is_standby, connections, synchronous, standbys)


def _server(settings: dict[str, str], *, is_standby: bool) -> Finding:
    version = settings.get("server_version", "unknown")
    if is_standby:
        text = f"PostgreSQL {version}, a standby: it can be read, and neither written nor asked who lives"
        return Finding("server", WARN, text, {"version": version})
    return Finding("server", OK, f"PostgreSQL {version}", {"version": version})


def _sync(settings: dict[str, str]) -> Finding:
    """Whether the server makes durable what it acknowledges. ``synchronous_commit`` each session sets itself."""
    figures = {
        name: settings.get(name, "unknown") for name in ("fsync", "full_page_writes", "data_checksums")
    }
    if figures["fsync"] != "on":
        text = "fsync is off: a crash of the machine loses or destroys what was acknowledged. Set it on"
        return Finding("sync", BAD, text, figures)
    if figures["full_page_writes"] != "on":
        text = (
            "full_page_writes is off: a power cut may leave half a page, unless the files cannot. Set it on"
        )
        return Finding("sync", WARN, text, figures)
    if figures["data_checksums"] != "on":
        text = "appends are on the server's disk when they return. Damage on it is not noticed: data_checksums is off"
        return Finding("sync", OK, text, figures)
    return Finding(
        "sync", OK, "appends are on the server's disk when they return, and checked for damage", figures
    )


def _standbys(settings: dict[str, str], synchronous: int, standbys: int) -> Finding:
    named = settings.get("synchronous_standby_names", "")
    figures = {"synchronous": synchronous, "standbys": standbys}
    if named and not synchronous:
        text = (
            f"synchronous_standby_names is {named!r}, and none of these is there: appends wait until one is. (Or this "
            "role may not see them.)"
        )
        return Finding("standbys", WARN, text, figures)
    if synchronous:
        text = f"appends are on {synchronous} standby servers, too, when they return"
        return Finding("standbys", OK, text.replace("1 standby servers", "a standby server"), figures)
    if standbys:
        text = "the standby servers lag behind: a promotion may lose what was acknowledged last, and readers are told"
        return Finding("standbys", WARN, text, figures)
    return Finding(
        "standbys", OK, "no standby server: what was appended is as safe as this server's disk", figures
    )


def _connections(settings: dict[str, str], connections: int) -> Finding:
    most = int(settings.get("max_connections", "0") or 0)
    figures = {"connections": connections, "most": most}
    if most and connections > _FEW_CONNECTIONS * most:
        text = f"{connections} of {most} connections are in use; each process takes one or two. Raise max_connections"
        return Finding("connections", WARN, text, figures)
    return Finding("connections", OK, f"{connections} of {most} connections are in use", figures)


def _privileges(ask: Ask) -> Finding:
    """What this role lacks of what a store takes."""
    needed = [(privilege, name) for privilege, names in _NEEDED.items() for name in names]
    columns = [text_array(column) for column in zip(*needed, strict=True)]
    (result,) = ask(lambda session: session.call(Call(_PRIVILEGES, columns)))
    lacking: dict[str, list[str]] = {}
    for row in range(result.ntuples):
        privilege, name = ((result.get_value(row, column) or b"").decode() for column in (0, 1))
        lacking.setdefault(privilege, []).append(name)
    if not lacking:
        return Finding("privileges", OK, "this role may do all that a store takes", {"lacking": {}})
    if "create" in lacking:
        text = (
            "there is no schema mpcheckpoint in the database, and this role may not make it: have an administrator "
            "open a store first, and grant this role what it needs"
        )
        return Finding("privileges", BAD, text, {"lacking": lacking})
    listed = "; ".join(f"{privilege} on {', '.join(names)}" for privilege, names in lacking.items())
    if lacking.keys() & {"usage", "select"}:
        text = f"this role may not read stores: it lacks {listed}"
        return Finding("privileges", BAD, text, {"lacking": lacking})
    text = f"this role may read stores, and not do all that writing takes: it lacks {listed}"
    return Finding("privileges", WARN, text, {"lacking": lacking})


def _round_trip(ask: Ask) -> Finding:
    """How long a message takes: an append takes at least one, and a sync."""
    times_s = []
    for _ in range(_ROUND_TRIPS):
        begun_s = time.perf_counter()
        ask(lambda session: session.call(Call(_NOTHING)))
        times_s.append(time.perf_counter() - begun_s)
    median_us = round(statistics.median(times_s) * 1e6)
    return Finding(
        "round trip", OK, f"a message and its answer take {median_us} us", {"median_us": median_us}
    )
