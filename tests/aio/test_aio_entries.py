"""Handles, claims and transactions whose ``async with`` blocks several tasks enter."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._aio import claim as claims
from mpcheckpoint.aio import AsyncCheckpoint
from mpcheckpoint.errors import ClosedError, ReentrancyError
from support.awaits import CancelledAt, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_AWAITS = 50


@pytest.mark.guarantee(8)
def test_claim_entered_by_several_tasks_is_held_by_one_and_refused_to_the_others(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            lock = checkpoint.log("a").claim("job")
            has_it, may_go = asyncio.Event(), asyncio.Event()

            async def work() -> str:
                async with lock as claim:
                    assert claim is not None
                    has_it.set()
                    await may_go.wait()
                    assert not _is_free(place)
                    return claim.worker

            tasks = [asyncio.ensure_future(work()) for _ in range(10)]
            await has_it.wait()
            late = asyncio.ensure_future(work())
            await asyncio.wait([late])
            may_go.set()
            found = await asyncio.gather(*tasks, late, return_exceptions=True)
            refused = [each for each in found if isinstance(each, BaseException)]
            assert [type(each) for each in refused] == [ReentrancyError] * 10
            assert "log.claim('job')" in str(refused[0])
            assert _is_free(place)

    run(main())


def _is_free(place: str) -> bool:
    with Checkpoint(place).log("a").claim("job") as claim:
        return claim is not None


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("is_late", [False, True], ids=["at-once", "late"])
def test_claim_whose_block_was_cancelled_at_any_await_can_be_entered_again(place: str, is_late: bool) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            lock = log.claim("job")

            async def work() -> None:
                async with lock as claim:
                    assert claim is not None

            for at in range(_MOST_AWAITS):
                cancelled = CancelledAt(work(), at, is_late=is_late)
                with contextlib.suppress(asyncio.CancelledError):
                    await cancelled
                await log.flush()

                async def is_free() -> bool:
                    async with lock as claim:
                        return claim is not None

                await until(is_free, "it is given back")
                if not cancelled.has_come:
                    return
        raise AssertionError("more awaits than that?")

    run(main())


def test_claim_that_could_not_be_taken_can_be_entered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise OSError("bad luck")

    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            lock = checkpoint.log("a").claim("job")
            with monkeypatch.context() as patches:
                patches.setattr(claims, "_taken", failing)
                with pytest.raises(OSError, match="bad luck"):
                    await lock.__aenter__()
            async with lock as claim:
                assert claim is not None
                async with checkpoint.log("a").claim("job") as other:
                    assert other is None

    run(main())


def test_transaction_entered_twice_is_refused_and_the_first_entry_lands(place: str) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            async with log.transaction() as transaction:
                transaction.append("x", 1)
                with pytest.raises(ClosedError, match="entered once"):
                    await transaction.__aenter__()
                transaction.append("x", 2)
            assert await log.events("x") == (1, 2)

    run(main())


def test_transaction_that_ended_without_a_batch_cannot_be_entered_again(place: str) -> None:
    """Else what it had collected when its block failed would be written with what comes then."""

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            transaction, plain = log.transaction(), Checkpoint(place).log("a").transaction()
            with contextlib.suppress(LookupError):
                async with transaction:
                    transaction.append("x", "not to be written")
                    raise LookupError
            with pytest.raises(ClosedError, match="entered once"):
                async with transaction:
                    transaction.append("x", 1)
            with contextlib.suppress(LookupError), plain:
                plain.append("x", "not to be written")
                raise LookupError
            with pytest.raises(ClosedError, match="entered once"), plain:
                plain.append("x", 1)
            assert await log.events("x") == ()

    run(main())


class _Opened:
    """Counts handles that are opened and closed; opening ends once the gate is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.handles: list[Checkpoint] = []
        self.closed: list[Checkpoint] = []
        self.gate = threading.Event()
        open_, close = AsyncCheckpoint.__init__, Checkpoint.close

        def init(checkpoint: AsyncCheckpoint, *given: Any, **choices: Any) -> None:
            open_(checkpoint, *given, **choices)
            opens = checkpoint._open

            def opened() -> Checkpoint:
                handle = opens()
                self.handles.append(handle)
                assert self.gate.wait(60)
                return handle

            checkpoint._open = opened

        def closing(handle: Checkpoint) -> None:
            self.closed.append(handle)
            close(handle)

        monkeypatch.setattr(AsyncCheckpoint, "__init__", init)
        monkeypatch.setattr(Checkpoint, "close", closing)

    async def wait_for(self, count: int) -> None:
        """Return once so many are open, and have not been handed out."""

        async def are_open() -> bool:
            return len(self.handles) == count

        await until(are_open, "threads have opened them")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Opened]:
    opened = _Opened(monkeypatch)
    yield opened
    opened.gate.set()


def test_handle_opened_by_several_tasks_at_once_is_one_and_the_others_are_closed(
    place: str, opened: _Opened
) -> None:
    async def main() -> None:
        checkpoint = AsyncCheckpoint(place)
        entering = [asyncio.ensure_future(checkpoint.__aenter__()) for _ in range(3)]
        await opened.wait_for(3)
        opened.gate.set()
        await asyncio.gather(*entering)
        assert len(set(opened.closed)) == 2
        await checkpoint.log("a").append("x", 1)
        await checkpoint.close()
        assert set(opened.closed) == set(opened.handles)

    run(main())


def test_handle_closed_while_a_task_opens_it_is_not_open_for_that_task(place: str, opened: _Opened) -> None:
    async def main() -> None:
        checkpoint = AsyncCheckpoint(place)
        entering = asyncio.ensure_future(checkpoint.__aenter__())
        await opened.wait_for(1)
        await checkpoint.close()
        opened.gate.set()
        with pytest.raises(ClosedError, match="is closed"):
            await entering
        assert opened.closed == opened.handles

    run(main())
