"""Followers are woken by the append they wait for; and find it too, later, if nobody wakes them."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._store.notifier import StoreNotifier
from mpcheckpoint._store.store import DirectoryLog
from mpcheckpoint._system.words import PolledWord
from mpcheckpoint._view import follow as follower_module
from support.verbs import Faults, become_a_new_process, inside, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.processes import Children

pytestmark = [pytest.mark.guarantee(4)]

SOON_S = 10.0
needs_wake = pytest.mark.skipif(system.shared_word is PolledWord, reason="nobody can be woken on this system")


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers that hear nothing look again only after longer than this test waits."""
    monkeypatch.setattr(follower_module, "_SHORTEST_PAUSE_S", 6 * SOON_S)
    for kind in (DirectoryLog, StoreNotifier):
        monkeypatch.setattr(kind, "longest_pause_s", 6 * SOON_S)


@pytest.fixture
def later() -> Iterator[Callable[..., None]]:
    """Have something done in a moment, by a thread of this process."""
    timers: list[threading.Timer] = []

    def start(function: Callable[..., object], *arguments: object) -> None:
        timers.append(threading.Timer(0.2, function, arguments))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.join()


def append_when_told(store: Path, log_key: str) -> None:
    log = Checkpoint(store).log(log_key)
    while not inside(store, "go").exists():
        time.sleep(0.001)
    log.append("x", "news")


@needs_wake
@pytest.mark.usefixtures("sleepy")
@pytest.mark.parametrize("log_key", ["a", "b"])
def test_follower_is_woken_by_another_process(
    store: Path, log: Log, children: Children, log_key: str, later: Callable[..., None]
) -> None:
    Checkpoint(store).log("b").append("y", 0)
    children.start(append_when_told, store, log_key, method="fork")
    began_s = time.monotonic()
    with Checkpoint(store).follow("end") as following:
        later(inside(store, "go").touch)

        assert next(following).event == "news"

    assert time.monotonic() - began_s < SOON_S


@needs_wake
@pytest.mark.usefixtures("sleepy")
def test_follower_is_woken_by_a_thread_of_its_own_process(
    store: Path, log: Log, later: Callable[..., None]
) -> None:
    with log.follow("end") as following:
        later(log.append, "x", "news")

        assert next(following).event == "news"


@pytest.mark.parametrize("of", ["a log", "all logs"])
def test_follower_that_starts_over_has_its_writers_wake_it_again(
    store: Path, log: Log, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    subscribe = DirectoryLog.subscribe
    monkeypatch.setattr(
        DirectoryLog, "subscribe", lambda self, seconds: asked.append(of) or subscribe(self, seconds)
    )
    with (log if of == "a log" else Checkpoint(store)).follow("end") as following:
        assert following.wait_for_some() == []
        following.reset_after_fork()
        asked.clear()

        for _ in range(2):
            assert following.wait_for_some() == []

    assert asked == [of]


def test_append_that_nobody_waits_for_rings_no_bell(store: Path, log: Log) -> None:
    log.append("x", 1)

    assert not inside(store, "bell").exists()


def test_record_is_visible_and_announced_before_its_sync_ends(store: Path, log: Log, faults: Faults) -> None:
    seen: list[object] = []
    with log.follow("end", idle_timeout_s=0) as following:
        assert list(following) == []
        faults.act(
            "sync_data",
            lambda sync, fd: (seen.append(inside(store, "bell").read_bytes()[:4]), sync(fd)),
            on=r"a\.jsonl$",
        )
        before = inside(store, "bell").read_bytes()[:4]
        log.append("x", 1)

    assert seen
    assert seen[0] != before


@pytest.mark.parametrize("harm", ["deleted", "empty", "rubbish", "directory"])
def test_bell_that_is_harmed_costs_a_moment(
    store: Path, log: Log, harm: str, later: Callable[..., None]
) -> None:
    path = inside(store, "bell")
    following = log.follow("end", idle_timeout_s=SOON_S)
    log.follow("end", idle_timeout_s=0).__enter__()
    assert next(iter([*log.follow("end", idle_timeout_s=0)]), None) is None
    if harm == "empty":
        os.truncate(path, 0)
    elif harm == "rubbish":
        path.write_bytes(b"\xff" * 4096)
    else:
        path.unlink()
        if harm == "directory":
            path.mkdir()
    become_a_new_process()

    later(log.append, "x", "news")
    assert next(following).event == "news"


@pytest.mark.parametrize("call_name", ["open_file", "shared_word", "write_at", "read_at"])
def test_follower_without_a_bell_looks_again(
    store: Path, log: Log, faults: Faults, call_name: str, later: Callable[..., None]
) -> None:
    faults.fail(call_name, errno.EACCES, on=r"bell$", times=1 << 30)
    with log.follow("end", idle_timeout_s=SOON_S) as following:
        later(log.append, "x", "news")

        assert next(following).event == "news"


def test_read_only_follower_writes_nothing(store: Path, log: Log) -> None:
    before = tree(store)

    with Checkpoint(store, read_only=True).log("a").follow(idle_timeout_s=0.05) as following:
        assert [record.event for record in following] == [0]

    assert tree(store) == before


@pytest.mark.parametrize("is_bell_cut", [False, True])
def test_idle_follower_uses_hardly_any_cpu(store: Path, log: Log, is_bell_cut: bool) -> None:
    if is_bell_cut:
        list(log.follow(idle_timeout_s=0))
        os.truncate(inside(store, "bell"), 0)  # the futex cannot wait on it
    following = log.follow("end", idle_timeout_s=1.0)
    before_s = time.thread_time()

    assert list(following) == []

    assert time.thread_time() - before_s < 0.1


class Recorded:
    """A notifier of another storage, and how long was waited on it."""

    longest_pause_s = 0.004
    shortest_pause_s = 0.0

    def __init__(self) -> None:
        self.waits_s: list[float] = []

    def value(self) -> int:
        return 0

    def wait(self, value: int, timeout_s: float) -> None:
        self.waits_s.append(timeout_s)


class OtherLog:
    """A log of another storage, with or without a notifier."""

    longest_pause_s = 0.003

    def __init__(self, notifier: Recorded | None) -> None:
        self._notifier = notifier

    def subscribe(self, seconds: float) -> Recorded | None:
        return self._notifier


def test_follower_waits_as_long_as_the_storage_says_and_no_longer() -> None:
    notifier, waiter = Recorded(), follower_module.Waiter()
    for _ in range(20):
        waiter.listen([OtherLog(notifier)])  # type: ignore[list-item]
        assert waiter.wait(None)

    assert max(notifier.waits_s) == notifier.waits_s[-1] == Recorded.longest_pause_s
    assert notifier.waits_s == sorted(notifier.waits_s)
    assert notifier.waits_s[0] < Recorded.longest_pause_s


def test_follower_that_nothing_can_wake_polls_as_often_as_the_storage_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits_s: list[float] = []
    monkeypatch.setattr(follower_module.time, "sleep", waits_s.append)
    waiter = follower_module.Waiter()
    for _ in range(20):
        waiter.listen([OtherLog(None)])  # type: ignore[list-item]
        assert waiter.wait(None)

    assert max(waits_s) == waits_s[-1] == OtherLog.longest_pause_s


def test_follower_waits_at_least_as_long_as_the_storage_says() -> None:
    notifier, waiter = Recorded(), follower_module.Waiter()
    notifier.shortest_pause_s = 0.003
    for _ in range(3):
        waiter.listen([OtherLog(notifier)])  # type: ignore[list-item]
        assert waiter.wait(None)
        waiter.arrived()

    assert notifier.waits_s == [0.003] * 3
