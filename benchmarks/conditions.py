"""Appends on a condition: what they cost the processor for objects of few events and of many, which should be the same.

Without syncs, so that what is measured is not the disk.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from harness import parser, positive, show_environment, work_directory, write_json
from runs import run_alone, turns

from mpcheckpoint import Checkpoint, Log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runs import Start

_OBJECT_KEY = "object"
_EVENT = {"name": "Deposited", "amount": 100, "currency": "EUR"}
_PART = 1000


class Appends:
    """One append on a condition, in each of the ways there are."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.end = log.append_many([(_OBJECT_KEY, _EVENT)])

    def expected_count(self) -> None:
        """By ``append``."""
        self.log.append(_OBJECT_KEY, _EVENT, expected_count=self.log.count(_OBJECT_KEY))

    def expected_counts(self) -> None:
        """By ``append_many``."""
        counts = {_OBJECT_KEY: self.log.count(_OBJECT_KEY), "other": 0}
        self.log.append_many([(_OBJECT_KEY, _EVENT)], expected_counts=counts)

    def expected_end(self) -> None:
        """By ``append_many``."""
        self.end = self.log.append_many([(_OBJECT_KEY, _EVENT)], expected_end=self.end)

    def transaction_count(self) -> None:
        """By a transaction that counts."""
        with self.log.transaction() as transaction:
            transaction.append(_OBJECT_KEY, {**_EVENT, "number": transaction.count(_OBJECT_KEY)})

    def transaction_last(self) -> None:
        """By a transaction that reads the last event."""
        with self.log.transaction() as transaction:
            transaction.append(_OBJECT_KEY, transaction.last(_OBJECT_KEY)[0])

    def transaction_events(self) -> None:
        """By a transaction that reads all events: this one is to grow."""
        with self.log.transaction() as transaction:
            transaction.append(_OBJECT_KEY, transaction.events(_OBJECT_KEY)[-1])


WAYS = [name for name in vars(Appends) if not name.startswith("_")]


class Job(NamedTuple):
    """Appends of one way to an object of so many events."""

    directory: Path
    way: str
    events: int
    appends: int


def append_to(start: Start, job: Job) -> dict[str, float]:
    """Return how much processor time an append takes, in microseconds."""
    with Checkpoint(job.directory, durability="never") as checkpoint:
        log = checkpoint.log("a")
        for begun in range(0, job.events, _PART):
            log.append_many([(_OBJECT_KEY, _EVENT)] * min(_PART, job.events - begun))
        act = getattr(Appends(log), job.way)
        act()
        start()
        before_s = time.process_time()
        for _ in range(job.appends):
            act()
        taken_s = time.process_time() - before_s
        if log.count(_OBJECT_KEY) != job.events + job.appends + 2:
            raise RuntimeError("the store holds something else")
    return {"us": taken_s * 1e6 / job.appends}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--appends", type=positive(int), default=300, metavar="N")
    options.add_argument("--events", type=positive(int), nargs=2, default=[10, 10_000], metavar="N")
    chosen = options.parse_args(arguments)
    few, many = chosen.events
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        found: dict[tuple[str, int], list[float]] = {
            (way, events): [] for way in WAYS for events in (few, many)
        }
        for number, (way, events) in enumerate(turns(list(found), chosen.rounds)):
            job = Job(directory / str(number), way, events, chosen.appends)
            found[way, events].append(run_alone(append_to, job)["us"])
    results: list[dict[str, Any]] = []
    print(f"processor of an append, us   {few:>8,} {many:>8,} events")
    for way in WAYS:
        short_us, long_us = median(found[way, few]), median(found[way, many])
        results.append({"way": way, "few_us": short_us, "many_us": long_us, "ratio": long_us / short_us})
        print(f"{way:28} {short_us:8.1f} {long_us:8.1f} {long_us / short_us:8.2f} x")
    write_json(chosen.json, benchmark="conditions", environment=facts, results=results)


if __name__ == "__main__":
    main()
