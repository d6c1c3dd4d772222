"""The history checker on batches with conditions, and on reads of a part of an object, known to be good and bad."""

from __future__ import annotations

import pickle

import pytest

from mpcheckpoint.testing._histories.linearizability import check_history
from mpcheckpoint.testing._histories.operation import Operation
from mpcheckpoint.testing._histories.verdict import UndecidedHistoryError
from support.histories import History, accept, position, reject

# Two records at the places 10 and 20, the second of them a batch of two, as the last read of a log shows them.
XYZ = [("x", 1), ("y", 2), ("z", 3)]


def xyz() -> History:
    return History().append("x", 1, (0, 1), 10).batch([("y", 2), ("z", 3)], (2, 3), 20)


def read_at_the_end(history: History, *more: tuple[str, int]) -> History:
    return history.read([*XYZ, *more], (90, 91), [10, 19, 20, *range(30, 30 + len(more))])


GOOD = {
    "counts of objects that the batch does not append to": read_at_the_end(
        xyz().batch([("new", 4)], (4, 5), expected_counts={"x": 1, "y": 1, "none": 0}), ("new", 4)
    ),
    "counts found to hold, without a batch": xyz().batch([], (4, 5), expected_counts={"x": 1}),
    "conflict about one count of several, whichever": (
        xyz().refused_batch((4, 5), "y", 1, expected_counts={"x": 1, "y": 2, "z": 0})
    ),
    "end that is the last record": read_at_the_end(
        xyz().batch([("new", 4)], (4, 5), expected_end=position(20)), ("new", 4)
    ),
    "end that is the start": History().batch([("x", 1)], (0, 1), expected_end="start"),
    # What is after the last record and before the next one: a claim, say.
    "end that is no record": read_at_the_end(
        xyz().batch([("new", 4)], (4, 5), expected_end=position(25)), ("new", 4)
    ),
    "conflict about the end": read_at_the_end(
        xyz().refused_batch((4, 5), None, 2, expected_end=position(10))
    ),
    "conflict about an end inside a batch": read_at_the_end(
        xyz().refused_batch((4, 5), None, 1, expected_end=position(19))
    ),
    "conflict about the start": xyz().refused_batch((4, 5), None, 3, expected_end="start"),
    "conflict about either of two": read_at_the_end(
        xyz().refused_batch((4, 5), "x", 1, expected_counts={"x": 0}, expected_end=position(10))
    ),
    "batch and what breaks its condition at once": read_at_the_end(
        xyz().append("x", 5, (4, 9)).batch([("new", 4)], (5, 8), expected_end=position(20)),
        ("new", 4),
        ("x", 5),
    ),
    "batch of unknown outcome that did not happen": read_at_the_end(
        xyz().batch([("new", 4)], (4, None), expected_counts={"x": 9}, expected_end=position(10))
    ),
    # Whether it happened is told by a read of y; that it could, by the order of two appends that nobody reads.
    "batch of unknown outcome before what breaks its condition": (
        History()
        .batch([("y", 1)], (0, None), expected_counts={"x": 0})
        .append("x", 1, (0, 1))
        .events("y", [1], (4, 5))
    ),
    "events from a start on": read_at_the_end(
        xyz().events("x", [], (4, 5), start=1).events("x", [], (4, 5), start=9).count("x", 1, (4, 5))
    ),
    "last events": read_at_the_end(
        xyz()
        .last("x", [1], (4, 5))
        .last("x", [1], (4, 5), n=2)
        .last("x", [], (4, 5), n=0)
        .last("no", [], (4, 5))
    ),
    "last events of the past, beside an append": (
        History()
        .append("x", 1, (0, 1))
        .append("x", 2, (2, 9))
        .append("x", 1, (10, 11))
        .last("x", [1], (3, 4))
        .last("x", [2], (5, 6))
        .events("x", [1, 2, 1], (12, 13))
        .events("x", [2, 1], (12, 13), start=1)
    ),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("use_positions", [True, False])
def test_good_history_is_accepted(name: str, use_positions: bool) -> None:
    accept(GOOD[name], use_positions=use_positions)


BAD = {
    "batch whose count was passed": xyz().batch([("new", 4)], (4, 5), expected_counts={"x": 0}),
    "batch of which one count of several did not hold": (
        xyz().batch([("new", 4)], (4, 5), expected_counts={"x": 1, "y": 1, "z": 2})
    ),
    "counts that did not hold, without a batch": xyz().batch([], (4, 5), expected_counts={"x": 2}),
    "two batches that expected the same": (
        History()
        .batch([("a", 1), ("x", 1)], (0, 9), expected_counts={"x": 0})
        .batch([("b", 2), ("x", 2)], (1, 8), expected_counts={"x": 0})
    ),
    # Each one could be first, not both.
    "two batches that exclude each other": (
        History()
        .batch([("x", 1)], (0, 9), expected_counts={"y": 0})
        .batch([("y", 2)], (1, 8), expected_counts={"x": 0})
    ),
    "conflict without a cause": xyz().refused_batch((4, 5), "x", 2, expected_counts={"x": 1}),
    "conflict that states an older count": (
        xyz().append("x", 4, (4, 5)).refused_batch((6, 7), "x", 1, expected_counts={"x": 0})
    ),
    "conflict that states what was expected": xyz().refused_batch((4, 5), "x", 1, expected_counts={"x": 1}),
    "conflict about an object of which nothing was expected": (
        xyz().refused_batch((4, 5), "x", 1, expected_counts={"y": 2})
    ),
    "conflict about the end, of which nothing was expected": (
        xyz().refused_batch((4, 5), None, 3, expected_counts={"y": 2})
    ),
    "batch after an end that was passed": read_at_the_end(
        xyz().batch([("new", 4)], (4, 5), expected_end=position(10)), ("new", 4)
    ),
    "batch after an end inside a batch": read_at_the_end(
        xyz().batch([("new", 4)], (4, 5), expected_end=position(19)), ("new", 4)
    ),
    "batch at the start, which was passed": xyz().batch([("new", 4)], (4, 5), expected_end="start"),
    "end that was passed, without a batch": read_at_the_end(
        xyz().batch([], (4, 5), expected_end=position(10))
    ),
    "two batches that expected one end": read_at_the_end(
        xyz()
        .batch([("new", 4)], (4, 9), expected_end=position(20))
        .batch([("new", 5)], (4, 9), expected_end=position(20)),
        ("new", 4),
        ("new", 5),
    ),
    "conflict about an end that held": read_at_the_end(
        xyz().refused_batch((4, 5), None, 1, expected_end=position(20))
    ),
    "conflict about the end that states nothing": read_at_the_end(
        xyz().refused_batch((4, 5), None, 0, expected_end=position(20))
    ),
    "conflict about the end that states too little": read_at_the_end(
        xyz().refused_batch((4, 5), None, 1, expected_end=position(10))
    ),
    "batch of unknown outcome that could not be": read_at_the_end(
        xyz().batch([("new", 4)], (4, None), expected_end=position(10)), ("new", 4)
    ),
    "batch of unknown outcome whose count was passed": (
        xyz().batch([("new", 4)], (4, None), expected_counts={"x": 0}).count("new", 1, (6, 7))
    ),
    "events from a start on that are stale": read_at_the_end(xyz().events("x", [], (4, 5), start=0)),
    "events from a start on that are others": read_at_the_end(
        xyz().append("x", 4, (4, 5)).events("x", [5], (6, 7), start=1), ("x", 4)
    ),
    "no events from a start on that was passed": read_at_the_end(
        xyz().append("x", 4, (4, 5)).events("x", [], (6, 7), start=1), ("x", 4)
    ),
    "last event that is stale": read_at_the_end(
        xyz().append("x", 4, (4, 5)).last("x", [1], (6, 7)), ("x", 4)
    ),
    "last event that nobody appended": read_at_the_end(xyz().last("x", [7], (4, 5))),
    "all events as the last ones, of which one is another": xyz().last("x", [7], (4, 5), n=2),
    "fewer last events than there are": read_at_the_end(
        xyz().append("x", 4, (4, 5)).last("x", [4], (6, 7), n=2), ("x", 4)
    ),
    "more last events than were asked for": read_at_the_end(
        xyz().append("x", 4, (4, 5)).last("x", [1, 4], (6, 7)), ("x", 4)
    ),
    "positions of a read that do not rise": xyz().read(XYZ, (4, 5), [10, 20, 19]),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("use_positions", [True, False])
def test_bad_history_is_refused(name: str, use_positions: bool) -> None:
    reject(BAD[name], use_positions=use_positions)


# --- what cannot be judged ---------------------------------------------------------------------------------------

UNJUDGED = {
    "end that no read shows": xyz().batch([("new", 4)], (4, 5), expected_end=position(20)),
    "end of another log": read_at_the_end(xyz().batch([], (4, 5), expected_end=position(10, "b"))),
    "end of an older read": xyz()
    .read(XYZ[:1], (1, 2), [10])
    .batch([("x", 4)], (4, 5), expected_end=position(20)),
    "end, and a read without positions": xyz().read(XYZ, (3, 4)).batch([], (4, 5), expected_end=position(20)),
    "conflict about an end that no read shows": xyz().refused_batch(
        (4, 5), None, 1, expected_end=position(20)
    ),
    "unknown outcome and an end that no read shows": xyz().batch(
        [("x", 4)], (4, None), expected_end=position(20)
    ),
    "events from a start on that no read shows": (
        History().append("x", 1, (0, 1)).append("x", 2, (2, 3)).events("x", [2], (4, 5), start=1)
    ),
    "last event that no later read shows": (
        History().append("x", 1, (0, 9)).events("x", [1], (3, 4)).last("x", [1], (4, 5))
    ),
}


@pytest.mark.parametrize("name", UNJUDGED)
@pytest.mark.parametrize("use_positions", [True, False])
def test_answer_that_no_read_shows_is_refused_as_undecided(name: str, use_positions: bool) -> None:
    history = UNJUDGED[name]
    with pytest.raises(UndecidedHistoryError, match="Read the log whole") as caught:
        check_history(history.operations, use_positions=use_positions)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("name", UNJUDGED)
def test_what_is_wrong_beside_an_answer_that_no_read_shows_is_found(name: str) -> None:
    history = History()
    history.operations = [*UNJUDGED[name].operations]
    reject(history.count("x", 7, (80, 81)))


# --- operations ----------------------------------------------------------------------------------------------


def test_counterexample_tells_the_condition_and_what_conflicted() -> None:
    history = xyz().refused_batch((4, 5), "x", 1, expected_counts={"x": 0, "y": 1})
    history.refused_batch((5, 6), None, 3, expected_end="start").last("z", [3], (7, 8), n=2)
    history.batch([("new", 4)], (9, 10), expected_counts={"x": 2}, expected_end=position(20))
    read_at_the_end(history.events("x", [], (11, 12), start=1), ("new", 4))

    text = str(reject(history))

    for line in (
        "append_many((('new', 4),), expected_counts={'x': 2}, expected_end=20 us) -> ok",
        "it needs exactly 2 events in object 'x', and there are 1",
    ):
        assert line in text
    shown = [str(operation) for operation in history.operations]
    assert shown[2].endswith("expected_counts={'x': 0, 'y': 1}) -> conflict: there were 1 of 'x'")
    assert shown[3].endswith("expected_end='start') -> conflict: there were 3 after the expected end")
    assert shown[4].endswith("last('z', n=2) -> (3,)")
    assert shown[6].endswith("events('x', start=1) -> ()")


def test_batch_of_nothing_is_an_operation_only_on_a_condition() -> None:
    assert not Operation("p", 1, "a", "append_many", 0, expected_counts={"x": 1}).is_append
    assert not Operation("p", 1, "a", "append_many", 0, expected_end="start").is_append
    with pytest.raises(ValueError, match="appends nothing"):
        Operation("p", 1, "a", "append_many", 0)


def test_read_with_a_position_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="one position for each record"):
        History().read(XYZ, (0, 1), [10, 19])
