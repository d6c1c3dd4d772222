"""What the benchmarks share: options, fair turns, processes that begin together, statistics, the report.

A figure is a median over rounds. Within a round the engines take turns, so that whatever else the machine does hits
all of them alike, and engines are compared by their ratio within a round, never by absolute figures of different runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import platform
import resource
import sqlite3
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, TypeVar

import mpcheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.synchronize import Barrier

    Start = Callable[[], object]

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_START_TIMEOUT_S = 120.0
_MOUNTS = Path("/proc/self/mountinfo")


# --- options and report ------------------------------------------------------------------------------------


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=positive(int), default=rounds, help="default: %(default)s")
    options.add_argument(
        "--directory", type=directory, help="where; default: a temporary one in the current one"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    return options


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return what turns an option into a number above zero."""

    def parse(text: str) -> float:
        number = kind(text)
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return number

    return parse


def directory(text: str) -> Path:
    """Turn an option into a directory that exists."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {text}")
    return path


@contextmanager
def work_directory(parent: Path | None) -> Iterator[Path]:
    """Give a fresh directory below ``parent`` or the current directory, and remove it afterwards."""
    source = source_digest()
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=parent or Path.cwd()) as name:
        yield Path(name)
    if source_digest() != source:
        print("the package was changed during the run: some figures are the old code's", file=sys.stderr)


def source_digest() -> str:
    """Return what tells one state of the package's source from another: processes started later import it anew."""
    digest = hashlib.sha256()
    for path in sorted(Path(mpcheckpoint.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def environment(path: Path) -> dict[str, str]:
    """Return what a figure depends on: machine, file system of ``path``, versions."""
    return {
        "cpus": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": file_system_of(path),
        "python": platform.python_version(),
        "mpcheckpoint": f"{mpcheckpoint.__version__} ({source_digest()})",
        "sqlite": sqlite3.sqlite_version,
        "msgspec": version("msgspec"),
        "portalocker": version("portalocker"),
    }


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds ``path``, or "unknown"."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return "unknown"
    return next(
        (line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == number), "unknown"
    )


def line_of(facts: Mapping[str, str]) -> str:
    """Return the environment as one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def write_json(path: Path | None, **report: object) -> None:
    """Write a report, and the command that repeats it, if ``--json`` was given."""
    if path is not None:
        command = ["python", *sys.argv]
        path.write_text(json.dumps({"command": command, **report}, indent=2) + "\n", encoding="utf-8")


# --- runs --------------------------------------------------------------------------------------------------


def turns(engines: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield the engines in turn, in every other round backwards: who comes first has no lasting advantage."""
    for number in range(rounds):
        yield from engines if number % 2 == 0 else reversed(engines)


def run_together(work: Callable[[Start, Argument], Result], arguments: Sequence[Argument]) -> list[Result]:
    """Call ``work(start, argument)`` in a fresh process for each argument and return the results.

    ``work`` prepares, calls ``start``, which returns in all processes at once, and then does what is measured.

    Raises:
        What ``work`` raised in any of them.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(arguments), timeout=_START_TIMEOUT_S)
    # Invariant: each call has a process of its own, since none returns before all have reached the barrier.
    with ProcessPoolExecutor(
        len(arguments), mp_context=context, initializer=_keep, initargs=(barrier,)
    ) as pool:
        futures = [pool.submit(_call, work, argument) for argument in arguments]
        errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, BrokenBarrierError))  # the cause, not its echo
    return [future.result() for future in futures]


_barriers: list[Barrier] = []


def _keep(barrier: Barrier) -> None:
    _barriers.append(barrier)  # a barrier reaches a child when that is started, never later


def _call(work: Callable[[Start, Argument], Result], argument: Argument) -> Result:
    barrier = _barriers[-1]
    try:
        return work(barrier.wait, argument)
    except BaseException:
        barrier.abort()  # the others need not wait for us
        raise


def peak_memory_bytes() -> int:
    """Return the most memory this process has had resident.

    Requires: its parent stayed small. Linux passes the parent's peak on to a spawned child.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# --- statistics --------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` per cent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median of the ratios, each within its round; not the ratio of the medians."""
    return statistics.median(value / base for value, base in zip(values, baseline, strict=True))
