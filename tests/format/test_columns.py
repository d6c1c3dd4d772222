"""Lines read in bulk: exactly those that are lines one by one, also where somebody forged them with right crcs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint._format import rows
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import (
    EndState,
    Line,
    Payload,
    closing,
    encode_batch,
    parse_line,
    running_crc,
    stated_length,
)
from mpcheckpoint._format.rows import parse_lines
from mpcheckpoint._format.scan import scan
from support.log_bytes import sealed

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = 5_000
FIRST_CRC = 0x1234ABCD
# What follows the length field, up to and with the comma before the crc field.
PLAIN = b'7,500,0,"object","event",null,'


def forged(*middles: bytes, wrong_crc_at: int | None = None) -> bytes:
    """Return lines with right lengths and crcs around whatever stands between; one crc may be another, with which all
    later ones count."""
    data, crc = b"", FIRST_CRC
    for index, middle in enumerate(middles):
        body = b'["%08x",' % (12 + len(middle) + 12) + middle
        stored = crc32(body, crc) ^ (index == wrong_crc_at)
        crc = crc32(closing(stored), crc32(body, crc))
        data += body + closing(stored)
    return data


def one_by_one(data: bytes) -> list[Line]:
    """Return the lines that a look at each finds, up to the first that is none."""
    found: list[Line] = []
    start, crc = 0, FIRST_CRC
    while start < len(data):
        length = stated_length(data, start)
        if length is None or data.find(b"\n", start, start + length) != start + length - 1:
            break
        line = parse_line(data, start, start + length, base=BASE, crc=crc)
        if isinstance(line, str):
            break
        found.append(line)
        start, crc = start + length, running_crc(line.stored_crc)
    return found


def require_alike(data: bytes) -> bool:
    """Require of bulk to take all of the lines that one by one are lines, or nothing; return whether it took them."""
    alone, in_bulk = one_by_one(data), parse_lines(data, base=BASE, crc=FIRST_CRC)
    is_sound = bool(alone) and alone[-1].end == BASE + len(data)
    assert list(in_bulk) == (alone if is_sound else [])
    return is_sound


SOUND = {
    "plain": PLAIN,
    "escapes": b'7,500,0,"\\u00e9\\n","\\ud83d\\ude00\\"",null,',
    "utf-8": '7,500,0,"\u00e9","\U0001f600",null,'.encode(),
    "white space inside": b'7 , 500,0,"k", [1, 2 ] ,null ,',
    "control line": b'7,500,0,null,{"control":"x"},null,',
    "meta": b'7,500,0,"k",1,{"id":"x"},',
    "empty meta": b'7,0,0,"kk",1,{},',
    "white space before the crc": b'7,500,0,"k",1,null, ',
    "as deep as may be": b'7,500,0,"k",' + b"[" * 128 + b"]" * 128 + b",null,",
    "a long integer": b'7,500,0,"k",' + b"9" * 640 + b",null,",
    "digits in neighbours": b'7,500,0,"k",' + b"9" * 150 + b",null,",
    "an exponent of two digits": b'7,500,0,"k",1e99,null,',
    "a small exponent": b'7,500,0,"k",1e-400,null,',
    "text of exponents": b'7,500,0,"k","1e999",null,',
    "a long string": b'7,500,0,"k","' + b"x" * 5_000 + b'",null,',
    "highest stamp": b'9007199254740991,500,0,"k",1,null,',
    "durable at its own offset": b'7,5000,0,"k",1,null,',
    "many more": b'7,500,99999999999999999999,"k",1,null,',
}
FAULTY = {
    "no utf-8 in the key": b'7,500,0,"\xff",1,null,',
    "no utf-8 in the event": b'7,500,0,"k","\xff",null,',
    "no utf-8 in the meta": b'7,500,0,"k",1,{"a":"\xff"},',
    "an encoded surrogate": b'7,500,0,"k","\xed\xa0\x80",null,',
    "a lone surrogate": b'7,500,0,"k","\\ud800",null,',
    "an unknown escape": b'7,500,0,"k","\\x",null,',
    "a control character": b'7,500,0,"k","\x01",null,',
    "beyond a double": b'7,500,0,"k",1e999,null,',
    "beyond a double, upper case": b'7,500,0,"k",[-1E+309],null,',
    "beyond a double by its digits": b'7,500,0,"k",' + b"9" * 250 + b"e60,null,",
    "nested too deep": b'7,500,0,"k",' + b"[" * 129 + b"]" * 129 + b",null,",
    "nested far too deep": b'7,500,0,"k",' + b"[" * 5_000 + b"]" * 5_000 + b",null,",
    "an integer too long": b'7,500,0,"k",' + b"9" * 641 + b",null,",
    "an integer far too long": b'7,500,0,"k",' + b"9" * 5_000 + b",null,",
    "a meta that is no object": b'7,500,0,"k",1,[1],',
    "a meta beyond a double": b'7,500,0,"k",1,{"a":1e999},',
    "a negative stamp": b'-7,500,0,"k",1,null,',
    "a stamp too high": b'9007199254740992,500,0,"k",1,null,',
    "a stamp that is a float": b'7.0,500,0,"k",1,null,',
    "a negative durable": b'7,-1,0,"k",1,null,',
    "durable above its own offset": b'7,99999,0,"k",1,null,',
    "a negative more": b'7,500,-1,"k",1,null,',
    "a key that is a number": b"7,500,0,5,1,null,",
    "a field more": b'7,500,0,"k",1,null,null,',
    "a field less": b'7,500,0,"k",null,',
    "two values": b'7,500,0,"k",1,null,"12345678"]["00000040",7,500,0,"k",1,null,',
    "a newline between fields": b'7,500,0,\n"k",1,null,',
    "a newline in a nested array": b'7,500,0,"k",["12345678"]\n,null,',
    "a newline in the event": b'7,500,0,"k","a\nb",null,',
    "no comma": b'7,500,0,"k",1,null',
    "shorter than any": b'7,0,0,"",1,{},',
    "a more of far too many digits": b"7,500," + b"9" * 5_000 + b',"k",1,null,',
}


@pytest.mark.parametrize("middle", SOUND.values(), ids=SOUND)
@pytest.mark.parametrize("count", [1, 3, 2_000])
def test_bulk_takes_unusual_lines_that_are_lines(middle: bytes, count: int) -> None:
    middles = [PLAIN] * count
    middles[count // 2] = middle

    assert require_alike(forged(*middles))


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("middle", FAULTY.values(), ids=FAULTY)
@pytest.mark.parametrize("count", [1, 3, 2_000])
def test_bulk_takes_nothing_where_one_line_is_none(middle: bytes, count: int) -> None:
    middles = [PLAIN] * count
    middles[count // 2] = middle

    assert not require_alike(forged(*middles))


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("where", [0, 1, 700, 1_998, 1_999])
def test_bulk_takes_nothing_where_an_inner_crc_is_wrong_and_all_later_ones_are_right(where: int) -> None:
    """No accident does that: the last crc is right, and so is every other."""
    data = forged(*[PLAIN] * 2_000, wrong_crc_at=where)

    assert len(one_by_one(data)) == where
    assert not require_alike(data)


def with_text(data: bytes, place: int, old: bytes, new: bytes) -> bytes:
    """Return the first line with ``new`` in the place of ``old``, and the crcs of both lines right again."""
    assert data[place : place + len(old)] == old
    body = data[:place] + new + data[place + len(old) : data.index(b"\n") - 11]
    stored = crc32(body, FIRST_CRC)
    second = data[data.index(b"\n") + 1 : -12]
    return body + closing(stored) + second + closing(crc32(second, running_crc(stored)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"0000003a", b"0000003A"),
        (b"0000003a", b"\\u0030000003a"),
        (b"0000003a", b"000003a"),
        (b"0000003a", b"00000003a"),
        (b"0000003a", b"0000003b"),
        (b"0000003a", b" 000003a"),
        (b"0000003a", b""),
    ],
)
def test_bulk_takes_nothing_where_a_length_is_written_in_another_way(old: bytes, new: bytes) -> None:
    data = forged(b'7,500,0,"objects","even",null,' + b" " * 4, PLAIN)
    assert require_alike(data)

    assert not require_alike(with_text(data, 2, old, new))


def test_bulk_takes_nothing_where_white_space_stands_before_a_line() -> None:
    data = forged(PLAIN, PLAIN)
    body = b" " + data[: data.index(b"\n") - 11]
    second = data[data.index(b"\n") + 1 : -12]
    stored = crc32(body, FIRST_CRC)
    changed = body + closing(stored) + second + closing(crc32(second, running_crc(stored)))

    assert not require_alike(changed)


TOKENS = [
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"1",
        b"0",
        b"-",
        b".",
        b"e",
        b"E",
        b"+",
        b"null",
        b"true",
    ),
    *(
        b'"a"',
        b" ",
        b"\t",
        b"\n",
        b"\x00",
        b"\\n",
        b"\\u00",
        b"12e99",
        b"9" * 30,
        "\u00e9".encode(),
        b"\xff",
        b"e9",
    ),
]
texts = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=8).map(b"".join)


@given(events=st.lists(texts, min_size=1, max_size=4), data=st.data())
def test_bulk_takes_any_text_in_the_place_of_a_field_as_a_look_at_each_line_does(
    events: list[bytes], data: st.DataObject
) -> None:
    fields = [b"7", b"500", b"0", b'"object"', b"1", b"null"]
    middles = []
    for event in events:
        changed = list(fields)
        changed[data.draw(st.integers(0, 5))] = event
        middles.append(b",".join(changed) + b",")

    require_alike(forged(PLAIN, *middles, PLAIN))


@given(data=st.data())
def test_bulk_takes_any_change_of_bytes_as_a_look_at_each_line_does(data: st.DataObject) -> None:
    changed = bytearray(forged(PLAIN, SOUND["meta"], SOUND["control line"], PLAIN))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))

    require_alike(bytes(changed))


# --- as a sequence -----------------------------------------------------------------------------------------


def lines_of(*events: bytes, metas: Sequence[bytes] = (), size: int = 64 * 1024) -> Lines:
    """Return these events as lines that were read in bulk, taken apart so many bytes at a time."""
    payloads = [
        Payload(b"null" if event.startswith(b"{") else b'"k%d"' % number, event, meta)
        for number, (event, meta) in enumerate(zip(events, metas or [b"null"] * len(events), strict=True))
    ]
    data, _ = encode_batch(payloads, end=EndState(BASE, 1, 1), stamp_us=9, durable=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_SLICE_BYTES", size)
        return parse_lines(data, base=BASE, crc=running_crc(1))


@pytest.mark.parametrize("size", [1, 200, 64 * 1024])
def test_lines_are_the_sequence_that_a_list_of_them_is(size: int) -> None:
    metas = [b"null", b"null", b'{"id":"x"}', b"null", b"null", b"null"]
    lines = lines_of(b"1", b'"two"', b"[]", b'{"control":"c"}', b'""', b"-5", metas=metas, size=size)
    all_lines = list(lines)

    assert [line.event for line in all_lines] == [b"1", b'"two"', b"[]", b'{"control":"c"}', b'""', b"-5"]
    assert [line.meta for line in all_lines] == metas
    assert [lines[index] for index in range(-6, 6)] == [all_lines[index] for index in range(-6, 6)]
    for start in range(-7, 8):
        for stop in range(-7, 8):
            for step in (None, 1, 2, -1):
                where = slice(start, stop, step)
                assert lines[where] == all_lines[where]
                assert lines[where][:2] == all_lines[where][:2]
    with pytest.raises(IndexError):
        lines[6]
    assert lines != all_lines[:-1]


def test_lines_tell_records_from_control_lines() -> None:
    lines = lines_of(b"1", b'{"control":"c"}', b"2")

    assert [index for index, _ in lines.controls()] == [1]
    assert [line.event for line in lines.records()] == [b"1", b"2"]
    plain = lines_of(b"1", b"2")
    assert plain.records() is plain
    assert list(plain.controls()) == []


def test_lines_of_a_list_are_the_same() -> None:
    lines = lines_of(b"1", b'{"control":"c"}', b"2", metas=[b"null", b"null", b'{"id":"x"}'])

    assert Lines.of(lines) is lines
    assert Lines.of(list(lines)) == list(lines)
    assert list(Lines.of([])) == []


# --- forged lines --------------------------------------------------------------------------------------------


START = EndState(200, 5, 5)


def in_bulk_and_one_by_one(data: bytes, crc: int = 0) -> tuple[int, int]:
    """Return how many lines both ways of looking find, from the start on."""
    bulk = len(parse_lines(data, base=500, crc=crc))
    count = position = 0
    while position < len(data):
        stop = data.index(b"\n", position) + 1
        line = parse_line(data, position, stop, base=500, crc=crc)
        if isinstance(line, str) or data[position : position + 10] != b'["%08x' % (stop - position):
            break
        crc = crc32(data[position:stop], crc)
        count, position = count + 1, stop
    return bulk, count


def a_line(length: int, number: int, rest: bytes = b"") -> bytes:
    """The bytes of a line of 59 bytes up to its crc field, that states any length."""
    return b'["%08x",%d,0,0,"k","' % (length, number) + b"x" * 13 + b'",null,' + rest


@pytest.mark.guarantee(6)
def test_lines_whose_inner_crc_field_is_wrong_are_refused_in_bulk_too() -> None:
    wrong = sealed(a_line(59, 1))[:-12] + b'"00000000"]\n'
    data = sealed(wrong + a_line(59, 2))

    assert in_bulk_and_one_by_one(data) == (0, 0)


@pytest.mark.guarantee(6)
def test_lines_whose_lengths_only_add_up_are_refused_in_bulk_too() -> None:
    data = sealed(sealed(a_line(0, 1)) + a_line(118, 2))

    assert in_bulk_and_one_by_one(data) == (0, 0)


@pytest.mark.guarantee(6)
def test_line_shorter_than_any_is_refused_in_bulk_too() -> None:
    body = b'["00000026",0,0,0,"",1,{},'
    data = sealed(body)
    assert len(data) == 0x26

    assert parse_lines(data, base=500, crc=0) == []
    assert scan(data, START).lines == []


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("before", [b" ", b"\t", b"\r"])
def test_line_behind_white_space_is_refused_in_bulk_too(before: bytes) -> None:
    body = before + a_line(60, 1)

    assert in_bulk_and_one_by_one(sealed(body)) == (0, 0)


@pytest.mark.guarantee(6)
def test_two_arrays_in_one_line_are_refused_in_bulk_too() -> None:
    one = sealed(a_line(59, 1)).removesuffix(b"\n")
    data = sealed(one + b"\n".join(a_line(59, 2).split(b",", 1)).replace(b"\n", b",\n"))

    assert in_bulk_and_one_by_one(data) == (0, 0)
