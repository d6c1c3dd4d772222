"""Locks under bad luck: a stopped holder, Ctrl-C at any place, a signal handler that appends."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import LockTimeoutError, ReentrancyError
from support.processes import call
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    bounded,
    hold_append_lock,
    hold_store_lock,
    inside,
    is_locked,
    lock_file,
    log_file,
    seeded,
    seen_anew,
    tear,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
    from support.processes import Child, Children


@pytest.fixture
def log(store: Path) -> Log:
    """A log that holds the event 0 and is in use, by a handle that waits for locks no longer than 0.2 s."""
    log = Checkpoint(store, lock_timeout_s=0.2).log("a")
    log.append("x", 0)
    return log


@pytest.fixture
def stopped_holder(
    log: Log, store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> Iterator[Child]:
    """A process that holds the append lock and is stopped."""
    yield stopped(hold_append_lock, store, children, acknowledgements)
    children.kill_all()


def stopped(
    hold: Callable[..., None], store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> Child:
    child = children.start(hold, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    child.stop()
    return child


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Set what SIGUSR1 does."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda act: signal.signal(signal.SIGUSR1, lambda *_: act())
    signal.signal(signal.SIGUSR1, before)


# --- a holder that stands still ------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("timeout_s", [1e10, 1e300, math.inf])
def test_wait_of_centuries_is_one_that_ends_when_the_lock_is_free(
    store: Path, children: Children, acknowledgements: AcknowledgementJournal, timeout_s: float
) -> None:
    log = Checkpoint(store, lock_timeout_s=timeout_s).log("a")
    log.append("x", 0)
    holder = children.start(hold_append_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    waiting = threading.Thread(target=log.append, args=("x", 1))
    waiting.start()

    holder.kill()
    waiting.join(20)
    log.flush()

    assert seen_anew(log) == [0, 1]


@pytest.mark.guarantee(8)
@pytest.mark.rule(19)
def test_append_while_the_lock_holder_is_stopped_times_out_and_then_goes_on(
    store: Path, log: Log, stopped_holder: Child
) -> None:
    before = log_file(store).read_bytes()
    started = time.monotonic()

    for attempt in (lambda: log.append("x", 1), lambda: log.append_many([("x", 1)]), log.flush, log.recover):
        with pytest.raises(LockTimeoutError, match=r"0\.2 s .*a\.lock") as caught:
            attempt()
        assert caught.value.path == str(lock_file(store))

    assert 0.8 <= time.monotonic() - started < 10
    assert log_file(store).read_bytes() == before
    stopped_holder.kill()
    assert_goes_on(log, [0])


@pytest.mark.guarantee(4)
@pytest.mark.guarantee(8)
def test_reads_and_forks_while_the_lock_holder_is_stopped_do_not_wait(
    store: Path, log: Log, stopped_holder: Child
) -> None:
    waiting = Checkpoint(store).log("a")  # waits for ever
    appender = threading.Thread(target=waiting.append, args=("x", 1))
    appender.start()
    started = time.monotonic()

    assert bounded(log.events, "x") == (0,)
    assert bounded(waiting.events, "x") == (0,)
    assert bounded(lambda: [record.event for record in waiting.read()]) == [0]
    assert bounded(lambda: Checkpoint(store)["x"]) == (0,)
    for _ in range(10):
        assert bounded(call_forked, waiting) == (0,)

    assert time.monotonic() - started < 10
    stopped_holder.kill()
    appender.join(20)
    assert waiting.events("x") == (0, 1)


def call_forked(log: Log) -> object:
    return call(log.events, "x", method="fork")


@pytest.mark.guarantee(8)
def test_creating_a_log_while_the_store_lock_holder_is_stopped_times_out(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    holder = stopped(hold_store_lock, store, children, acknowledgements)
    checkpoint = Checkpoint(store, lock_timeout_s=0.2)

    with pytest.raises(LockTimeoutError, match=r"store\.lock"):
        checkpoint.log("new")
    with pytest.raises(LockTimeoutError):
        log.recover()
    checkpoint.log("a").append("x", 1)

    holder.kill()
    checkpoint.log("new").append("x", 2)
    assert checkpoint["x"] == (0, 1, 2)


@pytest.mark.guarantee(8)
def test_reads_of_a_copied_store_while_its_store_lock_is_held_do_not_wait(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    # A copy of the .jsonl files alone: nothing lists their names yet, and a reader must not wait to be who does.
    inside(store, "logs").unlink()
    holder = stopped(hold_store_lock, store, children, acknowledgements)

    try:
        assert bounded(lambda: Checkpoint(store)["x"], timeout_s=5) == (0,)
        assert bounded(lambda: list(Checkpoint(store).follow(idle_timeout_s=0)), timeout_s=5)
    finally:
        holder.kill()


@pytest.mark.guarantee(8)
def test_thread_that_waits_behind_another_of_its_process_times_out_too(log: Log, faults: Faults) -> None:
    may_go_on = threading.Event()
    entered = threading.Event()

    def wait(real: Callable[..., int], *args: object) -> int:
        entered.set()
        may_go_on.wait(20)
        return real(*args)

    faults.act("write_at", wait, on=LOG)
    slow = threading.Thread(target=log.append, args=("x", 1))
    slow.start()
    entered.wait(20)

    with pytest.raises(LockTimeoutError):
        log.append("x", 2)
    assert log.events("x") == (0,)

    may_go_on.set()
    slow.join(20)
    assert_goes_on(log, [0, 1])


# --- Ctrl-C ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(2)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("taken_bytes", [0, 20])
def test_interrupt_before_the_write_is_whole_leaves_nothing(
    log: Log, faults: Faults, taken_bytes: int
) -> None:
    faults.fail_in_mid_write(KeyboardInterrupt(), taken_bytes=taken_bytes, on=LOG)

    with pytest.raises(KeyboardInterrupt):
        log.append("x", 1)

    assert log.repairs() == []
    assert_goes_on(log, [0])


@pytest.mark.guarantee(9)
@pytest.mark.rule(24)
@pytest.mark.parametrize("name", ["write_at", "sync_data"])
def test_interrupt_behind_the_write_keeps_the_record_and_says_so(log: Log, faults: Faults, name: str) -> None:
    faults.fail_afterwards(name, KeyboardInterrupt(), on=LOG)

    with pytest.raises(KeyboardInterrupt) as caught:
        log.append("x", 1)

    assert any("written" in note for note in caught.value.__notes__)
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(8)
def test_interrupt_between_a_record_and_its_sync_lets_the_next_sync_cover_it(
    log: Log, faults: Faults
) -> None:
    faults.fail("sync_data", KeyboardInterrupt(), on=LOG)
    with pytest.raises(KeyboardInterrupt):
        log.append("x", 1)

    syncs = faults.watch("sync_data", on=LOG)
    log.flush()

    assert syncs.seen == 1


@pytest.mark.guarantee(8)
@pytest.mark.parametrize(
    "name", ["open_file", "read_at", "read_once", "write_at", "sync_data", "sync_directory", "truncate"]
)
def test_interrupt_in_a_repair_frees_the_locks_and_cuts_no_record(
    store: Path, log: Log, faults: Faults, name: str
) -> None:
    for at in range(1, 4):
        tear(store)
        fault = faults.fail(name, KeyboardInterrupt(), at=at)
        try:
            log.append("x", at)
        except KeyboardInterrupt:
            pass  # where it hit decides whether the record is there
        fault.clear()
    assert not is_locked(lock_file(store))
    assert_goes_on(log, list(log.events("x")))
    assert log.events("x")[0] == 0


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("name", ["unlock", "try_lock"])
def test_interrupt_in_locking_or_unlocking_frees_the_lock(
    log: Log, store: Path, faults: Faults, name: str
) -> None:
    def interrupt_at_once(real: Callable[..., object], *args: object) -> object:
        raise KeyboardInterrupt

    fault = faults.act(name, interrupt_at_once, on=r"a\.lock$")

    with pytest.raises(KeyboardInterrupt):
        log.append("x", 1)

    assert fault.hits == 1
    assert_goes_on(log, list(log.events("x")))


@pytest.mark.guarantee(8)
@pytest.mark.rule(24)
@pytest.mark.slow
def test_interrupts_at_random_instants_never_leave_a_lock_behind(store: Path, intensity: int) -> None:
    held = call(append_under_interrupts, store, 300 * intensity, method="fork", timeout_s=100)

    assert held == []


class Interrupt(BaseException):
    """What the handler raises, as Ctrl-C does."""


def append_under_interrupts(store: Path, rounds: int) -> list[str]:
    """Append while a timer interrupts; return what was left locked, or is lost, or was there twice."""
    chance = seeded("interrupts")
    log = Checkpoint(store, lock_timeout_s=5).log("a")
    signal.signal(signal.SIGALRM, _interrupt)
    number, acknowledged = 0, []
    for _ in range(rounds):
        durability = chance.choice(["always", "never", "never"])
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00001, 0.0008))
            while True:
                number += 1
                log.append("x", number, durability=durability)
                acknowledged.append(number)
        except Interrupt:
            pass
        if is_locked(lock_file(store)):
            return [f"the append lock is held after {number} appends"]
        number += 1  # the interrupt may have come before the loop counted
        try:
            log.append("x", number)
            acknowledged.append(number)
        except ReentrancyError:
            return [f"the mutex is held after {number} appends"]
    found = log.events("x")
    return [] if len(set(found)) == len(found) and set(acknowledged) <= set(found) else ["records"]


def _interrupt(*_: object) -> None:
    raise Interrupt


# --- a handler that comes back in ----------------------------------------------------------------------------


@pytest.mark.guarantee(8)
@pytest.mark.rule(23)
def test_append_from_a_signal_handler_inside_an_append_raises_and_keeps_the_lock(
    store: Path, log: Log, faults: Faults, on_signal: Callable[[Callable[[], object]], None]
) -> None:
    seen: list[object] = []

    def handle() -> None:
        for attempt in (lambda: log.append("x", "inner"), log.flush, lambda: log.append_many([("x", 1)])):
            with pytest.raises(ReentrancyError, match="signal handler"):
                attempt()
        seen.append(is_locked(lock_file(store)))
        seen.append(log.events("x"))

    def interrupted(real: Callable[..., int], *args: object) -> int:
        os.kill(os.getpid(), signal.SIGUSR1)
        return real(*args)

    on_signal(handle)
    faults.act("write_at", interrupted, on=LOG)

    log.append("x", "outer")

    assert seen == [True, (0,)]
    assert_goes_on(log, [0, "outer"])


@pytest.mark.guarantee(8)
def test_read_from_a_signal_handler_inside_a_read_raises_and_harms_nothing(
    log: Log, faults: Faults, on_signal: Callable[[Callable[[], object]], None]
) -> None:
    refused: list[ReentrancyError] = []

    def handle() -> None:
        with pytest.raises(ReentrancyError) as caught:
            log.events("x")
        refused.append(caught.value)

    def interrupted(real: Callable[..., bytes], *args: object) -> bytes:
        os.kill(os.getpid(), signal.SIGUSR1)
        return real(*args)

    on_signal(handle)
    faults.act("read_at", interrupted, on=LOG)

    assert log.events("x") == (0,)
    assert len(refused) == 1
    assert seen_anew(log) == [0]
