"""Threads that wait for another thread of their process: that one writes their records, too."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._logfile import queued as queued_module
from mpcheckpoint._logfile.end import LogEnd
from mpcheckpoint._logfile.queued import AppendQueue
from mpcheckpoint._logfile.read import LogReader
from mpcheckpoint.errors import (
    CheckpointError,
    ConflictError,
    LockTimeoutError,
    OutcomeUnknownError,
    WriteFailedError,
)
from support.verbs import Faults, assert_goes_on, lock_file, log_file, seen_anew, wait_until, writer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOG = r"a\.jsonl$"
THREADS = 6


@pytest.fixture
def held(store: Path, log: Log) -> Iterator[Callable[[], None]]:
    """Another process has the append lock, as it were, until this is called. The log has one record, 0."""
    del log
    descriptor = system.open_file(str(lock_file(store)), write=True)
    assert system.try_lock(descriptor.fd)
    yield lambda: system.unlock(descriptor.fd)
    descriptor.close()


class Appends:
    """Appends by threads, the first of which waits for the kernel's lock, and the others for that thread."""

    def __init__(self, store: Path, count: int = THREADS) -> None:
        self.failures: list[BaseException] = []
        self.positions: dict[int, Any] = {}
        self._threads: list[threading.Thread] = []
        writer = writer_of(store)
        for number in range(1, count + 1):
            thread = threading.Thread(target=self._append, args=(store, number))
            thread.start()
            self._threads.append(thread)
            wait_until(lambda: writer.lock.is_entered, "the first is inside")
        wait_until(lambda: len(writer.queue._queue) == count - 1, "the others have queued")

    def _append(self, store: Path, number: int) -> None:
        try:
            self.positions[number] = Checkpoint(store).log("a").append("x", number)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test looks at it
            self.failures.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.guarantee(2)
@pytest.mark.guarantee(3)
def test_threads_that_wait_for_another_are_written_by_it_at_once_each_a_batch_of_its_own(
    store: Path, log: Log, held: Callable[[], None], faults: Faults
) -> None:
    appends = Appends(store)
    writes = faults.watch("write_at", on=LOG)
    held()
    appends.join()

    records = list(log.read())
    assert writes.seen == 1
    assert not appends.failures
    assert sorted(record.event for record in records) == [*range(THREADS + 1)]
    assert len({record.position.stamp_us for record in records}) == THREADS + 1
    assert {record.event: record.position for record in records[1:]} == appends.positions
    assert log.stats()["batches"] == THREADS + 1
    assert log.stats()["appends"] == THREADS + 1


@pytest.mark.guarantee(1)
def test_threads_that_are_written_by_another_are_covered_by_a_sync(
    store: Path, log: Log, held: Callable[[], None], faults: Faults
) -> None:
    appends = Appends(store)
    end_at_sync: list[int] = []

    def sync(real: Callable[[int], None], fd: int) -> None:
        end_at_sync.append(writer_of(store).log.state.end.offset)  # type: ignore[union-attr]
        real(fd)

    faults.act("sync_data", sync, on=LOG, times=1 << 30)
    held()
    appends.join()

    assert max(end_at_sync) >= max(position.offset for position in appends.positions.values())
    assert len(end_at_sync) <= 2


@pytest.mark.guarantee(9)
def test_write_for_many_that_finds_the_disk_full_is_tried_again_one_by_one(
    store: Path, log: Log, held: Callable[[], None], faults: Faults
) -> None:
    appends = Appends(store)
    fault = faults.fail("write_at", errno.ENOSPC, on=LOG)
    held()
    appends.join()

    assert fault.hits == 1
    assert not appends.failures
    assert sorted(log.events("x")) == [*range(THREADS + 1)]
    assert_goes_on(log, list(log.events("x")))


@pytest.mark.guarantee(9)
def test_threads_for_whose_records_there_is_no_room_are_all_refused_and_none_is_there(
    store: Path, log: Log, held: Callable[[], None], faults: Faults
) -> None:
    appends = Appends(store)
    fault = faults.fail_in_mid_write(errno.ENOSPC, taken_bytes=30, on=LOG, times=1 << 30)
    held()
    appends.join()
    fault.clear()

    assert [type(failure) for failure in appends.failures] == [WriteFailedError] * THREADS
    assert_goes_on(log, [0])


@pytest.mark.guarantee(8)
def test_thread_that_may_not_wait_leaves_the_queue_and_its_record_is_not_written(
    store: Path, log: Log, held: Callable[[], None]
) -> None:
    appends = Appends(store, 2)
    impatient = Checkpoint(store, lock_timeout_s=0.05).log("a")

    with pytest.raises(LockTimeoutError):
        impatient.append("x", "not in time")

    held()
    appends.join()
    assert sorted(log.events("x")) == [0, 1, 2]
    assert_goes_on(log, list(log.events("x")))


def test_thread_whose_time_is_over_while_its_record_is_being_written_has_it_acknowledged(
    store: Path, log: Log, held: Callable[[], None], faults: Faults
) -> None:
    appends = Appends(store, 1)
    done: list[object] = []
    impatient = threading.Thread(
        target=lambda: done.append(Checkpoint(store, lock_timeout_s=1.0).log("a").append("x", "in time"))
    )
    impatient.start()
    wait_until(lambda: len(writer_of(store).queue._queue) == 1, "it has queued")

    def slowly(real: Callable[..., int], *arguments: Any) -> int:
        threading.Event().wait(1.5)  # longer than the other may wait
        return real(*arguments)

    faults.act("write_at", slowly, on=LOG)
    held()
    impatient.join(20)
    appends.join()

    assert len(done) == 1
    assert log.events("x") == (0, 1, "in time")


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("is_written", [False, True])
def test_interrupt_of_the_thread_that_writes_for_others_neither_loses_nor_doubles_their_records(
    store: Path, log: Log, faults: Faults, is_written: bool
) -> None:
    writer = writer_of(store)
    others = [threading.Thread(target=log.append, args=("x", number)) for number in (1, 2, 3)]

    def let_others_queue(real: Callable[..., bytes], *arguments: Any) -> bytes:
        for thread in others:
            thread.start()
        wait_until(lambda: len(writer.queue._queue) == 3, "the others have queued")
        return real(*arguments)

    def interrupt(real: Callable[..., int], *arguments: Any) -> int:
        if is_written:
            real(*arguments)
        raise KeyboardInterrupt

    looks = faults.act("read_once", let_others_queue, on=LOG)
    faults.act("write_at", interrupt, on=LOG)
    with pytest.raises(KeyboardInterrupt):
        log.append("x", "interrupted")
    for thread in others:
        thread.join(20)

    assert looks.hits == 1
    expected = {0, 1, 2, 3} | ({"interrupted"} if is_written else set())
    assert len(log.events("x")) == len(expected)
    assert set(log.events("x")) == expected
    assert_goes_on(log, list(log.events("x")))


def test_condition_is_judged_by_its_own_thread_under_the_lock(
    store: Path, log: Log, held: Callable[[], None]
) -> None:
    appends = Appends(store, 3)
    refused: list[type] = []

    def append() -> None:
        try:
            log.append("x", "late", expected_count=1)
        except ConflictError as error:
            refused.append(type(error))

    conditional = threading.Thread(target=append)
    conditional.start()
    held()
    appends.join()
    conditional.join(20)

    assert refused == [ConflictError] or log.events("x")[1] == "late"
    assert sorted(map(str, log.events("x")))[:4] == ["0", "1", "2", "3"]


@pytest.mark.guarantee(7)
def test_forked_child_writes_nothing_of_what_the_threads_of_its_parent_had_queued(
    store: Path, log: Log, held: Callable[[], None]
) -> None:
    appends = Appends(store, 4)
    pid = os.fork()
    if pid == 0:
        try:
            held()  # its copy of the descriptor: the lock is free for all
            log.append("x", "by the child")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    appends.join()

    assert sorted(map(str, seen_anew(log))) == ["0", "1", "2", "3", "4", "by the child"]


# --- what is written by another thread, and what is not -----------------------------------------------------------


@pytest.mark.guarantee(9)
def test_thread_that_may_not_wait_at_all_is_not_told_that_nothing_was_written_while_another_writes_its_record(
    store: Path, log: Log, faults: Faults
) -> None:
    writer = writer_of(store)
    positions: list[Any] = []
    impatient = threading.Thread(
        target=lambda: positions.append(Checkpoint(store, lock_timeout_s=0.3).log("a").append("x", "in time"))
    )

    def let_it_queue(real: Callable[..., bytes], *arguments: Any) -> bytes:
        impatient.start()
        wait_until(lambda: writer.queue._queue, "it has queued")
        return real(*arguments)

    def slowly(real: Callable[..., int], *arguments: Any) -> int:
        threading.Event().wait(1.5)  # several times as long as the other may wait
        return real(*arguments)

    faults.act("read_once", let_it_queue, on=LOG)
    faults.act("write_at", slowly, on=LOG)
    log.append("x", 1)
    impatient.join(20)

    assert log.events("x") == (0, 1, "in time")
    assert [position.offset for position in positions] == [log_file(store).stat().st_size]


@pytest.mark.guarantee(9)
def test_thread_whose_record_another_writes_for_ever_is_told_that_the_outcome_is_unknown(
    store: Path, log: Log, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_module, "_LONGEST_WRITE_S", 0.1)
    writer = writer_of(store)
    failures: list[BaseException] = []
    is_over = threading.Event()

    def append_impatiently() -> None:
        try:
            Checkpoint(store, lock_timeout_s=0.1).log("a").append("x", "written late")
        except CheckpointError as error:
            failures.append(error)
        is_over.set()

    impatient = threading.Thread(target=append_impatiently)

    def let_it_queue(real: Callable[..., bytes], *arguments: Any) -> bytes:
        impatient.start()
        wait_until(lambda: writer.queue._queue, "it has queued")
        return real(*arguments)

    def very_slowly(real: Callable[..., int], *arguments: Any) -> int:
        assert is_over.wait(20)
        return real(*arguments)

    faults.act("read_once", let_it_queue, on=LOG)
    faults.act("write_at", very_slowly, on=LOG)
    log.append("x", 1)
    impatient.join(20)

    assert [type(failure) for failure in failures] == [OutcomeUnknownError]
    assert_goes_on(log, [0, 1, "written late"])


@pytest.mark.guarantee(2)
def test_interrupt_right_after_a_write_for_many_doubles_no_record(
    store: Path, log: Log, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    appends = Appends(store, 4)
    real = LogEnd.move_to
    interrupts = iter([KeyboardInterrupt])

    def interrupted(*arguments: Any) -> None:
        for interrupt in interrupts:  # as a Ctrl-C at the start of this very call
            raise interrupt
        real(*arguments)

    monkeypatch.setattr(LogEnd, "move_to", interrupted)
    held()
    appends.join()

    assert not next(interrupts, None)
    events = list(log.events("x"))
    assert sorted(events) == sorted(set(events))
    assert set(events) == {0, 1, 2, 3, 4}
    assert_goes_on(log, events)


@pytest.mark.guarantee(2)
def test_records_of_a_write_for_many_that_were_seen_stay_where_there_is_no_room_for_all(
    store: Path, log: Log, held: Callable[[], None], faults: Faults
) -> None:
    follower = LogReader(writer_of(store).paths, resumes=True)
    appends = Appends(store, 5)
    seen: list[bytes] = []

    def look() -> None:
        seen.extend(line.event for chunk in follower.poll() for line in chunk.lines)

    def run_out_of_room(real: Callable[..., int], fd: int, data: bytes, offset: int) -> int:
        cut = data.index(b"\n", data.index(b"\n") + 1) + 20  # two records, and a part of the third
        real(fd, data[:cut], offset)
        look()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    look()
    faults.act("write_at", run_out_of_room, on=LOG)
    held()
    appends.join()
    early = list(seen)
    look()

    assert len(early) == 3
    assert not appends.failures
    assert [record.event for record in log.read()] == [int(event) for event in seen]
    assert sorted(log.events("x")) == [0, 1, 2, 3, 4, 5]
    assert {record.event: record.position for record in log.read()} == appends.positions | {
        0: next(iter(log.read())).position
    }
    assert log.stats()["appends"] == 6
    assert_goes_on(log, list(log.events("x")))


@pytest.mark.guarantee(9)
def test_thread_whose_own_record_found_room_in_a_write_for_many_is_acknowledged_and_the_others_are_refused(
    store: Path, log: Log, held: Callable[[], None], faults: Faults
) -> None:
    appends = Appends(store, 3)
    writes = 0

    def run_out_of_room(real: Callable[..., int], fd: int, data: bytes, offset: int) -> int:
        nonlocal writes
        writes += 1
        if writes == 1:
            real(fd, data[: data.index(b"\n") + 30], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fault = faults.act("write_at", run_out_of_room, on=LOG, times=1 << 30)
    held()
    appends.join()
    fault.clear()

    assert [type(failure) for failure in appends.failures] == [WriteFailedError] * 2
    assert len(appends.positions) == 1
    assert_goes_on(log, [0, *appends.positions])


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("is_in_leaving", [False, True])
def test_interrupt_of_a_thread_that_queues_leaves_no_batch_behind(
    store: Path, log: Log, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch, is_in_leaving: bool
) -> None:
    appends = Appends(store, 1)
    name = "leave" if is_in_leaving else "join"
    real = getattr(AppendQueue, name)

    def interrupted(*arguments: Any) -> None:
        monkeypatch.setattr(AppendQueue, name, real)
        if not is_in_leaving:
            real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(AppendQueue, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        Checkpoint(store, lock_timeout_s=0.05).log("a").append("x", "interrupted")

    assert not writer_of(store).queue._queue
    held()
    appends.join()
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(9)
def test_interrupt_of_a_thread_that_takes_what_others_queued_costs_them_nothing(
    store: Path, log: Log, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    appends = Appends(store, 4)
    interrupts = iter([KeyboardInterrupt])
    queue = writer_of(store).queue

    class Interrupted(deque[Any]):
        def remove(self, value: Any) -> None:
            super().remove(value)
            for interrupt in interrupts:  # as a Ctrl-C right after it
                raise interrupt

    monkeypatch.setattr(queue, "_queue", Interrupted(queue._queue))
    held()
    appends.join()

    assert not [failure for failure in appends.failures if isinstance(failure, Exception)]
    assert len(appends.positions) == 3
    assert_goes_on(log, [0, *sorted(appends.positions, key=lambda number: appends.positions[number].offset)])


@pytest.mark.guarantee(2)
def test_interrupt_while_the_others_are_told_tells_them_all_the_same(
    store: Path, log: Log, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    appends = Appends(store)
    real, interrupts = queued_module.Appended, [KeyboardInterrupt()]

    def appended(*arguments: Any) -> Any:
        if interrupts:
            raise interrupts.pop()
        return real(*arguments)

    monkeypatch.setattr(queued_module, "Appended", appended)
    held()
    appends.join()

    assert not interrupts
    assert [type(failure) for failure in appends.failures] == [KeyboardInterrupt]
    assert sorted(log.events("x")) == [*range(THREADS + 1)]
    assert len(appends.positions) == THREADS - 1
    assert log.stats()["appends"] == THREADS + 1
