"""Batches as rows have them: lines as JSON, hashes of what they are about, arrays as the server sends them."""

from __future__ import annotations

import struct
from array import array
from hashlib import blake2b
from itertools import accumulate, repeat
from typing import TYPE_CHECKING

import msgspec

from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import NO_META

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpcheckpoint._format.frame import Payload

_BYTEA_OID, _INT8_OID = 17, 20
_HASH_BYTES = 8


class _Row(msgspec.Struct, array_like=True, gc=False):
    object_key: str | None
    event: msgspec.Raw
    meta: msgspec.Raw = msgspec.Raw(NO_META)


_decode = msgspec.json.Decoder(list[_Row]).decode


def body_of(payloads: Sequence[Payload]) -> bytes:
    """Return what a row holds of the payloads: each as a JSON array, with commas between."""
    return b",".join(
        [
            b"[%b,%b]" % (object_key, event) if meta == NO_META else b"[%b,%b,%b]" % (object_key, event, meta)
            for object_key, event, meta in payloads
        ]
    )


def hashes_of(concerns: Iterable[bytes]) -> bytes:
    """Return hashes of what lines are about, as a bigint[] of the server, in binary, each once.

    Two that are equal by chance make a condition be judged once more, nothing else.
    """
    found = sorted({blake2b(each, digest_size=_HASH_BYTES).digest() for each in set(concerns)})
    if not found:
        return struct.pack("!iii", 0, 0, _INT8_OID)
    items = b"".join([b"\0\0\0\x08" + each for each in found])
    return struct.pack("!iiiii", 1, 0, _INT8_OID, len(found), 1) + items


def int8_array(numbers: Sequence[int | None]) -> bytes:
    """Return a bigint[] of the server, in binary."""
    if not numbers:
        return struct.pack("!iii", 0, 0, _INT8_OID)
    items = [b"\xff\xff\xff\xff" if each is None else struct.pack("!iq", 8, each) for each in numbers]
    return struct.pack("!iiiii", 1, int(None in numbers), _INT8_OID, len(numbers), 1) + b"".join(items)


def bytea_array(values: Sequence[bytes]) -> bytes:
    """Return a bytea[] of the server, in binary."""
    if not values:
        return struct.pack("!iii", 0, 0, _BYTEA_OID)
    items = b"".join([struct.pack("!i", len(each)) + each for each in values])
    return struct.pack("!iiiii", 1, 0, _BYTEA_OID, len(values), 1) + items


def int8(number: int) -> bytes:
    """Return a bigint of the server, in binary."""
    return struct.pack("!q", number)


def int4(number: int) -> bytes:
    """Return an integer of the server, in binary."""
    return struct.pack("!i", number)


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
