"""Durable appends of 100-byte records into ONE log by several processes, against SQLite.

Each process appends for the same number of seconds, one record at a time, each durable before the next. Opening the
store and the first append are not measured. An append counts for the rate if it returned in time; its latency counts
in any case. Percentiles are over the appends of all processes, so a process that starves shows in slowest/mean, not
there. Afterwards the store must hold as many records as were acknowledged.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engines import BASELINE, ENGINES
from harness import (
    environment,
    line_of,
    median_ratio,
    parser,
    percentile,
    positive,
    run_together,
    turns,
    work_directory,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import Start

RECORD_BYTES = 100
_OBJECT_KEY = "{:03d}-{:09d}"
_EVENT = "x" * (RECORD_BYTES - len(_OBJECT_KEY.format(0, 0)))


class Job(NamedTuple):
    """What one process does."""

    engine: str
    directory: Path
    process: int
    seconds: float


class Appends(NamedTuple):
    """What one process did: how long each append took, and how many returned in time."""

    latencies_s: array[float]
    in_time: int


class Round(NamedTuple):
    """The figures of one engine in one round."""

    rate_per_s: float
    slowest_to_mean: float
    p50_us: float
    p95_us: float
    p99_us: float
    longest_us: float


def append_for(start: Start, job: Job) -> Appends:
    """Append for some seconds, beginning together with the others."""
    latencies_s = array("d")
    with ENGINES[job.engine].appender(job.directory) as append:
        append(_OBJECT_KEY.format(job.process, 0), _EVENT)
        start()
        now_s = time.perf_counter()
        deadline_s = now_s + job.seconds
        while now_s < deadline_s:
            object_key = _OBJECT_KEY.format(job.process, len(latencies_s) + 1)
            before_s = time.perf_counter()
            append(object_key, _EVENT)
            now_s = time.perf_counter()
            latencies_s.append(now_s - before_s)
    return Appends(latencies_s, len(latencies_s) - 1)  # the last one returned after the deadline


def run(engine: str, directory: Path, *, processes: int, seconds: float) -> Round:
    """Return the figures of one engine in a new store, which is removed again."""
    ENGINES[engine].create(directory)
    done = run_together(append_for, [Job(engine, directory, number, seconds) for number in range(processes)])
    acknowledged = processes + sum(len(each.latencies_s) for each in done)
    found = ENGINES[engine].count(directory)
    if found != acknowledged:
        raise RuntimeError(f"{engine} acknowledged {acknowledged} records and holds {found}")
    shutil.rmtree(directory)

    counts = [each.in_time for each in done]
    latencies_us = [latency_s * 1e6 for each in done for latency_s in each.latencies_s]
    return Round(
        sum(counts) / seconds,
        min(counts) / max(statistics.mean(counts), 1e-9),
        *(percentile(latencies_us, percent) for percent in (50, 95, 99, 100)),
    )


def measure(directory: Path, *, processes: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the figures of every engine for one number of processes."""
    by_engine: dict[str, list[Round]] = {name: [] for name in ENGINES}
    for engine in turns(list(ENGINES), rounds):
        by_engine[engine].append(run(engine, directory / "store", processes=processes, seconds=seconds))
    baseline = [each.rate_per_s for each in by_engine[BASELINE]]
    results = []
    for engine, figures in by_engine.items():
        medians = map(statistics.median, zip(*figures, strict=True))
        rates = [each.rate_per_s for each in figures]
        results.append(
            {
                "processes": processes,
                "engine": engine,
                **dict(zip(Round._fields, medians, strict=True)),
                "ratio_to_sqlite": median_ratio(rates, baseline),
                "rates_per_s": rates,
            }
        )
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--seconds", type=positive(float), default=2.0, help="a run; default: %(default)s")
    options.add_argument("--processes", type=positive(int), nargs="+", default=[1, 2, 4, 8, 16], metavar="N")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = environment(directory)
        print(line_of(facts))
        results = report(directory, chosen)
    settings = {name: engine.setting for name, engine in ENGINES.items()}
    write_json(chosen.json, benchmark="append", environment=facts, engines=settings, results=results)


def report(directory: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table, each line as soon as it is known, and return it."""
    print(
        f"medians of {chosen.rounds} rounds of {chosen.seconds} s each; ratio: median of those of each round"
    )
    for name, engine in ENGINES.items():
        print(f"{name}: {engine.setting}")
    print("\nprocesses  engine        appends/s  x SQLite  slowest/mean    p50 us     p99 us")
    results = []
    for processes in chosen.processes:
        for row in measure(directory, processes=processes, rounds=chosen.rounds, seconds=chosen.seconds):
            print(
                f"{row['processes']:9}  {row['engine']:12}  {row['rate_per_s']:9,.0f}  {row['ratio_to_sqlite']:8.2f}  "
                f"{row['slowest_to_mean']:12.2f}  {row['p50_us']:8,.0f}  {row['p99_us']:9,.0f}",
                flush=True,
            )
            results.append(row)
    return results


if __name__ == "__main__":
    main()
