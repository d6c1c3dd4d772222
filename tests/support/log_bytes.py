"""Bytes that a reader of logs may meet: logs as they are written, damaged ones, and forged ones.

Written logs come with the records they hold. Damage changes bytes and computes no checksum anew, as accidents do. A
forged log has right lengths and checksums around fields that no writer writes: what somebody else's program, or a
writer with a bug, could leave.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from hypothesis import strategies as st

from mpcheckpoint._format.control import Note, encode_header, note_payload
from mpcheckpoint._format.frame import MAX_STAMP_US, EndState, Payload, encode_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypothesis.strategies import DrawFn, SearchStrategy

LOG_KEY = "a"
GENERATION = "5f0c2d9e8b7a41d3a6c1e4f70b92d815"
OTHER_GENERATION = "0123456789abcdef0123456789abcdef"
CREATED_US = 1_000_000
_CLOSING_BYTES = 12


# --- logs as they are written ------------------------------------------------------------------------------


class Batch(NamedTuple):
    """One batch of a written log: where it ends, and its records, each an object key and an event."""

    end: int
    records: list[tuple[str, Any]]


class WrittenLog(NamedTuple):
    """A log as a correct writer leaves it."""

    data: bytes
    header_end: int
    batches: list[Batch]

    def records_below(self, size: int) -> list[tuple[str, Any]]:
        """Return the records of the whole batches within the first ``size`` bytes."""
        return [record for batch in self.batches if batch.end <= size for record in batch.records]

    def line_starts(self) -> list[int]:
        """Return where each line starts."""
        return [0, *(index + 1 for index, byte in enumerate(self.data[:-1]) if byte == 10)]


def header(generation: str = GENERATION, log_key: str = LOG_KEY) -> tuple[bytes, EndState]:
    """Return the first line of a log and the end state behind it."""
    return encode_header(log_key, generation, CREATED_US, stamp_us=CREATED_US)


object_keys: SearchStrategy[str] = st.sampled_from(["x", "y", "", "\0", "ü", '["00000028"'])
events: SearchStrategy[Any] = (
    st.integers(-9, 9)
    | st.sampled_from([None, True, 1.5, "", "UPLOADED", "\n", "ü", {"a": [1, {}]}, "x" * 600])
    | st.sampled_from(['["00000028",1,0,0,"x",1,null,"00000000"]\n', '"00000000"]\n["00000028"'])
)
_payloads = st.tuples(object_keys, events, st.none() | st.sampled_from(["i", "j"]))
_batches = st.lists(st.lists(_payloads, min_size=1, max_size=4), max_size=8)


@st.composite
def written_logs(draw: DrawFn, generation: str = GENERATION) -> WrittenLog:
    """Logs of a few batches, synced at times, some with notes that readers may ignore."""
    data, end = header(generation)
    header_end = durable = end.offset
    batches = []
    for records in draw(_batches):
        payloads = [_payload(*record) for record in records]
        if draw(st.booleans()):
            durable = end.offset
            payloads.append(note_payload(Note("claim", {"object_key": records[0][0], "worker": None})))
        lines, end = encode_batch(payloads, end=end, stamp_us=end.stamp_us + 1, durable=durable)
        data += lines
        batches.append(Batch(end.offset, [(object_key, event) for object_key, event, _ in records]))
    return WrittenLog(data, header_end, batches)


def _payload(object_key: str, event: object, record_id: str | None) -> Payload:
    meta = b"null" if record_id is None else json.dumps({"id": record_id}).encode()
    return Payload(json.dumps(object_key).encode(), json.dumps(event).encode(), meta)


# --- damage ------------------------------------------------------------------------------------------------


def _cut(draw: DrawFn, data: bytes, other: bytes) -> bytes:
    return data[: _place(draw, data)]


def _flip_bit(draw: DrawFn, data: bytes, other: bytes) -> bytes:
    at = _place(draw, data)
    return (
        data[:at] + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1]) + data[at + 1 :]
    )


def _overwrite(draw: DrawFn, data: bytes, other: bytes) -> bytes:
    at = _place(draw, data)
    size = draw(st.sampled_from([1, 2, 8, 12, 40, 64, 512]))
    new = draw(st.sampled_from([b"\0", b"\n", b"0", b"f", b'"', b"\xff", b'["']))
    return data[:at] + (new * size)[: len(data[at : at + size])] + data[at + size :]


def _insert(draw: DrawFn, data: bytes, other: bytes) -> bytes:
    at = _place(draw, data)
    news = [b"\n", b"\n" * 600, b"\0" * 40, b"x", b'["', b'["00000028",', b'"00000000"]\n', b"[" * 2000]
    return data[:at] + draw(st.sampled_from(news) | st.binary(max_size=60)) + data[at:]


def _splice(draw: DrawFn, data: bytes, other: bytes) -> bytes:
    """Put a piece of another log, or of this one, in the place of a piece."""
    source = draw(st.sampled_from([other, data]))
    first, last = sorted((_place(draw, source), _place(draw, source)))
    start, stop = sorted((_place(draw, data), _place(draw, data)))
    return data[:start] + source[first:last] + data[stop:]


def _rearrange(draw: DrawFn, data: bytes, other: bytes) -> bytes:
    """Leave out, repeat or exchange lines."""
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return data
    one, two = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    way = draw(st.sampled_from(["leave out", "repeat", "exchange"]))
    if way == "leave out":
        del lines[one]
    elif way == "repeat":
        lines.insert(two, lines[one])
    else:
        lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def _place(draw: DrawFn, data: bytes) -> int:
    """A place anywhere, or at a line's start or its crc field, where places matter most."""
    at = draw(st.integers(0, len(data)))
    if draw(st.booleans()):
        at = data.rfind(b"\n", 0, at) + 1 - draw(st.sampled_from([0, 0, 1, 4, _CLOSING_BYTES]))
    return max(0, at)


_DAMAGES: list[Callable[[DrawFn, bytes, bytes], bytes]] = [
    _cut,
    _flip_bit,
    _overwrite,
    _insert,
    _splice,
    _rearrange,
]


class DamagedLog(NamedTuple):
    """What accidents left of one of two logs, pieces of which may have been mixed."""

    data: bytes
    sources: tuple[WrittenLog, WrittenLog]

    @property
    def source(self) -> WrittenLog:
        """The log that the damaged one still begins like."""
        return max(self.sources, key=lambda log: common_prefix(self.data, log.data))

    @property
    def intact_bytes(self) -> int:
        """How many bytes are as they were written."""
        return common_prefix(self.data, self.source.data)


@st.composite
def damaged_logs(draw: DrawFn) -> DamagedLog:
    """What one to three accidents leave of a log."""
    log, other = draw(written_logs()), draw(written_logs(OTHER_GENERATION))
    data = log.data
    for damage in draw(st.lists(st.sampled_from(_DAMAGES), min_size=1, max_size=3)):
        data = damage(draw, data, other.data)
    return DamagedLog(data, (log, other))


def sealed(body: bytes) -> bytes:
    """Return a line with the crc that it would have at the start of a file."""
    return body + b'"%08x"]\n' % crc32(body)


def common_prefix(one: bytes, other: bytes) -> int:
    """Return how many bytes two logs have in common."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


# --- forged logs -------------------------------------------------------------------------------------------

_ODD_NUMBERS = [
    b"-1",
    b"1.0",
    b"1e3",
    b"true",
    b"null",
    b'"1"',
    b"",
    b"01",
    b"9" * 30,
    b"9" * 5_000,
    b"1e999",
]
_ODD_STRINGS = [b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\0"', b'"\t"', b'"\\x"', b'"', b"nul", b""]
# What the grammar of JSON allows and a decoder refuses, or another process could not read.
UNSOUND_VALUES = [
    b'"\xff"',
    b'["\xc3"]',
    b'{"\xff":1}',
    b'"\xed\xa0\x80"',
    b"1e999",
    b"[-1E+400]",
    b'{"a":{"b":[1,2e0999]}}',
    b"1" * 310 + b".5",
    b"[" + b"1" * 641 + b"]",
    b"9" * 5_000,
    b"1" * 300 + b"e99",
    b'["' + b"x" * 300 + b'",1e999]',
    b'["' + "ü".encode() * 300 + b'\xff"]',
    b"[" * 129 + b"]" * 129,
    b'{"a":' * 200 + b'"\\\\"' + b"}" * 200,
    b"[" * 10_000 + b"]" * 10_000,
]
# As strange, and sound.
SOUND_VALUES = [
    b"1e308",
    b"1e-999",
    b"0e99999",
    b"1" * 310,
    b"1" * 640,
    b"-" + b"1" * 640,
    b"0." + b"1" * 5_000,
    b'"' + b"1" * 5_000 + b'"',
    b'["1e999","' + b"9" * 700 + b'","\\\\",1]',
    b'["' + b"[" * 300 + b'\\"' + b"[" * 300 + b'"]',
    b"[" * 128 + b"]" * 128,
    b"[" + b"[],{}," * 100 + b'"\\""]',
    b'{"a":1,"a":2,"":null}',
    b'"\\u0000\\ud83d\\ude00\\/"',
    "“ü😀”".join('""').encode(),
    b" [ 1 , 2 ] ",
    b'"' + b"x" * 5_000 + b'"',
]
_MALFORMED_VALUES = [
    b"",
    b"nul",
    b"[1,]",
    b"[",
    b"{",
    b'"\\ud800"',
    b"NaN",
    b"1 2",
    b'"\0"',
    b"1,2",
    b"[1\n]",
]
_METAS = [
    b"null",
    b'{"id":"i"}',
    b'{"id":5}',
    b'{"id":null}',
    b"{}",
    b'{"x":1e999}',
    b'{"x":[]}',
    b"5",
    b'"id"',
    b"[]",
]


class Chain:
    """A log that is being forged: its bytes, and what lines need to know of those before them."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.crc = crc32(data)
        self.stamp_us = CREATED_US
        self.durable = 0
        self.more = 0
        self.header_end = 0

    def line(self, fields: bytes, *, opening: bytes | None = None, closing: bytes | None = None) -> None:
        """Add a line of right length and crc around any fields; or with another opening or closing."""
        length = len(b'["00000000",') + len(fields) + len(b",") + _CLOSING_BYTES
        body = (b'["%08x' % length if opening is None else opening) + b'",' + fields + b","
        crc = crc32(body, self.crc)
        tail = (b'"%08x"]\n' % crc) if closing is None else closing
        self.data += body + tail
        self.crc = crc32(tail, crc)

    def raw(self, data: bytes) -> None:
        """Add bytes that are no line. A writer that had put them there would go on from their crc."""
        self.data += data
        self.crc = crc32(data, self.crc)


def _forge_header(draw: DrawFn, chain: Chain) -> None:
    event: dict[str, Any] = {
        "control": "header",
        "format": "mpcheckpoint",
        "version": 1,
        "log_key": LOG_KEY,
        "generation": GENERATION,
        "created_us": CREATED_US,
        "previous": [],
    }
    fields = [b"%d" % CREATED_US, b"0", b"0", b"null", json.dumps(event).encode(), b"null"]
    oddity = draw(st.sampled_from([*[None] * 15, "member", "undecodable", *range(6), "twice"]))
    if oddity == "member":
        event[draw(st.sampled_from([*event, "extra"]))] = draw(st.sampled_from(_ODD_MEMBERS))
        fields[4] = json.dumps(event).encode()
    elif oddity == "undecodable":
        fields[4] = fields[4][:-1] + b',"extra":' + draw(st.sampled_from(UNSOUND_VALUES)) + b"}"
    elif isinstance(oddity, int):
        fields[oddity] = draw(st.sampled_from([b"1", b'"x"', b"%d" % MAX_STAMP_US, *_METAS, *_ODD_NUMBERS]))
    chain.line(b",".join(fields))
    if oddity == "twice":
        chain.raw(draw(st.sampled_from([chain.data, b"\n", b"x", b"\0" * 70_000])))


_ODD_MEMBERS: list[Any] = [
    None,
    "",
    "header",
    "../../x",
    "\0",
    "x" * 400,
    GENERATION.upper(),
    0,
    2,
    1.5,
    True,
    10**30,
    -1,
    [],
    ["\0"],
    ["../x"],
    [GENERATION],
    [OTHER_GENERATION] * 600,
    {},
    {"a": 1},
]
# The first four are what a writer may leave.
_CONTROLS: list[dict[str, Any]] = [
    {"control": "claim", "ignorable": True, "object_key": "x", "worker": GENERATION},
    {"control": "map", "ignorable": True, "version": "", "run": 1},
    {"control": "merged", "ignorable": True, "x": [1]},
    {"control": "unsealed"},
    {"control": "header", "format": "mpcheckpoint", "version": 2},
    {"control": "sealed", "next": OTHER_GENERATION},
    {"control": "copied", "from": 5, "records": "x"},
    {"control": "merged"},
    {"control": "merged", "ignorable": False},
    {"control": "sealed", "ignorable": True},
    {"control": 5, "ignorable": True},
    {"ignorable": True},
    {"control": "claim", "ignorable": True},
    {"control": "claim", "ignorable": True, "object_key": None, "worker": GENERATION},
    {"control": "claim", "ignorable": True, "object_key": "x", "worker": "../../x"},
    {"control": "claim", "ignorable": True, "object_key": ["x"], "worker": 5},
    {"control": "claim", "ignorable": 1, "object_key": "x", "worker": None},
    {"control": "map", "ignorable": True},
    {"control": "map", "ignorable": True, "version": 5, "run": "x"},
    {"control": "", "ignorable": True},
]
_CONTROL_EVENTS = [json.dumps(control).encode() for control in _CONTROLS] + [
    b"null",
    b"5",
    b"[]",
    b"{}",
    b'{"control":"\xff","ignorable":true}',
    b'{"control":"claim","ignorable":true,"object_key":"\xff"}',
    b'{"control":"claim","control":"sealed","ignorable":true}',
    b'{"control":"x","ignorable":true,"y":1e999}',
    b'{"control":"x","ignorable":true,"y":' + b"[" * 500 + b"]" * 500 + b"}",
]


_ODD_OPENINGS = [
    b'["00000000',
    b'["0000003B',
    b'["ffffffff',
    b' ["0000003',
    b'["00000028',
    b'[ "000003a',
    b'["04000000',
]
_ODD_CLOSINGS = [b'"00000000"]\n', b"", b'"0000000G"]\n', b'"00000000"] \n', b'"00000000"]']
_ODD_KEYS = [b'""', b'"\\u0000"', b'"' + b"k" * 3_000 + b'"', b"5", b"[]", *_ODD_STRINGS]
# Where a line is forged: mostly nowhere, else in one of its six fields, around them, or in what it is about.
_ODDITIES = [*[None] * 14, *range(6), "control", "control", "text", "opening", "closing"]


def _forge_line(draw: DrawFn, chain: Chain) -> None:
    is_first = chain.more == 0
    chain.stamp_us += is_first
    chain.more = draw(st.sampled_from([0, 0, 0, 1, 2])) if is_first else chain.more - 1
    if is_first:
        chain.durable = draw(st.sampled_from([len(chain.data), chain.header_end]))
    fields = [b"%d" % chain.stamp_us, b"%d" % chain.durable, b"%d" % chain.more]
    if draw(st.integers(0, 4)):
        fields += [draw(st.sampled_from([b'"x"', b'"y"'])), draw(st.sampled_from(SOUND_VALUES))]
    else:
        fields += [b"null", draw(st.sampled_from(_CONTROL_EVENTS[:4]))]
    fields.append(draw(st.sampled_from(_METAS[:5])))
    oddity = draw(st.sampled_from(_ODDITIES))
    if isinstance(oddity, int):
        fields[oddity] = draw(st.sampled_from(_odd_fields(oddity, chain)))
    elif oddity == "control":
        fields[3:5] = [b"null", draw(st.sampled_from(_CONTROL_EVENTS))]
    text = b",".join(fields)
    if oddity == "text":
        odd_texts = [text + b",null", b"", text.replace(b",", b" , "), text + b"\n", text + b"]\n["]
        text = draw(st.sampled_from(odd_texts))
    chain.line(
        text,
        opening=draw(st.sampled_from(_ODD_OPENINGS)) if oddity == "opening" else None,
        closing=draw(st.sampled_from(_ODD_CLOSINGS)) if oddity == "closing" else None,
    )


def _odd_fields(index: int, chain: Chain) -> Sequence[bytes]:
    """Return what may stand in the place of one of a line's six fields."""
    offset, stamp_us = len(chain.data), chain.stamp_us
    numbers = [
        (stamp_us - 1, stamp_us + 1, stamp_us - 3, MAX_STAMP_US, MAX_STAMP_US + 1),
        (offset, offset + 1, 1, 0, max(0, offset - 7), 2**62),
        (0, 1, 5, 2**70),
    ]
    if index < 3:
        return [*(b"%d" % number for number in numbers[index]), *_ODD_NUMBERS]
    return (_ODD_KEYS, [*UNSOUND_VALUES, *_MALFORMED_VALUES], _METAS)[index - 3]


@st.composite
def forged_logs(draw: DrawFn) -> bytes:
    """Logs with right lengths and checksums around fields that may be anything."""
    chain = Chain()
    if draw(st.integers(0, 20)):
        _forge_header(draw, chain)
    chain.header_end = len(chain.data)
    for kind in draw(st.lists(st.sampled_from(["line"] * 12 + ["raw"]), max_size=12)):
        if kind == "line":
            _forge_line(draw, chain)
        else:
            chain.raw(draw(st.sampled_from([b"\n", b"\n" * 600, b"\0" * 9, b'["', b"x\n", chain.data[:300]])))
    if not draw(st.integers(0, 5)):
        return chain.data[: draw(st.integers(0, len(chain.data)))]
    return chain.data


def forged_log(*lines: bytes) -> bytes:
    """Return a log of a sound header and these lines' fields, from the object key to the meta, each a batch."""
    chain = Chain(header()[0])
    for number, fields in enumerate(lines, 1):
        chain.line(b"%d,%d,0," % (CREATED_US + number, len(chain.data)) + fields)
    return chain.data


@st.composite
def arbitrary_bytes(draw: DrawFn) -> bytes:
    """Any bytes, some behind the header of a log."""
    start = draw(st.sampled_from([b"", header()[0], header()[0][:-1]]))
    unit = draw(
        st.binary(max_size=40) | st.sampled_from([b'["', b"\n", b'["00000028",', b'"00000000"]\n["00000028"'])
    )
    return start + unit * draw(st.sampled_from([1, 1, 2, 50, 3000])) + draw(st.binary(max_size=100))
