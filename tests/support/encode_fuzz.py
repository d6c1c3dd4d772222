"""Random events, to be encoded by the native core and by Python alone: the same bytes, or left to Python.

python -m support.encode_fuzz --events 1000000 --seed 1      in tests/, or with it on PYTHONPATH
"""

from __future__ import annotations

import random
import struct
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import _core
from mpcheckpoint._format import codec
from mpcheckpoint._format.frame import Payload, encode_batch
from mpcheckpoint.errors import CheckpointError
from support.comparison import compare
from support.scan_fuzz import START

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHARACTERS = [
    *map(chr, range(0x30)),
    *'abcXYZ"\\/{}[]:,',
    "\x7f",
    "\x80",
    "ü",
    "\u2028",
    "“",
    "\uffff",
    "😀",
    "\ud800",
]
_LEAVES = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63 - 1,
    -(2**63),
    2**63,
    10**639,
    10**640,
    "",
    "UPLOADED",
    1.5,
    -0.0,
]


class Colour(IntEnum):
    """An int that would come back as another type."""

    RED = 1


class Name(str):
    """A str that would come back as another type."""

    __slots__ = ()


_ODD = [
    (),
    (1,),
    {1},
    b"x",
    {1: 2},
    {Name("a"): 1},
    Colour.RED,
    Name("x"),
    float("nan"),
    float("-inf"),
    object(),
    1j,
]


class Inventor:
    """Makes events, most of them sound."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        """Return a text, some of whose characters need care."""
        return "".join(self.random.choices(_CHARACTERS[:-1], k=self.random.choice([0, 1, 3, 8, 9, 40]))) + (
            _CHARACTERS[-1] if self.random.random() < 0.01 else ""
        )

    def number(self) -> float:
        """Return any double: of random bits, or one of few digits and any exponent."""
        if self.random.random() < 0.5:
            (number,) = struct.unpack("d", self.random.randbytes(8))
            return float(number)
        return float(
            f"{self.random.randrange(10 ** self.random.randrange(1, 18))}e{self.random.randrange(-330, 330)}"
        )

    def event(self, depth: int = 4) -> Any:
        """Return an event."""
        kind = self.random.random()
        if kind < 0.25:
            return self.text()
        if kind < 0.4:
            return self.number()
        if kind < 0.6 or depth == 0:
            return self.random.choice(_LEAVES if self.random.random() < 0.98 else _ODD)
        count = self.random.randrange(5)
        if kind < 0.75:
            return [self.event(depth - 1) for _ in range(count)]
        return {self.text(): self.event(depth - 1) for _ in range(count)}


def encoded_alone(object_key: Any, event: Any, record_id: Any = None) -> Payload | str:
    """Return what Python alone makes of a record, or the error that it raises."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", None)
        try:
            return codec.encode_payload(object_key, event, record_id)
        except CheckpointError as error:
            return f"{type(error).__name__}: {error}"


def framed_alone(payloads: list[Payload], **numbers: Any) -> Any:
    """Return the lines that Python alone makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", None)
        return encode_batch(payloads, **numbers)


def differences(events: int, seed: int) -> Iterator[tuple[Any, ...] | str]:
    """Encode so many events in both ways, and frame them; yield who took each, or what differs."""
    native, inventor = _core.native, Inventor(seed)
    assert native is not None
    batch: list[Payload] = []
    for _ in range(events):
        record = (
            inventor.text(),
            inventor.event(),
            inventor.text() if inventor.random.random() < 0.2 else None,
        )
        found, expected = native.payload(Payload, *record, codec._PLAINLY_SMALL_BYTES), encoded_alone(*record)
        if found is None:
            yield "left to Python: refused" if isinstance(expected, str) else "left to Python: sound"
            continue
        if type(found) is not Payload or found != expected:
            yield record, found, expected
            continue
        yield "taken"
        batch.append(found)
        if len(batch) == 7 or inventor.random.random() < 0.3:
            numbers = {
                "end": START,
                "stamp_us": START.stamp_us + len(batch),
                "durable": inventor.random.randrange(5_000),
            }
            lines, expected_lines = encode_batch(batch, **numbers), framed_alone(batch, **numbers)  # type: ignore[arg-type]
            if lines != expected_lines:
                yield batch, lines, expected_lines
            batch = []


if __name__ == "__main__":
    sys.exit(compare(__doc__, "events", differences))
