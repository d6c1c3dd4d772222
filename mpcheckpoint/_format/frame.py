"""One line of a log: how its fields become bytes, and how bytes are proven to be a line.

docs/format.md is the specification, and nothing of it is said again here. Reader and writer share this module.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import NamedTuple
from zlib import crc32

import msgspec

from mpcheckpoint import _core

FORMAT_NAME = "mpcheckpoint"
FORMAT_VERSION = 1

OPENING = b'["'
PADDING = b"\n"
NO_META = b"null"
LENGTH_END = 10  # the opening and eight hex digits
CLOSING_BYTES = 12  # '"', eight hex digits, '"]' and a newline
MIN_LINE_BYTES = 40
# So that a damaged length neither takes gigabytes of memory nor makes a reader wait for bytes that never come.
MAX_LINE_BYTES = 64 * 1024 * 1024
# An object key and a record id as JSON, together: control lines have to name them beside what they say of them.
MAX_KEY_BYTES = MAX_LINE_BYTES // 2
MAX_BATCH_BYTES = 256 * 1024 * 1024
MAX_STAMP_US = 2**53 - 1
# Far below the depth at which a JSON reader gives up: what one process could write, every other can read.
MAX_DEPTH = 128
# No process can lower its limit on the digits of an integer below this.
MAX_DIGITS = 640

_HEX = frozenset(b"0123456789abcdef")
_QUOTE = 34
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'"[]{}'))
_STRING = re.compile(rb'"[^"]*"')
_STRING_OR_NUMBER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]++(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?')
# All of a line but its payload.
_NUMBERS_BOUND_BYTES = 100
# Too short to nest too deep, or for an integer of too many digits.
SHORT_EVENT_BYTES = 2 * MAX_DEPTH
# A number beyond a double has an exponent of three digits, or that many digits in a row.
_DIGITS_ALIKE = bytes.maketrans(b"123456789+E", b"0000000000e")
_LONG_EXPONENT = b"0e000"
_LONG_NUMBER = b"0" * 200
_LONG_INTEGER = b"0" * (MAX_DIGITS + 1)


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


_tuple_new = tuple.__new__  # a NamedTuple is made by a function in Python, which an append is spared
_decode = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(_Fields).decode


class Line(NamedTuple):
    """One line, proven by its length, its crc and its place."""

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

    Invariant: ``offset`` is the end of a line with ``more`` 0 whose whole batch is valid, and ``stored_crc`` is the crc
    field of that line (held by tests/format/test_scan.py).
    """

    offset: int
    stored_crc: int
    stamp_us: int


class Mismatch(NamedTuple):
    """Where bytes stop being lines, and why. The caller judges whether that is torn or corrupt."""

    offset: int
    expected: str
    found: str


class Payload(NamedTuple):
    """What a line says, encoded as JSON before any lock is taken."""

    object_key: bytes
    event: bytes
    meta: bytes = NO_META


def is_padding(data: bytes) -> bool:
    """Return whether bytes are padding and nothing else. Compared with it: to count it takes ten times as long."""
    return data == PADDING * len(data)


def closing(stored_crc: int) -> bytes:
    """Return the last twelve bytes of a line whose crc field is ``stored_crc``."""
    return b'"%08x"]\n' % stored_crc


def running_crc(stored_crc: int) -> int:
    """Return the running CRC after a line whose crc field is ``stored_crc``."""
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
    """Return the bytes of one batch that follows ``end``, and the end state after it.

    Requires: ``payloads`` is not empty, ``stamp_us`` is above ``end.stamp_us``, ``durable`` at most ``end.offset``.
    """
    assert payloads
    assert end.stamp_us < stamp_us <= MAX_STAMP_US
    assert durable <= end.offset
    native = _core.native
    found = None if native is None else native.batch(payloads, end.stored_crc, stamp_us, durable)
    if found is not None:  # the same bytes, held by tests/format/test_native_encode.py
        data, crc = found
        return data, _tuple_new(EndState, (end.offset + len(data), crc, stamp_us))
    crc, closed = end.stored_crc, b'"%08x"]\n' % end.stored_crc
    if len(payloads) == 1:  # the usual append: the same bytes in fewer steps
        object_key, event, meta = payloads[0]
        rest = b'",%d,%d,0,%b,%b,%b,' % (stamp_us, durable, object_key, event, meta)
        body = b'["%08x%b' % (LENGTH_END + len(rest) + CLOSING_BYTES, rest)
        crc = crc32(body, crc32(closed, crc))
        data = b'%b"%08x"]\n' % (body, crc)
        return data, _tuple_new(EndState, (end.offset + len(data), crc, stamp_us))
    numbers = b"%d,%d" % (stamp_us, durable)
    same_bytes = LENGTH_END + len(b'",,,,,,') + len(numbers) + CLOSING_BYTES
    parts: list[bytes] = []
    for more, (object_key, event, meta) in zip(range(len(payloads) - 1, -1, -1), payloads, strict=True):
        left = b"%d" % more
        length = same_bytes + len(left) + len(object_key) + len(event) + len(meta)
        body = b",".join((b'["%08x"' % length, numbers, left, object_key, event, meta, b""))
        # From one crc field to the next: the earlier one stands for every byte before it.
        crc = crc32(closed + body, crc)
        closed = b'"%08x"]\n' % crc
        parts += (body, closed)
    data = b"".join(parts)
    return data, EndState(end.offset + len(data), crc, stamp_us)


def batch_bytes_bound(payloads: list[Payload]) -> int:
    """Return a number of bytes that the payloads' lines cannot exceed together, whatever their numbers."""
    native = _core.native
    parts = None if native is None else native.parts_bytes(payloads)
    if parts is None:
        parts = sum(map(len, chain.from_iterable(payloads)))
    return int(parts) + _NUMBERS_BOUND_BYTES * len(payloads)


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


def _nesting(text: bytes) -> int:
    """Return how deep the brackets outside of strings nest."""
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    depth = deepest = 0
    for bracket in _STRING.sub(b"", unescaped.translate(None, _NEITHER_BRACKET_NOR_QUOTE)):
        if bracket in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def fault_in(value: bytes) -> str | None:
    """Return what is wrong with a JSON value of which only the grammar was checked, or None.

    Every process can decode a value that passes, at any time. A long value is decoded only if it looks suspicious.
    """
    try:
        if value[0] == _QUOTE:
            if not value.isascii():
                value.decode()
        elif len(value) <= SHORT_EVENT_BYTES:
            _decode(value)
        else:
            return _fault_in_long(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return str(error)
    return None


def fault_in_meta(meta: bytes) -> str | None:
    """Return what is wrong with a meta that is not null, or None."""
    return fault_in(meta) if meta[:1] == b"{" else "meta that is neither null nor an object"


def _fault_in_long(value: bytes) -> str | None:
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH and _nesting(value) > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH}"
    if may_hold_long_integer(value) and any(
        _is_long_integer(match[0]) for match in _STRING_OR_NUMBER.finditer(value)
    ):
        return f"an integer of more than {MAX_DIGITS} digits"
    if not value.isascii() or may_exceed_a_double(value):
        _decode(value)
    return None


def may_hold_long_integer(values: bytes) -> bool:
    """Return False only if no integer in these JSON values has more than ``MAX_DIGITS`` digits."""
    return _LONG_INTEGER in values.translate(_DIGITS_ALIKE)


def may_exceed_a_double(values: bytes) -> bool:
    """Return False only if no number in these JSON values is beyond a double."""
    digits = values.translate(_DIGITS_ALIKE)
    return _LONG_EXPONENT in digits or _LONG_NUMBER in digits


def _is_long_integer(token: bytes) -> bool:
    digits = token.removeprefix(b"-")
    return len(digits) > MAX_DIGITS and digits.isdigit()


def parse_line(data: bytes, start: int, end: int, *, base: int, crc: int) -> Line | str:
    """Return the line at ``data[start:end]``, or a sentence on what is wrong with it.

    Args:
        data: bytes that begin at file offset ``base``.
        start, end: the line's place in ``data``, ``end`` after its newline.
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
        # The caller's stack may be deep; that is no damage. But no writer nests deeper than MAX_DEPTH.
        if _nesting(data[start:end]) <= MAX_DEPTH + 1:
            raise
        return f"a crc that fits, but events nested deeper than {MAX_DEPTH}"
    offset = base + start
    if fields.length != f"{end - start:08x}":
        return f"length {fields.length} on a line of {end - start} bytes"
    if not 0 <= fields.durable <= offset or fields.more < 0 or not 0 <= fields.stamp_us <= MAX_STAMP_US:
        return f"stamp {fields.stamp_us}, durable {fields.durable}, more {fields.more} out of range"
    event, meta = bytes(fields.event), bytes(fields.meta)
    fault = fault_in(event) or (fault_in_meta(meta) if meta != NO_META else None)
    if fault is not None:
        return f"a crc that fits, but an event or meta that no writer wrote: {fault}"
    numbers = fields.stamp_us, fields.durable, fields.more
    return Line(offset, base + end, *numbers, fields.object_key, event, meta, stored_crc)
