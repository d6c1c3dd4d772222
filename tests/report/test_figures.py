"""What a report reckons: counts, how long items took, how many ended when, and which have room."""

from __future__ import annotations

import pytest

from mpcheckpoint._report.figures import (
    chosen,
    counts_of,
    durations_of,
    failed,
    histogram_of,
    slowest,
    throughput_of,
)
from mpcheckpoint._report.story import Item, Kind, Story
from mpcheckpoint._report.timeline import Axis
from support.map_stories import BEGIN_US, S, attempt, many


def item(took_us: int, kind: Kind = Kind.OK, stamp_us: int = 1) -> Item:
    return Item(kind, BEGIN_US, took_us, 1, 1, None, "", stamp_us)


def test_durations_are_of_items_that_ended_by_the_nearest_rank() -> None:
    took = durations_of([*(item(number * S) for number in range(1, 101)), item(999 * S, Kind.RUNNING)])

    assert took is not None
    assert (took.median_s, took.p90_s, took.p99_s, took.longest_s) == (50, 90, 99, 100)
    assert (took.total_s, took.mean_s) == (5050, 50.5)
    assert durations_of([item(5, Kind.RETRIED)]) is None


def test_histogram_holds_every_item_that_ended_once() -> None:
    items = [
        *(item(0), item(1), item(999), item(1000), item(10**7, Kind.FAILED), item(10**7)),
        item(7, Kind.LOST),
    ]

    found = histogram_of(items)

    assert (sum(found.ok), sum(found.failed)) == (5, 1)
    assert len(found.edges_s) == len(found.ok) + 1
    assert found.edges_s[0] == pytest.approx(1e-6)
    assert found.failed[-1] == 1
    assert found.edges_s[-2] <= 10 < found.edges_s[-1]
    assert histogram_of([]).ok == []


def test_throughput_counts_each_attempt_that_ended_where_it_ended() -> None:
    attempts = [
        attempt(0, 1),
        attempt(0, 10, Kind.FAILED),
        attempt(4, 5, Kind.RETRIED),
        attempt(5, 5, Kind.LOST),
        attempt(5, 10, Kind.RUNNING),
    ]
    story = Story("k", [], attempts, {}, {}, 0, None)

    rate = throughput_of(story, Axis(attempts), 10)

    assert rate.part_us == S
    assert rate.ok == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert rate.failed == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_counts_tell_items_from_attempts() -> None:
    story = many(100)
    story.attempts.append(attempt(0, 0, Kind.LOST))
    story.attempts.append(attempt(0, 1, Kind.DIED))

    counts = counts_of(story)

    assert (counts.items, counts.ok, counts.failed, counts.attempts) == (100, 98, 2, 102)
    assert (counts.lost, counts.died, counts.killed) == (1, 1, 0)


def test_lists_are_in_their_order_and_items_that_failed_have_room_first() -> None:
    items = {
        "quick": item(1),
        "slow": item(100),
        "failed late": item(2, Kind.FAILED, stamp_us=9),
        "failed early": item(3, Kind.FAILED, stamp_us=8),
        "runs": item(500, Kind.RUNNING, stamp_us=0),
        "slower": item(200),
    }

    assert slowest(items, 3) == ["slower", "slow", "failed early"]
    assert failed(items, 9) == ["failed late", "failed early"]
    assert chosen(items, 6) == list(items)
    assert chosen(items, 4) == ["failed late", "failed early", "runs", "slower"]
