"""What a reader costs a writer: durable appends of one process, alone and beside a process that looks every 0.5 ms.

In turns, on one log. The reader asks for an object of which there is nothing, so that each look only has to find out
what is new.
"""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from append import RECORD_BYTES
from figures import Column, Table
from harness import parser, positive, show_environment, work_directory, write_json
from runs import partner, turns

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_PAUSE_S = 0.0005
_EVENT = "x" * (RECORD_BYTES - len("object"))
_TABLE = Table(
    Column("reader         ", "reader"),
    Column("append p50 us", "p50_us", ",.1f"),
    Column("/ alone", "ratio", ".2f"),
)


@contextmanager
def reader(directory: Path) -> Iterator[Callable[[float], int]]:
    """Answer a number of seconds with how often the log was looked at in that time."""
    with Checkpoint(directory, read_only=True, create=False) as checkpoint:

        def look(seconds: float) -> int:
            log, looks = checkpoint.log("benchmark"), 0
            deadline_s = time.perf_counter() + seconds
            while time.perf_counter() < deadline_s:
                log.events("nothing")
                looks += 1
                time.sleep(_PAUSE_S)
            return looks

        yield look


def appends_us(directory: Path, seconds: float) -> list[float]:
    """Return what each of the appends took that were made in so many seconds."""
    with Checkpoint(directory) as checkpoint:
        log = checkpoint.log("benchmark")
        took_us: list[float] = []
        deadline_s = time.perf_counter() + seconds
        while time.perf_counter() < deadline_s:
            before_ns = time.perf_counter_ns()
            log.append("object", _EVENT)
            took_us.append((time.perf_counter_ns() - before_ns) / 1e3)
    return took_us


def measure(directory: Path, *, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the figures: alone, and beside a reader."""
    store = directory / "store"
    Checkpoint(store).log("benchmark").append("object", _EVENT)
    medians: dict[bool, list[float]] = {False: [], True: []}
    with partner(reader, store) as other:
        other.ask(0.1)
        for is_read in turns([False, True], rounds):
            if is_read:
                other.send(seconds)
            medians[is_read].append(statistics.median(appends_us(store, seconds)))
            if is_read and not other.receive():
                raise RuntimeError("the reader did not look")
    ratio = statistics.median(
        beside / alone for alone, beside in zip(medians[False], medians[True], strict=True)
    )
    return [
        {"reader": "none", "p50_us": statistics.median(medians[False]), "ratio": 1.0},
        {"reader": "every 0.5 ms", "p50_us": statistics.median(medians[True]), "ratio": ratio},
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=7)
    options.add_argument("--seconds", type=positive(float), default=1.0, help="a run; default: %(default)s")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = measure(directory, rounds=chosen.rounds, seconds=chosen.seconds)
    _TABLE.head()
    for row in results:
        _TABLE.row(row)
    write_json(chosen.json, benchmark="beside", environment=facts, results=results)


if __name__ == "__main__":
    main()
