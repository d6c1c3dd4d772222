"""``Log.compact``: what it refuses before anything is read, and what it says of what it did."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Compaction, Folded
from mpcheckpoint import _system as system
from mpcheckpoint.errors import CheckpointError, CompactionError, LogNotOpenError, ReadOnlyError
from support.verbs import inside, tree

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint import Log

BAD_NUMBERS: list[Any] = [-1, math.nan, math.inf, "1", True, [], 1j]


def arguments(name: str, value: object) -> dict[str, Any]:
    return {"keep_last": 1, name: value}


@pytest.fixture
def empty(store: Path) -> Log:
    return Checkpoint(store).log("a")


@pytest.fixture
def filled(empty: Log) -> Log:
    for number in range(6):
        empty.append("x", number)
    return empty


@pytest.mark.parametrize(
    ("name", "bad", "needed"),
    [
        *(("keep_last", bad, "a number of records, at least 1, or None") for bad in [*BAD_NUMBERS, 0, 1.0]),
        *(("newer_than_s", bad, "a number of seconds, at least 0, or None") for bad in BAD_NUMBERS),
        *(("keep_ids_s", bad, "a number of seconds, at least 0") for bad in [*BAD_NUMBERS, None]),
        *(
            ("limit_rate", bad, "a number of bytes a second, at least 1, or None")
            for bad in [*BAD_NUMBERS, 0]
        ),
    ],
)
def test_compact_with_a_bad_number_is_refused(
    store: Path, filled: Log, name: str, bad: object, needed: str
) -> None:
    before = tree(store)
    with pytest.raises(ValueError, match=f"{name} is {needed}, not ") as refused:
        filled.compact(**arguments(name, bad))

    assert not isinstance(refused.value, CheckpointError)
    assert tree(store) == before


@pytest.mark.parametrize("name", ["drop", "fold", "on_progress"])
def test_compact_with_what_is_no_function_is_refused(store: Path, filled: Log, name: str) -> None:
    before = tree(store)
    with pytest.raises(TypeError, match=f"{name} is a function.*, or None, not b'x'"):
        filled.compact(**arguments(name, b"x"))
    assert tree(store) == before


def test_compact_takes_spans_that_are_longer_than_time_itself(filled: Log) -> None:
    done = filled.compact(newer_than_s=1e308, keep_ids_s=10**400, keep_last=10**400, limit_rate=1e308)
    assert (done.records_after, done.is_changed) == (6, False)


def test_compact_says_what_was_and_what_is(store: Path, filled: Log) -> None:
    told: list[tuple[int, int]] = []
    size = inside(store, "a.jsonl").stat().st_size

    plan = filled.compact(keep_last=2, dry_run=True)
    assert filled.events("x") == tuple(range(6))
    done = filled.compact(keep_last=2, on_progress=lambda done, total: told.append((done, total)))

    assert (plan.is_changed, plan.records_after, plan.longest_wait_s > 0) == (False, 2, True)
    assert done == Compaction(
        "a", plan.bytes_before, done.bytes_after, 6, 2, 1, 1, done.longest_wait_s, is_changed=True
    )
    assert plan.bytes_before <= size
    assert done.bytes_after <= inside(store, "a.jsonl").stat().st_size
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert (filled.events("x"), filled.count("x")) == ((4, 5), 6)


@pytest.mark.parametrize("size", [1, 50])
def test_compact_plan_tells_how_long_the_log_will_be_also_where_batches_keep_their_places(
    empty: Log, size: int
) -> None:
    for number in range(0, 200, size):
        empty.append_many([(f"o{each % 20}", each) for each in range(number, number + size)])

    plan = empty.compact(keep_last=1, dry_run=True)
    done = empty.compact(keep_last=1)

    assert (plan.records_after, done.records_after) == (20, 20)
    assert 0 <= done.bytes_after - plan.bytes_after < 300  # the line that ends what was copied
    assert done.records_after == len(list(empty.read()))


def test_compact_folds_and_says_so_at_the_record(filled: Log) -> None:
    first, *_ = filled.read()

    filled.compact(fold=lambda earlier, later: earlier + later)

    (record,) = filled.read()
    assert (record.event, record.folded) == (15, Folded(6, first.stamp_us))


def test_compact_drop_takes_a_pattern_or_a_function(empty: Log) -> None:
    log = empty
    for object_key in ("tmp/a", "tmp/b/c", "TMP/x", "keep"):
        log.append(object_key, 1)

    log.compact(drop="tmp/*")
    assert [record.object_key for record in log.read()] == ["TMP/x", "keep"]
    log.compact(drop=lambda record: record.object_key.isupper() or record.object_key == "TMP/x")
    assert [record.object_key for record in log.read()] == ["keep"]


@pytest.mark.parametrize("name", ["drop", "on_progress"])
def test_compact_whose_function_raises_ends_with_that_and_changes_nothing(
    store: Path, filled: Log, name: str
) -> None:
    def raising(*_: object) -> None:
        raise LookupError("of the caller")

    filled.compact(dry_run=True)  # makes the files beside the log
    before = {path.name: path.read_bytes() for path in inside(store).iterdir()}
    with pytest.raises(LookupError, match="of the caller"):
        filled.compact(**arguments(name, raising))
    assert {path.name: path.read_bytes() for path in inside(store).iterdir()} == before


def test_compact_interrupted_in_the_call_that_makes_the_copy_leaves_no_file(
    store: Path, filled: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_copy = False
    locked = system.try_lock

    def interrupted(fd: int) -> bool:
        nonlocal has_copy
        has_copy = any(inside(store).glob("a.jsonl.*.tmp"))
        if has_copy:
            raise KeyboardInterrupt
        return locked(fd)

    before = inside(store, "a.jsonl").read_bytes()
    monkeypatch.setattr(system, "try_lock", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filled.compact(keep_last=1)

    assert has_copy
    assert list(inside(store).glob("*.tmp")) == []
    assert inside(store, "a.jsonl").read_bytes() == before
    monkeypatch.undo()
    assert filled.compact(keep_last=1).is_changed


def test_compact_of_a_log_that_may_not_be_written_is_refused(store: Path, filled: Log) -> None:
    with pytest.raises(ReadOnlyError):
        Checkpoint(store, read_only=True).log("a").compact(keep_last=1)
    with Checkpoint(store) as checkpoint:
        log = checkpoint.log("a")
        checkpoint.releaseCheckpointLog("a")
        with pytest.raises(LogNotOpenError):
            log.compact(keep_last=1)
    assert issubclass(CompactionError, RuntimeError)
