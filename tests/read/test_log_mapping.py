"""A log is a mapping from its objects to their events, as a store is one over all logs; and says where it is."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Claim, Log, Outcome, Record, Snapshot
from mpcheckpoint._format.frame import MAX_STAMP_US
from mpcheckpoint.errors import ClosedError, CorruptLogError, LogNotOpenError
from support.verbs import append_elsewhere, become_a_new_process, flip, log_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(5)


@pytest.fixture
def log(store: Path) -> Log:
    """A log "a" that holds "x" twice and "y" once, beside a log "b" that holds "x" and "z"."""
    checkpoint = Checkpoint(store)
    log = checkpoint.log("a")
    log.append_many([("x", {"n": [1]}), ("y", "y"), ("x", 2)])
    checkpoint.log("b").append_many([("x", "elsewhere"), ("z", "elsewhere")])
    return log


# --- a mapping ---------------------------------------------------------------------------------------------


def test_log_is_a_mapping_of_its_own_events(log: Log) -> None:
    assert isinstance(log, Mapping)
    assert log["x"] == log.get("x") == log.events("x") == ({"n": [1]}, 2)
    assert (log.get("z"), log.get("z", 5), log.get("z", ())) == (None, 5, ())
    assert list(log) == list(log.keys()) == ["x", "y"]
    assert len(log) == 2
    assert dict(log) == dict(log.items()) == {"x": ({"n": [1]}, 2), "y": ("y",)}
    assert list(log.values()) == [({"n": [1]}, 2), ("y",)]
    with pytest.raises(TypeError):
        log["x"] = ()  # type: ignore[index]


@pytest.mark.parametrize("key", ["z", "nothing", "", "\ud800", None, 5, ("x",), b"x"])
def test_log_of_which_a_key_is_no_object_raises_as_a_dict_does(log: Log, key: Any) -> None:
    assert key not in log
    assert log.get(key) is None
    with pytest.raises(KeyError) as caught:
        log[key]
    assert type(caught.value) is KeyError


def test_log_is_true_and_equal_to_itself_alone(store: Path) -> None:
    one, other = Checkpoint(store).log("a"), Checkpoint(store).log("a")

    assert one
    assert len(one) == 0
    assert one == one  # noqa: PLR0124
    assert one != other
    assert one != {}
    assert len({one, other, one}) == 2
    assert pickle.loads(pickle.dumps(one)) != one


def test_mapping_shows_what_others_appended_meanwhile(log: Log, store: Path) -> None:
    assert "new" not in log

    append_elsewhere(store, "new", 1)

    assert "new" in log
    assert log["new"] == (1,)
    assert (len(log), list(log)[-1]) == (3, "new")


def test_items_of_a_log_are_of_one_cut(log: Log) -> None:
    items, values, snapshot = log.items(), log.values(), log.snapshot()
    log.append_many([("x", 3), ("new", 1)])

    assert dict(items) == dict(snapshot) == {"x": ({"n": [1]}, 2), "y": ("y",)}
    assert list(values) == [({"n": [1]}, 2), ("y",)]
    assert isinstance(snapshot, Snapshot)


def test_object_that_was_forgotten_or_of_which_nothing_is_left_is_not_in_the_log(log: Log) -> None:
    log.append("w", 1)
    log.forget("x")
    log.compact(drop="w")

    assert log.count("w") == 1
    assert list(log) == ["y"]
    assert not any(key in log for key in ("x", "w"))
    for key in ("x", "w"):
        with pytest.raises(KeyError):
            log[key]


def test_objects_of_a_log_are_told_of_without_those_of_other_logs(log: Log) -> None:
    found = {each.object_key: each for each in log.objects()}

    assert [*found] == ["x", "y"]
    assert [each.count for each in found.values()] == [2, 1]
    assert found["x"].last.event == 2
    assert [each.object_key for each in log.objects(match="y*")] == ["y"]
    assert [*log.objects(since=found["y"].last.stamp_us + 1)] == []


def test_log_that_is_closed_or_damaged_says_so_and_is_not_taken_for_an_empty_one(
    log: Log, store: Path
) -> None:
    place = log.append("x", "damaged")
    checkpoint = Checkpoint(store)
    released = checkpoint.log("a")
    checkpoint.releaseCheckpointLog("a")
    become_a_new_process()
    log.append("x", "later")
    flip(store, place.offset - 20)

    for each, error in ((released, LogNotOpenError), (Checkpoint(store).log("a"), CorruptLogError)):
        for ask in (
            lambda each: each["x"],
            lambda each: each.get("x"),
            lambda each: "x" in each,
            len,
            list,
            lambda each: each.items(),
            lambda each: [*each.objects()],
        ):
            with pytest.raises(error):
                ask(each)


# --- where it is -------------------------------------------------------------------------------------------


def test_paths_are_those_of_the_directory_and_of_the_log_s_file(
    log: Log, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    checkpoint = Checkpoint(".", create=False)

    assert checkpoint.path == store
    assert log.path == checkpoint.log("a").path == log_file(store)
    assert str(log.path) == log.stats()["path"]
    assert Checkpoint(store, read_only=True).path == store
    odd = Checkpoint(store).log("odd / name")
    assert odd.path is not None
    assert odd.path.is_file()
    assert str(odd.path) == odd.stats()["path"]


def test_path_of_a_closed_handle_is_still_told(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        log = checkpoint.log("a")

    assert (checkpoint.path, log.path) == (store, log_file(store))
    with pytest.raises(ClosedError):
        len(log)


# --- times -------------------------------------------------------------------------------------------------


def test_time_of_a_record_is_its_stamp_in_utc(log: Log) -> None:
    before = datetime.now(UTC) - timedelta(hours=1)
    record = next(log.read())

    assert record.time.tzinfo is UTC
    assert record.time > before
    assert record.time - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(microseconds=record.stamp_us)


# The largest have more microseconds than a float of seconds can hold.
@pytest.mark.parametrize("stamp_us", [0, 1, 1_700_000_000_123_457, 4_102_444_800_999_999, MAX_STAMP_US])
def test_times_are_exact_to_the_microsecond(stamp_us: int) -> None:
    position: Any = None
    record = Record("a", "x", 1, stamp_us, None, position)
    outcome: Outcome[str, int] = Outcome(
        "x", "x", ok=True, value=1, error=None, duration_s=0.25, repeated=False, ended_us=stamp_us
    )
    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    for time, expected_us in (
        (record.time, stamp_us),
        (outcome.ended, stamp_us),
        (outcome.started, max(0, stamp_us - 250_000)),
    ):
        assert (time - epoch) // timedelta(microseconds=1) == expected_us


def test_outcome_started_before_it_ended(store: Path) -> None:
    log = Checkpoint(store).log("a")
    (outcome,) = log.map(str.upper, ["x"], jobs=1)

    assert outcome.ended - outcome.started == timedelta(microseconds=outcome.ended_us - outcome.began_us)
    assert outcome.started.tzinfo is UTC


def test_claim_is_what_a_block_is_given(log: Log) -> None:
    with log.claim("x") as claim:
        assert isinstance(claim, Claim)
