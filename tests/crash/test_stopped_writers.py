"""Neighbours in trouble: stopped with the lock, killed in mid-repair, living in another year.

Each ends alike: appendable again, readable again, nothing acknowledged lost or doubled, and no lock left held.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.errors import LockTimeoutError
from mpcheckpoint.testing._simulation.seam import Call, Seam
from support import tally
from support.processes import call
from support.unsynced import done_without_syncs
from support.verbs import (
    Faults,
    assert_goes_on,
    become_a_new_process,
    lock_file,
    log_file,
    seen_anew,
    tear,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from support.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Child, Children

TIMEOUT_S = 0.3
HOUR_US = 3_600_000_000
YEAR_US = 365 * 24 * HOUR_US
MIB = 1 << 20


# --- a neighbour that is stopped ------------------------------------------------------------------------------


@pytest.mark.guarantee(4)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("stops_in", ["lock", "half a write", "unlock"])
def test_writer_stopped_with_the_lock_times_the_others_out_and_goes_on_when_woken(
    log: Log, store: Path, children: Children, acknowledgements: AcknowledgementJournal, stops_in: str
) -> None:
    stopped = start_stopped(append_and_stop, store, stops_in, children, acknowledgements)
    started = time.monotonic()
    waiting = [
        children.start(append_when_free, store, name, acknowledgements.writer, method="fork")
        for name in range(3)
    ]
    wait_until(lambda: len(timed_out(acknowledgements)) == 3, "all of them timed out")

    assert TIMEOUT_S <= min(timed_out(acknowledgements)) <= max(timed_out(acknowledgements)) < TIMEOUT_S + 5
    # The record of who is stopped behind its write may be there: it was not acknowledged, and it is whole.
    assert log.events("x") in ((0,), (0, ["stopped", 0]))
    assert seen_anew(log) == list(log.events("x"))
    assert time.monotonic() - started > TIMEOUT_S

    stopped.resume()
    for child in (stopped, *waiting):
        assert child.wait() == 0
    appended = [
        ["stopped", 0],
        ["stopped", 1],
        *([name, number] for name in range(3) for number in range(5)),
    ]
    assert sorted(log.events("x")[1:], key=str) == sorted(appended, key=str)
    assert log.repairs() == []
    assert_goes_on(log, list(log.events("x")))


@pytest.mark.guarantee(8)
def test_writer_stopped_in_its_sync_holds_nobody_up(
    log: Log, store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    stopped = start_stopped(append_and_stop, store, "sync_data", children, acknowledgements)

    Checkpoint(store, lock_timeout_s=TIMEOUT_S).log("a").append("x", "meanwhile")

    stopped.resume()
    assert stopped.wait() == 0
    assert_goes_on(log, [0, ["stopped", 0], "meanwhile", ["stopped", 1]])


def start_stopped(
    work: Callable[..., None], store: Path, where: str, children: Children, journal: AcknowledgementJournal
) -> Child:
    child = children.start(work, store, where, journal.writer, method="fork")
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    return child


def append_and_stop(store: Path, where: str, writer: AcknowledgementWriter) -> None:
    """Append twice, and stop in the midst of the first."""
    log = Checkpoint(store).log("a")
    log.append("y", "first use")
    has_stopped = False

    def stop_once(made: Call) -> Any:
        nonlocal has_stopped
        name = "write_at" if where == "half a write" else where
        if has_stopped or made.name != name or made.path not in (str(log_file(store)), str(lock_file(store))):
            return made.proceed()
        has_stopped = True
        if where == "half a write":
            fd, data, offset = made.arguments
            half = os.pwrite(fd, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGSTOP)
            return half
        if where == "lock":
            result = made.proceed()
            os.kill(os.getpid(), signal.SIGSTOP)
            return result
        os.kill(os.getpid(), signal.SIGSTOP)
        return made.proceed()

    with Seam(stop_once):
        log.append("x", ["stopped", 0])
    log.append("x", ["stopped", 1])
    assert has_stopped


def append_when_free(store: Path, name: int, writer: AcknowledgementWriter) -> None:
    log = Checkpoint(store, lock_timeout_s=TIMEOUT_S).log("a")
    number, has_timed_out = 0, False
    while number < 5:
        started = time.monotonic()
        try:
            log.append("x", [name, number])
            number += 1
        except LockTimeoutError:
            if not has_timed_out:
                writer.acknowledge("timed out", time.monotonic() - started)
            has_timed_out = True


def timed_out(journal: AcknowledgementJournal) -> list[float]:
    return [values[1] for values in journal.acknowledged() if values[0] == "timed out"]


# --- killed in a repair ----------------------------------------------------------------------------------------


TORN = b'["000000ff",17' + b"torn" * 2000


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(6)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("kind", ["append", "recover"])
def test_process_killed_at_any_call_of_a_repair_loses_no_record_and_no_torn_byte(
    tmp_path: Path, without_syncs: None, kind: str
) -> None:
    Checkpoint(tmp_path / "torn").log("a").append_many([("x", number) for number in range(3)])
    tear(tmp_path / "torn", TORN)

    number, is_reached = 0, True
    while is_reached:
        number += 1
        store = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "torn", store)
        # The second dies in the repair of what the first one's repair left.
        is_reached = killed_at(store, kind, number, before=True)
        killed_at(store, kind, number, before=False)

        assert Checkpoint(store, read_only=True).log("a").events("x")[:3] == (0, 1, 2)
        log = Checkpoint(store, lock_timeout_s=0).log("a")
        log.append("y", "repaired")
        events = list(log.events("x"))
        assert events in ([0, 1, 2], [0, 1, 2, "a"], [0, 1, 2, "a", "a"]), number
        assert is_kept(log), number
        assert_goes_on(log, events)
        shutil.rmtree(store)
    assert number > 20


def is_kept(log: Log) -> bool:
    return TORN in [Path(repair.path).read_bytes() for repair in log.repairs()]


def test_repair_that_keeps_half_of_the_torn_bytes_is_found_out(log: Log, store: Path, faults: Faults) -> None:
    tear(store, TORN)
    faults.act(
        "write_at", lambda real, fd, data, offset: real(fd, data[:100], offset) and len(data), on="quarantine"
    )

    log.append("x", 1)

    assert len(log.repairs()) == 1
    assert not is_kept(log)


def killed_at(store: Path, kind: str, number: int, *, before: bool) -> bool:
    """Have another process repair and be killed right before, or right behind, its ``number``-th call of the system;
    return whether there was one."""
    pid = os.fork()
    if pid == 0:
        try:
            with Seam(lambda made: kill_at(made, number, before=before)):
                use(Checkpoint(store).log("a"), kind)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    is_killed = os.WIFSIGNALED(status)
    tally.add("kills", int(is_killed))
    return is_killed


def kill_at(made: Call, number: int, *, before: bool) -> Any:
    if made.number == number and before:
        os.kill(os.getpid(), signal.SIGKILL)
    result = done_without_syncs(made)
    if made.number == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def use(log: Log, kind: str) -> None:
    if kind == "append":
        log.append("x", "a")
    else:
        log.recover()


# --- a clock that jumps --------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
def test_clock_that_jumps_back_an_hour_and_forward_a_year_changes_no_order(
    store: Path, children: Children
) -> None:
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    for number, steps_us in enumerate(([0, -HOUR_US, YEAR_US, 0, -HOUR_US], [0])):
        receive, send = pipes[number][0], pipes[(number + 1) % 2][1]
        children.start(pass_the_token, store, number, steps_us, receive, send, method="fork")
    long_lived = Checkpoint(store)
    pipes[0][1].send(0)
    children.wait_all()

    events = long_lived.getCheckpoints("x")
    assert [token for token, _ in events] == list(range(TOKENS))
    assert seen_in_a_new_process(store) == events
    become_a_new_process()
    assert Checkpoint(store).getCheckpoints("x") == events
    assert_stamps_rise(store)


@pytest.mark.guarantee(3)
def test_clocks_that_jump_under_writers_side_by_side_leave_one_order(store: Path, children: Children) -> None:
    long_lived = Checkpoint(store)
    for number, steps_us in enumerate(([0, -HOUR_US, YEAR_US, 0], [0], [YEAR_US, 0, -HOUR_US])):
        children.start(append_while_the_clock_jumps, store, number, steps_us, method="fork")
    while any(child.is_running for child in children.all):
        assert_each_in_order(long_lived.getCheckpoints("x"))
    children.wait_all()

    events = long_lived.getCheckpoints("x")
    assert len(events) == 3 * 60
    assert_each_in_order(events)
    assert seen_in_a_new_process(store) == events
    assert_stamps_rise(store)


TOKENS = 60


def set_clock(step_us: int) -> None:
    system.now_us = lambda: time.time_ns() // 1000 + step_us


def pass_the_token(
    store: Path, number: int, steps_us: list[int], receive: Connection, send: Connection
) -> None:
    """See all that was written before, be it by whom it was; write, and pass the token on. The clock jumps between."""
    checkpoint = Checkpoint(store)
    for turn in range(TOKENS // 2):
        set_clock(steps_us[turn % len(steps_us)])
        assert receive.poll(60)
        token = receive.recv()
        assert [event[0] for event in checkpoint.getCheckpoints("x")] == list(range(token))
        checkpoint.log(f"log {token % 3}").append("x", [token, number])
        send.send(token + 1)


def append_while_the_clock_jumps(store: Path, number: int, steps_us: list[int]) -> None:
    checkpoint = Checkpoint(store)
    for turn in range(60):
        set_clock(steps_us[turn // 7 % len(steps_us)])
        checkpoint.log(f"log {(turn + number) % 3}").append("x", [number, turn])


def assert_each_in_order(events: list[list[int]]) -> None:
    """Each writer's events come in the order in which it wrote them, for each saw its own."""
    for writer in range(3):
        turns = [turn for number, turn in events if number == writer]
        assert turns == sorted(turns)


def seen_in_a_new_process(store: Path) -> list[Any]:
    events: list[Any] = call(Checkpoint(store, read_only=True).getCheckpoints, "x")
    return events


def assert_stamps_rise(store: Path) -> None:
    checkpoint = Checkpoint(store, read_only=True)
    for log_key in checkpoint.logs():
        stamps_us = [record.stamp_us for record in checkpoint.log(log_key).read()]
        assert len(stamps_us) > 5
        assert all(before < after for before, after in pairwise(stamps_us))
