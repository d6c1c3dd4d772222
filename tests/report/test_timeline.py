"""Where attempts stand in a timeline: lines of workers, gaps, parts."""

from __future__ import annotations

import pytest

from mpcheckpoint._report import timeline
from mpcheckpoint._report.timeline import Axis, Gap, lanes_of, shares_of
from support.map_stories import BEGIN_US, S, attempt


def test_lines_are_as_many_as_ran_at_once_and_a_worker_stays_in_its_own() -> None:
    lanes = lanes_of(
        [
            attempt(0, 10, worker="a"),
            attempt(0, 2, worker="b"),
            attempt(1, 3, worker="c"),
            attempt(4, 5, worker="c"),  # the line of b is free, too
            attempt(6, 7, worker="b"),
            attempt(6, 7, worker="d"),
            attempt(8, 9, worker=None),
        ]
    )

    assert lanes == [0, 1, 2, 2, 1, 2, 1]


def test_commands_of_which_each_has_a_worker_of_its_own_share_lines() -> None:
    attempts = [attempt(number, number + 0.9, worker=f"w{number}") for number in range(50)]

    assert set(lanes_of(attempts)) == {0}


def test_lines_above_the_most_share_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_LANES", 3)

    lanes = lanes_of(
        [*(attempt(0, 10 + number, worker=f"w{number}") for number in range(5)), attempt(20, 21)]
    )

    assert lanes == [0, 1, 2, 2, 2, 0]


def test_attempts_in_one_line_do_not_overlap() -> None:
    attempts = sorted(
        (
            attempt(number * 0.37 % 9, number * 0.37 % 9 + 1 + number % 5, worker=f"w{number % 7}")
            for number in range(99)
        ),
        key=lambda each: each.began_us,
    )
    ended: dict[int, int] = {}

    for each, lane in zip(attempts, lanes_of(attempts), strict=True):
        assert each.began_us >= ended.get(lane, 0) - 1000
        ended[lane] = each.ended_us


def test_gap_is_where_nothing_ran_and_is_shown_short() -> None:
    axis = Axis([attempt(0, 10), attempt(5, 20), attempt(20.5, 30), attempt(3630, 3640)])

    assert axis.gaps == [Gap(BEGIN_US + 30 * S, BEGIN_US + 3630 * S)]  # half a second is none
    assert axis.busy_us == round(39.5 * S)
    shown_gap_us = round(39.5 * S * 0.03)
    assert axis.span_us == 40 * S + shown_gap_us
    assert axis.shown(BEGIN_US + 20 * S) == 20 * S
    assert axis.shown(BEGIN_US + 30 * S) == 30 * S
    assert axis.shown(BEGIN_US + 3630 * S) == 30 * S + shown_gap_us
    assert axis.shown(BEGIN_US + 3635 * S) == 35 * S + shown_gap_us
    assert axis.shown(BEGIN_US - 5 * S) == 0
    assert axis.shown(BEGIN_US + 9999 * S) == axis.span_us


def test_order_of_times_is_kept_over_gaps() -> None:
    axis = Axis([attempt(number * 50, number * 50 + 7) for number in range(6)])

    shown = [axis.shown(BEGIN_US + round(at * S / 10)) for at in range(0, 2570, 3)]

    assert len(axis.gaps) == 5
    assert shown == sorted(shown)
    assert axis.pieces[0] == (0, BEGIN_US)
    assert [axis.shown(real) for _, real in axis.pieces] == [place for place, _ in axis.pieces]


@pytest.mark.parametrize("attempts", [[], [attempt(3, 3)]])
def test_axis_of_nothing_has_no_length(attempts: list[timeline.Attempt]) -> None:
    axis = Axis(attempts)

    assert (axis.span_us, axis.busy_us, axis.gaps) == (0, 0, [])
    assert axis.shown(BEGIN_US) == 0


def test_parts_say_how_busy_a_line_was_and_where_it_failed() -> None:
    first, second = shares_of([(0, 0, 25, False), (0, 30, 40, True), (1, 99, 100, False)], 2, 100, 10)

    assert first.busy == pytest.approx([1, 1, 0.5, 1, 0, 0, 0, 0, 0, 0])
    assert [number for number, is_bad in enumerate(first.is_bad) if is_bad] == [4]
    assert second.busy == pytest.approx([0] * 9 + [0.1])
