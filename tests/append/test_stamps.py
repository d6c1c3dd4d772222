"""Stamps: above all that was read before, below the bound, and in step with the clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import MAX_STAMP_US
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint.errors import ClockError
from support.processes import in_a_child
from support.verbs import (
    append_crafted_line,
    append_elsewhere,
    assert_goes_on,
    become_a_new_process,
    log_file,
    seen_anew,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(3)


@pytest.mark.guarantee(3)
def test_event_written_after_another_was_read_sorts_after_it_whatever_the_clocks_say(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "highest_us", clock.highest_us)  # put back for the tests to come
    in_a_child(append_an_hour_ahead, store)
    assert log.events("x") == (0, "an hour ahead")

    Checkpoint(store).log("b").append("x", "after")

    assert Checkpoint(store)["x"] == (0, "an hour ahead", "after")


def append_an_hour_ahead(store: Path) -> None:
    now_us = system.now_us() + 3_600_000_000
    system.now_us = lambda: now_us
    append_elsewhere(store, "x", "an hour ahead")


@pytest.mark.guarantee(3)
def test_large_batch_does_not_run_ahead_of_the_clock(log: Log) -> None:
    log.append_many([("x", number) for number in range(50_000)], durability="never")
    log.append("x", "next")

    *_, last = log.read()
    assert last.stamp_us <= time.time_ns() // 1000


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("stamp_us", [MAX_STAMP_US, MAX_STAMP_US + 1, 2**63, 2**70])
def test_stamp_at_the_bound_is_read_and_beyond_it_no_line(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch, stamp_us: int
) -> None:
    monkeypatch.setattr(clock, "highest_us", clock.highest_us)
    append_crafted_line(store, stamp_us=stamp_us, durable=0)
    become_a_new_process()

    if stamp_us > MAX_STAMP_US:
        assert seen_anew(log) == [0]
        assert_goes_on(log, [0])
        return
    before = log_file(store).read_bytes()
    assert log.events("x") == (0, "crafted")
    with pytest.raises(ClockError):
        log.append("x", 1)
    assert log_file(store).read_bytes() == before
