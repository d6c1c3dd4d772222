"""The conformance tests of storages that crash, or do not answer, on a server of their own that does both."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint._postgres.append import APPEND
from mpcheckpoint._postgres.faults import ConnectionLostError
from mpcheckpoint._postgres.session import Session
from mpcheckpoint.log import handle_of
from mpcheckpoint.testing._conformance.losses import LossTests
from mpcheckpoint.testing._conformance.lost_answers import LostAnswerTests
from support.postgres.handles import store_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from psycopg.pq.abc import PGresult

    from mpcheckpoint._postgres.session import Call
    from mpcheckpoint._postgres.store import PostgresStore
    from support.postgres.cluster import Cluster

_EVERY_OTHER = 2


class _OnServer:
    """Stores on a server."""

    cluster: Cluster
    database: str
    patience_s: float

    def open_store(self, place: Path) -> PostgresStore:
        name = f"{place.parent.name}-{place.name}"
        return store_on(self.database, name, retry_s=self.patience_s)


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(5)
@pytest.mark.xdist_group("a server that is killed")
class TestServerThatCrashes(_OnServer, LossTests):
    """A server that is killed, and starts anew without what it had not synced."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _server(cls, postgres_template: Path) -> Any:
        from support.postgres.cluster import Cluster

        with Cluster(template=postgres_template, in_memory=True) as cluster:
            cls.cluster = cluster
            cls.database = cluster.create_database("d")
            cls.stop_background_writer()
            yield

    @classmethod
    def stop_background_writer(cls) -> None:
        """Have nobody sync what nobody waits for: it is not on the disk when the server is killed."""
        writers = "from pg_stat_activity where backend_type = 'walwriter'"
        cls.cluster.wait_until(f"select exists (select {writers})")  # a server may answer before it runs
        (found,) = cls.cluster.execute(f"select pid {writers}")
        os.kill(found[0], signal.SIGSTOP)

    def lose_end(self, place: Path) -> None:
        del place  # it is all of the server that crashes
        self.cluster.kill()
        self.cluster.start()
        self.stop_background_writer()

    def test_claim_of_a_worker_that_lives_on_is_not_lost(self) -> None:
        """No worker lives on where a server crashes: its lock ends with the session. The claim is there still."""
        log = self.open_handle().log("a")
        with log.claim("x") as claim:
            assert claim is not None
            self.lose_end(self.place)
            assert not self.open_store(self.place).workers.is_live(claim.worker)
            assert (
                handle_of(self.open_handle().log("a")).query(lambda view: view.claim_of("x")) == claim.worker
            )


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
class TestServerThatDoesNotAnswer(_OnServer, LostAnswerTests):
    """A server that does what it is asked, of which nobody hears."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database, self._monkeypatch = postgres_database, monkeypatch

    def lossy_store(self, place: Path) -> PostgresStore:
        self._monkeypatch.setattr(Session, "call", _losing_answers(Session.call))
        return self.open_store(place)


def _losing_answers(really: Callable[..., list[PGresult]]) -> Callable[..., list[PGresult]]:
    count = 0

    def call(session: Session, *calls: Call, **how: Any) -> list[PGresult]:
        nonlocal count
        results = really(session, *calls, **how)
        count += any(each.statement is APPEND for each in calls)
        if count == _EVERY_OTHER:
            count = 0
            session.close()
            raise ConnectionLostError("the answer was lost")
        return results

    return call
