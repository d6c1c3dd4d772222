"""Maps beside what people use without a checkpoint: a process pool, xargs, GNU parallel with a job log.

*function*: a function that does nothing, by two worker processes; ProcessPoolExecutor.map with chunksize=1 records
nothing. *1 ms*: a function that computes for a millisecond, by as many workers as are given, against what the
processors allow. *command*: ``true``, two at a time, against xargs, and against GNU parallel with --joblog where it is
installed. *done*: a map whose items are all done already. Ours are durable, as a map is by itself. The processor's time
is that of the process and of all that it started.
"""

from __future__ import annotations

import compileall
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from figures import Column, Table, median_ratio
from harness import parser, positive, show_environment, work_directory, write_json
from runs import peak_memory_bytes, run_alone, turns

import mpcheckpoint
from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runs import Start

_JOBS = 2
_SPIN_S = 0.001
_BATCH = 1000
_LOG = "benchmark"
OURS = "mpcheckpoint"
_TABLE = Table(
    Column("work    ", "work"),
    Column("items", "items", ",d"),
    Column("workers", "workers", "d"),
    Column("who         ", "engine"),
    Column("seconds", "seconds", ",.2f"),
    Column("processor us an item", "processor_us", ",.0f"),
    Column("ours / theirs", "ratio", ".2f"),
    Column("share of the ideal", "share", ".2f"),
    Column("memory MB", "memory_mb", ",.0f"),
)


class Job(NamedTuple):
    """What one process does: ``engine`` maps so many items of ``work``."""

    work: str
    engine: str
    directory: Path
    items: int
    workers: int = _JOBS


class Took(NamedTuple):
    """What it took."""

    seconds: float
    processor_s: float
    memory_bytes: int


# --- what is mapped -------------------------------------------------------------------------------------------


def nothing(item: str) -> None:
    """Do nothing."""


def spin(item: str) -> None:
    """Use a millisecond of a processor."""
    until_s = time.thread_time() + _SPIN_S
    while time.thread_time() < until_s:
        pass


_FUNCTIONS: dict[str, Callable[[str], None]] = {"function": nothing, "1 ms": spin, "done": nothing}


def names_of(items: int) -> list[str]:
    """Return the names of so many items."""
    return [f"item-{number:07d}" for number in range(items)]


# --- one process ----------------------------------------------------------------------------------------------


def work(start: Start, job: Job) -> Took:
    """Do one job in this fresh process."""
    run = _prepared(job)
    start()
    before_s, began_s = _processor_s(), time.perf_counter()
    run()
    return Took(time.perf_counter() - began_s, _processor_s() - before_s, peak_memory_bytes())


def _prepared(job: Job) -> Callable[[], None]:
    if job.work == "command":
        # As pip leaves it: else a checkout compiles all of it at each start, where Python may not keep that.
        compileall.compile_dir(os.path.dirname(mpcheckpoint.__file__), quiet=1)
        lines = job.directory.with_name("lines")
        lines.write_text("".join(f"{name}\n" for name in names_of(job.items)))
        return partial(_run_command, _COMMANDS[job.engine](job), lines)
    function, names = _FUNCTIONS[job.work], names_of(job.items)
    return partial(_run_own if job.engine == OURS else _run_pool, job, function, names)


def _run_own(job: Job, function: Callable[[str], None], names: list[str]) -> None:
    with Checkpoint(job.directory) as checkpoint:
        outcomes = checkpoint.log(_LOG).map(function, names, jobs=job.workers)
        done = sum(outcome.ok for outcome in outcomes)
    _require(job, done)


def _run_pool(job: Job, function: Callable[[str], None], names: list[str]) -> None:
    with ProcessPoolExecutor(job.workers) as pool:
        done = sum(1 for _ in pool.map(function, names, chunksize=1))
    _require(job, done)


def _require(job: Job, done: int) -> None:
    if done != job.items:
        raise RuntimeError(f"{job.engine} did {done} of {job.items} items of {job.work!r}")


def _run_command(command: list[str], lines: Path) -> None:
    with lines.open("rb") as items:
        subprocess.run(command, stdin=items, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)


_COMMANDS: dict[str, Callable[[Job], list[str]]] = {
    OURS: lambda job: [
        *(sys.executable, "-m", "mpcheckpoint", "map", "--store", str(job.directory), "--key", _LOG),
        *("-j", str(job.workers), "--", "true", "{}"),
    ],
    "xargs": lambda job: ["xargs", f"-P{job.workers}", "-n1", "true"],
    "parallel": lambda job: [
        *("parallel", "--will-cite", f"-j{job.workers}", "--joblog", str(job.directory), "true", "{}")
    ],
}


def _processor_s() -> float:
    """Return the processor's time of this process and of all that it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


# --- all of them ----------------------------------------------------------------------------------------------


def measure(jobs: Sequence[Job], rounds: int) -> list[dict[str, Any]]:
    """Return the figures of jobs that are compared; ours is the first one."""
    took: dict[str, list[Took]] = {job.engine: [] for job in jobs}
    for job in turns(jobs, rounds):
        took[job.engine].append(run_alone(work, job))
        _remove(job.directory)
    ours_s = [each.seconds for each in took[jobs[0].engine]]
    return [_row(job, took[job.engine], ours_s) for job in jobs]


def _row(job: Job, took: Sequence[Took], ours_s: Sequence[float]) -> dict[str, Any]:
    seconds = [each.seconds for each in took]
    row = {
        "work": job.work,
        "items": job.items,
        "workers": job.workers,
        "engine": job.engine,
        "seconds": statistics.median(seconds),
        "processor_us": statistics.median(each.processor_s for each in took) / job.items * 1e6,
        "memory_mb": max(each.memory_bytes for each in took) / 1e6,
        "ratio": None if job.engine == OURS else median_ratio(ours_s, seconds),
    }
    if job.work == "1 ms":
        row["share"] = job.items * _SPIN_S / min(job.workers, os.cpu_count() or 1) / row["seconds"]
    return row


def done_already(directory: Path, items: int, rounds: int) -> dict[str, Any]:
    """Return the figures of a map whose items are all done."""
    names = names_of(items)
    with Checkpoint(directory, durability="never") as checkpoint:
        log = checkpoint.log(_LOG)
        list(log.map(nothing, names[:1], jobs=1))
        # What the first one left, under the names of the others.
        outcome = dict(log.events(names[0])[-1])
        named = [field for field, value in outcome.items() if value == names[0]]
        for at in range(1, items, _BATCH):
            log.append_many(
                [(name, outcome | dict.fromkeys(named, name)) for name in names[at : at + _BATCH]]
            )
    job = Job("done", OURS, directory, items)
    took = [run_alone(work, job) for _ in range(rounds)]
    _remove(directory)
    return _row(job, took, [each.seconds for each in took])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=5)
    number = positive(int)
    options.add_argument("--items", type=number, default=5000, help="of the function; default: %(default)s")
    options.add_argument("--commands", type=number, default=1500, help="default: %(default)s")
    options.add_argument("--done", type=number, default=1_000_000, help="done already; default: %(default)s")
    options.add_argument("--workers", type=number, default=32, help="for items of 1 ms; default: %(default)s")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as place:
        facts = show_environment(place)
        _TABLE.head()
        store = place / "store"
        peers = [name for name in _COMMANDS if name == OURS or shutil.which(name)]
        compared = [
            [Job("function", engine, store, chosen.items) for engine in (OURS, "pool")],
            [Job("1 ms", engine, store, chosen.items, chosen.workers) for engine in (OURS, "pool")],
            [Job("command", engine, store, chosen.commands) for engine in peers],
        ]
        results = [row for jobs in compared for row in _shown(measure(jobs, chosen.rounds))]
        results += _shown([done_already(store, chosen.done, chosen.rounds)])
    write_json(chosen.json, benchmark="maps", environment=facts, results=results)


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        _TABLE.row(row)
    return rows


if __name__ == "__main__":
    main()
