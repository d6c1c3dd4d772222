"""How the cost of this library grows: with the log, with the number of logs, of processes, and with the event.

One dimension grows, the others stay small. In a store of that size a fresh process does, in this order:

open: opens the store and appends one durable record, without having read anything.
append: durable appends of one event, median.
first read: reads one object for the first time, which brings the whole view into memory.
memory: the growth of the peak resident size since the process began with the store, after all of that.
refresh: reads that object again right after another process appended a record to the same log, median.

With more processes, each of them appends a record and reads an object, in turns, at the same time as all the others:
append and refresh are medians over all of them, open is the slowest one's, memory one process's.
"""

from __future__ import annotations

import shutil
import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from figures import Column, Table, medians
from harness import parser, positive, show_environment, work_directory, write_json
from runs import partner, peak_memory_bytes, run_alone, run_together

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from runs import Start

_LOG_KEY = "log-0"
_OBJECT_KEY = "object-{:07d}"
_EVENT_BYTES = 80
_RECORDS_A_LOG = 10
_BATCH_BYTES = 4_000_000
_LARGEST_FILL_BYTES = 64 << 20
_SIZES = {
    "records": [1_000, 10_000, 100_000, 1_000_000],
    "logs": [1, 10, 100, 1_000],
    "processes": [1, 2, 4, 8, 16, 32],
    "event bytes": [16, 256, 4_096, 65_536, 1 << 20],
}
_TABLE = Table(
    Column("dimension", "dimension"),
    Column("size", "size", ",d"),
    Column("log MB", "file_mb", ",.1f"),
    Column("open ms", "open_ms", ",.2f"),
    Column("append us", "append_us", ",.0f"),
    Column("refresh us", "refresh_us", ",.0f"),
    Column("first read ms", "first_read_ms", ",.1f"),
    Column("memory MB", "memory_mb", ",.1f"),
)


class Shape(NamedTuple):
    """What a store holds, and how often each thing is done with it."""

    directory: Path
    repeats: int
    logs: int = 1
    records: int = _RECORDS_A_LOG
    event_bytes: int = _EVENT_BYTES


def fill(start: Start, shape: Shape) -> float:
    """Make the store, an object of its own for each record; return the logs' size in MB."""
    start()
    event = "x" * shape.event_bytes
    batch = max(1, min(10_000, _BATCH_BYTES // shape.event_bytes))
    with Checkpoint(shape.directory, durability="never") as checkpoint:
        for number in range(shape.logs):
            log = checkpoint.log(f"log-{number}")
            base = number * shape.records
            for first in range(base, base + shape.records, batch):
                records = range(first, min(first + batch, base + shape.records))
                log.append_many([(_OBJECT_KEY.format(record), event) for record in records])
            if shape.logs == 1:
                log.flush()
    files = shape.directory.joinpath(".checkpoint").glob("*.jsonl")
    return sum(path.stat().st_size for path in files) / 1e6


@contextmanager
def appender(shape: Shape) -> Iterator[Callable[[str], object]]:
    """Append in another process when told to."""
    with Checkpoint(shape.directory, create=False) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        event = "x" * shape.event_bytes
        log.append("partner", event)
        yield lambda object_key: str(log.append(object_key, event))


def observe(start: Start, shape: Shape) -> dict[str, float]:
    """Do what is measured in this fresh process."""
    object_key, event = _OBJECT_KEY.format(0), "x" * shape.event_bytes
    with partner(appender, shape) as another:
        another.ask("partner")
        start()
        memory_bytes = peak_memory_bytes()
        before_s = time.perf_counter()
        with Checkpoint(shape.directory, create=False) as checkpoint:
            log = checkpoint.log(_LOG_KEY)
            log.append(object_key, event)
            opened_s = time.perf_counter()
            append_us = [_us(lambda: log.append(object_key, event)) for _ in range(shape.repeats)]
            first_us = _us(lambda: checkpoint[object_key])
            refresh_us = []
            for _ in range(shape.repeats):
                another.ask(object_key)
                refresh_us.append(_us(lambda: log.count(object_key)))
            if log.count(object_key) < 2 * shape.repeats + 2:
                raise RuntimeError("a record is missing")
            memory_bytes = peak_memory_bytes() - memory_bytes
    return {
        "open_ms": (opened_s - before_s) * 1e3,
        "append_us": statistics.median(append_us),
        "refresh_us": statistics.median(refresh_us),
        "first_read_ms": first_us / 1e3,
        "memory_mb": memory_bytes / 1e6,
    }


def take_part(start: Start, shape: Shape) -> dict[str, Any]:
    """Append and read in turns, beginning together with the other processes."""
    memory_bytes = peak_memory_bytes()
    start()
    before_s = time.perf_counter()
    with Checkpoint(shape.directory, create=False) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        log.append("begun", "x" * shape.event_bytes)
        opened_s = time.perf_counter()
        first_us = _us(lambda: checkpoint["begun"])
        append_us, refresh_us = [], []
        for _ in range(shape.repeats):
            append_us.append(_us(lambda: log.append("shared", "x" * shape.event_bytes)))
            refresh_us.append(_us(lambda: log.count("shared")))
        return {
            "open_ms": (opened_s - before_s) * 1e3,
            "append_us": append_us,
            "refresh_us": refresh_us,
            "first_read_ms": first_us / 1e3,
            "memory_mb": (peak_memory_bytes() - memory_bytes) / 1e6,
        }


def observe_together(shape: Shape, processes: int) -> dict[str, float]:
    """Return the figures of several processes at once."""
    done = run_together(take_part, [shape] * processes)
    with Checkpoint(shape.directory, create=False) as checkpoint:
        if checkpoint.log(_LOG_KEY).count("shared") != processes * shape.repeats:
            raise RuntimeError("a record is missing")
    return {
        "open_ms": max(each["open_ms"] for each in done),
        "append_us": statistics.median(us for each in done for us in each["append_us"]),
        "refresh_us": statistics.median(us for each in done for us in each["refresh_us"]),
        "first_read_ms": statistics.median(each["first_read_ms"] for each in done),
        "memory_mb": statistics.median(each["memory_mb"] for each in done),
    }


def _us(work: Callable[[], object]) -> float:
    before_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - before_ns) / 1e3


def measure(directory: Path, dimension: str, size: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the medians over the rounds of one point."""
    place = directory / "store"
    shape = Shape(place, chosen.repeats)
    if dimension == "records":
        shape = shape._replace(records=size)
    elif dimension == "logs":
        shape = shape._replace(logs=size)
    elif dimension == "event bytes":
        few = max(1, min(1000, _LARGEST_FILL_BYTES // size))
        shape = shape._replace(event_bytes=size, records=few, repeats=max(3, min(chosen.repeats, few)))
    rounds = []
    file_mb = run_alone(fill, shape)
    for number in range(chosen.rounds):
        if dimension == "processes":
            if number:
                shutil.rmtree(place)
                run_alone(fill, shape)
            rounds.append(observe_together(shape, size))
        else:
            rounds.append(run_alone(observe, shape))
    shutil.rmtree(place)
    return {"dimension": dimension, "size": size, "file_mb": file_mb} | medians(rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=1)
    options.add_argument(
        "--repeats", type=positive(int), default=50, help="appends, reads; default: %(default)s"
    )
    for dimension, sizes in _SIZES.items():
        options.add_argument(
            f"--{dimension.replace(' ', '-')}", default=sizes, metavar="N", nargs="*", type=positive(int)
        )
    options.add_argument(
        "--full",
        action="store_true",
        help="also 10,000,000 records and 10,000 logs: minutes, and gigabytes of memory",
    )
    chosen = options.parse_args(arguments)
    if chosen.full:
        chosen.records = [*chosen.records, 10_000_000]
        chosen.logs = [*chosen.logs, 10_000]
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = report(directory, chosen)
    write_json(chosen.json, benchmark="growth", environment=facts, results=results)


def report(directory: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table and return it."""
    _TABLE.head()
    results = []
    for dimension in _SIZES:
        for size in getattr(chosen, dimension.replace(" ", "_")):
            results.append(measure(directory, dimension, size, chosen))
            _TABLE.row(results[-1])
    return results


if __name__ == "__main__":
    main()
