"""Maps of coroutine functions: the records of a map of functions, so that either carries on what the other began."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import multiprocessing
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.aio import AsyncCheckpoint, AsyncLog, AsyncMapRun
from mpcheckpoint.errors import (
    ChangedVersionError,
    InvalidFunctionError,
    InvalidResultError,
    ItemFailedError,
)
from support.awaits import CancelledAt, run, until
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from mpcheckpoint import Outcome
    from support.processes import Children

ITEMS = [f"item{number}" for number in range(40)]
_MOST_AWAITS = 200


async def upper(item: str) -> str:
    await asyncio.sleep(0)
    return item.upper()


def plainly_upper(item: str) -> str:
    return item.upper()


async def outcomes_of(run: AsyncMapRun) -> list[Outcome]:
    async with run:
        return [outcome async for outcome in run]


def mapped(place: str, fn: Any, items: Any, **choices: Any) -> list[Outcome]:
    """Return the outcomes of a map in an event loop of its own."""

    async def main() -> list[Outcome]:
        async with AsyncCheckpoint(place) as checkpoint:
            return await outcomes_of(await checkpoint.log("a").map(fn, items, **choices))

    return run(main())


def test_map_of_coroutines_gives_and_records_what_a_plain_one_does(place: str) -> None:
    found = mapped(place, upper, ITEMS, ordered=True)

    assert [each.value for each in found] == [item.upper() for item in ITEMS]
    assert [each.item for each in found] == ITEMS
    assert all(each.ok and not each.repeated and each.attempts == 1 for each in found)

    log = Checkpoint(place).log("a")
    assert {each.object_key: each.value for each in log.results()} == {item: item.upper() for item in ITEMS}
    with log.map(plainly_upper, ITEMS, jobs=1) as plain:
        assert all(each.repeated for each in plain)
    status = log.map_status()
    assert status is not None
    assert (status.ok, status.failed, len(status.running)) == (40, 0, 0)


@pytest.mark.guarantee(7)
def test_map_carries_on_what_a_plain_one_began_and_the_other_way_round(place: str) -> None:
    log = Checkpoint(place).log("a")
    with log.map(plainly_upper, ITEMS[:10], jobs=1) as plain:
        assert len(list(plain)) == 10

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            found = await outcomes_of(await checkpoint.log("a").map(upper, ITEMS[:20]))
            assert sorted(each.item for each in found if each.repeated) == sorted(ITEMS[:10])
            assert sorted(each.item for each in found if not each.repeated) == sorted(ITEMS[10:20])
            assert [each.item for each in await checkpoint.log("a").results()] == [
                each.item for each in log.results()
            ]
            assert await checkpoint.log("a").pending(ITEMS[:25]) == ITEMS[20:25]

    run(main())
    with log.map(plainly_upper, ITEMS, jobs=1) as plain:
        assert Counter(each.repeated for each in plain) == {True: 20, False: 20}


def test_no_more_coroutines_than_jobs_run_at_a_time_and_that_many_do(place: str) -> None:
    running, most = 0, 0

    async def count(item: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        async with asyncio.timeout(30):
            while running < 7 and most < 7:
                await asyncio.sleep(0.001)
        running -= 1

    assert all(each.ok for each in mapped(place, count, ITEMS[:21], jobs=7))
    assert most == 7


def test_failures_are_recorded_with_where_they_came_from_and_can_be_tried_again(place: str) -> None:
    async def fail(item: str) -> str:
        raise ValueError(f"no {item}")

    found = mapped(place, fail, ITEMS[:3])
    assert [each.ok for each in found] == [False] * 3
    error = found[0].error
    assert error is not None
    assert error.startswith(f"ValueError: no {found[0].item}\n")
    assert "in fail" in error
    assert "task_pool" not in error

    assert all(each.repeated for each in mapped(place, upper, ITEMS[:3]))
    again = mapped(place, upper, ITEMS[:3], retry_failed=True)
    assert all(each.ok and not each.repeated for each in again)


def test_retries_are_made_until_one_succeeds(place: str) -> None:
    tries: Counter[str] = Counter()

    async def at_the_third(item: str) -> int:
        tries[item] += 1
        if tries[item] < 3:
            raise RuntimeError
        return tries[item]

    found = mapped(place, at_the_third, ITEMS[:4], retries=4, retry_delay_s=0.001)
    assert [(each.value, each.attempts) for each in found] == [(3, 3)] * 4


def test_coroutine_that_runs_for_too_long_is_cancelled_and_has_timed_out(place: str) -> None:
    cancelled: list[str] = []

    async def hang(item: str) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(item)
            if item == "late":
                return "after all"
            raise
        return ""

    found = {each.item: each for each in mapped(place, hang, ["hangs", "late"], timeout_s=0.05)}
    assert found["hangs"].error == "timed out after 0.05 s"
    assert found["late"].value == "after all"
    assert sorted(cancelled) == ["hangs", "late"]
    again = mapped(place, upper, ["hangs", "late"], retry_failed="timed-out")
    assert sorted(each.value for each in again) == ["HANGS", "after all"]


def test_coroutine_that_is_cancelled_by_something_inside_has_failed(place: str) -> None:
    async def cancel_itself(item: str) -> str:
        raise asyncio.CancelledError(item)

    [found] = mapped(place, cancel_itself, ["one"])
    assert not found.ok
    assert found.error is not None
    assert found.error.startswith("asyncio.exceptions.CancelledError: one")


def test_result_that_is_no_json_is_made_one_or_is_a_failure(place: str) -> None:
    async def complex_one(item: str) -> complex:
        return 1j

    [made] = mapped(place, complex_one, ["made"], default=str)
    assert made.value == "1j"
    [refused] = mapped(place, complex_one, ["refused"])
    assert refused.error is not None
    assert refused.error.startswith("InvalidResultError")
    with pytest.raises(InvalidResultError):
        mapped(place, complex_one, ITEMS[:4], jobs=1)


def test_first_failure_ends_a_map_that_is_to_raise_or_to_halt(place: str) -> None:
    async def fail_at_three(item: int) -> int:
        if item == 3:
            raise LookupError("three")
        return item

    with pytest.raises(LookupError, match="three"):
        mapped(place, fail_at_three, range(10), key=str, jobs=1, on_error="raise")
    with pytest.raises(ItemFailedError):
        mapped(place, fail_at_three, range(10), key=str, jobs=1, on_error="raise")
    halted = mapped(place, fail_at_three, range(50), key=str, jobs=1, on_error="halt", rerun="again")
    assert [each.item for each in halted if not each.ok] == [3]
    assert len(halted) < 50


def test_reruns_and_versions_are_those_of_a_plain_map(place: str) -> None:
    mapped(place, upper, ITEMS[:2], version="1")
    with pytest.raises(ChangedVersionError):
        mapped(place, upper, ITEMS[:2], version="2")
    assert not any(each.repeated for each in mapped(place, upper, ITEMS[:2], rerun="second"))
    assert all(each.repeated for each in mapped(place, upper, ITEMS[:2], rerun="second"))
    assert Checkpoint(place).log("a").reruns() == ("second",)


def test_items_may_come_from_an_iterable_that_waits_for_outcomes(place: str) -> None:
    given: list[str] = []

    def items() -> Iterator[str]:
        for item in ITEMS[:5]:
            yield item
            wait_until(lambda item=item: item in given, "its outcome was given out")

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            run = await checkpoint.log("a").map(upper, items(), jobs=3)
            async with run:
                async for outcome in run:
                    given.append(outcome.item)  # noqa: PERF401 - the items wait for each
            assert (run.done, run.failed, run.failures, run.left, run.is_halted) == (5, 0, 0, 0, False)

    run(main())
    assert given == ITEMS[:5]


# --- its end --------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
def test_map_that_is_closed_cancels_what_runs_and_gives_it_back(place: str) -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def hang(item: str) -> None:
        begun.append(item)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(item)

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            async with await log.map(hang, ITEMS, jobs=5) as running:
                await until(lambda: _is(lambda: len(begun) == 5), "all that may run do")
                assert len((await _status(log)).running) == 5
            assert sorted(ended) == sorted(begun)
            assert [each async for each in running] == []
            await running.close()
            assert list(await log.results()) == []
            for item in begun:
                async with log.claim(item) as claim:
                    assert claim is not None
            assert not any(each.repeated for each in await outcomes_of(await log.map(upper, ITEMS)))

    run(main())


async def _is(is_true: Callable[[], bool]) -> bool:
    return is_true()


async def _status(log: AsyncLog) -> Any:
    return await log.map_status()


def test_map_whose_task_is_cancelled_while_it_waits_ends_and_can_be_carried_on(place: str) -> None:
    begun: list[str] = []

    async def hang(item: str) -> None:
        begun.append(item)
        await asyncio.sleep(3600)

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")

            async def take() -> None:
                await outcomes_of(await log.map(hang, ITEMS, jobs=3))

            task = asyncio.ensure_future(take())
            await until(lambda: _is(lambda: len(begun) == 3), "some run")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(await outcomes_of(await log.map(upper, ITEMS))) == 40

    run(main())


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("is_late", [False, True], ids=["at-once", "late"])
def test_map_cancelled_at_any_await_loses_no_outcome_and_leaves_no_claim(place: str, is_late: bool) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            for at in range(_MOST_AWAITS):
                log, items = checkpoint.log(f"a{at}"), ITEMS[:4]

                async def take(log: AsyncLog = log, items: list[str] = items) -> int:
                    return len(await outcomes_of(await log.map(upper, items)))

                cancelled = CancelledAt(take(), at, is_late=is_late)
                try:
                    assert await cancelled == 4
                except asyncio.CancelledError:
                    assert cancelled.has_come
                    left = await log.pending(items)
                    found = await outcomes_of(await log.map(upper, items))
                    assert sorted(each.item for each in found) == items
                    assert {each.item for each in found if not each.repeated} <= set(left)
                else:
                    assert not cancelled.has_come
                    return
        raise AssertionError("more awaits than that?")

    run(main())


def test_wait_for_an_outcome_that_was_cancelled_loses_none(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            for is_late in (False, True):
                log = checkpoint.log(f"{is_late}")
                found: list[str] = []
                async with await log.map(upper, ITEMS, ordered=True) as running:
                    while True:
                        try:
                            outcome = await CancelledAt(_next_of(running), len(found) % 2, is_late=is_late)
                        except asyncio.CancelledError:
                            outcome = await anext(running, None)
                        if outcome is None:
                            break
                        found.append(outcome.item)
                assert found == ITEMS

    run(main())


async def _next_of(running: AsyncMapRun) -> Outcome | None:
    return await anext(running, None)


def test_map_whose_tasks_the_program_cancels_says_so_and_does_not_hang(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    begun: list[str] = []

    async def hang(item: str) -> None:
        begun.append(item)
        await asyncio.sleep(3600)

    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            before = asyncio.all_tasks()
            running = await log.map(hang, ITEMS[:2])
            await until(lambda: _is(lambda: len(begun) == 2), "they run")
            for task in asyncio.all_tasks() - before:
                task.cancel()
            with pytest.raises(Exception, match="cancelled"):
                await outcomes_of(running)
            assert len(await outcomes_of(await log.map(upper, ITEMS))) == 40

    run(main())


# --- with others ----------------------------------------------------------------------------------------------


def _map_in_a_process(place: str, marks: Path) -> None:
    async def mark(item: str) -> str:
        with (marks / item).open("ab") as mark:
            mark.write(b".")
        await asyncio.sleep(0.001)
        return item.upper()

    assert len(mapped(place, mark, ITEMS, jobs=10)) == 40


@pytest.mark.guarantee(7)
def test_maps_of_several_processes_share_the_items_and_run_none_twice(
    place: str, tmp_path: Path, children: Children
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    for _ in range(3):
        children.start(_map_in_a_process, place, marks, method="spawn")
    children.wait_all()
    assert {each.name: each.stat().st_size for each in marks.iterdir()} == dict.fromkeys(ITEMS, 1)


# --- what is refused ------------------------------------------------------------------------------------------


class _Callable:
    async def __call__(self, item: str) -> str:
        return item


async def _generate(item: str) -> AsyncIterator[str]:
    yield item


class _Generating:
    async def __call__(self, item: str) -> AsyncIterator[str]:
        yield item


def _as_a_coroutine(item: str) -> Any:
    return upper(item)


def _around(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a plain decorator makes of a function."""

    @functools.wraps(fn)
    def wrapper(*given: Any) -> Any:
        return fn(*given)

    return wrapper


@pytest.mark.parametrize("fn", [upper, functools.partial(upper), _Callable(), functools.partial(_Callable())])
def test_plain_map_refuses_a_coroutine_function_and_names_the_other_map(tmp_path: Path, fn: Any) -> None:
    log = Checkpoint(tmp_path).log("a")
    for executor in (None, multiprocessing.get_context("fork")):
        with pytest.raises(InvalidFunctionError, match=r"mpcheckpoint\.aio\.AsyncCheckpoint") as refused:
            log.map(fn, ["x"], mp_context=executor)
        assert isinstance(refused.value, TypeError)
    assert list(log.read()) == []
    assert log.map_status() is None


@pytest.mark.parametrize("fn", [_generate, functools.partial(_generate), _Generating()])
def test_both_maps_refuse_an_asynchronous_generator(tmp_path: Path, fn: Any) -> None:
    log = Checkpoint(tmp_path).log("a")
    with pytest.raises(InvalidFunctionError, match="generator"):
        log.map(fn, ["x"])
    with pytest.raises(InvalidFunctionError, match="generator"):
        mapped(str(tmp_path), fn, ["x"])
    assert log.map_status() is None


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (plainly_upper, "to_thread"),
        (lambda item: item, "to_thread"),
        (
            _as_a_coroutine,
            r"if a call of it gives a coroutine: async def run\(item\): return await _as_a_coroutine\(item\)",
        ),
        (_around(upper), r"around an async one.* async def wrapper.*inspect\.markcoroutinefunction"),
        (functools.partial(_around(_around(upper))), "around an async one"),
        (_around(plainly_upper), "to_thread"),
        (7, "takes an item"),
    ],
)
def test_map_of_coroutines_refuses_what_is_none(tmp_path: Path, fn: Any, said: str) -> None:
    with pytest.raises(InvalidFunctionError, match=said):
        mapped(str(tmp_path), fn, ["x"])
    assert Checkpoint(tmp_path).log("a").map_status() is None


def test_map_of_coroutines_takes_callable_objects_and_partials(tmp_path: Path) -> None:
    assert len(mapped(str(tmp_path), _Callable(), ["x"])) == 1
    assert len(mapped(str(tmp_path), functools.partial(upper), ["y"])) == 1


class _Marked:
    def __call__(self, item: str) -> Any:
        return upper(item)


@pytest.mark.skipif(not hasattr(inspect, "markcoroutinefunction"), reason="Python 3.12 has the mark")
@pytest.mark.parametrize("fn", [_around(upper), _Marked()])
def test_function_that_is_marked_as_a_coroutine_function_is_one_for_both_maps(
    tmp_path: Path, fn: Any
) -> None:
    marked = inspect.markcoroutinefunction(fn)
    [found] = mapped(str(tmp_path), marked, ["x"])
    assert found.value == "X"
    with pytest.raises(InvalidFunctionError, match="async function"):
        Checkpoint(tmp_path).log("b").map(marked, ["x"])
