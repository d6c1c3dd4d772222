"""Uses that are right: type checkers have nothing to say, and each does what is asserted when it runs.

``tests/project/test_types.py`` runs mypy --strict, pyright and this file itself: ``python right_uses.py DIRECTORY``.
"""

from __future__ import annotations

import sys
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

from mpcheckpoint import (
    Checkpoint,
    Claim,
    Compaction,
    Cursor,
    Follower,
    Log,
    MapRun,
    MapStatus,
    ObjectSummary,
    Outcome,
    Position,
    Record,
    Results,
    Retention,
    Snapshot,
    Transaction,
)
from mpcheckpoint.errors import CheckpointError, ConflictError


def open_it(directory: Path) -> Checkpoint:
    """Open a store with each setting that a word stands for."""
    for durability in ("always", "interval", "never"):
        Checkpoint(directory, durability=durability).close()
    Checkpoint(str(directory), durability="interval:250", lock_timeout_s=5, default=str).close()
    with Checkpoint(directory, create=False, read_only=True, log_keys=["a"]) as checkpoint:
        assert_type(checkpoint, Checkpoint)
        assert_type(checkpoint.path, Path | None)
    return Checkpoint(directory)


def append(log: Log) -> None:
    """Append in each way."""
    position = log.append("photo1", "UPLOADED", expected_count=0, durability="never")
    assert_type(position, Position)
    assert position == Position.parse(str(position))
    log.append("photo1", {"tags": ["sea"], "size": 3.5}, record_id="tags-1", durability="interval:50")
    log.append("photo2", Path("sea.jpg"), default=str)
    assert_type(log.append_many([("photo2", None), ("photo3", [1, 2])], durability="always"), Position | None)
    log.append_many((name, 1) for name in ("photo4", "photo5"))

    with log.transaction() as transaction:
        assert_type(transaction, Transaction)
        if "photo6" not in transaction:
            transaction.append("photo6", "UPLOADED")

    def count(transaction: Transaction) -> int:
        seen = len(transaction.events("photo6"))
        transaction.append("photo6", seen)
        return seen

    assert_type(log.update(count), int)
    try:
        log.append("photo1", "UPLOADED", expected_count=0)
    except ConflictError as conflict:
        assert_type(conflict.found, int)


def look(checkpoint: Checkpoint, log: Log) -> None:
    """Read as from a dict, and record by record."""
    as_mappings: list[Mapping[str, tuple[Any, ...]]] = [
        log,
        checkpoint,
        log.snapshot(),
        checkpoint.snapshot(),
    ]
    for each in as_mappings:
        assert each["photo1"][0] == "UPLOADED"
        assert "photo1" in each
        assert "nothing" not in each
        assert each.get("nothing") is None
        assert len(each) == len(list(each)) == 6
    assert_type(log["photo1"], tuple[Any, ...])
    assert_type(log.items(), ItemsView[str, tuple[Any, ...]])
    assert_type(log.snapshot(), Snapshot)
    assert_type(log.objects(match="photo*"), Iterator[ObjectSummary])
    assert {key: events[0] for key, events in log.items()}["photo6"] == "UPLOADED"
    for key in log:
        assert_type(key, str)

    after: Position | None = None
    for record in log.read(after, object_key="photo1"):
        assert_type(record, Record)
        assert_type(record.time, datetime)
        assert record.time > datetime.now(record.time.tzinfo) - timedelta(days=1)
        after = record.position
    assert len(list(log.read(last=2, since=timedelta(hours=1)))) == 2
    assert [record.event for record in log.tail("start").new()][:1] == ["UPLOADED"]
    with log.follow("end", idle_timeout_s=0) as follower:
        assert_type(follower, Follower)
        assert list(follower) == []
    assert_type(checkpoint.follow("start", idle_timeout_s=0).cursor, Cursor)
    if log.path is not None and checkpoint.path is not None:
        assert log.path.is_relative_to(checkpoint.path)


def claim(log: Log) -> None:
    """Take an object; another has it perhaps."""
    with log.claim("photo1") as claim:
        assert_type(claim, Claim | None)
        if claim is not None:
            assert claim.object_key == "photo1"


def length(name: str) -> int:
    """Do the work of an item."""
    return len(name)


def lookup(name: str, sizes: dict[str, int]) -> int:
    """Do it with a worker's state."""
    return sizes[name]


def sizes() -> dict[str, int]:
    """Make a worker's state."""
    return {"a": 1, "b": 2}


def half(number: float) -> float:
    """Do the work of an item that is no string."""
    return number / 2


def map_it(checkpoint: Checkpoint) -> None:
    """Map functions; what they take and give is known of each outcome."""
    run = checkpoint.log("lengths").map(length, ["a", "bb"], jobs=1, on_error="halt", if_changed="keep-ok")
    assert_type(run, MapRun[str, int])
    total = 0
    for outcome in run:
        assert_type(outcome, Outcome[str, int])
        assert_type(outcome.item, str)
        assert_type(outcome.started, datetime)
        assert outcome.started <= outcome.ended
        if outcome.value is not None:  # None if it failed
            total += outcome.value
    assert total == 3

    with_state = checkpoint.log("lookups").map(lookup, ["a", "b"], jobs=1, initializer=sizes)
    assert_type(with_state, MapRun[str, int])
    assert sorted(each.value or 0 for each in with_state) == [1, 2]

    numbers = checkpoint.log("halves").map(half, [1.5, 3.0], key=str, jobs=1, changed_files=False, halt="10%")
    assert_type(numbers, MapRun[float, float])
    as_told: Iterable[Outcome] = numbers  # what a function takes that does not care of what
    assert all(each.ok for each in as_told)

    log = checkpoint.log("lengths")
    assert_type(log.pending(["a", "ccc"], changed_files=False), Iterator[str])
    assert list(log.pending(["a", "ccc"])) == ["ccc"]
    results: Results[str, int] = log.results(slowest=1)
    assert [each.ok for each in results] == [True]
    assert_type(log.map_status(), MapStatus | None)
    again = log.map(length, ["a"], jobs=1, retry_failed=lambda outcome: outcome.attempts < 3, rerun="again")
    assert [each.rerun for each in again] == ["again"]


def look_after(checkpoint: Checkpoint, log: Log) -> None:
    """Keep it small, and copy it."""

    def later(earlier: str, event: str) -> str:
        return max(earlier, event)

    assert_type(log.compact(keep_last=1, dry_run=True), Compaction)
    log.compact(fold=later, drop=lambda record: record.time.year < 2000, newer_than_s=3600.0, dry_run=True)
    checkpoint.log("short", retention=Retention(keep_last=10)).append("x", 1)
    log.forget("photo5")
    checkpoint.forget(["photo4", "photo3"])
    try:
        log.append("photo1", object())
    except CheckpointError as error:
        assert_type(error.message, str)


def main(directory: Path) -> None:
    """Do all of it in a new directory."""
    Checkpoint(directory).log("a")
    checkpoint = open_it(directory)
    log = checkpoint.log("a")
    append(log)
    look(checkpoint, log)
    claim(log)
    map_it(checkpoint)
    look_after(checkpoint, log)
    checkpoint.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
