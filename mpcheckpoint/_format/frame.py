"""One line of a log: how its fields become bytes, and how bytes are proven to be a line.

docs/format.md is the specification; nothing of it is restated here. What reader and writer share is this module.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from zlib import crc32

import msgspec

FORMAT_NAME = "mpcheckpoint"
FORMAT_VERSION = 1

OPENING = b'["'
PADDING = b"\n"
NO_META = b"null"
LENGTH_END = 10  # the opening and eight hex digits
CLOSING_BYTES = 12  # '"', eight hex digits, '"]' and a newline
MIN_LINE_BYTES = 40
# A damaged length must neither allocate gigabytes nor make a reader wait for bytes that never come.
MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_BATCH_BYTES = 256 * 1024 * 1024
MAX_STAMP_US = 2**53 - 1
# Far below the depth at which any JSON reader gives up, so that what one process could write every other can read.
MAX_DEPTH = 128

_NEWLINE = 10
_STRING_OR_SCALAR = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^][{}"]+')
_HEX = frozenset(b"0123456789abcdef")


class _Fields(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The JSON array of a line, its event and meta left as raw bytes."""

    length: str
    stamp_us: int
    durable: int
    more: int
    object_key: str | None
    event: msgspec.Raw
    meta: msgspec.Raw
    crc: str


_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_all_fields = msgspec.json.Decoder(_Fields).decode_lines


class Line(NamedTuple):
    """One line, proven by its length, its crc and the place it stands in."""

    offset: int
    end: int
    stamp_us: int
    durable: int
    more: int
    object_key: str | None
    event: bytes
    meta: bytes
    stored_crc: int


class EndState(NamedTuple):
    """What an append needs to know of everything before it.

    Invariant: ``offset`` lies behind a line with ``more`` 0 whose whole batch is valid, and ``stored_crc`` is the crc
    field of that line (held by tests/test_scan.py).
    """

    offset: int
    stored_crc: int
    stamp_us: int


class Damage(NamedTuple):
    """Where bytes stop being lines, and why; whether that is torn or corrupt is for the caller to judge."""

    offset: int
    expected: str
    found: str


class Payload(NamedTuple):
    """What a line says, encoded as JSON before any lock is taken."""

    object_key: bytes
    event: bytes
    meta: bytes = NO_META


def closing(stored_crc: int) -> bytes:
    """Return the last twelve bytes of the line whose crc field is ``stored_crc``."""
    return b'"%08x"]\n' % stored_crc


def running_crc(stored_crc: int) -> int:
    """Return the running CRC right behind the line whose crc field is ``stored_crc``."""
    return crc32(closing(stored_crc), stored_crc)


def encode_line(payload: Payload, *, stamp_us: int, durable: int, more: int, crc: int) -> tuple[bytes, int]:
    """Return a line's bytes and its crc field, given the running CRC ``crc`` of all bytes before it."""
    rest = b'",%d,%d,%d,%b,%b,%b,' % (stamp_us, durable, more, *payload)
    body = b'["%08x%b' % (LENGTH_END + len(rest) + CLOSING_BYTES, rest)
    stored_crc = crc32(body, crc)
    return body + closing(stored_crc), stored_crc


def encode_batch(
    payloads: list[Payload], *, end: EndState, stamp_us: int, durable: int
) -> tuple[bytes, EndState]:
    """Return the bytes of one batch that follows ``end``, and the end state behind it.

    Requires: ``payloads`` is not empty, ``stamp_us`` is above ``end.stamp_us``, ``durable`` at most ``end.offset``.
    """
    assert payloads
    assert end.stamp_us < stamp_us <= MAX_STAMP_US
    assert durable <= end.offset
    stored_crc = end.stored_crc
    lines = []
    for more, payload in zip(range(len(payloads) - 1, -1, -1), payloads, strict=True):
        line, stored_crc = encode_line(
            payload, stamp_us=stamp_us, durable=durable, more=more, crc=running_crc(stored_crc)
        )
        lines.append(line)
    data = b"".join(lines)
    return data, EndState(end.offset + len(data), stored_crc, stamp_us)


def line_bytes_bound(payload: Payload) -> int:
    """Return a number of bytes that the payload's line cannot exceed, whatever its numbers."""
    return sum(map(len, payload)) + 100


def stated_length(data: bytes, start: int) -> int | None:
    """Return the length that the line at ``start`` states, or None where no line can start."""
    digits = data[start + 2 : start + LENGTH_END]
    if data[start : start + 2] != OPENING or len(digits) != 8 or not _HEX.issuperset(digits):
        return None
    length = int(digits, 16)
    return length if MIN_LINE_BYTES <= length <= MAX_LINE_BYTES else None


def stored_crc_before(data: bytes, start: int) -> int | None:
    """Return the crc field that closes right before ``start``, or None if none does."""
    if start < CLOSING_BYTES:
        return None
    tail = data[start - CLOSING_BYTES : start]
    digits = tail[1:9]
    if tail[:1] != b'"' or tail[9:] != b'"]\n' or not _HEX.issuperset(digits):
        return None
    return int(digits, 16)


def _nesting(line: bytes) -> int:
    """Return how deep the brackets outside of strings nest."""
    depth = deepest = 0
    for bracket in _STRING_OR_SCALAR.sub(b"", line):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def parse_lines(data: bytes, start: int, end: int, *, base: int, crc: int) -> list[Line]:
    """Return all lines of ``data[start:end]``, or none if anything about them is not as it should be.

    One CRC call and one decode vouch for the whole chunk: the running CRC at its last line covers every byte before it,
    the lines' own crc fields included. What is wrong, and where, is for ``parse_line`` to find.
    """
    stored_crc = stored_crc_before(data, end)
    if stored_crc is None or crc32(memoryview(data)[start : end - CLOSING_BYTES], crc) != stored_crc:
        return []
    try:
        decoded = _decode_all_fields(memoryview(data)[start:end])
        numbers = [(int(fields.length, 16), int(fields.crc, 16)) for fields in decoded]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
    lines = []
    offset = base + start
    newline_shift = base + 1
    for fields, (length, stored_crc) in zip(decoded, numbers, strict=True):
        line_end = offset + length
        if fields.length != f"{length:08x}" or fields.crc != f"{stored_crc:08x}":
            return []
        if not 0 <= fields.durable <= offset or fields.more < 0 or not 0 <= fields.stamp_us <= MAX_STAMP_US:
            return []
        if line_end > base + end or data[line_end - newline_shift] != _NEWLINE:
            return []
        meta = fields.meta
        lines.append(
            Line(
                offset,
                line_end,
                fields.stamp_us,
                fields.durable,
                fields.more,
                fields.object_key,
                bytes(fields.event),
                NO_META if meta == NO_META else bytes(meta),
                stored_crc,
            )
        )
        offset = line_end
    # As many newlines as lines, each where a length says: so the lengths and the lines are the same cut.
    if offset != base + end or data.count(PADDING, start, end) != len(lines):
        return []
    return lines


def parse_line(data: bytes, start: int, end: int, *, base: int, crc: int) -> Line | str:
    """Return the line at ``data[start:end]``, or a sentence on what is wrong with it.

    Args:
        data: bytes that begin at file offset ``base``.
        start, end: the line's place in ``data``, ``end`` behind its newline.
        base: the file offset of ``data[0]``.
        crc: the running CRC of every byte before the line.
    """
    stored_crc = stored_crc_before(data, end)
    if stored_crc is None:
        return "no crc field at the end of the line"
    actual_crc = crc32(memoryview(data)[start : end - CLOSING_BYTES], crc)
    if actual_crc != stored_crc:
        return f"crc {stored_crc:08x} where the bytes give {actual_crc:08x}"
    try:
        fields = _decode_fields(memoryview(data)[start:end])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"a crc that fits, but fields that do not: {error}"
    except RecursionError:
        # Our caller's stack may be deep; that is no damage. No writer nests deeper than MAX_DEPTH, though.
        if _nesting(data[start:end]) <= MAX_DEPTH + 1:
            raise
        return f"a crc that fits, but events nested deeper than {MAX_DEPTH}"
    offset = base + start
    if fields.length != f"{end - start:08x}":
        return f"length {fields.length} on a line of {end - start} bytes"
    if not 0 <= fields.durable <= offset or fields.more < 0 or not 0 <= fields.stamp_us <= MAX_STAMP_US:
        return f"stamp {fields.stamp_us}, durable {fields.durable}, more {fields.more} out of range"
    return Line(
        offset,
        base + end,
        fields.stamp_us,
        fields.durable,
        fields.more,
        fields.object_key,
        bytes(fields.event),
        NO_META if fields.meta == NO_META else bytes(fields.meta),
        stored_crc,
    )
