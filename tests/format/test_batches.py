"""A batch is there whole or not at all, however it is cut, forged or read."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import FormatVersionError
from support import log_bytes
from support.fuzz_bench import MARKER, Bench, Reading
from support.log_bytes import LOG_KEY, forged_log
from support.verbs import append_crafted_line, assert_goes_on, become_a_new_process, log_file, seen_anew, tear

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.guarantee(2)
@pytest.mark.rule(26)
@pytest.mark.parametrize("padding", [b"", b"\n\n\n", b"\n" * 5000])
@pytest.mark.parametrize("lines", [1, 2, 4])
def test_batch_cut_behind_a_whole_line_is_not_there_at_all(
    store: Path, log: Log, lines: int, padding: bytes
) -> None:
    start = log_file(store).stat().st_size
    log.append_many([("x", f"batch {number}") for number in range(5)], durability="never")
    batch = log_file(store).read_bytes()[start:].splitlines(keepends=True)
    become_a_new_process()
    os.truncate(log_file(store), start)
    tear(store, b"".join(batch[:lines]) + padding)

    assert seen_anew(log) == [0]
    assert [record.event for record in log.follow(idle_timeout_s=0)] == [0]
    assert_goes_on(log, [0])
    assert log.repairs()[0].offset == start


@pytest.mark.guarantee(2)
def test_batch_with_a_line_of_another_in_it_is_damage_from_its_first_line(store: Path, log: Log) -> None:
    start = log_file(store).stat().st_size
    log.append_many([("x", 1), ("x", 2)], durability="never")
    first, _ = log_file(store).read_bytes()[start:].splitlines(keepends=True)
    stamp_us = list(log.read())[-1].stamp_us
    become_a_new_process()
    for more in (1, 5):
        os.truncate(log_file(store), start)
        tear(store, first)
        append_crafted_line(store, stamp_us=stamp_us, durable=0, more=more)
        assert seen_anew(log) == [0]
    os.truncate(log_file(store), start)
    tear(store, first)
    append_crafted_line(store, stamp_us=stamp_us + 1, durable=0)

    assert seen_anew(log) == [0]
    assert_goes_on(log, [0])


# Lines are read one by one where there are few bytes, in bulk where there are many: both ways have their own checks.
@pytest.mark.guarantee(2)
@pytest.mark.parametrize("size", [1, 2000])
@pytest.mark.parametrize(
    ("lines", "more", "later_us"),
    [(1, 0, 1), (3, 0, 0), (2, 0, 1)],
    ids=["a batch", "one that does not count down", "one of two stamps"],
)
def test_batch_is_there_whole_or_not_at_all_however_it_is_read(
    store: Path, log: Log, size: int, lines: int, more: int, later_us: int
) -> None:
    start = log_file(store).stat().st_size
    log.append_many([("x", "." * size)] * lines, durability="never")
    first = log_file(store).read_bytes()[start:].splitlines(keepends=True)[0]
    become_a_new_process()
    os.truncate(log_file(store), start)
    tear(store, first)

    assert len(seen_anew(log)) == (2 if lines == 1 else 1)
    append_crafted_line(store, event="." * size, more=more, later_us=later_us)
    assert len(seen_anew(log)) == (3 if lines == 1 else 1)


# --- forged ones ---------------------------------------------------------------------------------------------


def forged_batch(*lines: tuple[bytes, bytes]) -> bytes:
    """Return a log whose last batch has these lines, each the durable it states and its fields from the key on."""
    chain = log_bytes.Chain(forged_log(b'"x",0,null'))
    for more, (durable, fields) in zip(range(len(lines) - 1, -1, -1), lines, strict=True):
        here = b"%d" % len(chain.data) if durable == b"here" else durable
        chain.line(b"%d,%b,%d,%b" % (log_bytes.CREATED_US + 9, here, more, fields))
    return chain.data


@pytest.mark.guarantee(6)
@pytest.mark.guarantee(2)
def test_batch_of_which_a_line_calls_its_own_beginning_durable_survives_an_append(bench: Bench) -> None:
    """A writer that began in mid-batch found the rest of it out of order, and cut it off."""
    bench.put(forged_batch((b"0", b'"x",1,null'), (b"here", b'"x",2,null')))

    assert bench.append() is None
    assert bench.read() == Reading([("x", 0), ("x", 1), ("x", 2), MARKER], None)


@pytest.mark.guarantee(6)
@pytest.mark.guarantee(2)
@pytest.mark.parametrize("control", ["header", "sealed", "unsealed", "copied"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_batch_with_a_line_about_its_generation_survives_a_recovery(
    bench: Bench, control: str, place: int
) -> None:
    """Left out of the copy, that line was missing in the count of the batch, and all behind it was gone."""
    lines = [(b"0", b'"x",1,null'), (b"0", b'"x",2,null')]
    lines.insert(place, (b"0", b"null," + json.dumps({"control": control}).encode() + b",null"))
    bench.put(forged_batch(*lines))

    assert bench.recover() is None
    assert bench.append() is None
    assert bench.read() == Reading([("x", 0), ("x", 1), ("x", 2), MARKER], None)


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("looks", [1, 3])
def test_log_with_a_control_line_of_a_later_release_gives_the_records_before_its_batch(
    bench: Bench, looks: int
) -> None:
    """How the bytes were cut into reads decided which records were given out before the refusal."""
    data = forged_batch(
        (b"0", b'"x",1,null'), (b"0", b'null,{"control":"merged"},null'), (b"0", b'"x",2,null')
    )
    bench.put(data)
    offset = data.index(b'null,{"control":"merged"}')
    with Checkpoint(bench.store, read_only=True) as checkpoint:
        follower = checkpoint.log(LOG_KEY).follow(idle_timeout_s=0)

        assert next(follower).event == 0
        for _ in range(looks):
            with pytest.raises(FormatVersionError) as caught:
                next(follower)
            assert data.rindex(b"\n", 0, offset) + 1 == caught.value.offset
    assert bench.append() is FormatVersionError
    assert bench.file.read_bytes() == data
