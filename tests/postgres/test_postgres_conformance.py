from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.store import PostgresStore
from mpcheckpoint.testing.conformance import StorageConformance

if TYPE_CHECKING:
    from pathlib import Path


class TestPostgres(StorageConformance):
    """The engine on a server."""

    def open_store(self, place: Path) -> PostgresStore:
        address = Address.parse(f"{os.environ['PG']}#{place.parent.name}-{place.name}")
        return PostgresStore(address, create=True, read_only=False, retry_s=10)
