"""Threads of one process that append in native code: one writes for the others, and one syncs for all."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.errors import WriteFailedError
from support.processes import call
from support.verbs import assert_goes_on, generation_of, is_locked, lock_file, log_file, wait_until, writer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint._logfile.append_state import PureAppendState

THREADS = 6
NEVER_S = 60


@pytest.fixture
def ready(store: Path, log: Log) -> PureAppendState:
    """What native code knows of a log to which it appends. The log has one record, 0, and no padding."""
    if system.native is None:
        pytest.skip("the native core does not run")
    for _ in range(3):
        log.append("y", "y")
    state = generation_of(store).state
    assert state.is_ready
    return state


@pytest.fixture
def busy(store: Path, ready: PureAppendState) -> Iterator[Callable[[], None]]:
    """Another thread is inside, as it were, until this is called."""
    del ready
    mutex = writer_of(store).lock._mutex.lock
    let_go = threading.Event()
    is_held = threading.Event()

    def hold() -> None:
        with mutex:
            is_held.set()
            let_go.wait(NEVER_S)
        generation_of(store).state.wake()

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(NEVER_S)

    def end() -> None:
        let_go.set()
        thread.join(NEVER_S)

    yield end
    end()


class Appends:
    """Appends by threads, each of which waits for another thread."""

    def __init__(
        self, log: Log, state: PureAppendState, events: list[Any], *, durability: str = "always"
    ) -> None:
        self.failures: dict[int, BaseException] = {}
        self.positions: dict[int, Any] = {}
        self._log, self._durability = log, durability
        self._threads = []
        for number, event in enumerate(events, 1):
            thread = threading.Thread(target=self._append, args=(number, event))
            thread.start()
            self._threads.append(thread)
            wait_until(lambda number=number: state.waiters == number, "it has queued")  # type: ignore[misc]

    def _append(self, number: int, event: object) -> None:
        try:
            self.positions[number] = self._log.append("x", event, durability=self._durability)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test looks at it
            self.failures[number] = error

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
@pytest.mark.guarantee(3)
@pytest.mark.parametrize("durability", ["always", "never"])
def test_threads_that_wait_are_written_at_once_each_a_batch_of_its_own_and_synced_by_one_sync(
    log: Log, ready: PureAppendState, busy: Callable[[], None], durability: str
) -> None:
    appends = Appends(log, ready, [*range(1, THREADS + 1)], durability=durability)
    before, syncs = ready.appends, ready.syncs
    busy()
    appends.join()

    assert not appends.failures
    records = [record for record in log.read() if record.object_key == "x"]
    assert [record.event for record in records] == [*range(THREADS + 1)]
    assert len({record.position.stamp_us for record in records}) == THREADS + 1
    assert {record.event: record.position for record in records[1:]} == appends.positions
    assert ready.appends == before + THREADS
    assert ready.waiters == 0
    assert ready.syncs == syncs + (durability == "always")
    if durability == "always":
        assert ready.durable == ready.end.offset
    assert_goes_on(log, [*range(THREADS + 1)])


@pytest.mark.guarantee(9)
def test_joint_write_that_finds_no_room_keeps_what_fits_and_refuses_the_rest_to_their_own_threads(
    store: Path, log: Log, ready: PureAppendState, busy: Callable[[], None]
) -> None:
    end = ready.end.offset
    appends = Appends(log, ready, ["x" * 1000] * 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (end + 2500, hard))
    try:
        busy()
        appends.join()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)

    assert len(appends.positions) == 2
    assert len(appends.failures) == 3
    assert all(type(failure) is WriteFailedError for failure in appends.failures.values())
    assert log_file(store).stat().st_size == ready.end.offset < end + 2500
    assert not is_locked(lock_file(store))
    assert ready.taken_count == 0
    assert_goes_on(log, [0, "x" * 1000, "x" * 1000])


@pytest.mark.guarantee(8)
def test_ctrl_c_ends_the_wait_for_another_thread_and_leaves_nothing_to_it(
    log: Log, ready: PureAppendState, busy: Callable[[], None]
) -> None:
    def interrupt() -> None:
        wait_until(lambda: ready.waiters == 1, "the main thread has queued")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as caught:
        log.append("x", 1)
    thread.join(NEVER_S)

    assert time.monotonic() - began_s < 20
    assert not getattr(caught.value, "__notes__", [])
    busy()
    assert ready.waiters == 0
    assert_goes_on(log, [0])


def wait_until_asleep(state: PureAppendState, count: int) -> None:
    """Return once so many threads wait, and had the time to fall asleep after they said so."""
    wait_until(lambda: state.waiters == count, "they wait for another thread")
    time.sleep(0.01)


def test_waiting_thread_is_woken_and_does_not_only_look_again(
    store: Path, log: Log, ready: PureAppendState
) -> None:
    """It looks again every 50 ms by itself; the fastest of a few tries counts, as the machine may be busy."""
    mutex = writer_of(store).lock._mutex.lock
    took_s = []
    for number in range(5):
        with mutex:
            thread = threading.Thread(target=log.append, args=("x", number))
            thread.start()
            wait_until_asleep(ready, 1)
        ready.wake()
        released_s = time.monotonic()
        thread.join(NEVER_S)
        took_s.append(time.monotonic() - released_s)

    assert min(took_s) < 0.02
    assert ready.waiters == 0


@pytest.mark.parametrize("count", [1, 3])
def test_thread_whose_record_a_sync_came_too_early_for_begins_the_next_one_itself(
    store: Path, log: Log, ready: PureAppendState, count: int
) -> None:
    """Nobody else would. As above: the fastest of a few tries counts."""
    turn = writer_of(store).commit.turn
    took_s = []
    for number in range(5):
        with turn.lock:
            threads = [threading.Thread(target=log.append, args=("x", number)) for _ in range(count)]
            for thread in threads:
                thread.start()
            wait_until_asleep(ready, count)
        ready.wake()
        released_s = time.monotonic()
        for thread in threads:
            thread.join(NEVER_S)
        took_s.append(time.monotonic() - released_s)

    assert min(took_s) < 0.03  # a nap that nobody ends goes on for 40 ms
    assert ready.waiters == 0
    assert len(log.events("x")) == 5 * count + 1


@pytest.mark.guarantee(8)
def test_thread_that_needs_python_while_others_wait_lets_them_go_on_in_native_code(
    store: Path, log: Log, ready: PureAppendState, busy: Callable[[], None]
) -> None:
    appends = Appends(log, ready, [1, 2, 3])
    conditional = threading.Thread(target=log.append, args=("x", "once"), kwargs={"record_id": "id"})
    conditional.start()
    busy()
    conditional.join(20)
    appends.join()

    assert not appends.failures
    assert sorted(log.events("x"), key=str) == [0, 1, 2, 3, "once"]
    log.append("y", "in native code again")
    assert generation_of(store).state.is_ready


@pytest.mark.guarantee(7)
def test_child_forked_while_threads_wait_appends_for_itself(
    store: Path, log: Log, ready: PureAppendState, busy: Callable[[], None]
) -> None:
    appends = Appends(log, ready, [1, 2])

    assert call(_append_in_a_child, log, method="fork") == "done"

    busy()
    appends.join()
    assert not appends.failures
    assert sorted(log.events("x"), key=str) == [0, 1, 2, "child"]


def _append_in_a_child(log: Log) -> str:
    log.append("x", "child")
    return "done"


@pytest.mark.guarantee(8)
def test_handler_that_forks_in_a_wait_leaves_the_record_to_the_parent(
    log: Log, ready: PureAppendState, busy: Callable[[], None]
) -> None:
    """The child comes out of the wait with the same call on its stack, and appends the record for itself."""
    children: list[int] = []

    def fork(*_: object) -> None:
        children.append(os.fork())

    def ring() -> None:
        wait_until(lambda: ready.waiters == 1, "the main thread has queued")
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: bool(children), "it has forked")
        busy()

    earlier = signal.signal(signal.SIGUSR1, fork)
    thread = threading.Thread(target=ring)
    thread.start()
    try:
        log.append("x", "once in each")
    finally:
        if children == [0]:
            os._exit(0)
        signal.signal(signal.SIGUSR1, earlier)
    thread.join(NEVER_S)
    _, status = os.waitpid(children[0], 0)

    assert status == 0
    assert log.events("x") == (0, "once in each", "once in each")


@pytest.mark.guarantee(1)
@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 8])
def test_threads_lose_nothing_and_wait_for_nothing_while_they_append_at_full_speed(
    store: Path, log: Log, ready: PureAppendState, threads: int
) -> None:
    """With a thread that needs Python among them, and a change of the interpreter's turn at every chance."""
    done = [0] * threads
    interval_s = sys.getswitchinterval()

    def work(number: int) -> None:
        own = Checkpoint(store).log("a")
        for count in range(300):
            own.append(
                f"thread{number}", count, record_id=str(count) if number == 0 and count % 10 == 0 else None
            )
            done[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    sys.setswitchinterval(1e-5)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
    finally:
        sys.setswitchinterval(interval_s)

    assert done == [300] * threads
    assert [log.events(f"thread{number}") for number in range(threads)] == [tuple(range(300))] * threads
    assert ready.waiters == ready.taken_count == 0
    assert_goes_on(log, [0])
