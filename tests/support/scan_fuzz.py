"""Random logs, for scans by the native core and by Python alone to be compared: written, damaged, and forged ones.

    python -m support.scan_fuzz --logs 1000000 --seed 1      in tests/, or with it on PYTHONPATH

Forged logs have right lengths and crcs around changed fields: what is wrong with them is for the parser to find.
Quicker than hypothesis by far, and nothing is made smaller: what differs is printed whole.
"""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING
from zlib import crc32

import pytest

from mpcheckpoint import _core
from mpcheckpoint._format import scan as scan_module
from mpcheckpoint._format.blocks import scan_block
from mpcheckpoint._format.columns import canonical_lines
from mpcheckpoint._format.count import Count, count
from mpcheckpoint._format.frame import MAX_BATCH_BYTES, EndState, Line, closing, running_crc
from mpcheckpoint._format.scan import Scan, scan
from support.comparison import compare
from support.log_bytes import SOUND_VALUES, UNSOUND_VALUES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

START = EndState(5_000, 0x1234ABCD, 1_000)
_KEYS = [
    *(
        b'"x"',
        b'"object-0000007"',
        b'""',
        b'"\\""',
        b'"\\\\"',
        b'"\\n\\t\\r\\b\\f"',
        b'"\\u0000\\u001f"',
        b"null",
    ),
    *('"ü"'.encode(), '"😀"'.encode(), b'"' + b"k" * 70 + b'"', b'"[\\"00000028\\""'),
]
_EVENTS = [
    *(
        b'"UPLOADED"',
        b'{"state":"UPLOADED","try":3}',
        b"null",
        b"true",
        b"-17",
        b"1.5e-7",
        b"[]",
        b"{}",
        b"0",
    ),
    *(
        b'{"a":[1,{"b":null},"x"],"c":{}}',
        b'"' + b"x" * 90 + b'"',
        '"“ü”"'.encode(),
        b"[[1,2],[3.25]]",
        b"1e300",
    ),
    *(b'["' + b"y" * 300 + b'",false]', b'"\\"12345678\\"]\\n[\\"00000028\\""'),
]
_METAS = [b"null"] * 12 + [b'{"id":"i"}', b'{"id":"\\n","x":[1]}']
# What is put anywhere into fields, or in the place of a byte.
_TOKENS = [
    *(
        b'"',
        b"\\",
        b",",
        b":",
        b"[",
        b"]",
        b"{",
        b"}",
        b"0",
        b"1",
        b"9",
        b"-",
        b".",
        b"e",
        b"E",
        b"+",
        b" ",
        b"\n",
    ),
    *(
        b"\t",
        b"\0",
        b"\x1f",
        b"\x7f",
        b"\x80",
        b"\xc0\x80",
        b"\xc3",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf5",
    ),
    *(b"\xf4\x90\x80\x80", b"\xff", b"\xef\xbf\xbf", "ü".encode(), "😀".encode()),
    *(b"\\u", b"\\u0041", b"\\u001F", b"\\u0080", b"\\ud800", b"\\/", b"\\x", b"\\ud83d\\ude00"),
    *(
        b"null",
        b"nul",
        b"true",
        b"01",
        b"1e999",
        b"1e309",
        b"1e308",
        b"0e999",
        b"1e-999",
        b'""',
        b"[]",
        b"{}",
        b"-0",
    ),
    *(
        b"9" * 20,
        b"1" * 309,
        b"1" * 308 + b".5",
        b"1" * 641,
        b"[" * 129 + b"]" * 129,
        b"[" * 128 + b"]" * 128,
    ),
    *(b'"],', b'"]\n["', b'{"a":1', b',"b":2', b"18446744073709551616", b"9007199254740992"),
]


class Forger:
    """Makes logs of lines that are given by what stands between their length and their crc."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._changes: list[Callable[[bytes], bytes]] = [
            self._replaced,
            self._inserted,
            self._cut,
            self._repeated,
        ]

    def fields(self) -> list[bytes]:
        """Return the fields of the lines of some batches, as a correct writer makes them."""
        choice, chance = self.random.choice, self.random.random
        lines: list[bytes] = []
        stamp_us, durable = START.stamp_us, START.offset
        for _ in range(self.random.randrange(1, 6)):
            stamp_us += choice([1, 1, 17, 10**12])
            mores = choice([0, 0, 0, 1, 3])
            lines += [
                b"%d,%d,%d,%b,%b,%b"
                % (stamp_us, durable, more, choice(_KEYS), self._event(chance()), choice(_METAS))
                for more in range(mores, -1, -1)
            ]
        return lines

    def _event(self, chance: float) -> bytes:
        if chance < 0.85:
            return self.random.choice(_EVENTS)
        return self.random.choice(SOUND_VALUES if chance < 0.95 else UNSOUND_VALUES)

    def log(self) -> bytes:
        """Return a log; mostly something is wrong with it."""
        lines = self.fields()
        for _ in range(self.random.choice([0, 0, 1, 1, 1, 2])):
            at = self.random.randrange(len(lines))
            lines[at] = self.random.choice(self._changes)(lines[at])
        if self.random.random() < 0.15:
            self._rearrange(lines)
        data = forged(lines)
        for _ in range(self.random.choice([0, 0, 0, 0, 1, 1, 2])):
            data = self.random.choice([self._flipped, self._torn, self._spliced, self._padded])(data)
        return data

    # --- changes that lengths and crcs do not tell of --------------------------------------------------------

    def _replaced(self, fields: bytes) -> bytes:
        at = self.random.randrange(len(fields))
        return fields[:at] + self.random.choice(_TOKENS) + fields[at + 1 :]

    def _inserted(self, fields: bytes) -> bytes:
        at = self.random.randrange(len(fields) + 1)
        return fields[:at] + self.random.choice(_TOKENS) + fields[at:]

    def _cut(self, fields: bytes) -> bytes:
        at = self.random.randrange(len(fields))
        return fields[:at] + fields[at + self.random.choice([1, 1, 2, 9]) :]

    def _repeated(self, fields: bytes) -> bytes:
        parts = fields.split(b",")
        at = self.random.randrange(len(parts))
        return b",".join([*parts[:at], self.random.choice([parts[at], *_TOKENS]), *parts[at + 1 :]])

    def _rearrange(self, lines: list[bytes]) -> None:
        at, to = self.random.randrange(len(lines)), self.random.randrange(len(lines))
        if self.random.random() < 0.5:
            lines[at], lines[to] = lines[to], lines[at]
        else:
            lines.insert(to, lines[at])

    # --- damage ------------------------------------------------------------------------------------------------

    def _flipped(self, data: bytes) -> bytes:
        at = self._place(data)
        return (
            data[:at]
            + bytes(byte ^ 1 << self.random.randrange(8) for byte in data[at : at + 1])
            + data[at + 1 :]
        )

    def _torn(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def _spliced(self, data: bytes) -> bytes:
        start, stop = sorted((self._place(data), self._place(data)))
        at = self._place(data)
        return data[:at] + data[start:stop] + data[at + self.random.choice([0, stop - start]) :]

    def _padded(self, data: bytes) -> bytes:
        return data + self.random.choice(
            [b"\n", b"\n" * 50, b"\0" * 40, b"\n\n[", b'["', b'["0000', b"\xff" * 12]
        )

    def _place(self, data: bytes) -> int:
        """A place anywhere, or near the end of a line, where lengths and crcs stand."""
        at = self.random.randrange(len(data) + 1)
        if self.random.random() < 0.5:
            at = data.rfind(b"\n", 0, at) + 1 + self.random.choice([-12, -11, -4, -1, 0, 0, 2, 9, 10])
        return min(max(0, at), len(data))


def forged(lines: Sequence[bytes], start: EndState = START) -> bytes:
    """Return lines with right lengths and crcs around these fields."""
    parts: list[bytes] = []
    crc = running_crc(start.stored_crc)
    for fields in lines:
        body = b'["%08x",%b,' % (12 + len(fields) + 1 + 12, fields)
        stored_crc = crc32(body, crc)
        parts += (body, closing(stored_crc))
        crc = running_crc(stored_crc)
    return b"".join(parts)


def scanned_natively(data: bytes, start: EndState = START) -> Scan:
    """Return what the native core finds, and Python where it stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "_WORTH_COLUMNS_BYTES", 1)
        return scan(data, start)


def scanned_alone(data: bytes, start: EndState = START, *, in_bulk: bool = False) -> Scan:
    """Return what Python alone finds: line by line, or in bulk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", None)
        patch.setattr(scan_module, "_WORTH_COLUMNS_BYTES", 1 if in_bulk else len(data) + 1)
        return scan(data, start)


def counted(lines: Sequence[Line], *, proven_bytes: int) -> Count | None:
    """Return the count of some lines, which make whole batches, by these lines themselves."""
    if not proven_bytes:
        return None
    last = lines[-1] if lines else None
    return Count(
        proven_bytes,
        len(lines),
        sum(line.object_key is not None for line in lines),
        START if last is None else EndState(last.end, last.stored_crc, last.stamp_us),
        lines[0].stamp_us if lines else 0,
        max((line.durable for line in lines), default=0),
        any(line.more for line in lines),
        [line for line in lines if line.object_key is None],
    )


def expected_count(data: bytes, alone: Scan) -> Count | None:
    """Return what is to be counted: the lines that the native scan takes, as Python alone finds them."""
    found = canonical_lines(data, START, most_batch_bytes=MAX_BATCH_BYTES)
    if found is None:
        return None
    lines, whole = found
    return counted(alone.lines[:whole], proven_bytes=lines.ends[-1] - START.offset)


def differences(logs: int, seed: int) -> Iterator[tuple[bytes, object, object] | str]:
    """Scan so many logs in both ways, some as blocks, too, and count them; yield what of each log came out: how it
    stopped, or, where they differ, all."""
    forger = Forger(seed)
    for number in range(logs):
        data = forger.log()
        found, expected = scanned_natively(data), scanned_alone(data, in_bulk=number % 4 == 0)
        count_found, count_expected = count(data, START), expected_count(data, expected)
        in_block = scan_block(data, START) if number % 8 == 1 else expected
        if count_found != count_expected:
            yield data, count_found, count_expected
        elif in_block != expected:
            yield data, in_block, expected
        elif found == expected:
            yield f"{found.stop.name.lower()}, {'some' if found.lines else 'no'} lines"
        else:
            yield data, found, expected


if __name__ == "__main__":
    sys.exit(compare(__doc__, "logs", differences))
