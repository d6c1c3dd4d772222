"""Batches as rows have them: lines as JSON, hashes of what they are about, arrays as the server sends them."""

from __future__ import annotations

import os
import struct
from array import array
from itertools import accumulate, repeat
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from mpcheckpoint import _core
from mpcheckpoint._format.columns import Lines, lines_in
from mpcheckpoint._format.concern import CONTROL, concern_of
from mpcheckpoint._format.frame import NO_META

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpcheckpoint._format.frame import Payload

_BYTEA_OID, _INT8_OID, _INT4_OID, _TEXT_OID = 17, 20, 23, 25
_ARRAY = struct.Struct("!iiiii")
_NO_INT4S = struct.pack("!iii", 0, 0, _INT4_OID)


class _Row(msgspec.Struct, array_like=True, gc=False):
    object_key: str | None
    event: msgspec.Raw
    meta: msgspec.Raw = msgspec.Raw(NO_META)


_decode = msgspec.json.Decoder(list[_Row]).decode


def body_of(payloads: Sequence[Payload]) -> bytes:
    """Return what a row holds of the payloads: each as a JSON array, with commas between."""
    object_keys, events, metas = zip(*payloads, strict=True) if payloads else ((), (), ())
    if metas.count(NO_META) == len(metas):
        lines: Iterable[bytes] = map(b",".join, zip(object_keys, events, strict=True))
    else:
        lines = [b",".join(each[: 2 + (each.meta != NO_META)]) for each in payloads]
    return b"[%b]" % b"],[".join(lines) if payloads else b""


def concerns_of(payloads: Sequence[Payload]) -> Iterable[bytes]:
    """Return what lines concern, at least each once; see ``_format.concern``."""
    object_keys = {payload[0] for payload in payloads}
    if CONTROL in object_keys or b"\\" in b"".join(object_keys):
        return map(concern_of, payloads)
    return object_keys  # the same, and the usual ones


def hashes_of(concerns: Iterable[bytes]) -> bytes:
    """Return hashes of what lines are about, as an integer[] of the server, in binary, each once.

    Two that are equal by chance make a condition be judged once more, nothing else: so the cheapest will do.
    """
    found = array("I", {crc32(each) for each in concerns})
    if not found:
        return _NO_INT4S
    # Each with its length, 4 bytes, before it.
    items = array("I", [4]) * (2 * len(found))
    items[1::2] = found
    items.byteswap()
    return _ARRAY.pack(1, 0, _INT4_OID, len(found), 1) + items.tobytes()


def int8_array(numbers: Sequence[int | None]) -> bytes:
    """Return a bigint[] of the server, in binary."""
    if not numbers:
        return struct.pack("!iii", 0, 0, _INT8_OID)
    items = [b"\xff\xff\xff\xff" if each is None else struct.pack("!iq", 8, each) for each in numbers]
    return struct.pack("!iiiii", 1, int(None in numbers), _INT8_OID, len(numbers), 1) + b"".join(items)


def bytea_array(values: Sequence[bytes]) -> bytes:
    """Return a bytea[] of the server, in binary."""
    return _array(values, _BYTEA_OID)


def text_array(values: Sequence[str]) -> bytes:
    """Return a text[] of the server, in binary."""
    return _array([each.encode() for each in values], _TEXT_OID)


def _array(values: Sequence[bytes], oid: int) -> bytes:
    if not values:
        return struct.pack("!iii", 0, 0, oid)
    items = b"".join([struct.pack("!i", len(each)) + each for each in values])
    return struct.pack("!iiiii", 1, 0, oid, len(values), 1) + items


def int8(number: int) -> bytes:
    """Return a bigint of the server, in binary."""
    return struct.pack("!q", number)


def int4(number: int) -> bytes:
    """Return an integer of the server, in binary."""
    return struct.pack("!i", number)


def new_id() -> int:
    """Return an id that nothing else has anywhere, at any time, of a store, a log or a generation."""
    return int.from_bytes(os.urandom(8), "big") >> 1


def milliseconds(timeout_s: float) -> int:
    """Return a wait for locks as the server takes it: it knows none of more than 24 days, and 0 would be for ever."""
    return max(1, int(min(timeout_s * 1000, 2**31 - 1)))


def number_in(value: bytes | None) -> int:
    """Return an integer of the server, of any size; 0 for null."""
    return 0 if value is None else int.from_bytes(value, "big", signed=True)


def numbers_in(value: bytes) -> array[int]:
    """Return bigints that follow each other."""
    numbers = array("Q", value)
    numbers.byteswap()
    return numbers


def lines_of(bodies: bytes, ends: array[int], stamps_us: array[int], counts: array[int]) -> Lines:
    """Return the lines of some batches that follow each other, in order.

    Args:
        bodies: theirs, with commas between; those of no lines are left out.
        ends, stamps_us, counts: of each batch its place, its stamp, and how many lines it has.
    """
    native = _core.native
    if native is not None:  # the same lines, held by tests/format/test_native_bodies.py
        found = native.bodies(b"%b\n" % bodies, ends.tobytes(), stamps_us.tobytes(), counts.tobytes())
        if found is not None:
            return lines_in(found)
    rows = _decode(b"[%b]" % bodies)
    lines = Lines()
    lines.object_keys = [row.object_key for row in rows]
    events = [row.event for row in rows]
    lines.events = b"".join(events)
    lines.event_ends = list(accumulate(map(len, events)))
    metas = [bytes(row.meta) for row in rows]
    lines.metas = None if metas.count(NO_META) == len(metas) else metas
    if counts.count(1) == len(counts):
        lines.ends, lines.stamps_us, lines.mores = ends, stamps_us, [0] * len(rows)
    else:
        mores = lines.mores = [more for count in counts for more in range(count - 1, -1, -1)]
        lines.stamps_us = [
            each
            for stamp_us, count in zip(stamps_us, counts, strict=True)
            for each in repeat(stamp_us, count)
        ]
        places = [each for end, count in zip(ends, counts, strict=True) for each in repeat(end, count)]
        lines.ends = [place - more for place, more in zip(places, mores, strict=True)]
    lines.offsets = [end - 1 for end in lines.ends]
    lines.durables, lines.crcs = [0] * len(rows), [0] * len(rows)
    lines.is_plain = lines.metas is None and None not in lines.object_keys
    return lines
