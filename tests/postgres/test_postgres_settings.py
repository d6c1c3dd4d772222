"""What surrounds a session of a server: defaults of roles, poolers, limits, other versions, roles that may little."""

from __future__ import annotations

import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import psycopg
import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import main
from mpcheckpoint._cli.terminal import Exit
from mpcheckpoint._postgres.connecting import refusal
from mpcheckpoint._postgres.faults import ServerError
from mpcheckpoint._postgres.sessions import Retry
from mpcheckpoint.errors import (
    CheckpointError,
    FormatVersionError,
    LockTimeoutError,
    ReadOnlyError,
    StoreAccessError,
    StoreNotFoundError,
    StoreUnavailableError,
    WriteFailedError,
)
from mpcheckpoint.maintenance import copy_store
from support.capabilities import is_root, require
from support.postgres.addresses import PASSWORD, USER
from support.postgres.handles import checkpoint_at, lock_logs, store_on
from support.postgres.pooler import pooled, pooler_program
from support.postgres.small_disk import on_small_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint import Log
    from support.postgres.cluster import Cluster

DEFAULTS = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "50ms",
    "lock_timeout": "20ms",
    "idle_in_transaction_session_timeout": "50ms",
    "idle_session_timeout": "50ms",
    "synchronous_commit": "off",
    "search_path": "nowhere",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "client_min_messages": "error",
    "DateStyle": "German, DMY",
    "bytea_output": "escape",
    "plpgsql.variable_conflict": "use_variable",
    "transform_null_equals": "on",
}


def _name(address: str) -> str:
    return address.rpartition("/")[2]


def _use(log: Log) -> None:
    """Append in all ways, claim, read, and compact."""
    log.append("x", 0)
    log.append_many([("x", 1), ("ÿ", "\u20ac\\'")])
    log.append("x", 2, record_id="r")
    assert log.append("x", 2, record_id="r") is not None
    log.append("x", 3, expected_count=3)
    with log.transaction() as transaction:
        transaction.append("x", len(transaction.events("x")))
    with log.claim("x") as claim:
        assert claim is not None
        with log.claim("x") as other:
            assert other is None
    assert log.events("x") == (0, 1, 2, 3, 4)
    assert log.events("ÿ") == ("\u20ac\\'",)


@pytest.mark.guarantee(1)
def test_defaults_of_a_role_change_nothing(postgres: Cluster, postgres_database: str) -> None:
    database = _name(postgres_database)
    role = f"role_of_{database}"
    address = postgres.create_role(role, database, [f'GRANT CREATE ON DATABASE "{database}" TO {{role}}'])
    try:
        for name, value in DEFAULTS.items():
            postgres.execute(f"ALTER ROLE {role} IN DATABASE {database} SET {name} = '{value}'")
        with checkpoint_at(address) as checkpoint:
            log = checkpoint.log("a")
            _use(log)
            with psycopg.connect(address) as session:
                assert session.execute("show idle_session_timeout").fetchall() == [("50ms",)]
            with psycopg.connect(postgres_database.replace(USER, role)) as holder:
                holder.execute("set transaction read write")
                holder.execute("set idle_in_transaction_session_timeout = 0")
                holder.execute("set statement_timeout = 0")
                lock_logs(holder)
                with checkpoint_at(address, lock_timeout_s=0.3) as waiting, pytest.raises(LockTimeoutError):
                    waiting.log("a").append("x", "never")
            assert log.events("x") == (0, 1, 2, 3, 4)
    finally:
        postgres.drop_role(role, database)


def test_wait_for_locks_may_be_longer_than_the_server_can_wait(postgres_database: str) -> None:
    with checkpoint_at(postgres_database, lock_timeout_s=1e9) as checkpoint:
        log = checkpoint.log("a")
        _use(log)
        log.compact(keep_last=1)
        with checkpoint_at(postgres_database, "copy", lock_timeout_s=1e9) as copied:
            copy_store(checkpoint, copied)
            assert copied.log("a").events("x") == log.events("x") == (4,)


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "SQL_ASCII"])
def test_encoding_of_a_database_keeps_no_text_out(
    postgres: Cluster, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "\u2603 \U0001f600 \udc80 \xff"])
    monkeypatch.setattr("socket.gethostname", lambda: "\u2603")
    postgres.execute(
        f"create database other_encoding encoding {encoding} owner {USER} template template0 "
        "lc_collate 'C' lc_ctype 'C'"
    )
    try:
        address, name = postgres.address("other_encoding"), "%C3%BF%E2%98%83%F0%9F%98%80"
        with Checkpoint(f"{address}#{name}") as checkpoint:
            log = checkpoint.log("\xff\u2603\U0001f600")
            _use(log)
            with log.claim("\u2603") as claim:
                assert claim is not None
                (holder,) = store_on(address, unquote(name)).workers.holders([claim.worker]).values()
            assert holder.process is not None
            assert holder.process.command is not None
            assert holder.process.command.startswith("python ")
            assert ("\u2603" in holder.process.command) == (encoding == "SQL_ASCII")
            assert [each.value for each in log.map(str, ["\u2603"], key=str, jobs=1)] == ["\u2603"]
            assert Checkpoint(f"{address}#{name}", create=False).logs() == ["\xff\u2603\U0001f600"]
        with Checkpoint(f"{address}#%C3%BF%3F%3F") as other:
            assert other.logs() == []
    finally:
        postgres.drop_database("other_encoding")


@pytest.mark.slow
def test_pooler_between_transactions_is_refused_and_one_that_keeps_sessions_is_not(
    postgres: Cluster, postgres_database: str
) -> None:
    require(pooler_program() is not None, "pgbouncer is not installed (Debian: pgbouncer)")
    with checkpoint_at(postgres_database) as direct:
        direct.log("a").append("x", "old")
    with (
        pooled(postgres, _name(postgres_database), mode="transaction") as address,
        checkpoint_at(address, "one") as first,
    ):
        first.log("a").append("x", 0)
        with pytest.raises(StoreAccessError, match="pooler"):
            checkpoint_at(address, "two").log("a").append("x", 0)
    with (
        pooled(postgres, _name(postgres_database), mode="session", sessions=3) as address,
        checkpoint_at(address, "kept") as checkpoint,
    ):
        _use(checkpoint.log("a"))


@pytest.mark.parametrize("done", ["deallocate all", 'prepare "look_1 0" as select 1', "discard all"])
def test_pooler_that_gave_the_session_to_another_client_is_named_and_nothing_is_written(
    postgres: Cluster, postgres_database: str, done: str
) -> None:
    """Alone, a client has the same session each time, and nothing tells that there is a pooler."""
    require(pooler_program() is not None, "pgbouncer is not installed (Debian: pgbouncer)")
    with (
        pooled(postgres, _name(postgres_database), mode="transaction") as address,
        checkpoint_at(address, retry_s=1) as checkpoint,
        checkpoint_at(postgres_database, read_only=True) as direct,
    ):
        log = checkpoint.log("a")
        if not done.startswith("prepare"):
            log.append("x", 0)
            assert log.events("x") == (0,)
        events = direct.get("x", ())

        def refuses(use: Callable[[], object]) -> None:
            with psycopg.connect(address, autocommit=True, prepare_threshold=None) as other:
                other.execute(done.encode())
            with pytest.raises(StoreAccessError, match="keeps a session for each client"):
                use()

        if done != "discard all":
            refuses(lambda: log.events("x"))
        if not done.startswith("prepare"):
            refuses(lambda: log.append("x", 1))
            refuses(lambda: log.append_many([("x", 1), ("y", 1)]))
            refuses(lambda: log.claim("x").__enter__())
        assert direct.get("x", ()) == events


# --- roles -------------------------------------------------------------------------------------------------


def _advised_grants() -> str:
    """Return what the schema says that an administrator may run."""
    schema = resources.files("mpcheckpoint._postgres").joinpath("schema.sql").read_text("utf-8")
    return "\n".join(re.findall(r"^--   (.*)$", schema, re.MULTILINE))


@pytest.fixture
def roles(make_postgres: Callable[..., Cluster]) -> tuple[str, str, str]:
    """Return addresses of the owner of a schema, of a writer and of a reader as the schema says."""
    cluster = make_postgres()
    owner = cluster.create_database("d")
    schema = resources.files("mpcheckpoint._postgres").joinpath("schema.sql").read_text("utf-8")
    with psycopg.connect(owner, autocommit=True) as session:
        session.execute(schema.encode())
    with cluster.admin("d") as admin:
        admin.execute(_advised_grants().encode())
    writer = cluster.create_role("writer", "d", ["GRANT mpcheckpoint_writer TO {role}"])
    reader = cluster.create_role("reader", "d", ["GRANT mpcheckpoint_reader TO {role}"])
    return owner, writer, reader


def test_roles_of_the_schema_may_do_their_work_and_no_more(roles: tuple[str, str, str]) -> None:
    _, writer, reader = roles
    with pytest.raises(StoreNotFoundError):
        checkpoint_at(reader, read_only=True)
    with checkpoint_at(writer) as writing:
        log = writing.log("a")
        _use(log)
        log.forget(["ÿ"])
        log.compact()
        with checkpoint_at(reader, read_only=True) as reading:
            view = reading.log("a")
            follower = view.follow(idle_timeout_s=30)
            assert [next(follower).event for _ in range(5)] == [0, 1, 2, 3, 4]
            log.append("x", 5)
            assert next(follower).event == 5
            assert view.events("x") == (0, 1, 2, 3, 4, 5)
            with pytest.raises(ReadOnlyError):
                view.append("x", 6)
        with pytest.raises(CheckpointError) as refused, checkpoint_at(reader) as trying:
            trying.log("a").append("x", "never")
        assert isinstance(refused.value, (StoreAccessError, StoreNotFoundError))
        assert PASSWORD not in str(refused.value)
        assert log.events("x") == (0, 1, 2, 3, 4, 5)


# --- versions ----------------------------------------------------------------------------------------------


def test_schema_of_another_version_is_refused_at_open_and_at_each_append(
    postgres: Cluster, postgres_database: str
) -> None:
    def newer(function: str) -> str:
        return f"alter function mpcheckpoint.{function}_1 rename to {function}_2"

    with checkpoint_at(postgres_database) as checkpoint:
        log = checkpoint.log("a")
        log.append("x", 0)
        with psycopg.connect(postgres_database, autocommit=True) as session:
            session.execute("update mpcheckpoint.version set version = 2")
            for function in ("append", "lock", "make_log", "begin_worker", "live_workers"):
                session.execute(newer(function).encode())
            for way in (
                lambda: log.append("x", 1),
                lambda: log.append("x", 1, record_id="r"),
                lambda: log.append("x", 1, expected_count=1),
                lambda: checkpoint.log("new").append("x", 1),
                lambda: checkpoint_at(postgres_database),
                lambda: checkpoint_at(postgres_database, read_only=True),
            ):
                with pytest.raises(FormatVersionError):
                    way()
            session.execute("update mpcheckpoint.version set version = 0")
            with pytest.raises(FormatVersionError):
                checkpoint_at(postgres_database)
        assert log.events("x") == (0,)


# --- limits ------------------------------------------------------------------------------------------------


def test_server_that_takes_no_more_sessions_is_waited_for_and_then_said_to_be_unavailable(
    make_postgres: Callable[..., Cluster],
) -> None:
    cluster = make_postgres({"max_connections": 8, "superuser_reserved_connections": 3})
    address = cluster.create_database("d")
    with checkpoint_at(address) as checkpoint:
        checkpoint.log("a").append("x", 0)
        others = [psycopg.connect(address) for _ in range(4)]
        with pytest.raises(StoreUnavailableError):
            checkpoint_at(address, "another", retry_s=0.2)
        checkpoint.log("a").append("x", 1)
        for other in others:
            other.close()
        with checkpoint_at(address, "another") as another:
            another.log("a").append("x", 0)
        assert checkpoint.log("a").events("x") == (0, 1)


_LIMITS = {
    "role": ("alter role {} connection limit 0", "alter role {} connection limit -1"),
    "database": ("alter database {} connection limit 0", "alter database {} connection limit -1"),
    "database that is being worked on": (
        "alter database {} allow_connections false",
        "alter database {} allow_connections true",
    ),
}


@pytest.mark.parametrize("limited", _LIMITS)
def test_role_or_database_that_takes_no_more_sessions_is_waited_for_and_then_said_to_be_unavailable(
    postgres: Cluster,
    postgres_database: str,
    limited: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    database = _name(postgres_database)
    role = f"limited_of_{database}"
    address = postgres.create_role(role, database, [f'GRANT CREATE ON DATABASE "{database}" TO {{role}}'])
    limit, free = (sql.format(role if limited == "role" else database) for sql in _LIMITS[limited])
    try:
        with checkpoint_at(address) as checkpoint:
            checkpoint.log("a").append("x", 0)
            postgres.execute(limit)
            with pytest.raises(StoreUnavailableError):
                checkpoint_at(f"{address}?application_name=another", retry_s=0.1)
            with monkeypatch.context() as patience:
                patience.setattr(Retry, "pause", lambda _: False)
                assert main(["show", "--store", f"{address}?application_name=one#tests"]) == Exit.SHORTAGE
            assert "could not be reached" in capfd.readouterr().err
            with ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(checkpoint_at, f"{address}?application_name=late")
                checkpoint.log("a").append("x", 1)
                postgres.execute(free)
                with waiting.result() as late:
                    assert late["x"] == (0, 1)
    finally:
        postgres.execute(free)
        postgres.drop_role(role, database)


def _said(what: str) -> str:
    return f'connection failed: connection to server at "127.0.0.1", port 5432 failed: {what}'


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('FATAL:  password authentication failed for user "u"', "28P01"),
        ('FATAL:  Peer authentication failed for user "u"', "28P01"),
        ("fe_sendauth: no password supplied", "28P01"),
        ('FATAL:  no pg_hba.conf entry for host "h", user "u", database "d", no encryption', "28000"),
        ('FATAL:  pg_hba.conf rejects connection for host "h", user "u", database "d"', "28000"),
        ('FATAL:  role "u" does not exist', "28000"),
        ('FATAL:  role "u" is not permitted to log in', "28000"),
        (
            'FATAL:  permission denied for database "d"\nDETAIL:  User does not have CONNECT privilege.',
            "42501",
        ),
        ('FATAL:  database "d" does not exist', "3D000"),
        (
            'FATAL:  database "d" does not exist\nDETAIL:  It seems to have just been dropped or renamed.',
            "3D000",
        ),
        ('FATAL:  too many connections for role "u"', None),
        ('FATAL:  too many connections for database "d"', None),
        ('FATAL:  database "d" is not currently accepting connections', None),
        ('FATAL:  cannot connect to invalid database "d"', None),
        ("FATAL:  sorry, too many clients already", None),
        ("FATAL:  the database system is starting up", None),
        ('FATALE:  troppe connessioni per il database "d"', None),
        ('FATALE:  il database "d" non accetta attualmente connessioni', None),
        ("FATAL:  zu viele Verbindungen f\u00fcr Rolle \u00bbu\u00ab", None),
        ("could not receive data from server: Connection refused", None),
    ],
)
def test_refusal_of_a_connection_is_lasting_only_where_that_is_known(said: str, code: str | None) -> None:
    error = refusal(_said(said))

    assert (error.code if isinstance(error, ServerError) else None) == code


@pytest.mark.slow
@pytest.mark.guarantee(9)
def test_append_on_a_full_disk_is_refused_and_with_room_again_the_same_handle_appends(
    postgres_template: Path, public: Path
) -> None:
    require(is_root(), "a small disk is mounted by root")
    with on_small_disk(public, "data", template=postgres_template) as (cluster, disk):
        address = cluster.create_database("d")
        with checkpoint_at(address, retry_s=120) as checkpoint:
            log = checkpoint.log("a")
            log.append("x", 0)
            disk.fill()
            appended = 0
            while not _is_refused(log):
                appended += 1
            assert log.events("x") == (0,)
            disk.empty()
            log.append("x", 1)
            assert log.events("x") == (0, 1)
            assert len(log.events("y")) == appended


def _is_refused(log: Log) -> bool:
    try:
        log.append("y", "y" * 50_000)
    except WriteFailedError:
        return True
    return False


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a directory that the server's user can enter."""
    with tempfile.TemporaryDirectory(prefix="mpcheckpoint-pg-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
