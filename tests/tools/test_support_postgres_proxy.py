"""The proxy in front of a PostgreSQL passes everything on, counts what it passed, and loses what it is told to lose."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.pq import ExecStatus

from support import process_tree
from support.postgres.addresses import HOST, address_of
from support.postgres.cuts import Counts, Cut
from support.postgres.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.postgres.cluster import Cluster
    from support.postgres.cuts import How, Sides, Unit, When
    from support.processes import Children

INSERT = "INSERT INTO kept VALUES (1)"
OF_A_STATEMENT = ["Parse", "Bind", "Describe", "Execute", "Sync"]


@pytest.fixture
def kept(postgres_database: str) -> Iterator[psycopg.Connection]:
    """Yield a session, past every proxy, in a database with a table that tests insert into."""
    with psycopg.connect(postgres_database, autocommit=True) as session:
        session.execute("CREATE TABLE kept (x int)")
        yield session


def through(proxy: Proxy, session: psycopg.Connection) -> psycopg.Connection:
    """Return another session in the same database by way of a proxy."""
    return psycopg.connect(proxy.address(session.info.dbname), autocommit=True, prepare_threshold=None)


def is_kept(session: psycopg.Connection) -> bool:
    return session.execute("SELECT count(*) FROM kept").fetchone() == (1,)


def send_pipeline(session: psycopg.Connection, statements: int) -> None:
    """Send so many inserts, each with a sync, and wait for nothing."""
    session.pgconn.enter_pipeline_mode()
    for _ in range(statements):
        session.pgconn.send_query_params(INSERT.encode(), None)
        session.pgconn.pipeline_sync()
    assert session.pgconn.flush() == 0


def take_answer(session: psycopg.Connection) -> list[bytes | None] | None:
    """Return what the server says it did until the next sync of a pipeline; None if the connection is lost."""
    done = []
    while True:
        result = session.pgconn.get_result()
        if result is None:
            continue  # so ends each statement
        if result.status == ExecStatus.PIPELINE_SYNC:
            return done
        if result.status == ExecStatus.FATAL_ERROR:
            return None
        done.append(result.command_status)


def run_proxy_for_ever(writer: AcknowledgementWriter) -> None:
    with Proxy(HOST, 1) as proxy:
        writer.acknowledge(proxy._process.pid)
        signal.pause()


# --- counted ---------------------------------------------------------------------------------------------------


def test_statement_is_one_round_trip_and_each_of_its_messages_is_heard(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with through(proxy, kept) as session, proxy.counting() as counted:
        session.execute("INSERT INTO kept VALUES (%s)", [1])

    assert counted.counts == Counts(connections=0, messages=5, syncs=1, round_trips=1)
    assert [heard.split()[0] for heard in counted.heard] == OF_A_STATEMENT
    assert counted.heard[0] == "Parse INSERT INTO kept VALUES ($1)"
    assert is_kept(kept)


def test_transaction_is_counted_by_its_statements(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with proxy.counting() as counted, through(proxy, kept) as session, session.transaction():
        session.execute(INSERT)

    assert counted.counts == Counts(connections=1, messages=3, syncs=3, round_trips=3)
    assert counted.heard == ["Query BEGIN", f"Query {INSERT}", "Query COMMIT"]


def test_pipeline_is_one_round_trip_however_many_syncs_it_has(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy(latency_s=0.2)
    with through(proxy, kept) as session, proxy.counting() as counted:
        send_pipeline(session, 3)
        for _ in range(3):
            assert take_answer(session) == [b"INSERT 0 1"]

    assert (counted.counts.syncs, counted.counts.round_trips) == (3, 1)
    assert [heard.split()[0] for heard in counted.heard] == OF_A_STATEMENT * 3


def test_notice_that_nobody_asked_for_is_no_answer(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with through(proxy, kept) as session:
        session.execute("LISTEN here")
        with proxy.counting() as counted:
            kept.execute("NOTIFY here")
            assert [notice.channel for notice in session.notifies(timeout=30, stop_after=1)] == ["here"]

    assert counted.counts == Counts()


# --- passed on -------------------------------------------------------------------------------------------------


def test_megabytes_pass_unchanged_both_ways(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    text = "0123456789abcdef" * 200_000
    with through(make_proxy(), kept) as session:
        assert session.execute("SELECT %s::text || %s::text", [text, text]).fetchone() == (text + text,)


def test_client_that_does_not_read_holds_up_no_other(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with closing(through(proxy, kept)) as idle, through(proxy, kept) as session:
        idle.pgconn.send_query(b"SELECT repeat('x', 30000000)")

        session.execute(INSERT)

    assert is_kept(kept)


def test_wrong_password_and_a_server_that_is_not_there_are_told_to_the_client(
    postgres: Cluster, make_proxy: Callable[..., Proxy]
) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_proxy().address(password="wrong"))
    with Proxy(HOST, 1) as proxy, pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.address())


# --- cut -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize(
    ("when", "is_written", "is_acknowledged"),
    [
        ("before request", False, False),
        ("within request", False, False),
        ("after request", None, False),
        ("before answer", True, False),
        ("within answer", True, False),
        ("after answer", True, True),
    ],
)
def test_connection_is_cut_where_it_shall_be(
    when: When,
    is_written: bool | None,
    is_acknowledged: bool,
    how: How,
    kept: psycopg.Connection,
    make_proxy: Callable[..., Proxy],
) -> None:
    proxy = make_proxy()
    with closing(through(proxy, kept)) as session:
        proxy.cut(2, when, how)
        session.execute("SELECT 1")
        assert not proxy.is_cut()

        try:
            session.execute(INSERT)
        except psycopg.OperationalError:
            was_acknowledged = False
        else:
            was_acknowledged = True

        proxy.wait_cut()
        assert was_acknowledged == is_acknowledged
        assert is_written in {None, is_kept(kept)}
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    with through(proxy, kept) as session:
        session.execute("SELECT 1")


@pytest.mark.parametrize("nth", range(1, 6), ids=OF_A_STATEMENT)
def test_connection_is_cut_before_each_message_of_a_statement(
    nth: int, kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with closing(through(proxy, kept)) as session:
        proxy.cut(nth, "before request", unit="message")
        with proxy.counting() as counted, pytest.raises(psycopg.OperationalError):
            session.execute("INSERT INTO kept VALUES (%s)", [1])

    assert counted.counts.messages == nth
    assert not is_kept(kept)


def test_answer_lost_in_the_middle_of_a_pipeline_leaves_the_answers_before_it(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with closing(through(proxy, kept)) as session:
        proxy.cut(2, "before answer")
        send_pipeline(session, 3)

        assert take_answer(session) == [b"INSERT 0 1"]
        assert take_answer(session) is None

    assert kept.execute("SELECT count(*) >= 2 FROM kept").fetchone() == (True,)


def test_server_does_not_know_of_a_cut_on_the_clients_side(
    kept: psycopg.Connection, postgres: Cluster, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with closing(through(proxy, kept)) as session:
        session.execute("SELECT pg_advisory_lock(7)")
        proxy.cut(1, "before request", sides="client")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")

        assert kept.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (False,)
        proxy.__exit__(None, None, None)
        postgres.wait_until("SELECT pg_try_advisory_lock(7)", database=kept.info.dbname)


def test_all_connections_are_cut_at_once_and_new_ones_refused_until_told_otherwise(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with closing(through(proxy, kept)) as one, closing(through(proxy, kept)) as other:
        proxy.refuse()
        assert proxy.cut_all() == 2

        for session in (one, other):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            through(proxy, kept)
        proxy.refuse(False)
        through(proxy, kept).close()


# --- held back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before request", "within request", "before answer", "within answer"])
def test_what_is_held_back_arrives_when_it_is_released(
    when: When, kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with through(proxy, kept) as session, ThreadPoolExecutor(1) as thread:
        proxy.cut(1, when, "hold")
        inserting = thread.submit(session.execute, INSERT)
        proxy.wait_cut()

        assert is_kept(kept) == when.endswith("answer")
        assert not inserting.done()
        proxy.release()
        inserting.result(30)
        session.execute("SELECT 1")

    assert is_kept(kept)


def test_held_link_lets_nothing_pass_and_goes_on(
    kept: psycopg.Connection, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with through(proxy, kept) as session, ThreadPoolExecutor(2) as threads:
        proxy.hold()
        inserting = threads.submit(session.execute, INSERT)
        connecting = threads.submit(through, proxy, kept)
        with proxy.counting() as counted:
            assert not is_kept(kept)
        proxy.release()
        inserting.result(30)
        connecting.result(30).close()

    assert counted.counts == Counts()
    assert is_kept(kept)


# --- asked wrongly, and ended ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nth", "when", "how", "unit", "sides", "why"),
    [
        (0, "before request", "reset", "sync", "both", "counts from 1"),
        (1, "after answer", "reset", "message", "both", "only a sync has an answer"),
        (1, "before request", "hold", "sync", "client", "from both sides"),
    ],
)
def test_cut_that_cannot_be_is_refused(
    nth: int, when: When, how: How, unit: Unit, sides: Sides, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        Cut(nth, when, how, unit, sides)


def test_address_through_a_proxy_beside_the_servers_own_is_tried_in_order(
    kept: psycopg.Connection, postgres: Cluster, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    proxy.refuse()
    address = address_of([(HOST, proxy.port), (postgres.host, postgres.port)], kept.info.dbname)

    with psycopg.connect(address) as session:
        assert session.info.port == postgres.port


def test_proxy_whose_tests_are_killed_ends(
    children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(run_proxy_for_ever, acknowledgements.writer)
    ((pid,),) = acknowledgements.wait_for(1)

    child.kill()

    assert process_tree.await_exit({pid}, 30) == set()
