"""What a compaction on a server leaves behind: nothing, also where it was ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import LockTimeoutError
from support.postgres.handles import checkpoint_at, lock_logs, store_on

if TYPE_CHECKING:
    from support.postgres.cluster import Cluster

pytestmark = pytest.mark.guarantee(12)


def rows(postgres: Cluster, address: str) -> list[tuple[int, int]]:
    """Return how many batches and leftover generations the database holds."""
    counts = "select (select count(*) from mpcheckpoint.batch), (select count(*) from mpcheckpoint.leftover)"
    return [
        (batches, left) for batches, left in postgres.execute(counts, database=address.rpartition("/")[2])
    ]


def test_compaction_that_was_ended_leaves_the_log_and_nothing_else(
    postgres: Cluster, postgres_database: str
) -> None:
    with Checkpoint(postgres_database) as checkpoint:
        log = checkpoint.log("a")
        for number in range(20):
            log.append("x", number, durability="never")
        before = rows(postgres, postgres_database)
        looked: list[int] = []

        def end_the_copy(done_bytes: int, total_bytes: int) -> None:
            looked.append(done_bytes)
            if done_bytes > 0.75 * total_bytes:  # the copy was written
                raise ValueError("enough")

        with pytest.raises(ValueError, match="enough"):
            log.compact(keep_last=1, on_progress=end_the_copy)

        assert looked
        assert rows(postgres, postgres_database) == before
        assert log.events("x") == tuple(range(20))
        log.compact(keep_last=1)
        assert (log.events("x"), log.count("x")) == ((19,), 20)


def test_compaction_gives_a_log_no_other_generation_while_somebody_appends(postgres_database: str) -> None:
    """Else what is committed after the switch would be in a generation that nobody reads any more."""
    with (
        checkpoint_at(postgres_database) as checkpoint,
        checkpoint_at(postgres_database, lock_timeout_s=0.2) as impatient,
    ):
        log = checkpoint.log("a")
        log.append_many([("x", 0), ("x", 1)])
        generation = log.append("x", 2).generation
        with psycopg.connect(postgres_database) as holder:
            lock_logs(holder)
            with pytest.raises(LockTimeoutError):
                impatient.log("a").compact(keep_last=1)
        assert log.append("x", 3).generation == generation
        assert log.events("x") == (0, 1, 2, 3)
        impatient.log("a").compact(keep_last=1)
        assert log.append("x", 4).generation != generation
        assert log.events("x") == (3, 4)


def test_rows_of_killed_workers_go_when_a_worker_begins(postgres: Cluster, postgres_database: str) -> None:
    name = postgres_database.rpartition("/")[2]
    with Checkpoint(postgres_database) as checkpoint, checkpoint.log("a").claim("x") as claim:
        assert claim is not None
        postgres.terminate_sessions(name)
        with Checkpoint(f"{postgres_database}?application_name=other").log("a").claim("y") as other:
            assert other is not None
            left = postgres.execute("select encode(id, 'hex') from mpcheckpoint.worker", database=name)
            assert left == [(other.worker,)]


def test_log_that_is_compacted_between_two_pages_of_a_replay_is_read_anew(postgres_database: str) -> None:
    with checkpoint_at(postgres_database) as checkpoint:
        log = checkpoint.log("a")
        for number in range(6):
            log.append("x", [number, "y" * 400_000], durability="never")
        reader = store_on(postgres_database).find_log("a").reader()
        numbers: list[int] = []
        pages = 0
        for _ in range(2):
            for chunk in reader.poll():
                if chunk.is_reset:
                    numbers.clear()
                numbers += [int(line.event[1:2]) for line in chunk.lines]
                pages += 1
                if pages == 1:  # the next page is there already
                    assert 0 < len(numbers) < 6
                    log.compact(keep_last=3)
                    log.append("x", [6], durability="never")

        assert pages > 2
        assert numbers == [3, 4, 5, 6]
        assert log.count("x") == 7
