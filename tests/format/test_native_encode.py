"""What the native core encodes: the same bytes as Python alone makes, or it is left to Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import _core
from mpcheckpoint._format import codec
from mpcheckpoint._format.codec import decode_event, encode_payload, encode_payloads
from mpcheckpoint._format.frame import MAX_STAMP_US, EndState, Payload, batch_bytes_bound, encode_batch
from mpcheckpoint.errors import InvalidEventError, InvalidKeyError, LimitExceededError
from support import encode_fuzz
from support.capabilities import native_core, native_core_in_use
from support.encode_fuzz import Colour, Name, encoded_alone, framed_alone
from support.leaks import CALLS, require_no_leak
from support.scan_fuzz import START

if TYPE_CHECKING:
    from types import ModuleType

# What a run in CI tries; the command in support.encode_fuzz tries more.
EVENTS = 20_000
MOST = codec._PLAINLY_SMALL_BYTES


@pytest.fixture(autouse=True, scope="module")
def native() -> Any:
    """The native core, in use also where it was told not to run."""
    with native_core_in_use() as found:
        yield found


def nested(depth: int, leaf: Any) -> Any:
    """Return a leaf inside of so many lists and dicts."""
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"a": leaf}
    return leaf


# --- the same bytes --------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]))
events = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.guarantee(10)
@given(key=texts, event=events, record_id=st.none() | texts)
def test_record_without_floats_is_always_taken_and_encoded_as_python_would(
    key: str, event: Any, record_id: str | None
) -> None:
    found = native_core().payload(Payload, key, event, record_id, MOST)

    assert type(found) is Payload
    assert found == encoded_alone(key, event, record_id)
    assert decode_event(found.event) == event


@pytest.mark.guarantee(10)
@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_float_is_written_as_python_would_and_comes_back(number: float) -> None:
    found = encode_payload("x", [number, {"a": number}])

    assert found == encoded_alone("x", [number, {"a": number}])
    assert repr(decode_event(found.event)) == repr([number, {"a": number}])


FLOATS = [
    0.0,
    -0.0,
    1.0,
    1e15,
    1e16,
    1.5e16,
    1e-4,
    1e-6,
    1e-7,
    1e22,
    1e300,
    5e-324,
    1.7976931348623157e308,
    0.1,
    123456.789,
]


@pytest.mark.parametrize("number", FLOATS)
def test_float_is_taken(native: ModuleType, number: float) -> None:
    assert native.payload(Payload, "x", number, None, MOST) == encoded_alone("x", number)


def test_depth_that_is_allowed_is_taken_and_one_more_is_not(native: ModuleType) -> None:
    for leaf in (1, [], {}):
        deepest = 128 if leaf == 1 else 127
        assert native.payload(Payload, "x", nested(deepest, leaf), None, MOST) == encoded_alone(
            "x", nested(deepest, leaf)
        )
        assert native.payload(Payload, "x", nested(deepest + 1, leaf), None, MOST) is None


OTHERS = {
    "a float that the encoder writes in another way": 1.5e-5,
    "an integer of more than 64 bits": 2**63,
    "a negative integer of more than 64 bits": -(2**63) - 1,
    "a lone surrogate": "\ud800",
    "not a number": float("nan"),
    "infinity": [float("inf")],
    "a tuple": (1,),
    "an enum": [Colour.RED],
    "a subclass of str": Name("x"),
    "a name that is no string": {1: 2},
    "a name of a subclass of str": {Name("x"): 2},
    "bytes": b"x",
    "an object": object(),
}


@pytest.mark.guarantee(10)
@pytest.mark.parametrize("event", OTHERS.values(), ids=OTHERS)
def test_event_that_is_not_simple_is_left_to_python(native: ModuleType, event: Any) -> None:
    assert native.payload(Payload, "x", event, None, MOST) is None
    assert native.payloads(Payload, [("x", 1), ("x", event)], MOST) is None
    expected = encoded_alone("x", event)
    if isinstance(expected, Payload):
        assert encode_payload("x", event) == expected
        assert encode_payloads([("x", 1), ("x", event)])[1] == expected
    else:
        with pytest.raises(InvalidEventError) as raised:
            encode_payload("x", event)
        assert f"InvalidEventError: {raised.value}" == expected


def test_event_that_contains_itself_is_refused() -> None:
    event: list[Any] = []
    event.append(event)

    with pytest.raises(InvalidEventError):
        encode_payload("x", event)


@pytest.mark.parametrize(
    ("key", "record_id"), [(5, None), (Name("x"), None), ("\ud800", None), ("x", 5), ("x", "\ud800")]
)
def test_key_or_id_that_is_no_text_is_refused(key: Any, record_id: Any) -> None:
    with pytest.raises(InvalidKeyError):
        encode_payload(key, 1, record_id)


def test_record_that_takes_many_bytes_is_left_to_python(
    native: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len('"x"') + len('"1234"') + len("null")

    assert native.payload(Payload, "x", "1234", None, size) is not None
    assert native.payload(Payload, "x", "1234", None, size - 1) is None
    with pytest.raises(LimitExceededError):
        encode_payload("x", "y" * (64 * 2**20))


@pytest.mark.guarantee(10)
def test_fuzzed_events_are_encoded_and_framed_alike_with_the_native_core_and_without() -> None:
    seen = set()
    for found in encode_fuzz.differences(EVENTS, seed=11):
        assert isinstance(found, str), found
        seen.add(found)

    assert seen == {"taken", "left to Python: refused", "left to Python: sound"}


# --- in bulk, and as lines -------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A pair that is no plain tuple."""

    object_key: str
    event: Any


@given(
    records=st.lists(st.tuples(texts, events | st.floats(allow_nan=False, allow_infinity=False)), max_size=20)
)
def test_records_in_bulk_are_those_one_by_one(records: list[tuple[str, Any]]) -> None:
    expected = [encoded_alone(*record) for record in records]

    assert encode_payloads(records) == expected
    assert encode_payloads(iter(records)) == expected
    assert encode_payloads([list(record) for record in records]) == expected  # type: ignore[misc]
    assert encode_payloads([Pair(*record) for record in records]) == expected


@pytest.mark.parametrize("records", [[("x",)], [("x", 1, 2)], [5], 5, [("x", 1), None]])
def test_records_that_are_no_pairs_raise_as_they_do_without(
    records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = []
    for core in (_core.native, None):
        monkeypatch.setattr(_core, "native", core)
        with pytest.raises((TypeError, ValueError)) as raised:
            encode_payloads(records)
        errors.append(raised.type)

    assert errors[0] is errors[1]


payload_lists = st.lists(
    st.tuples(texts, events, st.none() | texts).map(lambda record: encode_payload(*record)),
    min_size=1,
    max_size=12,
)


@given(
    payloads=payload_lists,
    offset=st.integers(40, 2**40),
    stored_crc=st.integers(0, 2**32 - 1),
    stamp_us=st.integers(2, MAX_STAMP_US),
    data=st.data(),
)
def test_lines_are_those_that_python_makes(
    payloads: list[Payload], offset: int, stored_crc: int, stamp_us: int, data: st.DataObject
) -> None:
    end = EndState(offset, stored_crc, stamp_us - 1)
    durable = data.draw(st.integers(0, offset))

    assert encode_batch(payloads, end=end, stamp_us=stamp_us, durable=durable) == framed_alone(
        payloads, end=end, stamp_us=stamp_us, durable=durable
    )


@given(payloads=payload_lists)
def test_bound_on_a_batch_is_the_one_that_python_computes(payloads: list[Payload]) -> None:
    found = batch_bytes_bound(payloads)

    assert found == sum(len(part) for payload in payloads for part in payload) + 100 * len(payloads)
    assert found >= len(encode_batch(payloads, end=START, stamp_us=2_000, durable=5)[0])


def test_batch_of_many_lines_is_the_one_that_python_makes() -> None:
    for count in (9, 10, 11, 100, 101, 1_234):
        payloads = [Payload(b'"k%d"' % number, b'"%b"' % (b"x" * (number % 300))) for number in range(count)]
        numbers: dict[str, Any] = {"end": START, "stamp_us": 2_000, "durable": 77}
        assert encode_batch(payloads, **numbers) == framed_alone(payloads, **numbers)


# --- as Python's own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (Payload, "x", 1, None),
        (int, "x", 1, None, 5),
        ("Payload", "x", 1, None, 5),
        (Payload, "x", 1, None, "5"),
    ],
)
def test_bad_arguments_of_payload_raise_type_error(native: ModuleType, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        native.payload(*arguments)


@pytest.mark.parametrize(
    "arguments", [(), (Payload, 5, 5), (int, [], 5), (Payload, (), 5), (Payload, [], None)]
)
def test_bad_arguments_of_payloads_raise_type_error(native: ModuleType, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        native.payloads(*arguments)


def test_batch_of_what_are_no_payloads_is_left_to_python(native: ModuleType) -> None:
    payload = Payload(b'"k"', b"1")
    for payloads in ([], (payload,), [payload, None], [(b"", b"")], [payload._replace(event="1")]):
        assert native.batch(payloads, 0, 1, 0) is None
        assert native.parts_bytes(payloads) == (None if payloads else 0)
    for arguments in ((), ([payload], "0", 1, 0), ([payload], 0, 1, None)):
        with pytest.raises(TypeError):
            native.batch(*arguments)


def test_encoded_records_leave_no_memory_behind(native: ModuleType, intensity: int) -> None:
    key, event, name = "kü", {"a": [1, "x\n", 2.5, None], "b": {}}, "id"
    unfit = {"a": [1, "x", (1,)]}
    shared = (key, event, name, unfit, None, True, Payload)

    def call() -> None:
        found = native.payload(Payload, key, event, name, MOST)
        native.payload(Payload, key, unfit, name, MOST)
        native.payload(Payload, key, "\ud800", name, MOST)
        native.payload(Payload, key, event, name, 5)
        native.batch(native.payloads(Payload, [(key, event)] * 2, MOST), 1, 2, 3)
        native.payloads(Payload, [(key, event), (key, unfit)], MOST)
        native.batch([found, None], 1, 2, 3)
        native.parts_bytes([found, found])

    require_no_leak(call, shared, calls=CALLS * intensity)
