"""The engine on a server passes the conformance suite."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.store import PostgresStore
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.fencing import FencingTests
from mpcheckpoint.testing.conformance import StorageConformance

if TYPE_CHECKING:
    from pathlib import Path

    from support.postgres.cluster import Cluster


class _OnServer(StorageUnderTest):
    database: str

    @pytest.fixture(autouse=True)
    def _use_database(self, postgres_database: str) -> None:
        self.database = postgres_database

    def open_store(self, place: Path) -> PostgresStore:
        told = place.parent / "address"  # for the processes that tests start
        if not told.exists():
            writing = told.with_name(f"address {threading.get_ident()}")
            writing.write_text(self.database, encoding="utf-8")
            writing.replace(told)  # whole, for other threads
        address = Address.parse(f"{told.read_text(encoding='utf-8')}#{place.parent.name}-{place.name}")
        return PostgresStore(address, create=True, read_only=False, retry_s=self.patience_s)


@pytest.mark.guarantee(2)
@pytest.mark.guarantee(3)
@pytest.mark.guarantee(4)
@pytest.mark.guarantee(5)
@pytest.mark.guarantee(7)
@pytest.mark.guarantee(8)
@pytest.mark.guarantee(10)
class TestPostgres(_OnServer, StorageConformance):
    """The engine on a server."""

    finishes_for_the_dead = True


@pytest.mark.guarantee(7)
class TestLostSessions(_OnServer, FencingTests):
    """Workers that are dead since the server ended their sessions."""

    @pytest.fixture(autouse=True)
    def _use_cluster(self, postgres: Cluster) -> None:
        self.cluster = postgres

    def end_worker(self, place: Path, worker_id: str) -> None:
        self.cluster.terminate_sessions(self.database.rpartition("/")[2])
        workers = self.open_store(place).workers
        assert not workers.is_live(worker_id)
        workers.clear()
