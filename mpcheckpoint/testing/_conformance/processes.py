"""What a storage promises to several processes: they see each other, and a killed one is in nobody's way."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from mpcheckpoint.errors import ConflictError, LockTimeoutError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.verbs import append, batches, events, raises, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from mpcheckpoint import Log
    from mpcheckpoint._types import Position

_APPENDS = 100
_CHAINED = 40


class ProcessTests(StorageUnderTest):
    """Two processes on one place; the second one is spawned, so it imports the subclass by its name."""

    def test_process_reads_and_continues_what_another_wrote(self) -> None:
        log = self.open_handle(durability="always").log("a")
        places = [str(log.append("x", 0)), str(log.append_many([("x", 1), ("x", 2)]))]
        with self.another_process(_read_and_continue) as (_, pipe):
            assert self.received(pipe) == ((0, 1, 2), places)
            assert log.events("x") == (0, 1, 2, 3)
            for number in range(4, 24, 2):
                log.append("x", number)
                pipe.send(number)
                assert self.received(pipe) == tuple(range(number + 1)), (
                    "the other process does not see it at once"
                )
                assert log.events("x") == tuple(range(number + 2))

    def test_processes_that_append_at_once_lose_nothing_and_keep_batches_whole(self) -> None:
        log = self.open_log()
        with self.another_process(_append_batches) as (process, pipe):
            assert self.received(pipe) == "began"
            mine: list[Position] = []
            while process.is_alive() and len(mine) < 5 * _APPENDS:
                mine.append(append(log, *["mine"] * 3))
            process.join(self.patience_s)
            assert process.exitcode == 0

        found = records(log)
        assert [batch for batch in batches(found) if batch != [batch[0]] * 3] == []
        assert [record.position for record in found if record.event == "mine" and record.more == 0] == mine
        theirs = [record.event for record in found if record.event != "mine" and record.more == 0]
        assert theirs == list(range(_APPENDS))

    def test_processes_that_append_on_the_end_of_the_log_take_turns(self) -> None:
        log = self.open_handle().log("a")
        with self.another_process(_append_after_the_last) as (process, pipe):
            assert self.received(pipe) == "began"
            _append_each_after_the_last(log, "mine", self.patience_s)
            process.join(self.patience_s)
            assert process.exitcode == 0

        found = [record.event for record in log.read()]
        assert [event["after"] for event in found] == list(range(2 * _CHAINED))
        assert [event["by"] for event in found].count("mine") == _CHAINED

    def test_processes_that_append_on_counts_of_two_objects_keep_them_equal(self) -> None:
        log = self.open_handle().log("a")
        with self.another_process(_append_pairs) as (process, pipe):
            assert self.received(pipe) == "began"
            _append_each_on_counts(log, self.patience_s)
            process.join(self.patience_s)
            assert process.exitcode == 0

        assert log.events("x") == log.events("y") == tuple(range(2 * _CHAINED))

    def test_log_held_by_a_process_that_is_killed_is_free_with_nothing_written(self) -> None:
        log = self.open_log()
        append(log, 0)
        with self.another_process(_hold_the_log) as (process, pipe):
            assert self.received(pipe) == "inside"
            with raises(LockTimeoutError):
                append(log, "late", timeout_s=0.05)
            assert events(log) == [0]

            process.kill()
            process.join()

            append(log, 1, timeout_s=self.patience_s)
        assert events(log) == [0, 1]

    def test_process_killed_while_it_appends_leaves_every_batch_whole_and_loses_none(self) -> None:
        log = self.open_log()
        with self.another_process(_append_for_ever) as (process, pipe):
            acknowledged = [self.received(pipe) for _ in range(_APPENDS)]
            process.kill()
            process.join()
            while (number := received_or_none(pipe)) is not None:
                acknowledged.append(number)

        append(log, "after", timeout_s=self.patience_s)
        found = batches(records(log))
        whole = [batch for batch in found if batch != ["after"]]
        late = len(found) - 1 - found.index(["after"])
        assert late == 0 or (late == 1 and self.finishes_for_the_dead)
        assert [batch for batch in whole if batch != [batch[0]] * 5] == []
        numbers = [batch[0] for batch in whole]
        assert numbers[: len(acknowledged)] == acknowledged == list(range(len(acknowledged)))
        assert len(numbers) <= len(acknowledged) + 1, "more is there than was ever appended"

    def test_handle_is_used_on_both_sides_of_a_fork(self) -> None:
        self.require("is_shared_between_processes")
        if "fork" not in multiprocessing.get_all_start_methods():
            raise SkipTest("this system does not fork")
        log = self.open_handle().log("a")
        log.append("x", 0)
        assert log.events("x") == (0,)

        with running(multiprocessing.get_context("fork").Process(target=log.append, args=("x", 1))) as child:
            child.join(self.patience_s)
            assert child.exitcode == 0

        log.append("x", 2)
        assert log.events("x") == self.open_handle()["x"] == (0, 1, 2)

    def received(self, pipe: Connection) -> Any:
        """Return what the other process sends next."""
        assert pipe.poll(self.patience_s), f"nothing came from the other process for {self.patience_s} s"
        return pipe.recv()

    @contextmanager
    def another_process(
        self, work: Callable[[StorageUnderTest, Connection], None]
    ) -> Iterator[tuple[BaseProcess, Connection]]:
        """Run ``work`` on this place in a spawned process; it is dead at the end of the block."""
        self.require("is_shared_between_processes")
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_in_another_process, args=(type(self), self.place, theirs, work))
        with mine, running(process):
            theirs.close()  # or the pipe would not end when the child dies
            yield process, mine


def _in_another_process(
    suite: type[StorageUnderTest],
    place: Path,
    pipe: Connection,
    work: Callable[[StorageUnderTest, Connection], None],
) -> None:
    storage = suite()
    storage.place = place
    work(storage, pipe)


@contextmanager
def running(process: BaseProcess) -> Iterator[BaseProcess]:
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def received_or_none(pipe: Connection) -> Any:
    """Return what came through a pipe; None at its end, also in the middle of a message."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


# --- in the other process ----------------------------------------------------------------------------------


def _read_and_continue(storage: StorageUnderTest, pipe: Connection) -> None:
    log = storage.open_handle(durability="always").log("a")
    places = [str(record.position) for record in log.read() if record.position.more == 0]
    found = log.events("x")
    log.append("x", 3)
    pipe.send((found, places))
    while (number := received_or_none(pipe)) is not None:
        found = log.events("x")
        log.append("x", number + 1)
        pipe.send(found)


def _append_batches(storage: StorageUnderTest, pipe: Connection) -> None:
    log = storage.open_log()
    pipe.send("began")
    for number in range(_APPENDS):
        append(log, *[number] * 3)


def _append_each_after_the_last(log: Log, by: str, patience_s: float) -> None:
    """Append records that tell how many there were before."""
    deadline = time.monotonic() + patience_s
    appended, records, end = 0, 0, None
    while appended < _CHAINED:
        assert time.monotonic() < deadline, f"{appended} were appended in {patience_s} s"
        for record in log.read(end):
            records, end = records + 1, record.position
        with suppress(ConflictError):
            log.append_many([("x", {"after": records, "by": by})], expected_end=end or "start")
            appended += 1


def _append_after_the_last(storage: StorageUnderTest, pipe: Connection) -> None:
    log = storage.open_handle().log("a")
    pipe.send("began")
    _append_each_after_the_last(log, "theirs", storage.patience_s)


def _append_each_on_counts(log: Log, patience_s: float) -> None:
    """Append pairs of records of two objects, each of which tells how many there were before."""
    deadline, appended = time.monotonic() + patience_s, 0
    while appended < _CHAINED:
        assert time.monotonic() < deadline, f"{appended} were appended in {patience_s} s"
        count = log.count("x")
        with suppress(ConflictError):
            log.append_many([("y", count), ("x", count)], expected_counts={"x": count, "y": count})
            appended += 1


def _append_pairs(storage: StorageUnderTest, pipe: Connection) -> None:
    log = storage.open_handle().log("a")
    pipe.send("began")
    _append_each_on_counts(log, storage.patience_s)


def _hold_the_log(storage: StorageUnderTest, pipe: Connection) -> None:
    def guard() -> None:
        pipe.send("inside")
        received_or_none(pipe)  # until this process is killed, or the other one is gone

    append(storage.open_log(), "never", guard=guard)


def _append_for_ever(storage: StorageUnderTest, pipe: Connection) -> None:
    log = storage.open_log()
    number = 0
    while True:
        append(log, *[number] * 5)
        pipe.send(number)
        number += 1
