"""Handles on stores of a server, as tests open them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.store import PostgresStore
from mpcheckpoint.checkpoint import checkpoint_on

if TYPE_CHECKING:
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
