"""What a hostile review broke in the finished log: forks, intervals, files changed by hand, writes in progress.

What it broke with signal handlers stands in test_attacked_signals.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Follower, Log, Position
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import Damage
from mpcheckpoint._logfile import read as reader_module
from mpcheckpoint._logfile.torn_or_corrupt import Broken, vouched_offset
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import CorruptLogError, InvalidPositionError
from support import tally
from support.processes import call
from support.verbs import (
    Faults,
    assert_goes_on,
    become_a_new_process,
    inside,
    is_locked,
    lock_file,
    log_file,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children

LOG = r"a\.jsonl$"
NEVER_DUE = "interval:600000"
HANGS_AFTER_S = 4


def in_a_child(function: Callable[..., Any], *args: object) -> Any:
    """Return what a call returns in a forked child; raise TimeoutError if it hangs there."""
    return call(function, *args, method="fork", timeout_s=HANGS_AFTER_S)


# --- a file that is replaced in place --------------------------------------------------------------------------


@pytest.mark.guarantee(1)
def test_append_to_a_log_overwritten_by_an_older_copy_leaves_no_hole(store: Path, log: Log) -> None:
    older = log_file(store).read_bytes()
    for number in range(1, 5):
        log.append("x", number, durability="never")
    log_file(store).write_bytes(older)  # as `cp` does: the inode stays, and with it every open descriptor

    log.append("x", "acknowledged")

    assert b"\0" not in log_file(store).read_bytes()
    assert_goes_on(log, [0, "acknowledged"])
    assert log.repairs() == []


@pytest.mark.guarantee(6)
def test_append_to_a_log_overwritten_by_a_copy_without_durable_records_is_refused(
    store: Path, log: Log
) -> None:
    older = log_file(store).read_bytes()
    for number in range(1, 5):
        log.append("x", number)
    log_file(store).write_bytes(older)

    with pytest.raises(CorruptLogError):
        log.append("x", "not acknowledged")

    assert log_file(store).read_bytes() == older


# --- writes in progress ----------------------------------------------------------------------------------------


@pytest.mark.guarantee(4)
@pytest.mark.guarantee(6)
def test_reader_that_finds_another_write_in_progress_at_every_look_calls_none_corrupt(
    store: Path, log: Log, faults: Faults
) -> None:
    starts = [log_file(store).stat().st_size] + [log.append("x", number).offset for number in range(1, 41)]
    whole = log_file(store).read_bytes()
    # Each ends in the middle of a record, two whole and durable ones behind where the one before ended.
    stages = iter([whole[: (starts[n] + starts[n + 1]) // 2] for n in range(0, 40, 2)])
    log_file(store).write_bytes(whole[: starts[0]])
    inside(store, "a.page").unlink()  # it knows of all that is written again here
    become_a_new_process()
    checkpoint = Checkpoint(store, read_only=True)
    assert checkpoint["x"] == (0,)

    def write_on(real: Callable[..., bytes], *args: Any) -> bytes:
        log_file(store).write_bytes(next(stages, whole))
        return real(*args)

    writes = faults.act("read_at", write_on, times=1000, on=LOG)
    seen = checkpoint["x"]
    writes.clear()

    assert writes.hits > 2
    assert seen == tuple(range(len(seen)))
    assert checkpoint["x"] == tuple(range(41))


# --- megabytes of torn end -------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_torn_end_of_megabytes_is_read_in_steps_that_grow(store: Path, log: Log, faults: Faults) -> None:
    end = log_file(store).stat().st_size
    os.truncate(log_file(store), end + 64 * 1024 * 1024)  # a hole: zeros without a newline
    descriptor = system.open_file(str(log_file(store)))
    reads = faults.watch("read_at", on=LOG)

    broken = Broken(Damage(end, "a line", "zeros"), end, 0)

    assert vouched_offset(descriptor.fd, broken, above=end) == 0
    assert reads.seen < 12  # whatever was read already is gone through again at each


@pytest.mark.guarantee(6)
def test_torn_end_that_was_judged_is_not_replayed_at_the_next_look(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append_many([(f"k{number}", "v" * 30) for number in range(5_000)], durability="never")
    os.truncate(log_file(store), log_file(store).stat().st_size - 10)
    become_a_new_process()
    checkpoint = Checkpoint(store, read_only=True)
    assert list(checkpoint) == ["x"]
    replays: list[object] = []
    replay = reader_module.replay
    monkeypatch.setattr(
        reader_module, "replay", lambda *args, **how: replays.append(args) or replay(*args, **how)
    )

    assert [list(checkpoint) for _ in range(3)] == [["x"]] * 3
    assert replays == []

    with log_file(store).open("r+b") as file:  # the same size, other bytes: judged anew
        file.seek(-5, os.SEEK_END)
        file.write(b"#")
    assert list(checkpoint) == ["x"]
    assert len(replays) == 1
    assert_goes_on(log, [0])


# --- the interval setting --------------------------------------------------------------------------------------


# In children: a background thread that is left behind here would meet the next test.


@pytest.mark.guarantee(1)
def test_close_syncs_each_of_more_logs_than_the_process_keeps_open(store: Path) -> None:
    assert in_a_child(syncs_at_close_of, store, 60) == 60


def syncs_at_close_of(store: Path, logs: int) -> int:
    checkpoint = Checkpoint(store, durability=NEVER_DUE)
    for log in [checkpoint.log(f"l{number}") for number in range(logs)]:
        log.append("x", 1)
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=r"l\d+\.jsonl$")
        checkpoint.close()
    return syncs.seen


@pytest.mark.guarantee(1)
def test_interval_shorter_than_the_one_waited_for_is_kept(store: Path) -> None:
    assert in_a_child(syncs_of_a_shorter_interval, store) == 1


def syncs_of_a_shorter_interval(store: Path) -> int:
    log = Checkpoint(store, durability=NEVER_DUE).log("a")
    log.append("x", 1)
    condition: Any = process.interval._condition
    wait_until(lambda: condition._waiters, "the interval thread waits for the long one")
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=LOG)
        log.append("x", 2, durability="interval:10")
        wait_until(lambda: syncs.seen, "10 ms are over and the log is synced", 2)
    return syncs.seen


@pytest.mark.guarantee(1)
def test_appends_scheduled_in_another_order_than_written_are_all_synced(store: Path) -> None:
    assert in_a_child(syncs_when_scheduled_in_reverse, store) == 1


def syncs_when_scheduled_in_reverse(store: Path) -> int:
    """Return how often close syncs when two threads were preempted between their appends and the schedule."""
    checkpoint = Checkpoint(store, durability=NEVER_DUE)
    log = checkpoint.log("a")
    scheduled: list[tuple[Any, ...]] = []
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(process.interval, "schedule", lambda *args: scheduled.append(args))
        log.append("x", 1)
        log.flush()
        log.append("x", 2)
    for args in reversed(scheduled):
        process.interval.schedule(*args)
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=LOG)
        checkpoint.close()
    return syncs.seen


@pytest.mark.guarantee(9)
def test_interval_without_a_thread_to_be_had_syncs_at_once_and_gets_one_later(store: Path) -> None:
    assert in_a_child(append_without_threads, store) == [1, True]


def append_without_threads(store: Path) -> list[object]:
    """Return how often the log was synced while no thread was to be had, and whether one is there afterwards."""
    log = Checkpoint(store, durability="interval:10").log("a")
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=LOG)
        with pytest.MonkeyPatch.context() as no_threads:
            no_threads.setattr(threading.Thread, "start", refuse_to_start)
            log.append("x", 1)
        without = syncs.seen
        log.append("x", 2)
        wait_until(lambda: syncs.seen > without, "the interval thread has synced", 2)
    return [without, any(thread.name == "mpcheckpoint-interval" for thread in threading.enumerate())]


def refuse_to_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# --- positions -------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(4)
def test_read_and_follow_after_a_record_lost_with_the_power_skip_no_other(store: Path, log: Log) -> None:
    durable_bytes = log_file(store).stat().st_size
    lost = log.append("x", 1, durability="never")
    os.truncate(log_file(store), durable_bytes)
    become_a_new_process()
    log.append("x", 2)  # of the same length, so it ends where the lost one did
    log.append("x", 3)

    assert [record.event for record in log.read(after=lost)] == [2, 3]
    assert [record.event for record in log.follow(lost, idle_timeout_s=0)] == [2, 3]


@pytest.mark.parametrize(
    "place",
    [f"{'9' * 23}:1:0", f"{'9' * 5000}:1:0", f"300:{'9' * 23}:0", f"300:{'9' * 5000}:0", f"300:1:{'9' * 23}"],
    ids=["offset", "longer offset", "stamp", "longer stamp", "more"],
)
def test_position_of_absurd_numbers_is_refused(log: Log, place: str) -> None:
    generation = log.append("x", 1).generation

    with pytest.raises(InvalidPositionError, match="not a position"):
        Position.parse(f"a@{generation}:{place}")


@pytest.mark.guarantee(4)
def test_position_behind_the_largest_offset_reads_by_its_stamp(log: Log) -> None:
    first = log.append("x", 1)
    log.append("x", 2)
    beyond = Position.parse(f"a@{first.generation}:{'9' * 18}:{first.stamp_us}:0")

    assert [record.event for record in log.read(after=beyond)] == [2]


# --- forks -----------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
def test_lock_of_a_forgotten_writer_ends_with_its_process_though_a_child_lives(
    store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    parent = children.start(hold_forgotten_and_fork, store, acknowledgements.writer, method="fork")
    ((child,),) = acknowledgements.wait_for(1)
    assert is_locked(lock_file(store, "a"))

    parent.kill()
    tally.add("kills")

    assert os.path.exists(f"/proc/{child}")
    Checkpoint(store, lock_timeout_s=2).log("a").append("x", 1)


def hold_forgotten_and_fork(store: Path, writer: AcknowledgementWriter) -> None:
    """Stand still in an append to a log that the registry then forgets, with a child; acknowledges the child."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("mpcheckpoint._store.process._SHARE", system.most_open_files() // 8)  # two
        checkpoint = Checkpoint(store)
        logs = [checkpoint.log(log_key) for log_key in "abc"]
        is_inside = threading.Event()

        def stand_still(*_: object) -> None:
            is_inside.set()
            threading.Event().wait()

        Faults(patches).act("write_at", stand_still, on=LOG)
        threading.Thread(target=logs[0].append, args=("x", 0), daemon=True).start()
        assert is_inside.wait(20)
        for log in logs[1:]:
            log.append("x", 0)
        if os.fork() == 0:
            writer.acknowledge(os.getpid())
        while True:
            signal.pause()


@pytest.mark.guarantee(7)
def test_follower_waited_in_by_another_thread_at_a_fork_gives_out_and_closes_in_the_child(log: Log) -> None:
    follower = log.follow()
    assert next(follower).event == 0
    thread = threading.Thread(target=list, args=(follower,), daemon=True)
    thread.start()

    try:
        for _ in range(10):
            assert in_a_child(follow_and_close, follower, log) == ["child", []]
    finally:
        follower.close()
        thread.join(20)
    assert not thread.is_alive()


def follow_and_close(follower: Follower, log: Log) -> list[object]:
    log.append("x", "child")
    found = next(follower).event
    follower.close()
    return [found, list(follower)]
