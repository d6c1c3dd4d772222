"""Positions that lead nowhere: read on by their stamps, or refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log, Position
from mpcheckpoint.errors import InvalidPositionError
from support.verbs import become_a_new_process, log_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.guarantee(4)
def test_read_and_follow_after_a_record_lost_with_the_power_skip_no_other(store: Path, log: Log) -> None:
    durable_bytes = log_file(store).stat().st_size
    lost = log.append("x", 1, durability="never")
    os.truncate(log_file(store), durable_bytes)
    become_a_new_process()
    log.append("x", 2)  # of the same length, so it ends where the lost one did
    log.append("x", 3)

    assert [record.event for record in log.read(after=lost)] == [2, 3]
    assert [record.event for record in log.follow(lost, idle_timeout_s=0)] == [2, 3]


@pytest.mark.parametrize(
    "place",
    [f"{'9' * 23}:1:0", f"{'9' * 5000}:1:0", f"300:{'9' * 23}:0", f"300:{'9' * 5000}:0", f"300:1:{'9' * 23}"],
    ids=["offset", "longer offset", "stamp", "longer stamp", "more"],
)
def test_position_of_absurd_numbers_is_refused(log: Log, place: str) -> None:
    generation = log.append("x", 1).generation

    with pytest.raises(InvalidPositionError, match="not a position"):
        Position.parse(f"a@{generation}:{place}")


@pytest.mark.guarantee(4)
def test_position_behind_the_largest_offset_reads_by_its_stamp(log: Log) -> None:
    first = log.append("x", 1)
    log.append("x", 2)
    beyond = Position.parse(f"a@{first.generation}:{'9' * 18}:{first.stamp_us}:0")

    assert [record.event for record in log.read(after=beyond)] == [2]


def test_position_in_another_log_is_refused_by_the_name_of_that(store: Path, log: Log) -> None:
    elsewhere = Checkpoint(store).log("b").append("x", 1)

    for use in (lambda: list(log.read(after=elsewhere)), lambda: log.append_many([], expected_end=elsewhere)):
        with pytest.raises(InvalidPositionError, match="is a position in the log 'b', not in 'a'"):
            use()
