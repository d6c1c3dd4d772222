"""Answers of a server that never come: no append is lost, none is done twice, and what is said of it is true."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._postgres import append, session
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.sessions import Retry, sessions_of
from mpcheckpoint.errors import (
    CheckpointError,
    LockTimeoutError,
    NoAnswerError,
    StoreUnavailableError,
    WriteFailedError,
)
from mpcheckpoint.log import handle_of
from support.postgres.handles import checkpoint_at, lock_logs
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint import Log
    from support.postgres.cluster import Cluster
    from support.postgres.cuts import How, When
    from support.postgres.proxy import Proxy

pytestmark = pytest.mark.guarantee(1)

WAYS: tuple[tuple[When, How], ...] = (
    ("before request", "reset"),
    ("within request", "close"),
    ("after request", "reset"),
    ("before answer", "close"),
    ("within answer", "reset"),
    ("after answer", "reset"),
)
MOST_SYNCS = 15
LOCK_TIMEOUT_S = 0.5
OTHERS = 20


def _plain(log: Log) -> None:
    log.append("x", "new")


def _batch(log: Log) -> None:
    log.append_many([("x", "new"), ("y", 1), ("y", 2)])


def _conditional(log: Log) -> None:
    log.append("x", "new", expected_count=1)


def _identified(log: Log) -> None:
    log.append("x", "new", record_id="r")


def _transaction(log: Log) -> None:
    with log.transaction() as transaction:
        transaction.append("x", "new" if transaction.events("x") == ("old",) else "another")


def _claimed(log: Log) -> None:
    with log.claim("x") as claim:
        assert claim is not None
        log.append("x", "new")


def _group(log: Log) -> None:
    handle = handle_of(log)
    found = handle.for_writing().append_group(
        [[encode_payload(key, event, None)] for key, event in (("x", "new"), ("y", 1), ("y", 2))],
        durability=handle.store.durability,
        timeout_s=handle.store.settings.lock_timeout_s,
    )
    errors = [each for each in found if isinstance(each, CheckpointError)]
    assert len(errors) in (0, 3)
    if errors:
        raise errors[0]
    assert [record.position for record in log.read()][-3:] == found


KINDS = {
    each.__name__[1:]: each
    for each in (_plain, _batch, _conditional, _identified, _transaction, _claimed, _group)
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers that do not answer be given up soon."""
    monkeypatch.setattr(append, "_GRACE_S", 0.2)
    monkeypatch.setattr(session, "_READ_S", 0.5)


def _name(address: str) -> str:
    return address.rpartition("/")[2]


def _events(address: str, log_key: str, object_key: str = "x") -> list[Any]:
    """Return what the log holds of an object, read by a new handle."""
    with checkpoint_at(address, read_only=True) as replay:
        return [record.event for record in replay.log(log_key).read() if record.object_key == object_key]


def _wait_for_quiet(address: str) -> None:
    """Wait until no session but ours is within a transaction."""
    with psycopg.connect(address, autocommit=True) as admin:
        wait_until(
            lambda: admin.execute(
                "select count(*) = 0 from pg_stat_activity where datname = current_database() "
                "and pid <> pg_backend_pid() and state not in ('idle', 'disabled')"
            ).fetchall()[0][0],
            "all sessions are idle",
        )


@contextmanager
def _locked(cluster: Cluster, address: str, log_key: str) -> Iterator[None]:
    """Have another session hold the lock of a log for the block."""
    with cluster.admin(address.rpartition("/")[2]) as admin, admin.transaction():
        lock_logs(admin, log_key)
        yield


def _wait_for_lock_waits(cluster: Cluster, count: int) -> None:
    cluster.wait_until(
        "select count(*) >= %s from pg_stat_activity where wait_event_type = 'Lock' and query like '%%append_1%%'",
        count,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "durability"),
    [*((kind, "always") for kind in KINDS), ("plain", "never"), ("transaction", "never"), ("group", "never")],
)
def test_append_whose_connection_is_cut_anywhere_is_there_once(
    postgres_database: str, make_proxy: Callable[..., Proxy], kind: str, durability: str
) -> None:
    proxy = make_proxy()
    cuts = 0
    with checkpoint_at(proxy.address(_name(postgres_database)), durability=durability) as checkpoint:
        for when, how in WAYS:
            for nth in range(1, MOST_SYNCS):
                log_key = f"{when} {nth}"
                log = checkpoint.log(log_key)
                log.append("x", "old")
                proxy.cut(nth, when, how)

                KINDS[kind](log)

                is_cut = proxy.is_cut()
                assert _events(postgres_database, log_key) == ["old", "new"], (when, how, nth)
                assert log.events("x") == ("old", "new")
                cuts += is_cut
                if not is_cut:
                    break
            else:
                pytest.fail(f"more than {MOST_SYNCS} answers were waited for")
    assert cuts >= len(WAYS)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before request", "after request", "before answer"])
@pytest.mark.parametrize("kind", ["plain", "transaction", "group"])
def test_append_to_which_nobody_answers_is_there_once_though_its_first_message_comes_late(
    postgres_database: str, make_proxy: Callable[..., Proxy], impatient: None, kind: str, when: When
) -> None:
    proxy = make_proxy()
    outcomes = set()
    with checkpoint_at(
        proxy.address(_name(postgres_database)), retry_s=LOCK_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S
    ) as checkpoint:
        for nth in range(1, MOST_SYNCS):
            log = checkpoint.log(f"{nth}")
            log.append("x", "old")
            proxy.cut(nth, when, "hold")

            try:
                KINDS[kind](log)
            except (LockTimeoutError, StoreUnavailableError, NoAnswerError) as error:
                outcome: type[CheckpointError] | None = type(error)
            else:
                outcome = None
            outcomes.add(outcome)

            is_cut = proxy.is_cut()
            proxy.release()  # the message that nobody waits for is done now
            _wait_for_quiet(postgres_database)
            events = _events(postgres_database, f"{nth}")
            assert events in ([["old", "new"]] if outcome is None else [["old"], ["old", "new"]])
            if outcome in (LockTimeoutError, StoreUnavailableError):
                assert events == ["old"]
            if not is_cut:
                break
    assert None in outcomes


@pytest.mark.parametrize("kind", ["plain", "batch", "identified", "group"])
def test_append_whose_first_message_a_server_takes_after_its_second_is_there_once(
    postgres: Cluster, postgres_database: str, impatient: None, kind: str
) -> None:
    """The process of the server that has the first one stands still: with its socket, so that nobody is told."""
    with checkpoint_at(postgres_database, lock_timeout_s=LOCK_TIMEOUT_S) as checkpoint:
        log = checkpoint.log("a")
        log.append("x", "old")
        ((backend,),) = postgres.execute(
            "select pid from pg_stat_activity where datname = %s", _name(postgres_database)
        )
        os.kill(backend, signal.SIGSTOP)
        try:
            KINDS[kind](log)
            # More than the server looks through at first.
            for number in range(OTHERS):
                log.append("z", number, durability="never")
        finally:
            os.kill(backend, signal.SIGCONT)
        postgres.wait_until("select count(*) = 0 from pg_stat_activity where pid = %s", backend)
        assert _events(postgres_database, "a") == ["old", "new"]
        assert log.events("x") == ("old", "new")
        assert log.events("z") == tuple(range(OTHERS))


def test_append_whose_first_try_waits_for_the_lock_beside_its_second_one_is_there_once(
    postgres: Cluster, postgres_database: str, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with checkpoint_at(proxy.address(_name(postgres_database))) as checkpoint, ThreadPoolExecutor() as pool:
        log = checkpoint.log("a")
        log.append("x", "old")
        with _locked(postgres, postgres_database, "a"):
            appended = pool.submit(log.append, "x", "new")
            _wait_for_lock_waits(postgres, 1)
            proxy.cut_all(sides="client")
            _wait_for_lock_waits(postgres, 2)
        position = appended.result()
    _wait_for_quiet(postgres_database)
    assert _events(postgres_database, "a") == ["old", "new"]
    with checkpoint_at(postgres_database, read_only=True) as replay:
        assert [record.position for record in replay.log("a").read()][1] == position


def test_append_whose_retry_gets_no_lock_says_that_the_record_may_be_there(
    postgres: Cluster, postgres_database: str, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with (
        checkpoint_at(proxy.address(_name(postgres_database)), lock_timeout_s=LOCK_TIMEOUT_S) as checkpoint,
        ThreadPoolExecutor() as pool,
    ):
        log = checkpoint.log("a")
        log.append("x", "old")
        with _locked(postgres, postgres_database, "a"):
            with pytest.raises(LockTimeoutError):
                log.append("x", "never")
            appended = pool.submit(log.append, "x", "new")
            _wait_for_lock_waits(postgres, 1)
            proxy.cut_all(sides="client")
            with pytest.raises(NoAnswerError):
                appended.result()
    assert _events(postgres_database, "a")[:1] == ["old"]


def test_append_whose_retry_finds_another_thread_appending_says_that_the_record_may_be_there(
    postgres_database: str, make_proxy: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = make_proxy()
    with (
        checkpoint_at(proxy.address(_name(postgres_database)), lock_timeout_s=LOCK_TIMEOUT_S) as checkpoint,
        ThreadPoolExecutor(1) as other_thread,
    ):
        log = checkpoint.log("a")
        log.append("x", "old")
        mutex = sessions_of(
            Address.parse(f"{proxy.address(_name(postgres_database))}#tests"), must_write=True
        ).main.mutex
        monkeypatch.setattr(
            Retry, "pause", lambda self: bool(other_thread.submit(mutex.acquire, None).result())
        )
        proxy.cut(1, "before answer")

        with pytest.raises(NoAnswerError):
            log.append("x", "new")

        other_thread.submit(mutex.release_if_owned).result()
    assert _events(postgres_database, "a") == ["old", "new"]


def test_append_that_no_server_takes_says_whether_its_record_may_be_there(
    postgres_database: str, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy()
    with checkpoint_at(proxy.address(_name(postgres_database)), retry_s=0.2) as checkpoint:
        log = checkpoint.log("a")
        log.append("x", "old")
        proxy.refuse()
        proxy.cut(1, "after request")
        with pytest.raises(NoAnswerError):
            log.append("x", "new")
        with pytest.raises(StoreUnavailableError, match="Nothing was written"):
            log.append("x", "never")
        proxy.refuse(False)
        log.append("x", "last")
    assert [each for each in _events(postgres_database, "a") if each != "new"] == ["old", "last"]


# --- refused after it was done -----------------------------------------------------------------------------

AT_COMMIT = """
    create sequence mpcheckpoint.commits;
    create function mpcheckpoint.at_commit() returns trigger language plpgsql security definer as $$
    begin
        if nextval('mpcheckpoint.commits') <= {times} then {harm}; end if;
        return null;
    end $$;
    create constraint trigger at_commit after insert on mpcheckpoint.batch
        deferrable initially deferred for each row execute function mpcheckpoint.at_commit()
"""
ALWAYS = 1_000_000


def _harm_commits(cluster: Cluster, address: str, harm: str, times: int) -> None:
    with cluster.admin(_name(address)) as admin:
        admin.execute(AT_COMMIT.format(harm=harm, times=times).encode())


@pytest.mark.parametrize("kind", ["plain", "identified", "transaction", "group"])
def test_append_whose_commit_is_refused_is_not_acknowledged(
    postgres: Cluster, postgres_database: str, kind: str
) -> None:
    with checkpoint_at(postgres_database) as checkpoint:
        log = checkpoint.log("a")
        log.append("x", "old")
        _harm_commits(postgres, postgres_database, "raise exception 'no'", ALWAYS)

        with pytest.raises(WriteFailedError, match="no"):
            KINDS[kind](log)

        assert _events(postgres_database, "a") == ["old"]
        assert log.events("x") == ("old",)


@pytest.mark.parametrize("kind", ["plain", "identified", "transaction"])
@pytest.mark.parametrize("times", [1, ALWAYS])
def test_append_whose_session_is_ended_at_its_commit_is_acknowledged_once_it_is_there(
    postgres: Cluster, postgres_database: str, kind: str, times: int
) -> None:
    with checkpoint_at(postgres_database, retry_s=20 if times == 1 else 0.2) as checkpoint:
        log = checkpoint.log("a")
        log.append("x", "old")
        _harm_commits(postgres, postgres_database, "perform pg_terminate_backend(pg_backend_pid())", times)

        with nullcontext() if times == 1 else pytest.raises(NoAnswerError):
            KINDS[kind](log)

    assert _events(postgres_database, "a") == ["old", *["new"] * (times == 1)]


def test_append_whose_sync_is_refused_says_that_the_record_may_be_there(
    postgres: Cluster, postgres_database: str
) -> None:
    with checkpoint_at(postgres_database, retry_s=0.2) as checkpoint, ThreadPoolExecutor() as pool:
        log = checkpoint.log("a")
        with _locked(postgres, postgres_database, "a") if log.append("x", "old") else nullcontext():
            waited = pool.submit(log.append, "x", "waited")  # so that the next ones are synced apart
            _wait_for_lock_waits(postgres, 1)
        waited.result()
        flush = "function pg_logical_emit_message(boolean, text, text)"
        postgres.execute(f"revoke execute on {flush} from public", database=_name(postgres_database))

        with pytest.raises(NoAnswerError):
            log.append("x", "new")

        postgres.execute(f"grant execute on {flush} to public", database=_name(postgres_database))
        log.append("x", "last")
    assert _events(postgres_database, "a") == ["old", "waited", "new", "last"]


@pytest.mark.parametrize("kind", ["plain", "transaction"])
def test_append_whose_wait_for_a_standby_is_cancelled_is_not_acknowledged_before_a_standby_has_it(
    make_postgres: Callable[..., Cluster], kind: str
) -> None:
    cluster = make_postgres()
    with checkpoint_at(cluster.create_database("d")) as checkpoint, ThreadPoolExecutor() as pool:
        log = checkpoint.log("a")
        log.append("x", "old")
        cluster.configure(synchronous_standby_names="nobody")
        appended = pool.submit(KINDS[kind], log)
        waiting = "from pg_stat_activity where wait_event = 'SyncRep'"
        for _ in range(2):
            cluster.wait_until(f"select exists (select {waiting})")
            cluster.execute(f"select pg_cancel_backend(pid) {waiting}")
        cluster.wait_until(f"select exists (select {waiting})")
        assert not appended.done()

        cluster.configure(synchronous_standby_names="")
        appended.result()

        assert log.events("x") == ("old", "new")
