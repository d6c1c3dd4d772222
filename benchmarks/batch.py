"""Batches of 1,000 records of 100 bytes, each durable with one sync, engine against engine; on disk and in memory.

mpcheckpoint: append_many. The others: what they have for many records in one go: executemany in a transaction (SQLite),
putmulti in a transaction (LMDB), append_logs of many (Optuna), extend in a transaction (diskcache), one write (plain
files). With no disk under it, it is what the batch costs the processor. Opening and the first batch are not measured;
afterwards the store must hold what was acknowledged.
"""

from __future__ import annotations

import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from append import RECORD_BYTES
from engines import BASELINE, ENGINES
from figures import Column, Table, median_ratio
from harness import (
    add_engines,
    chosen_engines,
    parser,
    positive,
    ram_disk,
    settings,
    show_environment,
    work_directory,
    write_json,
)
from runs import run_alone, turns

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from runs import Start

_OBJECT_KEY = "object-{:07d}"
_EVENT = "x" * (RECORD_BYTES - len(_OBJECT_KEY.format(0)))
_TABLE = Table(
    Column("where  ", "where"),
    Column("engine      ", "engine"),
    Column("records/s", "rate_per_s", ",.0f"),
    Column("x SQLite", "ratio_to_sqlite", ".2f"),
    Column("batch ms", "batch_ms", ".2f"),
)


class Job(NamedTuple):
    """What one process does."""

    engine: str
    directory: Path
    batch: int
    seconds: float


def append_for(start: Start, job: Job) -> list[float]:
    """Append batches for some seconds; return the seconds that each took."""
    engine = ENGINES[job.engine]
    engine.prepare()
    records = [(_OBJECT_KEY.format(number), _EVENT) for number in range(job.batch)]
    took_s: list[float] = []
    with engine.batcher(job.directory) as append_many:
        append_many(records)
        start()
        deadline_s = time.perf_counter() + job.seconds
        while not took_s or time.perf_counter() < deadline_s:
            before_s = time.perf_counter()
            append_many(records)
            took_s.append(time.perf_counter() - before_s)
    return took_s


def run(engine: str, directory: Path, *, batch: int, seconds: float) -> float:
    """Return the median seconds of a batch, in a new store, which is removed again."""
    ENGINES[engine].create(directory)
    took_s = run_alone(append_for, Job(engine, directory, batch, seconds))
    acknowledged, found = (len(took_s) + 1) * batch, ENGINES[engine].count(directory)
    if found != acknowledged:
        raise RuntimeError(f"{engine} acknowledged {acknowledged} records and holds {found}")
    shutil.rmtree(directory)
    return statistics.median(took_s)


def measure(directory: Path, engines: Sequence[str], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of every engine in one place."""
    took_s: dict[str, list[float]] = {name: [] for name in engines}
    for name in turns(engines, chosen.rounds):
        took_s[name].append(run(name, directory / "store", batch=chosen.batch, seconds=chosen.seconds))
    return [
        {
            "engine": name,
            "rate_per_s": chosen.batch / statistics.median(took_s[name]),
            "ratio_to_sqlite": median_ratio(took_s[BASELINE], took_s[name]),
            "batch_ms": statistics.median(took_s[name]) * 1e3,
            "all_seconds": took_s[name],
        }
        for name in engines
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    add_engines(options)
    options.add_argument("--seconds", type=positive(float), default=0.5, help="a run; default: %(default)s")
    options.add_argument("--batch", type=positive(int), default=1000, help="records; default: %(default)s")
    chosen = options.parse_args(arguments)
    parents = {"disk": chosen.directory, "RAM": ram_disk()}
    if parents["RAM"] is None:
        print("there is no RAM disk here")
        del parents["RAM"]
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
    engines = chosen_engines(chosen)
    _TABLE.head()
    results = []
    for where, parent in parents.items():
        with work_directory(parent) as directory:
            for row in measure(directory, engines, chosen):
                results.append({"where": where} | row)
                _TABLE.row(results[-1])
    write_json(chosen.json, benchmark="batch", environment=facts, engines=settings(engines), results=results)


if __name__ == "__main__":
    main()
