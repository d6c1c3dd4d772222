"""One append an item: its outcome, its return and the claim on the next one stand in the log together or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial, partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._store.workers import FileWorker
from mpcheckpoint._work import item_batch, ticket, worker_process
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.item_batch import ItemBatch
from mpcheckpoint._work.item_pipe import ItemReceiver, ItemSender
from mpcheckpoint._work.member import Member
from mpcheckpoint._work.permit import Permit
from mpcheckpoint._work.plan import LogRef, Plan
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.reruns import IfChanged
from mpcheckpoint._work.run_item import FunctionCall, ItemRunner
from mpcheckpoint._work.runs import join_run, state_of
from mpcheckpoint._work.sent_item import header_of, packed, unpacked
from mpcheckpoint._work.worker_options import WorkerOptions
from mpcheckpoint._work.worker_process import _Call, _Interrupts
from mpcheckpoint.errors import ChangedVersionError, OutcomeUnknownError, WorkerDiedError, WriteFailedError
from mpcheckpoint.log import handle_of
from support.verbs import Faults, inside, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.processes import Children


pytestmark = pytest.mark.guarantee(8)

NAMES = ["a", "b", "c"]


def entries(*names: str) -> list[Input]:
    return [Input(place, name, name, {}) for place, name in enumerate(names)]


class Line:
    """Items that go through one runner, and what was called for them."""

    def __init__(
        self, log: Log, *, version: str = "", keeps_file: bool = True, permit: Permit | None = None
    ) -> None:
        self.called: list[str] = []
        self.during: dict[str, Callable[[], object]] = {}
        self.log = handle_of(log)
        run, call = join_run(self.log, version), FunctionCall(self._call)
        self._plan = Plan(LogRef(self.log), run, call, permit=permit)
        self.runner = ItemRunner(self._plan, keeps_file=keeps_file)

    def _call(self, item: str) -> str:
        self.called.append(item)
        self.during.get(item, lambda: None)()
        return item.upper()

    def run(self, *names: str) -> Iterator[ItemReport]:
        first, *others = entries(*names)
        rest = deque(others)
        return self.runner.run(first, lambda: rest.popleft() if rest else None)

    def holder(self, object_key: str) -> str | None:
        """Return the worker that has claimed an object."""
        return self.log.query(lambda view: view.claim_of(object_key))

    def outcome_us(self, object_key: str) -> int:
        """Return the stamp of an object's outcome."""
        run, workers = self._plan.run, self.log.workers
        return self.log.query(lambda view: state_of(view, run, object_key, workers)).outcome_us


@pytest.fixture
def line(log: Log) -> Iterator[Line]:
    line = Line(log)
    yield line
    line.runner.retire()


def ok_of(log: Log) -> dict[str, list[Any]]:
    """Return of each object the values of its outcomes."""
    return {
        name: [event["value"] for event in log.events(name) if "ok" in event]
        for name in NAMES
        if log.events(name)
    }


# --- what one batch does -----------------------------------------------------------------------------------


def test_item_after_item_costs_one_append_and_one_sync_each(log: Log, line: Line, faults: Faults) -> None:
    syncs = faults.watch("sync_data")
    before = log.stats()["appends"]

    reports = list(line.run(*NAMES))

    assert [report.kind for report in reports] == [Kind.RECORDED] * 3
    appends = log.stats()["appends"]
    assert isinstance(before, int)
    assert isinstance(appends, int)
    assert appends - before == 1 + 3  # the first claim, and one batch for each
    assert syncs.seen <= 3 + 1
    assert ok_of(log) == {"a": ["A"], "b": ["B"], "c": ["C"]}


@pytest.mark.parametrize("keeps_file", [True, False])
def test_next_item_is_claimed_with_the_outcome_and_begins_after_the_report(
    keeps_file: bool, log: Log
) -> None:
    line = Line(log, keeps_file=keeps_file)
    run = line.run("a", "b")

    next(run)

    assert line.called == ["a"]
    assert line.holder("a") is None
    assert line.holder("b") is not None
    with log.claim("b") as claim:
        assert claim is None
    assert [report.kind for report in run] == [Kind.RECORDED]
    line.runner.retire()


def _note_holder(holders: list[str | None], line: Line, name: str) -> None:
    holders.append(line.holder(name))


def test_functions_keep_one_worker_file_and_commands_have_one_each(log: Log, store: Path) -> None:
    for keeps_file, count in ((True, 1), (False, 3)):
        line = Line(log, keeps_file=keeps_file)
        names = [f"{name}{keeps_file}" for name in NAMES]
        holders: list[str | None] = []
        line.during = {name: partial(_note_holder, holders, line, name) for name in names}

        list(line.run(*names))

        assert len(set(holders)) == count
        line.runner.retire()
        assert list(inside(store, "workers").iterdir()) == []


def test_iterator_that_is_closed_frees_the_item_that_was_claimed(log: Log, line: Line) -> None:
    run = line.run("a", "b")
    next(run)

    run.close()  # type: ignore[attr-defined]

    with log.claim("b") as claim:
        assert claim is not None
    assert line.called == ["a"]


def test_worker_whose_file_was_removed_claims_nothing_more_under_it(
    log: Log, line: Line, store: Path
) -> None:
    def clean_up() -> None:
        for file in inside(store, "workers").iterdir():
            file.unlink()

    line.during["a"] = clean_up
    run = line.run("a", "b")
    next(run)

    with log.claim("b") as claim:
        assert claim is None
    assert [report.kind for report in run] == [Kind.RECORDED]


def test_worker_seems_to_run_an_item_for_as_long_as_the_item_runs(log: Log, line: Line) -> None:
    elapsed: list[float] = []

    def look() -> None:
        status = log.map_status()
        assert status is not None
        elapsed.extend(item.elapsed_s for item in status.running)

    line.during = {"a": lambda: time.sleep(0.3), "b": look}
    list(line.run("a", "b"))

    assert len(elapsed) == 1
    assert elapsed[0] < 0.2


@pytest.mark.parametrize("is_for_one", [True, False])
def test_failure_keeps_the_next_item_from_being_claimed_only_if_it_alone_ends_the_map(
    is_for_one: bool, log: Log
) -> None:
    def fail() -> None:
        raise ValueError("a")

    permit = Permit.given(handle_of(log).workers, is_for_one=is_for_one)
    line = Line(log, permit=permit)
    line.during["a"] = fail

    reports = list(line.run("a", "b"))

    assert [report.kind for report in reports] == [
        Kind.RECORDED,
        Kind.HALTED if is_for_one else Kind.RECORDED,
    ]
    assert line.called == (["a"] if is_for_one else ["a", "b"])
    assert permit.is_valid() != is_for_one
    line.runner.retire()
    permit.retire()


# --- what others did meanwhile -----------------------------------------------------------------------------


def test_next_item_that_another_has_done_is_not_claimed_and_the_outcome_is_recorded(
    log: Log, line: Line, store: Path, threads: ThreadPoolExecutor
) -> None:
    other = Checkpoint(store).log("a")
    line.during["a"] = lambda: list(other.map(lambda item: "other's", ["b"], executor=threads))

    reports = list(line.run(*NAMES))

    assert [report.kind for report in reports] == [Kind.RECORDED, Kind.FOUND, Kind.RECORDED]
    assert line.called == ["a", "c"]
    assert ok_of(log) == {"a": ["A"], "b": ["other's"], "c": ["C"]}


def test_next_item_that_another_holds_is_left_to_it_and_the_outcome_is_recorded(
    log: Log, line: Line, store: Path
) -> None:
    with Checkpoint(store).log("a").claim("b") as claim:
        assert claim is not None

        reports = list(line.run(*NAMES))

        assert line.holder("b") == claim.worker
    assert [report.kind for report in reports] == [Kind.RECORDED, Kind.TAKEN, Kind.RECORDED]
    assert line.called == ["a", "c"]


def test_outcome_that_does_not_count_keeps_an_item_neither_from_its_start_nor_from_its_record(
    log: Log, line: Line
) -> None:
    def run_again() -> list[Kind]:
        void = deque(entry._replace(void_us=void_us) for entry in entries(*NAMES))
        reports = line.runner.run(void.popleft(), lambda: void.popleft() if void else None)
        return [report.kind for report in reports]

    list(line.run(*NAMES))
    void_us = line.outcome_us(NAMES[-1])

    assert run_again() == [Kind.RECORDED] * 3
    assert run_again() == [Kind.FOUND] * 3  # what came later counts
    assert ok_of(log) == {"a": ["A"] * 2, "b": ["B"] * 2, "c": ["C"] * 2}


def lose_a_to(store: Path, value: str) -> None:
    """Have another worker take "a" for free and finish it."""
    for file in inside(store, "workers").iterdir():
        file.unlink()
    with ThreadPoolExecutor(1) as one:
        list(Checkpoint(store).log("a").map(lambda item: value, ["a"], executor=one))


def test_outcome_that_the_fence_refuses_does_not_keep_the_next_item_from_being_claimed(
    log: Log, line: Line, store: Path
) -> None:
    line.during["a"] = lambda: lose_a_to(store, "other's")
    run = line.run("a", "b")

    assert next(run).kind is Kind.FOUND
    assert line.holder("b") is not None
    assert [report.kind for report in run] == [Kind.RECORDED]
    assert ok_of(log) == {"a": ["other's"], "b": ["B"]}


def test_batch_of_which_everything_is_refused_writes_nothing(log: Log, line: Line, store: Path) -> None:
    records = 0

    def finish_both() -> None:
        nonlocal records
        lose_a_to(store, "other's")
        with ThreadPoolExecutor(1) as one:
            list(Checkpoint(store).log("a").map(lambda item: "other's", ["b"], executor=one))
        records = len(inside(store, "a.jsonl").read_bytes().rstrip(b"\n"))

    line.during["a"] = finish_both

    reports = list(line.run("a", "b"))

    assert [report.kind for report in reports] == [Kind.FOUND, Kind.FOUND]
    assert len(inside(store, "a.jsonl").read_bytes().rstrip(b"\n")) == records
    assert ok_of(log) == {"a": ["other's"], "b": ["other's"]}


def test_map_that_went_on_as_another_run_gets_neither_outcome_nor_claim(
    log: Log, line: Line, store: Path
) -> None:
    other = handle_of(Checkpoint(store).log("a"))
    line.during["a"] = lambda: join_run(other, "2", if_changed=IfChanged.KEEP)

    with pytest.raises(ChangedVersionError, match="went on as '2'"):
        list(line.run("a", "b"))

    assert ok_of(log) == {}
    for name in ("a", "b"):
        with log.claim(name) as claim:
            assert claim is not None


def test_two_maps_that_race_for_the_next_item_run_each_once(store: Path) -> None:
    names = [f"item{number}" for number in range(200)]
    called: list[str] = []

    def take_part(barrier: threading.Barrier) -> list[Any]:
        barrier.wait(30)
        with ThreadPoolExecutor(1) as one:
            return list(Checkpoint(store).log("a").map(called.append, names, executor=one))

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as both:
        found = [both.submit(take_part, barrier) for _ in range(2)]
        outcomes = [each.result() for each in found]

    assert sorted(called) == sorted(names)
    assert all(sorted(each.item for each in some) == sorted(names) for some in outcomes)
    ran = [each.item for some in outcomes for each in some if not each.repeated]
    assert sorted(ran) == sorted(names)


def test_item_that_was_sent_to_a_worker_process_has_there_all_that_the_map_knows_of_it() -> None:
    entry = Input(3, [1], "a", {"item": [1]}, attempts=2, file={"size_bytes": 5, "mtime_ns": 7}, void_us=9)

    header = header_of(packed(entry))

    assert header == entry._replace(item=header.item, recorded={})
    assert unpacked(header) == entry


# --- deaths, and disks that fail ---------------------------------------------------------------------------


def run_until(store: Path, number: int, ran: Path) -> None:
    """Run the items in one runner; die by SIGKILL before the ``number``-th call that changes something on disk."""
    patch = pytest.MonkeyPatch()
    line = Line(Checkpoint(store).log("a"))
    line.during = {name: partial(note, ran, name) for name in NAMES}
    Faults(patch).any_call(number, lambda name: os.kill(os.getpid(), signal.SIGKILL))
    list(line.run(*NAMES))
    line.runner.retire()
    os._exit(7)


def note(ran: Path, name: str) -> None:
    with ran.open("a") as file:
        file.write(f"{name}\n")


def test_batch_that_a_kill_meets_at_any_step_is_there_whole_or_not_at_all(
    tmp_path: Path, children: Children
) -> None:
    for number in range(1, 200):
        store, ran = tmp_path / f"store{number}", tmp_path / f"ran{number}"
        log = Checkpoint(store).log("a")
        ran.touch()
        child = children.start(run_until, store, number, ran, method="fork")
        code = child.wait(30)
        before = ran.read_text().split()
        recorded = [name for name in NAMES if log.count(name)]
        # The claim on the next item came with the outcome of the one before: whatever ran after it was claimed, and
        # nothing ran that was not recorded, but the last.
        assert before[: len(recorded)] == recorded
        assert len(before) <= len(recorded) + 1
        for name in NAMES:
            with log.claim(name) as claim:
                assert claim is not None, f"{name} is claimed by a dead worker, killed at step {number}"

        with ThreadPoolExecutor(1) as one:
            outcomes = list(log.map(str.upper, NAMES, executor=one))

        assert {outcome.item: outcome.repeated for outcome in outcomes} == {
            name: name in recorded for name in NAMES
        }
        assert ok_of(log) == {"a": ["A"], "b": ["B"], "c": ["C"]}
        if code == 7:
            break
    else:
        pytest.fail("it has no end")
    assert number >= 10


def test_batch_for_which_the_disk_is_full_leaves_both_items_free(
    log: Log, line: Line, faults: Faults
) -> None:
    full = []
    line.during["a"] = lambda: full.append(faults.fail("write_at", errno.ENOSPC, times=10**6, on=r"a\.jsonl"))
    with pytest.raises(WriteFailedError):
        list(line.run("a", "b"))
    full[0].clear()

    assert line.called == ["a"]
    assert ok_of(log) == {}
    for name in ("a", "b"):
        with log.claim(name) as claim:
            assert claim is not None


def test_batch_whose_sync_fails_gives_no_outcome_and_begins_nothing(
    log: Log, line: Line, faults: Faults, store: Path
) -> None:
    line.during["a"] = lambda: faults.fail("sync_data", errno.EIO, on=r"a\.jsonl")

    with pytest.raises(OutcomeUnknownError):
        list(line.run("a", "b"))

    assert line.called == ["a"]
    assert list(inside(store, "workers").iterdir()) == []  # so what the batch may have claimed is free


def test_shortage_at_the_batch_is_waited_out_and_the_next_item_runs(
    log: Log, line: Line, faults: Faults
) -> None:
    line.during["a"] = lambda: faults.fail("write_at", errno.ENOMEM, on=r"a\.jsonl")

    reports = list(line.run("a", "b"))

    assert [report.kind for report in reports] == [Kind.RECORDED] * 2
    assert line.called == ["a", "b"]


# --- worker processes --------------------------------------------------------------------------------------


class Killed(NamedTuple):
    """Kills a worker process before or after the batch that ends "a", once."""

    directory: Path
    is_after: bool
    number: int = signal.SIGKILL

    def __call__(self, batch: ItemBatch) -> None:
        finish = batch._finish
        is_it = (
            finish is not None and finish.entry.object_key == "a" and not (self.directory / "hit").exists()
        )
        if is_it and not self.is_after:
            self._hit()
        APPEND(batch)
        if is_it and self.is_after:
            self._hit()

    def _hit(self) -> None:
        (self.directory / "hit").touch()
        os.kill(os.getpid(), self.number)


APPEND = ItemBatch.append


def noted(directory: Path, item: str) -> str:
    note(directory / "ran", item)
    return item.upper()


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_worker_killed_at_the_batch_costs_only_the_item_that_it_ran(
    is_after: bool, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = Killed(tmp_path, is_after)
    monkeypatch.setattr(ItemBatch, "append", partialmethod(killed))
    context = multiprocessing.get_context("fork")

    outcomes = list(log.map(partial(noted, tmp_path), NAMES, jobs=1, mp_context=context))

    assert (tmp_path / "hit").exists()
    assert sorted(outcome.value for outcome in outcomes) == ["A", "B", "C"]
    assert ok_of(log) == {"a": ["A"], "b": ["B"], "c": ["C"]}
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == (NAMES if is_after else ["a", *NAMES])
    deaths = {name: sum("death" in event for event in log.events(name)) for name in NAMES}
    assert deaths == {"a": 0 if is_after else 1, "b": 0, "c": 0}


def test_ctrl_c_during_the_batch_is_heard_after_it_and_the_next_item_does_not_begin(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = Killed(tmp_path, is_after=False, number=signal.SIGINT)
    monkeypatch.setattr(ItemBatch, "append", partialmethod(killed))
    context = multiprocessing.get_context("fork")

    outcomes = list(log.map(partial(noted, tmp_path), NAMES, jobs=1, mp_context=context))

    assert (tmp_path / "hit").exists()
    assert sorted(outcome.value for outcome in outcomes) == ["A", "B", "C"]
    assert sorted((tmp_path / "ran").read_text().split()) == NAMES


def wait_for_the_others(directory: Path, item: str) -> str:
    if item == "long":
        wait_until(lambda: len(list(directory.glob("short*"))) == 6, "the others are done")
    (directory / item).touch()
    return item


@pytest.mark.parametrize("place", range(3))
def test_item_ahead_of_a_long_one_runs_elsewhere_as_soon_as_a_worker_is_idle(
    place: int, log: Log, tmp_path: Path
) -> None:
    names = [f"short{number}" for number in range(6)]
    names.insert(place, "long")
    context = multiprocessing.get_context("fork")

    outcomes = list(log.map(partial(wait_for_the_others, tmp_path), names, jobs=2, mp_context=context))

    assert all(outcome.ok for outcome in outcomes)  # the long one waited for all others
    assert {name: len(log.events(name)) for name in names} == dict.fromkeys(names, 1)


class Sent:
    """An item that says when it is unpickled, and may refuse to be."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.name,)


def _unpickled(name: str) -> Sent:
    if name == "bad":
        raise ValueError("no")
    return Sent(name)


def test_item_that_cannot_be_read_costs_nothing_of_what_ran_before_it(log: Log) -> None:
    context = multiprocessing.get_context("fork")
    items = [Sent("a"), Sent("bad"), Sent("c")]
    with pytest.raises(Exception, match="cannot be read there: ValueError: no"):
        list(log.map(lambda item: item.name, items, key=lambda item: item.name, jobs=1, mp_context=context))

    assert [event["value"] for event in log.events("a")] == ["a"]
    assert log.events("bad") == ()


def test_late_worker_begins_nothing_more_though_no_signal_has_reached_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Member, "end_if_due", lambda member, now_s: None)
    context = multiprocessing.get_context("fork")
    clock = SimpleNamespace(now_s=0.0)
    # The worker's: by the machine's, an item would be late on a busy one.
    monkeypatch.setattr(worker_process, "time", SimpleNamespace(monotonic=lambda: clock.now_s))

    def pid_of(item: str) -> int:
        clock.now_s += 2000 if item == "a" else 0
        return os.getpid()

    outcomes = list(log.map(pid_of, NAMES, jobs=1, timeout_s=1000, mp_context=context))

    pids = {outcome.item: outcome.value for outcome in outcomes}
    assert all(outcome.ok for outcome in outcomes)
    assert pids["a"] != pids["b"]
    assert pids["b"] == pids["c"]


def test_call_that_took_all_its_time_is_late_and_others_are_not() -> None:
    context = multiprocessing.get_context("fork")
    sender = ItemSender(context)
    assert sender.worker_end is not None
    interrupts = _Interrupts()
    for pause_s, timeout_s, is_late in ((0.0, 60.0, False), (0.05, 0.04, True)):
        options = WorkerOptions(timeout_s=timeout_s)
        call = _Call(lambda item, worker: time.sleep(item), interrupts, sender.worker_end, options)
        call(pause_s, FileWorker.__new__(FileWorker))
        assert call.is_late is is_late
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    sender.close_worker_end()
    sender.close()


# --- the pipes ---------------------------------------------------------------------------------------------


@pytest.fixture
def sender() -> Iterator[ItemSender]:
    sender = ItemSender(multiprocessing.get_context("fork"))
    yield sender
    sender.close_worker_end()
    sender.close()


def send(sender: ItemSender, *messages: bytes) -> list[int]:
    numbers = [sender.next_number() for _ in messages]
    for number, message in zip(numbers, messages, strict=True):
        sender.send(number, message)
    return numbers


def test_item_is_begun_or_withdrawn_and_never_both(sender: ItemSender) -> None:
    assert sender.worker_end is not None
    receiver = ItemReceiver(sender.worker_end)
    numbers = send(sender, b"a", b"b")

    assert receiver.next() == b"a"
    assert sender.withdraw() == numbers[1]
    assert receiver.next() is None
    assert sender.withdraw() is None


def test_item_that_is_withdrawn_before_it_is_read_is_passed_over(sender: ItemSender) -> None:
    assert sender.worker_end is not None
    receiver = ItemReceiver(sender.worker_end)
    numbers = send(sender, b"a")
    assert sender.withdraw() == numbers[0]
    send(sender, b"b", b"c")

    assert receiver.wait() == b"b"
    assert receiver.next() == b"c"
    assert receiver.next() is None


def test_right_that_was_taken_for_a_later_item_cannot_be_withdrawn_and_is_used(sender: ItemSender) -> None:
    assert sender.worker_end is not None
    receiver = ItemReceiver(sender.worker_end)
    send(sender, b"a")
    sender.withdraw()
    number = sender.next_number()
    os.write(sender._writing.fileno(), bytes((number,)))
    assert receiver.next() is None  # the withdrawn one: it holds the right of the next one now
    assert sender.withdraw() is None
    sender.pipe.send_bytes(bytes((number,)) + b"b")

    assert receiver.next() == b"b"


def test_sender_that_is_closed_leaves_nothing_to_begin(sender: ItemSender) -> None:
    assert sender.worker_end is not None
    receiver = ItemReceiver(sender.worker_end)
    send(sender, b"a")
    sender.close()

    assert receiver.next() is None
    with pytest.raises(EOFError):
        receiver.wait()


# --- the executor of a caller ------------------------------------------------------------------------------


def test_calls_of_the_executor_s_owner_get_their_turn_beside_a_map(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticket, "_STINT_S", 0.01)
    names = [f"item{number}" for number in range(60)]
    done: list[str] = []

    def call(item: str) -> None:
        time.sleep(0.005)
        done.append(item)

    with ThreadPoolExecutor(1) as one:
        run = log.map(call, names, executor=one)
        one.submit(done.append, "the owner's")
        list(run)

    assert "the owner's" in done[:20]


def test_item_that_a_thread_went_on_with_is_neither_recalled_nor_run_twice(log: Log) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    called: list[str] = []

    def call(item: str) -> None:
        called.append(item)
        if item == "b":
            begun.set()
            assert goes_on.wait(30)

    with ThreadPoolExecutor(1) as one:
        run = log.map(call, NAMES, executor=one)
        assert begun.wait(30)
        closing = threading.Thread(target=run.close)
        closing.start()
        time.sleep(0.05)
        goes_on.set()
        closing.join()

    assert called == ["a", "b"]
    assert [len(log.events(name)) for name in NAMES] == [1, 1, 0]


def test_batch_is_tried_again_as_a_whole(log: Log, line: Line) -> None:
    (entry,) = entries("a")
    with line.log.workers.begin() as worker:
        batch = item_batch.ItemBatch(line._plan, None, item_batch.Start(entry, worker))
        batch.append()
        again = item_batch.ItemBatch(line._plan, None, item_batch.Start(entry, worker))
        again.append()

        assert (batch.start_refusal, again.start_refusal) == (None, Kind.TAKEN)


class Refusing(ThreadPoolExecutor):
    """Takes one call, and refuses the others as if it had been shut down."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if hasattr(self, "has_one"):
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.has_one = True
        return super().submit(fn, *args, **kwargs)


def test_item_that_an_executor_refuses_is_not_run_by_a_thread_that_goes_on(log: Log) -> None:
    called: list[str] = []

    def call(item: str) -> None:
        time.sleep(0.2)
        called.append(item)

    with Refusing(1) as one, pytest.raises(WorkerDiedError):
        list(log.map(call, NAMES, executor=one))

    assert called == ["a"]
    assert log.events("b") == ()
