"""G10: what is read back equals what was written, types included, or the write raised and changed nothing."""

from __future__ import annotations

import enum
import json
import math
import re
import sys
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.codec import (
    MAX_DIGITS,
    decode_event,
    encode_event,
    encode_key,
    encode_payload,
    encode_payloads,
    record_id_of,
)
from mpcheckpoint._format.frame import (
    MAX_BATCH_BYTES,
    MAX_DEPTH,
    MAX_KEY_BYTES,
    MAX_LINE_BYTES,
    batch_bytes_bound,
    encode_line,
)
from mpcheckpoint.errors import CheckpointError, InvalidEventError, InvalidKeyError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.guarantee(10)


class Color(enum.IntEnum):
    RED = 1


class Flavor(enum.StrEnum):
    SOUR = "sour"


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


class Items(list[Any]):
    pass


Pair = namedtuple("Pair", "left right")


def nested(depth: int, leaf: object = 1, *, in_dict: bool = False) -> Any:
    value: Any = leaf
    for _ in range(depth):
        value = {"k": value} if in_dict else [value]
    return value


def holding_itself() -> tuple[Any, Any]:
    items: list[Any] = []
    items.append(items)
    members: dict[str, Any] = {}
    members["self"] = [members]
    return items, members


KEPT = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**53,
    2**53 + 1,
    2**63,
    -(2**63),
    2**64 - 1,
    2**64,
    -(2**64) - 1,
    2**70,
    -(2**70),
    10**MAX_DIGITS - 1,
    -(10**MAX_DIGITS) + 1,
    0.0,
    -0.0,
    1.0,
    1e16,
    1e22,
    1e100,
    0.1,
    5e-324,
    2.2250738585072014e-308,
    sys.float_info.max,
    "",
    "\0",
    "a\0b",
    '\n\r\t\b\f"\\/',
    "\u2028\u2029\x7f\x80\ufeff\ufffe\uffff",
    "\U0001f600",
    "e\u0301 \u00e9",
    '["0000003a",1,0,0,"a",1,null,"82dcd13a"]\n',
    "x" * 100_000,
    [],
    {},
    [[], {}, [None, True, 1, 1.0, "1"]],
    {"": {"\0": [{}]}, "1": 1, "a b": {"A": 1, "a": 2}},
    nested(MAX_DEPTH),
    nested(MAX_DEPTH, in_dict=True),
    [0.0, -0.0, 0, False],
    list(range(10_000)),
    {str(number): number for number in range(10_000)},
]

REFUSED = [
    math.nan,
    math.inf,
    -math.inf,
    [math.nan],
    {"k": math.inf},
    (),
    (1, 2),
    [(1,)],
    {"k": (1,)},
    Pair(1, 2),
    {1},
    frozenset(),
    b"bytes",
    bytearray(b"bytes"),
    memoryview(b"bytes"),
    {1: "int key"},
    {None: 1},
    {True: 1},
    {1.5: 1},
    {("a",): 1},
    {b"a": 1},
    {Text("a"): 1},
    {"k": {2: 1}},
    "\ud800",
    "a\udfff",
    ["\udc80"],
    {"\ud800": 1},
    Color.RED,
    Flavor.SOUR,
    Text("a"),
    Number(1),
    Real(1.5),
    Items([1]),
    [Color.RED],
    {"k": Text("a")},
    OrderedDict(a=1),
    Counter("a"),
    defaultdict(list, a=[]),
    UserDict(a=1),
    deque([1]),
    range(3),
    iter([1]),
    Decimal("1.5"),
    Fraction(1, 2),
    1j,
    datetime(2026, 1, 1, tzinfo=UTC),
    UUID(int=0),
    Path("a"),
    object(),
    object,
    len,
    ...,
    nested(MAX_DEPTH + 1),
    nested(MAX_DEPTH + 1, in_dict=True),
    nested(100_000),
    *holding_itself(),
    10**MAX_DIGITS,
    -(10**MAX_DIGITS),
    10**5_000,
    -(10**5_000),
    [10**5_000],
]


def same(one: object, other: object) -> bool:
    """Return whether two JSON values are the same, types and the sign of zero included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, float) and isinstance(other, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return one == other


def described(value: object) -> str:
    try:
        # Without addresses, which differ between the workers of a run.
        return re.sub(r" at 0x[0-9a-f]+", "", f"{type(value).__name__} {value!r}")[:40]
    except (ValueError, RecursionError):
        return type(value).__name__


# --- events ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", KEPT, ids=described)
def test_event_of_json_comes_back_the_same(event: object) -> None:
    encoded = encode_event(event)

    assert same(decode_event(encoded), event)
    assert same(json.loads(encoded), event)
    assert b"\n" not in encoded


@pytest.mark.parametrize("event", REFUSED, ids=described)
def test_event_that_json_would_change_is_refused(event: object) -> None:
    with pytest.raises(InvalidEventError) as caught:
        encode_event(event)

    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.reason
    assert str(caught.value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)

odd_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.just(Color.RED)
    | st.builds(Text, st.text()),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), inner)
    ),
    max_leaves=10,
)


@given(event=json_values)
def test_event_of_any_json_comes_back_the_same(event: object) -> None:
    assert same(decode_event(encode_event(event)), event)


@given(event=odd_values)
def test_event_of_any_kind_comes_back_the_same_or_is_refused(event: object) -> None:
    try:
        encoded = encode_event(event)
    except InvalidEventError:
        return
    assert same(decode_event(encoded), event)


@given(event=json_values, record_id=st.none() | st.text())
def test_payload_of_any_json_is_what_encode_event_gives(event: object, record_id: str | None) -> None:
    payload = encode_payload("k", event, record_id)

    assert payload.event == encode_event(event)
    assert record_id_of(payload.meta) == record_id


@given(event=odd_values)
def test_payload_of_any_kind_comes_back_the_same_or_is_refused(event: object) -> None:
    try:
        encoded = encode_payload("k", event).event
    except InvalidEventError:
        return
    assert same(decode_event(encoded), event)


@pytest.mark.parametrize("event", REFUSED, ids=described)
def test_payload_of_an_event_that_json_would_change_is_refused(event: object) -> None:
    with pytest.raises(InvalidEventError):
        encode_payload("k", event)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_event_of_any_float_comes_back_bit_for_bit(value: float) -> None:
    assert same(decode_event(encode_event(value)), value)
    assert decode_event(encode_event([value]))[0].hex() == value.hex()


def test_event_nested_too_deep_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidEventError, match="deeper than 128"):
        encode_event(nested(MAX_DEPTH + 1))
    with pytest.raises(InvalidEventError, match=r"event\['a'\]\[1\]: a tuple"):
        encode_event({"a": [1, ()]})


def test_event_changed_after_the_write_changes_nothing() -> None:
    event = {"list": [1]}
    payload = encode_payload("k", event)
    event["list"].append(2)

    assert decode_event(payload.event) == {"list": [1]}


@pytest.fixture
def digits_limit() -> Iterator[None]:
    """Give back the limit on the digits of integers."""
    before = sys.get_int_max_str_digits()
    yield
    sys.set_int_max_str_digits(before)


@pytest.mark.usefixtures("digits_limit")
@pytest.mark.parametrize("digits", [640, 641, 4_300, 4_301])
def test_event_integer_written_under_any_limit_on_digits_is_read_under_any_other(digits: int) -> None:
    """The limit is a setting of each process: what one could write, every other must be able to read."""
    value = 10**digits - 1
    for limit in (0, 640, 4_300, 10_000):
        sys.set_int_max_str_digits(limit)
        try:
            encoded = encode_event([value])
        except InvalidEventError:
            continue
        for other in (640, 4_300, 0):
            sys.set_int_max_str_digits(other)
            assert decode_event(encoded) == [value]


# --- object keys and record ids ----------------------------------------------------------------------------


@given(object_key=st.text())
def test_object_key_of_any_text_comes_back_the_same(object_key: str) -> None:
    assert json.loads(encode_key(object_key)) == object_key


@pytest.mark.parametrize(
    "object_key",
    [None, 5, 1.5, True, b"a", ("a",), ["a"], Text("a"), Flavor.SOUR, "\ud800", "a\udfff"],
    ids=described,
)
def test_object_key_that_is_no_text_is_refused(object_key: Any) -> None:
    with pytest.raises(InvalidKeyError):
        encode_key(object_key)
    with pytest.raises(InvalidKeyError):
        encode_payload(object_key, 1)


@given(record_id=st.text())
def test_record_id_of_any_text_comes_back_the_same(record_id: str) -> None:
    assert record_id_of(encode_payload("k", 1, record_id).meta) == record_id


@pytest.mark.parametrize("record_id", [5, b"a", Text("a"), "\ud800", ["a"]], ids=described)
def test_record_id_that_is_no_text_is_refused(record_id: Any) -> None:
    with pytest.raises(InvalidKeyError):
        encode_payload("k", 1, record_id)


def test_record_id_of_meta_without_one_is_none() -> None:
    assert record_id_of(b"null") is None
    assert record_id_of(b"{}") is None
    assert record_id_of(b'{"other":1,"id":5}') is None
    assert record_id_of(b'{"other":1,"id":"x"}') == "x"


# --- limits ------------------------------------------------------------------------------------------------


def test_event_at_the_limit_fits_a_line_and_above_it_is_refused() -> None:
    room = MAX_LINE_BYTES - batch_bytes_bound([encode_payload("k", "")])
    payload = encode_payload("k", "x" * room)
    line, _ = encode_line(payload, stamp_us=2**53 - 1, durable=2**63, more=10**9, crc=0)

    assert len(line) <= MAX_LINE_BYTES
    with pytest.raises(LimitExceededError, match=str(MAX_LINE_BYTES)):
        encode_payload("k", "x" * (room + 1))
    with pytest.raises(LimitExceededError):
        encode_payload("x" * MAX_LINE_BYTES, 1)
    with pytest.raises(LimitExceededError):
        encode_payload("k", 1, "x" * MAX_LINE_BYTES)


def test_object_key_and_record_id_leave_room_for_what_control_lines_say_of_them() -> None:
    half = "x" * (MAX_KEY_BYTES // 2 - 10)
    assert encode_payload(half, 1, half)
    with pytest.raises(LimitExceededError, match=str(MAX_KEY_BYTES)):
        encode_payload(half + "x" * 20, 1, half)


# --- through the library -----------------------------------------------------------------------------------


def test_store_keeps_every_json_value_for_every_reader(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, durability="never") as checkpoint:
        log = checkpoint.log("k")
        for event in KEPT:
            log.append("one", event)
        log.append_many([("many", event) for event in KEPT])
        own = checkpoint.getCheckpoints("one")
    with Checkpoint(tmp_path, read_only=True) as checkpoint:
        for events in (own, checkpoint.getCheckpoints("one"), checkpoint.getCheckpoints("many")):
            assert same(events, KEPT)
        assert same([record.event for record in checkpoint.log("k").read()], KEPT * 2)


def test_store_keeps_odd_object_keys_apart(tmp_path: Path) -> None:
    keys = [
        "",
        "a",
        "A",
        " a",
        "\0",
        "../../x",
        "\u00e9",
        "e\u0301",
        "x" * 5_000,
        "store",
        ".",
        "null",
        "0",
        '["',
    ]
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.log("k").append_many(list(zip(keys, range(len(keys)), strict=True)))
    with Checkpoint(tmp_path, read_only=True) as checkpoint:
        assert dict(checkpoint.items()) == {key: (number,) for number, key in enumerate(keys)}


@pytest.mark.parametrize("event", REFUSED, ids=described)
def test_store_refuses_what_json_would_change_and_stays_as_it_was(tmp_path: Path, event: object) -> None:
    with Checkpoint(tmp_path, durability="never") as checkpoint:
        log = checkpoint.log("k")
        log.append("a", 1)
        before = (tmp_path / ".checkpoint" / "k.jsonl").read_bytes()
        with pytest.raises(InvalidEventError):
            log.append("a", event)
        with pytest.raises(InvalidEventError):
            log.append_many([("a", 2), ("a", event)])
        with pytest.raises(InvalidEventError), log.transaction() as transaction:  # noqa: PT012  # all or nothing
            transaction.append("a", 2)
            transaction.append("a", event)
        assert (tmp_path / ".checkpoint" / "k.jsonl").read_bytes() == before
        log.append("a", 2)
        assert log.events("a") == (1, 2)


@pytest.mark.parametrize("object_key", [None, 5, b"a", Text("a"), "\ud800"], ids=described)
def test_store_refuses_an_object_key_that_is_no_text(tmp_path: Path, object_key: Any) -> None:
    with Checkpoint(tmp_path, durability="never") as checkpoint:
        log = checkpoint.log("k")
        for call in (
            lambda: log.append(object_key, 1),
            lambda: log.append_many([("a", 1), (object_key, 1)]),
            lambda: log.events(object_key),
            lambda: checkpoint.writeCheckpoint("k", object_key, 1),
        ):
            with pytest.raises(InvalidKeyError):
                call()
        assert list(checkpoint) == []


def test_store_refuses_a_batch_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = "x" * (MAX_LINE_BYTES // 2)
    encoded = encode_payload("k", big)
    # Encoded once: what is tested is the sum.
    monkeypatch.setattr(
        "mpcheckpoint._view.log_handle.encode_payloads", lambda records, default: [encoded for _ in records]
    )
    with Checkpoint(tmp_path, durability="never") as checkpoint:
        log = checkpoint.log("k")
        with pytest.raises(LimitExceededError, match=str(MAX_BATCH_BYTES)):
            log.append_many([("k", big)] * (MAX_BATCH_BYTES // len(encoded.event) + 1))
        assert log.count("k") == 0


# --- many at once ------------------------------------------------------------------------------------------


def one_after_the_other(records: list[tuple[Any, Any]]) -> Any:
    """Return the payloads, or the kind and text of the refusal."""
    try:
        return [encode_payload(object_key, event) for object_key, event in records]
    except (InvalidEventError, InvalidKeyError) as refusal:
        return type(refusal), str(refusal)


def all_at_once(records: list[tuple[Any, Any]]) -> Any:
    try:
        return encode_payloads(iter(records))
    except (InvalidEventError, InvalidKeyError) as refusal:
        return type(refusal), str(refusal)


ALONE_AND_IN_COMPANY = ([], [("k", "x"), ("\u00e9\n", {"a": 1, "b": None, "c": 0.5}), ("", True)])


@pytest.mark.parametrize("company", ALONE_AND_IN_COMPANY)
@pytest.mark.parametrize("event", [*KEPT, *REFUSED], ids=described)
def test_events_encoded_at_once_are_kept_or_refused_as_one_after_the_other(
    event: object, company: list[tuple[Any, Any]]
) -> None:
    for odd in (event, {"a": event}, [event]):
        records = [*company, ("k", odd), *company]
        assert all_at_once(records) == one_after_the_other(records)


@pytest.mark.parametrize("company", ALONE_AND_IN_COMPANY)
@pytest.mark.parametrize(
    "object_key", [None, 5, b"a", Text("a"), "\ud800", "\n", "", "\U0001f600"], ids=described
)
def test_object_keys_encoded_at_once_are_kept_or_refused_as_one_after_the_other(
    object_key: object, company: list[tuple[Any, Any]]
) -> None:
    records = [*company, (object_key, 1), *company]

    assert all_at_once(records) == one_after_the_other(records)


@given(
    records=st.lists(
        st.tuples(
            st.text(max_size=3), st.one_of(json_values, odd_values, st.text(), st.floats(), st.integers())
        ),
        max_size=5,
    )
)
def test_records_encoded_at_once_are_kept_or_refused_as_one_after_the_other(
    records: list[tuple[Any, Any]],
) -> None:
    assert all_at_once(records) == one_after_the_other(records)


@pytest.mark.parametrize("digits", [640, 641, 4_300, 4_301])
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": "x" * 700, "b": value}])
def test_integers_encoded_at_once_have_the_same_limit(digits: int, wrap: Callable[[object], object]) -> None:
    value = 10 ** (digits - 1)
    records = [("k", "7" * 700), ("k", wrap(value)), ("k", wrap(-value))]

    assert all_at_once(records) == one_after_the_other(records)


def test_line_too_long_among_others_is_refused_at_once_too() -> None:
    with pytest.raises(LimitExceededError, match="for 'big'"):
        encode_payloads([("k", 1), ("big", "x" * MAX_LINE_BYTES), ("k", 1)])


def test_refusals_leave_through_the_one_root() -> None:
    for refused in (InvalidEventError, InvalidKeyError, LimitExceededError):
        assert issubclass(refused, CheckpointError)
