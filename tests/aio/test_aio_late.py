"""What comes too late: for a task that was cancelled, for a handle that was closed, for a child that was forked."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._aio import claim as claims
from mpcheckpoint._store.store import DirectoryLog
from mpcheckpoint.aio import AsyncCheckpoint
from mpcheckpoint.errors import CheckpointError, ClosedError, ReadOnlyError
from support.awaits import run, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Gate:
    """Stops threads that come to it until it is opened."""

    def __init__(self) -> None:
        self.came: list[threading.Thread] = []
        self.is_open = threading.Event()

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that returns once the gate is open."""

        def stopped(*given: Any, **options: Any) -> Any:
            found = call(*given, **options)
            self.came.append(threading.current_thread())
            assert self.is_open.wait(60)
            return found

        return stopped

    async def wait_for(self, count: int) -> None:
        """Return once so many have come."""

        async def have_come() -> bool:
            return len(self.came) >= count

        await until(have_come, "the threads are at the gate")


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.is_open.set()


# --- claims ---------------------------------------------------------------------------------------------------


def _is_free(place: str, object_key: str) -> bool:
    with Checkpoint(place).log("a").claim(object_key) as claim:
        return claim is not None


@pytest.mark.guarantee(8)
def test_claims_that_came_too_late_and_could_not_be_ended_cost_no_thread(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    end = claims._Held.end

    def failing(held: claims._Held) -> None:
        end(held)
        raise OSError("no room")

    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            await log.count("x")
            with monkeypatch.context() as patches:
                patches.setattr(claims, "_taken", gate.after(claims._taken))
                patches.setattr(claims._Held, "end", failing)
                taking = [asyncio.ensure_future(log.claim(f"x{n}").__aenter__()) for n in range(8)]
                await gate.wait_for(8)
                for task in taking:
                    task.cancel()
                found = await asyncio.gather(*taking, return_exceptions=True)
                assert {type(each) for each in found} == {asyncio.CancelledError}
                gate.is_open.set()
                await log.flush()

    run(main())
    assert "no room" in caplog.text


@pytest.mark.guarantee(8)
def test_claim_that_came_after_the_handle_was_closed_is_given_back(
    place: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        checkpoint = AsyncCheckpoint(place)
        await checkpoint.__aenter__()
        log = checkpoint.log("a")
        await log.count("x")
        monkeypatch.setattr(claims, "_taken", gate.after(claims._taken))
        task = asyncio.ensure_future(log.claim("x").__aenter__())
        await gate.wait_for(1)
        await checkpoint.close()
        gate.is_open.set()
        gate.came[0].join(60)  # nothing is awaited: the claim has come, and the task does not know
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def is_free() -> bool:
            return _is_free(place, "x")

        await until(is_free, "the claim is given back")

    run(main())


@pytest.mark.guarantee(8)
def test_claim_whose_block_ends_after_the_handle_was_closed_is_free_and_hides_no_error(place: str) -> None:
    async def main() -> None:
        for error in (None, KeyError("of the block"), asyncio.CancelledError()):
            checkpoint = AsyncCheckpoint(place)
            await checkpoint.__aenter__()
            raised: BaseException | None = None
            try:
                async with checkpoint.log("a").claim("x") as held:
                    assert held is not None
                    await checkpoint.close()
                    if error is not None:
                        raise error
            except BaseException as ended:  # noqa: BLE001 - which one is the question
                raised = ended
            assert raised is error
            assert _is_free(place, "x")

    run(main())


# --- calls ----------------------------------------------------------------------------------------------------


def test_call_that_no_thread_had_taken_when_closing_was_cancelled_is_told(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "log", gate.after(Checkpoint.log))

    async def main() -> None:
        checkpoint = AsyncCheckpoint(tmp_path)
        await checkpoint.__aenter__()
        opening = [asyncio.ensure_future(checkpoint.log(f"a{n}").count("x")) for n in range(6)]
        await gate.wait_for(4)  # of the threads that open logs there are so many
        closing = asyncio.ensure_future(checkpoint.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        gate.is_open.set()
        found = await asyncio.gather(*opening, return_exceptions=True)
        assert [type(each) for each in found] == [ClosedError] * 6

    run(main())


def test_function_that_raises_stop_iteration_in_a_thread_fails_its_call(tmp_path: Path) -> None:
    def default(value: object) -> object:
        raise StopIteration(value)

    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            for record_id in (None, "r"):
                with pytest.raises(RuntimeError, match="raised StopIteration"):
                    await log.append("x", 1j, record_id=record_id, default=default)
            assert await log.events("x") == ()

    run(main())


def test_appends_of_a_group_that_are_told_the_same_have_errors_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage may return one error for all of them, as one on a server does that gave no answer."""

    def append_group(stored: DirectoryLog, batches: list[Any], **options: Any) -> list[CheckpointError]:
        return [CheckpointError("bad luck")] * len(batches)

    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            await log.count("x")
            monkeypatch.setattr(DirectoryLog, "append_group", append_group)
            appends = [log.append("x", number) for number in range(10)]
            found = await asyncio.gather(*appends, return_exceptions=True)
            failed = [each for each in found if isinstance(each, CheckpointError)]
            assert len(failed) > 1
            assert len({id(each) for each in failed}) == len(failed)

    run(main())


def test_batch_of_nothing_is_refused_where_nothing_may_be_written(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            assert await log.append_many([]) is None
            async with AsyncCheckpoint(tmp_path, read_only=True) as reading:
                with pytest.raises(ReadOnlyError):
                    await reading.log("a").append_many([])
        with pytest.raises(ClosedError):
            await log.append_many([])

    run(main())
