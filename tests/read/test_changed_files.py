"""A log's file that somebody overwrites, shortens or replaces: read anew or refused, and never built upon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import CorruptLogError, FormatVersionError
from support import log_bytes
from support.fuzz_bench import MARKER, Bench, Reading
from support.log_bytes import LOG_KEY, OTHER_GENERATION, forged_log
from support.verbs import assert_goes_on, become_a_new_process, log_file, tear

if TYPE_CHECKING:
    from pathlib import Path


# --- overwritten in place ------------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
def test_append_to_a_log_overwritten_by_an_older_copy_leaves_no_hole(store: Path, log: Log) -> None:
    older = log_file(store).read_bytes()
    for number in range(1, 5):
        log.append("x", number, durability="never")
    log_file(store).write_bytes(older)  # as `cp` does: the inode stays, and with it every open descriptor

    log.append("x", "acknowledged")

    assert b"\0" not in log_file(store).read_bytes()
    assert_goes_on(log, [0, "acknowledged"])
    assert log.repairs() == []


@pytest.mark.guarantee(6)
def test_append_to_a_log_overwritten_by_a_copy_without_durable_records_is_refused(
    store: Path, log: Log
) -> None:
    older = log_file(store).read_bytes()
    for number in range(1, 5):
        log.append("x", number)
    log_file(store).write_bytes(older)

    with pytest.raises(CorruptLogError):
        log.append("x", "not acknowledged")

    assert log_file(store).read_bytes() == older


@pytest.mark.guarantee(4)
def test_log_overwritten_in_place_under_a_reader_is_read_anew(store: Path, log: Log) -> None:
    older = log_file(store).read_bytes()
    for number in range(1, 4):
        log.append("x", number, durability="never")
    become_a_new_process()
    reader = Checkpoint(store, read_only=True)
    assert reader["x"] == (0, 1, 2, 3)

    log_file(store).write_bytes(older)  # as `cp` does: the inode stays
    log.append("x", "." * 1000)

    assert reader["x"] == (0, "." * 1000)


# --- another generation copied into the same file ------------------------------------------------------------


def other_log(*events: int) -> bytes:
    """Return a log of another generation, as a copy made before a recovery is."""
    chain = log_bytes.Chain(log_bytes.header(OTHER_GENERATION)[0])
    for number, happened in enumerate(events, 1):
        chain.line(b'%d,%d,0,"x",%d,null' % (log_bytes.CREATED_US + number, len(chain.data), happened))
    return chain.data


@pytest.mark.guarantee(6)
@pytest.mark.guarantee(5)
def test_log_restored_in_place_from_another_generation_gives_positions_of_it(bench: Bench) -> None:
    bench.put(forged_log(b'"x",1,null', b'"x",2,null'))
    with Checkpoint(bench.store) as checkpoint:
        log = checkpoint.log(LOG_KEY)
        follower = log.follow(idle_timeout_s=0)
        assert [record.event for record in follower] == [1, 2]
        assert log.count("x") == 2
        bench.change(other_log(3, 4, 5, 6))

        assert log.events("x") == (3, 4, 5, 6)
        found = next(follower)
        assert found.position.generation == OTHER_GENERATION
        assert [record.event for record in log.read(after=found.position)] == [6]


@pytest.mark.guarantee(6)
@pytest.mark.guarantee(9)
def test_log_restored_in_place_from_a_shorter_generation_takes_appends(bench: Bench) -> None:
    """What was known to be durable was of the generation before."""
    bench.put(forged_log(*[b'"x",1,null'] * 9))
    with Checkpoint(bench.store) as checkpoint:
        log = checkpoint.log(LOG_KEY)
        log.append("x", 2)
        bench.change(other_log(3))

        assert log.events("x") == (3,)
        log.append(*MARKER)
    become_a_new_process()
    assert bench.read() == Reading([("x", 3), MARKER], None)


# --- shortened -----------------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
@pytest.mark.rule(3)
def test_log_shorter_than_this_process_knows_to_be_durable_is_corrupt(store: Path, log: Log) -> None:
    before = log_file(store).read_bytes()
    log.append("x", 1)
    os.truncate(log_file(store), len(before))

    for attempt in (lambda: log.events("x"), lambda: Checkpoint(store)["x"], lambda: log.append("x", 2)):
        with pytest.raises(CorruptLogError):
            attempt()

    assert log_file(store).read_bytes() == before


@pytest.mark.guarantee(6)
def test_log_found_shortened_is_refused_at_every_try(store: Path, log: Log) -> None:
    older = log_file(store).read_bytes()
    log.append("x", 1)
    log_file(store).write_bytes(older)

    for _ in range(3):
        with pytest.raises(CorruptLogError, match=r"knows to be durable.* or start this process anew"):
            log.append("x", 2)
        assert log_file(store).read_bytes() == older


@pytest.mark.guarantee(6)
def test_log_shortened_in_place_stays_corrupt_for_readers_after_a_refused_append(bench: Bench) -> None:
    """The writer that began anew forgot what had been durable, and readers beside it then passed over the damage."""
    whole = forged_log(*[b'"x",1,null'] * 9)
    bench.put(whole)
    with Checkpoint(bench.store) as checkpoint:
        log = checkpoint.log(LOG_KEY)
        log.append("x", 2)
        bench.change(forged_log(b'"x",1,null') + b"torn")
        for _ in range(3):
            with pytest.raises(CorruptLogError):
                log.events("x")
            with pytest.raises(CorruptLogError):
                log.append(*MARKER)


# --- replaced ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_what_was_durable_in_another_generation_says_nothing_of_this_one(store: Path, log: Log) -> None:
    log.append("x", "a" * 10_000)
    other = Checkpoint(store / "other").log("a")
    other.append("x", "small")
    os.replace(log_file(store / "other"), log_file(store))
    tear(store)

    assert log.events("x") == ("small",)
    assert_goes_on(log, ["small"])


@pytest.mark.guarantee(6)
def test_log_whose_header_was_refused_is_refused_at_every_look(store: Path, log: Log) -> None:
    reader = Checkpoint(store)
    assert reader["x"] == (0,)
    newer = store / "newer"
    newer.write_bytes(log_file(store).read_bytes().replace(b'"version":1', b'"version":2'))
    os.replace(newer, log_file(store))

    for _ in range(3):
        with pytest.raises(FormatVersionError):
            reader["x"]


@pytest.mark.guarantee(5)
def test_record_id_of_a_log_that_was_replaced_can_be_used_again(store: Path, log: Log) -> None:
    log.append("x", 1, record_id="id")
    assert log.events("x") == (0, 1)
    other = Checkpoint(store / "other").log("a")
    other.append("x", "other")
    os.replace(log_file(store / "other"), log_file(store))
    assert log.events("x") == ("other",)

    log.append("x", 2, record_id="id")

    assert log.events("x") == ("other", 2)
