"""A cancellation at any await: nothing was written, or the error says that the call was under way."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._store.store import DirectoryLog
from mpcheckpoint.aio import AsyncCheckpoint, AsyncLog, AsyncTransaction, UnderWay, under_way
from mpcheckpoint.errors import CheckpointError, ConflictError
from support.awaits import CancelledAt, run, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    Call = Callable[[AsyncLog, str, list[str]], Coroutine[Any, Any, None]]

_MOST_AWAITS = 100


async def _append(log: AsyncLog, event: str, written: list[str]) -> None:
    await log.append("x", event)
    written.append(event)


async def _append_on_a_condition(log: AsyncLog, event: str, written: list[str]) -> None:
    await log.append("x", event, record_id=event)
    written.append(event)


async def _append_many(log: AsyncLog, event: str, written: list[str]) -> None:
    await log.append_many([("x", event), ("y", event)])
    written.append(event)


async def _transact(log: AsyncLog, event: str, written: list[str]) -> None:
    async with log.transaction() as transaction:
        await transaction.events("x")
        transaction.append("x", event)
    written.append(event)


async def _update(log: AsyncLog, event: str, written: list[str]) -> None:
    async def change(transaction: AsyncTransaction) -> None:
        await transaction.events("x")
        transaction.append("x", event)

    await log.update(change)
    written.append(event)


async def _claim_and_append(log: AsyncLog, event: str, written: list[str]) -> None:
    async with log.claim("z") as claim:
        assert claim is not None
        await _append(log, event, written)


async def _append_and_look(log: AsyncLog, event: str, written: list[str]) -> None:
    await _append(log, event, written)
    assert event in await log.events("x")
    await log.flush()
    await log.stats()
    await log.forget("none")


CALLS: list[Call] = [
    _append,
    _append_on_a_condition,
    _append_many,
    _transact,
    _update,
    _claim_and_append,
    _append_and_look,
]


@pytest.mark.parametrize("is_late", [False, True], ids=["at-once", "late"])
@pytest.mark.parametrize("call", CALLS)
def test_call_cancelled_at_any_await_wrote_nothing_or_says_that_it_was_under_way(
    place: str, call: Call, is_late: bool
) -> None:
    async def main() -> int:
        async with AsyncCheckpoint(place) as checkpoint:
            for at in range(_MOST_AWAITS):
                log = checkpoint.log(f"a{at}")  # a new one, which is opened first
                event, written = f"{at}", list[str]()
                cancelled = CancelledAt(call(log, event, written), at, is_late=is_late)
                try:
                    await cancelled
                except asyncio.CancelledError as error:
                    assert cancelled.has_come
                    await _require_told(log, event, written, error)
                else:
                    assert not cancelled.has_come
                    assert event in await log.events("x")
                    return at
        raise AssertionError("more awaits than that?")

    assert run(main()) > 1


async def _require_told(log: AsyncLog, event: str, written: list[str], error: asyncio.CancelledError) -> None:
    """See that what the error tells is what is there, also after all that could come yet has come."""
    told = under_way(error)
    is_written = event in written
    if told is not None:
        assert any("under_way" in note for note in error.__notes__)
        try:
            await told.outcome()
        except CheckpointError:
            pass
        else:
            is_written = True
    await log.append("y", "after all that was queued")
    assert (event in await log.events("x")) == is_written
    async with log.claim("z") as claim:
        assert claim is not None


@pytest.mark.parametrize("is_late", [False, True], ids=["at-once", "late"])
def test_opening_cancelled_at_any_await_leaves_a_store_that_opens(place: str, is_late: bool) -> None:
    async def main() -> None:
        for at in range(_MOST_AWAITS):
            cancelled = CancelledAt(_open_and_close(place, f"a{at}"), at, is_late=is_late)
            try:
                await cancelled
            except asyncio.CancelledError:
                continue
            return
        raise AssertionError("more awaits than that?")

    run(main())
    with Checkpoint(place) as checkpoint:
        checkpoint.log("b").append("x", 1)


async def _open_and_close(place: str, log_key: str) -> None:
    async with AsyncCheckpoint(place) as checkpoint:
        await checkpoint.log(log_key).append("x", 1)
        await checkpoint.logs()
        await checkpoint.snapshot()


@pytest.mark.parametrize("is_late", [False, True], ids=["at-once", "late"])
def test_follower_cancelled_at_any_await_gives_every_record_once_all_the_same(
    place: str, is_late: bool
) -> None:
    async def main() -> list[Any]:
        async with AsyncCheckpoint(place) as checkpoint:
            log, found = checkpoint.log("a"), list[Any]()
            follower = log.follow()
            for number in range(20):
                await log.append("x", number)
                is_given = False
                while not is_given:
                    try:
                        record = await CancelledAt(_next_of(follower), number % 3, is_late=is_late)
                    except asyncio.CancelledError:
                        record = await anext(follower)
                    found.append(record.event)
                    is_given = True
            return found

    assert run(main()) == list(range(20))


async def _next_of(follower: Any) -> Any:
    return await anext(follower)


@pytest.mark.parametrize("is_late", [False, True], ids=["at-once", "late"])
def test_reading_cancelled_at_any_await_closes_its_files(place: str, is_late: bool) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            await log.append_many([("x", number) for number in range(1000)])
            for at in range(_MOST_AWAITS):
                try:
                    found = await CancelledAt(_all_of(log), at, is_late=is_late)
                except asyncio.CancelledError:
                    continue
                assert found == list(range(1000))
                return
        raise AssertionError("more awaits than that?")

    run(main())


async def _all_of(log: AsyncLog) -> list[Any]:
    return [record.event async for record in log.read()]


# --- at each moment of one append -----------------------------------------------------------------------------


class Gate:
    """Stops the thread that appends, before it writes or after it has written, whichever way it appends."""

    def __init__(self) -> None:
        self.is_inside = threading.Event()
        self.may_go_on = threading.Event()
        self.stops_before = True

    def around(self, append: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*arguments: Any, **options: Any) -> Any:
            found = None if self.stops_before else append(*arguments, **options)
            self.is_inside.set()
            assert self.may_go_on.wait(60)
            return append(*arguments, **options) if found is None else found

        return stopped


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Stop each append to a directory."""
    gate = Gate()
    monkeypatch.setattr(DirectoryLog, "append", gate.around(DirectoryLog.append))
    monkeypatch.setattr(DirectoryLog, "append_group", gate.around(DirectoryLog.append_group))
    yield gate
    gate.may_go_on.set()


async def _passes(event: threading.Event) -> bool:
    return event.is_set()


@pytest.mark.parametrize("stops_before", [True, False])
def test_append_cancelled_while_it_is_written_goes_on_and_those_queued_behind_it_do_not(
    tmp_path: Path, gate: Gate, stops_before: bool
) -> None:
    gate.stops_before = stops_before

    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            first = asyncio.ensure_future(log.append("x", "first"))
            await until(lambda: _passes(gate.is_inside), "the thread has taken the first one")
            others = [asyncio.ensure_future(log.append("x", number)) for number in range(3)]
            await asyncio.sleep(0)
            for task in (first, others[1]):
                task.cancel()

            with pytest.raises(asyncio.CancelledError) as cancelled:
                await first
            told = under_way(cancelled.value)
            assert told is not None
            assert not told.is_done
            with pytest.raises(asyncio.CancelledError) as withdrawn:
                await others[1]
            assert under_way(withdrawn.value) is None

            gate.may_go_on.set()
            position = await told.outcome()
            assert told.is_done
            await asyncio.gather(others[0], others[2])
            records = [record async for record in log.read()]
            assert [record.event for record in records] == ["first", 0, 2]
            assert records[0].position == position

    run(main())


def test_append_cut_short_by_a_timeout_tells_by_the_error_of_that(tmp_path: Path, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            for limited in (_within_timeout, asyncio.wait_for):
                gate.may_go_on.clear()
                told, timeout_s = None, 0.02
                while told is None:  # else no thread had taken it yet
                    with pytest.raises(TimeoutError) as timed_out:
                        await limited(log.append("x", 1), timeout_s)
                    told, timeout_s = under_way(timed_out.value), 2 * timeout_s
                gate.may_go_on.set()
                await told.outcome()
            assert await log.events("x") == (1, 1)

    run(main())


async def _within_timeout(call: Awaitable[Any], timeout_s: float) -> Any:
    async with asyncio.timeout(timeout_s):
        return await call


def test_append_whose_position_had_come_when_it_was_cancelled_tells_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await CancelledAt(log.append("x", 1), 1, is_late=True)
            told = under_way(cancelled.value)
            assert told is not None
            assert told.is_done
            assert (await told.outcome()) == (await anext(log.read())).position

    run(main())


def test_error_of_another_kind_tells_of_nothing_under_way() -> None:
    assert under_way(None) is None
    assert under_way(ValueError()) is None
    circle = ValueError()
    circle.__context__ = KeyError()
    circle.__context__.__context__ = circle
    assert under_way(circle) is None


# --- whose call it was ----------------------------------------------------------------------------------------


async def _cut_short(log: AsyncLog, gate: Gate, limited: Callable[..., Any]) -> BaseException:
    """Return the error of an append that was cut short while a thread was about to write it."""
    task = asyncio.ensure_future(limited(log.append("x", "first")))
    await until(lambda: _passes(gate.is_inside), "the thread has taken it")
    task.cancel()
    with pytest.raises((asyncio.CancelledError, TimeoutError, LookupError)) as cut_short:
        await task
    assert under_way(cut_short.value) is not None
    return cut_short.value


async def _as_it_is(call: Awaitable[Any]) -> Any:
    return await call


async def _as_a_task(call: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.create_task(call)


async def _gathered(call: Awaitable[Any]) -> Any:
    return await asyncio.gather(call, asyncio.sleep(0))


async def _as_an_error_of_ones_own(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except asyncio.CancelledError as error:
        raise LookupError from error


async def _as_a_timeout_that_names_no_cause(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except asyncio.CancelledError:
        raise TimeoutError from None  # as some libraries do


@pytest.mark.parametrize(
    "limited",
    [_as_it_is, _as_a_task, _gathered, _as_an_error_of_ones_own, _as_a_timeout_that_names_no_cause],
)
def test_call_made_where_another_one_is_handled_is_not_taken_for_that_one(
    tmp_path: Path, gate: Gate, limited: Callable[..., Any]
) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            first = await _cut_short(log, gate, limited)
            for refused in (_never_begun, _queued_and_timed_out, _refused, _closed):
                assert under_way(await _raised_in_a_handler(first, refused(log))) is None
            told = under_way(first)
            assert told is not None
            gate.may_go_on.set()
            await told.outcome()
            conflict = await _raised_in_a_handler(first, log.append("x", "second", expected_count=0))
            assert isinstance(conflict, ConflictError)
            assert under_way(conflict) is None
            assert await log.events("x") == ("first",)

    run(main())


async def _raised_in_a_handler(first: BaseException, call: Awaitable[Any]) -> BaseException:
    """Return what a call raises that is made where another error is handled."""
    try:
        raise first
    except (asyncio.CancelledError, TimeoutError, LookupError):
        with pytest.raises((asyncio.CancelledError, TimeoutError, CheckpointError)) as second:
            await call
    return second.value


async def _never_begun(log: AsyncLog) -> None:
    task = asyncio.create_task(log.append("x", "second"))
    task.cancel()
    await task


async def _queued_and_timed_out(log: AsyncLog) -> None:
    async with asyncio.timeout(0.001):
        await log.append("x", "second")  # behind the first one


async def _refused(log: AsyncLog) -> None:
    await log.append("x", {1})


async def _closed(log: AsyncLog) -> None:
    del log
    await AsyncCheckpoint("nowhere").log("a").append("x", "second")


def test_append_cut_short_by_ctrl_c_tells_by_what_ends_the_loop(tmp_path: Path, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            appending = asyncio.ensure_future(checkpoint.log("a").append("x", 1))
            await until(lambda: _passes(gate.is_inside), "the thread has taken it")
            signal.raise_signal(signal.SIGINT)
            await appending

    with pytest.raises(KeyboardInterrupt) as interrupted:
        asyncio.run(main())
    assert under_way(interrupted.value) is not None


def test_append_of_a_group_that_is_cut_short_tells_inside_of_its_task_only(
    tmp_path: Path, gate: Gate
) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log, told = checkpoint.log("a"), list[UnderWay[Any] | None]()

            async def append() -> None:
                try:
                    await log.append("x", 1)
                except asyncio.CancelledError as error:
                    told.append(under_way(error))
                    raise

            own: list[asyncio.Task[None]] = []

            async def append_in_a_group() -> None:
                async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as tasks:
                    own.append(tasks.create_task(append()))
                    await until(lambda: _passes(gate.is_inside), "the thread has taken it")
                    limit.reschedule(0)

            with pytest.raises(TimeoutError) as timed_out:
                await append_in_a_group()
            assert under_way(timed_out.value) is None
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await own[0]
            assert told == [under_way(cancelled.value)]
            gate.may_go_on.set()
            assert told[0] is not None
            await told[0].outcome()
            assert await log.events("x") == (1,)

    run(main())
