"""Handles on stores of a server, as tests open them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.store import PostgresStore
from mpcheckpoint.checkpoint import checkpoint_on

if TYPE_CHECKING:
    from psycopg import Connection

    from mpcheckpoint import Checkpoint


def store_on(
    address: str, name: str = "tests", *, create: bool = True, read_only: bool = False, retry_s: float = 20
) -> PostgresStore:
    """Return a store of a server, made unless it is there."""
    return PostgresStore(
        Address.parse(f"{address}#{name}"), create=create, read_only=read_only, retry_s=retry_s
    )


def checkpoint_at(
    address: str, name: str = "tests", *, read_only: bool = False, retry_s: float = 20, **options: Any
) -> Checkpoint:
    """Return a handle on a store of a server; ``options`` are those of `Checkpoint`."""
    store = store_on(address, name, create=not read_only, read_only=read_only, retry_s=retry_s)
    return checkpoint_on(store, create=not read_only, read_only=read_only, **options)


def lock_logs(connection: Connection[Any], log_key: str | None = None) -> None:
    """Have a connection hold the lock of a log, or of all logs of the database, until its transaction ends."""
    connection.execute("select set_config('mpcheckpoint.session', 'holder', true)")
    connection.execute(
        "select mpcheckpoint.lock_1('holder', id, null, null, null) from mpcheckpoint.log "
        "where %(key)s::bytea is null or key = %(key)s::bytea",
        {"key": None if log_key is None else log_key.encode()},
    )
