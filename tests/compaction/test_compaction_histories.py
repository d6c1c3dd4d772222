"""What many processes do to logs while others compact them is linearizable: one order explains every answer.

Writers with conditions, counts and record ids, readers, followers, claims, and objects that are forgotten, beside
compactions by every rule, some of which are killed.
"""

from __future__ import annotations

import json
import random
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from support import tally
from support.shrinking import Call, Recorder, check_claims, check_shrinking, load_calls
from support.verbs import seeded, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint._compaction.compacting import Compaction
    from support.processes import Children

pytestmark = [
    pytest.mark.guarantee(3),
    pytest.mark.guarantee(4),
    pytest.mark.guarantee(8),
    pytest.mark.guarantee(12),
]

LOG_KEYS = ("a", "b")
OBJECT_KEYS = [f"object {number}" for number in range(8)]
KINDS = {
    "append": 5,
    "append_if": 5,
    "retry": 3,
    "batch": 2,
    "events": 5,
    "count": 3,
    "read": 1,
    "read_on": 1,
    "fresh": 1,
    "claim": 2,
    "forget": 1,
}
RULES: list[dict[str, Any]] = [
    {"keep_last": 1},
    {"keep_last": 3},
    {"keep_last": 2, "fold": True},
    {"keep_last": 0, "fold": True},
    {"drop": OBJECT_KEYS[3]},
    {"purge": True},
    {},
]


def concatenated(earlier: list[int], later: list[int]) -> list[int]:
    return earlier + later


def told_of(done: Compaction) -> dict[str, Any]:
    return {name: getattr(done, name) for name in ("records_before", "records_after", "is_changed")}


def compact(
    recorder: Recorder, log: Log, rules: dict[str, Any], act: Callable[..., Any] = Log.compact
) -> Any:
    options = {name: value for name, value in rules.items() if value} | (
        {"fold": concatenated} if rules.get("fold") else {}
    )
    return recorder.do("compact", log.log_key, lambda: act(log, **options), told_of, **rules)


class Worker:
    """Does so many random things to the logs of a store, and records them."""

    def __init__(self, store: Path, histories: Path, name: str) -> None:
        self.store = store
        self.recorder = Recorder(histories, name)
        self.checkpoint = Checkpoint(store, durability="never")
        self.logs = [self.checkpoint.log(log_key) for log_key in LOG_KEYS]
        self.numbers = count(int(name.rpartition(" ")[2]) * 1_000_000)
        self.places: dict[str, Any] = {}

    def work(self, seed: str, steps: int) -> None:
        chance = random.Random(seed)
        for kind in chance.choices(list(KINDS), list(KINDS.values()), k=steps):
            getattr(self, f"_{kind}")(chance.choice(self.logs), chance.choice(OBJECT_KEYS))

    def append(self, log: Log, records: list[tuple[str, list[int]]], **options: Any) -> None:
        def act() -> Any:
            if len(records) > 1:
                return log.append_many(records)
            return log.append(*records[0], **options)

        place = self.recorder.do(
            "append", log.log_key, act, lambda position: position.stamp_us, records=records, **options
        )
        if place is not None:
            self.places[log.log_key] = place

    def event(self) -> list[int]:
        return [next(self.numbers)]

    def _append(self, log: Log, object_key: str) -> None:
        self.append(log, [(object_key, self.event())])

    def _append_if(self, log: Log, object_key: str) -> None:
        self.append(log, [(object_key, self.event())], expected_count=self._count(log, object_key))

    def _retry(self, log: Log, object_key: str) -> None:
        """Under a name that others use, too, and with the same event, so that it does not matter whose it is."""
        number = next(self.numbers) % 7
        for _ in range(2):
            self.append(log, [(object_key, [-number])], record_id=f"id {number}")

    def _batch(self, log: Log, object_key: str) -> None:
        self.append(log, [(each, self.event()) for each in (object_key, OBJECT_KEYS[0], object_key)])

    def _events(self, log: Log, object_key: str) -> None:
        self.recorder.do("events", log.log_key, lambda: log.events(object_key), list, object_key=object_key)

    def _count(self, log: Log, object_key: str) -> Any:
        return self.recorder.do("count", log.log_key, lambda: log.count(object_key), object_key=object_key)

    def _read(self, log: Log, object_key: str = "") -> None:
        self.read(log)

    def _read_on(self, log: Log, object_key: str) -> None:
        """After the last record that this process has appended, dropped or not."""
        if log.log_key in self.places:
            place = self.places[log.log_key]
            self.read(log, after=place, after_us=place.stamp_us)

    def read(self, log: Log, after: Any = None, **given: Any) -> None:
        def act() -> list[Any]:
            return [[record.object_key, record.event] for record in log.read(after)]

        self.recorder.do("read", log.log_key, act, **given)

    def _fresh(self, log: Log, object_key: str) -> None:
        with Checkpoint(self.store, read_only=True) as checkpoint:
            fresh = checkpoint.log(log.log_key)
            self._count(fresh, object_key)
            self._events(fresh, object_key)

    def _claim(self, log: Log, object_key: str) -> None:
        object_key = f"claimed {object_key[-1:]}"  # never forgotten, which would end the claim
        claim = log.claim(object_key)
        taken = self.recorder.do("claim", log.log_key, claim.__enter__, bool, object_key=object_key)
        self._append(log, OBJECT_KEYS[1])
        if taken:
            self.recorder.do(
                "release", log.log_key, lambda: claim.__exit__(None, None, None), object_key=object_key
            )
        else:
            claim.__exit__(None, None, None)

    def _forget(self, log: Log, object_key: str) -> None:
        self.recorder.do(
            "forget",
            log.log_key,
            lambda: log.forget(object_key),
            lambda position: position.stamp_us,
            object_key=object_key,
        )


def work(store: Path, histories: Path, name: str, seed: str, steps: int) -> None:
    worker = Worker(store, histories, name)
    wait_until((histories / "start").exists, "they all start")
    worker.work(seed, steps)


def compact_often(store: Path, histories: Path, name: str, seed: str, times: int) -> None:
    chance = random.Random(seed)
    recorder, checkpoint = Recorder(histories, name), Checkpoint(store)
    wait_until((histories / "start").exists, "they all start")
    for _ in range(times):
        compact(recorder, checkpoint.log(chance.choice(LOG_KEYS)), chance.choice(RULES))


def follow(store: Path, histories: Path, name: str) -> None:
    """Write down what a follower of a log is given, until the end of it."""
    seen = []
    for record in Checkpoint(store, read_only=True).log(name).follow(idle_timeout_s=60):
        seen.append([record.position.stamp_us, record.position.more, record.object_key, record.event])
        if record.object_key == "end":
            break
    (histories / f"followed {name}").write_text(json.dumps(seen))


@pytest.mark.slow
def test_logs_that_others_compact_are_linearizable(
    store: Path, tmp_path: Path, children: Children, intensity: int
) -> None:
    histories = tmp_path / "histories"
    histories.mkdir()
    chance = seeded("histories over compactions")
    end = Worker(store, histories, "end 0")
    seeds = [str(chance.random()) for _ in range(8)]
    for number, method in enumerate(["fork", "spawn", "fork", "fork"]):
        name = f"worker {number + 1}"
        children.start(work, store, histories, name, seeds[number], 220 * intensity, method=method)
    for number in range(2):
        name = f"compactor {number}"
        children.start(
            compact_often, store, histories, name, seeds[4 + number], 25 * intensity, method="fork"
        )
    followers = [children.start(follow, store, histories, log_key, method="fork") for log_key in LOG_KEYS]
    (histories / "start").touch()
    for number in range(3 * intensity):
        kill_a_compactor(store, histories, f"killed {number}", chance, children)
    for child in children.all:
        if child not in followers and child.name.split(" ")[0] != "compact_for_ever":
            assert child.wait() == 0
    for log in end.logs:
        end._append(log, "end")
        end.read(log)
        for object_key in OBJECT_KEYS:
            end._count(log, object_key)
            end._events(log, object_key)
    assert [child.wait() for child in followers] == [0, 0]

    calls = load_calls(histories)

    assert check_shrinking(calls) > 1000
    assert check_claims(calls) > 10
    assert (
        sum(call.kind == "compact" and bool(call.result and call.result["is_changed"]) for call in calls) > 20
    )
    for log in end.logs:
        require_followed(json.loads((histories / f"followed {log.log_key}").read_text()), log, calls)
    tally.add("operations found linearizable", len(calls))


def kill_a_compactor(
    store: Path, histories: Path, name: str, chance: random.Random, children: Children
) -> None:
    child = children.start(compact_for_ever, store, histories, name, str(chance.random()), method="fork")
    wait_until(lambda: list(histories.glob(f"{name}-*")), "it has begun")
    (begun,) = histories.glob(f"{name}-*")
    lines = chance.randint(1, 9)
    wait_until(lambda: begun.read_bytes().count(b"\n") >= lines, "it compacts", pause_s=0.001)
    child.kill()
    Recorder(histories, name).dies()


def compact_for_ever(store: Path, histories: Path, name: str, seed: str) -> None:
    compact_often(store, histories, name, seed, 1_000_000)


def require_followed(seen: list[list[Any]], log: Log, calls: list[Call]) -> None:
    """A follower was given everything that is left once, in order, and nothing that nobody wrote."""
    places = [(stamp_us, -more) for stamp_us, more, *_ in seen]
    assert all(one < other for one, other in pairwise(places))
    left = {(record.position.stamp_us, -record.position.more) for record in log.read()}
    assert left <= set(places)
    written = {
        (call.result, part - len(call.given["records"]) + 1): record
        for call in calls
        if call.kind == "append" and call.log_key == log.log_key and call.outcome == "ok"
        for part, record in enumerate(call.given["records"])
        if "record_id" not in call.given
    }
    for stamp_us, more, object_key, event in seen:
        if (known := written.get((stamp_us, -more))) is not None:
            assert (object_key, event[-1]) == (known[0], known[1][-1])


# --- logs that shrink in a faulty way are found out --------------------------------------------------------------


@pytest.fixture
def worker(store: Path, tmp_path: Path) -> Worker:
    """Somebody who has written to two objects of the first log, of which one was compacted."""
    histories = tmp_path / "histories"
    histories.mkdir()
    worker = Worker(store, histories, "worker 0")
    log = worker.logs[0]
    for number in range(4):
        worker.append(log, [("x", [number])], record_id=f"id {number}")
    worker.append(log, [("x", [4]), ("y", [5]), ("x", [6])])
    compact(worker.recorder, log, {"keep_last": 2})
    return worker


def found_out(worker: Worker) -> bool:
    histories = next(worker.store.parent.glob("histories"))
    try:
        check_shrinking(load_calls(histories))
    except AssertionError:
        return True
    return False


def test_log_that_is_compacted_as_it_should_be_is_accepted(worker: Worker) -> None:
    log = worker.logs[0]
    worker.append(log, [("x", [7])], record_id="id 0")
    worker._append_if(log, "x")
    worker._forget(log, "x")
    worker._append_if(log, "x")
    worker.append(log, [("x", [7])], record_id="id 0")
    compact(worker.recorder, log, {"keep_last": 0, "fold": True})
    for act in (worker._events, worker._count, worker._read, worker._read_on, worker._fresh):
        act(log, "x")

    assert not found_out(worker)


def shows(worker: Worker, kind: str, answer: Any, **given: Any) -> None:
    worker.recorder.do(kind, "a", lambda: answer, **given)


@pytest.mark.parametrize(
    ("kind", "answer", "given"),
    [
        pytest.param("count", 2, {"object_key": "x"}, id="a count that starts anew"),
        pytest.param("events", [[6]], {"object_key": "x"}, id="one record more is dropped"),
        pytest.param("events", [[3], [4], [6]], {"object_key": "x"}, id="what was dropped is shown"),
        pytest.param("append", 1 << 60, {"records": [["x", [0]]], "record_id": "id 0"}, id="an id is lost"),
        pytest.param(
            "append", 1 << 60, {"records": [["x", [0]]], "expected_count": 2}, id="a wrong condition"
        ),
        pytest.param("read", [["x", [4]], ["x", [6]]], {}, id="a batch halved"),
        pytest.param("read", [["x", [6]], ["y", [5]], ["x", [4]]], {}, id="another order"),
        pytest.param("read", [["x", [4]]], {"after_us": 1 << 60}, id="a record twice"),
    ],
)
def test_answer_that_no_order_explains_is_found_out(
    worker: Worker, kind: str, answer: Any, given: dict[str, Any]
) -> None:
    assert not found_out(worker)
    shows(worker, kind, answer, **given)

    assert found_out(worker)


def test_forgotten_object_that_comes_back_with_a_compaction_is_found_out(worker: Worker) -> None:
    worker._forget(worker.logs[0], "x")
    shows(worker, "events", [], object_key="x")
    compact(worker.recorder, worker.logs[0], {})
    assert not found_out(worker)
    shows(worker, "events", [[4], [6]], object_key="x")

    assert found_out(worker)


def test_compaction_that_drops_what_came_after_its_start_is_found_out(worker: Worker) -> None:
    log = worker.logs[0]

    def compacts_twice(log: Log, **options: Any) -> Any:
        done = log.compact(**options)
        worker.append(log, [("y", [7])])
        log.compact(drop="y")
        return done

    compact(worker.recorder, log, {"keep_last": 1}, compacts_twice)
    worker._events(log, "y")

    assert found_out(worker)


def test_claim_that_two_have_is_found_out(worker: Worker) -> None:
    other = Recorder(next(worker.store.parent.glob("histories")), "other 1")
    for recorder in (worker.recorder, other):
        recorder.do("claim", "a", lambda: True, object_key="claimed 1")
    for recorder in (worker.recorder, other):
        recorder.do("release", "a", lambda: None, object_key="claimed 1")

    with pytest.raises(AssertionError, match="two had it"):
        check_claims(load_calls(next(worker.store.parent.glob("histories"))))
