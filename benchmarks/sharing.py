"""Durable appends to this library by threads against one thread, and to logs of their own against one shared log.

Four ways of doing the same, in turns: one thread; several threads of one process that use one handle; several processes
with one log; several processes with a log each. Appends of 100 bytes, each durable before the next of its thread;
counted are those that returned in time. Afterwards the logs must hold as many records as were acknowledged.
"""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from append import RECORD_BYTES
from figures import Column, Table, median_ratio
from harness import parser, positive, show_environment, work_directory, write_json
from runs import run_together, turns

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from runs import Start

    from mpcheckpoint import Log

ONE_THREAD = "1 thread"
THREADS = "threads, one process"
ONE_LOG = "processes, one log"
OWN_LOGS = "processes, own logs"
_OBJECT_KEY = "{:03d}-{:09d}"
_EVENT = "x" * (RECORD_BYTES - len(_OBJECT_KEY.format(0, 0)))
_TABLE = Table(
    Column("who                 ", "way"),
    Column("number", "number", "d"),
    Column("appends/s", "rate_per_s", ",.0f"),
    Column("compared with       ", "compared_with"),
    Column("ratio", "ratio", ".2f"),
)


class Job(NamedTuple):
    """What one process does."""

    directory: Path
    log_key: str
    threads: int
    seconds: float


class Done(NamedTuple):
    """How many appends returned in time, and how many in all."""

    in_time: int
    acknowledged: int


def append_for(start: Start, job: Job) -> list[Done]:
    """Append for some seconds in each thread of this process, beginning together with the others."""
    done: list[Done] = []
    with Checkpoint(job.directory) as checkpoint:
        log = checkpoint.log(job.log_key)
        log.append(_OBJECT_KEY.format(0, 0), _EVENT)
        begin = threading.Barrier(job.threads + 1)

        def work(number: int) -> None:
            begin.wait()
            done.append(_append_until(log, number, time.perf_counter() + job.seconds))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(job.threads)]
        for thread in threads:
            thread.start()
        start()
        begin.wait()
        for thread in threads:
            thread.join()
    if len(done) != job.threads:
        raise RuntimeError(f"{job.threads - len(done)} threads died")
    return done


def _append_until(log: Log, thread: int, deadline_s: float) -> Done:
    number, now_s = 0, 0.0
    while now_s < deadline_s:
        number += 1
        log.append(_OBJECT_KEY.format(thread, number), _EVENT)
        now_s = time.perf_counter()
    return Done(number - 1, number)  # the last one returned after the deadline


def run(directory: Path, *, processes: int, threads: int, own_logs: bool, seconds: float) -> float:
    """Return the appends a second of one way, in a new store, which is removed again."""
    log_keys = [f"log-{number if own_logs else 0}" for number in range(processes)]
    with Checkpoint(directory) as checkpoint:
        for log_key in log_keys:
            checkpoint.log(log_key)
    done = [
        each
        for process in run_together(append_for, [Job(directory, key, threads, seconds) for key in log_keys])
        for each in process
    ]
    acknowledged = processes + sum(each.acknowledged for each in done)
    with Checkpoint(directory) as checkpoint:
        found = sum(1 for log_key in set(log_keys) for _ in checkpoint.log(log_key).read())
    if found != acknowledged:
        raise RuntimeError(f"acknowledged were {acknowledged} records, found {found}")
    shutil.rmtree(directory)
    return sum(each.in_time for each in done) / seconds


def measure(directory: Path, *, number: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the figures of the four ways."""
    ways: dict[str, dict[str, Any]] = {
        ONE_THREAD: {"processes": 1, "threads": 1, "own_logs": False},
        THREADS: {"processes": 1, "threads": number, "own_logs": False},
        ONE_LOG: {"processes": number, "threads": 1, "own_logs": False},
        OWN_LOGS: {"processes": number, "threads": 1, "own_logs": True},
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for way in turns(list(ways), rounds):
        rates[way].append(run(directory / "store", **ways[way], seconds=seconds))
    compared = {THREADS: ONE_THREAD, ONE_LOG: ONE_THREAD, OWN_LOGS: ONE_LOG}
    return [
        {
            "way": way,
            "number": 1 if way == ONE_THREAD else number,
            "rate_per_s": statistics.median(rates[way]),
            "compared_with": compared.get(way),
            "ratio": median_ratio(rates[way], rates[compared[way]]) if way in compared else None,
            "rates_per_s": rates[way],
        }
        for way in ways
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--seconds", type=positive(float), default=1.0, help="a run; default: %(default)s")
    options.add_argument(
        "--number", type=positive(int), nargs="+", default=[8], metavar="N", help="threads, and processes"
    )
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = report(directory, chosen)
    write_json(chosen.json, benchmark="sharing", environment=facts, results=results)


def report(directory: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table and return it."""
    print(f"medians of {chosen.rounds} rounds of {chosen.seconds} s; ratio: median of the rounds' ratios")
    _TABLE.head()
    results = []
    for number in chosen.number:
        for row in measure(directory, number=number, rounds=chosen.rounds, seconds=chosen.seconds):
            _TABLE.row(row)
            results.append(row)
    return results


if __name__ == "__main__":
    main()
