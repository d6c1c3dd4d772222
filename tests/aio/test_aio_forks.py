"""Forks beside tasks: what a child inherits of calls that the threads of its parent were at."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._store.store import DirectoryLog
from mpcheckpoint._view.follow import Follower
from mpcheckpoint._view.tail import Tail
from mpcheckpoint.aio import AsyncCheckpoint
from support.awaits import run, until
from support.processes import call, in_a_child

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

pytestmark = pytest.mark.guarantee(7)


class Stopped:
    """A call of which the threads of this process wait at its end; those of a child do not."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self._pid = os.getpid()
        self.is_inside, self.may_go_on = threading.Event(), threading.Event()

    def patched(self) -> Callable[..., Any]:
        """Return what takes the place of the call."""

        def stopped(*given: Any, **options: Any) -> Any:
            found = self._real(*given, **options)
            if os.getpid() == self._pid:
                self.is_inside.set()
                assert self.may_go_on.wait(60)
            return found

        return stopped

    async def until_inside(self) -> None:
        """Return once a thread is there."""

        async def is_inside() -> bool:
            return self.is_inside.is_set()

        await until(is_inside, "a thread is in the call")


def _run_in_child(main: Coroutine[Any, Any, Any]) -> Any:
    asyncio.events._set_running_loop(None)  # that of the parent, which is not run here
    return run(main)


def test_child_of_a_fork_without_hooks_appends_beside_a_thread_of_its_parent(tmp_path: Path) -> None:
    assert call(_fork_by_the_c_library_beside_an_append, str(tmp_path)) == 0
    assert sorted(Checkpoint(tmp_path).log("a").events("x")) == ["child", "parent"]


def _fork_by_the_c_library_beside_an_append(place: str) -> int:
    append = Stopped(DirectoryLog.append)

    async def main() -> int:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            with pytest.MonkeyPatch.context() as patches:
                patches.setattr(DirectoryLog, "append", append.patched())
                appending = asyncio.ensure_future(log.append("x", "parent"))
                await append.until_inside()
                child = ctypes.PyDLL(None).fork()
                if child == 0:
                    try:
                        _run_in_child(asyncio.wait_for(log.append("x", "child"), 10))
                    except BaseException:  # noqa: BLE001 - the exit code says so
                        os._exit(1)
                    os._exit(0)
                _, status = os.waitpid(child, 0)
                append.may_go_on.set()
                await appending
        return os.waitstatus_to_exitcode(status)

    return run(main())


def test_follower_in_a_child_gives_what_its_parent_s_thread_had_found(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Stopped(Follower.wait_for_some)

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log, plain = checkpoint.log("a"), Checkpoint(place).log("a")
            plain.append("x", 0)
            follower = log.follow()
            assert (await anext(follower)).event == 0
            plain.append("x", 1)
            monkeypatch.setattr(Follower, "wait_for_some", found.patched())
            waiting = asyncio.ensure_future(anext(follower))
            await found.until_inside()
            assert in_a_child(lambda: _run_in_child(_next_event(follower))) == 1
            found.may_go_on.set()
            assert (await waiting).event == 1

    run(main())


async def _next_event(follower: Any) -> Any:
    return (await anext(follower)).event


def test_tail_in_a_child_gives_what_its_parent_s_thread_had_found(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Stopped(Tail.new)

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log, plain = checkpoint.log("a"), Checkpoint(place).log("a")
            plain.append("x", 0)
            tail = await log.tail()
            assert [each.event for each in await tail.new()] == [0]
            plain.append("x", 1)
            monkeypatch.setattr(Tail, "new", found.patched())
            looking = asyncio.ensure_future(tail.new())
            await found.until_inside()
            assert in_a_child(lambda: _run_in_child(_new_events(tail))) == [1]
            found.may_go_on.set()
            assert [each.event for each in await looking] == [1]

    run(main())


async def _new_events(tail: Any) -> list[Any]:
    return [each.event for each in await tail.new()]
