"""What the library tells through the logger `mpcheckpoint`: long waits and slow syncs. Repairs have tests elsewhere."""

from __future__ import annotations

import errno
import logging
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile import lock_waits as waits
from mpcheckpoint._logfile import log_file as log_file_module
from mpcheckpoint._logfile.notices import tell
from mpcheckpoint._system.holders import LockHolder, LockState, LockStatus
from mpcheckpoint.errors import LockTimeoutError, OutcomeUnknownError
from mpcheckpoint.log import handle_of
from support.processes import call
from support.verbs import (
    Faults,
    become_a_new_process,
    generation_of,
    is_locked,
    lock_file,
    wait_until,
    writer_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint import Log

_SHORT_S = 0.05


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What takes a second takes less here, and no thread watches waits, before or after."""
    waits.waits.reset_after_fork()  # the one that an earlier test left idle goes on as a stranger
    strangers.update(_threads_that_watch())
    monkeypatch.setattr(waits, "_LONG_S", _SHORT_S)
    monkeypatch.setattr(waits, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(waits, "_IDLE_EXIT_S", 0.1)
    yield
    wait_until(lambda: not watchers(), "who watches waits is gone when there are none")


@pytest.fixture
def held(store: Path, log: Log) -> Iterator[Callable[[], None]]:
    """The append lock is held, as by another process; call it to give it back."""
    descriptor = system.open_file(str(lock_file(store)), write=True)
    assert system.try_lock(descriptor.fd)
    yield lambda: system.unlock(descriptor.fd)
    descriptor.close()


strangers: set[threading.Thread] = set()


def watchers() -> list[threading.Thread]:
    """Return the threads that watch waits and that the tests of this file started."""
    return [thread for thread in _threads_that_watch() if thread not in strangers]


def _threads_that_watch() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mpcheckpoint-waits"]


def messages(caplog: pytest.LogCaptureFixture, of: str = "waiting for") -> list[str]:
    """Return the warnings that begin so: on a busy disk, a sync may be told of beside a wait."""
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [message for message in found if message.startswith(of)]


# --- waiting for the append lock ------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
def test_append_that_waits_long_is_told_of_while_it_waits_and_names_who_holds_the_lock(
    log: Log, store: Path, held: Callable[[], None], caplog: pytest.LogCaptureFixture, faults: Faults
) -> None:
    holder = LockHolder(4711, "python job.py", is_stopped=True)
    faults.act("lock_status", lambda real, path: LockStatus(LockState.HELD, holder, 1), times=1 << 30)
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()

    wait_until(lambda: messages(caplog), "the wait is told of")

    assert thread.is_alive(), "told while it waits, not afterwards"
    (message,) = messages(caplog)
    assert re.match(r"waiting for the append lock of log 'a' for \d+\.\d", message)
    assert "process 4711 holds it and is stopped: python job.py" in message
    assert str(lock_file(store)) in message
    held()
    thread.join(20)
    assert log.events("x") == (0, 1)


@pytest.mark.parametrize(
    ("holder", "told"),
    [
        (None, "it is unknown who holds it"),
        (LockHolder(4711, None, is_stopped=False), "it was taken by process 4711, which is gone or hidden"),
        (LockHolder(4711, "python job.py", is_stopped=False), "process 4711 holds it: python job.py"),
    ],
)
def test_warning_of_a_wait_says_what_can_be_told(
    log: Log,
    held: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    faults: Faults,
    holder: LockHolder | None,
    told: str,
) -> None:
    faults.act("lock_status", lambda real, path: LockStatus(LockState.HELD, holder, None), times=1 << 30)
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()

    wait_until(lambda: messages(caplog), "the wait is told of")

    assert told in messages(caplog)[0]
    held()
    thread.join(20)


def test_wait_with_a_limit_is_told_of_too_and_once_a_minute_at_most(
    store: Path, log: Log, held: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    impatient = Checkpoint(store, lock_timeout_s=4 * _SHORT_S).log("a")

    for _ in range(3):
        with pytest.raises(LockTimeoutError):
            impatient.append("x", 1)

    assert len(messages(caplog)) == 1
    assert log.events("x") == (0,)


def test_thread_that_watches_leaves_where_another_has_begun(store: Path) -> None:
    first, second = (waits.LockWait("a", str(lock_file(store))) for _ in range(2))
    with first:
        earlier = waits.waits._thread
        assert earlier is not None
        waits.waits._thread = None  # as it does when it is about to leave
        with second:
            assert waits.waits._thread not in (None, earlier)
            earlier.join(20)
            assert not earlier.is_alive()


def test_handler_of_log_messages_that_appends_does_not_hang(
    log: Log, held: Callable[[], None], faults: Faults
) -> None:
    """No lock is held while the wait is told of: whoever handles it may use the library, its other logs at once."""
    other = Checkpoint(handle_of(log).store.settings.path).log("other")
    told = threading.Event()

    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            other.append("warning", record.getMessage())
            told.set()

    handler = Recording()
    logger = logging.getLogger("mpcheckpoint")
    logger.addHandler(handler)
    try:
        thread = threading.Thread(target=log.append, args=("x", 1))
        thread.start()
        assert told.wait(20)
    finally:
        logger.removeHandler(handler)
    assert other.count("warning") == 1
    held()
    thread.join(20)
    assert log.events("x") == (0, 1)


def test_lock_that_is_free_is_taken_by_one_call_and_nobody_watches(log: Log, faults: Faults) -> None:
    tries = faults.watch("try_lock", on=r"a\.lock$")
    looks = faults.watch("lock_status")

    for number in range(20):
        log.append("x", number)

    assert tries.seen == 20
    assert looks.seen == 0
    assert watchers() == []


def test_wait_where_no_thread_can_be_started_is_not_told_of_and_goes_on(
    log: Log, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()
    wait_until(lambda: messages(caplog), "the wait is told of")
    held()
    thread.join(20)
    wait_until(lambda: not watchers(), "who watches waits is gone when there are none")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    wait = waits.LockWait("a", "nowhere")
    with wait:
        assert waits.waits._thread is None
    with wait:
        assert wait in waits.waits._waiting
    assert waits.waits._waiting == set()


@pytest.mark.guarantee(7)
def test_child_forked_while_a_thread_waits_has_neither_its_wait_nor_its_watcher(
    store: Path, log: Log, held: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()
    wait_until(lambda: messages(caplog), "the wait is told of")

    left = call(_what_a_child_has, method="fork")

    assert left == [0, False]
    held()
    thread.join(20)


def _what_a_child_has() -> list[Any]:
    return [len(waits.waits._waiting), waits.waits._thread is not None]


# --- slow syncs -----------------------------------------------------------------------------------------------


@pytest.fixture
def slow_disk(store: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every sync is called slow."""
    monkeypatch.setattr(log_file_module, "SLOW_SYNC_S", 0.0)
    log.append("y", 0, durability="never")
    generation_of(store).state.detach()  # native code is told of it anew
    log.append("y", 0, durability="never")


@pytest.mark.usefixtures("slow_disk")
def test_slow_sync_is_told_of_with_its_duration_once_a_minute_at_most(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.append("x", 1)
    log.append("x", 2)

    (message,) = messages(caplog, "a sync of")
    assert re.match(r"a sync of log 'a' took \d+\.\d s", message)
    assert "a.jsonl" in message


@pytest.mark.usefixtures("slow_disk")
@pytest.mark.parametrize("durability", ["interval:1", "always"])
def test_slow_sync_is_told_of_when_no_lock_is_held(store: Path, log: Log, durability: str) -> None:
    found: list[bool] = []

    class Looking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(_is_any_lock_held(store))

    handler = Looking()
    logger = logging.getLogger("mpcheckpoint")
    logger.addHandler(handler)
    try:
        log.append("x", 1, durability=durability)
        wait_until(lambda: found, "the sync was told of")
    finally:
        logger.removeHandler(handler)

    assert found == [False]


@pytest.mark.usefixtures("slow_disk")
def test_slow_sync_of_a_first_use_is_told_of(store: Path, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.append("x", 1, durability="never")
    become_a_new_process()

    log.append("x", 2, durability="never")

    (message,) = messages(caplog, "a sync of")
    assert message.startswith("a sync of log 'a' took")


def test_quick_sync_and_failed_one_are_not_called_slow(
    log: Log, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    log.append("x", 1)
    faults.fail("sync_data", errno.EIO, on=r"\.jsonl$")
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 2)

    assert not messages(caplog, "a sync of")


def test_threads_that_tell_the_same_notices_at_once_tell_each_once(
    store: Path, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    generation = generation_of(store)
    generation.file.notices += [f"notice {number}" for number in range(2000)]
    threads = [threading.Thread(target=tell, args=(generation.file,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(messages(caplog, "notice")) == sorted(f"notice {number}" for number in range(2000))


def test_wait_that_is_interrupted_as_it_begins_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    watching = waits.LockWaits()
    monkeypatch.setattr(watching, "_start", interrupted)
    monkeypatch.setattr(waits, "waits", watching)

    with pytest.raises(KeyboardInterrupt), waits.LockWait("a", "a.lock"):
        pytest.fail("it was entered")
    assert not watching._waiting


def _is_any_lock_held(store: Path) -> bool:
    writer = writer_of(store)
    kernel = [is_locked(lock_file(store)), is_locked(lock_file(store).with_suffix(".sync"))]
    return any(kernel) or writer.lock._mutex.is_owned() or writer.commit.turn.lock._is_owned()
