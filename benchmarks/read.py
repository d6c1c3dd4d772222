"""Reading one object when nothing is new, in stores of 1, 10, 100 and 1,000 logs.

Each read looks at every log of the store, since it must see every append that returned before. Two ways: over all logs,
``checkpoint[object key]``, and in one log, ``log.events(object key)``. The process has read the store before.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from figures import Column, Table, percentile
from harness import parser, positive, show_environment, work_directory, write_json
from runs import run_alone, turns

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runs import Start

_RECORDS_A_LOG = 10
_OBJECT_KEY = "object-{:07d}"
_LEAST_READS = 5
_TABLE = Table(
    Column("logs", "logs", ",d"),
    Column("first read ms", "first_read_ms", ",.1f"),
    Column("all logs: p50 us", "all_p50_us", ",.2f"),
    Column("p95 us", "all_p95_us", ",.2f"),
    Column("one log: p50 us", "one_p50_us", ",.2f"),
    Column("p95 us", "one_p95_us", ",.2f"),
)


class Job(NamedTuple):
    """What one process does."""

    directory: Path
    logs: int
    seconds: float


def fill(start: Start, job: Job) -> None:
    """Make the store: an object of its own for each record."""
    start()
    with Checkpoint(job.directory, durability="never") as checkpoint:
        for number in range(job.logs):
            first = number * _RECORDS_A_LOG
            checkpoint.log(f"log-{number}").append_many(
                [(_OBJECT_KEY.format(first + more), "UPLOADED") for more in range(_RECORDS_A_LOG)]
            )


def read_for(start: Start, job: Job) -> dict[str, float]:
    """Read for some seconds in both ways; return the figures."""
    object_key = _OBJECT_KEY.format(0)
    with Checkpoint(job.directory, create=False) as checkpoint:
        log = checkpoint.log("log-0")
        start()
        before_s = time.perf_counter()
        if checkpoint[object_key] != ("UPLOADED",) or len(checkpoint) != job.logs * _RECORDS_A_LOG:
            raise RuntimeError("the store holds something else")
        first_s = time.perf_counter() - before_s
        all_us = sampled_us(lambda: checkpoint[object_key], job.seconds)
        one_us = sampled_us(lambda: log.events(object_key), job.seconds)
    return {
        "first_read_ms": first_s * 1e3,
        "all_p50_us": percentile(all_us, 50),
        "all_p95_us": percentile(all_us, 95),
        "one_p50_us": percentile(one_us, 50),
        "one_p95_us": percentile(one_us, 95),
    }


def sampled_us(work: Callable[[], object], seconds: float) -> list[float]:
    """Return what each of the calls took that were made in so many seconds."""
    took_us: list[float] = []
    deadline_s = time.perf_counter() + seconds
    while len(took_us) < _LEAST_READS or time.perf_counter() < deadline_s:
        before_ns = time.perf_counter_ns()
        work()
        took_us.append((time.perf_counter_ns() - before_ns) / 1e3)
    return took_us


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--logs", type=positive(int), nargs="+", default=[1, 10, 100, 1000], metavar="N")
    options.add_argument("--seconds", type=positive(float), default=0.5, help="a run; default: %(default)s")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = measure(directory, chosen)
    write_json(chosen.json, benchmark="read", environment=facts, results=results)


def measure(directory: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table and return it."""
    jobs = {logs: Job(directory / str(logs), logs, chosen.seconds) for logs in chosen.logs}
    for job in jobs.values():
        run_alone(fill, job)
    figures: dict[int, list[dict[str, float]]] = {logs: [] for logs in jobs}
    for logs in turns(list(jobs), chosen.rounds):
        figures[logs].append(run_alone(read_for, jobs[logs]))
    _TABLE.head()
    results = []
    for logs, rounds in figures.items():
        medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        results.append({"logs": logs} | medians)
        _TABLE.row(results[-1])
    return results


if __name__ == "__main__":
    main()
