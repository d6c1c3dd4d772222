"""A machine that is short of threads: no item of a map fails because of that, and none is lost."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._aio import task_pool, threads
from mpcheckpoint.aio import AsyncCheckpoint
from support.awaits import run, until

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "mpcheckpoint-writes"


class Shortage:
    """Keeps threads that write from being started, so many times once it has begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        start = threading.Thread.start

        def start_if_possible(thread: threading.Thread) -> None:
            if thread.name == _NAME and self.times:
                self.times -= 1
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_if_possible)
        monkeypatch.setattr(threads, "_IDLE_S", 0.001)

    async def begin(self, times: int) -> None:
        """Return once no thread is there that could do what the next one cannot be started for."""

        async def is_alone() -> bool:
            return all(thread.name != _NAME for thread in threading.enumerate())

        await until(is_alone, "the threads have ended")
        self.times = times


@pytest.mark.guarantee(11)
@pytest.mark.parametrize(
    ("times", "kept_s", "runs"),
    [(1, 5.0, 1), (3, 5.0, 1), (1, 0.0, 2), (3, 0.0, 2)],
    ids=["short", "longer", "given-back", "given-back-by-the-loop"],
)
def test_map_that_no_thread_can_be_started_for_keeps_a_result_or_gives_the_item_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, kept_s: float, runs: int
) -> None:
    shortage = Shortage(monkeypatch)
    monkeypatch.setattr(task_pool, "RECORD_S", kept_s)
    ran: list[str] = []

    async def work(item: str) -> str:
        ran.append(item)
        if len(ran) == 1:
            await shortage.begin(times)
        return item.upper()

    async def main() -> list[str]:
        async with (
            AsyncCheckpoint(tmp_path) as checkpoint,
            await checkpoint.log("a").map(work, ["a", "b", "c"], jobs=1) as running,
        ):
            return [outcome.value async for outcome in running]

    assert sorted(run(main())) == ["A", "B", "C"]
    assert Counter(ran) == {"a": runs, "b": 1, "c": 1}
    with Checkpoint(tmp_path).log("a").claim("a") as claim:
        assert claim is not None


@pytest.mark.guarantee(11)
def test_result_that_waits_for_a_thread_is_recorded_though_the_map_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortage = Shortage(monkeypatch)

    async def work(item: str) -> str:
        await shortage.begin(1)
        asyncio.get_running_loop().call_soon(mapping.cancel)  # once it waits for a thread
        return item.upper()

    async def map_all() -> None:
        async with (
            AsyncCheckpoint(tmp_path) as checkpoint,
            await checkpoint.log("a").map(work, ["a"], jobs=1) as running,
        ):
            assert not [each async for each in running]

    async def main() -> None:
        nonlocal mapping
        mapping = asyncio.ensure_future(map_all())
        with pytest.raises(asyncio.CancelledError):
            await mapping

    mapping: asyncio.Future[None]
    run(main())

    log = Checkpoint(tmp_path).log("a")
    assert [outcome.value for outcome in log.results()] == ["A"]
    with log.claim("a") as claim:
        assert claim is not None
