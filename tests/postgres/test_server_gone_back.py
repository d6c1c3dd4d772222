"""A server that goes back in time under open handles: restored from a backup, or with its schema made anew.

What is made there later may have the names of what was there, and must never be taken for it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint.errors import LogNotFoundError, RecordsLostError, StoreNotFoundError
from support.postgres.handles import checkpoint_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from mpcheckpoint import Checkpoint, Log
    from support.postgres.cluster import Cluster

pytestmark = [pytest.mark.guarantee(1), pytest.mark.guarantee(5)]


def _transaction(log: Log) -> None:
    with log.transaction() as transaction:
        transaction.append("x", len(transaction.events("x")))


GONE = (LogNotFoundError, StoreNotFoundError)
USES: dict[str, Callable[[Log], object]] = {
    "append": lambda log: log.append("x", 1),
    "append on a count": lambda log: log.append("x", 1, expected_count=0),
    "append with an id": lambda log: log.append("x", 1, record_id="r"),
    "append to an end": lambda log: log.append_many([("x", 1)], expected_end=log.append("x", 0)),
    "append of many": lambda log: log.append_many([("x", 1), ("y", 1)]),
    "append that is not synced": lambda log: log.append("x", 1, durability="never"),
    "transaction": _transaction,
    "claim": lambda log: log.claim("x").__enter__(),
    "map": lambda log: list(log.map(str, ["x"], key=str, jobs=1)),
    "read": lambda log: log.events("x"),
    "iteration": dict,
    "records": lambda log: list(log.read()),
    "follow": lambda log: list(log.follow(idle_timeout_s=0)),
    "forget": lambda log: log.forget("x"),
    "compact": lambda log: log.compact(keep_last=1),
    "statistics": lambda log: log.stats(),
}


def _make_schema_anew(cluster: Cluster, address: str) -> None:
    cluster.execute("drop schema mpcheckpoint cascade", database=address.rpartition("/")[2])
    # As many logs, made in the same order, as whoever comes next would make them.
    with checkpoint_at(address, "other") as other:
        other.log("other").append("y", "other's")


def _is_untouched(address: str) -> bool:
    with checkpoint_at(address, "other") as other:
        return other.logs() == ["other"] and dict(other) == {"y": ("other's",)}


@pytest.fixture
def opened(postgres_database: str) -> Iterator[Checkpoint]:
    with checkpoint_at(postgres_database, "mine", retry_s=1) as checkpoint:
        yield checkpoint


def test_log_whose_schema_was_made_anew_is_refused_and_no_other_is_taken_for_it(
    postgres: Cluster, postgres_database: str
) -> None:
    handles = {use: checkpoint_at(postgres_database, "mine", retry_s=1) for use in USES}
    logs = {use: handle.log("mine") for use, handle in handles.items()}
    logs["append"].append("x", "mine")
    assert {log.events("x") for log in logs.values()} == {("mine",)}

    _make_schema_anew(postgres, postgres_database)

    for use, log in logs.items():
        with pytest.raises(GONE, match="gone"):
            USES[use](log)
        assert _is_untouched(postgres_database), use
        handles[use].close()


def test_log_that_was_never_read_is_refused_too_once_the_schema_was_made_anew(
    opened: Checkpoint, postgres: Cluster, postgres_database: str
) -> None:
    log = opened.log("mine")
    end = log.append("x", "mine")
    tails = [log.tail(end), opened.tail("end")]

    _make_schema_anew(postgres, postgres_database)

    uses: list[Callable[[], object]] = [*(tail.new for tail in tails), lambda: list(log.read(after=end))]
    for use in (*uses, lambda: log.tail(end), lambda: log.last("x"), lambda: opened["y"]):
        with pytest.raises(GONE, match="gone"):
            use()


def test_store_whose_schema_was_made_anew_is_refused_and_no_other_is_taken_for_it(
    opened: Checkpoint, postgres: Cluster, postgres_database: str, tmp_path: Path
) -> None:
    assert dict(opened) == {}

    _make_schema_anew(postgres, postgres_database)

    uses: list[Callable[[], object]] = [
        opened.logs,
        lambda: dict(opened),
        lambda: opened.log("new"),
        lambda: opened.backup(tmp_path / "backup"),
    ]
    for use in uses:
        with pytest.raises(StoreNotFoundError, match="gone"):
            use()
    assert _is_untouched(postgres_database)


def test_store_of_the_same_name_in_a_schema_that_was_made_anew_is_another(
    opened: Checkpoint, postgres: Cluster, postgres_database: str
) -> None:
    log = opened.log("mine")
    log.append("x", "mine")
    postgres.execute("drop schema mpcheckpoint cascade", database=postgres_database.rpartition("/")[2])

    with checkpoint_at(postgres_database, "mine") as anew:
        anew.log("mine").append("y", 1)
        with pytest.raises(LogNotFoundError):
            log.append("x", "mine")
        with pytest.raises(StoreNotFoundError):
            opened.log("second")

        assert dict(anew) == {"y": (1,)}


@pytest.fixture
def going_back(make_postgres: Callable[..., Cluster]) -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """Return what backs a server of its own up, and puts it back at the end of the block."""
    from contextlib import contextmanager

    cluster = make_postgres()
    address = cluster.create_database("d")
    checkpoint_at(address, "other").log("old").append("o", 1)

    @contextmanager
    def going() -> Iterator[str]:
        cluster.stop()
        backup = Path(tempfile.mkdtemp(dir=cluster.directory), "data")
        shutil.copytree(cluster.data, backup)
        cluster.start()
        yield address
        cluster.stop()
        shutil.rmtree(cluster.data)
        backup.rename(cluster.data)
        cluster.adopt()
        cluster.start()

    return going  # type: ignore[return-value]


def test_log_made_after_the_backup_that_a_server_was_put_back_to_is_refused(
    going_back: Callable[[], AbstractContextManager[str]],
) -> None:
    with going_back() as address:
        mine, others = (checkpoint_at(address, name) for name in ("mine", "other"))
        made, old = mine.log("made since"), others.log("old")
        made.append("x", "mine")
        old.append("o", 2)
        followed = old.tail("end")
        assert followed.new() == []
        assert (made.events("x"), old.events("o")) == (("mine",), (1, 2))

    with checkpoint_at(address, "third") as third:
        third.log("third").append("y", "other's")
        with pytest.raises(LogNotFoundError, match="gone"):
            made.append("x", "lost")
        with pytest.raises(LogNotFoundError, match="gone"):
            made.events("x")
        with pytest.raises(StoreNotFoundError, match="gone"):
            mine.log("another")
        assert dict(third) == {"y": ("other's",)}
        # The log that was there goes on: views read it anew, and who was given what is gone is told.
        assert old.append("o", 3)
        assert old.events("o") == (1, 3)
        with pytest.raises(RecordsLostError):
            followed.new()
    mine.close()
    others.close()
