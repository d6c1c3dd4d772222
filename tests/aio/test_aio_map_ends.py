"""Maps of coroutine functions that end while coroutines run: what has returned is recorded, and runs no second time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint.aio import AsyncCheckpoint, AsyncLog, AsyncMapRun
from mpcheckpoint.errors import ClosedError
from support.awaits import run, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ITEMS = list("abcde")


class Work:
    """A coroutine function whose coroutines wait until they may go on.

    Attributes:
        begun, returned: the items, as often as that was so.
    """

    def __init__(self, ended: Callable[[Awaitable[Any], str], Awaitable[str]]) -> None:
        """``ended``: waits for what it is given, and returns or raises what the item comes to."""
        self._ended = ended
        self.begun, self.returned = Counter[str](), Counter[str]()
        self.may_go_on = asyncio.Event()

    async def __call__(self, item: str) -> str:
        self.begun[item] += 1
        value = await self._ended(self.may_go_on.wait(), item)
        self.returned[item] += 1
        return value

    async def all_run(self) -> None:
        async def are_begun() -> bool:
            return self.begun.keys() == set(ITEMS)

        await until(are_begun, "all run")


async def _upper(waits: Awaitable[Any], item: str) -> str:
    await waits
    return item.upper()


async def _upper_all_the_same(waits: Awaitable[Any], item: str) -> str:
    try:
        await waits
    except asyncio.CancelledError:
        await asyncio.sleep(0)  # too late to stop
    return item.upper()


async def _upper_at_once(waits: Awaitable[Any], item: str) -> str:
    with contextlib.suppress(asyncio.CancelledError):
        await waits
    return item.upper()


async def _fail_of_the_cancellation(waits: Awaitable[Any], item: str) -> str:
    try:
        await waits
    except asyncio.CancelledError:
        raise ConnectionError(item) from None
    return item.upper()


async def _fail(waits: Awaitable[Any], item: str) -> str:
    await waits
    raise LookupError(item)


async def _give_what_no_json_holds(waits: Awaitable[Any], item: str) -> Any:
    await _upper_all_the_same(waits, item)
    return 1j


async def recorded(log: AsyncLog) -> dict[str, Any]:
    """Return by item what it returned, or the first line of its error."""
    return {
        each.item: each.value if each.ok else each.error.partition("\n")[0] for each in await log.results()
    }


async def carry_on(log: AsyncLog, work: Work) -> None:
    """Run the map again, to its end."""
    work.may_go_on.set()
    async with await log.map(work, ITEMS, jobs=5) as running:
        assert len([each async for each in running]) == 5


async def _close_after(running: AsyncMapRun, steps: int) -> None:
    """Close a map, whose tasks hear of it when the loop has gone round so many times."""
    for _ in range(steps):
        await asyncio.sleep(0)
    running._pool.end()
    running._pool._cancel_all()
    await running.close()


# The loop goes round so often until all that returned is recorded, and more often than that.
_MOST_STEPS = 8


@pytest.mark.guarantee(8)
def test_map_closed_at_any_step_of_the_loop_has_recorded_what_returned(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            for steps in range(_MOST_STEPS):
                log, work = checkpoint.log(f"a{steps}"), Work(_upper)
                running = await log.map(work, ITEMS, jobs=5)
                await work.all_run()
                work.may_go_on.set()
                await _close_after(running, steps)
                assert work.returned == dict.fromkeys(ITEMS, 1)
                assert await recorded(log) == {item: item.upper() for item in ITEMS}
                await carry_on(log, work)
                assert work.returned == dict.fromkeys(ITEMS, 1)

    run(main())


@pytest.mark.guarantee(8)
def test_map_closed_records_coroutines_that_return_though_they_are_cancelled(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log, work = checkpoint.log("a"), Work(_upper_all_the_same)
            async with await log.map(work, ITEMS, jobs=5):
                await work.all_run()
            assert await recorded(log) == {item: item.upper() for item in ITEMS}
            await carry_on(log, work)
            assert work.begun == dict.fromkeys(ITEMS, 1)

    run(main())


def test_map_closed_records_what_failed_before_and_no_failure_of_the_cancellation(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log, work = checkpoint.log("before"), Work(_fail)
            running = await log.map(work, ITEMS, jobs=5)
            await work.all_run()
            work.may_go_on.set()
            await _close_after(running, 1)
            assert await recorded(log) == {item: f"LookupError: {item}" for item in ITEMS}

            log, work = checkpoint.log("cancelled"), Work(_fail_of_the_cancellation)
            async with await log.map(work, ITEMS, jobs=5):
                await work.all_run()
            assert await recorded(log) == {}
            await carry_on(log, work)
            assert await recorded(log) == {item: item.upper() for item in ITEMS}

    run(main())


def test_map_closed_records_that_what_a_coroutine_returned_is_no_json(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log, work = checkpoint.log("a"), Work(_give_what_no_json_holds)
            async with await log.map(work, ITEMS, jobs=5):
                await work.all_run()
            found = await recorded(log)
            assert found.keys() == set(ITEMS)
            assert all(each.startswith("InvalidResultError") for each in found.values())

    run(main())


def test_map_closed_while_a_coroutine_that_ran_for_too_long_ends_records_that_it_did(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            is_cancelled, may_end = asyncio.Event(), asyncio.Event()

            async def hang(item: str) -> None:
                try:
                    await asyncio.sleep(3600)
                finally:
                    is_cancelled.set()
                    await may_end.wait()

            log = checkpoint.log("a")
            running = await log.map(hang, ["x"], timeout_s=0.01)
            await is_cancelled.wait()
            closing = asyncio.ensure_future(_close_after(running, 0))
            await asyncio.sleep(0)
            may_end.set()
            await closing
            assert await recorded(log) == {"x": "timed out after 0.01 s"}

    run(main())


def test_map_whose_tasks_the_program_cancels_has_recorded_what_returned(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            for steps in range(_MOST_STEPS):
                log, work = checkpoint.log(f"a{steps}"), Work(_upper_at_once)
                await log.count("x")
                before = asyncio.all_tasks()
                running = await log.map(work, ITEMS, jobs=5)
                await work.all_run()
                work.may_go_on.set()
                for _ in range(steps):
                    await asyncio.sleep(0)
                for task in asyncio.all_tasks() - before:
                    task.cancel()
                with contextlib.suppress(ClosedError):
                    async with running:
                        assert len([each async for each in running]) == 5
                assert await recorded(log) == {item: item.upper() for item in ITEMS}
                assert work.begun == dict.fromkeys(ITEMS, 1)

    run(main())
