"""Clocks that jump, back an hour and forward a year: one order, in every process."""

from __future__ import annotations

import multiprocessing
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from support.processes import call
from support.verbs import become_a_new_process

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from support.processes import Children


HOUR_US = 3_600_000_000
YEAR_US = 365 * 24 * HOUR_US


@pytest.mark.guarantee(3)
def test_clock_that_jumps_back_an_hour_and_forward_a_year_changes_no_order(
    store: Path, children: Children
) -> None:
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    for number, steps_us in enumerate(([0, -HOUR_US, YEAR_US, 0, -HOUR_US], [0])):
        receive, send = pipes[number][0], pipes[(number + 1) % 2][1]
        children.start(pass_the_token, store, number, steps_us, receive, send, method="fork")
    long_lived = Checkpoint(store)
    pipes[0][1].send(0)
    children.wait_all()

    events = long_lived.getCheckpoints("x")
    assert [token for token, _ in events] == list(range(TOKENS))
    assert seen_in_a_new_process(store) == events
    become_a_new_process()
    assert Checkpoint(store).getCheckpoints("x") == events
    assert_stamps_rise(store)


@pytest.mark.guarantee(3)
def test_clocks_that_jump_under_writers_side_by_side_leave_one_order(store: Path, children: Children) -> None:
    long_lived = Checkpoint(store)
    for number, steps_us in enumerate(([0, -HOUR_US, YEAR_US, 0], [0], [YEAR_US, 0, -HOUR_US])):
        children.start(append_while_the_clock_jumps, store, number, steps_us, method="fork")
    while any(child.is_running for child in children.all):
        assert_each_in_order(long_lived.getCheckpoints("x"))
    children.wait_all()

    events = long_lived.getCheckpoints("x")
    assert len(events) == 3 * 60
    assert_each_in_order(events)
    assert seen_in_a_new_process(store) == events
    assert_stamps_rise(store)


TOKENS = 60


def set_clock(step_us: int) -> None:
    system.now_us = lambda: time.time_ns() // 1000 + step_us


def pass_the_token(
    store: Path, number: int, steps_us: list[int], receive: Connection, send: Connection
) -> None:
    """See all that was written before, be it by whom it was; write, and pass the token on. The clock jumps between."""
    checkpoint = Checkpoint(store)
    for turn in range(TOKENS // 2):
        set_clock(steps_us[turn % len(steps_us)])
        assert receive.poll(60)
        token = receive.recv()
        assert [event[0] for event in checkpoint.getCheckpoints("x")] == list(range(token))
        checkpoint.log(f"log {token % 3}").append("x", [token, number])
        send.send(token + 1)


def append_while_the_clock_jumps(store: Path, number: int, steps_us: list[int]) -> None:
    checkpoint = Checkpoint(store)
    for turn in range(60):
        set_clock(steps_us[turn // 7 % len(steps_us)])
        checkpoint.log(f"log {(turn + number) % 3}").append("x", [number, turn])


def assert_each_in_order(events: list[list[int]]) -> None:
    """Each writer's events come in the order in which it wrote them, for each saw its own."""
    for writer in range(3):
        turns = [turn for number, turn in events if number == writer]
        assert turns == sorted(turns)


def seen_in_a_new_process(store: Path) -> list[Any]:
    events: list[Any] = call(Checkpoint(store, read_only=True).getCheckpoints, "x")
    return events


def assert_stamps_rise(store: Path) -> None:
    checkpoint = Checkpoint(store, read_only=True)
    for log_key in checkpoint.logs():
        stamps_us = [record.stamp_us for record in checkpoint.log(log_key).read()]
        assert len(stamps_us) > 5
        assert all(before < after for before, after in pairwise(stamps_us))
