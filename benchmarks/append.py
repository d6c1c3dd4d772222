"""Durable appends of 100-byte records into ONE log by several processes, engine against engine.

Each process appends for the same number of seconds, one record at a time, each durable before the next. Opening the
store and the first append are not measured. An append counts for the rate if it returned in time; its latency counts
in any case. Percentiles are over the appends of all processes, so a process that starves shows in slowest/mean, not
there. Afterwards the store must hold as many records as were acknowledged.
"""

from __future__ import annotations

import shutil
import statistics
import time
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from engines import BASELINE, ENGINES
from figures import Column, Table, median_ratio, medians, quantiles
from harness import (
    add_engines,
    chosen_engines,
    parser,
    positive,
    settings,
    show_environment,
    work_directory,
    write_json,
)
from runs import run_together, turns

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from runs import Start

RECORD_BYTES = 100
_OBJECT_KEY = "{:03d}-{:09d}"
_EVENT = "x" * (RECORD_BYTES - len(_OBJECT_KEY.format(0, 0)))
_TABLE = Table(
    Column("processes", "processes", "d"),
    Column("engine      ", "engine"),
    Column("appends/s", "rate_per_s", ",.0f"),
    Column("x SQLite", "ratio_to_sqlite", ".2f"),
    Column("slowest/mean", "slowest_to_mean", ".2f"),
    Column("p50 us", "p50_us", ",.0f"),
    Column("p95 us", "p95_us", ",.0f"),
    Column("p99 us", "p99_us", ",.0f"),
    Column("p99/p50", "p99_to_p50", ",.1f"),
)


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
    quantiles_us: dict[str, float]


def append_for(start: Start, job: Job) -> Appends:
    """Append for some seconds, beginning together with the others."""
    latencies_s = array("d")
    engine = ENGINES[job.engine]
    engine.prepare()
    with engine.appender(job.directory) as append:
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
        sum(counts) / seconds, min(counts) / max(statistics.mean(counts), 1e-9), quantiles(latencies_us)
    )


def measure(
    directory: Path, engines: Sequence[str], *, processes: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return the figures of every engine for one number of processes."""
    by_engine: dict[str, list[Round]] = {name: [] for name in engines}
    for engine in turns(engines, rounds):
        by_engine[engine].append(run(engine, directory / "store", processes=processes, seconds=seconds))
    baseline = [each.rate_per_s for each in by_engine[BASELINE]]
    return [
        {"processes": processes, "engine": engine, **summary(figures, baseline)}
        for engine, figures in by_engine.items()
    ]


def summary(figures: Sequence[Round], baseline: Sequence[float]) -> dict[str, Any]:
    """Return what the rounds of one engine come to."""
    rates = [each.rate_per_s for each in figures]
    spread = medians([each.quantiles_us for each in figures])
    return {
        "rate_per_s": statistics.median(rates),
        "ratio_to_sqlite": median_ratio(rates, baseline),
        "slowest_to_mean": statistics.median(each.slowest_to_mean for each in figures),
        **{f"p{percent}_us": spread[percent] for percent in ("50", "95", "99")},
        "p99_to_p50": statistics.median(
            each.quantiles_us["99"] / each.quantiles_us["50"] for each in figures
        ),
        "longest_us": spread["100"],
        "quantiles_us": spread,
        "rates_per_s": rates,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    add_engines(options)
    options.add_argument("--seconds", type=positive(float), default=1.0, help="a run; default: %(default)s")
    options.add_argument("--processes", type=positive(int), nargs="+", default=[1, 4, 8, 16, 32], metavar="N")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        engines = chosen_engines(chosen)
        results = report(directory, engines, chosen)
    write_json(chosen.json, benchmark="append", environment=facts, engines=settings(engines), results=results)


def report(directory: Path, engines: Sequence[str], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table, each line as soon as it is known, and return it."""
    print(f"medians of {chosen.rounds} rounds of {chosen.seconds} s; x SQLite: median of the rounds' ratios")
    _TABLE.head()
    results = []
    for processes in chosen.processes:
        for row in measure(
            directory, engines, processes=processes, rounds=chosen.rounds, seconds=chosen.seconds
        ):
            _TABLE.row(row)
            results.append(row)
    return results


if __name__ == "__main__":
    main()
