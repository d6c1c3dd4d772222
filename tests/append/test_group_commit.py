"""Shared syncs: one for all that stands in the log, whoever wrote it; and nobody depends on who leads."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile import group_commit as group_sync
from mpcheckpoint._logfile.append_state import AppendState
from mpcheckpoint._logfile.page import Page
from mpcheckpoint._store.process import process
from mpcheckpoint._system import FileStatus
from mpcheckpoint._system.words import PolledWord
from mpcheckpoint.errors import OutcomeUnknownError, PoisonedLogError
from mpcheckpoint.testing import SimulatedProcess
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    become_a_new_process,
    generation_of,
    inside,
    is_locked,
    log_file,
    seen_anew,
    tear,
    wait_until,
    writer_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Child, Children

pytestmark = [pytest.mark.guarantee(1), pytest.mark.guarantee(8)]

# A wait for a leader that is dead or stopped, and then some: the machine may be busy.
SOON_S = 5.0


@pytest.fixture
def log(store: Path) -> Log:
    """A log that this process has appended to, and another one after it: so this one does not write alone."""
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    append_by_another(store, 1)
    return log


def append_by_another(store: Path, event: object) -> None:
    with SimulatedProcess():
        Checkpoint(store).log("a").append("x", event)


def sync_file(store: Path) -> Path:
    return inside(store, "a.sync")


# --- leaders that do not come back -------------------------------------------------------------------------


def lead_for_ever(store: Path, writer: AcknowledgementWriter) -> None:
    """Append, and stay in the sync of it. Acknowledges once it is there."""
    log = Checkpoint(store).log("a")
    log.append("x", "by the leader", durability="never")
    append_by_another(store, "by another")  # so that this one leads, and does not sync alone

    def stay(fd: int) -> None:
        writer.acknowledge("leads")
        while True:
            signal.pause()

    system.sync_data = stay
    log.append("x", "by the leader")


@pytest.fixture
def leader(store: Path, children: Children, acknowledgements: AcknowledgementJournal) -> Child:
    """A process that is in the midst of a sync for everybody."""
    child = children.start(lead_for_ever, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    assert is_locked(sync_file(store))
    return child


def test_leader_killed_in_mid_sync_delays_nobody_for_long(store: Path, log: Log, leader: Child) -> None:
    waiting = threading.Thread(target=log.append, args=("x", "waits"))
    waiting.start()
    leader.kill()

    waiting.join(SOON_S)
    assert not waiting.is_alive()

    assert not is_locked(sync_file(store))
    assert_goes_on(log, [0, 1, "by the leader", "by another", "by the leader", "waits"])


def test_leader_stopped_in_mid_sync_stops_nobody(store: Path, log: Log, leader: Child) -> None:
    leader.stop()
    generation = generation_of(store)
    syncs = generation.state.syncs
    began_s = time.monotonic()

    for number in range(20):
        log.append("x", number)

    # The first has waited for the leader; the others know that it does not answer.
    assert time.monotonic() - began_s < SOON_S
    assert generation.state.syncs == syncs + 20
    leader.kill()
    assert_goes_on(log, [0, 1, "by the leader", "by another", "by the leader", *range(20)])


def test_process_that_gave_up_on_a_leader_shares_syncs_again_when_there_is_one(
    store: Path, log: Log, leader: Child
) -> None:
    log.append("x", "alone")
    assert not generation_of(store).state.is_patient

    leader.kill()
    append_by_another(store, "another's")
    log.append("x", "leads")

    assert generation_of(store).state.is_patient


@pytest.mark.guarantee(9)
def test_leader_whose_sync_fails_gives_nobody_of_its_group_an_acknowledgement(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(fail_as_leader, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)

    with pytest.raises(OutcomeUnknownError):
        log.append("x", "waits for the leader")

    assert child.wait() == 0
    with pytest.raises(PoisonedLogError):
        log.append("x", "later")
    log.recover()
    log.append("x", "after recovery")
    assert seen_anew(log)[-1] == "after recovery"


def fail_as_leader(store: Path, writer: AcknowledgementWriter) -> None:
    """Lead a group whose sync fails once another process has joined it."""
    log = Checkpoint(store).log("a")
    log.append("x", "by the leader", durability="never")
    append_by_another(store, "by another")

    real = system.sync_data

    def fail(fd: int) -> None:
        system.sync_data = real
        size = log_file(store).stat().st_size
        writer.acknowledge("leads")
        wait_until(lambda: log_file(store).stat().st_size > size, "somebody joins")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    system.sync_data = fail
    try:
        log.append("x", "leads")
    except OutcomeUnknownError:
        return
    raise AssertionError("a failed sync was not noticed")


# --- groups ------------------------------------------------------------------------------------------------


def append_often(store: Path, number: int, times: int, is_polled: bool) -> None:
    if is_polled:
        system.shared_word = PolledWord  # type: ignore[assignment]  # what other systems have
    log = Checkpoint(store).log("a")
    for index in range(times):
        log.append(f"process {number}", index)
    syncs = log.stats()["syncs"]
    assert isinstance(syncs, int)
    inside(store, f"syncs {number}").write_text(str(syncs))


@pytest.mark.parametrize("is_polled", [False, True], ids=["futex", "polled"])
def test_processes_that_append_at_once_share_syncs_and_lose_nothing(
    store: Path, children: Children, is_polled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint(store).log("a")
    for number in range(6):
        children.start(append_often, store, number, 100, is_polled, method="fork")
    children.wait_all()

    found = Checkpoint(store)
    assert [found[f"process {number}"] for number in range(6)] == [tuple(range(100))] * 6
    # Whoever syncs for itself needs one an append; what is shared here is up to the machine.
    syncs = sum(int(inside(store, f"syncs {number}").read_text()) for number in range(6))
    assert syncs < 600


def test_threads_that_append_during_a_sync_share_the_next_one(store: Path, log: Log, faults: Faults) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def slowly(sync: Callable[[int], None], fd: int) -> None:
        begun.set()
        assert goes_on.wait(SOON_S)
        sync(fd)

    fault = faults.act("sync_data", slowly, on=LOG, times=1 << 30)
    threads = [threading.Thread(target=log.append, args=("x", number)) for number in range(8)]
    threads[0].start()
    assert begun.wait(SOON_S)
    before = log_file(store).stat().st_size
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: log_file(store).read_bytes().count(b'"x"') == 10, "all have written", SOON_S)
    assert log_file(store).stat().st_size > before
    goes_on.set()
    for thread in threads:
        thread.join()

    assert fault.hits == 2
    assert len(seen_anew(log)) == 10


def test_covered_record_of_a_group_is_durable_though_its_process_never_synced(
    store: Path, log: Log, faults: Faults
) -> None:
    other = SimulatedProcess()
    with other:
        theirs = Checkpoint(store).log("a")
        theirs.append("x", 2, durability="never")
    log.append("x", 3)  # leads, and covers the other's
    with other:
        durable = list(theirs.read(durable=True))

    assert [record.event for record in durable] == [0, 1, 2, 3]


def test_process_that_writes_alone_does_without_the_leader_lock(
    store: Path, log: Log, faults: Faults
) -> None:
    log.append("x", 2)
    log.append("x", 3)
    fault = faults.fail("try_lock", errno.EIO, on=r"a\.sync$", times=1 << 30)

    log.append("x", 4)

    assert fault.seen == 0
    fault.clear()
    assert_goes_on(log, [*range(5)])


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("call_name", ["try_lock", "open_file", "unlock"])
def test_leader_lock_that_cannot_be_had_costs_shared_syncs_only(
    store: Path, log: Log, faults: Faults, call_name: str
) -> None:
    become_a_new_process()
    faults.fail(call_name, errno.ENOSPC, on=r"a\.sync$", times=1 << 30)

    for number in range(2, 6):
        log.append("x", number)
        append_by_another(store, number)

    assert_goes_on(log, [0, 1, *(number for number in range(2, 6) for _ in range(2))])


# --- interruptions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_before", [False, True])
@pytest.mark.parametrize("call_name", ["try_lock", "sync_data", "write_at", "unlock"])
def test_interrupt_of_a_leader_frees_the_leader_lock(
    store: Path, log: Log, faults: Faults, call_name: str, is_before: bool
) -> None:
    def interrupt(real: Callable[..., Any], *arguments: Any) -> None:
        if not is_before:
            real(*arguments)
        raise KeyboardInterrupt

    on = LOG if call_name == "sync_data" else r"a\.page$" if call_name == "write_at" else r"a\.sync$"
    fault = faults.act(call_name, interrupt, on=on)

    with pytest.raises(KeyboardInterrupt):
        log.append("x", 2)

    fault.clear()
    assert fault.hits
    assert not is_locked(sync_file(store))
    assert_goes_on(log, [0, 1, 2])


def test_fork_while_a_thread_leads_leaves_the_child_without_its_lock(
    store: Path, log: Log, faults: Faults, children: Children
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def slowly(sync: Callable[[int], None], fd: int) -> None:
        begun.set()
        assert goes_on.wait(SOON_S)
        sync(fd)

    fault = faults.act("sync_data", slowly, on=LOG)
    thread = threading.Thread(target=log.append, args=("x", 2))
    thread.start()
    assert begun.wait(SOON_S)
    began_s = time.monotonic()

    pid = os.fork()
    if pid == 0:
        try:
            fault.clear()
            log.append("x", "by the child")
            os._exit(0)
        except BaseException:  # noqa: BLE001  # a forked child must not run the rest of the test
            os._exit(1)
    assert time.monotonic() - began_s < SOON_S
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    goes_on.set()
    thread.join()

    assert not is_locked(sync_file(store))
    assert_goes_on(log, [0, 1, 2, "by the child"])


# --- the words that are waited on ---------------------------------------------------------------------------


@pytest.fixture
def page(store: Path) -> Page:
    store.mkdir()
    return Page(str(store / "page"), "0" * 32, FileStatus(1, 2, 1, 0, 3), AppendState(EndState))


def test_wait_ends_at_once_when_the_word_has_changed(page: Page) -> None:
    known = page.known()
    page.publish_group(1, known, 1)
    began_s = time.monotonic()

    page.words[1].wait(known.words[1], SOON_S)

    assert time.monotonic() - began_s < SOON_S / 2


def test_wake_ends_the_waits_of_a_group(page: Page) -> None:
    if isinstance(page.words[0], PolledWord):
        pytest.skip("nobody can be woken on this system: everybody looks again")
    value = page.known().words[1]
    began_s = time.monotonic()
    threads = [threading.Thread(target=page.words[1].wait, args=(value, SOON_S)) for _ in range(4)]
    for thread in threads:
        thread.start()

    def wakes() -> bool:
        page.wake(1)
        return not any(thread.is_alive() for thread in threads)

    wait_until(wakes, "all were woken", SOON_S)
    assert time.monotonic() - began_s < SOON_S / 2


def test_map_of_the_page_is_not_writable(page: Page) -> None:
    # A store into a map would kill the process on a full or failed disk; so would a look at one that was truncated.
    if isinstance(page.words[0], PolledWord):
        pytest.skip("nothing is mapped on this system")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        mapped = [line.split()[1] for line in maps if line.rstrip().endswith("/page")]

    assert mapped
    assert set(mapped) == {"r--s"}


def test_times_of_the_waits_stop_nobody_for_long() -> None:
    assert group_sync._LOOK_AGAIN_S * (group_sync._WAITS_BELIEVED + group_sync._TRIES) <= 0.1


def is_mapped(store: Path) -> bool:
    """Return whether this process maps a page of ``store``. Those of other tests may wait for the garbage collector."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return any(line.rstrip().endswith(str(inside(store, "a.page"))) for line in maps)


@pytest.mark.guarantee(7)
def test_forked_child_keeps_no_map_of_the_page(store: Path, log: Log) -> None:
    log.append("x", 2)
    page = generation_of(store).page
    assert page is not None
    if isinstance(page.words[0], PolledWord):
        pytest.skip("nothing is mapped on this system")
    assert is_mapped(store)

    pid = os.fork()
    if pid == 0:
        os._exit(is_mapped(store))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    become_a_new_process()
    assert_goes_on(log, [0, 1, 2])


# --- forks and signals beside a leader ---------------------------------------------------------------------------


def slowed(faults: Faults, pause_s: float) -> tuple[threading.Event, Any]:
    """Have syncs of the log take so long; return what is set when the first has begun."""
    begun = threading.Event()

    def slowly(sync: Callable[[int], None], fd: int) -> None:
        begun.set()
        threading.Event().wait(pause_s)
        sync(fd)

    return begun, faults.act("sync_data", slowly, on=LOG, times=1 << 30)


def assert_threads_append(log: Log) -> None:
    """Threads that are not this one can append: it holds no mutex."""
    thread = threading.Thread(target=log.append, args=("x", "by a thread"), daemon=True)
    thread.start()
    thread.join(SOON_S)
    assert not thread.is_alive()


@pytest.mark.guarantee(7)
def test_fork_whose_wait_for_a_leader_is_interrupted_leaves_no_mutex_taken(
    store: Path, log: Log, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, fault = slowed(faults, 0.3)
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)  # the interpreter goes on with the fork
    writer = writer_of(store)
    mutex = writer.commit.turn.lock
    monkeypatch.setattr(writer.commit.turn, "lock", Interrupted(mutex))
    thread = threading.Thread(target=log.append, args=("x", 2))
    thread.start()
    assert begun.wait(SOON_S)

    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    thread.join()
    fault.clear()

    assert_threads_append(log)


class Interrupted:
    """A mutex that a Ctrl-C follows right behind each wait for a limited time."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def acquire(self, blocking: bool = True, *, timeout: float = -1) -> Any:
        taken = self._lock.acquire(blocking, timeout=timeout)
        if timeout >= 0:
            raise KeyboardInterrupt
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


@pytest.mark.guarantee(7)
def test_threads_that_fork_at_once_beside_a_leader_leave_no_mutex_taken(
    store: Path, log: Log, faults: Faults
) -> None:
    begun, fault = slowed(faults, 0.05)
    threading.Thread(target=log.append, args=("x", 2)).start()
    assert begun.wait(SOON_S)

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    threads = [threading.Thread(target=fork) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fault.clear()

    assert not process._resumes
    assert_threads_append(log)


@pytest.mark.guarantee(9)
def test_repair_does_not_sync_beside_a_sync_of_the_same_descriptor(
    store: Path, log: Log, faults: Faults
) -> None:
    at_once: list[int] = []
    highest: list[int] = []

    def sync_apart(sync: Callable[[int], None], fd: int) -> None:
        at_once.append(fd)
        highest.append(len(at_once))
        threading.Event().wait(0.1)
        sync(fd)
        at_once.remove(fd)

    faults.act("sync_data", sync_apart, on=LOG, times=1 << 30)
    thread = threading.Thread(target=log.append, args=("x", 2))
    thread.start()
    wait_until(lambda: at_once, "a sync has begun", SOON_S)
    tear(store)
    log.append("x", 3)  # repairs, and syncs that
    thread.join()

    assert len(highest) >= 2
    assert max(highest) == 1  # else only one of them would hear of a failure
