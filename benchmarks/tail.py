"""Asking a log for what is new: what that costs when nothing is, which is most of the time, and when one record is.

Three ways: a tail (``Tail.new``), a follower that does not wait, and ``read`` after the last position. And a tail of
all logs, in stores of 1 log and of 100. The new record is appended by the same process, which is not timed.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from figures import Column, Table, percentile
from harness import parser, positive, show_environment, work_directory, write_json
from read import sampled_us
from runs import run_alone

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runs import Start

    from mpcheckpoint import Log

_RECORDS = 1000
_MANY_LOGS = 100
_TABLE = Table(
    Column("way".ljust(28), "way"),
    Column("nothing new: p50 us", "nothing_p50_us", ",.2f"),
    Column("p95 us", "nothing_p95_us", ",.2f"),
    Column("one record: p50 us", "one_p50_us", ",.2f"),
    Column("p95 us", "one_p95_us", ",.2f"),
)


class Job(NamedTuple):
    """What one process does."""

    directory: Path
    seconds: float


def ask_for(start: Start, job: Job) -> dict[str, dict[str, float]]:
    """Ask in all ways; return the figures of each."""
    with Checkpoint(job.directory, durability="never") as checkpoint:
        log = checkpoint.log("log-0")
        log.append_many([(f"object-{number:07d}", "UPLOADED") for number in range(_RECORDS)])
        start()
        figures = {way: asked(log, ask, job.seconds) for way, ask in ways(checkpoint, log).items()}
        for number in range(1, _MANY_LOGS):
            checkpoint.log(f"log-{number}").append("object", "UPLOADED")
        figures[f"tail of all {_MANY_LOGS} logs"] = asked(log, checkpoint.tail("end").new, job.seconds)
    return figures


def ways(checkpoint: Checkpoint, log: Log) -> dict[str, Callable[[], Sequence[object]]]:
    """Return functions of which each returns what came to a log since its last call."""
    follower = log.follow("end", idle_timeout_s=0)
    *_, last = log.read(last=1)
    position = last.position

    def read() -> Sequence[object]:
        nonlocal position
        found = list(log.read(after=position))
        position = found[-1].position if found else position
        return found

    return {
        "tail": log.tail("end").new,
        "follow, without waiting": lambda: list(follower),
        "read(after=)": read,
        "tail of all logs, of which 1": checkpoint.tail("end").new,
    }


def asked(log: Log, ask: Callable[[], Sequence[object]], seconds: float) -> dict[str, float]:
    """Return what one way costs."""
    ask()
    nothing_us = sampled_us(ask, seconds)
    one_us = []
    deadline_s = time.perf_counter() + seconds
    while len(one_us) < 5 or time.perf_counter() < deadline_s:
        log.append("object", "SHIPPED")
        before_ns = time.perf_counter_ns()
        found = ask()
        one_us.append((time.perf_counter_ns() - before_ns) / 1e3)
        if len(found) != 1 or ask():
            raise RuntimeError("one record was appended, and something else was found")
    return {
        "nothing_p50_us": percentile(nothing_us, 50),
        "nothing_p95_us": percentile(nothing_us, 95),
        "one_p50_us": percentile(one_us, 50),
        "one_p95_us": percentile(one_us, 95),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--seconds", type=positive(float), default=0.5, help="a run; default: %(default)s")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = measure(directory, chosen)
    write_json(chosen.json, benchmark="tail", environment=facts, results=results)


def measure(directory: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table and return it."""
    rounds = [
        run_alone(ask_for, Job(directory / str(number), chosen.seconds)) for number in range(chosen.rounds)
    ]
    _TABLE.head()
    results: list[dict[str, Any]] = []
    for way, figures in rounds[0].items():
        medians = {name: statistics.median(each[way][name] for each in rounds) for name in figures}
        results.append({"way": way} | medians)
        _TABLE.row(results[-1])
    return results


if __name__ == "__main__":
    main()
