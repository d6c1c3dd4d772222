"""Claims and maps of processes that share nothing but a server: free at once, one outcome an item."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._store.durability import Durability
from mpcheckpoint.errors import CheckpointError
from support import tally
from support.postgres.handles import checkpoint_at, store_on
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Log
    from mpcheckpoint.testing import AcknowledgementJournal, AcknowledgementWriter
    from support.postgres.cluster import Cluster
    from support.processes import Children

pytestmark = pytest.mark.guarantee(7)
ALWAYS = Durability.parse("always")


def _is_free(log: Log, object_key: str = "x") -> bool:
    with log.claim(object_key) as claim:
        return claim is not None


def _hold(address: str, writer: AcknowledgementWriter, *, forks: bool = False) -> None:
    """Claim an object until killed, perhaps with a child that lives on."""
    log = checkpoint_at(address).log("a")
    with log.claim("x") as claim:
        assert claim is not None
        child = os.fork() if forks else 0
        if forks and child == 0:
            writer.acknowledge("child", os.getpid())
        elif forks:
            writer.acknowledge("parent", child)
        else:
            writer.acknowledge("alone")
        while True:
            time.sleep(60)


@pytest.mark.parametrize("forks", [False, True])
def test_claim_of_a_killed_process_is_free_though_a_child_of_it_lives(
    postgres_database: str, children: Children, acknowledgements: AcknowledgementJournal, forks: bool
) -> None:
    with checkpoint_at(postgres_database) as checkpoint:
        log = checkpoint.log("a")
        holder = children.start(_hold_forking if forks else _hold, postgres_database, acknowledgements.writer)
        acknowledgements.wait_for(1 + forks)
        assert not _is_free(log)
        holder.kill()
        wait_until(lambda: _is_free(log), "the claim is free")
        if forks:
            (child,) = {values[1] for values in acknowledgements.acknowledged()}
            os.kill(child, 0)  # it lives


def _hold_forking(address: str, writer: AcknowledgementWriter) -> None:
    _hold(address, writer, forks=True)


def test_worker_whose_session_was_ended_is_dead_and_begins_nothing_again(
    postgres: Cluster, postgres_database: str
) -> None:
    store = store_on(postgres_database)
    worker = store.workers.begin()
    assert worker.begin_again()
    assert store.workers.is_live(worker.id)
    postgres.terminate_sessions(postgres_database.rpartition("/")[2])
    assert not worker.begin_again()
    assert not store.workers.is_live(worker.id)
    with store.workers.begin() as another:
        assert another.begin_again()
        assert not worker.begin_again()
    worker.retire()


def test_worker_whose_session_was_ended_begins_nothing_again_while_another_thread_appends(
    postgres: Cluster, postgres_database: str
) -> None:
    """The other thread has the connection, and has not noticed."""
    store = store_on(postgres_database)
    worker = store.workers.begin()
    with ThreadPoolExecutor(1) as other_thread:
        mutex = store.sessions.main.mutex
        other_thread.submit(mutex.acquire, None).result()
        try:
            assert worker.begin_again()
            postgres.terminate_sessions(postgres_database.rpartition("/")[2])
            assert not worker.begin_again()
        finally:
            other_thread.submit(mutex.release_if_owned).result()


# --- maps --------------------------------------------------------------------------------------------------

_ITEMS = 40


def _run(item: str) -> str:
    Path(os.environ["RUNS"], f"{item} {os.getpid()} {time.monotonic_ns()}").touch()
    time.sleep(0.01)
    return item


def _map(address: str, directory: str, runs: str) -> None:
    os.chdir(directory)
    os.environ["RUNS"] = runs
    with checkpoint_at(address, retry_s=120) as checkpoint:
        for result in checkpoint.log("a").map(_run, [f"item{n}" for n in range(_ITEMS)], jobs=2):
            assert result


def _map_again(address: str, directory: str, runs: str) -> None:
    """Start the map again until it ends: a map whose server was lost may stop."""
    while True:
        with suppress(CheckpointError):
            return _map(address, directory, runs)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["nothing", "sessions ended", "server killed"])
def test_map_in_processes_of_different_directories_has_one_outcome_an_item(
    make_postgres: Callable[..., Cluster], children: Children, tmp_path: Path, harm: str
) -> None:
    cluster = make_postgres()
    address = cluster.create_database("d")
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        children.start(
            _map if harm == "nothing" else _map_again,
            address,
            str(tmp_path / name),
            str(runs),
            method="spawn",
        )
    if harm != "nothing":
        wait_until(lambda: len(list(runs.iterdir())) > _ITEMS // 4, "a quarter has run", 90, pause_s=0.01)
        if harm == "server killed":
            cluster.restart("kill")
            tally.add("kills", 1)
        else:
            cluster.terminate_sessions("d")
    children.wait_all(timeout_s=120)

    with checkpoint_at(address, read_only=True) as checkpoint:
        outcomes = Counter(record.object_key for record in checkpoint.log("a").read())
    assert outcomes == Counter({f"item{n}": 1 for n in range(_ITEMS)})
    ran = Counter(path.name.split()[0] for path in runs.iterdir())
    assert set(ran) == set(outcomes)
    if harm == "nothing":
        assert ran == outcomes


def test_lock_of_a_worker_that_retired_while_its_session_was_busy_is_given_back(
    postgres: Cluster, postgres_database: str
) -> None:
    """Else a process that lives long would take all locks of the server."""
    store = store_on(postgres_database)
    log = store.open_log("a", create=True, timeout_s=20)
    workers = [store.workers.begin() for _ in range(3)]
    held = (
        "select count(*) from pg_locks where locktype = 'advisory' and database = "
        "(select oid from pg_database where datname = %s)"
    )
    name = postgres_database.rpartition("/")[2]

    def retire_all() -> None:
        with ThreadPoolExecutor(1) as thread:
            for worker in workers:
                thread.submit(worker.retire).result(60)

    def refuse() -> None:
        retire_all()
        raise ValueError("nothing is appended")

    with pytest.raises(ValueError, match="nothing is appended"):  # a thread has the session meanwhile
        log.append([encode_payload("x", 1, None, None)], durability=ALWAYS, timeout_s=20, guard=refuse)
    assert not any(store.workers.is_live(worker.id) for worker in workers)
    assert postgres.execute(held, name) == [(3,)]

    with store.workers.begin():
        assert postgres.execute(held, name) == [(1,)]
    assert postgres.execute(held, name) == [(0,)]
