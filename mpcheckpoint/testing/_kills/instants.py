"""When to kill: at any time, or right after a file has changed, where a crash hurts most."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from mpcheckpoint.testing._kills.program import ProgramRun

_MOST_CHANGES = 4
_SHORTEST_SPAN_S = 0.002


def look_of(directory: str | os.PathLike[str]) -> frozenset[tuple[str, int, int, int]]:
    """Return what differs once any file below ``directory`` is created, written, renamed or removed."""
    found: set[tuple[str, int, int, int]] = set()
    to_visit = [os.fspath(directory)]
    while to_visit:
        try:
            with os.scandir(to_visit.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    found.add((entry.path, status.st_ino, status.st_size, status.st_mtime_ns))
                    if entry.is_dir(follow_symlinks=False):
                        to_visit.append(entry.path)
        except OSError:
            continue  # just removed: the next look shows it
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Pace:
    """An undisturbed run: its acknowledgements, and the time to the first, between two, and after the last."""

    acknowledgements: int
    start_s: float
    gap_s: float
    end_s: float

    @classmethod
    def of(cls, run: ProgramRun) -> Pace:
        came_s = run.came_s
        gaps_s = [later - earlier for earlier, later in pairwise(came_s)]
        typical_s = statistics.median(gaps_s) if gaps_s else 0.0
        return cls(len(came_s), came_s[0], typical_s, max(0.0, run.ended_s - came_s[-1]))


@dataclass(frozen=True, slots=True)
class Instant:
    """So many acknowledgements after the start of a run, and then a time, or a number of changes of files, later."""

    acknowledgements: int
    later_s: float
    changes: int

    @classmethod
    def choose(cls, chance: random.Random, pace: Pace, already: int) -> Instant:
        left = max(1, pace.acknowledgements - already)
        count = 0 if chance.random() < 0.25 else chance.randint(1, left)
        span_s = pace.start_s if count == 0 else pace.end_s if count == left else pace.gap_s
        span_s = max(span_s, _SHORTEST_SPAN_S)
        if chance.random() < 0.5:
            return cls(count, span_s, chance.randint(1, _MOST_CHANGES))
        return cls(count, chance.uniform(0, span_s), 0)

    def await_in(self, run: ProgramRun, store: Path, timeout_s: float) -> None:
        """Return at the instant, or when the run ends before it."""
        run.await_acknowledgements(self.acknowledgements, timeout_s)
        if self.changes == 0:
            run.pass_time(self.later_s)
            return
        deadline = time.monotonic() + self.later_s
        for _ in range(self.changes):
            before = look_of(store)
            while look_of(store) == before and time.monotonic() < deadline and not run.has_ended:
                run.pass_time(0)  # no pause: a file that has just changed is still changing

    def __str__(self) -> str:
        later = f"{self.changes} changes of a file" if self.changes else f"{self.later_s * 1000:.1f} ms"
        return f"{self.acknowledgements} acknowledgements and {later} after its start"
