"""What a log tells of its maps: the same as `Log.results`, and when which worker did what."""

from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._report.making import MOST_LOGS, report_of
from mpcheckpoint._report.story import Kind, Story, story_of
from mpcheckpoint._report.timeline import lanes_of
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint._work.claims import claim_payload
from mpcheckpoint.errors import CorruptLogError, LogNotFoundError
from mpcheckpoint.log import handle_of
from support.verbs import become_a_new_process, bounded, flip, inside, lock_file, log_file, tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def log(store: Path) -> Log:
    return Checkpoint(store).log("a")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


@contextmanager
def held(path: Path) -> Iterator[None]:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def told(store: Path, log_key: str = "a") -> Story:
    found = DirectoryStore(store, create=False, read_only=True)
    return story_of(found.find_log(log_key), found.workers)


def odd_fails(item: str) -> Any:
    if int(item) % 2:
        raise ValueError(f"{item} is odd")
    return {"half": int(item) // 2}


def write(log: Log, *payloads: Any) -> None:
    handle_of(log).append_if(list(payloads), lambda view: None)


def test_items_are_those_of_the_results(log: Log, store: Path, threads: ThreadPoolExecutor) -> None:
    list(log.map(odd_fails, map(str, range(10)), executor=threads))

    story = told(store)

    results = {outcome.object_key: outcome for outcome in log.results()}
    assert {key: item.kind is Kind.OK for key, item in story.items.items()} == {
        key: outcome.ok for key, outcome in results.items()
    }
    for key, item in story.items.items():
        assert item.duration_us == round(results[key].duration_s * 1e6)
        assert item.began_us + item.duration_us == item.stamp_us
    assert story.items["3"].cause == "ValueError: 3 is odd"
    assert [run.note.number for run in story.runs] == [1]
    assert 0 < story.runs[0].stamp_us <= min(attempt.ended_us for attempt in story.attempts)
    assert (len(story.attempts), story.others, story.damage) == (10, 0, None)


def test_forgotten_items_are_not_told_until_they_run_again(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    list(log.map(odd_fails, map(str, range(4)), executor=threads))
    log.forget(["1", "2"])
    story = told(store)
    assert sorted(story.items) == ["0", "3"]
    assert {each.object_key for each in story.attempts} == {"0", "3"}
    assert {object_key for _, object_key in story.details} == {"0", "3"}
    list(log.map(odd_fails, ["1"], executor=threads))
    story = told(store)
    assert sorted(story.items) == ["0", "1", "3"]
    assert sorted(each.object_key for each in story.attempts) == ["0", "1", "3"]


def test_workers_are_those_that_claimed_the_items(log: Log, store: Path, threads: ThreadPoolExecutor) -> None:
    list(log.map(len, [f"item{number}" for number in range(30)], executor=threads))

    attempts = told(store).attempts
    workers = {attempt.worker for attempt in attempts}

    assert workers.isdisjoint({None})
    assert set(lanes_of(sorted(attempts, key=lambda each: each.began_us))) <= {0, 1, 2}


def test_details_are_kept_of_failed_and_of_slow_items(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    list(log.map(odd_fails, map(str, range(4)), executor=threads))

    story = told(store)
    by_key = {key: detail for (_, key), detail in story.details.items()}

    assert by_key["1"].error.startswith("ValueError: 1 is odd\n")
    assert "odd_fails" in by_key["1"].error
    assert by_key["2"].output == '{"half":1}'


@pytest.mark.parametrize("keeps", ["keep", "keep-ok"])
def test_outcomes_count_by_the_rule_of_the_results(
    keeps: Any, log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    list(log.map(odd_fails, map(str, range(6)), executor=threads, version="1"))
    list(log.map(odd_fails, map(str, range(2)), executor=threads, version="2", if_changed=keeps))
    list(log.map(odd_fails, ["4"], executor=threads, version="2", rerun="again"))

    story = told(store)

    assert set(story.items) == {outcome.object_key for outcome in log.results()}
    assert len(story.items) == (6 if keeps == "keep" else 4)
    assert [run.note.rerun for run in story.runs] == [None, None, "again"]
    assert story.items["4"].run == 3


def test_attempts_that_were_retried_are_told_one_by_one(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    list(log.map(odd_fails, ["1"], executor=threads, retries=2, retry_delay_s=0.001))

    story = told(store)

    assert [attempt.kind for attempt in story.attempts] == [Kind.RETRIED, Kind.RETRIED, Kind.FAILED]
    assert story.items["1"].attempts == 3


def test_item_that_was_killed_with_its_worker_is_told(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    list(log.map(len, ["x"], executor=threads))
    dead, other = "0" * 32, "1" * 32
    write(log, claim_payload("y", dead))
    write(log, claim_payload("z", dead), claim_payload("z", None))
    write(log, claim_payload("y", other))

    story = told(store)

    assert [(each.object_key, each.kind, each.worker) for each in story.attempts[1:]] == [
        ("y", Kind.LOST, dead),
        ("y", Kind.LOST, other),
    ]
    assert {key: item.kind for key, item in story.items.items()} == {"x": Kind.OK, "y": Kind.LOST}


def test_item_that_a_live_worker_has_is_running(log: Log, store: Path, threads: ThreadPoolExecutor) -> None:
    list(log.map(len, ["x"], executor=threads))
    with handle_of(log).workers.begin() as worker:
        write(log, claim_payload("y", worker.id), claim_payload("x", worker.id))
        story = told(store)

    assert story.items["y"].kind is Kind.RUNNING
    assert story.items["x"].kind is Kind.OK  # it has an outcome
    assert {attempt.kind for attempt in story.attempts[1:]} == {Kind.RUNNING}
    assert story.attempts[-1].ended_us >= story.attempts[-1].began_us


def test_records_that_no_map_made_are_counted_apart(log: Log, store: Path) -> None:
    for event in (
        {"run": 1, "ok": True, "duration_s": "long"},
        {"run": 1, "ok": 1},
        "UPLOADED",
        [1],
        {"ok": True},
    ):
        log.append("x", event)
    write(log, encode_payload("y", {"run": 1, "ok": True, "duration_s": -1e308, "attempts": 2}))

    story = told(store)

    assert story.others == 5
    assert [attempt.ended_us - attempt.began_us for attempt in story.attempts] == [0]


def test_damaged_log_is_told_up_to_the_damage(log: Log, store: Path, threads: ThreadPoolExecutor) -> None:
    list(log.map(len, [f"item{number}" for number in range(9)], executor=threads))
    for number in range(2):
        log.append("later", number)  # durable after the damage, so it is none that a crash left
    content = log_file(store).read_bytes()
    become_a_new_process()
    flip(store, content.index(b'"item6",{"run"') + 1)

    story = told(store)

    assert isinstance(story.damage, CorruptLogError)
    assert "item6" not in story.items or story.items["item6"].kind is Kind.LOST
    assert {key for key, item in story.items.items() if item.kind is Kind.OK} < {
        f"item{number}" for number in range(9)
    }


def test_report_writes_nothing_and_waits_for_nobody(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    list(log.map(len, ["x", "y"], executor=threads))
    before = tree(store)

    with held(lock_file(store)):
        assert bounded(report_of, store).page is not None

    assert tree(store) == before


def test_report_tells_logs_without_a_map_and_those_it_has_no_room_for(
    store: Path, threads: ThreadPoolExecutor
) -> None:
    checkpoint = Checkpoint(store)
    checkpoint.log("events").append("x", "DONE")
    for number in range(MOST_LOGS + 2):
        list(checkpoint.log(f"map{number:02}").map(len, ["x"], executor=threads))

    report = report_of(store)

    assert report.without_map == ["events"]
    assert sorted(report.log_keys) == [f"map{number:02}" for number in range(2, MOST_LOGS + 2)]
    assert sorted(report.left_out) == ["map00", "map01"]
    assert report.page is not None
    assert "No map has run on: events" in report.page
    assert "2 more logs have a map" in report.page


def test_report_of_a_log_that_cannot_be_read_shows_the_others(
    log: Log, store: Path, threads: ThreadPoolExecutor
) -> None:
    list(log.map(len, ["x"], executor=threads))
    Checkpoint(store).log("b").append("x", 1)
    become_a_new_process()
    inside(store, "b.jsonl").write_bytes(b"no log\n")

    report = report_of(store)

    assert report.log_keys == ["a"]
    assert len(report.damages) == 1
    assert report.page is not None
    assert "b.jsonl" in report.page
    assert report_of(store, ["b"]).page is None
    with pytest.raises(LogNotFoundError):
        report_of(store, ["a", "nowhere"])
