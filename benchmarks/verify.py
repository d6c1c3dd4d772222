"""A check of a log, every byte of it, against what zlib's crc alone takes for the same bytes.

``mpcheckpoint verify`` proves each line: its length, its crc, its fields, its place, and every byte of its JSON. The
log has events of some hundred bytes, appended in batches of the size that is given, and lies where no disk is under
it; the crc is told of the file's bytes in memory. Both are measured in turns, in one process.
"""

from __future__ import annotations

import shutil
import statistics
import time
import zlib
from typing import TYPE_CHECKING, Any

from append import RECORD_BYTES
from figures import Column, Table, median_ratio
from harness import parser, positive, ram_disk, show_environment, work_directory, write_json

from mpcheckpoint import Checkpoint
from mpcheckpoint.maintenance import verify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_OBJECT_KEY = "object-{:07d}"
_EVENT = {"state": "UPLOADED", "by": ""}
_OF_EVENT = len('{"state":"UPLOADED","by":""}')
_OBJECTS = 1000
_TABLE = Table(
    Column("records a batch", "batch", ",d"),
    Column("log MB", "size_mb", ",.0f"),
    Column("line bytes", "line_bytes", ".0f"),
    Column("verify MB/s", "verify_mb_per_s", ",.0f"),
    Column("zlib's crc MB/s", "crc_mb_per_s", ",.0f"),
    Column("verify / crc", "ratio_to_crc", ".2f"),
)


def fill(store: Path, size_mb: float, batch: int) -> Path:
    """Make the log; return its file."""
    event = _EVENT | {"by": "x" * (RECORD_BYTES - _OF_EVENT)}
    records = [(_OBJECT_KEY.format(number), event) for number in range(_OBJECTS)]
    with Checkpoint(store, durability="never") as checkpoint:
        log, at, end = checkpoint.log("benchmark"), 0, 0
        while end < size_mb * 1e6:
            position = log.append_many([records[(at + number) % _OBJECTS] for number in range(batch)])
            at, end = at + batch, position.offset if position is not None else end
    (file,) = (store / ".checkpoint").glob("*.jsonl")
    return file


def verified_s(store: Path, records: int | None) -> tuple[float, int]:
    """Return what a check takes, and how many records it found. RuntimeError: something is wrong with the log."""
    before_s = time.perf_counter()
    (check,) = verify(store)
    took_s = time.perf_counter() - before_s
    if check.state != "whole" or (records is not None and check.records != records):
        raise RuntimeError(f"the log is {check.state}, with {check.records} records instead of {records}")
    return took_s, check.records


def crc_s(data: bytes) -> float:
    """Return what the crc takes."""
    before_s = time.perf_counter()
    zlib.crc32(data)
    return time.perf_counter() - before_s


def measure(store: Path, *, batch: int, size_mb: float, rounds: int) -> dict[str, Any]:
    """Return the figures of a log of such batches."""
    data = fill(store, size_mb, batch).read_bytes()
    _, records = verified_s(store, None)
    checks_s, crcs_s = [], []
    for _ in range(rounds):
        crcs_s.append(crc_s(data))
        checks_s.append(verified_s(store, records)[0])
    shutil.rmtree(store)
    size = len(data)
    return {
        "batch": batch,
        "size_mb": size / 1e6,
        "line_bytes": size / records,
        "verify_mb_per_s": size / statistics.median(checks_s) / 1e6,
        "crc_mb_per_s": size / statistics.median(crcs_s) / 1e6,
        "ratio_to_crc": median_ratio(crcs_s, checks_s),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=11)
    options.add_argument(
        "--size-mb", type=positive(float), default=200, metavar="MB", help="default: %(default)s"
    )
    options.add_argument("--batch", type=positive(int), nargs="+", default=[1, 100], metavar="RECORDS")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory or ram_disk()) as directory:
        facts = show_environment(directory)
        _TABLE.head()
        results = []
        for batch in chosen.batch:
            row = measure(directory / "store", batch=batch, size_mb=chosen.size_mb, rounds=chosen.rounds)
            _TABLE.row(row)
            results.append(row)
    write_json(chosen.json, benchmark="verify", environment=facts, results=results)


if __name__ == "__main__":
    main()
