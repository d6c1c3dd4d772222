"""What many processes do to logs at the same time is linearizable: each log is as one object, used by one at a time.

With kills, torn ends and recoveries in between, and with either durability: while the power is on, both are the same.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import ConflictError
from mpcheckpoint.testing._histories.linearizability import check_history
from mpcheckpoint.testing._histories.recorder import HistoryRecorder, load_history
from mpcheckpoint.testing._histories.verdict import NotLinearizableError
from mpcheckpoint.testing._simulation.seam import Seam
from support import tally
from support.histories import LogWrapper
from support.verbs import seeded, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mpcheckpoint import Log, Position
    from mpcheckpoint.testing._histories.operation import Operation
    from mpcheckpoint.testing._simulation.seam import SeamCall
    from support.processes import Children

pytestmark = [pytest.mark.guarantee(3), pytest.mark.guarantee(4)]

LOG_KEYS = ("a", "b")
OBJECT_KEYS = [f"object {number}" for number in range(12)]
WRITING = {"append": 4, "append_if": 4, "retry": 1, "batch": 2, "batch_if": 2, "batch_at_end": 1}
KINDS = {**WRITING, "events": 3, "since": 1, "last": 1, "count": 3, "read": 1, "fresh": 2}


# --- what processes do -----------------------------------------------------------------------------------------


class Worker:
    """Does so many random things to the logs of a store, and records them."""

    wrap: Callable[[Log], Any] = staticmethod(lambda log: log)

    def __init__(self, place: Place, name: str) -> None:
        self._place = place
        self._name = name
        self._numbers = count()
        checkpoint = Checkpoint(place.store, durability=place.durability)
        self.recorders = [self._recorder(checkpoint.log(log_key)) for log_key in LOG_KEYS]

    def work(self, seed: str, steps: int) -> None:
        chance = random.Random(seed)
        for kind in chance.choices(list(KINDS), list(KINDS.values()), k=steps):
            recorder, object_key = chance.choice(self.recorders), chance.choice(OBJECT_KEYS)
            # Some values are unique, some come again and again.
            event = [self._name, next(self._numbers)] if chance.random() < 0.7 else "again"
            getattr(self, f"_{kind}")(recorder, object_key, event)

    def _append(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        recorder.append(object_key, event)

    def _append_if(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        try:
            recorder.append(object_key, event, expected_count=recorder.count(object_key))
        except ConflictError:
            pass  # somebody else was quicker

    def _retry(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        record_id = f"{self._name} {event}"
        assert recorder.append(object_key, event, record_id=record_id) == recorder.append(
            object_key, event, record_id=record_id
        )

    def _batch(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        recorder.append_many([(object_key, event), (OBJECT_KEYS[0], event), (object_key, "again")])

    def _batch_if(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        counts = {each: recorder.count(each) for each in (object_key, OBJECT_KEYS[0])}
        try:
            recorder.append_many([(object_key, event)] * 2, expected_counts=counts)
        except ConflictError:
            pass  # somebody else was quicker

    def _batch_at_end(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        end: Position | None = None
        for _ in range(4):
            try:
                recorder.append_many([(object_key, event)], expected_end=end or "start")
                return
            except ConflictError as conflict:
                end = conflict.end

    def _since(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        recorder.events(object_key, start=max(0, recorder.count(object_key) - 1))

    def _last(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        recorder.last(object_key, 2)

    def _events(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        recorder.events(object_key)

    def _count(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        recorder.count(object_key)

    def _read(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        recorder.read()

    def _fresh(self, recorder: HistoryRecorder, object_key: str, event: Any) -> None:
        with Checkpoint(self._place.store, read_only=True) as checkpoint:
            fresh = self._recorder(checkpoint.log(recorder.log_key))
            fresh.count(object_key)
            fresh.events(object_key)
            fresh.close()

    def _recorder(self, log: Log) -> HistoryRecorder:
        return HistoryRecorder(self.wrap(log), self._place.histories, process_name=self._name)


def work(place: Place, name: str, steps: int, threads: int = 1) -> None:
    """Wait for the start, then work, in so many threads that share their handles."""
    worker = Worker(place, name)
    place.ready(name)
    with ThreadPoolExecutor(threads) as executor:
        seeds = [f"{place.seed} {name} {thread}" for thread in range(threads)]
        list(executor.map(worker.work, seeds, [steps // threads] * threads))


def work_and_die_in_an_append(place: Place, name: str, steps: int) -> None:
    """Leave a torn end."""

    def tear(call: SeamCall) -> Any:
        fd, data, offset = call.arguments
        os.pwrite(fd, data[: len(data) // 2], offset)
        os.kill(os.getpid(), signal.SIGKILL)

    work(place, name, steps)
    with Seam(tear, names=["write_at"]):
        Worker(place, name).recorders[0].append_many(
            [(object_key, f"by {name}") for object_key in OBJECT_KEYS]
        )


# --- many processes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a crowd works, and how."""

    directory: Path
    durability: str
    seed: str

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def histories(self) -> Path:
        return self.directory / "histories"

    def ready(self, name: str) -> None:
        """Wait for the start."""
        (self.directory / f"{name} is ready").touch()
        wait_until((self.directory / "start").exists, "they all start")

    def start(self, children: int) -> None:
        """Let them start once so many are ready."""
        wait_until(lambda: len(list(self.directory.glob("* is ready"))) == children, "all are ready")
        (self.directory / "start").touch()

    def await_progress(self, size_bytes: int) -> None:
        """Return once the histories have grown by so much. A call and its return take about 200 bytes."""
        before = self._size_bytes()
        wait_until(lambda: self._size_bytes() > before + size_bytes, "they have got on", pause_s=0)

    def _size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.histories.glob("*"))

    def history(self) -> list[Operation]:
        """Return what was recorded, with a look at the end of it."""
        checkpoint = Checkpoint(self.store, read_only=True)
        for log_key in LOG_KEYS:
            with HistoryRecorder(checkpoint.log(log_key), self.histories, process_name="end") as recorder:
                recorder.read()
        return load_history(self.histories)


def require_positions_of_the_records(store: Path, operations: Iterable[Operation]) -> None:
    """What an append returned is the position of its record, or of the last one of its batch."""
    found = {
        record.position: (record.object_key, record.event)
        for log_key in LOG_KEYS
        for record in Checkpoint(store, read_only=True).log(log_key).read()
    }
    for operation in operations:
        if operation.is_append and operation.outcome == "ok":
            assert found[operation.result] == operation.records[-1], operation


@pytest.mark.slow
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("durability", ["always", "never"])
def test_logs_of_killed_and_replaced_processes_are_linearizable(
    children: Children, tmp_path: Path, durability: str, intensity: int
) -> None:
    place = Place(tmp_path, durability, str(seeded(durability).random()))
    workers = []
    for number, method in enumerate(["fork", "spawn"] * 3):
        name, threads = f"worker {number}", 1 + number % 3
        workers.append(children.start(work, place, name, 250 * intensity, threads, method=method))
    torn = [
        children.start(work_and_die_in_an_append, place, f"torn {steps}", steps, method="fork")
        for steps in (10, 60)
    ]
    place.start(8)
    for replaced in range(3):
        place.await_progress(25_000)
        for number, child in enumerate(workers[:2]):
            child.kill()
            name = f"replacement {2 * replaced + number}"
            workers.append(children.start(work, place, name, 200, 1 + number, method="fork"))
            Checkpoint(place.store).log(LOG_KEYS[number]).recover()
        workers = workers[2:]
    assert [child.wait() for child in workers] == [0] * 6
    assert [child.wait() for child in torn] == [-signal.SIGKILL] * 2
    tally.add("kills", 2)
    operations = place.history()

    summary = check_history(operations)

    assert summary.operations > 1500
    assert summary.unknown >= 2
    assert (summary.logs, summary.processes) == (2, 15)
    assert {operation.outcome for operation in operations} == {"ok", "conflict", "unknown"}
    require_positions_of_the_records(place.store, operations)
    tally.add("operations found linearizable", summary.operations)


# --- logs that are not linearizable are found out ----------------------------------------------------------------


class StaleReads(LogWrapper):
    """Remembers what it has read of an object, and looks again only when it has written to it."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._seen: dict[str, tuple[Any, ...]] = {}

    def append(self, object_key: str, event: object, **options: Any) -> Position | None:
        self._seen.pop(object_key, None)
        return self._log.append(object_key, event, **options)

    def events(self, object_key: str, *, start: int = 0) -> tuple[Any, ...]:
        if object_key not in self._seen:
            self._seen[object_key] = self._log.events(object_key)
        return self._seen[object_key][start:]


class UnlockedCondition(LogWrapper):
    """Judges the condition of an append first, and then appends, without a lock around the two."""

    def __init__(self, log: Log, between: Callable[[], object]) -> None:
        super().__init__(log)
        self._between = between

    def append(
        self, object_key: str, event: object, *, expected_count: int | None = None, **options: Any
    ) -> Position | None:
        found = self._log.count(object_key)
        if expected_count not in (None, found):
            raise ConflictError(object_key, expected=expected_count, found=found, position=None)
        self._between()
        return self._log.append(object_key, event, **options)


class BatchInParts(LogWrapper):
    """Appends the records of a batch one after the other."""

    def __init__(self, log: Log, between: Callable[[], object]) -> None:
        super().__init__(log)
        self._between = between

    def append_many(self, records: Iterable[tuple[str, object]], **options: Any) -> Position | None:
        position = None
        for record in records:
            position = self._log.append(*record, **options)
            self._between()
        return position


class Forgetful(LogWrapper):
    """Acknowledges before it writes, and then does not."""

    def append(self, object_key: str, event: object, **options: Any) -> Position | None:
        return None


def two_recorders(store: Path, histories: Path, wrap: Callable[[Log], Any]) -> tuple[HistoryRecorder, ...]:
    """Return a recorder of a wrapped log, and one of the log as it is, by a handle of its own."""
    logs = [wrap(Checkpoint(store).log("a")), Checkpoint(store).log("a")]
    return tuple(
        HistoryRecorder(log, histories, process_name=name)
        for log, name in zip(logs, ("bad", "good"), strict=True)
    )


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    return tmp_path / "histories"


def test_log_that_reads_from_a_cache_is_found_out(store: Path, histories: Path) -> None:
    bad, good = two_recorders(store, histories, StaleReads)
    good.append("x", 1)
    bad.events("x")
    check_history(load_history(histories))
    good.append("x", 2)
    bad.events("x")
    with pytest.raises(NotLinearizableError, match=r"bad #2: events\('x'\) -> \(1,\)"):
        check_history(load_history(histories))


def test_log_that_judges_conditions_without_a_lock_is_found_out(store: Path, histories: Path) -> None:
    both_have_looked = threading.Barrier(2)
    bad, other = (
        HistoryRecorder(UnlockedCondition(Checkpoint(store).log("a"), both_have_looked.wait), histories)
        for _ in range(2)
    )
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(lambda each: each.append("x", 1, expected_count=0), [bad, other]))
    with pytest.raises(NotLinearizableError, match="expected_count=0"):
        check_history(load_history(histories))


def test_log_that_writes_batches_in_parts_is_found_out(store: Path, histories: Path) -> None:
    seen: list[int] = []
    bad, good = two_recorders(
        store, histories, lambda log: BatchInParts(log, lambda: seen.append(good.count("x")))
    )
    bad.append_many([("x", 1), ("x", 2)])
    assert seen == [1, 2]
    with pytest.raises(NotLinearizableError, match="good #1: count"):
        check_history(load_history(histories))


def test_log_that_forgets_what_it_acknowledged_is_found_out(store: Path, histories: Path) -> None:
    bad, good = two_recorders(store, histories, Forgetful)
    bad.append("x", 1)
    good.events("x")
    with pytest.raises(NotLinearizableError, match="good #1: events"):
        check_history(load_history(histories))


def test_one_process_of_many_that_reads_from_a_cache_is_found_out(children: Children, tmp_path: Path) -> None:
    place = Place(tmp_path, "never", "1")
    for number, function in enumerate((work, work, work_with_stale_reads)):
        children.start(function, place, f"worker {number}", 200, method="fork")
    place.start(3)
    children.wait_all()
    with pytest.raises(NotLinearizableError):
        check_history(place.history())


def work_with_stale_reads(*args: Any) -> None:
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Worker, "wrap", staticmethod(StaleReads))
        work(*args)
