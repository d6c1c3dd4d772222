"""Batches as rows of a server: what is made of payloads, without a server."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest

from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._format.concern import concern_of, concerns_of_objects
from mpcheckpoint._format.control import forget_payload
from mpcheckpoint._format.frame import Payload
from mpcheckpoint._postgres.rows import body_of, concerns_of, hashes_of

PLAIN = [encode_payload("x", 1), encode_payload("y", "z"), encode_payload("x", [2])]
OTHERS = {
    "an escape that another program wrote": Payload(b'"\\u0078"', b"1"),
    "a key with an escape": encode_payload('a"b', 1),
    "a forget": forget_payload("x"),
}


def test_concerns_of_plain_records_are_their_objects() -> None:
    assert set(concerns_of(PLAIN)) == concerns_of_objects(["x", "y"])


@pytest.mark.parametrize("payload", OTHERS.values(), ids=OTHERS)
def test_concerns_of_any_payloads_are_those_of_each(payload: Payload) -> None:
    payloads = [*PLAIN, payload]

    assert set(concerns_of(payloads)) == set(map(concern_of, payloads))


def test_hashes_are_an_array_of_integers_with_each_once() -> None:
    found = hashes_of([b'"x"', b'"y"', b'"x"'])

    assert struct.unpack_from("!5i", found) == (1, 0, 23, 2, 1)
    assert {item for _, item in struct.iter_unpack("!iI", found[20:])} == {crc32(b'"x"'), crc32(b'"y"')}
    assert hashes_of([]) == struct.pack("!3i", 0, 0, 23)


def test_body_has_a_meta_only_where_it_is_not_null() -> None:
    payloads = [encode_payload("x", 1), encode_payload("y", [2], "an id")]

    assert body_of(payloads) == b'["x",1],["y",[2],{"id":"an id"}]'
    assert body_of(payloads[:1]) == b'["x",1]'
    assert body_of([]) == b""
