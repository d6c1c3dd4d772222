"""What interrupts an append to a log of a server: Ctrl-C, signal handlers, forks, a holder that is stopped."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.sessions import sessions_of
from mpcheckpoint._store.durability import Durability
from mpcheckpoint.errors import LockTimeoutError, ReentrancyError
from support.interrupts import interrupted_everywhere
from support.postgres.handles import checkpoint_at, lock_logs, store_on
from support.processes import in_a_child
from support.verbs import bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from mpcheckpoint import Log, Position
    from mpcheckpoint.testing import AcknowledgementJournal, AcknowledgementWriter
    from support.postgres.cluster import Cluster
    from support.postgres.proxy import Proxy
    from support.processes import Children

_INTERRUPTS = 100
_LONGEST_S = 0.004


class Alarm:
    """What SIGALRM does.

    Attributes:
        is_awaited: whether it raises. One that another thread was given may come to ours late, after the timer was
            stopped.
    """

    def __init__(self) -> None:
        self.is_awaited = True

    def take(self, number: int, frame: FrameType | None) -> None:
        """Raise what Ctrl-C does, if that is awaited."""
        del number, frame
        if self.is_awaited:
            raise KeyboardInterrupt


@pytest.fixture
def interrupts() -> Iterator[Alarm]:
    """Have SIGALRM raise what Ctrl-C does, while that is awaited."""
    alarm = Alarm()
    before = signal.signal(signal.SIGALRM, alarm.take)
    yield alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _guarded(log: Log, event: int) -> None:
    with log.transaction() as transaction:
        transaction.events("z")
        transaction.append("x", event)


def _always_guarded(log: Log, event: int) -> None:
    # The id was met by another process, for all this handle knows: judged under the lock.
    log.append("x", event, record_id=f"{event}")


WAYS: dict[str, Callable[[Log, int], Any]] = {
    "plain": lambda log, event: log.append("x", event),
    "transaction": _guarded,
    "identified": _always_guarded,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_contended", [False, True])
def test_append_interrupted_at_any_moment_leaves_a_session_that_goes_on(
    postgres_database: str, interrupts: Alarm, intensity: int, way: str, is_contended: bool
) -> None:
    acknowledged, interrupted = [], []
    stop = threading.Event()
    with (
        checkpoint_at(postgres_database) as checkpoint,
        checkpoint_at(f"{postgres_database}?application_name=other") as other,
        ThreadPoolExecutor(1) as pool,
    ):
        log = checkpoint.log("a")
        WAYS[way](log, -1)
        main = sessions_of(Address.parse(f"{postgres_database}#tests"), must_write=True).main
        session = main.current()
        contending = pool.submit(_append_until, other.log("a"), stop) if is_contended else None
        try:
            for event in range(_INTERRUPTS * intensity):
                try:
                    interrupts.is_awaited = True
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, _LONGEST_S))
                    WAYS[way](log, event)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    interrupts.is_awaited = False
                    acknowledged.append(event)
                except KeyboardInterrupt:
                    interrupts.is_awaited = False
                    interrupted.append(event)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            stop.set()
        if contending is not None:
            contending.result()
        WAYS[way](log, 1_000_000)
        assert main.current() is session  # so the workers of this process live on
        events = list(log.events("x"))
    with checkpoint_at(postgres_database, read_only=True) as replay:
        assert [each.event for each in replay.log("a").read() if each.object_key == "x"] == events
    assert len(set(events)) == len(events)
    assert events == sorted(events)
    assert {-1, 1_000_000, *acknowledged} <= set(events) <= {-1, 1_000_000, *acknowledged, *interrupted}
    assert interrupted


def _append_until(log: Log, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        log.append("y", number)
        number += 1
    assert log.events("y") == tuple(range(number))


@pytest.mark.parametrize("way", WAYS)
def test_append_interrupted_at_any_place_keeps_no_lock_though_the_interrupt_is_kept(
    postgres_database: str, way: str
) -> None:
    kept = []
    with checkpoint_at(postgres_database) as checkpoint:
        log = checkpoint.log("a")
        WAYS[way](log, -1)
        main = sessions_of(Address.parse(f"{postgres_database}#tests"), must_write=True).main
        events = itertools.count()
        for interrupt in interrupted_everywhere(lambda: WAYS[way](log, next(events))):
            kept.append(interrupt)
            session = main.current()
            assert not main.mutex.is_owned()
            assert session is None or not session.is_in_transaction
        WAYS[way](log, "last")
        found = log.events("x")
    assert kept
    assert found[-1] == "last"
    assert len(found) == len(set(found))
    with checkpoint_at(postgres_database, read_only=True) as replay:
        assert replay.log("a").events("x") == found


READS: dict[str, Callable[[Log], object]] = {
    "events": lambda log: log.events("x"),
    "count": lambda log: log.count("x"),
    "worker": lambda log: log._handle.workers.begin().retire(),
}


@pytest.mark.parametrize("read", READS)
def test_call_interrupted_at_any_place_does_what_it_should_at_the_next_try(
    postgres_database: str, read: str
) -> None:
    kept = []
    with (
        ThreadPoolExecutor(1) as other_thread,
        checkpoint_at(postgres_database) as checkpoint,
        checkpoint_at(f"{postgres_database}?application_name=other") as other,
    ):
        log = checkpoint.log("a")
        for interrupt in interrupted_everywhere(lambda: READS[read](log)):
            kept.append(interrupt)
            other.log("a").append("x", len(kept))
            assert other_thread.submit(bounded, log.count, "x").result() == len(kept)
            assert log.events("x") == tuple(range(1, len(kept) + 1))
    assert kept


def test_append_interrupted_in_its_wait_for_the_lock_writes_nothing(
    postgres: Cluster, postgres_database: str, interrupts: Alarm
) -> None:
    with checkpoint_at(postgres_database) as checkpoint:
        log = checkpoint.log("a")
        log.append("x", "old")
        with psycopg.connect(postgres_database) as holder:
            lock_logs(holder)
            for way in WAYS.values():
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                with pytest.raises(KeyboardInterrupt):
                    way(log, 0)
        log.append("x", "new")
        assert log.events("x") == ("old", "new")


@pytest.mark.parametrize("how", ["nobody answers", "nobody is there"])
def test_append_interrupted_while_nobody_answers_ends_soon(
    postgres_database: str, make_proxy: Callable[..., Proxy], interrupts: Alarm, how: str
) -> None:
    proxy = make_proxy()
    with checkpoint_at(proxy.address(postgres_database.rpartition("/")[2])) as checkpoint:
        log = checkpoint.log("a")
        log.append("x", "old")
        proxy.hold()
        if how == "nobody is there":
            proxy.refuse()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            log.append("x", "new")
        proxy.release()
        proxy.refuse(False)
        log.append("x", "last")
        assert [each for each in log.events("x") if each != "new"] == ["old", "last"]
        assert len(log.events("x")) <= len({"old", "new", "last"})


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_handler_within_an_append_may_read_and_not_append(
    postgres_database: str, way: str, intensity: int
) -> None:
    said: list[Any] = []

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            said.append(other.log("a").events("x"))
            # Of no object that a condition here relies on: it may come between what that reads and its append.
            log.append("nested", "nested")
        except ReentrancyError:
            said.append(ReentrancyError)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with checkpoint_at(postgres_database) as checkpoint, checkpoint_at(postgres_database) as other:
            log = checkpoint.log("a")
            WAYS[way](log, -1)
            other.log("a").events("x")
            signal.setitimer(signal.ITIMER_REAL, 0.002, 0.003)
            for event in range(50 * intensity):
                WAYS[way](log, event)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert log.events("x") == (-1, *range(50 * intensity))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ReentrancyError in said
    assert any(isinstance(each, tuple) for each in said)


# --- a holder of the lock ----------------------------------------------------------------------------------


def _hold_lock(address: str, writer: AcknowledgementWriter) -> None:
    """Hold the lock of a log, within a condition, until killed."""

    def condition() -> Position | None:
        writer.acknowledge("locked")
        while True:
            signal.pause()

    log = store_on(address).open_log("a", create=True, timeout_s=None)
    log.append(
        [encode_payload("x", "never", None, None)],
        durability=Durability.parse("always"),
        timeout_s=None,
        guard=condition,
    )


@pytest.mark.parametrize("ending", ["kill", "terminate"])
def test_holder_of_the_lock_that_is_stopped_keeps_out_appends_and_nothing_else_until_it_ends(
    postgres: Cluster,
    postgres_database: str,
    children: Children,
    acknowledgements: AcknowledgementJournal,
    ending: str,
) -> None:
    with checkpoint_at(postgres_database, lock_timeout_s=0.3) as checkpoint:
        log, other = checkpoint.log("a"), checkpoint.log("other")
        log.append("x", 0)
        holder = children.start(_hold_lock, postgres_database, acknowledgements.writer)
        acknowledgements.wait_for(1)
        holder.stop()

        for way in WAYS.values():
            with pytest.raises(LockTimeoutError):
                way(log, 1)
        assert log.events("x") == (0,)
        other.append("x", 1)

        if ending == "kill":
            holder.kill()
        else:
            postgres.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction'"
            )
        bounded(log.append, "x", 1)
        assert log.events("x") == (0, 1)


# --- forks and threads -------------------------------------------------------------------------------------


def _append_in_child(log: Log, event: int) -> tuple[Any, ...]:
    log.append("x", event)
    return log.events("x")


@pytest.mark.slow
def test_child_forked_while_threads_append_has_sessions_of_its_own(
    postgres_database: str, intensity: int
) -> None:
    stop = threading.Event()
    with checkpoint_at(postgres_database) as checkpoint, ThreadPoolExecutor(2) as pool:
        log = checkpoint.log("a")
        log.append("x", 0)
        with log.claim("mine") as claim:
            assert claim is not None
            appending = [pool.submit(_append_until, checkpoint.log(f"busy {n}"), stop) for n in range(2)]
            for event in range(1, 1 + 5 * intensity):
                assert in_a_child(_append_in_child, log, event)[-1] == event
            assert in_a_child(_is_claimed, log)
            stop.set()
            for each in appending:
                each.result()
        assert log.events("x") == tuple(range(1 + 5 * intensity))


def _is_claimed(log: Log) -> bool:
    with log.claim("mine") as claim:
        return claim is None


@pytest.mark.slow
def test_threads_that_append_read_and_claim_at_once_do_not_harm_each_other(
    postgres_database: str, intensity: int
) -> None:
    rounds = 10 * intensity

    def work(log: Log, thread: int) -> int:
        claims = 0
        for number in range(rounds):
            log.append(f"of {thread}", number)
            with log.claim("shared") as claim:
                claims += claim is not None
            log.append("counted", number, record_id=f"{number}")
            assert log.events(f"of {thread}")[-1] == number
        return claims

    with checkpoint_at(postgres_database, durability="never") as checkpoint, ThreadPoolExecutor(16) as pool:
        log = checkpoint.log("a")
        claims = list(pool.map(work, [log] * 16, range(16)))
        assert sum(claims)
        for thread in range(16):
            assert log.events(f"of {thread}") == tuple(range(rounds))
        assert sorted(log.events("counted")) == list(range(rounds))
        view = [(each.object_key, each.event) for each in log.read()]
    with checkpoint_at(postgres_database, read_only=True) as replay:
        assert [(each.object_key, each.event) for each in replay.log("a").read()] == view
