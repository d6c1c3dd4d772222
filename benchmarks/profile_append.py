"""What the time of ONE durable append is made of: one process, one log, 100-byte records.

Every function of mpcheckpoint._system that an append calls is wrapped in a timer, and so are the two that encode. What
the timers cost is measured on a function that does nothing and taken off: what falls inside a timer from the part, what
falls outside from the rest. "other Python" is what no timer covers.

Each figure is the mean over the middle half of the appends, ordered by their total: parts then add up to the total,
and the few appends that something else on the machine interrupted do not count. "without timers" are appends of the
same log, in turns with the timed ones, and "bare" is a loop that only writes lines of the same length to a file and
syncs it. All of it is done on the disk and again in /dev/shm.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from append import RECORD_BYTES
from harness import parser, positive, ram_disk, show_environment, work_directory, write_json

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile import opened
from mpcheckpoint._view import log_handle as record_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mpcheckpoint import Log

PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "sync": ((system, "sync_data"),),
    "write": ((system, "write_at"),),
    "read": ((system, "read_at"),),
    "stat": ((system, "stat_path"), (system, "stat_fd"), (system, "size_of"), (system, "exists")),
    "lock": ((system, "lock"),),
    "unlock": ((system, "unlock"),),
    "clock": ((system, "now_us"),),
    "encode": ((record_log, "encode_payload"), (opened, "encode_batch")),
}
_REST = "other Python"
_TURN = 50
_CALIBRATION_CALLS = 20_000
_OBJECT_KEY = "object-0000001"
_EVENT = "x" * (RECORD_BYTES - len(_OBJECT_KEY))


class Sample(NamedTuple):
    """One append: how long it took, and how long and how often each part of it."""

    total_s: float
    parts_s: dict[str, float]
    calls: dict[str, int]


class Timers:
    """Add up, while installed, the time that goes into each part. The parts do not call each other."""

    def __init__(self) -> None:
        self.parts_s = dict.fromkeys(PARTS, 0.0)
        self.calls = dict.fromkeys(PARTS, 0)
        self._originals = [
            (owner, name, getattr(owner, name)) for functions in PARTS.values() for owner, name in functions
        ]
        self.inside_s, self.outside_s = self._overhead()

    def __enter__(self) -> None:
        for part, functions in PARTS.items():
            for owner, name in functions:
                setattr(owner, name, self._timed(part, getattr(owner, name)))

    def __exit__(self, *error: object) -> None:
        for owner, name, function in self._originals:
            setattr(owner, name, function)

    def sample(self, work: Callable[[], object]) -> Sample:
        """Return what one call of ``work`` took, the timers' own cost taken off."""
        for part in PARTS:
            self.parts_s[part], self.calls[part] = 0.0, 0
        before_s = time.perf_counter()
        work()
        total_s = time.perf_counter() - before_s
        calls = sum(self.calls.values())
        return Sample(
            total_s - calls * (self.inside_s + self.outside_s),
            {part: self.parts_s[part] - self.calls[part] * self.inside_s for part in PARTS},
            dict(self.calls),
        )

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock, parts_s, calls = time.perf_counter, self.parts_s, self.calls

        def timed(*args: Any, **kwargs: Any) -> Any:
            before_s = clock()
            try:
                return function(*args, **kwargs)
            finally:
                parts_s[part] += clock() - before_s
                calls[part] += 1

        return timed

    def _overhead(self) -> tuple[float, float]:
        """Return what a timer adds to a call, in seconds: inside what it measures, and outside."""
        part = next(iter(PARTS))

        def nothing(*args: object) -> None:
            return None

        def per_call_s(function: Callable[..., None]) -> float:
            before_s = time.perf_counter()
            for _ in range(_CALIBRATION_CALLS):
                function(0, b"", 0)
            return (time.perf_counter() - before_s) / _CALIBRATION_CALLS

        plain_s, timed_s, inside_s = [], [], []
        for _ in range(5):
            self.parts_s[part] = 0.0
            plain_s.append(per_call_s(nothing))
            timed_s.append(per_call_s(self._timed(part, nothing)))
            inside_s.append(self.parts_s[part] / _CALIBRATION_CALLS)
        inside = max(0.0, min(inside_s) - min(plain_s))
        return inside, min(timed_s) - min(plain_s) - inside


def middle_half(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples without the quickest and the slowest quarter."""
    ordered = sorted(samples, key=lambda sample: sample.total_s)
    quarter = len(ordered) // 4
    return ordered[quarter : len(ordered) - quarter]


def mean_us(seconds: Iterator[float]) -> float:
    """Return the mean, in microseconds."""
    return statistics.mean(seconds) * 1e6


def bare_append(directory: Path, line_bytes: int) -> Callable[[], None]:
    """Return what appends a line to a file and syncs it, and does nothing else."""
    line = b"x" * (line_bytes - 1) + b"\n"
    descriptor = system.open_file(str(directory / "bare"), write=True, create=True)
    end = 0

    def append() -> None:
        nonlocal end
        end += os.pwrite(descriptor.fd, line, end)
        system.sync_data(descriptor.fd)

    return append


def profile(directory: Path, *, appends: int, rounds: int) -> dict[str, Any]:
    """Return the breakdown of an append in a new store below ``directory``."""
    with Checkpoint(directory / "store") as checkpoint:
        log = checkpoint.log("benchmark")
        first_end = log.append(_OBJECT_KEY, _EVENT).offset
        line_bytes = log.append(_OBJECT_KEY, _EVENT).offset - first_end
        timed, plain, bare = sampled(log, bare_append(directory, line_bytes), rounds * appends)
    chosen = middle_half(timed)
    total_us = mean_us(sample.total_s for sample in chosen)
    rows: list[dict[str, Any]] = [
        {
            "part": part,
            "calls": statistics.mean(sample.calls[part] for sample in chosen),
            "us": mean_us(sample.parts_s[part] for sample in chosen),
        }
        for part in PARTS
    ]
    rows.append({"part": _REST, "calls": None, "us": total_us - sum(row["us"] for row in rows)})
    return {
        "directory": str(directory.parent),
        "total_us": total_us,
        "parts": rows,
        "without_timers_us": mean_us(sample.total_s for sample in middle_half(plain)),
        "bare_us": mean_us(sample.total_s for sample in middle_half(bare)),
        "line_bytes": line_bytes,
    }


def sampled(
    log: Log, bare: Callable[[], None], appends: int
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Return samples of timed appends, of appends without timers, and of bare ones, taken in turns."""

    def one() -> None:
        log.append(_OBJECT_KEY, _EVENT)

    timers = Timers()
    timed: list[Sample] = []
    plain: list[Sample] = []
    bares: list[Sample] = []
    while len(timed) < appends:
        with timers:
            timed += [timers.sample(one) for _ in range(_TURN)]
        plain += [timers.sample(one) for _ in range(_TURN)]
        bares += [timers.sample(bare) for _ in range(_TURN)]
    return timed, plain, bares


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--appends", type=positive(int), default=2000, help="a round; default: %(default)s")
    chosen = options.parse_args(arguments)
    results = []
    for parent in dict.fromkeys([chosen.directory or Path.cwd(), ram_disk() or Path.cwd()]):
        with work_directory(parent) as directory:
            facts = show_environment(directory)
            result = profile(directory, appends=chosen.appends, rounds=chosen.rounds)
        show(result)
        results.append(result | {"environment": facts})
    write_json(chosen.json, benchmark="profile_append", results=results)


def show(result: dict[str, Any]) -> None:
    """Print one breakdown as a table."""
    total_us = result["total_us"]
    print(f"\n{'':14}  calls        us       %")
    for row in result["parts"]:
        calls = "" if row["calls"] is None else f"{row['calls']:.2f}"
        print(f"{row['part']:14}  {calls:>5}  {row['us']:8.1f}  {row['us'] / total_us:6.1%}")
    print(f"{'one append':14}  {'':5}  {total_us:8.1f}  {1:6.1%}")
    print(f"without timers {result['without_timers_us']:.1f} us")
    print(
        f"bare write and sync of a line, {result['line_bytes']} bytes: {result['bare_us']:.1f} us\n",
        flush=True,
    )


if __name__ == "__main__":
    main()
