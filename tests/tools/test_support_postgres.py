"""Clusters of the tests run as they were asked to, survive what they shall survive, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import psycopg
import pytest

from support import process_tree
from support.nobody import NOBODY
from support.postgres import cluster as cluster_module
from support.postgres import fixtures, programs
from support.postgres.addresses import address_of
from support.postgres.cluster import Cluster
from support.postgres.fixtures import require_postgres
from support.postgres.guard import descendants
from support.postgres.standby import promote, standby_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children

FAILS_AND_LEAVES_A_SERVER = """
    from support.postgres.cluster import Cluster

    def test_fails(postgres_template):
        cluster = Cluster(template=postgres_template, fsync=False)
        cluster.__enter__()
        cluster.execute("SELECT no_such_column")
"""


@pytest.fixture(scope="module")
def _own_cluster(postgres_template: Path) -> Iterator[Cluster]:
    with Cluster(template=postgres_template, in_memory=True) as cluster:
        yield cluster


@pytest.fixture
def own(_own_cluster: Cluster) -> Cluster:
    """Return a running cluster that may be ended: the next test has it started again."""
    if not _own_cluster.is_running:
        _own_cluster.start()
    return _own_cluster


def run_cluster_for_ever(writer: AcknowledgementWriter, template: Path) -> None:
    with Cluster(template=template) as cluster:
        process = cluster.running()
        pids = [process.guard.pid, *descendants(process.guard.pid)]
        writer.acknowledge(str(cluster.directory), shared_memory(cluster), *pids)
        signal.pause()


def owner_of_a_server() -> int:
    with Cluster(in_memory=True) as cluster:
        cluster.execute("SELECT 1")
        return user_of(cluster.running().pid)


def shared_memory(cluster: Cluster) -> int:
    """Return the number of the server's System V segment."""
    return int((cluster.data / "postmaster.pid").read_text().splitlines()[6].split()[1])


def segments() -> set[int]:
    return {int(line.split()[1]) for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def assert_reads_only(address: str, schema: str) -> None:
    with psycopg.connect(address, autocommit=True) as reader:
        assert reader.execute(f"SELECT x FROM {schema}.things").fetchall() == []
        assert reader.execute(f"SELECT last_value FROM {schema}.things_x_seq").fetchall() == [(1,)]
        for refused in (
            f"INSERT INTO {schema}.things VALUES (1)",
            f"SELECT nextval('{schema}.things_x_seq')",
            f"DROP TABLE {schema}.things",
            "CREATE SCHEMA mine",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(refused)


# --- made ------------------------------------------------------------------------------------------------------


def test_database_of_a_test_is_empty_and_its_users_own(postgres_database: str) -> None:
    with psycopg.connect(postgres_database) as session:
        session.execute("CREATE TABLE things (thing int)")

        assert session.execute(
            "SELECT tablename FROM pg_tables WHERE tableowner = current_user"
        ).fetchall() == [("things",)]
        assert session.execute("SELECT usesuper FROM pg_user WHERE usename = current_user").fetchall() == [
            (False,)
        ]


@pytest.mark.parametrize("password", ["wrong", ""])
def test_address_with_another_password_is_refused(postgres: Cluster, password: str) -> None:
    for servers in ([(postgres.host, postgres.port)], [(str(postgres.directory), postgres.port)]):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(address_of(servers, "postgres", password=password))


def test_passwords_are_kept_and_proven_by_scram(postgres: Cluster) -> None:
    kept = postgres.execute("SELECT rolpassword LIKE 'SCRAM-SHA-256$%%' FROM pg_authid WHERE rolcanlogin")
    rules = postgres.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules")

    assert set(kept) == {(True,)}
    assert rules == [("scram-sha-256",)]


def test_socket_is_a_second_way_to_the_same_server(postgres: Cluster) -> None:
    with psycopg.connect(postgres.socket_address()) as session:
        assert session.execute("SELECT inet_client_addr()").fetchone() == (None,)
        assert session.info.port == postgres.port


def test_server_never_runs_as_root(postgres: Cluster) -> None:
    process = postgres.running()

    assert user_of(process.pid) != 0
    assert process.pid in descendants(process.guard.pid)


def test_server_of_tests_that_are_not_root_runs_as_their_user(run_as_nobody: Callable[..., int]) -> None:
    require_postgres()

    assert run_as_nobody(owner_of_a_server) == NOBODY


def test_settings_are_the_servers_from_its_start_and_can_be_changed(own: Cluster) -> None:
    own.settings.update(max_connections=17, cluster_name="it's")
    own.restart()
    shown = [own.execute(f"SHOW {name}")[0][0] for name in ("max_connections", "cluster_name")]
    own.configure(work_mem="1MB")

    assert shown == ["17", "it's"]
    assert own.execute("SHOW work_mem") == [("1MB",)]


def test_fsync_is_on_unless_it_is_switched_off(postgres: Cluster) -> None:
    assert postgres.execute("SHOW fsync") == [("on",)]
    assert Cluster(fsync=False).settings["fsync"] == "off"


def test_port_that_is_taken_is_passed_over(
    make_postgres: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        ports = iter([taken.getsockname()[1]] * 2 + [other.getsockname()[1]] * 48)
        other.close()
        monkeypatch.setattr(cluster_module.random, "choice", lambda _: next(ports))

        cluster = make_postgres(fsync=False)

        assert cluster.port != taken.getsockname()[1]


def test_server_that_cannot_start_says_why_and_leaves_nothing(postgres_template: Path) -> None:
    cluster = Cluster({"shared_buffers": "much"}, template=postgres_template)

    with pytest.raises(RuntimeError, match='invalid value for parameter "shared_buffers"'):
        cluster.__enter__()

    assert not cluster.directory.exists()


# --- roles -----------------------------------------------------------------------------------------------------


def test_reader_reads_what_came_later_and_changes_nothing(
    postgres_database: str, postgres_reader: str
) -> None:
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA late CREATE TABLE things (x serial)")

    assert_reads_only(postgres_reader, "late")


def test_reader_reads_what_was_there_and_changes_nothing(postgres: Cluster, postgres_database: str) -> None:
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA early CREATE TABLE things (x serial)")
        database = owner.info.dbname

    try:
        assert_reads_only(postgres.create_reader("reader", database), "early")
    finally:
        postgres.drop_role("reader", database)


def test_role_has_what_it_was_granted_and_no_more(postgres: Cluster, postgres_database: str) -> None:
    with psycopg.connect(postgres_database, autocommit=True) as owner:
        owner.execute("CREATE TABLE one (x int)")
        database = owner.info.dbname

    address = postgres.create_role("writer", database, ["GRANT INSERT ON one TO {role}"])
    try:
        with psycopg.connect(address, autocommit=True) as writer:
            writer.execute("INSERT INTO one VALUES (1)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute("SELECT * FROM one")
    finally:
        postgres.drop_role("writer", database)


# --- stopped, killed, started ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "immediate", "fast"])
def test_what_was_committed_is_there_after_every_way_to_end_a_server(how: str, own: Cluster) -> None:
    own.execute("CREATE TABLE IF NOT EXISTS kept (how text)")
    own.execute("INSERT INTO kept VALUES (%s)", how)
    earlier = own.running().pid
    with closing(psycopg.connect(own.address())) as session:
        own.restart(how)

        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert own.running().pid != earlier
    assert (how,) in own.execute("SELECT how FROM kept")


def test_killed_server_has_no_process_left(own: Cluster) -> None:
    processes = {own.running().guard.pid, *descendants(own.running().guard.pid)}
    with psycopg.connect(own.address()):
        own.kill()

    assert len(processes) > 4
    assert process_tree.await_exit(processes, 0) == set()
    assert not own.is_running
    with pytest.raises(RuntimeError, match="does not run"):
        own.stop()


def test_cluster_at_the_end_of_its_block_leaves_nothing(postgres_template: Path) -> None:
    with Cluster(template=postgres_template, in_memory=True) as cluster:
        processes = {cluster.running().guard.pid, *descendants(cluster.running().guard.pid)}
        segment = shared_memory(cluster)
        assert segment in segments()

    assert process_tree.await_exit(processes, 0) == set()
    assert segment not in segments()
    assert not cluster.directory.exists()


def test_server_whose_tests_are_killed_ends_and_leaves_nothing(
    postgres_template: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(run_cluster_for_ever, acknowledgements.writer, postgres_template)
    ((directory, segment, *processes),) = acknowledgements.wait_for(1)

    child.kill()

    assert process_tree.await_exit(set(processes), 60) == set()
    assert len(processes) > 4
    assert not os.path.exists(directory)
    assert segment not in segments()


def test_processes_of_a_server_are_none_that_a_test_left_behind(postgres: Cluster) -> None:
    assert process_tree.living_descendants() == set()
    assert postgres.running().guard.pid in process_tree.left_alone()


# --- standbys --------------------------------------------------------------------------------------------------


def test_synchronous_standby_that_is_promoted_has_what_was_committed(own: Cluster) -> None:
    own.execute("CREATE TABLE safe (x int)")
    with standby_of(own, is_synchronous=True) as standby:
        own.execute("INSERT INTO safe VALUES (1)")
        own.kill()
        either = address_of(
            [(own.host, own.port), (standby.host, standby.port)],
            "postgres",
            target_session_attrs="read-write",
        )
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(either)

        promote(standby)

        with psycopg.connect(either) as session:
            assert session.info.port == standby.port
        assert standby.execute("SELECT * FROM safe") == [(1,)]
        standby.execute("INSERT INTO safe VALUES (2)")
    own.start()
    own.configure(synchronous_standby_names="")


def test_asynchronous_standby_that_is_cut_off_lacks_what_was_committed(own: Cluster) -> None:
    own.execute("CREATE TABLE lost (x int)")
    with standby_of(own, is_synchronous=False) as standby:
        standby.stop()
        own.execute("INSERT INTO lost VALUES (1)")
        own.kill()
        standby.start()

        promote(standby)

        assert standby.execute("SELECT * FROM lost") == []


# --- failures --------------------------------------------------------------------------------------------------


def test_failed_test_shows_the_servers_log_and_a_server_left_behind_fails_the_session(tmp_path: Path) -> None:
    require_postgres()
    module = tmp_path / "test_inner.py"
    module.write_text(dedent(FAILS_AND_LEAVES_A_SERVER))
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "no:cacheprovider", module]
    command += ["-p", "support.plugin", "-p", "support.postgres.fixtures"]
    command += ["--rootdir", tmp_path, "--basetemp", tmp_path / "tmp"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert "1 failed, 1 error" in done.stdout
    shown = done.stdout.partition("log of server")[2]
    assert 'ERROR:  column "no_such_column" does not exist' in shown
    (directory,) = set(re.findall(r"servers were left behind: server in (\S+)", done.stdout))
    assert f"{directory}/.s.PGSQL" in shown
    assert not os.path.exists(directory)


@pytest.mark.parametrize(("variable", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_machine_without_a_server_skips_or_fails(
    variable: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPCHECKPOINT_REQUIRE_ALL", variable)
    monkeypatch.setattr(fixtures, "server_programs", lambda: None)

    with pytest.raises(outcome, match="no PostgreSQL server is installed"):
        require_postgres()


# --- found, or not ---------------------------------------------------------------------------------------------


def test_programs_are_found_in_path_before_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("initdb", "postgres", "pg_basebackup"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert programs.server_programs.__wrapped__() == tmp_path


def test_programs_that_are_nowhere_are_reported_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "_DEBIAN", tmp_path)

    assert programs.server_programs.__wrapped__() is None
