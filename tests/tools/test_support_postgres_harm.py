"""What else harms a server's clients does so: ended sessions, limits, pools, full disks, and links that are cut."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from support.capabilities import can_mount_tmpfs, require
from support.postgres.cluster import Cluster
from support.postgres.link import can_link, linked
from support.postgres.pooler import pooled, pooler_program
from support.postgres.small_disk import on_small_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children

# How soon TCP tells a client, or a server, that the other one is out of reach: in some 2 s.
IMPATIENT = "keepalives_idle=1&keepalives_interval=1&keepalives_count=1&tcp_user_timeout=1500"
IMPATIENT_SERVER: dict[str, str | int] = {
    "tcp_keepalives_idle": 1,
    "tcp_keepalives_interval": 1,
    "tcp_keepalives_count": 1,
    "tcp_user_timeout": 1500,
}


def database_of(address: str) -> str:
    return address.rpartition("/")[2]


def lock_in_transaction(address: str, writer: AcknowledgementWriter) -> None:
    signal.pthread_sigmask(
        signal.SIG_BLOCK, [signal.SIGUSR1]
    )  # so that it cannot come before it is waited for
    with closing(psycopg.connect(address)) as session:
        session.execute("SELECT pg_advisory_xact_lock(7)")
        writer.acknowledge("locked")
        signal.sigwait([signal.SIGUSR1])
        with pytest.raises(psycopg.errors.AdminShutdown):
            session.execute("SELECT 1")


# --- sessions --------------------------------------------------------------------------------------------------


def test_sessions_in_one_database_are_ended_and_no_others(postgres: Cluster, postgres_database: str) -> None:
    with (
        closing(psycopg.connect(postgres_database)) as one,
        closing(psycopg.connect(postgres_database)) as two,
        psycopg.connect(postgres.address()) as other,
    ):
        assert postgres.terminate_sessions(database_of(postgres_database)) == 2

        for session in (one, two):
            with pytest.raises(psycopg.errors.AdminShutdown):
                session.execute("SELECT 1")
        other.execute("SELECT 1")


def test_sessions_of_all_clients_are_ended(make_postgres: Callable[..., Cluster]) -> None:
    cluster = make_postgres(fsync=False)
    with closing(psycopg.connect(cluster.address())), cluster.admin():
        assert cluster.terminate_sessions() == 2


def test_client_that_stands_still_keeps_its_lock_until_its_session_is_ended(
    postgres: Cluster, postgres_database: str, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    client = children.start(lock_in_transaction, postgres_database, acknowledgements.writer)
    acknowledgements.wait_for(1)
    client.stop()

    database, take = database_of(postgres_database), "SELECT pg_try_advisory_lock(7)"
    assert postgres.execute(take, database=database) == [(False,)]
    assert postgres.terminate_sessions(database) == 1
    assert postgres.execute(take, database=database) == [(True,)]

    os.kill(client.pid, signal.SIGUSR1)
    client.resume()
    assert client.wait() == 0


def test_client_beyond_the_limit_is_refused(postgres: Cluster, postgres_database: str) -> None:
    postgres.limit_sessions(database_of(postgres_database), 1)
    with (
        psycopg.connect(postgres_database),
        pytest.raises(psycopg.OperationalError, match="too many connections"),
    ):
        psycopg.connect(postgres_database)
    postgres.limit_sessions(database_of(postgres_database), -1)
    with psycopg.connect(postgres_database), psycopg.connect(postgres_database):
        pass


# --- pools -----------------------------------------------------------------------------------------------------


def test_pool_of_transactions_gives_one_session_to_two_clients(
    postgres: Cluster, postgres_database: str
) -> None:
    require(pooler_program() is not None, "PgBouncer is not installed (Debian: pgbouncer)")
    with (
        pooled(postgres, database_of(postgres_database)) as address,
        psycopg.connect(address, autocommit=True) as one,
        psycopg.connect(address, autocommit=True) as two,
    ):
        for session in (one, two):  # the trap of such pools
            assert session.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (True,)
        sessions = {session.execute("SELECT pg_backend_pid()").fetchone() for session in (one, two)}

    assert len(sessions) == 1


def test_pool_of_sessions_gives_each_client_its_own(postgres: Cluster, postgres_database: str) -> None:
    require(pooler_program() is not None, "PgBouncer is not installed (Debian: pgbouncer)")
    with (
        pooled(postgres, database_of(postgres_database), mode="session", sessions=2) as address,
        psycopg.connect(address, autocommit=True) as one,
        psycopg.connect(address, autocommit=True) as two,
    ):
        assert one.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (True,)
        assert two.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (False,)


# --- disks -----------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("loop")
def test_full_disk_of_data_refuses_writes_until_there_is_room(
    public_tmp_path: Path, postgres_template: Path
) -> None:
    require(can_mount_tmpfs(), "a small disk needs root, to mount a tmpfs")
    with on_small_disk(public_tmp_path, "data", template=postgres_template) as (cluster, disk):
        cluster.execute("CREATE TABLE kept (x text)")
        disk.fill()
        write = "INSERT INTO kept SELECT repeat('x', 1000) FROM generate_series(1, 10000)"
        with pytest.raises(psycopg.errors.DiskFull):
            cluster.execute(write)

        disk.empty()
        cluster.execute(write)

        assert cluster.execute("SELECT count(*) FROM kept") == [(10_000,)]


@pytest.mark.xdist_group("loop")
def test_full_disk_of_the_log_ends_the_server_and_with_room_again_it_has_what_was_committed(
    public_tmp_path: Path, postgres_template: Path
) -> None:
    require(can_mount_tmpfs(), "a small disk needs root, to mount a tmpfs")
    with on_small_disk(public_tmp_path, "wal", template=postgres_template) as (cluster, disk):
        cluster.execute("CREATE TABLE kept (x text)")
        cluster.execute("INSERT INTO kept VALUES ('early')")
        disk.fill()
        with pytest.raises(psycopg.OperationalError):
            cluster.execute("INSERT INTO kept SELECT repeat('x', 1000) FROM generate_series(1, 100000)")

        disk.empty()
        cluster.restart("kill")

        assert cluster.execute("SELECT x FROM kept") == [("early",)]
        assert "PANIC" in cluster.log_file.read_text()


# --- links -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _linked_cluster(postgres_template: Path) -> Iterator[Cluster]:
    require(can_link(), "a link needs root, and network name spaces with ip, unshare and nsenter")
    with Cluster(template=postgres_template, own_network=True, in_memory=True) as cluster:
        yield cluster


@pytest.fixture
def linked_cluster(_linked_cluster: Cluster) -> Cluster:
    """Return a running cluster that has a network of its own, and no link yet."""
    return _linked_cluster


def test_link_that_is_cut_tells_neither_end_until_its_patience_is_over(linked_cluster: Cluster) -> None:
    linked_cluster.configure(**IMPATIENT_SERVER)
    with linked(linked_cluster) as link:
        address = f"{linked_cluster.address()}?{IMPATIENT}"
        with closing(psycopg.connect(address, autocommit=True)) as session:
            session.execute("SELECT pg_advisory_lock(7)")
            link.cut()

            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")

            linked_cluster.wait_until("SELECT pg_try_advisory_lock(7)")


def test_link_that_is_mended_in_time_has_lost_nothing(linked_cluster: Cluster) -> None:
    linked_cluster.configure(**dict.fromkeys(IMPATIENT_SERVER, 0))  # the system's own patience
    with (
        linked(linked_cluster) as link,
        ThreadPoolExecutor(1) as thread,
        psycopg.connect(linked_cluster.address(), autocommit=True) as session,
    ):
        link.cut()
        locking = thread.submit(session.execute, "SELECT pg_advisory_lock(7)")
        assert linked_cluster.execute("SELECT pg_try_advisory_lock(7)") == [(True,)]
        assert not locking.done()

        link.mend()
        locking.result(60)


def test_link_goes_with_its_server(linked_cluster: Cluster) -> None:
    with linked(linked_cluster), psycopg.connect(linked_cluster.address()):
        linked_cluster.restart("kill")
    with linked(linked_cluster), psycopg.connect(linked_cluster.address()):
        pass
