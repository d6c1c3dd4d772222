"""A store on PostgreSQL beside one in a directory, both on the same disk, in turns.

The server is one that this starts, set as it comes, or the one of ``--server``; then it may be on another disk, and
on another machine. *append*: durable appends of 100 bytes into one log, by one process, and by several; those of
several into the directory are without the native core. *batch*: appends of 500 records. *replay*: a new process reads
a log into its view. *messages*: round trips that a thing takes, counted in this process: they do not depend on the
machine. *a round trip*, and what one process has to wait for: what ``simulate_partitions.py`` takes. *follow*: from
when ``append`` was called to when another process has the record. *claim*: from the SIGKILL of the process that held an
object to when another one has claimed it. A ratio is one of speeds: 1 is as fast as the directory, 0.5 takes twice as
long; *flat* is that of the least that an append to a server can be (``flat.py``), with ``--flat``.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from append import RECORD_BYTES
from figures import Column, Table, median_ratio, quantiles
from flat import FLAT, FlatLog
from harness import parser, positive, show_environment, work_directory, write_json
from messages import message_counts
from runs import partner, run_alone, run_together, turns
from servers import server

from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.session import statement
from mpcheckpoint._postgres.store import PostgresStore
from mpcheckpoint.checkpoint import Checkpoint, checkpoint_on

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from runs import Start

    from mpcheckpoint import Log

_DIRECTORY, _SERVER = "directory", "postgresql"
_LOG_KEY = "benchmark"
_OBJECT_KEY = "{:03d}-{:09d}"
_EVENT = "x" * (RECORD_BYTES - len(_OBJECT_KEY.format(0, 0)))
_BATCH = 500
_PATIENCE_S = 60.0
_TABLE = Table(
    Column("work".ljust(44), "work"),
    Column("unit".ljust(10), "unit"),
    Column(_DIRECTORY, _DIRECTORY, ",.3f"),
    Column(_SERVER, _SERVER, ",.3f"),
    Column("ratio", "ratio", ".2f"),
    Column(FLAT, FLAT, ".2f"),
    Column("wanted", "wanted"),
)


class Job(NamedTuple):
    """What one process does.

    Attributes:
        place: the directory of a store, or its address.
        amount: seconds of appends, or a number of records.
        is_pure: whether without the native core.
        is_apart: see ``FlatLog``.
    """

    place: str
    process: int = 0
    amount: float = 0
    batch: int = 1
    is_pure: bool = False
    is_apart: bool = False


@contextmanager
def opened(place: str) -> Iterator[Checkpoint]:
    """Give a handle on a store, wherever it is."""
    if "://" not in place:
        with Checkpoint(place) as checkpoint:
            yield checkpoint
        return
    store = PostgresStore(Address.parse(place), create=True, read_only=False, retry_s=10)
    with checkpoint_on(store) as checkpoint:
        yield checkpoint


@contextmanager
def log_of(job: Job) -> Iterator[Log | FlatLog]:
    """Give the log of a job."""
    if job.place.startswith(FLAT):
        with closing(FlatLog(job.place.removeprefix(FLAT), is_apart=job.is_apart)) as flat:
            yield flat
        return
    with opened(job.place) as checkpoint:
        yield checkpoint.log(_LOG_KEY)


# --- what is measured --------------------------------------------------------------------------------------------


def append_for(start: Start, job: Job) -> tuple[int, float]:
    """Append for some seconds, beginning together with the others; return how many records, and how many a second."""
    if job.is_pure:
        _without_native_core()
    with log_of(job) as log:
        log.append(_OBJECT_KEY.format(job.process, 0), _EVENT)
        start()
        count = 0
        begun_s = time.perf_counter()
        while True:
            keys = [_OBJECT_KEY.format(job.process, count + number) for number in range(job.batch)]
            if job.batch == 1:
                log.append(keys[0], _EVENT)
            else:
                log.append_many([(key, _EVENT) for key in keys])
            count += job.batch
            elapsed_s = time.perf_counter() - begun_s
            if elapsed_s >= job.amount:
                return count, count / elapsed_s


def _without_native_core() -> None:
    # As engines.own.PurePython has it: the package is imported already where this process unpickles its job.
    from engines.own import PurePython  # noqa: PLC0415

    PurePython().prepare()


def rate(job: Job, processes: int) -> float:
    """Return records a second of some processes. Raises RuntimeError if a record is missing afterwards."""
    done = run_together(append_for, [job._replace(process=number) for number in range(processes)])
    with log_of(job) as log:
        held = sum(1 for _ in log.read())
    acknowledged = sum(count for count, _ in done) + processes
    if held != acknowledged:
        raise RuntimeError(f"{acknowledged} records were acknowledged, and {held} are there")
    return sum(per_s for _, per_s in done)


def fill(job: Job) -> None:
    """Append many records, in batches; how fast is not measured."""
    with opened(job.place) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        for first in range(0, int(job.amount), job.batch):
            numbers = range(first, min(first + job.batch, int(job.amount)))
            log.append_many([(_OBJECT_KEY.format(0, number), _EVENT) for number in numbers])


def replay_s(start: Start, job: Job) -> float:
    """Return how long a process takes to read a store into its view."""
    with opened(job.place) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        start()
        before_s = time.perf_counter()
        found = log.count(_OBJECT_KEY.format(0, 0))
        seconds = time.perf_counter() - before_s
        if found != 1 or len(checkpoint) != job.amount:
            raise RuntimeError(f"{job.amount} records were appended, {len(checkpoint)} are there")
        return seconds


@contextmanager
def writer(job: Job) -> Iterator[Callable[[object], list[float]]]:
    """Append when told to; answer with the moments each append was called."""
    with opened(job.place) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        log.append("opened", None)

        def answer(begin: object) -> list[float]:
            called_s = []
            for number in range(int(job.amount) if begin else 0):
                time.sleep(0.005)
                called_s.append(time.monotonic())
                log.append(_OBJECT_KEY.format(0, number), _EVENT)
            return called_s

        yield answer


def follow_ms(start: Start, job: Job) -> float:
    """Return the median from when an append was called to when another process has it."""
    with opened(job.place) as checkpoint, partner(writer, job) as appends:
        appends.ask(False)
        start()
        with checkpoint.log(_LOG_KEY).follow("end", idle_timeout_s=_PATIENCE_S) as records:
            appends.send(True)
            seen_s = [time.monotonic() for _ in islice(records, int(job.amount))]
        called_s = appends.receive()
    if len(seen_s) != len(called_s):
        raise RuntimeError(f"{len(called_s)} records were appended, {len(seen_s)} were seen")
    waits_ms = [(seen - called) * 1e3 for seen, called in zip(seen_s, called_s, strict=True)]
    return quantiles(waits_ms)["50"]


@contextmanager
def holder(job: Job) -> Iterator[Callable[[object], int]]:
    """Claim an object, for good, when asked; answer with the process."""
    with ExitStack() as held, opened(job.place) as checkpoint:

        def answer(object_key: object) -> int:
            claim = held.enter_context(checkpoint.log(_LOG_KEY).claim(str(object_key)))
            return os.getpid() if claim is not None else 0

        yield answer


def free_ms(start: Start, job: Job) -> float:
    """Return how long after the SIGKILL of its holder an object is claimed."""
    with opened(job.place) as checkpoint, partner(holder, job) as other:
        log = checkpoint.log(_LOG_KEY)
        pid = other.ask("held")
        start()
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        while True:
            with log.claim("held") as claim:
                if claim is not None:
                    return (time.monotonic() - killed_s) * 1e3
            if time.monotonic() > killed_s + _PATIENCE_S:
                raise RuntimeError(f"what a killed process held is not free after {_PATIENCE_S} s")


# --- report ------------------------------------------------------------------------------------------------------


class Places:
    """New stores, on the directory and on the server in turn."""

    def __init__(self, directory: Path, address: str) -> None:
        self._bases = {
            _DIRECTORY: f"{directory}/store",
            _SERVER: f"{address}#store",
            FLAT: f"{FLAT}{address}#store",
        }
        self._count = 0

    def new(self, engine: str) -> str:
        """Return where a store may be made."""
        self._count += 1
        return f"{self._bases[engine]}-{os.getpid()}-{self._count}"

    def compared(
        self, figure: Callable[[str, str], float], rounds: int, *, is_time: bool, flat: bool = False
    ) -> dict[str, float]:
        """Return the medians of both engines, which take turns, and the ratios of speeds; that of ``flat``, too."""
        found: dict[str, list[float]] = {_DIRECTORY: [], _SERVER: [], **({FLAT: []} if flat else {})}
        for engine in turns(list(found), rounds):
            found[engine].append(figure(engine, self.new(engine)))
        ratio = median_ratio(found[_SERVER], found[_DIRECTORY])
        result = {engine: statistics.median(found[engine]) for engine in (_DIRECTORY, _SERVER)}
        result["ratio"] = 1 / ratio if is_time else ratio
        if flat:
            result[FLAT] = median_ratio(found[FLAT], found[_DIRECTORY])
        return result


def rows(places: Places, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield each row as soon as it is measured."""

    def appends(processes: int, batch: int, *, pure: bool) -> dict[str, float]:
        def figure(engine: str, place: str) -> float:
            is_pure = pure and engine == _DIRECTORY
            job = Job(place, amount=chosen.seconds, batch=batch, is_pure=is_pure, is_apart=processes > 1)
            return rate(job, processes)

        return places.compared(figure, chosen.rounds, is_time=False, flat=chosen.flat)

    def replay(_: str, place: str) -> float:
        fill(Job(place, amount=chosen.records, batch=_BATCH))
        return run_alone(replay_s, Job(place, amount=chosen.records))

    several, per_s = chosen.processes, "records/s"
    yield {"work": "append, 1 process", "unit": per_s, **appends(1, 1, pure=False), "wanted": ">= 0.5"}
    work = f"append, {several} processes, one log / pure"
    yield {"work": work, "unit": per_s, **appends(several, 1, pure=True), "wanted": ">= 0.35"}
    work = f"batch of {_BATCH}"
    yield {"work": work, "unit": per_s, **appends(1, _BATCH, pure=False), "wanted": ">= 0.6"}
    work = f"replay of {chosen.records:,}"
    replayed = places.compared(replay, chosen.rounds, is_time=True)
    yield {"work": work, "unit": "s", **replayed, "wanted": ">= 0.8"}
    with opened(places.new(_SERVER)) as checkpoint:
        for work, count, most in message_counts(checkpoint, chosen.items):
            row = {"work": f"messages: {work}", "unit": "messages", _SERVER: count, "wanted": f"<= {most}"}
            yield row
    waits_ms = server_waits_ms(places.new(_SERVER), chosen.appends)
    for work, wait_ms in waits_ms.items():
        yield {"work": work, "unit": "ms", _SERVER: wait_ms}
    seen = places.compared(
        lambda _, place: run_alone(follow_ms, Job(place, amount=chosen.appends)), chosen.rounds, is_time=True
    )
    most_ms = 2 * seen[_DIRECTORY] + waits_ms["a round trip"]
    yield {"work": "follow: append called to seen", "unit": "ms", **seen, "wanted": f"<= {most_ms:.2f} ms"}
    free = places.compared(lambda _, place: run_alone(free_ms, Job(place)), chosen.rounds, is_time=True)
    yield {"work": "claim of a killed process: free", "unit": "ms", **free, "wanted": "<= 50 ms"}


def server_waits_ms(place: str, appends: int) -> dict[str, float]:
    """Return medians of what one process waits for: the shortest question, an append, and one that is not durable."""
    nothing = statement("nothing", "select 1")
    store = PostgresStore(Address.parse(place), create=True, read_only=False, retry_s=10)
    session = store.sessions.main.session()
    with checkpoint_on(store) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        works: dict[str, Callable[[], object]] = {
            "a round trip": lambda: session.call_one(nothing),
            "append that is not durable, alone": lambda: log.append("x", _EVENT, durability="never"),
            "append, alone": lambda: log.append("x", _EVENT),
        }
        waits_ms: dict[str, list[float]] = {work: [] for work in works}
        for work in turns(list(works), appends):
            before_s = time.perf_counter()
            works[work]()
            waits_ms[work].append((time.perf_counter() - before_s) * 1e3)
    return {work: statistics.median(each) for work, each in waits_ms.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--server", metavar="ADDRESS", help="a database; default: a server is started")
    options.add_argument("--seconds", type=positive(float), default=1.0, help="a run; default: %(default)s")
    options.add_argument("--processes", type=positive(int), default=8, help="default: %(default)s")
    options.add_argument("--records", type=positive(int), default=100_000, help="default: %(default)s")
    options.add_argument("--items", type=positive(int), default=200, help="of the map; default: %(default)s")
    options.add_argument("--appends", type=positive(int), default=200, help="followed; default: %(default)s")
    options.add_argument("--flat", action="store_true", help="appends as flat as can be beside them")
    options.add_argument("--quick", action="store_true", help="seconds; its figures mean little")
    chosen = options.parse_args(arguments)
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.records = 1, min(chosen.seconds, 0.3), min(chosen.records, 5000)
        chosen.items, chosen.appends = min(chosen.items, 20), min(chosen.appends, 20)
    results = []
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        with server(directory / "server", chosen.server) as address:
            _TABLE.head()
            for row in rows(Places(directory, address), chosen):
                _TABLE.row(row)
                results.append(row)
    write_json(chosen.json, benchmark="postgres", environment=facts, results=results)


if __name__ == "__main__":
    main()
