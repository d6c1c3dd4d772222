"""Durable appends by tasks of an event loop, against one thread with a plain handle.

In turns: one thread, one task, and many tasks of one event loop with one handle, each of which appends the next record
when the one before is durable. Appends of 100 bytes into one log; counted are those that returned in time. Afterwards
the log must hold as many records as were acknowledged. The processor time is that of the whole process, an append.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from append import RECORD_BYTES
from figures import Column, Table, median_ratio
from harness import parser, positive, show_environment, work_directory, write_json
from runs import run_alone, turns

from mpcheckpoint import Checkpoint
from mpcheckpoint.aio import AsyncCheckpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from runs import Start

    from mpcheckpoint.aio import AsyncLog

_LOG_KEY = "tasks"
_OBJECT_KEY = "{:05d}-{:07d}"
_EVENT = "x" * (RECORD_BYTES - len(_OBJECT_KEY.format(0, 0)))
ONE_THREAD = "1 thread"
_TABLE = Table(
    Column("who       ", "way"),
    Column("appends/s", "rate_per_s", ",.0f"),
    Column("ratio to 1 thread", "ratio", ".2f"),
    Column("processor us an append", "processor_us", ".1f"),
)


class Job(NamedTuple):
    """What a process does; ``tasks`` is 0 for one thread with a plain handle."""

    directory: Path
    tasks: int
    seconds: float


class Done(NamedTuple):
    """How many appends returned in time, and how many in all; and the processor time of an append."""

    in_time: int
    acknowledged: int
    processor_us: float


def append_for(start: Start, job: Job) -> Done:
    """Append for some seconds."""
    if job.tasks:
        return asyncio.run(_by_tasks(start, job))
    with Checkpoint(job.directory) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        log.append(_OBJECT_KEY.format(0, 0), _EVENT)
        start()
        began_s, processor_s = time.perf_counter(), time.process_time()
        number = 0
        while time.perf_counter() < began_s + job.seconds:
            number += 1
            log.append(_OBJECT_KEY.format(1, number), _EVENT)
        return Done(number - 1, 1 + number, (time.process_time() - processor_s) / number * 1e6)


async def _by_tasks(start: Start, job: Job) -> Done:
    async with AsyncCheckpoint(job.directory) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        await log.append(_OBJECT_KEY.format(0, 0), _EVENT)
        start()
        processor_s, deadline_s = time.process_time(), time.perf_counter() + job.seconds
        counts = await asyncio.gather(
            *[_append_until(log, number, deadline_s) for number in range(job.tasks)]
        )
        acknowledged = sum(counts)
        processor_us = (time.process_time() - processor_s) / acknowledged * 1e6
        return Done(acknowledged - job.tasks, 1 + acknowledged, processor_us)


async def _append_until(log: AsyncLog, task: int, deadline_s: float) -> int:
    number, now_s = 0, 0.0
    while now_s < deadline_s:
        number += 1
        await log.append(_OBJECT_KEY.format(task, number), _EVENT)
        now_s = time.perf_counter()
    return number  # the last one returned after the deadline


def run(directory: Path, tasks: int, seconds: float) -> Done:
    """Return what was done in a new store, which is removed again."""
    with Checkpoint(directory) as checkpoint:
        checkpoint.log(_LOG_KEY)
    done = run_alone(append_for, Job(directory, tasks, seconds))
    with Checkpoint(directory) as checkpoint:
        found = sum(1 for _ in checkpoint.log(_LOG_KEY).read())
    if found != done.acknowledged:
        raise RuntimeError(f"acknowledged were {done.acknowledged} records, found {found}")
    shutil.rmtree(directory)
    return done


def measure(directory: Path, *, tasks: Sequence[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the figures of one thread and of so many tasks."""
    ways = {ONE_THREAD: 0} | {f"{number} task{'s' * (number > 1)}": number for number in tasks}
    done: dict[str, list[Done]] = {way: [] for way in ways}
    for way in turns(list(ways), rounds):
        done[way].append(run(directory / "store", ways[way], seconds))
    rates = {way: [each.in_time / seconds for each in done[way]] for way in ways}
    return [
        {
            "way": way,
            "tasks": ways[way],
            "rate_per_s": statistics.median(rates[way]),
            "ratio": median_ratio(rates[way], rates[ONE_THREAD]),
            "processor_us": statistics.median(each.processor_us for each in done[way]),
            "rates_per_s": rates[way],
        }
        for way in ways
    ]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, rounds=5)
    options.add_argument(
        "--tasks", type=positive(int), nargs="+", default=[1, 10, 100, 1000], help="default: %(default)s"
    )
    options.add_argument("--seconds", type=positive(float), default=2.0, help="a run; default: %(default)s")
    return options.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    chosen = _arguments(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = measure(directory, tasks=chosen.tasks, rounds=chosen.rounds, seconds=chosen.seconds)
    _TABLE.head()
    for row in results:
        _TABLE.row(row)
    write_json(chosen.json, benchmark="aio", environment=facts, results=results)


if __name__ == "__main__":
    main()
