"""The common append in native code: it does what Python does, or nothing."""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState, Payload, encode_batch
from mpcheckpoint._logfile.lock_file import LockFile
from mpcheckpoint.errors import LockTimeoutError, WriteFailedError
from support.verbs import (
    Faults,
    assert_goes_on,
    generation_of,
    is_locked,
    lock_file,
    log_file,
    page_file,
    seen_anew,
    tear,
    wait_until,
    writer_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint._logfile.append import LogWriter
    from mpcheckpoint._logfile.append_state import PureAppendState

NOT_OURS, CONTENDED, WRITTEN, DURABLE, NOT_WRITTEN, NOT_SYNCED = range(6)


class Calls:
    """Stands for what native code knows of the log, and keeps what its appends returned."""

    def __init__(self, state: PureAppendState) -> None:
        self.__dict__.update({"core": state, "outcomes": [], "before": _nothing, "after": _nothing})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            self.__dict__[name] = value
        else:
            setattr(self.core, name, value)

    def append(self, *arguments: Any) -> int:
        self.before(*arguments)
        outcome: int = self.core.append(*arguments)
        self.outcomes.append(outcome)
        self.after(*arguments)
        return outcome


def _nothing(*_: object) -> None:
    pass


@pytest.fixture
def calls(store: Path, log: Log) -> Calls:
    """The native appends of this process from now on. The log has a page, and room for more records in its padding."""
    if system.native is None:
        pytest.skip("the native core does not run")
    for _ in range(80):
        log.append("y", "y", durability="never")
    log.append("y", "y")
    generation = generation_of(store)
    assert generation.state.is_ready
    generation.state = calls = Calls(generation.state)
    return calls


# --- what it writes --------------------------------------------------------------------------------------------


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("records", [1, 2, 5, 1000])
def test_batch_by_native_code_is_the_batch_that_python_writes(
    store: Path, log: Log, calls: Calls, records: int
) -> None:
    log.append("y", "not durable", durability="never")
    calls.outcomes.clear()
    before = generation_of(store).state
    start, durable = before.end, before.durable
    batch = [("x", {"n": number, "text": "é" * number}) for number in range(records)]
    payloads = [Payload(b'"x"', b'{"n":%d,"text":"%s"}' % (n, "é".encode() * n)) for n in range(records)]

    position = log.append_many(batch, durability="never")

    assert position is not None
    data, end = encode_batch(
        payloads, end=start, stamp_us=position.stamp_us, durable=min(durable, start.offset)
    )
    assert log_file(store).read_bytes()[start.offset : end.offset] == data
    assert generation_of(store).state.end == end
    assert calls.outcomes[0] == (WRITTEN if end.offset <= start.offset + 1000 else NOT_OURS)


@pytest.mark.guarantee(3)
def test_stamps_by_native_code_rise_above_all_that_the_process_has_seen(log: Log, calls: Calls) -> None:
    from mpcheckpoint._logfile.clock import clock

    seen_us = clock.highest_us + 3_600_000_000
    clock.observe(seen_us)
    stamps = [log.append("x", number).stamp_us for number in range(3)]

    assert calls.outcomes == [DURABLE] * 3
    assert stamps == sorted(set(stamps))
    assert stamps[0] == seen_us + 1
    assert clock.highest_us == stamps[-1]


def append_by_another_process(store: Path) -> None:
    pid = os.fork()
    if pid == 0:
        Checkpoint(store).log("a").append_many([("x", "by another")] * 3)
        os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.guarantee(2)
def test_end_that_another_process_left_is_taken_over(store: Path, log: Log, calls: Calls) -> None:
    append_by_another_process(store)
    calls.outcomes.clear()

    log.append("x", "after it")

    assert calls.outcomes == [DURABLE]
    assert not generation_of(store).state.is_alone
    assert list(log.events("x")) == [0, *["by another"] * 3, "after it"]
    assert seen_anew(log) == list(log.events("x"))


@pytest.fixture
def foreign_end(store: Path, calls: Calls) -> bytearray:
    """What the page holds after another process has appended, in a group of its own."""
    append_by_another_process(store)
    calls.outcomes.clear()
    return bytearray(page_file(store).read_bytes())


def other_stamp(page: bytearray) -> None:
    page[32] ^= 1


def other_file(page: bytearray) -> None:
    page[80] ^= 1  # the inode; the check is made right again
    page[104:108] = crc32(page[64:104]).to_bytes(4, "little")


def other_generation(page: bytearray) -> None:
    page[0] ^= 1
    page[52:56] = crc32(page[:52]).to_bytes(4, "little")


def other_durable(page: bytearray) -> None:
    page[96] ^= 1


def rubbish_poison(page: bytearray) -> None:
    page[160:184] = b"\xff" * 24


@pytest.mark.rule(27)
@pytest.mark.guarantee(2)
@pytest.mark.parametrize("change", [other_stamp, other_file, other_generation, other_durable, rubbish_poison])
def test_page_is_believed_only_where_each_of_its_checks_holds(
    store: Path, log: Log, calls: Calls, foreign_end: bytearray, change: Callable[[bytearray], None]
) -> None:
    change(foreign_end)
    page_file(store).write_bytes(foreign_end)

    log.append("x", "after it")

    assert calls.outcomes == [NOT_OURS]
    assert_goes_on(log, [0, *["by another"] * 3, "after it"])


# --- what it makes durable ---------------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
def test_sync_of_a_log_that_was_removed_is_no_acknowledgement(store: Path, log: Log, calls: Calls) -> None:
    log.append("x", 1, durability="never")
    assert calls.core.make_durable(calls.core.end.offset, calls.core.beginning) == DURABLE
    log.append("x", 2, durability="never")

    log_file(store).unlink()

    assert calls.core.make_durable(calls.core.end.offset, calls.core.beginning) == WRITTEN


@pytest.mark.guarantee(1)
def test_leader_in_native_code_calls_nothing_durable_that_the_log_does_not_hold(
    store: Path, log: Log, calls: Calls
) -> None:
    append_by_another_process(store)
    log.append("x", "leads")
    append_by_another_process(store)
    log.append("x", "not durable", durability="never")
    end, page = calls.core.end, generation_of(store).page
    assert page is not None
    page.publish_end(EndState(end.offset + 60, 0x12345678, end.stamp_us + 5), 0, b"somebody", None)

    assert calls.core.make_durable(end.offset, calls.core.beginning) == DURABLE

    assert calls.core.durable == end.offset
    assert_goes_on(log, list(log.events("x")))


# --- what it leaves to Python ------------------------------------------------------------------------------------


def no_page(store: Path) -> None:
    page_file(store).write_bytes(bytes(4096))


def rubbish_page(store: Path) -> None:
    page_file(store).write_bytes(b"\xff" * 4096)


def torn_end(store: Path) -> None:
    generation_of(store)  # the padding is in the way of a write at the end of the file
    end = generation_of(store).state.end.offset
    with log_file(store).open("r+b") as file:
        file.seek(end)
        file.write(b'["000000ff",17')


def another_log(store: Path) -> None:
    copy = log_file(store).with_suffix(".copy")
    copy.write_bytes(log_file(store).read_bytes())
    copy.replace(log_file(store))


def another_lock_file(store: Path) -> None:
    lock_file(store).unlink()


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("harm", [no_page, rubbish_page, torn_end, another_log, another_lock_file])
def test_what_is_unusual_is_left_to_python_before_anything_is_changed(
    store: Path, log: Log, calls: Calls, harm: Callable[[Path], None]
) -> None:
    harm(store)
    content: list[bytes] = []
    calls.before = lambda *_: content.append(log_file(store).read_bytes() + page_file(store).read_bytes())
    calls.after = calls.before

    log.append("x", 1)

    assert calls.outcomes == [NOT_OURS]
    assert content[0] == content[1]
    assert_goes_on(log, [0, 1])


def test_padding_is_made_by_python(store: Path, log: Log, calls: Calls) -> None:
    state = generation_of(store).state
    log.append("x", "x" * (state.allocated - state.end.offset))

    assert calls.outcomes == [NOT_OURS]
    assert generation_of(store).state.allocated > generation_of(store).state.end.offset
    assert_goes_on(log, list(log.events("x")))


def test_replaced_function_of_the_system_is_not_passed_by(log: Log, faults: Faults) -> None:
    fault = faults.fail("write_at", errno.ENOSPC, on=r"a\.jsonl$")

    with pytest.raises(WriteFailedError):
        log.append("x", 1)

    assert fault.hits == 1
    assert system.native is None
    fault.clear()
    assert_goes_on(log, [0])


# --- waits -------------------------------------------------------------------------------------------------------


def test_lock_that_is_held_elsewhere_is_waited_for(store: Path, log: Log, calls: Calls) -> None:
    holder = system.open_file(str(lock_file(store)), write=True)
    assert system.try_lock(holder.fd)
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()
    wait_until(lambda: calls.outcomes == [CONTENDED], "it was refused")
    assert not writer_of(store).lock.is_held  # a fork must not wait for it

    system.unlock(holder.fd)
    thread.join(10)

    assert calls.outcomes == [CONTENDED]
    holder.close()
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(8)
@pytest.mark.guarantee(11)
def test_lock_file_that_was_replaced_in_a_wait_is_given_back_and_not_what_has_its_number(
    store: Path, log: Log, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = system.open_file(str(lock_file(store)), write=True)
    assert system.try_lock(holder.fd)
    real, taken = LockFile._opened, []

    def opened(file: LockFile) -> system.Descriptor:
        taken.append(os.open(os.devnull, os.O_RDWR))  # gets the number that was closed just now
        return real(file)

    monkeypatch.setattr(LockFile, "_opened", opened)
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()
    wait_until(lambda: calls.outcomes == [CONTENDED], "it was refused")
    lock_file(store).unlink()
    system.unlock(holder.fd)
    thread.join(10)

    assert len(taken) == 1
    assert calls.outcomes == [CONTENDED]
    assert not is_locked(lock_file(store))
    assert_goes_on(log, [0, 1])
    os.close(taken[0])
    holder.close()


@pytest.mark.guarantee(8)
def test_wait_for_a_lock_that_stays_held_ends_in_time_and_keeps_nothing(
    store: Path, log: Log, calls: Calls
) -> None:
    holder = system.open_file(str(lock_file(store)), write=True)
    assert system.try_lock(holder.fd)
    with pytest.raises(LockTimeoutError):
        Checkpoint(store, lock_timeout_s=0.05).log("a").append("x", 1)
    assert calls.outcomes == [CONTENDED]

    system.unlock(holder.fd)
    holder.close()

    assert not is_locked(lock_file(store))
    assert_goes_on(log, [0])


# --- what comes in between -----------------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
def test_interrupt_right_after_it_says_that_the_record_was_written(
    store: Path, log: Log, calls: Calls
) -> None:
    def interrupt(*_: object) -> None:
        calls.after = lambda *_: None
        raise KeyboardInterrupt

    calls.after = interrupt
    with pytest.raises(KeyboardInterrupt) as caught:
        log.append("x", 1)

    assert "the record was written" in "".join(caught.value.__notes__)
    assert not is_locked(lock_file(store))
    log.append("x", 2)
    assert calls.outcomes == [DURABLE, DURABLE]  # it went on from what was written
    assert_goes_on(log, [0, 1, 2])


@pytest.mark.guarantee(2)
def test_append_that_there_is_no_memory_to_tell_of_says_so_and_the_next_one_goes_on_from_it(
    log: Log, calls: Calls
) -> None:
    def run_out_of_memory(*arguments: Any) -> None:
        calls.after = lambda *_: None
        arguments[1].clear()
        raise MemoryError

    calls.after = run_out_of_memory
    with pytest.raises(MemoryError) as caught:
        log.append("x", 1)

    assert "may have been written" in "".join(caught.value.__notes__)
    assert_goes_on(log, [0, 1])


class FailsOnce:
    """Has a write of native code fail, as it tells: nothing was written, or the first bytes of it."""

    def __init__(self, calls: Calls, writer: LogWriter, *, error: int, written_bytes: int) -> None:
        self.calls, self.writer, self.error, self.written_bytes = calls, writer, error, written_bytes

    def __call__(self, payloads: list[Payload], *_: Any) -> int:
        del self.calls.__dict__["append"]
        state, log = self.calls.core, self.writer.log
        assert log is not None
        self.writer.lock.enter(None)
        self.writer.lock.take()
        data, after = encode_batch(
            payloads,
            end=state.end,
            stamp_us=state.end.stamp_us + 1,
            durable=min(state.durable, state.end.offset),
        )
        if self.written_bytes:
            os.pwrite(log.file.fd, data[: self.written_bytes], state.end.offset)
        state.failed_write = (data, [tuple(after)], self.error)
        return NOT_WRITTEN


@pytest.mark.guarantee(9)
def test_write_that_fails_is_refused_and_leaves_nothing(store: Path, log: Log, calls: Calls) -> None:
    calls.__dict__["append"] = FailsOnce(calls, writer_of(store), error=errno.ENOSPC, written_bytes=0)

    with pytest.raises(WriteFailedError, match="No space left"):
        log.append("x", 1)

    assert not is_locked(lock_file(store))
    assert_goes_on(log, [0])


@pytest.mark.guarantee(2)
def test_write_that_is_cut_short_is_done_again(store: Path, log: Log, calls: Calls) -> None:
    calls.__dict__["append"] = FailsOnce(calls, writer_of(store), error=0, written_bytes=20)

    log.append("x", 1)

    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(11)
def test_file_that_was_closed_is_opened_anew_where_the_write_finds_out(
    store: Path, log: Log, calls: Calls
) -> None:
    calls.__dict__["append"] = FailsOnce(calls, writer_of(store), error=errno.EBADF, written_bytes=0)
    os.close(generation_of(store).file.fd)

    log.append("x", 1)

    assert_goes_on(log, [0, 1])


# --- Python's manners -----------------------------------------------------------------------------------------------


def test_other_threads_run_while_it_is_at_work_and_all_their_records_are_there(store: Path, log: Log) -> None:
    def work(number: int) -> None:
        for _ in range(200):
            log.append(f"thread{number}", number, durability="never")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [log.count(f"thread{number}") for number in range(6)] == [200] * 6
    assert_goes_on(log, [0])


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ((Payload(b'"x"', b"1"),), [], False, False),
        ([("a", "b", "c")], [], False, False),
        ([(b"1", b"2")], [], False, False),
        ([b"123"], [], False, False),
        ([Payload(b'"x"', b"1")], None, False, False),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_done(
    store: Path, log: Log, calls: Calls, arguments: tuple[Any, ...]
) -> None:
    size = log_file(store).stat().st_size
    with pytest.raises(TypeError):
        calls.core.append(*arguments)
    assert calls.core.append([], [], False, False) == NOT_OURS
    assert log_file(store).stat().st_size == size
    assert_goes_on(log, [0])


WRONG_FILES: dict[str, tuple[int, object]] = {
    "a path of text": (0, "/a/path"),
    "a generation that is too short": (6, b"short"),
    "a writer that is too short": (9, b"short"),
    "a device that is no number": (2, (3, ("1", 1))),
    "a clock of another kind": (11, object()),
    "a mutex that cannot be taken": (12, object()),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_files_that_make_no_sense_are_not_attached(
    store: Path, log: Log, calls: Calls, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, value = WRONG_FILES[case]
    told: list[tuple[object, ...]] = []
    calls.__dict__["attach"] = told.append
    writer_of(store).exclusive(None, lambda _: None)
    log.append("x", 1)
    calls.core.detach()

    with pytest.raises((TypeError, ValueError, AttributeError)):
        calls.core.attach((*told[0][:at], value, *told[0][at + 1 :]))
    assert not calls.core.is_ready
    calls.core.attach(told[0])
    assert calls.core.is_ready
    assert_goes_on(log, [0, 1])


def test_lock_file_that_is_another_one_is_left_to_python(store: Path, log: Log, calls: Calls) -> None:
    told: list[tuple[object, ...]] = []
    calls.__dict__["attach"] = told.append
    writer_of(store).exclusive(None, lambda _: None)
    log.append("x", 1)
    fd, (device, inode) = told[0][14]  # type: ignore[misc]
    calls.core.attach((*told[0][:14], (fd, (device, inode + 1)), *told[0][15:]))

    assert calls.core.append([Payload(b'"x"', b"1")], [], True, True) == NOT_OURS
    assert_goes_on(log, [0, 1])


def test_append_keeps_no_memory(store: Path, log: Log, calls: Calls) -> None:
    def append(times: int) -> int:
        for _ in range(times):
            log.append("y", "y", durability="never")
        gc.collect()
        return sys.getallocatedblocks()

    append(2000)
    before = append(500)
    assert append(20_000) - before < 200
    assert calls.outcomes.count(WRITTEN) > 20_000
    assert end_of(store) == seen_end(store)


def end_of(store: Path) -> EndState:
    return generation_of(store).state.end


def seen_end(store: Path) -> EndState:
    """Where a process finds the end that has the log's own bytes alone."""
    tear(store, b"")
    page_file(store).unlink()
    Checkpoint(store).log("a").flush()
    return generation_of(store).state.end
