"""Maps that failures end, whose sessions with the server are lost: they go on where they can."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from mpcheckpoint import Outcome
from mpcheckpoint.errors import CheckpointError
from mpcheckpoint.log import handle_of
from support.postgres.handles import checkpoint_at, store_on
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint import Log, MapRun
    from support.postgres.cluster import Cluster
    from support.processes import Children

pytestmark = pytest.mark.guarantee(7)
ITEMS = [f"item{number}" for number in range(24)]
EARLY = 6
PATIENCE_S = 60.0


def same(item: str) -> str:
    time.sleep(0.01)
    return item


def fail(item: str) -> str:
    raise ValueError(item)


def fail_at_the_last(item: str) -> str:
    if item == ITEMS[-1]:
        raise ValueError(item)
    return item


@contextmanager
def workers_of(kind: str, count: int = 2) -> Iterator[dict[str, Any]]:
    if kind == "processes":
        yield {"jobs": count}
    else:
        with ThreadPoolExecutor(count) as executor:
            yield {"executor": executor}


def clear_up(address: str) -> None:
    """Remove what dead workers have left, as whoever claims something elsewhere does."""
    store_on(address).workers.clear()


def lose_sessions(cluster: Cluster, address: str, harm: str) -> None:
    if harm == "server killed":
        cluster.restart("kill")
    else:
        cluster.terminate_sessions(address.rpartition("/")[2])
    clear_up(address)


def recorded(log: Log) -> Counter[str]:
    return Counter(record.object_key for record in log.read())


def permit_of(run: MapRun) -> str:
    permit = run._plan.permit
    assert permit is not None
    return permit._id


@pytest.mark.parametrize("halt", [1, 2])
@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("harm", ["sessions ended", "server killed"])
def test_map_whose_sessions_are_lost_goes_on_with_one_outcome_an_item(
    make_postgres: Callable[..., Cluster], harm: str, kind: str, halt: int
) -> None:
    cluster = make_postgres()
    address = cluster.create_database("d")
    with checkpoint_at(address) as checkpoint, workers_of(kind) as options:
        log, outcomes = checkpoint.log("a"), list[Outcome]()
        for outcome in log.map(same, ITEMS, halt=halt, **options):
            outcomes.append(outcome)
            if len(outcomes) in (EARLY, 2 * EARLY):
                lose_sessions(cluster, address, harm)
            if len(outcomes) == len(ITEMS) - 1:
                status = log.map_status()
                assert status is not None
                assert [start.pid for start in status.starts] == [os.getpid()], "nobody sees it"

        assert sorted(outcome.item for outcome in outcomes) == sorted(ITEMS)
        assert all(outcome.ok and not outcome.repeated for outcome in outcomes)
        assert recorded(log) == Counter(ITEMS)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_failure_halts_a_map_whose_permit_was_made_anew(
    postgres: Cluster, postgres_database: str, kind: str
) -> None:
    with checkpoint_at(postgres_database) as checkpoint, workers_of(kind, 1) as options:
        log, outcomes = checkpoint.log("a"), list[Outcome]()
        items = [*ITEMS, "after"]
        run = log.map(fail_at_the_last, items, halt=1, **options)
        for outcome in run:
            outcomes.append(outcome)
            if len(outcomes) == EARLY:
                lose_sessions(postgres, postgres_database, "sessions ended")

        assert [outcome.item for outcome in outcomes] == ITEMS
        assert run.is_halted
        assert recorded(log) == Counter(ITEMS)


def test_failure_that_halts_a_map_is_not_undone_where_the_session_is_lost(
    postgres: Cluster, postgres_database: str
) -> None:
    def lose_and_fail(item: str) -> str:
        if item == ITEMS[EARLY]:
            lose_sessions(postgres, postgres_database, "sessions ended")
            raise ValueError(item)
        return item

    with checkpoint_at(postgres_database) as checkpoint, workers_of("threads", 1) as options:
        log = checkpoint.log("a")
        run = log.map(lose_and_fail, ITEMS, halt=1, **options)

        assert [outcome.item for outcome in run] == ITEMS[: EARLY + 1]
        assert run.is_halted
        assert recorded(log) == Counter(ITEMS[: EARLY + 1])


def test_map_that_found_a_failure_of_another_goes_on_where_the_session_is_lost(
    postgres: Cluster, postgres_database: str
) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def wait(item: str) -> str:
        has_begun.set()
        assert may_end.wait(PATIENCE_S)
        return item

    with checkpoint_at(postgres_database) as checkpoint, workers_of("threads", 1) as options:
        log, outcomes = checkpoint.log("a"), list[Outcome]()
        run = log.map(wait, ITEMS, halt=1, version="1", **options)
        assert has_begun.wait(PATIENCE_S)
        with checkpoint_at(postgres_database) as elsewhere, workers_of("threads", 1) as others:
            assert not next(elsewhere.log("a").map(fail, ITEMS[1:2], version="1", **others)).ok
        may_end.set()
        for outcome in run:
            outcomes.append(outcome)
            if len(outcomes) == EARLY:
                lose_sessions(postgres, postgres_database, "sessions ended")

        assert [outcome.item for outcome in outcomes if not outcome.ok] == ITEMS[1:2]
        assert recorded(log) == Counter(ITEMS)


def test_map_whose_permit_somebody_removed_stops_and_says_so(postgres_database: str) -> None:
    with checkpoint_at(postgres_database) as checkpoint, workers_of("threads", 1) as options:
        log = checkpoint.log("a")
        run = log.map(same, ITEMS, halt=1, **options)
        outcomes = [next(run) for _ in range(EARLY)]
        handle_of(log).workers.retire(permit_of(run))

        with pytest.raises(CheckpointError, match=r"was removed.*start the map again") as caught:
            outcomes.extend(run)
        assert caught.value.reason == "permit removed"
        assert len(recorded(log)) < len(ITEMS)

        assert len(list(log.map(same, ITEMS, halt=1, **options))) == len(ITEMS)
        assert recorded(log) == Counter(ITEMS)


def test_permit_that_another_session_has_by_then_stops_the_map(
    postgres: Cluster, postgres_database: str
) -> None:
    database = postgres_database.rpartition("/")[2]
    with (
        checkpoint_at(postgres_database, retry_s=0.5) as checkpoint,
        workers_of("threads", 1) as options,
    ):
        log = checkpoint.log("a")
        run = log.map(same, ITEMS, halt=1, **options)
        outcomes = [next(run) for _ in range(EARLY)]
        postgres.terminate_sessions(database)
        clear_up(postgres_database)
        with psycopg.connect(postgres_database) as another:
            another.execute("select pg_advisory_lock(%s)", [int(permit_of(run)[:15], 16)])
            with pytest.raises(CheckpointError, match="start the map again") as caught:
                outcomes.extend(run)
        assert caught.value.reason == "permit removed"
        assert len(recorded(log)) < len(ITEMS)


def test_worker_lives_again_only_if_its_session_was_lost(postgres: Cluster, postgres_database: str) -> None:
    store, elsewhere = store_on(postgres_database), store_on(postgres_database)
    worker, retired = store.workers.begin(), store.workers.begin()
    retired.retire()
    assert not worker.is_lost
    assert not worker.live_again()

    postgres.terminate_sessions(postgres_database.rpartition("/")[2])
    clear_up(postgres_database)
    assert not elsewhere.workers.is_known(worker.id)
    assert worker.is_lost
    assert worker.live_again()
    assert not worker.is_lost
    clear_up(postgres_database)
    assert elsewhere.workers.is_live(worker.id)
    assert not retired.live_again()
    worker.retire()
    assert not worker.live_again()
    assert not elsewhere.workers.is_known(worker.id)


# --- two machines ------------------------------------------------------------------------------------------------


def _map(address: str, directory: str, runs: str) -> None:
    os.chdir(directory)

    def run(item: str) -> str:
        with open(os.path.join(runs, f"{item} {os.getpid()} {time.monotonic_ns()}"), "x", encoding="utf-8"):
            time.sleep(0.02)
        return item

    with checkpoint_at(address, retry_s=60) as checkpoint, ThreadPoolExecutor(2) as executor:
        outcomes = list(checkpoint.log("a").map(run, ITEMS, halt=1, version="1", executor=executor))
    assert Counter(outcome.item for outcome in outcomes) == Counter(ITEMS)


@pytest.mark.parametrize("harm", ["sessions ended", "server killed"])
def test_maps_of_two_machines_go_on_with_one_outcome_an_item(
    make_postgres: Callable[..., Cluster], children: Children, tmp_path: Path, harm: str
) -> None:
    cluster = make_postgres()
    address = cluster.create_database("d")
    store_on(address)
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        children.start(_map, address, str(tmp_path / name), str(runs), method="spawn")
    for share in (EARLY, 2 * EARLY):
        wait_until(lambda share=share: len(list(runs.iterdir())) > share, "some have run", 90, pause_s=0.01)  # type: ignore[misc]
        lose_sessions(cluster, address, harm)
    children.wait_all(timeout_s=100)

    with checkpoint_at(address, read_only=True) as checkpoint:
        assert recorded(checkpoint.log("a")) == Counter(ITEMS)
    assert {path.name.split()[0] for path in runs.iterdir()} == set(ITEMS)
