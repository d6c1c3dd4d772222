"""Torn or corrupt: what vouches for bytes that are no line, and what only looks as if it did."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import Mismatch
from mpcheckpoint._logfile import read as reader_module
from mpcheckpoint._logfile.torn_or_corrupt import Broken, vouched_offset
from mpcheckpoint.errors import CorruptLogError
from support.verbs import (
    LOG,
    Faults,
    append_crafted_line,
    assert_goes_on,
    become_a_new_process,
    log_file,
    seen_anew,
    tear,
)

if TYPE_CHECKING:
    from pathlib import Path


# --- what a line states as durable ---------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_line_that_calls_more_durable_than_lies_before_it_vouches_for_nothing(store: Path, log: Log) -> None:
    size = log_file(store).stat().st_size
    stamp_us = list(log.read())[-1].stamp_us + 1
    append_crafted_line(store, stamp_us=stamp_us, durable=size + 1)

    assert seen_anew(log) == [0]
    assert_goes_on(log, [0])
    assert len(log.repairs()) == 1


@pytest.mark.guarantee(6)
def test_writer_that_finds_its_own_synced_record_damaged_refuses_and_cuts_nothing(
    store: Path, log: Log
) -> None:
    log.append("x", 1)
    damaged = bytearray(log_file(store).read_bytes())
    damaged[-5] ^= 1  # in the last crc, behind which nothing vouches for the record: but we do
    log_file(store).write_bytes(damaged)

    for _ in range(2):
        with pytest.raises(CorruptLogError):
            log.append("x", 2)
        assert log_file(store).read_bytes() == damaged


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("size", [1, 2000])
def test_line_that_states_more_durable_than_lies_before_it_is_none_however_it_is_read(
    store: Path, log: Log, size: int
) -> None:
    end = log_file(store).stat().st_size

    append_crafted_line(store, event="." * size, durable=end + 1)
    assert seen_anew(log) == [0]
    os.truncate(log_file(store), end)
    append_crafted_line(store, event="." * size, durable=end)
    assert len(seen_anew(log)) == 2


@pytest.mark.guarantee(6)
def test_record_behind_kilobytes_of_newlines_is_not_lost_in_silence(store: Path, log: Log) -> None:
    start = log_file(store).stat().st_size
    end = log.append("x", "." * 20_000).offset
    log.append("x", 2)
    closing_bytes = 12
    with log_file(store).open("r+b") as file:
        file.seek(start)
        file.write(b"\n" * (end - start - closing_bytes))
    become_a_new_process()  # which does not know that this was durable, and has to find out

    with pytest.raises(CorruptLogError):
        seen_anew(log)


# --- lines after damage --------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
@pytest.mark.rule(7)
@pytest.mark.parametrize("is_joined_by", ["\n", '"]\n', ""])
def test_event_that_contains_log_lines_vouches_for_nothing_when_torn(
    store: Path, log: Log, is_joined_by: str
) -> None:
    for number in range(1, 20):
        log.append("x", number)
    lines = log_file(store).read_text().splitlines()
    expected = list(log.events("x"))
    log.append("x", is_joined_by.join(lines * 500), durability="never")
    os.truncate(log_file(store), log_file(store).stat().st_size - 20)
    become_a_new_process()
    started = time.monotonic()

    assert seen_anew(log) == expected
    assert_goes_on(log, expected)
    assert time.monotonic() - started < 20


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("rubbish", [b'["00000100', b'\n["00000100"', b'"]\n', b"\n", b"\0", b'["'], ids=repr)
def test_megabytes_of_rubbish_behind_the_end_cost_seconds_not_hours(
    store: Path, log: Log, rubbish: bytes
) -> None:
    tear(store, b"#" + rubbish * (3_000_000 // len(rubbish)))
    started = time.monotonic()

    assert seen_anew(log) == [0]
    assert_goes_on(log, [0])

    assert time.monotonic() - started < 20


# --- megabytes of torn end -----------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_torn_end_of_megabytes_is_read_in_steps_that_grow(store: Path, log: Log, faults: Faults) -> None:
    end = log_file(store).stat().st_size
    os.truncate(log_file(store), end + 64 * 1024 * 1024)  # a hole: zeros without a newline
    descriptor = system.open_file(str(log_file(store)))
    reads = faults.watch("read_at", on=LOG)

    broken = Broken(Mismatch(end, "a line", "zeros"), end, 0)

    assert vouched_offset(descriptor.fd, broken, above=end) == 0
    assert reads.seen < 12  # whatever was read already is gone through again at each


@pytest.mark.guarantee(6)
def test_torn_end_that_was_judged_is_not_replayed_at_the_next_look(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append_many([(f"k{number}", "v" * 30) for number in range(5_000)], durability="never")
    os.truncate(log_file(store), log_file(store).stat().st_size - 10)
    become_a_new_process()
    checkpoint = Checkpoint(store, read_only=True)
    assert list(checkpoint) == ["x"]
    replays: list[object] = []
    replay = reader_module.replay
    monkeypatch.setattr(
        reader_module, "replay", lambda *args, **how: replays.append(args) or replay(*args, **how)
    )

    assert [list(checkpoint) for _ in range(3)] == [["x"]] * 3
    assert replays == []

    with log_file(store).open("r+b") as file:  # the same size, other bytes: judged anew
        file.seek(-5, os.SEEK_END)
        file.write(b"#")
    assert list(checkpoint) == ["x"]
    assert len(replays) == 1
    assert_goes_on(log, [0])
