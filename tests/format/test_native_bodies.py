"""Batches as a server keeps them, taken apart by the native core: the same lines as Python finds, and nothing else."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import _core
from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._format.frame import Payload
from mpcheckpoint._postgres.rows import body_of, lines_of
from support.capabilities import native_core, native_core_in_use
from support.leaks import CALLS, require_no_leak

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpcheckpoint._format.columns import Lines

EVENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(-1e300, 1e300)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
RECORDS = st.builds(encode_payload, TEXTS, EVENTS, st.none() | st.none() | TEXTS)
NOTES = st.builds(lambda name: note_payload(Note(name, {"a": [1]})), st.sampled_from(["x", "y.z"]))
# A batch of which a compaction left the id alone has no line.
BATCHES = st.lists(st.lists(RECORDS | RECORDS | NOTES, max_size=4), min_size=1, max_size=6)


@pytest.fixture(scope="module", autouse=True)
def native_in_use() -> Iterator[None]:
    """Have the native core run, also where it was told not to."""
    with native_core_in_use():
        yield


class Kept:
    """Some batches as a server keeps them."""

    def __init__(self, batches: Sequence[Sequence[Payload]]) -> None:
        bodies = [body_of(batch) for batch in batches]
        self.bodies = b",".join(filter(None, bodies))
        self.ends = array("Q", accumulate((len(body) for body in bodies), initial=1000))[1:]
        self.stamps_us = array("Q", range(17, 17 + len(bodies)))
        self.counts = array("Q", map(len, batches))

    def taken(self) -> bool:
        """Return whether the native core takes them."""
        numbers = (each.tobytes() for each in (self.ends, self.stamps_us, self.counts))
        return native_core().bodies(self.bodies + b"\n", *numbers) is not None

    def lines(self) -> Lines:
        """Return their lines."""
        return lines_of(self.bodies, self.ends, self.stamps_us, self.counts)

    def lines_alone(self) -> Lines:
        """Return their lines as Python finds them alone."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_core, "native", None)
            return self.lines()


@given(BATCHES)
def test_lines_that_our_writer_makes_are_taken_as_python_finds_them(batches: list[list[Payload]]) -> None:
    kept = Kept(batches)

    assert kept.taken() == any(batches)
    lines, alone = kept.lines(), kept.lines_alone()
    assert lines == alone
    assert [(line.object_key is None, line.more) for line in lines] == [
        (payload.object_key == b"null", len(batch) - 1 - index)
        for batch in batches
        for index, payload in enumerate(batch)
    ]
    assert lines.is_plain == (lines.metas is None and None not in lines.object_keys)
    assert list(lines.controls()) == list(alone.controls())
    assert lines.records() == alone.records()


@pytest.mark.parametrize(
    "body",
    [
        b'["k", 1]',
        b' ["k",1]',
        b'["k",1] ',
        b'["k",1],',
        b'["k",1]["k",1]',
        b'["k",1,null]',
        b'["k",1,[]]',
        b'["k",1,{},2]',
        b'["k",1,{}',
        b'["k"]',
        b'["k",]',
        b"[1,1]",
        b"[nil,1]",
        b'["k",01]',
        b'["k","a\nb"]',
        b'["k","\xff"]',
        b'["\\u0041",1]',
        b'{"k":1}',
        b"1",
        b"[",
        b"",
    ],
)
def test_body_in_another_form_is_left_to_python(body: bytes) -> None:
    kept = Kept([[Payload(b'"k"', b"1")]])
    assert kept.taken()

    kept.bodies = body

    assert not kept.taken()


@pytest.mark.parametrize("counts", [[1, 1], [2, 2], [3, 0], [0, 0], [2**63, 2], [2**64 - 1, 4]])
def test_another_number_of_lines_than_is_said_is_left_to_python(counts: list[int]) -> None:
    kept = Kept([[Payload(b'"k"', b"1"), Payload(b'"k"', b"2")], [Payload(b'"k"', b"3")]])
    assert kept.taken()

    kept.counts = array("Q", counts)

    assert kept.taken() == (counts == [3, 0])


def test_body_that_ends_anywhere_is_left_to_python() -> None:
    kept = Kept([[encode_payload("k\xe9\n", {"a": [1, "\u20ac", 2.5e-7, True]}, "an id")]])
    assert kept.taken()
    whole = kept.bodies

    for end in range(len(whole)):
        kept.bodies = whole[:end]
        assert not kept.taken(), end


def test_columns_of_different_lengths_are_left_to_python() -> None:
    kept = Kept([[Payload(b'"k"', b"1")]])

    kept.stamps_us = array("Q")

    assert not kept.taken()


def test_many_bodies_leave_no_memory_behind(intensity: int) -> None:
    kept = Kept(
        [[Payload(b'"k"', b"[1]"), Payload(b'"\\n"', b"2", b'{"id":"x"}')], [Payload(b"null", b"{}")]]
    )

    require_no_leak(kept.taken, [kept.bodies], calls=CALLS * intensity)
