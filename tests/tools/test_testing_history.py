"""The history checker, on histories known to be good and bad, and against one that tries every order."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpcheckpoint.testing._histories.linearizability import check_history
from mpcheckpoint.testing._histories.operation import Operation
from mpcheckpoint.testing._histories.verdict import NotLinearizableError, UndecidedHistoryError
from support.histories import (
    History,
    Model,
    accept,
    changed,
    good_history,
    is_explained,
    position,
    reject,
    without_positions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


# --- histories known to be good ------------------------------------------------------------------------------


def test_history_of_nothing_is_linearizable() -> None:
    assert check_history([]).operations == 0


def test_history_one_after_the_other_is_linearizable_and_summed_up() -> None:
    history = History().append("x", 1, (0, 1)).append("x", 2, (2, 3), expected_count=1).count("x", 2, (4, 5))
    history.conflict("x", 3, (6, 7), expected=1, found=2).batch([("x", 3), ("y", 4)], (8, 9))
    history.events("x", [1, 2, 3], (10, 11)).read([("x", 1), ("x", 2), ("x", 3), ("y", 4)], (12, 13))
    history.append("z", 1, (14, None)).events("z", [], (15, None))

    summary = check_history([*history.operations, *History("b").count("x", 0, (0, 1)).operations])

    assert (summary.operations, summary.unknown, summary.logs, summary.processes) == (9, 1, 2, 9)


@pytest.mark.parametrize("seen", [[], [1]])
def test_read_beside_an_append_may_see_it_or_not(seen: list[int]) -> None:
    accept(History().append("x", 1, (0, 10)).events("x", seen, (2, 8)))


def test_operations_that_touch_at_one_instant_are_concurrent() -> None:
    accept(History().append("x", 1, (0, 5)).events("x", [], (5, 9)))
    reject(History().append("x", 1, (0, 4)).events("x", [], (5, 9)))


def test_reads_beside_a_long_append_tell_its_instant() -> None:
    accept(History().append("x", 1, (0, 100)).events("x", [], (10, 20)).events("x", [1], (30, 40)))


def test_appends_are_ordered_by_what_a_later_read_tells() -> None:
    appends = [(f"e{number}", number) for number in range(7)]
    history = History().read([("x", event) for event, _ in reversed(appends)], (200, 201))
    for event, start in appends:
        history.append("x", event, (start, 100))
    accept(history)


def test_append_of_unknown_outcome_may_happen_late_or_never() -> None:
    accept(History().append("x", 1, (0, None)).events("x", [], (10, 20)).events("x", [1], (30, 40)))
    accept(History().append("x", 1, (0, None)).events("x", [], (10, 20)).events("x", [], (30, 40)))


def test_retry_with_the_same_record_id_writes_once() -> None:
    history = (
        History().append("x", 1, (0, None), record_id="r").append("x", 1, (5, 6), place=1, record_id="r")
    )
    accept(history.append("x", 1, (7, 8), place=1, record_id="r", expected_count=0).count("x", 1, (9, 10)))


def test_refused_append_has_not_happened() -> None:
    refused = Operation("p", 1, "a", "append", 0, 1, "refused", records=(("x", 1),))
    reads = History().events("x", [1], (2, 3)).operations
    assert check_history([refused]).operations == 0
    with pytest.raises(NotLinearizableError):
        check_history([refused, *reads])


def test_logs_are_judged_each_by_itself() -> None:
    accept(History("a").append("x", 1, (0, 1), place=9))
    operations = History("a").append("x", 1, (0, 1), place=9).operations
    check_history([*operations, *History("b").append("x", 1, (2, 3), place=1).operations])


# --- histories known to be bad -------------------------------------------------------------------------------

BAD = {
    "stale read": History().append("x", 1, (0, 1)).events("x", [], (2, 3)),
    "stale count": History().append("x", 1, (0, 1)).count("x", 0, (2, 3)),
    "stale read of the whole log": History().append("x", 1, (0, 1)).read([], (2, 3)),
    "record that nobody appended": History().events("x", [1], (0, 1)),
    "read of an append that had not begun": History().events("x", [1], (0, 1)).append("x", 1, (2, 3)),
    "lost append": History().append("x", 1, (0, 3)).append("x", 2, (0, 3)).events("x", [2], (5, 6)),
    "record twice": History().append("x", 1, (0, 1)).events("x", [1, 1], (2, 3)),
    "other value": History().append("x", 1, (0, 1)).events("x", [1.0], (2, 3)),
    "value that Python calls equal": History().append("x", 1, (0, 1)).events("x", [True], (2, 3)),
    "record of another object": History().append("x", 1, (0, 1)).events("y", [1], (2, 3)),
    "lost update": (
        History().append("x", 1, (0, 9), expected_count=0).append("x", 2, (1, 8), expected_count=0)
    ),
    "conflict without a cause": History().conflict("x", 2, (1, 8), expected=0, found=1),
    "conflict that states what was expected": (
        History().append("x", 1, (0, 1)).conflict("x", 2, (2, 3), expected=1, found=1)
    ),
    "conflict that states an older count": (
        History().append("x", 1, (0, 1)).append("x", 2, (2, 3)).conflict("x", 3, (4, 5), expected=0, found=1)
    ),
    "success after the count was passed": (
        History().append("x", 1, (0, 1)).append("x", 2, (2, 3)).append("x", 3, (4, 5), expected_count=1)
    ),
    "reads that go back in time": (
        History().append("x", 1, (0, 100)).events("x", [1], (10, 20)).events("x", [], (30, 40))
    ),
    "counts that go back in time": (
        History().append("x", 1, (0, 100)).count("x", 1, (10, 20)).count("x", 0, (30, 40))
    ),
    "appends seen in opposite orders": (
        History()
        .append("x", 1, (0, 100))
        .append("x", 2, (0, 100))
        .events("x", [1, 2], (90, 100))
        .events("x", [2, 1], (90, 100))
    ),
    # Two objects, each of them linearizable by itself: the log is not.
    "objects seen in opposite orders": (
        History()
        .append("x", 1, (0, 100))
        .append("y", 2, (0, 100))
        .count("x", 1, (10, 20))
        .count("y", 0, (30, 40))
        .count("y", 1, (11, 21))
        .count("x", 0, (31, 41))
    ),
    "order other than that of the calls": (
        History().append("x", 1, (0, 1)).append("x", 2, (2, 3)).events("x", [2, 1], (4, 5))
    ),
    "read of the whole log against that of an object": (
        History()
        .append("x", 1, (0, 9))
        .append("x", 2, (0, 9))
        .events("x", [1, 2], (10, 11))
        .read([("x", 2), ("x", 1)], (12, 13))
    ),
    "batch seen in part": History().batch([("x", 1), ("x", 2)], (0, 100)).events("x", [1], (10, 20)),
    "batch over two objects seen in part": (
        History().batch([("x", 1), ("y", 2)], (0, 100)).count("x", 1, (10, 20)).count("y", 0, (30, 40))
    ),
    "batch with another record inside": (
        History().batch([("x", 1), ("x", 3)], (0, 9)).append("x", 2, (0, 9)).events("x", [1, 2, 3], (10, 11))
    ),
    "unknown append seen and later not": (
        History().append("x", 1, (0, None)).events("x", [1], (10, 20)).events("x", [], (30, 40))
    ),
    "unknown append seen before it began": (
        History().events("x", [1], (0, 1)).append("x", 1, (5, None)).events("x", [1], (10, 20))
    ),
    "unknown append that happened twice": (
        History().append("x", 1, (0, None)).events("x", [1, 1], (10, 20)).count("x", 2, (30, 40))
    ),
    "unknown conditional append that could not be": (
        History().append("x", 0, (0, 1)).append("x", 1, (2, None), expected_count=0).count("x", 2, (5, 6))
    ),
    "retry with the same record id written twice": (
        History()
        .append("x", 1, (0, 1), record_id="r")
        .append("x", 1, (2, 3), record_id="r")
        .count("x", 2, (4, 5))
    ),
    "conflict of a retry that was there": (
        History()
        .append("x", 1, (0, 1), record_id="r")
        .conflict("x", 1, (2, 3), expected=0, found=1, record_id="r")
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("use_positions", [True, False])
def test_bad_history_is_refused(name: str, use_positions: bool) -> None:
    reject(BAD[name], use_positions=use_positions)


@pytest.mark.parametrize("name", BAD)
def test_bad_history_is_refused_by_trying_every_order(name: str) -> None:
    assert not is_explained(BAD[name].operations, use_positions=False)


BAD_POSITIONS = {
    "against the order of the calls": History()
    .append("x", 1, (0, 1), place=2)
    .append("x", 2, (2, 3), place=1),
    "against what was read": (
        History()
        .append("x", 1, (0, 9), place=2)
        .append("x", 2, (0, 9), place=1)
        .events("x", [1, 2], (10, 11))
    ),
    "of two records at one place": (
        History().append("x", 1, (0, 1), place=1).append("x", 2, (2, 3), place=1)
    ),
    "of two ids at one place": (
        History()
        .append("x", 1, (0, 1), place=1, record_id="r")
        .append("x", 1, (2, 3), place=1, record_id="s")
    ),
    "of one id at two places": (
        History()
        .append("x", 1, (0, 1), place=1, record_id="r")
        .append("x", 1, (2, 3), place=2, record_id="r")
    ),
}


@pytest.mark.parametrize("name", BAD_POSITIONS)
def test_positions_that_contradict_are_refused_only_if_asked_for(name: str) -> None:
    reject(BAD_POSITIONS[name])
    accept(BAD_POSITIONS[name], use_positions=False)


# --- counterexamples -----------------------------------------------------------------------------------------


def test_counterexample_tells_what_does_not_fit_and_why() -> None:
    history = (
        History().append("x", "first", (1_000_000, 2_000_000)).append("x", "second", (2_500_000, 2_600_000))
    )
    history.append("x", "third", (2_700_000, None)).events("x", ["first"], (3_000_000, 4_500_000))

    error = reject(history)

    assert error.log_key == "a"
    assert error.operation == history.operations[3]
    assert error.ordered == tuple(history.operations[:2])
    assert error.unordered == (history.operations[2],)
    assert str(error).splitlines() == [
        "log 'a' is not linearizable: no order of its operations explains",
        "  [2.000 .. 3.500 ms] p4 #4: events('x') -> ('first',)",
        "    it needs exactly 1 event in object 'x', and there are 2",
        (
            "2 operations can be put in an order that explains what returned before; "
            "the last 2 of the 2 that concern the same:"
        ),
        "  [0.000 .. 1.000 ms] p1 #1: append('x', 'first') -> ok",
        "  [1.500 .. 1.600 ms] p2 #2: append('x', 'second') -> ok",
        "Others that had been called by then:",
        "  [1.700 .. never ms] p3 #3: append('x', 'third') -> unknown",
        "    it could come next, and would not help",
    ]


def test_counterexample_stops_at_the_first_return_without_explanation() -> None:
    history = History().append("x", 1, (0, 1)).events("x", [], (2, 3))
    for number in range(10, 100, 2):
        history.append("x", number, (number, number + 1))
    error = reject(history)
    assert error.operation == history.operations[1]
    assert len(str(error).splitlines()) < 10


def test_counterexample_of_a_long_history_is_short() -> None:
    history = good_history(random.Random(1), 3000)
    history.append("x", "end", (10**9, 10**9 + 1)).count("x", 0, (10**9 + 2, 10**9 + 3))
    text = str(reject(history))
    assert len(text.splitlines()) < 40
    assert max(map(len, text.splitlines())) < 500


def test_counterexample_of_positions_says_that_it_is_about_them() -> None:
    assert "all but the positions" in str(reject(BAD_POSITIONS["against what was read"]))


def test_counterexample_crosses_processes() -> None:
    error = reject(BAD["stale read"])
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, AssertionError)
    assert (str(again), again.operation, again.ordered) == (str(error), error.operation, error.ordered)


def test_history_with_too_many_orders_is_undecided_not_endless() -> None:
    history = History()
    for number in range(30):
        history.append("x", number, (number, 1000))
    history.count("x", 31, (0, 2000))
    with pytest.raises(UndecidedHistoryError, match="1000 states"):
        check_history(history.operations, most_states=1000)


def test_operation_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        Operation("p", 1, "a", "count", 0, 1, "unknown")
    with pytest.raises(ValueError, match="unknown"):
        Operation("p", 1, "a", "count", 0, None, "ok", result=0)
    with pytest.raises(ValueError, match="appends nothing"):
        Operation("p", 1, "a", "append", 0)
    with pytest.raises(ValueError, match="before it started"):
        Operation("p", 1, "a", "count", 2, 1, "ok", result=0)


# --- against one that tries every order -------------------------------------------------------------------------


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Batches, most of them on a condition."""
    condition: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "expected_counts": st.dictionaries(st.sampled_from("xy"), st.integers(0, 2), min_size=1),
                "expected_end": st.just("start") | st.integers(1, 4).map(position),
            },
        )
    )
    records = st.lists(
        st.tuples(st.sampled_from("xy"), st.integers(0, 1)), min_size=not condition, max_size=2
    )
    return {"records": tuple(draw(records)), **condition}


@st.composite
def small_histories(draw: st.DrawFn) -> list[Operation]:
    """Histories of up to six operations, as some order would have answered; then one answer is changed, or none."""
    model = Model()
    operations: list[Operation] = []
    for number in range(draw(st.integers(1, 5))):
        object_key = draw(st.sampled_from("xy"))
        instant = number * 10
        start_ns = instant - draw(st.integers(0, 30))
        end_ns = instant + draw(st.integers(0, 30))
        kind = draw(
            st.sampled_from(["append", "append", *["append_many"] * 3, "events", "last", "count", "read"])
        )
        given: dict[str, Any] = {"object_key": object_key}
        if kind == "append":
            given = {
                "records": ((object_key, draw(st.integers(0, 1))),),
                "expected_count": draw(st.none() | st.integers(0, 2)),
                "record_id": draw(st.none() | st.just("r")),
            }
        elif kind == "append_many":
            given = draw(batches())
        elif kind == "events":
            given["start"] = draw(st.integers(0, 2))
        elif kind == "last":
            given["n"] = draw(st.integers(0, 2))
        operation = Operation("p", number, "a", kind, start_ns, **given)
        is_unknown = draw(st.integers(0, 5)) == 0
        if is_unknown and draw(st.booleans()):
            operations.append(operation)  # it has not happened
            continue
        answer = model.do(operation)
        if not is_unknown:
            operation = replace(operation, end_ns=end_ns, **answer)
            if operation.is_append and operation.outcome == "ok" and draw(st.booleans()):
                operation = replace(operation, result=None)
        operations.append(operation)
    if draw(st.integers(0, 2)):
        whole = Operation("p", 9, "a", "read", 1000)
        operations.append(replace(whole, end_ns=1001, **model.do(whole)))
    return draw(st.sampled_from([operations, *changed(operations)]))


def is_accepted(operations: Sequence[Operation], *, use_positions: bool) -> bool | None:
    """Return the verdict; None if it is undecided."""
    try:
        check_history(operations, use_positions=use_positions)
    except NotLinearizableError:
        return False
    except UndecidedHistoryError:
        return None
    return True


def test_checker_agrees_with_one_that_tries_every_order() -> None:
    verdicts: Counter[tuple[bool | None, bool]] = Counter()

    @settings(max_examples=500)
    @given(operations=small_histories(), use_positions=st.booleans())
    def compare(operations: list[Operation], use_positions: bool) -> None:
        verdict = is_accepted(operations, use_positions=use_positions)
        if verdict is not None:
            assert verdict == is_explained(operations, use_positions=use_positions)
        verdicts[verdict, use_positions] += 1

    compare()

    undecided = verdicts.pop((None, True), 0) + verdicts.pop((None, False), 0)
    assert undecided < 100
    assert len(verdicts) == 4
    assert min(verdicts.values()) > 25


# --- generated histories -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_good_history_is_accepted_and_refused_once_an_answer_is_changed(seed: int) -> None:
    chance = random.Random(seed)
    operations = good_history(chance, 300).operations
    check_history(operations)
    check_history(without_positions(operations))
    check_history(without_positions(good_history(chance, 300, is_read=False).operations))

    refused = 0
    changes = list(changed(operations))
    for change in chance.sample(changes, 20):
        refused += is_accepted(change, use_positions=True) is False
    assert refused > 12


@pytest.mark.parametrize(("has_positions", "is_read_at_the_end"), [(True, True), (False, False)])
def test_long_history_of_many_processes_is_decided(has_positions: bool, is_read_at_the_end: bool) -> None:
    operations = good_history(random.Random(5), 10_000, is_read=is_read_at_the_end).operations
    if not has_positions:
        operations = without_positions(operations)

    assert check_history(operations).operations > 9_900

    index = len(operations) - 500
    stale = next(each for each in operations[index:] if each.kind == "events")
    operations[operations.index(stale)] = replace(stale, result=stale.result[:-2])
    with pytest.raises(NotLinearizableError):
        check_history(operations)
