"""What it costs to make a log smaller: to the log, to those who append meanwhile, and what a view of it gains.

Three works. *rate*: a log of single appends, ten an object, of which one each is kept, where no disk is under it: bytes
a second, and beside them those of a check (``mpcheckpoint verify``), in turns. *beside*: writers append durably to one
log at full speed while another process compacts it, and while nobody does, in turns: appends a second, and the longest
one. *view*: what it takes to read the log into a view, before and after. Whatever takes memory is done in a process of
its own: what one has had at most is passed on to those it starts.
"""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from append import RECORD_BYTES
from figures import Column, Table
from harness import parser, positive, ram_disk, show_environment, work_directory, write_json
from runs import partner, peak_memory_bytes, run_alone, run_together, turns
from verify import verified_s

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from runs import Start

_EVENT = "x" * (RECORD_BYTES - len("object"))
_AN_OBJECT = 10
_TABLE = Table(
    Column("work  ", "work"),
    Column("log MB", "size_mb", ",.0f"),
    Column("verify MB/s", "verify_mb_per_s", ",.0f"),
    Column("compact MB/s", "compact_mb_per_s", ",.0f"),
    Column("/ verify", "ratio_to_verify", ".2f"),
    Column("appends/s", "rate_per_s", ",.0f"),
    Column("/ alone", "ratio_to_alone", ".2f"),
    Column("longest ms", "longest_ms", ",.1f"),
    Column("beyond alone", "beyond_ms", ",.1f"),
    Column("seconds / before", "seconds_to_before", ".2f"),
    Column("memory / before", "memory_to_before", ".2f"),
)


def fill(start: Start, argument: tuple[Path, float]) -> int:
    """Make the log; return how many records it holds."""
    store, size_mb = argument
    records = int(size_mb * 1e6 / (RECORD_BYTES + 60))
    objects = max(1, records // _AN_OBJECT)
    with Checkpoint(store, durability="never") as checkpoint:
        log = checkpoint.log("benchmark")
        for number in range(records):
            log.append(f"object-{number % objects:07d}", _EVENT)
        log.flush()
    return records


# --- rate ----------------------------------------------------------------------------------------------------------


def rates_of(start: Start, argument: tuple[Path, float]) -> tuple[int, float, float]:
    """Make the log, check it, and compact it; return its length, and the bytes a second of the two, in MB."""
    store, _ = argument
    fill(start, argument)
    verified_s(store, None)
    took_s, _ = verified_s(store, None)
    with Checkpoint(store) as checkpoint:
        begun_s = time.perf_counter()
        size = checkpoint.log("benchmark").compact(keep_last=1).bytes_before
        return size, size / took_s / 1e6, size / (time.perf_counter() - begun_s) / 1e6


def measure_rate(place: Path, *, size_mb: float, rounds: int) -> dict[str, Any]:
    """Return how many bytes a second are checked, and compacted."""
    found = [run_alone(rates_of, (place / f"rate-{number}", size_mb)) for number in range(rounds)]
    return {
        "work": "rate",
        "size_mb": found[-1][0] / 1e6,
        "verify_mb_per_s": statistics.median(check for _, check, _ in found),
        "compact_mb_per_s": statistics.median(compaction for _, _, compaction in found),
        "ratio_to_verify": statistics.median(compaction / check for _, check, compaction in found),
    }


# --- beside --------------------------------------------------------------------------------------------------------


@contextmanager
def compactor(store: Path) -> Iterator[Callable[[bool], float]]:
    """Answer whether to compact with how long that took."""
    with Checkpoint(store) as checkpoint:
        log = checkpoint.log("benchmark")

        def compact(is_wanted: bool) -> float:
            begun_s = time.perf_counter()
            if is_wanted:
                log.compact(keep_last=1)
            return time.perf_counter() - begun_s

        yield compact


def appends(start: Start, argument: tuple[Path, float]) -> tuple[int, float]:
    """Append durably for so many seconds; return how many that were, and what the longest took, in seconds."""
    store, seconds = argument
    with Checkpoint(store) as checkpoint:
        log, count, longest_s = checkpoint.log("benchmark"), 0, 0.0
        log.append("object", _EVENT)
        start()
        deadline_s = time.perf_counter() + seconds
        while (begun_s := time.perf_counter()) < deadline_s:
            log.append(f"object-{count % 1000:07d}", _EVENT)
            longest_s = max(longest_s, time.perf_counter() - begun_s)
            count += 1
    return count, longest_s


def measure_beside(
    place: Path, *, size_mb: float, rounds: int, writers: int, seconds: float
) -> dict[str, Any]:
    """Return how many appends a second there are while the log is compacted, and how long the longest takes."""
    store = place / "beside"
    run_alone(fill, (store, size_mb))
    rates: dict[bool, list[float]] = {False: [], True: []}
    longest: dict[bool, list[float]] = {False: [], True: []}
    with partner(compactor, store) as other:
        for is_compacted in turns([False, True], rounds):
            other.send(is_compacted)
            found = run_together(appends, [(store, seconds)] * writers)
            other.receive()
            rates[is_compacted].append(sum(count for count, _ in found) / seconds)
            longest[is_compacted].append(max(longest_s for _, longest_s in found) * 1e3)
            if is_compacted:
                run_alone(fill, (store, size_mb))
    ratio = statistics.median(beside / alone for alone, beside in zip(rates[False], rates[True], strict=True))
    return {
        "work": "beside",
        "size_mb": size_mb,
        "writers": writers,
        "rate_per_s": statistics.median(rates[True]),
        "ratio_to_alone": ratio,
        "longest_ms": max(longest[True]),
        "beyond_ms": max(longest[True]) - max(longest[False]),
    }


# --- view ----------------------------------------------------------------------------------------------------------


def view(start: Start, store: Path) -> tuple[float, int]:
    """Read a log into a view; return what that takes, in seconds and in bytes of memory."""
    with Checkpoint(store, read_only=True) as checkpoint:
        start()
        before, begun_s = peak_memory_bytes(), time.perf_counter()
        len(checkpoint)
        return time.perf_counter() - begun_s, max(1, peak_memory_bytes() - before)


def compact(start: Start, store: Path) -> None:
    """Compact the log: one record each is kept, a tenth."""
    with Checkpoint(store) as checkpoint:
        checkpoint.log("benchmark").compact(keep_last=1)


def measure_view(place: Path, *, size_mb: float, rounds: int) -> dict[str, Any]:
    """Return what a view of the log takes after a compaction that kept a tenth, in parts of what it took before."""
    store = place / "view"
    run_alone(fill, (store, size_mb))
    before = [run_alone(view, store) for _ in range(rounds)]
    run_alone(compact, store)
    after = [run_alone(view, store) for _ in range(rounds)]
    seconds, memory = (
        statistics.median(each[figure] for each in after) / statistics.median(each[figure] for each in before)
        for figure in (0, 1)
    )
    return {"work": "view", "size_mb": size_mb, "seconds_to_before": seconds, "memory_to_before": memory}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    options.add_argument(
        "--size-mb", type=positive(float), default=200.0, help="of the log; default: %(default)s"
    )
    options.add_argument("--writers", type=positive(int), default=4, help="default: %(default)s")
    options.add_argument(
        "--seconds", type=positive(float), default=10.0, help="the writers append; default: %(default)s"
    )
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory, work_directory(ram_disk() or directory) as memory:
        facts = show_environment(directory)
        results = [
            measure_rate(memory, size_mb=chosen.size_mb, rounds=chosen.rounds),
            measure_beside(
                directory,
                size_mb=chosen.size_mb,
                rounds=chosen.rounds,
                writers=chosen.writers,
                seconds=chosen.seconds,
            ),
            measure_view(memory, size_mb=chosen.size_mb, rounds=chosen.rounds),
        ]
    _TABLE.head()
    for row in results:
        _TABLE.row(row)
    write_json(chosen.json, benchmark="compact", environment=facts, results=results)


if __name__ == "__main__":
    main()
