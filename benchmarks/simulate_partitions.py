"""A simulation, not a measurement: many clients append to stores that are divided over several databases by log.

Each client picks a log at random, waits for its append, thinks, and begins again. A log is in one database: the one of
its number. An append there takes, in this order:

1. half a round trip;
2. a processor of the server, for ``--parse-us``: the message, parsed and bound;
3. the lock on the log, first come first served, and with it a processor for ``--locked-us``;
4. a sync of the server's write-ahead log, which covers all that were written before it began, for ``--sync-us``;
5. half a round trip.

So the engine does it where many append at once: the lock is free before the sync. All times are constants but the
time to think, which is random; one seed, one result. What they are on a machine, ``postgres.py`` measures:
``--round-trip-us`` is its "a round trip" between your machines, ``--locked-us`` at most its "append that is not
durable, alone" without a round trip, ``--sync-us`` what "append, alone" takes beyond that. The defaults are of one
machine with a slow disk, and rounded.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from figures import Column, Table, quantiles
from harness import positive, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TABLE = Table(
    Column("databases", "databases", "d"),
    Column("logs", "logs", "d"),
    Column("appends/s", "rate_per_s", ",.0f"),
    Column("x one", "ratio_to_one", ".2f"),
    Column("p50 ms", "p50_ms", ",.1f"),
    Column("p99 ms", "p99_ms", ",.1f"),
    Column("appends a sync", "appends_a_sync", ",.1f"),
    Column("processors busy", "busy", ".2f"),
)


class Times(NamedTuple):
    """How long each step takes, in seconds."""

    round_trip_s: float
    parse_s: float
    locked_s: float
    sync_s: float


class Clock:
    """What happens when: events in the order of their times; of the same time, in the order they were added."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Have something happen in so many seconds."""
        heapq.heappush(self._events, (self.now_s + seconds, next(self._numbers), event))

    def run(self, until_s: float) -> None:
        """Let happen what happens until then."""
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, event = heapq.heappop(self._events)
            event()


class Places:
    """Something that so many have at a time: processors, a lock. Others wait in the order in which they came."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, then: Callable[[], None]) -> None:
        """Go on with ``then`` once there is a place, which is to be given back."""
        if self._free:
            self._free -= 1
            then()
        else:
            self._waiting.append(then)

    def give_back(self) -> None:
        """Let the next one have the place."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class Database:
    """One server with one database."""

    def __init__(self, clock: Clock, times: Times, processors: int) -> None:
        self.syncs = self.appends = 0
        self.busy_s = 0.0
        self._clock = clock
        self._times = times
        self._processors = Places(processors)
        self._heads: dict[int, Places] = {}
        self._unsynced: list[Callable[[], None]] = []
        self._is_syncing = False

    def append(self, log: int, then: Callable[[], None]) -> None:
        """Append to a log; go on with ``then`` once it is durable."""
        head = self._heads.setdefault(log, Places(1))

        def written() -> None:
            head.give_back()
            self.appends += 1
            self._unsynced.append(then)
            if not self._is_syncing:
                self._sync()

        def parsed() -> None:
            head.take(lambda: self._run(self._times.locked_s, written))

        self._run(self._times.parse_s, parsed)

    def _run(self, seconds: float, then: Callable[[], None]) -> None:
        def done() -> None:
            self._processors.give_back()
            then()

        def begun() -> None:
            self.busy_s += seconds
            self._clock.after(seconds, done)

        self._processors.take(begun)

    def _sync(self) -> None:
        covered, self._unsynced = self._unsynced, []
        self._is_syncing = True

        def synced() -> None:
            self.syncs += 1
            self._is_syncing = False
            for then in covered:
                then()
            if self._unsynced and not self._is_syncing:
                self._sync()

        self._clock.after(self._times.sync_s, synced)


def simulate(
    times: Times,
    *,
    databases: int,
    logs: int,
    clients: int,
    think_s: float,
    processors: int,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Return throughput and latency. The first fifth of the time does not count: queues fill there."""
    chance, clock = random.Random(seed), Clock()
    places = [Database(clock, times, processors) for _ in range(databases)]
    begin_s, latencies_s = seconds / 5, list[float]()

    def think() -> None:
        clock.after(chance.expovariate(1 / think_s), ask)

    def ask() -> None:
        asked_s, log = clock.now_s, chance.randrange(logs)

        def answered() -> None:
            if clock.now_s >= begin_s:
                latencies_s.append(clock.now_s - asked_s)
            think()

        def arrive() -> None:
            places[log % databases].append(log, lambda: clock.after(times.round_trip_s / 2, answered))

        clock.after(times.round_trip_s / 2, arrive)

    for _ in range(clients):
        think()
    clock.run(seconds)
    appends, syncs = sum(each.appends for each in places), sum(each.syncs for each in places)
    spread_ms = quantiles([latency_s * 1e3 for latency_s in latencies_s] or [0.0])
    return {
        "databases": databases,
        "logs": logs,
        "rate_per_s": len(latencies_s) / (seconds - begin_s),
        "p50_ms": spread_ms["50"],
        "p99_ms": spread_ms["99"],
        "appends_a_sync": appends / max(1, syncs),
        "busy": sum(each.busy_s for each in places) / (seconds * processors * databases),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the simulation from the command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole, real = positive(int), positive(float)
    options.add_argument("--clients", type=whole, default=1000, help="default: %(default)s")
    options.add_argument("--databases", type=whole, nargs="+", default=[1, 2, 4, 8, 16], metavar="N")
    options.add_argument("--logs", type=whole, nargs="+", default=[1, 64, 1024], metavar="N", help="in all")
    options.add_argument("--think-ms", type=real, default=10.0, help="mean; default: %(default)s")
    options.add_argument("--processors", type=whole, default=4, help="of a server; default: %(default)s")
    options.add_argument("--round-trip-us", type=real, default=500.0, help="default: %(default)s")
    options.add_argument("--parse-us", type=real, default=50.0, help="default: %(default)s")
    options.add_argument("--locked-us", type=real, default=200.0, help="default: %(default)s")
    options.add_argument("--sync-us", type=real, default=2000.0, help="default: %(default)s")
    options.add_argument("--seconds", type=real, default=2.0, help="simulated; default: %(default)s")
    options.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    chosen = options.parse_args(arguments)
    parts = (chosen.round_trip_us, chosen.parse_us, chosen.locked_us, chosen.sync_us)
    times = Times(*(part / 1e6 for part in parts))
    _TABLE.head()
    results = []
    for logs in chosen.logs:
        one_per_s = None
        for databases in chosen.databases:
            row = simulate(
                times,
                databases=databases,
                logs=logs,
                clients=chosen.clients,
                think_s=chosen.think_ms / 1e3,
                processors=chosen.processors,
                seconds=chosen.seconds,
                seed=chosen.seed,
            )
            one_per_s = row["rate_per_s"] if one_per_s is None else one_per_s
            row["ratio_to_one"] = row["rate_per_s"] / one_per_s if one_per_s else None
            _TABLE.row(row)
            results.append(row)
    write_json(chosen.json, benchmark="simulate_partitions", results=results)


if __name__ == "__main__":
    main()
