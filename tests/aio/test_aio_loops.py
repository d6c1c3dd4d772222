"""What one event loop leaves to the next: followers and tails go on there, and a map says that its loop is closed."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._aio import threads
from mpcheckpoint._view.follow import Follower
from mpcheckpoint.aio import AsyncCheckpoint
from mpcheckpoint.errors import ClosedError, ReadFailedError
from support.awaits import run, until
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from mpcheckpoint.aio import AsyncFollower, AsyncMapRun


class Polls:
    """Stops the threads that look for records: before they look, or when they have found what there is."""

    def __init__(self) -> None:
        self.came = 0
        self.stops_before = True
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def stop(self, *, before: bool) -> None:
        self.came, self.stops_before = 0, before
        self.may_go_on.clear()

    def wait_for_one(self) -> None:
        wait_until(lambda: self.came > 0, "a thread is there")


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Polls]:
    polls, wait_for_some = Polls(), Follower.wait_for_some

    def stopped(follower: Follower) -> Any:
        found = None if polls.stops_before else wait_for_some(follower)
        if not polls.may_go_on.is_set():
            polls.came += 1
        assert polls.may_go_on.wait(60)
        return wait_for_some(follower) if polls.stops_before else found

    monkeypatch.setattr(Follower, "wait_for_some", stopped)
    yield polls
    polls.may_go_on.set()


async def opened(place: str) -> tuple[AsyncCheckpoint, AsyncFollower]:
    """Return an open handle, and a follower that has given out a record."""
    checkpoint = await AsyncCheckpoint(place).__aenter__()
    log = checkpoint.log("a")
    await log.append("x", 0)
    follower = log.follow()
    assert (await anext(follower)).event == 0
    return checkpoint, follower


async def cut_short(follower: AsyncFollower) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(follower)


async def records_of(
    checkpoint: AsyncCheckpoint, follower: AsyncFollower, count: int, polls: Polls
) -> list[Any]:
    """Return the events of the next records, for which a task waits before a thread may look; then close all."""
    async with checkpoint:
        asyncio.get_running_loop().call_later(0.02, polls.may_go_on.set)
        found = [(await anext(follower)).event for _ in range(count)]
        await checkpoint.log("a").append("x", "last")
        assert (await anext(follower)).event == "last"
        await follower.close()
        return found


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("has_ended", [False, True], ids=["looking", "has-found"])
@pytest.mark.parametrize("is_closed", [False, True], ids=["stopped", "closed"])
def test_follower_whose_wait_was_cut_short_goes_on_in_another_loop(
    place: str, polls: Polls, has_ended: bool, is_closed: bool
) -> None:
    with asyncio.Runner() as first, asyncio.Runner() as second:
        checkpoint, follower = first.run(opened(place))
        polls.stop(before=not has_ended)
        first.run(cut_short(follower))
        if is_closed:
            first.close()
        if has_ended:
            polls.wait_for_one()
            polls.may_go_on.set()
            polling = follower._polling
            assert polling is not None
            wait_until(lambda: polling.state.value == "done", "the thread has ended")
        Checkpoint(place).log("a").append_many([("x", 1), ("x", 2)])
        found = second.run(_limited(records_of(checkpoint, follower, 2, polls)))
        assert found == [1, 2]


async def _limited(call: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(60):
        return await call


def test_follower_that_failed_while_no_loop_ran_says_so_in_the_next_one(
    place: str, polls: Polls, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, follower = run(opened(place))
    polls.stop(before=True)
    run(cut_short(follower))

    def failing(*_: Any) -> Any:
        raise ReadFailedError("bad luck")

    with monkeypatch.context() as patches:
        patches.setattr(Follower, "_next_found", failing)
        polls.may_go_on.set()
        polling = follower._polling
        assert polling is not None
        wait_until(lambda: polling.state.value == "done", "the thread has ended")

        async def fails() -> None:
            with pytest.raises(ReadFailedError, match="bad luck"):
                await anext(follower)

        run(fails())
    assert run(records_of(checkpoint, follower, 0, polls)) == []


def test_tail_goes_on_in_another_loop(place: str) -> None:
    async def begin() -> tuple[AsyncCheckpoint, Any]:
        checkpoint, follower = await opened(place)
        await follower.close()
        tail = await checkpoint.log("a").tail("end")
        return checkpoint, tail

    async def go_on(checkpoint: AsyncCheckpoint, tail: Any) -> list[Any]:
        async with checkpoint:
            await checkpoint.log("a").append("x", 1)
            return [record.event for record in await tail.new()]

    checkpoint, tail = run(begin())
    assert run(go_on(checkpoint, tail)) == [1]


# --- a map whose loop is closed -------------------------------------------------------------------------------

ITEMS = list("abcde")


class Map:
    """A map that was under way when its loop was closed."""

    def __init__(self, place: str, *, runs: bool, is_cancelled: bool) -> None:
        """``runs``: its coroutines do, else they are being claimed; ``is_cancelled``: they, and do not know it yet."""
        self.begun: list[str] = []
        self.checkpoint = AsyncCheckpoint(place)
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(
            lambda *_: None
        )  # it says of each task that it was destroyed, and is right
        self.running: AsyncMapRun[str, None] | None = loop.run_until_complete(self._begin(runs))
        for task in asyncio.all_tasks(loop) if is_cancelled else ():
            task.cancel()
        loop.close()

    async def _begin(self, runs: bool) -> AsyncMapRun[str, None]:
        await self.checkpoint.__aenter__()
        running = await self.checkpoint.log("a").map(self._hang, ITEMS, jobs=5)

        async def all_run() -> bool:
            return len(self.begun) == 5

        if runs:
            await until(all_run, "all run")
        return running

    async def _hang(self, item: str) -> None:
        self.begun.append(item)
        await asyncio.sleep(3600)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """What finalizers raised until all is collected.

    Not what Python itself says of a coroutine that a closed loop had not begun. A thread may hold such a one for a
    moment more: it is waited for, as the next test would fail if it were collected there.
    """
    raised: list[Any] = []
    earlier = set(threading.enumerate())

    def hook(found: Any) -> None:
        if "never awaited" not in str(found.exc_value):
            raised.append(found.exc_value)

    def all_raised() -> list[Any]:
        wait_until(lambda: not _threads_of_tasks() - earlier, "the threads have ended that call for tasks")
        gc.collect()
        return raised

    gc.collect()
    monkeypatch.setattr(threads, "_IDLE_S", 0.01)
    monkeypatch.setattr(sys, "unraisablehook", hook)
    yield all_raised
    all_raised()


def _threads_of_tasks() -> set[threading.Thread]:
    names = {f"mpcheckpoint-{what}" for what in ("appends", "follows", "map", "reads", "store", "writes")}
    return {thread for thread in threading.enumerate() if thread.name in names}


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["pending", "cancelled"])
@pytest.mark.parametrize("runs", [False, True], ids=["claiming", "running"])
def test_map_whose_loop_is_closed_is_thrown_away_quietly(
    place: str, unraisable: Callable[[], list[Any]], runs: bool, is_cancelled: bool
) -> None:
    left = Map(place, runs=runs, is_cancelled=is_cancelled)
    left.running = None
    gc.collect()
    run(left.checkpoint.close())
    assert unraisable() == []


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("runs", [False, True], ids=["claiming", "running"])
def test_map_whose_loop_is_closed_says_so_in_the_next_loop_and_gives_its_items_back(
    place: str, unraisable: Callable[[], list[Any]], runs: bool
) -> None:
    left = Map(place, runs=runs, is_cancelled=False)

    async def go_on(running: AsyncMapRun[str, None]) -> None:
        with pytest.raises(ClosedError, match="the event loop that the map runs in is closed"):
            await anext(running)
        await running.close()
        await left.checkpoint.close()

    assert left.running is not None
    run(go_on(left.running))
    log = Checkpoint(place).log("a")
    for item in ITEMS:
        wait_until(lambda item=item: _is_free(log, item), "no worker has it")
    left.running = None
    assert unraisable() == []


def _is_free(log: Any, item: str) -> bool:
    with log.claim(item) as claim:
        return claim is not None
