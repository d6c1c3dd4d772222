"""Opening a log for append, without its view, against the log's length.

A fresh process opens the store and appends one durable record: the first append of a process validates what was not
durable yet, which is the end of the log, whatever stands before it. The imports are not measured. The log is in the
page cache. "second append" is the next one of the same process, for comparison.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from figures import Column, Table, median_ratio
from harness import parser, positive, show_environment, work_directory, write_json
from runs import run_alone, turns

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from runs import Start

_LOG_KEY = "long"
_EVENT = "x" * 1000
_BATCH = 2000
_TABLE = Table(
    Column("log MB", "size_mb", ",.0f"),
    Column("open and first append ms", "open_ms", ",.2f"),
    Column("second append ms", "second_ms", ",.2f"),
    Column("x shortest", "ratio_to_shortest", ".2f"),
)


class Job(NamedTuple):
    """A log, and how long it is to be."""

    directory: Path
    size_mb: float


class Took(NamedTuple):
    """What two appends of a fresh process took."""

    open_s: float
    second_s: float


def fill(start: Start, job: Job) -> None:
    """Make the log."""
    start()
    records = [(f"object-{number}", _EVENT) for number in range(_BATCH)]
    with Checkpoint(job.directory, durability="never") as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        while True:
            position = log.append_many(records)
            if position is None or position.offset >= job.size_mb * 1e6:
                break
        log.flush()


def open_and_append(start: Start, job: Job) -> Took:
    """Open the log in this fresh process and append twice."""
    start()
    before_s = time.perf_counter()
    with Checkpoint(job.directory, create=False) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        log.append("opened", None)
        opened_s = time.perf_counter()
        log.append("opened", None)
        return Took(opened_s - before_s, time.perf_counter() - opened_s)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=7)
    options.add_argument(
        "--size-mb", type=positive(float), nargs="+", default=[1, 10, 100, 1000], metavar="MB"
    )
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = measure(directory, chosen)
    write_json(chosen.json, benchmark="open", environment=facts, results=results)


def measure(directory: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table and return it."""
    jobs = [Job(directory / f"{size_mb}", size_mb) for size_mb in chosen.size_mb]
    for job in jobs:
        run_alone(fill, job)
        run_alone(open_and_append, job)  # what the filling left unsynced is judged and rewritten here, once
    took: dict[Job, list[Took]] = {job: [] for job in jobs}
    for job in turns(jobs, chosen.rounds):
        took[job].append(run_alone(open_and_append, job))
    _TABLE.head()
    results = []
    shortest = [each.open_s for each in took[jobs[0]]]
    for job, rounds in took.items():
        opens_s = [each.open_s for each in rounds]
        results.append(
            {
                "size_mb": job.size_mb,
                "open_ms": statistics.median(opens_s) * 1e3,
                "second_ms": statistics.median(each.second_s for each in rounds) * 1e3,
                "ratio_to_shortest": median_ratio(opens_s, shortest),
                "all_open_ms": [open_s * 1e3 for open_s in opens_s],
            }
        )
        _TABLE.row(results[-1])
    return results


if __name__ == "__main__":
    main()
