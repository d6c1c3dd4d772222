"""How long a fresh process takes to hold the records of a log in memory, against SQLite.

Both engines hold the same records, and both fill a dict of the same kind; what a measurement covers is opening the
store, reading everything, and what is named below; not the start of the interpreter and its imports. The files are
in the page cache.

view: object key -> list of undecoded events (JSON bytes), then the events of one object asked for.
    mpcheckpoint: Checkpoint(...)[object key], which brings the whole view up to date.
    sqlite: SELECT object_key, event ... ORDER BY id, each row put into dict[str, list[bytes]].
decoded: object key -> tuple of decoded events, for every object.
    mpcheckpoint: dict(Checkpoint(...).snapshot().items()).
    sqlite: the dict above, then the same JSON decoder on every event.

This library checks every byte against a CRC meanwhile; SQLite checks nothing. Memory is the growth of the peak resident
size while that is done. On a busy machine look at the CPU seconds: nothing here waits for a disk.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engines import BASELINE, ENGINES
from harness import (
    environment,
    line_of,
    median_ratio,
    parser,
    peak_memory_bytes,
    positive,
    run_together,
    turns,
    work_directory,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized

    from harness import Start

KINDS = ("view", "decoded")
_QUICK_RECORDS = 100_000
_OBJECT_KEY = "object-{:07d}"
_FIRST_OBJECT = _OBJECT_KEY.format(0)


class Job(NamedTuple):
    """What one process does: fill a store or load it."""

    engine: str
    directory: Path
    records: int
    events_per_object: int
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
    engine.fill(job.directory, records_of(job))
    return engine.size_bytes(job.directory)


def load(start: Start, job: Job) -> Load:
    """Load the store into this fresh process."""
    start()
    engine = ENGINES[job.engine]
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


def measure(directory: Path, *, records: int, events_per_object: int, rounds: int) -> list[dict[str, Any]]:
    """Return the figures of every engine and kind for one shape of the data."""
    jobs = {name: Job(name, directory / name, records, events_per_object) for name in ENGINES}
    sizes = {name: run_together(fill, [job])[0] for name, job in jobs.items()}
    results = []
    for kind in KINDS:
        loads: dict[str, list[Load]] = {name: [] for name in ENGINES}
        for name in turns(list(ENGINES), rounds):
            loads[name] += run_together(load, [jobs[name]._replace(kind=kind)])
        baseline = [each.seconds for each in loads[BASELINE]]
        for name, figures in loads.items():
            seconds = [each.seconds for each in figures]
            memory_bytes = statistics.median(each.memory_bytes for each in figures)
            results.append(
                {
                    "records": records,
                    "events_per_object": events_per_object,
                    "kind": kind,
                    "engine": name,
                    "seconds": statistics.median(seconds),
                    "cpu_seconds": statistics.median(each.cpu_seconds for each in figures),
                    "ratio_to_sqlite": median_ratio(
                        baseline, seconds
                    ),  # rates: above 1 is faster than SQLite
                    "memory_bytes": memory_bytes,
                    "file_bytes": sizes[name],
                    "memory_to_file": memory_bytes / sizes[name],
                    "all_seconds": seconds,
                }
            )
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--records", type=positive(int), default=1_000_000, help="default: %(default)s")
    options.add_argument(
        "--quick",
        action="store_const",
        dest="records",
        const=_QUICK_RECORDS,
        help=f"--records {_QUICK_RECORDS}",
    )
    options.add_argument("--events-per-object", type=positive(int), nargs="+", default=[1, 10], metavar="N")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = environment(directory)
        print(line_of(facts))
        results = report(directory, chosen)
    settings = {name: engine.setting for name, engine in ENGINES.items()}
    write_json(chosen.json, benchmark="replay", environment=facts, engines=settings, results=results)


def report(directory: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table, a shape of the data at a time, and return it."""
    print(f"{chosen.records:,} records, medians of {chosen.rounds} rounds; what is compared: --help")
    print(
        "\nevents/object  kind     engine        seconds    cpu s   records/s  x SQLite  "
        "memory MB  file MB  memory/file"
    )
    results = []
    for events_per_object in chosen.events_per_object:
        place = directory / str(events_per_object)
        place.mkdir()
        for row in measure(
            place, records=chosen.records, events_per_object=events_per_object, rounds=chosen.rounds
        ):
            print(
                f"{row['events_per_object']:13}  {row['kind']:7}  {row['engine']:12}  {row['seconds']:7.2f}  "
                f"{row['cpu_seconds']:7.2f}  "
                f"{row['records'] / row['seconds']:10,.0f}  {row['ratio_to_sqlite']:8.2f}  "
                f"{row['memory_bytes'] / 1e6:9,.1f}  {row['file_bytes'] / 1e6:7,.1f}  {row['memory_to_file']:11.2f}",
                flush=True,
            )
            results.append(row)
    return results


if __name__ == "__main__":
    main()
