"""The journal of acknowledgements knows everything that was acknowledged, and knows it in time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from support.processes import METHODS

if TYPE_CHECKING:
    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children

MORE_THAN_A_PIPE_HOLDS = 40_000


def acknowledge_numbers(writer: AcknowledgementWriter, worker: str, count: int) -> None:
    for number in range(count):
        writer.acknowledge(worker, number)


def acknowledge_for_ever(writer: AcknowledgementWriter) -> None:
    number = 0
    while True:
        writer.acknowledge(number)
        number += 1


@pytest.mark.parametrize("method", METHODS)
def test_acknowledgement_from_any_kind_of_child_arrives(
    method: str, acknowledgements: AcknowledgementJournal, children: Children
) -> None:
    children.start(acknowledge_numbers, acknowledgements.writer, method, 2, method=method)
    children.wait_all()

    assert acknowledgements.acknowledged() == [(method, 0), (method, 1)]


def test_acknowledgements_of_several_children_arrive_whole_and_each_in_order(
    acknowledgements: AcknowledgementJournal, children: Children
) -> None:
    for worker in "ab":
        children.start(acknowledge_numbers, acknowledgements.writer, worker, MORE_THAN_A_PIPE_HOLDS)
    children.wait_all()

    arrived = acknowledgements.acknowledged()

    for worker in "ab":
        assert [number for name, number in arrived if name == worker] == list(range(MORE_THAN_A_PIPE_HOLDS))


def test_acknowledgements_of_a_killed_child_are_a_gapless_beginning(
    acknowledgements: AcknowledgementJournal, children: Children
) -> None:
    child = children.start(acknowledge_for_ever, acknowledgements.writer)
    before_kill = acknowledgements.wait_for(100)
    child.kill()

    after_kill = acknowledgements.acknowledged()

    assert after_kill[: len(before_kill)] == before_kill
    assert after_kill == [(number,) for number in range(len(after_kill))]


def test_acknowledgement_made_before_the_question_is_in_the_answer(
    acknowledgements: AcknowledgementJournal,
) -> None:
    for number in range(1000):
        acknowledgements.writer.acknowledge(number)
        assert acknowledgements.acknowledged()[-1] == (number,)


def test_acknowledgement_that_could_tear_is_refused(acknowledgements: AcknowledgementJournal) -> None:
    with pytest.raises(ValueError, match="could tear"):
        acknowledgements.writer.acknowledge("x" * 5000)


def test_waiting_for_acknowledgements_that_do_not_come_times_out(
    acknowledgements: AcknowledgementJournal,
) -> None:
    acknowledgements.writer.acknowledge("one")

    with pytest.raises(TimeoutError, match="1 acknowledgements of 2"):
        acknowledgements.wait_for(2, timeout_s=0.05)


def test_acknowledgements_by_several_writers_are_counted_once(
    acknowledgements: AcknowledgementJournal,
) -> None:
    for _ in range(3):
        acknowledgements.writer.acknowledge("x")
        acknowledgements.writer.close()

    assert Counter(acknowledgements.acknowledged()) == {("x",): 3}
