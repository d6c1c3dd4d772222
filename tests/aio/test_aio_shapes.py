"""Event loops and processes of any shape: several loops, closed ones, forks, exits, a lock that others hold."""

from __future__ import annotations

import ast
import asyncio
import errno
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._store.store import DirectoryLog
from mpcheckpoint.aio import AsyncCheckpoint, UnderWay, under_way
from mpcheckpoint.errors import (
    ClosedError,
    LockTimeoutError,
    OutcomeUnknownError,
    PoisonedLogError,
    WriteFailedError,
)
from support.awaits import run, until
from support.processes import in_a_child
from support.verbs import LOG, Faults, hold_append_lock, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint.testing import AcknowledgementJournal
    from support.processes import Children


@pytest.fixture
def lock_holder(store: Path, children: Children, acknowledgements: AcknowledgementJournal) -> Iterator[Any]:
    """Another process, which holds the append lock of the log "a" until it is killed."""
    Checkpoint(store).log("a").append("x", 0)
    holder = children.start(hold_append_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    yield holder
    children.kill_all()


@pytest.mark.guarantee(8)
def test_loop_goes_on_while_another_process_holds_the_append_lock(store: Path, lock_holder: Any) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(store) as checkpoint:
            log, other = checkpoint.log("a"), checkpoint.log("b")
            waiting = [asyncio.ensure_future(log.append("x", number)) for number in range(50)]
            waiting += [
                asyncio.ensure_future(log.append("y", number, record_id=f"{number}")) for number in range(50)
            ]
            ticks = 0
            while ticks < 100:  # each of these takes the loop round once
                await asyncio.sleep(0.001)
                ticks += 1
                assert await log.events("x") == (0,)
            await other.append("x", "another log")
            assert not any(each.done() for each in waiting)

            lock_holder.kill()
            await asyncio.gather(*waiting)
            assert sorted(await log.events("x")) == sorted([0, *range(50)])
            assert sorted(await log.events("y")) == list(range(50))

    run(main())


def test_append_that_waits_for_a_lock_times_out_by_itself_and_writes_nothing(
    store: Path, lock_holder: Any
) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(store, lock_timeout_s=0.05) as checkpoint:
            log = checkpoint.log("a")
            found = await asyncio.gather(
                *[log.append("x", number) for number in range(20)],
                *[log.append("x", number, expected_count=1) for number in range(2)],
                return_exceptions=True,
            )
            assert [type(each) for each in found] == [LockTimeoutError] * 22
            assert len({id(each) for each in found}) == 22
            lock_holder.kill()
            await log.append("x", "later")
            assert await log.events("x") == (0, "later")

    run(main())


def test_cancelled_appends_that_wait_for_a_lock_leave_what_was_taken_only(
    store: Path, lock_holder: Any
) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(store) as checkpoint:
            log = checkpoint.log("a")
            await log.events("x")

            async def append(number: int) -> UnderWay[Any] | None:
                try:
                    await log.append("x", number)
                except asyncio.CancelledError as error:
                    return under_way(error)
                raise AssertionError("the lock is held")

            tasks = [asyncio.ensure_future(append(number)) for number in range(1, 30)]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            calls = await asyncio.gather(*tasks)
            lock_holder.kill()
            await asyncio.gather(*[each.outcome() for each in calls if each is not None])
            await log.append("x", "last")
            taken = [number for number, each in enumerate(calls, 1) if each is not None]
            assert await log.events("x") == (0, *taken, "last")

    run(main())


@pytest.mark.guarantee(7)
def test_loops_in_several_threads_share_one_handle(place: str) -> None:
    opened: list[AsyncCheckpoint] = []
    is_open, may_close = threading.Event(), threading.Event()

    async def owner() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            opened.append(checkpoint)
            is_open.set()
            await until(lambda: _is(may_close), "the others are done")

    async def user(name: str) -> None:
        log = opened[0].log("a")
        await asyncio.gather(*[log.append(name, number) for number in range(20)])
        assert sorted(await log.events(name)) == list(range(20))

    threads = [threading.Thread(target=lambda: run(owner()))]
    threads[0].start()
    assert is_open.wait(60)
    users = [
        threading.Thread(target=lambda name=name: run(user(name))) for name in ("first", "second", "third")
    ]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join(60)
    may_close.set()
    threads[0].join(60)
    assert not any(thread.is_alive() for thread in (*threads, *users))
    assert len(list(Checkpoint(place).log("a").read())) == 60


async def _is(event: threading.Event) -> bool:
    return event.is_set()


class Gate:
    """Stops the thread that appends before it writes."""

    def __init__(self) -> None:
        self.is_inside, self.may_go_on = threading.Event(), threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Stop each append to a directory."""
    gate = Gate()

    def around(append: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*given: Any, **options: Any) -> Any:
            gate.is_inside.set()
            assert gate.may_go_on.wait(60)
            return append(*given, **options)

        return stopped

    monkeypatch.setattr(DirectoryLog, "append", around(DirectoryLog.append))
    monkeypatch.setattr(DirectoryLog, "append_group", around(DirectoryLog.append_group))
    yield gate
    gate.may_go_on.set()


def test_loop_closed_while_appends_wait_leaves_the_handle_usable_in_another_loop(
    tmp_path: Path, gate: Gate
) -> None:
    checkpoint = AsyncCheckpoint(tmp_path)
    loop = asyncio.new_event_loop()

    async def begin() -> list[asyncio.Task[Any]]:
        await checkpoint.__aenter__()
        log = checkpoint.log("a")
        await log.events("x")
        tasks = [asyncio.ensure_future(log.append("x", number)) for number in range(5)]
        await until(lambda: _is(gate.is_inside), "the thread has taken some")
        return tasks

    tasks = loop.run_until_complete(begin())
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    gate.may_go_on.set()

    async def go_on() -> tuple[Any, ...]:
        async with checkpoint:
            log = checkpoint.log("a")
            await log.append("x", "later")
            return await log.events("x")

    events = run(go_on())
    assert events[-1] == "later"
    assert set(events[:-1]) <= set(range(5))


def test_close_refuses_what_is_queued_and_lets_go_on_what_is_under_way(tmp_path: Path, gate: Gate) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            first = asyncio.ensure_future(log.append("x", "first"))
            await until(lambda: _is(gate.is_inside), "the thread has taken it")
            queued = [asyncio.ensure_future(log.append("x", number)) for number in range(3)]
            follower = log.follow("end")
            waiting = asyncio.ensure_future(anext(follower))
            await asyncio.sleep(0)
            gate.may_go_on.set()
            await checkpoint.close()
            found = await asyncio.gather(*queued, return_exceptions=True)
            written = [each for each in found if not isinstance(each, ClosedError)]
            assert all(not isinstance(each, BaseException) for each in written)
            await first
            with pytest.raises((ClosedError, StopAsyncIteration)):
                await waiting
        assert len(Checkpoint(tmp_path).log("a").events("x")) == 1 + len(written)

    run(main())
    wait_until(lambda: not _own_threads(), "the threads of the handle have ended")


def _own_threads() -> list[str]:
    names = ("appends", "writes", "reads", "follows", "store")
    return [
        each.name
        for each in threading.enumerate()
        if each.name.startswith(tuple(f"mpcheckpoint-{name}" for name in names))
    ]


@pytest.mark.guarantee(7)
def test_fork_while_tasks_append_leaves_their_appends_to_the_parent(place: str) -> None:
    def in_child(checkpoint: AsyncCheckpoint) -> tuple[Any, ...]:
        async def main() -> tuple[Any, ...]:
            log = checkpoint.log("b")
            await asyncio.gather(*[log.append("x", number) for number in range(10)])
            return await log.events("x")

        asyncio.events._set_running_loop(None)  # that of the parent, which is not run here
        return run(main())

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            log = checkpoint.log("a")
            tasks = [asyncio.ensure_future(log.append("x", number)) for number in range(50)]
            await asyncio.sleep(0)
            assert sorted(in_a_child(in_child, checkpoint)) == list(range(10))
            await asyncio.gather(*tasks)
            assert sorted(await log.events("x")) == list(range(50))

    run(main())
    assert len(list(Checkpoint(place).log("a").read())) == 50


_PROGRAM = """
import asyncio, os, sys
from mpcheckpoint.aio import AsyncCheckpoint

async def main(how):
    checkpoint = AsyncCheckpoint(sys.argv[1])
    await checkpoint.__aenter__()
    log = checkpoint.log("a")
    await log.count("x")  # else each task opens it, and the others may be far ahead of the last one

    async def append(name):
        for number in range(1_000_000):
            await log.append(name, number)
            acknowledged[name] = number
            if how != "lock" and number == 20:
                leave.set()

    leave, acknowledged = asyncio.Event(), {}
    tasks = [asyncio.ensure_future(append(f"task{n}")) for n in range(10)]
    if how == "lock":
        await asyncio.sleep(0.2)
    else:
        await leave.wait()
    print(acknowledged, flush=True)
    if how == "exit":
        os._exit(0)
    if how == "return":
        return
    sys.exit(3)

asyncio.run(main(sys.argv[2]))
"""


@pytest.mark.guarantee(1)
@pytest.mark.parametrize(("how", "code"), [("exit", 0), ("return", 0), ("raise", 3)])
def test_program_that_ends_while_tasks_append_has_all_that_was_acknowledged(
    store: Path, how: str, code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, store, how], timeout=60, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (code, "")
    log = Checkpoint(store).log("a")
    acknowledged = ast.literal_eval(done.stdout)
    assert len(acknowledged) == 10
    for name, last in acknowledged.items():
        events = log.events(name)
        assert events == tuple(range(len(events)))
        assert len(events) > last


@pytest.mark.guarantee(8)
def test_program_that_ends_while_its_appends_wait_for_a_lock_does_not_hang(
    store: Path, lock_holder: Any
) -> None:
    del lock_holder
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, store, "lock"],
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "{}\n", "")


# --- bad luck -------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
def test_disk_that_gets_full_fails_those_that_found_no_room_and_no_others(
    tmp_path: Path, faults: Faults
) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            await log.append("x", "first")
            end = (await anext(log.read())).position.offset

            def limited(real: Callable[..., Any], fd: int, data: bytes, offset: int) -> Any:
                room = max(0, end + 4000 - offset)
                taken = real(fd, data[:room], offset) if room else 0
                if room < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return taken

            faults.act("write_at", limited, times=1 << 30, on=LOG)
            found = await asyncio.gather(
                *[log.append("x", "-" * (500 if number % 2 else 20)) for number in range(100)],
                return_exceptions=True,
            )
            failed = [each for each in found if isinstance(each, BaseException)]
            assert {type(each) for each in failed} == {WriteFailedError}
            assert 0 < len(failed) < 100
            assert not any(
                isinstance(each, BaseException) for each in found[:10:2]
            )  # there was room for the short ones
            assert len(await log.events("x")) == 1 + 100 - len(failed)
            positions = [each for each in found if not isinstance(each, BaseException)]
            assert sorted(positions) == [each.position async for each in log.read()][1:]

    run(main())


@pytest.mark.guarantee(9)
def test_sync_that_fails_tells_every_task_that_its_outcome_is_unknown(tmp_path: Path, faults: Faults) -> None:
    async def main() -> None:
        async with AsyncCheckpoint(tmp_path) as checkpoint:
            log = checkpoint.log("a")
            await log.append("x", "first")
            faults.fail("sync_data", errno.EIO, on=LOG)
            found = await asyncio.gather(
                *[log.append("x", number) for number in range(20)], return_exceptions=True
            )
            assert {type(each) for each in found} <= {OutcomeUnknownError, PoisonedLogError}
            unknown = [each for each in found if isinstance(each, OutcomeUnknownError)]
            assert len(unknown) > 0
            positions = [each.position for each in unknown]
            assert sorted(positions) == [each.position async for each in log.read()][1:]
            await log.recover()
            await log.append("x", "later")
            assert (await log.events("x"))[-1] == "later"

    run(main())
