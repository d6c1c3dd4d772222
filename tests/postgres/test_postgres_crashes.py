"""The server is killed under writers: what it acknowledged is there, once, and what it lost is said."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint.errors import (
    InvalidPositionError,
    ReadFailedError,
    RecordsLostError,
    StoreUnavailableError,
)
from mpcheckpoint.log import handle_of
from support import tally
from support.postgres.addresses import address_of
from support.postgres.handles import checkpoint_at
from support.postgres.standby import promote, standby_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Log, Position, Tail
    from mpcheckpoint.testing import AcknowledgementJournal, AcknowledgementWriter
    from support.postgres.cluster import Cluster
    from support.processes import Children

pytestmark = [pytest.mark.slow, pytest.mark.guarantee(1)]

_WRITERS = 3
_KILLS = 4


def _write(address: str, writer: AcknowledgementWriter, name: str) -> None:
    """Append to two logs until killed, in all ways; acknowledge each event once it is acknowledged to us."""
    with checkpoint_at(address, retry_s=120) as checkpoint:
        number = 0
        while True:
            log = checkpoint.log(f"{number % 2}")
            match number % 4:
                case 0:
                    log.append(name, number)
                case 1:
                    log.append_many([(name, number), (f"{name} too", number)])
                case 2:
                    log.append(name, number, record_id=f"{name} {number}")
                case 3:
                    with log.transaction() as transaction:
                        transaction.events(name)
                        transaction.append(name, number)
            writer.acknowledge(name, number)
            number += 1


def test_server_killed_under_writers_loses_nothing_that_it_acknowledged_and_doubles_nothing(
    make_postgres: Callable[..., Cluster],
    children: Children,
    acknowledgements: AcknowledgementJournal,
    intensity: int,
) -> None:
    cluster = make_postgres()
    address = cluster.create_database("d")
    with checkpoint_at(address, retry_s=120) as checkpoint:
        views = [checkpoint.log("0"), checkpoint.log("1")]
        for number in range(_WRITERS):
            children.start(_write, address, acknowledgements.writer, f"writer {number}")
        arrived = 0
        for _ in range(_KILLS * intensity):
            arrived = len(acknowledgements.wait_for(arrived + 20 * _WRITERS))
            time.sleep(random.uniform(0, 0.01))
            cluster.restart("kill")
            tally.add("kills", 1)
            for log in views:
                seen = _records(log)
                assert _replayed(address, log.log_key)[: len(seen)] == seen
        acknowledgements.wait_for(arrived + 10)
        children.kill_all()
        told = [tuple(values) for values in acknowledgements.acknowledged()]
        records = [record for log in views for record in _records(log)]
        for log in views:
            assert _records(log) == _replayed(address, log.log_key)
    found = [(name, event) for _, name, event in records if not name.endswith("too")]
    assert len(set(found)) == len(found)
    assert set(told) <= set(found)
    assert {number for _, number in told} >= set(range(10))
    batches = {(name, event) for name, event in found if event % 4 == 1}
    assert {(f"{name} too", event) for name, event in batches} == {
        (name, event) for _, name, event in records if name.endswith("too")
    }


def _records(log: Log) -> list[tuple[Position, str, Any]]:
    return [(record.position, record.object_key, record.event) for record in log.read()]


def _replayed(address: str, log_key: str) -> list[tuple[Position, str, Any]]:
    with checkpoint_at(address, read_only=True, retry_s=120) as replay:
        return _records(replay.log(log_key))


# --- what was not made durable -----------------------------------------------------------------------------


@pytest.fixture
def forgetful(make_postgres: Callable[..., Cluster]) -> Cluster:
    """Return a server that writes what was not synced only when it must."""
    return make_postgres({"wal_writer_delay": "10s", "wal_writer_flush_after": 0})


def test_server_that_lost_unsynced_appends_resets_views_and_tells_followers(forgetful: Cluster) -> None:
    address = forgetful.create_database("d")
    with (
        checkpoint_at(address) as durable,
        checkpoint_at(address, durability="never") as unsynced,
        checkpoint_at(address) as viewing,
    ):
        durable.log("a").append("x", "kept")
        log, view = unsynced.log("a"), viewing.log("a")
        follower = view.follow(idle_timeout_s=30)
        assert next(follower).event == "kept"
        for event in ("lost", "lost too"):
            log.append("x", event)
        assert view.events("x") == ("kept", "lost", "lost too")
        assert [next(follower).event for _ in range(2)] == ["lost", "lost too"]
        lost = [record.position for record in view.read()][-1]

        forgetful.restart("kill")
        tally.add("kills", 1)
        for event in ("other", "others"):  # as long as what was lost
            durable.log("a").append("x", event)

        assert durable.log("a").events("x") == ("kept", "other", "others")
        assert view.events("x") == ("kept", "other", "others")
        assert log.events("x") == ("kept", "other", "others")
        with pytest.raises(RecordsLostError):
            next(follower)
        with pytest.raises(InvalidPositionError):
            list(log.read(after=lost))
        with pytest.raises(RecordsLostError):
            log.flush()
        log.append("x", "last")
        log.flush()
        assert _records(view) == _replayed(address, "a")


@pytest.mark.parametrize("read_only", [False, True])
def test_server_that_is_killed_takes_back_nothing_that_was_given_as_durable(
    forgetful: Cluster, read_only: bool
) -> None:
    """What is visible is not always durable yet, however the server is set: an append may be on its way to the disk."""
    address = forgetful.create_database("d")
    with (
        checkpoint_at(address) as writing,
        checkpoint_at(address, durability="never") as unsynced,
        checkpoint_at(address, read_only=read_only) as reading,
    ):
        writing.log("a").append("x", "kept")
        visible, durable = writing.log("a").tail("start"), reading.log("a").tail("start", durable=True)
        assert _new(visible) == _new(durable) == ["kept"]

        unsynced.log("a").append("x", "lost")
        assert _new(visible) == ["lost"]
        forgetful.restart("kill")
        writing.log("a").append("x", "other")
        with pytest.raises(RecordsLostError):
            visible.new()
        assert _new(durable) == ["other"]

        unsynced.log("a").append("x", "taken")
        assert _new(durable) == ["taken"]
        forgetful.restart("kill")
        tally.add("kills", 2)
        writing.log("a").append("x", "last")
        assert _new(durable) == ["last"]
        assert writing.log("a").events("x") == ("kept", "other", "taken", "last")


def _new(tail: Tail) -> list[object]:
    return [record.event for record in tail.new()]


@pytest.mark.parametrize("is_synchronous", [True, False])
def test_standby_that_is_promoted_has_all_that_was_acknowledged_or_what_it_lacks_is_said(
    make_postgres: Callable[..., Cluster], is_synchronous: bool
) -> None:
    cluster = make_postgres()
    database = cluster.create_database("d").rpartition("/")[2]
    with standby_of(cluster, is_synchronous=is_synchronous) as standby:
        servers = [(each.host, each.port) for each in (cluster, standby)]
        with checkpoint_at(address_of(servers, database), retry_s=120) as checkpoint:
            log = checkpoint.log("a")
            log.append("x", 0)
            standby.wait_until(
                "select pg_last_wal_replay_lsn() >= %s::pg_lsn",
                cluster.execute("select pg_current_wal_lsn()::text")[0][0],
            )
            follower = log.follow(idle_timeout_s=30)
            assert next(follower).event == 0
            # What is acknowledged while an asynchronous standby is away is lost.
            if not is_synchronous:
                standby.configure(primary_conninfo="")
                cluster.wait_until("select count(*) = 0 from pg_stat_replication")
            log.append("x", 1)
            assert next(follower).event == 1
            assert log.events("x") == (0, 1)
            cluster.kill()
            promote(standby)

            log.append("x", 2)

            assert log.events("x") == ((0, 1, 2) if is_synchronous else (0, 2))
            if is_synchronous:
                assert next(follower).event == 2
            else:
                with pytest.raises(RecordsLostError):
                    next(follower)
            assert _records(log) == _replayed(standby.address(database), "a")


@pytest.mark.parametrize("way", ["plain", "transaction"])
def test_append_whose_primary_dies_while_the_standby_is_away_is_acknowledged_by_the_standby_alone(
    make_postgres: Callable[..., Cluster], way: str
) -> None:
    cluster = make_postgres()
    database = cluster.create_database("d").rpartition("/")[2]
    with standby_of(cluster, is_synchronous=True) as standby, ThreadPoolExecutor(1) as pool:
        servers = [(each.host, each.port) for each in (cluster, standby)]
        with checkpoint_at(address_of(servers, database), retry_s=120) as checkpoint:
            log = checkpoint.log("a")
            log.append("x", 0)
            standby.configure(primary_conninfo="")
            cluster.wait_until("select count(*) = 0 from pg_stat_replication")
            appended = pool.submit(_append, log, way)
            cluster.wait_until("select exists (select from pg_stat_activity where wait_event = 'SyncRep')")
            cluster.kill()
            assert not appended.done()
            promote(standby)
            appended.result()
            assert log.events("x") == (0, 1)
            assert _records(log) == _replayed(standby.address(database), "a")


def _append(log: Log, way: str) -> None:
    if way == "plain":
        log.append("x", 1)
    else:
        with log.transaction() as transaction:
            transaction.append("x", len(transaction.events("x")))


def test_condition_is_not_judged_by_a_standby(make_postgres: Callable[..., Cluster]) -> None:
    cluster = make_postgres()
    address = cluster.create_database("d")
    with checkpoint_at(address) as checkpoint, standby_of(cluster, is_synchronous=False) as standby:
        log = checkpoint.log("a")
        log.append("x", 0)
        caught_up = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        standby.wait_until(caught_up, cluster.execute("select pg_current_wal_lsn()::text")[0][0])
        standby.configure(primary_conninfo="")
        cluster.wait_until("select count(*) = 0 from pg_stat_replication")
        log.append("x", 1)

        # Whose address says "any" is led to a server that does not take writes.
        with checkpoint_at(f"{standby.address('d')}?target_session_attrs=any", retry_s=0.2) as elsewhere:
            for count in (1, 2):
                with pytest.raises(StoreUnavailableError):
                    elsewhere.log("a").append("x", 2, expected_count=count)


def test_handle_that_only_reads_reads_and_follows_on_a_standby(make_postgres: Callable[..., Cluster]) -> None:
    cluster = make_postgres()
    address = cluster.create_database("d")
    with checkpoint_at(address) as checkpoint, standby_of(cluster, is_synchronous=False) as standby:
        log = checkpoint.log("a")
        log.append("x", 0)
        standby_address = standby.address("d")
        caught_up = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        standby.wait_until(caught_up, cluster.execute("select pg_current_wal_lsn()::text")[0][0])
        with checkpoint_at(standby_address, read_only=True, retry_s=0.5) as reading:
            view = reading.log("a")
            follower = view.follow(idle_timeout_s=30)
            assert next(follower).event == 0
            log.append("x", 1)
            assert next(follower).event == 1
            assert view.events("x") == (0, 1)
            assert [record.event for record in view.read(durable=True)] == [0, 1]
            # Its locks are its own: it must not call a worker of the primary dead.
            with log.claim("x") as claim:
                assert claim is not None
                with pytest.raises(ReadFailedError, match="ask the primary"):
                    handle_of(view).workers.is_live(claim.worker)
