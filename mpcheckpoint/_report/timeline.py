"""Attempts on a time axis: which worker's line each is in, and the gaps in which nothing ran, cut short."""

from __future__ import annotations

from bisect import bisect_right
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._report.story import Attempt

_US = 1_000_000
# A pause is a gap if it is longer than this, and than this share of the time in which something ran.
_GAP_US = 1 * _US
_GAP_SHARE = 0.02
# It is shown no longer than this share.
_SHOWN_SHARE = 0.03
# More lines are no picture any more: what runs besides shares the last one.
MOST_LANES = 200
# A stamp may be this much ahead of the clock that measured how long an item took.
_SLACK_US = 1000


class Gap(NamedTuple):
    """A time in which nothing ran."""

    from_us: int
    to_us: int


class Axis:
    """Time without the length of gaps: what is shown is continuous, what is real jumps at each gap.

    Attributes:
        gaps: the gaps, in order.
        span_us: how long all is, as it is shown.
        busy_us: for how long something ran.
        pieces: the ends of straight pieces, as pairs of shown and real time.
    """

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        busy = _busy(attempts)
        self.busy_us = sum(end - begin for begin, end in busy)
        least_us = max(_GAP_US, round(self.busy_us * _GAP_SHARE))
        most_us = max(1, round(self.busy_us * _SHOWN_SHARE))
        self.begin_us, self.end_us = (busy[0][0], busy[-1][1]) if busy else (0, 0)
        self.gaps = [
            Gap(before[1], after[0]) for before, after in pairwise(busy) if after[0] - before[1] >= least_us
        ]
        self.pieces = [(0, self.begin_us)]
        for gap in self.gaps:
            shown, real = self.pieces[-1]
            shown += gap.from_us - real
            self.pieces += [(shown, gap.from_us), (shown + min(gap.to_us - gap.from_us, most_us), gap.to_us)]
        shown, real = self.pieces[-1]
        self.span_us = shown + self.end_us - real
        self.pieces.append((self.span_us, self.end_us))
        self._reals = [real for _, real in self.pieces]

    def shown(self, real_us: int) -> int:
        """Return where a time is shown."""
        if not self.gaps:  # the usual case
            return min(max(real_us - self.begin_us, 0), self.span_us)
        index = min(max(bisect_right(self._reals, real_us) - 1, 0), len(self.pieces) - 2)
        (shown, real), (next_shown, next_real) = self.pieces[index : index + 2]
        if next_real == real:
            return shown
        share = min(max((real_us - real) / (next_real - real), 0.0), 1.0)
        return round(shown + share * (next_shown - shown))


def _busy(attempts: Sequence[Attempt]) -> list[tuple[int, int]]:
    """Return the times in which something ran, in order and apart."""
    busy: list[tuple[int, int]] = []
    for begin, end in sorted((attempt.began_us, attempt.ended_us) for attempt in attempts):
        if busy and begin <= busy[-1][1]:
            busy[-1] = busy[-1][0], max(busy[-1][1], end)
        else:
            busy.append((begin, end))
    return busy


def lanes_of(attempts: Sequence[Attempt]) -> list[int]:
    """Return the line of each attempt; ``attempts`` are in the order of their beginning.

    A worker stays in its line as long as that is free. Each command has a worker of its own, and takes the first line
    that is free. So there are as many lines as ran at once.
    """
    lanes: list[int] = []
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    of_worker: dict[str, int] = {}
    count = 0
    for attempt in attempts:
        while busy and busy[0][0] <= attempt.began_us + _SLACK_US:
            heappush(free, heappop(busy)[1])
        wanted = None if attempt.worker is None else of_worker.get(attempt.worker)
        if wanted is not None and wanted in free:
            free.remove(wanted)  # few lines, so a list is quick
            free.sort()
            lane = wanted
        elif free:
            lane = heappop(free)
        elif count < MOST_LANES:
            lane, count = count, count + 1
        else:
            lanes.append(MOST_LANES - 1)
            continue
        if attempt.worker is not None:
            of_worker[attempt.worker] = lane
        heappush(busy, (attempt.ended_us, lane))
        lanes.append(lane)
    return lanes


class Share(NamedTuple):
    """One line, divided into equal parts: how much of each was busy, and whether something failed there."""

    busy: list[float]
    is_bad: list[bool]


def shares_of(
    bars: Sequence[tuple[int, int, int, bool]], lanes: int, span_us: int, parts: int
) -> list[Share]:
    """Return the lines, divided, of bars: line, begin and end as shown, and whether it failed."""
    width = max(span_us / parts, 1e-9)
    shares = [Share([0.0] * parts, [False] * parts) for _ in range(lanes)]
    for lane, begin, end, is_bad in bars:
        share = shares[lane]
        first, last = (min(int(place / width), parts - 1) for place in (begin, end))
        share.is_bad[last] |= is_bad
        if first == last:
            share.busy[first] += (end - begin) / width
            continue
        share.busy[first] += first + 1 - begin / width
        share.busy[last] += end / width - last
        for part in range(first + 1, last):
            share.busy[part] = 1.0
    return shares
