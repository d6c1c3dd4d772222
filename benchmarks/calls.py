"""How many Python calls through how many files one append takes, and one read with nothing new. Not a time: a count.

The least of some rounds counts: what is done now and then only (the page, padding) is left out.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from figures import Column, Table
from harness import parser, show_environment, work_directory, write_json

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import FrameType

_WARM = 200
_TABLE = Table(
    Column("work".ljust(36), "work"),
    Column("Python calls", "calls", "d"),
    Column("files", "files", "d"),
    Column("C calls", "c_calls", "d"),
)


class Count(NamedTuple):
    """What one call of something took."""

    calls: int
    files: int
    c_calls: int


def counted(work: Callable[[], object]) -> Count:
    """Return the calls that ``work`` makes, itself left out."""
    files: list[str] = []
    c_calls = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal c_calls
        del argument
        if event == "call":
            files.append(frame.f_code.co_filename)
        elif event == "c_call":
            c_calls += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return Count(len(files) - 1, len(set(files[1:])), c_calls - 1)


def measure(directory: Path, rounds: int) -> list[dict[str, Any]]:
    """Return the counts of each kind of work."""
    with Checkpoint(directory / "store") as checkpoint:
        log = checkpoint.log("benchmark")
        for number in range(_WARM):
            log.append("object", number)
        log.events("object")
        kinds = {
            "append, alone, durable": lambda: log.append("object", "event"),
            "events of one object, nothing new": lambda: log.events("another"),
            "count of one object, nothing new": lambda: log.count("another"),
        }
        results = []
        for work, once in kinds.items():
            once()
            least = min(counted(once) for _ in range(rounds))
            results.append({"work": work} | least._asdict())
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    chosen = parser(__doc__, rounds=40).parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = measure(directory, chosen.rounds)
    _TABLE.head()
    for row in results:
        _TABLE.row(row)
    write_json(chosen.json, benchmark="calls", environment=facts, results=results)


if __name__ == "__main__":
    main()
