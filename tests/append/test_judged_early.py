"""Conditions that are judged before the append lock is taken: what they say is taken if nothing was appended since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import _system as system
from mpcheckpoint._format.codec import decode_event, encode_payload
from mpcheckpoint._logfile.judged import Judged, Seen, judged
from support.processes import in_a_child
from support.verbs import LOG, Faults, append_elsewhere, generation_of, handle_of, seen_anew, writer_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint import Log
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._view.view import LogView


class RefusedError(Exception):
    """The condition is not met."""


@pytest.fixture(params=["native", "python"])
def path(request: pytest.FixtureRequest, faults: Faults, log: Log) -> str:
    """Which code appends: while a fault is watched for, Python alone does. The log has padding, and a page."""
    for _ in range(80):
        log.append("y", "y", durability="never")
    if request.param == "python":
        faults.watch("sync_data", on=LOG)
    elif system.native is None:
        pytest.skip("the native core does not run")
    return str(request.param)


def count_of(view: LogView) -> int:
    return len(view.records.numbers_of("x"))


def append_counted(log: Log, before: Callable[[int], None] = lambda _: None) -> list[int]:
    """Append for "x" how many records it has, as a condition saw them; return what the condition saw, each time.

    Args:
        before: called after each judgement with how many there were.
    """
    seen: list[int] = []

    def choose(view: LogView) -> list[Payload]:
        seen.append(count_of(view))
        chosen = encode_payload("x", {"before": seen[-1]})
        before(len(seen))
        return [chosen]

    handle_of(log).append_if([encode_payload("x", {"before": 10_000_000})], choose)
    return seen


@pytest.mark.guarantee(3)
@pytest.mark.usefixtures("path")
def test_condition_met_by_what_the_log_still_holds_is_judged_once(log: Log) -> None:
    assert append_counted(log) == [1]
    assert append_counted(log) == [2]
    assert log.events("x")[1:] == ({"before": 1}, {"before": 2})


@pytest.mark.guarantee(3)
@pytest.mark.usefixtures("path")
def test_condition_that_another_process_appended_after_is_judged_anew(store: Path, log: Log) -> None:
    def let_another_in(judgements: int) -> None:
        if judgements == 1:
            in_a_child(append_elsewhere, store, "x", "theirs", "id")

    seen = append_counted(log, let_another_in)

    assert (seen[0], *set(seen[1:])) == (1, 2)
    assert log.events("x")[1:] == ("theirs", {"before": 2})


@pytest.mark.guarantee(3)
@pytest.mark.usefixtures("path")
def test_condition_that_others_append_after_all_the_time_is_judged_under_the_lock(
    store: Path, log: Log
) -> None:
    theirs: list[int] = []

    def let_another_in(judgements: int) -> None:
        if not writer_of(store).lock.is_held:
            assert judgements < 10
            in_a_child(append_elsewhere, store, "x", judgements, f"id-{judgements}")
            theirs.append(judgements)

    seen = append_counted(log, let_another_in)

    assert log.events("x")[1:] == (*theirs, {"before": 1 + len(theirs)})
    assert seen[-1] == 1 + len(theirs)


@pytest.mark.guarantee(3)
@pytest.mark.usefixtures("path")
def test_condition_not_met_at_first_and_met_under_the_lock_lets_the_append_be(log: Log, store: Path) -> None:
    judgements: list[int] = []

    def judge(view: LogView) -> None:
        judgements.append(count_of(view))
        if judgements == [1]:
            in_a_child(append_elsewhere, store, "x", "theirs", "id")
        if judgements[-1] == 1:
            raise RefusedError

    handle_of(log).append_if([encode_payload("x", "ours")], judge)

    assert judgements[0] == 1
    assert set(judgements[1:]) == {2}
    assert log.events("x")[1:] == ("theirs", "ours")


@pytest.mark.guarantee(3)
@pytest.mark.usefixtures("path")
def test_condition_that_is_not_met_writes_nothing(log: Log, store: Path) -> None:
    before = generation_of(store).state.end

    def judge(view: LogView) -> None:
        raise RefusedError

    with pytest.raises(RefusedError):
        handle_of(log).append_if([encode_payload("x", "ours")], judge)

    assert generation_of(store).state.end == before
    assert "ours" not in seen_anew(log)


@pytest.mark.usefixtures("path")
def test_condition_that_may_not_be_judged_twice_is_judged_under_the_lock_alone(log: Log, store: Path) -> None:
    is_held: list[bool] = []

    def judge(view: LogView) -> None:
        is_held.append(writer_of(store).lock.is_held)

    handle_of(log).append_if([encode_payload("x", "ours")], judge, may_repeat=False)

    assert is_held == [True]


def test_condition_judged_of_another_state_of_the_log_is_judged_again(log: Log, store: Path) -> None:
    end = generation_of(store).state.end
    met = Seen(generation_of(store).generation, end)
    calls: list[int] = []
    guard = Judged(lambda: calls.append(1), lambda: met)
    assert guard.is_met_anew()

    judged(guard, met.generation, end)
    assert not calls
    for generation, other in (
        ("0" * 32, end),
        (met.generation, end._replace(offset=end.offset + 1)),
        (met.generation, end._replace(stored_crc=end.stored_crc ^ 1)),
        (met.generation, end._replace(stamp_us=end.stamp_us + 1)),
    ):
        judged(guard, generation, other)
    assert calls == [1, 1, 1, 1]


def test_native_append_to_a_log_that_ends_elsewhere_is_left_to_python(store: Path, log: Log) -> None:
    if system.native is None:
        pytest.skip("the native core does not run")
    for _ in range(80):
        log.append("y", "y", durability="never")
    state = generation_of(store).state
    end, payloads = state.end, [encode_payload("x", "ours")]

    for other in (
        end._replace(offset=end.offset - 1),
        end._replace(stored_crc=end.stored_crc ^ 1),
        end._replace(stamp_us=end.stamp_us + 1),
    ):
        told: list[object] = []
        assert state.append(payloads, told, False, True, other) == 0
        assert (state.end, told) == (end, [])
    with pytest.raises(TypeError):
        state.append(payloads, [], False, True, "the end")  # type: ignore[arg-type]
    assert state.append(payloads, [], False, True, end) == 2
    assert [decode_event(event) for event in handle_of(log).raw_events("x")][-1] == "ours"
