"""Hostile bytes where a log should stand: the time and the memory they cost grow no faster than they do."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._format import resync
from mpcheckpoint._format.frame import Payload, encode_batch, stated_length
from mpcheckpoint.errors import CheckpointError
from support import log_bytes
from support.fuzz_bench import Bench
from support.log_bytes import LOG_KEY, OTHER_GENERATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Log


pytestmark = [pytest.mark.guarantee(6), pytest.mark.exhaustive]
MIB = 1024 * 1024


# --- the logs ----------------------------------------------------------------------------------------------


def a_line(text: bytes) -> bytes:
    """A log of one record, whose event is ``text``."""
    return log_bytes.forged_log(b'"x",' + text + b",null")


def a_broken_batch(size: int) -> bytes:
    """A batch of many lines, of which the last is missing."""
    _, start = log_bytes.header()
    lines, _ = encode_batch(
        [Payload(b'"x"', b"1")] * (size // 56 + 2), end=start, stamp_us=start.stamp_us + 1, durable=0
    )
    return a_header() + lines[: lines.rindex(b"\n", 0, -1) + 1]


def a_header() -> bytes:
    return log_bytes.header()[0]


def a_log_of_records(size: int, text: bytes = b"1") -> bytes:
    _, end = log_bytes.header(OTHER_GENERATION)
    parts = [log_bytes.header(OTHER_GENERATION)[0]]
    for _ in range(size // (60 + len(text))):
        lines, end = encode_batch(
            [Payload(b'"x"', text)], end=end, stamp_us=end.stamp_us + 1, durable=end.offset
        )
        parts.append(lines)
    return b"".join(parts)


def lines_of_right_lengths(size: int) -> bytes:
    line = b'["00000028",1,0,0,"",1,null,"00000000"]\n'
    assert len(line) == 0x28
    return line * (size // len(line))


# What stands in a log, given how many bytes.
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "newlines": lambda size: a_header() + b"\n" * size,
    "newlines-then-a-byte": lambda size: a_header() + b"\n" * size + b"x",
    "zeros": lambda size: a_header() + b"\0" * size,
    "openings": lambda size: a_header() + b'["' * (size // 2),
    "starts-of-lines": lambda size: a_header() + b'["00000028",' * (size // 12),
    "starts-of-long-lines": lambda size: a_header() + b'["03ffffff",' * (size // 12),
    "starts-behind-newlines": lambda size: a_header() + b'\n["00ffffff",' * (size // 13),
    "closings-and-openings": lambda size: a_header() + b'"00000000"]\n["00000028"' * (size // 23),
    "closings-and-long-openings": lambda size: a_header() + b'"00000000"]\n["03ffffff"' * (size // 23),
    "lines-with-wrong-crcs": lambda size: a_header() + lines_of_right_lengths(size),
    "no-newline": lambda size: a_header() + b"x" * size,
    "a-line-with-no-end": lambda size: a_header() + b'["03ffffff",1000001,0,0,"x","' + b"x" * size,
    "a-line-then-rubbish": lambda size: a_line(b"1") + b"rubbish\n" * (size // 8),
    "a-line-then-another-log": lambda size: a_line(b"1") + a_log_of_records(size),
    "a-broken-batch": a_broken_batch,
    "an-event-full-of-lines": lambda size: a_line(
        json.dumps(lines_of_right_lengths(size * 3 // 5).decode()).encode()
    ),
    "a-damaged-event-full-of-lines": lambda size: a_line(
        json.dumps(lines_of_right_lengths(size * 3 // 5).decode()).encode()
    )[:-20],
    "an-event-of-brackets": lambda size: a_line(b"[" + b"[]," * (size // 3) + b"1]"),
    "an-event-nested-deep": lambda size: a_line(b"[" * (size // 2) + b"]" * (size // 2)),
    "an-event-of-opening-brackets": lambda size: a_line(b"[" * size),
    "an-event-of-quotes": lambda size: a_line(b"[" + b'"\\"[",' * (size // 6) + b"1]"),
    "an-event-of-backslashes": lambda size: a_line(b'["' + b"\\" * (size // 2 * 2) + b'",1e999]'),
    "an-event-of-digits": lambda size: a_line(b"1" * size),
    "an-event-of-numbers": lambda size: a_line(b"[" + (b"1" * 640 + b".5,") * (size // 643) + b"1]"),
    "an-event-of-exponents": lambda size: a_line(b"[" + b"1e100," * (size // 6) + b"1e999]"),
    "a-long-object-key": lambda size: log_bytes.forged_log(b'"' + b"k" * size + b'",1,null'),
    "a-large-meta": lambda size: log_bytes.forged_log(b'"x",1,{"id":"' + b"i" * size + b'"}'),
    "records": a_log_of_records,
}


# --- the bounds --------------------------------------------------------------------------------------------


def costs_s(bench: Bench, data: bytes) -> float:
    """Return the time of this process that it takes to look at a log, to append to it and to look again."""
    bench.put(data)
    begin = time.process_time()
    with Checkpoint(bench.store, read_only=True) as checkpoint, suppress(CheckpointError):
        checkpoint.get("x")
    bench.read()
    bench.append()
    return time.process_time() - begin


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_log_costs_time_in_proportion_to_its_bytes(bench: Bench, kind: str, intensity: int) -> None:
    size = MIB * min(intensity, 8)
    quarter, whole = (costs_s(bench, HOSTILE[kind](each)) for each in (size // 4, size))

    # Four times the bytes: what is quadratic takes sixteen times as long. The floor is what a busy machine may add.
    assert whole < 8 * quarter + 0.3


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_log_costs_memory_in_proportion_to_its_bytes(bench: Bench, kind: str) -> None:
    """The most that it costs is what decoded values and the lines of one batch do."""
    data = HOSTILE[kind](MIB // 4)
    bench.put(data)

    assert peak_bytes(bench, lambda log: log.stats()) < 32 * len(data) + 4 * MIB
    assert peak_bytes(bench, lambda log: list(log.read())) < 64 * len(data) + 4 * MIB


def test_log_of_any_length_is_read_in_the_same_memory(bench: Bench) -> None:
    peaks = []
    for size in (3 * MIB // 2, 5 * MIB):
        bench.put(a_log_of_records(size, b'"' + b"x" * 400 + b'"'))
        peaks.append(peak_bytes(bench, lambda log: deque(log.read(), maxlen=0)))

    assert peaks[1] < 1.5 * peaks[0]


def peak_bytes(bench: Bench, act: Callable[[Log], object]) -> int:
    """Return the most memory that something done to the log takes, refused or not."""
    with Checkpoint(bench.store, read_only=True, log_keys=[LOG_KEY]) as checkpoint:
        log = checkpoint.log(LOG_KEY)
        tracemalloc.start()
        try:
            with suppress(CheckpointError):
                act(log)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_bounds_find_out_what_is_quadratic(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: were each line looked for in all that follows it, the bound would not hold."""

    def slow(data: bytes, start: int) -> int | None:
        data.upper()
        return stated_length(data, start)

    monkeypatch.setattr(resync, "stated_length", slow)
    quarter, whole = (
        costs_s(bench, HOSTILE["lines-with-wrong-crcs"](size)) for size in (MIB // 16, MIB // 4)
    )

    assert whole > 8 * quarter + 0.3


def test_bounds_find_out_who_keeps_what_was_read(bench: Bench) -> None:
    """A control: whoever reads a log into a list takes memory for each record."""
    peaks = []
    for size in (3 * MIB // 2, 5 * MIB):
        bench.put(a_log_of_records(size, b'"' + b"x" * 400 + b'"'))
        peaks.append(peak_bytes(bench, lambda log: list(log.read())))

    assert peaks[1] > 1.5 * peaks[0]
