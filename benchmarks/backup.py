"""A backup of a store in which nothing changed, and of one that grew a little, against copying as many bytes.

The store has some logs of events of some hundred bytes. Measured in turns, in one process: a backup right after
another one; and one after each log has grown by one part in a hundred, against a write and a sync of as many bytes.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any

from append import RECORD_BYTES
from figures import Column, Table, median_ratio
from harness import parser, positive, show_environment, work_directory, write_json

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LOGS = 8
_BATCH = 500
_PART = 100
_EVENT = {"state": "UPLOADED", "by": "x" * (RECORD_BYTES - len('{"state":"UPLOADED","by":""}'))}
_TABLE = Table(
    Column("store MB", "size_mb", ",.0f"),
    Column("first MB/s", "first_mb_per_s", ",.0f"),
    Column("unchanged ms", "unchanged_ms", ".1f"),
    Column("grown MB", "grown_mb", ".1f"),
    Column("grown ms", "grown_ms", ",.0f"),
    Column("plain copy ms", "copy_ms", ",.0f"),
    Column("backup / copy", "ratio_to_copy", ".2f"),
)


def grow(checkpoint: Checkpoint, bytes_a_log: float) -> int:
    """Append so many bytes to each log, durably; return how many that were in all."""
    grown = 0
    for number in range(_LOGS):
        log = checkpoint.log(f"log {number}")
        begin = end = log.append("begin", _EVENT).offset
        while end - begin < bytes_a_log:
            position = log.append_many([(f"object-{line:07d}", _EVENT) for line in range(_BATCH)])
            end = position.offset if position is not None else end
        grown += end - begin
    return grown


def backup_s(checkpoint: Checkpoint, place: Path, copied: int | None) -> float:
    """Return what a backup takes. RuntimeError: it did not copy about so many bytes."""
    before_s = time.perf_counter()
    done = checkpoint.backup(place)
    took_s = time.perf_counter() - before_s
    if copied is not None and abs(done.copied_bytes - copied) > copied / 10:
        raise RuntimeError(f"the backup copied {done.copied_bytes} bytes instead of {copied}")
    return took_s


def copy_s(source: Path, target: Path, size: int) -> float:
    """Return what it takes to read so many bytes, write them to another file, and sync that."""
    before_s = time.perf_counter()
    with source.open("rb") as reading, target.open("wb") as writing:
        left = size
        while left and (data := reading.read(min(left, 1 << 20))):
            writing.write(data)
            left -= len(data)
        writing.flush()
        os.fdatasync(writing.fileno())
    took_s = time.perf_counter() - before_s
    target.unlink()
    return took_s


def measure(directory: Path, *, size_mb: float, rounds: int) -> dict[str, Any]:
    """Return the figures of a store of that size."""
    store, place = directory / "store", directory / "backup"
    with Checkpoint(store) as checkpoint:
        size = grow(checkpoint, size_mb * 1e6 / _LOGS)
        first_s = backup_s(checkpoint, place, None)
        unchanged_s = [backup_s(checkpoint, place, 0) for _ in range(rounds)]
        grown_s, copies_s, grown = [], [], 0
        (source,) = (store / ".checkpoint").glob("log%200.jsonl")
        for _ in range(rounds):
            grown = grow(checkpoint, size / _PART / _LOGS)
            grown_s.append(backup_s(checkpoint, place, grown))
            copies_s.append(copy_s(source, directory / "copy", grown))
    shutil.rmtree(store)
    shutil.rmtree(place)
    return {
        "size_mb": size / 1e6,
        "first_mb_per_s": size / first_s / 1e6,
        "unchanged_ms": statistics.median(unchanged_s) * 1e3,
        "grown_mb": grown / 1e6,
        "grown_ms": statistics.median(grown_s) * 1e3,
        "copy_ms": statistics.median(copies_s) * 1e3,
        "ratio_to_copy": median_ratio(grown_s, copies_s),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=7)
    options.add_argument(
        "--size-mb",
        type=positive(float),
        nargs="+",
        default=[1000],
        metavar="MB",
        help="default: %(default)s",
    )
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        _TABLE.head()
        results = []
        for size_mb in chosen.size_mb:
            row = measure(directory, size_mb=size_mb, rounds=chosen.rounds)
            _TABLE.row(row)
            results.append(row)
    write_json(chosen.json, benchmark="backup", environment=facts, results=results)


if __name__ == "__main__":
    main()
