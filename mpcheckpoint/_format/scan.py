"""Bytes to whole batches: read lines forward from a known end state until they stop being lines."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from mpcheckpoint._format.frame import (
    MAX_BATCH_BYTES,
    PADDING,
    Damage,
    EndState,
    Line,
    parse_line,
    running_crc,
    stated_length,
)


class Stop(Enum):
    """Why a scan went no further."""

    END = "the bytes end behind a whole batch"
    PADDING = "only newlines follow"
    INCOMPLETE = "the bytes end inside a line or batch"
    DAMAGED = "what follows is no line"


class Scan(NamedTuple):
    """The whole batches found, where they end, and what stopped the scan.

    Invariant: ``lines`` holds whole batches only, and ``end`` lies behind the last of them.

    ``broken_at`` and ``broken_crc`` give the place behind the last valid line and the running CRC there. Inside a
    batch that is behind ``end``: it is where a search for lines behind the damage has to begin.
    """

    lines: list[Line]
    end: EndState
    stop: Stop
    damage: Damage | None
    broken_at: int
    broken_crc: int


def scan(data: bytes, end: EndState) -> Scan:
    """Return the whole batches in ``data``, which must begin at ``end.offset``.

    Damage inside a batch is placed at the batch's first line: a batch is there whole or not at all.
    """
    base = end.offset
    applied: list[Line] = []
    batch: list[Line] = []
    position, crc, stamp_us = 0, running_crc(end.stored_crc), end.stamp_us
    size = len(data)
    while position < size:
        outcome = _next_line(data, position, base=base, crc=crc)
        if isinstance(outcome, Line):
            outcome = _out_of_order(outcome, batch, stamp_us) or outcome
        if not isinstance(outcome, Line):
            stop, damage = _stopped(batch, end, outcome)
            return Scan(applied, end, stop, damage, base + position, crc)
        batch.append(outcome)
        position = outcome.end - base
        crc, stamp_us = running_crc(outcome.stored_crc), outcome.stamp_us
        if outcome.more == 0:
            applied += batch
            end = EndState(outcome.end, outcome.stored_crc, stamp_us)
            batch = []
    return Scan(applied, end, Stop.INCOMPLETE if batch else Stop.END, None, base + position, crc)


def _next_line(data: bytes, start: int, *, base: int, crc: int) -> Line | Damage | Stop:
    length = stated_length(data, start)
    if length is None:
        return _no_line_starts(data, start, base)
    stop = start + length
    newline = data.find(b"\n", start, stop)
    if newline < 0:
        if stop > len(data):
            return Stop.INCOMPLETE
        return Damage(base + start, f"a newline after {length} bytes", "none")
    if newline != stop - 1:
        return Damage(base + start, f"a line of {length} bytes", f"a newline after {newline - start + 1}")
    line = parse_line(data, start, stop, base=base, crc=crc)
    return Damage(base + start, "a line that its crc vouches for", line) if isinstance(line, str) else line


def _no_line_starts(data: bytes, start: int, base: int) -> Damage | Stop:
    rest = data[start : start + 10]
    if rest[:1] == PADDING:
        if data.count(PADDING, start) == len(data) - start:
            return Stop.PADDING
        return Damage(base + start, "a line, or padding to the end of the file", "newlines, then other bytes")
    if len(rest) < 10 and _may_open_line(rest):
        return Stop.INCOMPLETE
    return Damage(base + start, "the start of a line", repr(rest))


def _may_open_line(rest: bytes) -> bool:
    return b'["'.startswith(rest[:2]) and all(byte in b"0123456789abcdef" for byte in rest[2:])


def _out_of_order(line: Line, batch: list[Line], stamp_us: int) -> Damage | None:
    if batch:
        first, before = batch[0], batch[-1]
        if line.more != before.more - 1 or line.stamp_us != before.stamp_us:
            return Damage(
                line.offset,
                f"the next line of its batch, more {before.more - 1} at stamp {before.stamp_us}",
                f"more {line.more} at stamp {line.stamp_us}",
            )
        if line.end - first.offset > MAX_BATCH_BYTES:
            return Damage(line.offset, f"a batch of at most {MAX_BATCH_BYTES} bytes", "a longer one")
    elif line.stamp_us <= stamp_us:
        return Damage(line.offset, f"a stamp above {stamp_us}", f"stamp {line.stamp_us}")
    return None


def _stopped(batch: list[Line], end: EndState, why: Damage | Stop) -> tuple[Stop, Damage | None]:
    if isinstance(why, Damage):
        return Stop.DAMAGED, why._replace(offset=end.offset)
    if why is Stop.PADDING and batch:
        found = f"padding where {batch[-1].more} lines of a batch are missing"
        return Stop.DAMAGED, Damage(end.offset, "a whole batch", found)
    return why, None
