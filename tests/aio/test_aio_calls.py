"""What a task does with a store: the same calls, the same results."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._engines import shown_place
from mpcheckpoint.aio import AsyncCheckpoint, AsyncLog, AsyncTransaction
from mpcheckpoint.errors import (
    ClosedError,
    ConflictError,
    InvalidEventError,
    InvalidKeyError,
    LogNotFoundError,
    ReadOnlyError,
)
from support.awaits import CancelledAt, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.guarantee(3)
@pytest.mark.guarantee(4)
def test_appends_of_many_tasks_are_records_of_their_own_and_in_the_order_of_each(place: str) -> None:
    async def main() -> list[Any]:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")

            async def append(name: str) -> list[Any]:
                positions = []
                for number in range(10):
                    positions.append(await log.append(name, number))
                    assert (await log.events(name))[-1] == number
                return positions

            return await asyncio.gather(*[append(f"task{number}") for number in range(20)])

    appended = run(main())

    log = Checkpoint(place).log("a")
    records = list(log.read())
    assert len(records) == 200
    assert sorted(position for own in appended for position in own) == [each.position for each in records]
    assert all(log.events(f"task{number}") == tuple(range(10)) for number in range(20))
    assert all(own == sorted(own) for own in appended)
    assert len({each.stamp_us for each in records}) == 200
    assert all(each.position.more == 0 for each in records)


def test_calls_give_what_those_of_a_plain_handle_give(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            first = await log.append("x", 1, record_id="one")
            assert await log.append("x", 1, record_id="one") == first
            assert await log.append_many([("x", 2), ("y", {"z": None})]) is not None
            assert await log.append_many([]) is None
            with pytest.raises(ConflictError):
                await log.append("x", 3, expected_count=1)
            await log.append("x", 3, expected_count=2)
            plain = Checkpoint(place)
            assert await log.events("x") == plain.log("a").events("x") == (1, 2, 3)
            assert await log.count("x") == 3
            assert await log.events("x", start=1) == (2, 3)
            assert await log.last("x", 2) == (2, 3)
            with pytest.raises(ConflictError):
                await log.append_many([("x", 4)], expected_counts={"x": 2})
            assert await log.append_many([("z", 1)], expected_counts={"x": 3}, expected_end=None) is not None
            assert [each async for each in log.read(first)] == list(plain.log("a").read(first))
            assert [each async for each in log.read(object_key="y")] == list(plain.read(object_key="y"))
            assert [each async for each in checkpoint.read(last=2)] == list(plain.read(last=2))
            assert [each async for each in log.read(last=2)] == list(plain.read(last=2))
            assert [each async for each in log.read(since=0, until=1)] == []
            assert [each async for each in checkpoint.objects()] == list(plain.objects())
            assert await checkpoint.logs() == ["a"]
            assert await checkpoint.get("x") == (1, 2, 3)
            assert await checkpoint.get("none", ()) == ()
            assert dict(await checkpoint.snapshot()) == dict(plain.snapshot())
            await log.flush()
            assert (await log.stats())["records"] == 5
            await log.forget("z")
            await log.forget("y")
            assert await log.events("y") == ()
            assert await checkpoint.forget(["x"]) != {}
            await log.compact()
            assert dict(await checkpoint.snapshot()) == {}
            await log.recover()
            assert await log.repairs() == []
            assert repr(log) == "<AsyncLog 'a'>"
            assert log.log_key == "a"

    run(main())


def test_values_that_are_no_json_are_refused_or_made_as_by_a_plain_handle(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place, default=str) as checkpoint:
            log = checkpoint.log("a")
            await log.append("x", 1j)
            await log.append("x", 2j, default=repr)
            await log.append_many([("x", 3j)], default=lambda _: 3)
            assert await log.events("x") == ("1j", "2j", 3)
            with pytest.raises(InvalidKeyError):
                await log.append(7, 1)  # type: ignore[arg-type]
        async with AsyncCheckpoint(place) as checkpoint:
            with pytest.raises(InvalidEventError):
                await checkpoint.log("a").append("x", {1})
            with pytest.raises(ValueError, match="durability"):
                await checkpoint.log("a").append("x", 1, durability="some")

    run(main())


def test_transaction_outside_its_block_says_where_to_use_it(store: Path) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(store) as checkpoint:
            transaction = checkpoint.log("a").transaction()
            with pytest.raises(ClosedError, match="use it inside its async with block"):
                await transaction.events("x")
            with pytest.raises(ClosedError, match="use it inside its async with block"):
                transaction.append("x", 1)

    run(main())


def test_transaction_lands_only_if_what_it_read_is_as_it_was(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            async with log.transaction() as transaction:
                assert await transaction.events("x") == ()
                assert await transaction.count("x") == 0
                assert await transaction.last("x") == ()
                transaction.append("x", 1)
                assert await transaction.events("x") == (1,)
                assert await log.events("x") == ()
            assert transaction.position is not None

            with pytest.raises(ConflictError):
                await _transact(log, overtaken=True)
            with pytest.raises(KeyError):
                await _transact(log, overtaken=False)
            assert await log.events("x") == (1, 2)

    run(main())


async def _transact(log: AsyncLog, *, overtaken: bool) -> None:
    async with log.transaction() as transaction:
        await transaction.events("x")
        transaction.append("x", 3)
        if not overtaken:
            raise KeyError
        await log.append("x", 2)


@pytest.mark.guarantee(2)
def test_updates_of_many_tasks_lose_no_increment(place: str) -> None:
    async def increment(transaction: AsyncTransaction) -> int:
        count = len(await transaction.events("counter"))
        transaction.append("counter", count)
        return count

    async def main() -> list[int]:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            return await asyncio.gather(*[log.update(increment) for _ in range(12)])

    assert sorted(run(main())) == list(range(12))
    assert Checkpoint(place).log("a").events("counter") == tuple(range(12))


@pytest.mark.guarantee(8)
def test_claim_is_for_one_task_and_for_one_process(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log, plain = checkpoint.log("a"), Checkpoint(place).log("a")
            async with log.claim("x") as claim:
                assert claim is not None
                assert claim.object_key == "x"
                async with log.claim("x") as second, log.claim("y") as other:
                    assert second is None
                    assert other is not None
                with plain.claim("x") as from_elsewhere:
                    assert from_elsewhere is None
            with plain.claim("x") as claim, plain.claim("y") as other:
                assert claim is not None
                assert other is not None
                async with log.claim("x") as second:
                    assert second is None

    run(main())


def test_follower_gives_what_is_there_and_what_comes_from_anywhere(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            await log.append_many([("x", number) for number in range(600)])
            follower = log.follow()
            found = [(await anext(follower)).event for _ in range(600)]
            assert found == list(range(600))
            cursor = follower.cursor

            Checkpoint(place).log("a").append("x", "from elsewhere")
            assert (await anext(follower)).event == "from elsewhere"
            assert follower.cursor != cursor
            async with follower:
                pass
            assert [each async for each in follower] == []

            after = [each.event async for each in checkpoint.follow(cursor, idle_timeout_s=0.05)]
            assert after == ["from elsewhere"]
            assert [each async for each in log.follow("end", idle_timeout_s=0.05)] == []

    run(main())


def test_follower_that_is_closed_by_another_task_ends(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            await log.append("x", 1)
            follower = log.follow()
            assert (await anext(follower)).event == 1
            waiting = asyncio.ensure_future(anext(follower, None))
            await asyncio.sleep(0)
            await follower.close()
            assert await waiting is None

    run(main())


def test_tail_gives_what_came_since_the_last_call_and_loses_nothing_when_cancelled(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log, plain = checkpoint.log("a"), Checkpoint(place).log("a")
            async with await log.tail() as tail, await checkpoint.tail("end") as all_logs:
                assert await tail.new() == []
                for number in range(6):
                    plain.append("x", number)
                    with pytest.raises(asyncio.CancelledError):
                        await CancelledAt(tail.new(), 0, is_late=number % 2 == 1)
                    plain.append("x", -number)
                    assert [each.event for each in await tail.new()] == [number, -number]
                cursor = tail.cursor
                plain.append("x", "later")
                assert [each.event for each in await tail.new()] == ["later"]
                assert len(await all_logs.new()) == 13
            async with await log.tail(cursor) as again:
                assert [each.event for each in await again.new()] == ["later"]

    run(main())


def test_handle_that_may_not_write_refuses(place: str) -> None:
    Checkpoint(place).log("a").append("x", 1)

    async def main() -> None:
        async with AsyncCheckpoint(place, read_only=True) as checkpoint:
            log = checkpoint.log("a")
            assert await log.events("x") == (1,)
            for refused in (log.append("x", 2), log.append("x", 2, expected_count=1), log.flush()):
                with pytest.raises(ReadOnlyError):
                    await refused
            with pytest.raises(ReadOnlyError):
                async with log.claim("x"):
                    pass
            with pytest.raises(ReadOnlyError):
                async with log.transaction():
                    pass
            with pytest.raises(LogNotFoundError):
                await checkpoint.log("b").events("x")

    run(main())


def test_handle_outside_of_its_block_refuses(tmp_path: Path) -> None:
    async def main() -> None:
        checkpoint = AsyncCheckpoint(tmp_path)
        with pytest.raises(ClosedError, match="async with"):
            checkpoint.log("a")
        async with checkpoint:
            log = checkpoint.log("a")
            with pytest.raises(LogNotFoundError):
                await checkpoint.log("b", create=False).events("x")
            with pytest.raises(InvalidKeyError):
                checkpoint.log(1)  # type: ignore[arg-type]
            await log.append("x", 1)
        for refused in (
            log.append("x", 2),
            log.events("x"),
            log.append("x", 2, record_id="a"),
            checkpoint.logs(),
        ):
            with pytest.raises(ClosedError):
                await refused
        with pytest.raises(ClosedError):
            async with checkpoint:
                pass
        await checkpoint.close()

    run(main())
    assert Checkpoint(tmp_path).log("a").events("x") == (1,)


def test_asyncio_is_not_imported_by_those_who_do_not_use_it() -> None:
    code = "import sys, mpcheckpoint.maintenance; print('asyncio' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_closed_handle_names_its_store(place: str) -> None:
    async def main() -> None:
        checkpoint = AsyncCheckpoint(place)
        with pytest.raises(ClosedError, match="is not open: use it inside its async with block") as caught:
            checkpoint.log("a")
        assert shown_place(place) in str(caught.value)
        async with checkpoint:
            log = checkpoint.log("a")
            await log.append("x", 1)
        for call in (log.append("x", 2), log.events("x"), anext(log.follow())):
            with pytest.raises(ClosedError, match="is closed") as caught:
                await call
            assert shown_place(place) in str(caught.value)

    run(main())


def test_password_of_an_address_is_not_shown() -> None:
    checkpoint = AsyncCheckpoint("postgresql://user:secret@host/database#run")
    with pytest.raises(ClosedError) as caught:
        checkpoint.log("a")

    shown = f"{checkpoint!r} {caught.value!r}"
    assert "secret" not in shown
    assert shown.count("postgresql://user:***@host/database#run") == 2
