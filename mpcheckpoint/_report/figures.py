"""The figures of a report: counts, times, how long items took, and how many ended when."""

from __future__ import annotations

from collections import Counter
from math import ceil, floor, log10
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._report.story import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpcheckpoint._report.story import Item, Story
    from mpcheckpoint._report.timeline import Axis

_US = 1_000_000
_PARTS_A_DECADE = 8


class Counts(NamedTuple):
    """How many items and attempts there are of each kind."""

    items: int
    ok: int
    failed: int
    to_retry: int
    running: int
    killed: int
    attempts: int
    died: int
    lost: int


def counts_of(story: Story) -> Counts:
    """Count."""
    items = Counter(item.kind for item in story.items.values())
    attempts = Counter(attempt.kind for attempt in story.attempts)
    return Counts(
        items=len(story.items),
        ok=items[Kind.OK],
        failed=items[Kind.FAILED],
        to_retry=items[Kind.RETRIED],
        running=items[Kind.RUNNING],
        killed=items[Kind.LOST],
        attempts=len(story.attempts),
        died=attempts[Kind.DIED],
        lost=attempts[Kind.LOST],
    )


class Durations(NamedTuple):
    """How long items took, in seconds."""

    total_s: float
    mean_s: float
    median_s: float
    p90_s: float
    p99_s: float
    longest_s: float


def durations_of(items: Iterable[Item]) -> Durations | None:
    """Return how long the items took that have ended; None if none has."""
    took = sorted(item.duration_us for item in items if is_done(item))
    if not took:
        return None

    def at(share: float) -> float:
        return took[min(len(took) - 1, ceil(share * len(took)) - 1)] / _US  # the nearest rank

    total_s = sum(took) / _US
    return Durations(total_s, total_s / len(took), at(0.5), at(0.9), at(0.99), took[-1] / _US)


def is_done(item: Item) -> bool:
    """Return whether an item has an outcome."""
    return item.kind in (Kind.OK, Kind.FAILED)


class Histogram(NamedTuple):
    """How many items took how long: parts that grow by the same factor.

    Attributes:
        edges_s: one more than there are parts.
        ok, failed: of each part.
    """

    edges_s: list[float]
    ok: list[int]
    failed: list[int]


def histogram_of(items: Iterable[Item]) -> Histogram:
    """Divide the items that have ended by how long they took. What took less than a microsecond took one."""
    done = [(max(item.duration_us, 1), item.kind) for item in items if is_done(item)]
    if not done:
        return Histogram([], [], [])
    took = [duration_us for duration_us, _ in done]
    first = floor(log10(min(took)) * _PARTS_A_DECADE)
    last = floor(log10(max(took)) * _PARTS_A_DECADE)
    count = last - first + 1
    ok, failed = [0] * count, [0] * count
    for duration_us, kind in done:
        part = floor(log10(duration_us) * _PARTS_A_DECADE) - first
        (ok if kind is Kind.OK else failed)[part] += 1
    edges_s = [10 ** ((first + part) / _PARTS_A_DECADE) / _US for part in range(count + 1)]
    return Histogram(edges_s, ok, failed)


class Throughput(NamedTuple):
    """How many attempts ended well, and how many did not, in each part of the time that is shown."""

    part_us: float
    ok: list[int]
    failed: list[int]


def throughput_of(story: Story, axis: Axis, parts: int) -> Throughput:
    """Count what ended in each part. Attempts that were killed ended nowhere."""
    part_us = max(axis.span_us / parts, 1.0)
    ok, failed = [0] * parts, [0] * parts
    for attempt in story.attempts:
        if attempt.kind not in (Kind.LOST, Kind.RUNNING):
            part = min(int(axis.shown(attempt.ended_us) / part_us), parts - 1)
            (ok if attempt.kind is Kind.OK else failed)[part] += 1
    return Throughput(part_us, ok, failed)


def slowest(items: dict[str, Item], count: int) -> list[str]:
    """Return the object keys of the slowest items that have ended, the slowest first."""
    return _first((key for key, item in items.items() if is_done(item)), items, count)


def failed(items: dict[str, Item], count: int) -> list[str]:
    """Return the object keys of items that failed, the last one first."""
    keys = [key for key, item in items.items() if item.kind is Kind.FAILED]
    return sorted(keys, key=lambda key: -items[key].stamp_us)[:count]


def _first(keys: Iterable[str], items: dict[str, Item], count: int) -> list[str]:
    return sorted(keys, key=lambda key: -items[key].duration_us)[:count]


def chosen(items: dict[str, Item], most: int) -> Sequence[str]:
    """Return the object keys of so many items: those without a good outcome first, then the slowest; in their order."""
    if len(items) <= most:
        return list(items)
    ranked = sorted(items, key=lambda key: (items[key].kind is Kind.OK, -items[key].duration_us))
    wanted = set(ranked[:most])
    return [key for key in items if key in wanted]
