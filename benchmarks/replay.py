"""How long a fresh process takes to hold the records of a log in memory, engine against engine.

All engines hold the same records, and all fill a dict of the same kind; what a measurement covers is opening the
store, reading everything, and what is named below; not the start of the interpreter and its imports. The files are
in the page cache.

view: object key -> list of undecoded events (JSON bytes), then the events of one object asked for.
    mpcheckpoint: Checkpoint(...)[object key], which brings the whole view up to date.
    the others: each row they hand out (sqlite: SELECT object_key, event ... ORDER BY id) put into
    dict[str, list[bytes]]; optuna and the plain file have no undecoded events, so decoded ones stand there.
decoded: object key -> tuple of decoded events, for every object.
    mpcheckpoint: dict(Checkpoint(...).snapshot().items()).
    the others: the dict above, then the same JSON decoder on every event.

This library checks every byte against a CRC meanwhile; the others check nothing. Memory is the growth of the peak
resident size while that is done; what an engine maps (LMDB) counts as far as it was touched. On a busy machine look at
the CPU seconds: nothing here waits for a disk. diskcache is left out: it makes a query for each record.
"""

from __future__ import annotations

import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from engines import BASELINE, ENGINES
from figures import Column, Table, median_ratio
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
from runs import peak_memory_bytes, run_alone, turns

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence, Sized
    from pathlib import Path

    from runs import Start

KINDS = ("view", "decoded")
_QUICK_RECORDS = 100_000
_OBJECT_KEY = "object-{:07d}"
_FIRST_OBJECT = _OBJECT_KEY.format(0)
_BATCH = 1000
_TABLE = Table(
    Column("records", "records", ",d"),
    Column("events/object", "events_per_object", "d"),
    Column("kind   ", "kind"),
    Column("engine      ", "engine"),
    Column("seconds", "seconds", ".2f"),
    Column("cpu s", "cpu_seconds", ".2f"),
    Column("records/s", "rate_per_s", ",.0f"),
    Column("x SQLite", "ratio_to_sqlite", ".2f"),
    Column("memory MB", "memory_mb", ",.1f"),
    Column("file MB", "file_mb", ",.1f"),
    Column("memory/file", "memory_to_file", ".2f"),
)


class Job(NamedTuple):
    """What one process does: fill a store or load it."""

    engine: str
    directory: Path
    records: int
    events_per_object: int
    batch: int
    kind: str = ""


class Load(NamedTuple):
    """What loading took."""

    seconds: float
    cpu_seconds: float
    memory_bytes: float


def records_of(job: Job) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield small records: the first event of every object, then the second of every object, and so on."""
    objects = objects_in(job)
    for number in range(job.records):
        yield _OBJECT_KEY.format(number % objects), {"state": "UPLOADED", "try": number // objects}


def objects_in(job: Job) -> int:
    """Return the number of objects."""
    return -(-job.records // job.events_per_object)


def fill(start: Start, job: Job) -> int:
    """Make the store that is loaded, in a process of its own: the parent must stay small. Return its size."""
    start()
    engine = ENGINES[job.engine]
    engine.create(job.directory)
    engine.fill(job.directory, records_of(job), job.batch)
    return engine.size_bytes(job.directory)


def load(start: Start, job: Job) -> Load:
    """Load the store into this fresh process."""
    engine = ENGINES[job.engine]
    engine.prepare()
    start()
    memory_before_bytes = peak_memory_bytes()
    before_s, cpu_before_s = time.perf_counter(), time.process_time()
    held: Sized
    if job.kind == "view":
        held, found = engine.load_raw(job.directory, _FIRST_OBJECT)
    else:
        held = objects = engine.load_decoded(job.directory)
        found = len(objects[_FIRST_OBJECT])
    seconds, cpu_seconds = time.perf_counter() - before_s, time.process_time() - cpu_before_s
    memory_bytes = peak_memory_bytes() - memory_before_bytes
    expected = (job.records - 1) // objects_in(job) + 1, objects_in(job)
    if (found, len(held)) != expected:
        raise RuntimeError(f"{job} gave {found} events of {len(held)} objects")
    return Load(seconds, cpu_seconds, memory_bytes)


def measure(jobs: Sequence[Job], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of every kind and engine for one shape of the data."""
    sizes = {job.engine: run_alone(fill, job) for job in jobs}
    for kind in KINDS:
        loads: dict[str, list[Load]] = {job.engine: [] for job in jobs}
        for job in turns(jobs, rounds):
            loads[job.engine].append(run_alone(load, job._replace(kind=kind)))
        baseline = [each.seconds for each in loads[BASELINE]]
        for job in jobs:
            yield result_of(job, kind, loads[job.engine], baseline, sizes[job.engine])


def result_of(
    job: Job, kind: str, loads: Sequence[Load], baseline: Sequence[float], file_bytes: int
) -> dict[str, Any]:
    """Return what the rounds of one engine come to."""
    all_seconds = [each.seconds for each in loads]
    seconds = statistics.median(all_seconds)
    memory_bytes = statistics.median(each.memory_bytes for each in loads)
    return {
        "records": job.records,
        "events_per_object": job.events_per_object,
        "kind": kind,
        "engine": job.engine,
        "seconds": seconds,
        "cpu_seconds": statistics.median(each.cpu_seconds for each in loads),
        "rate_per_s": job.records / seconds,
        "ratio_to_sqlite": median_ratio(baseline, all_seconds),  # of rates: above 1 is faster than SQLite
        "memory_mb": memory_bytes / 1e6,
        "file_mb": file_bytes / 1e6,
        "memory_to_file": memory_bytes / file_bytes,
        "all_seconds": all_seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    add_engines(options, [name for name, engine in ENGINES.items() if engine.replays])
    options.add_argument("--records", type=positive(int), nargs="+", default=[1_000_000], metavar="N")
    options.add_argument(
        "--quick",
        action="store_const",
        dest="records",
        const=[_QUICK_RECORDS],
        help=f"--records {_QUICK_RECORDS}",
    )
    options.add_argument("--events-per-object", type=positive(int), nargs="+", default=[1, 10], metavar="N")
    options.add_argument(
        "--batch",
        type=positive(int),
        default=_BATCH,
        help="records that are put in at a time; default: %(default)s",
    )
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        engines = chosen_engines(chosen)
        results = report(directory, engines, chosen)
    write_json(chosen.json, benchmark="replay", environment=facts, engines=settings(engines), results=results)


def report(directory: Path, engines: Sequence[str], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table, a shape of the data at a time, and return it."""
    print(f"medians of {chosen.rounds} rounds; what is compared: --help")
    _TABLE.head()
    results = []
    for records in chosen.records:
        for events in chosen.events_per_object:
            place = directory / f"{records}-{events}"
            place.mkdir()
            jobs = [Job(name, place / name, records, events, chosen.batch) for name in engines]
            for row in measure(jobs, chosen.rounds):
                _TABLE.row(row)
                results.append(row)
            shutil.rmtree(place)
    return results


if __name__ == "__main__":
    main()
