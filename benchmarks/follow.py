"""How soon another process sees an append in ``follow``, and what waiting costs it.

One process appends, durably, with pauses between; another follows the log and notes when each record came. Latency is
from when ``append`` returned; below zero the record was seen before that, while its writer still waited for the sync.
Latency from when ``append`` was called is there too. Both processes read the same monotonic clock. Idle is the
processor time that a follower uses in a second in which nothing comes.
"""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from append import RECORD_BYTES
from figures import Column, Table, medians, quantiles
from harness import parser, positive, show_environment, work_directory, write_json
from runs import partner, run_alone

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from runs import Start

_LOG_KEY = "followed"
_OBJECT_KEY = "object-{:07d}"
_EVENT = "x" * (RECORD_BYTES - len(_OBJECT_KEY.format(0)))
_SHOWN = ("50", "95", "99")
_PATIENCE_S = 60.0
_TABLE = Table(
    Column("pause ms", "pause_ms", ".0f"),
    Column("returned to seen: p50 ms", "returned_p50_ms", ".3f"),
    *(Column(f"p{percent} ms", f"returned_p{percent}_ms", ".3f") for percent in _SHOWN[1:]),
    Column("called to seen: p50 ms", "called_p50_ms", ".3f"),
    *(Column(f"p{percent} ms", f"called_p{percent}_ms", ".3f") for percent in _SHOWN[1:]),
)


class Job(NamedTuple):
    """What a run does."""

    directory: Path
    appends: int
    pause_s: float


class Idle(NamedTuple):
    """For how long a follower waits for nothing."""

    directory: Path
    seconds: float


@contextmanager
def writer(job: Job) -> Iterator[Callable[[bool], list[tuple[float, float]]]]:
    """Append when told to; answer with the moments each append was called and returned."""
    with Checkpoint(job.directory) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        log.append("opened", None)

        def answer(begin: bool) -> list[tuple[float, float]]:
            moments = []
            for number in range(job.appends if begin else 0):
                time.sleep(job.pause_s)
                called_s = time.monotonic()
                log.append(_OBJECT_KEY.format(number), _EVENT)
                moments.append((called_s, time.monotonic()))
            return moments

        yield answer


def latencies(start: Start, job: Job) -> dict[str, dict[str, float]]:
    """Follow what another process appends; return the quantiles of both latencies, in milliseconds."""
    with Checkpoint(job.directory) as checkpoint, partner(writer, job) as appends:
        appends.ask(False)  # it is there, and will not open the log while we look
        start()
        with checkpoint.log(_LOG_KEY).follow("end", idle_timeout_s=_PATIENCE_S) as records:
            appends.send(True)
            seen_s = [time.monotonic() for _ in islice(records, job.appends)]
        moments = appends.receive()
    if len(seen_s) != len(moments):
        raise RuntimeError(f"{len(moments)} records were appended, {len(seen_s)} were seen")
    pairs = list(zip(seen_s, moments, strict=True))
    return {
        "called": quantiles([(seen - called) * 1e3 for seen, (called, _) in pairs]),
        "returned": quantiles([(seen - returned) * 1e3 for seen, (_, returned) in pairs]),
    }


def idle_share(start: Start, idle: Idle) -> float:
    """Follow a log to which nothing comes; return the processor's share that it takes, from 0 to 1."""
    with Checkpoint(idle.directory) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        log.append("before", None)
        start()
        with log.follow("end", idle_timeout_s=idle.seconds) as records:
            before_s, cpu_before_s = time.monotonic(), time.process_time()
            if next(records, None) is not None:
                raise RuntimeError("a record came that nobody wrote")
            return (time.process_time() - cpu_before_s) / (time.monotonic() - before_s)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--appends", type=positive(int), default=100, help="a run; default: %(default)s")
    options.add_argument(
        "--pause-ms",
        type=positive(float),
        nargs="+",
        default=[1, 10, 100],
        metavar="MS",
        help="between appends",
    )
    options.add_argument("--idle-s", type=positive(float), default=5.0, help="default: %(default)s")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        results = report(directory, chosen)
    write_json(chosen.json, benchmark="follow", environment=facts, results=results)


def report(directory: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table and return it."""
    _TABLE.head()
    results: list[dict[str, Any]] = []
    for pause_ms in chosen.pause_ms:
        rounds = []
        for number in range(chosen.rounds):
            place = directory / f"{pause_ms}-{number}"
            rounds.append(run_alone(latencies, Job(place, chosen.appends, pause_ms / 1e3)))
        row: dict[str, Any] = {"pause_ms": pause_ms}
        for kind in ("returned", "called"):
            spread = medians([each[kind] for each in rounds])
            row |= {f"{kind}_p{percent}_ms": spread[percent] for percent in _SHOWN}
            row[f"{kind}_quantiles_ms"] = spread
        results.append(row)
        _TABLE.row(row)
    idle = statistics.median(
        run_alone(idle_share, Idle(directory / f"idle-{number}", chosen.idle_s))
        for number in range(chosen.rounds)
    )
    print(f"\nidle: {idle:.2%} of a processor")
    return [*results, {"pause_ms": None, "idle_share": idle, "idle_s": chosen.idle_s}]


if __name__ == "__main__":
    main()
