"""What is refused is called by its real name, with its place and with what to use instead: that is then taken."""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
import os
import re
import sys
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.advice import a, name_of
from mpcheckpoint._format.codec import encode_event, encode_key, encode_payload, encode_payloads
from mpcheckpoint.errors import InvalidEventError, InvalidKeyError
from support.processes import call

pytestmark = pytest.mark.guarantee(10)


class Color(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Flavor(enum.StrEnum):
    SOUR = "sour"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int


class Struct(msgspec.Struct):
    x: int


class Model:
    """As pydantic's."""

    def model_dump(self, *, mode: str) -> Any:
        return {"mode": mode}


class Text(str):
    __slots__ = ()


class Count(int):
    pass


class Items(list[Any]):
    pass


class Hostile:
    """A value whose own attributes do harm."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    def __repr__(self) -> str:
        raise AssertionError("asked for its text")


Pair = namedtuple("Pair", "left right")


def numpy_like(name: str, base: str, **methods: Any) -> Any:
    """A value of a type that looks as numpy's do, where numpy itself is not needed."""
    generic = type("generic", (), {"__module__": "numpy"})
    middle = type(base, (generic,), {"__module__": "numpy"})
    return type(name, (middle,), {"__module__": "numpy", **methods})()


def method(value: object) -> Any:
    return lambda self: value


VALUES: dict[str, tuple[Any, str]] = {
    "numpy.bool": (numpy_like("bool", "generic", __bool__=method(True)), "bool(x)"),
    "numpy.bool_": (numpy_like("bool_", "generic", __bool__=method(True)), "bool(x)"),
    "numpy.int64": (numpy_like("int64", "integer", __int__=method(5)), "int(x)"),
    "numpy.float32": (numpy_like("float32", "floating", __float__=method(0.5)), "float(x)"),
    "numpy.datetime64": (numpy_like("datetime64", "generic"), "str(x)"),
    "numpy.record": (numpy_like("record", "generic", item=method([1])), "x.item()"),
    "numpy.ndarray": (
        type("ndarray", (), {"__module__": "numpy", "tolist": method([1.5])})(),
        "x.tolist()",
    ),
    "tests.Model": (Model(), 'x.model_dump(mode="json")'),
    "tuple": ((1, 2), "list(x)"),
    "set": ({1}, "list(x)"),
    "frozenset": (frozenset([1]), "list(x)"),
    "range": (range(3), "list(x)"),
    "deque": (deque([1]), "list(x)"),
    "generator": ((number for number in range(3)), "list(x)"),
    "dict_keys": ({"a": 1}.keys(), "list(x)"),
    "list of another kind": (Items([1]), "list(x)"),
    "OrderedDict": (OrderedDict(a=1), "dict(x)"),
    "defaultdict": (defaultdict(int, a=1), "dict(x)"),
    "UserDict": (UserDict(a=1), "dict(x)"),
    "bytes": (b"a", "x.decode()"),
    "bytearray": (bytearray(b"a"), "x.decode()"),
    "memoryview": (memoryview(b"a"), "base64.b64encode(x).decode()"),
    "datetime": (datetime(2026, 1, 1, tzinfo=UTC), "x.isoformat()"),
    "date": (date(2026, 1, 1), "x.isoformat()"),
    "time": (time(12), "x.isoformat()"),
    "timedelta": (timedelta(seconds=1.5), "x.total_seconds()"),
    "Decimal": (Decimal("1.5"), "str(x)"),
    "Fraction": (Fraction(1, 2), "str(x)"),
    "UUID": (UUID(int=0), "str(x)"),
    "Path": (Path("a"), "str(x)"),
    "IPv4Address": (ip_address("127.0.0.1"), "str(x)"),
    "complex": (1j, "[x.real, x.imag]"),
    "str of another kind": (Text("a"), "str(x)"),
    "int of another kind": (Count(1), "int(x)"),
    "Enum": (Color.RED, "x.name"),
    "IntEnum": (Number.ONE, "x.value"),
    "StrEnum": (Flavor.SOUR, "x.value"),
    "Flag": (Rights.READ | Rights.WRITE, "x.value"),
    "dataclass": (Point(1), "dataclasses.asdict(x)"),
    "struct": (Struct(1), "msgspec.to_builtins(x)"),
    "namedtuple": (Pair(1, 2), "x._asdict()"),
    "exception": (ValueError("a"), "repr(x)"),
    "function": (len, "x.__qualname__"),
    "type": (Path, "x.__qualname__"),
    "object": (object(), "str(x)"),
    "nan": (math.nan, "str(x)"),
    "infinity": (-math.inf, "None"),
    "int of too many digits": (10**5000, "hex(x)"),
    "int as a key": ({1: "a"}, "{str(key): value for key, value in x.items()}"),
    "lone surrogate": (
        os.fsdecode(b"caf\xe9"),
        'x.encode("utf-8", "backslashreplace").decode()',
    ),
}


def refusal_of(event: object) -> str:
    with pytest.raises(InvalidEventError) as caught:
        encode_event(event)
    return str(caught.value)


@pytest.mark.parametrize("name", VALUES)
def test_event_refused_says_what_to_use_and_that_is_taken(name: str) -> None:
    value, advice = VALUES[name]

    message = refusal_of(value)

    assert re.search(rf"; use .*{re.escape(advice)}.* instead\. Events are ", message), message
    encode_event(eval(advice, {"x": value, "base64": base64, "dataclasses": dataclasses, "msgspec": msgspec}))


@pytest.mark.parametrize("name", VALUES)
def test_event_refused_deep_inside_is_found_by_its_place(name: str) -> None:
    value, _ = VALUES[name]

    inside = refusal_of({"fine": [1, 2.5, {"b": None}], "a": [0, [], "x", value]})

    assert inside.startswith("event['a'][3]: ")
    assert inside.removeprefix("event['a'][3]") == refusal_of(value).removeprefix("event")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (VALUES["numpy.bool"][0], "a numpy.bool "),
        (VALUES["numpy.int64"][0], "a numpy.int64 "),
        (VALUES["numpy.ndarray"][0], "a numpy.ndarray "),
        (Decimal(1), "a decimal.Decimal "),
        (Path("a"), "a pathlib.PosixPath "),  # not of pathlib._local, where newer Pythons have it
        (datetime(2026, 1, 1, tzinfo=UTC), "a datetime.datetime "),
        (OrderedDict(), "a collections.OrderedDict "),
        (Point(1), f"a {__name__}.Point "),
        ((), "a tuple "),
        (object(), "an object "),
        (..., "an ellipsis "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_type_that_is_refused_is_called_by_the_name_that_users_know(value: object, name: str) -> None:
    assert refusal_of(value).startswith(f"event: {name}would not come back as one")


def test_name_of_a_type_that_another_module_has_under_that_name_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = type("Point", (), {"__module__": f"{__name__}.inner"})
    monkeypatch.setitem(sys.modules, f"{__name__}.inner", SimpleNamespace(Point=kind))

    assert name_of(kind) == f"{__name__}.inner.Point"


def test_refusal_does_not_run_what_the_value_brings_with_it() -> None:
    for event in (Hostile(), [Hostile()], {"a": Hostile()}):
        assert f"a {__name__}.Hostile would" in refusal_of(event)


def test_key_of_a_dict_that_is_refused_is_shown_whatever_its_text_does() -> None:
    assert f"key <{__name__}.Hostile> is a" in refusal_of({"a": {Hostile(): 1}})


def test_place_of_a_refusal_is_short_however_deep_and_long() -> None:
    items: list[Any] = []
    items.append(items)
    deep: Any = {1, 2}
    for number in range(100):
        deep = {f"{number}": deep}

    assert refusal_of(items).startswith("event[0][0][0][0]...[0][0][0][0]: nested deeper than 128")
    assert refusal_of(deep).startswith("event['99']['98']['97']['96']...['3']['2']['1']['0']: a set")
    assert len(refusal_of({"x" * 10_000: ()})) < 300


@pytest.mark.parametrize(
    ("value", "name", "advice"),
    [
        (5, "an int", "str(x)"),
        (Path("a"), "a pathlib.PosixPath", "str(x)"),
        (Text("a"), f"a {__name__}.Text", "str(x)"),
        (VALUES["numpy.int64"][0], "a numpy.int64", "str(x)"),
        (Color.RED, f"a {__name__}.Color", "x.name"),
        (b"a", "a bytes", "x.decode()"),
        (("a", 1), "a tuple", "'/'.join(map(str, x))"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_key_refused_says_what_to_use_and_that_is_taken(
    value: Any, name: str, advice: str, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path)
    calls = (
        lambda: encode_key(value),
        lambda: encode_payload("a", 1, value),
        lambda: checkpoint.log("a").append(value, 1),
        lambda: checkpoint.log(value),
    )
    for call_it in calls:
        with pytest.raises(InvalidKeyError, match=re.escape(f"is a str, not {name}: ")) as caught:
            call_it()
        assert f"; use {advice}" in str(caught.value)
    encode_key(eval(advice, {"x": value}))


@pytest.mark.parametrize("value", [None, object(), {}, 1j])
def test_key_that_nothing_right_can_be_made_of_has_no_advice(value: Any) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        encode_key(value)

    assert "; use " not in str(caught.value)


def test_event_refused_among_many_says_the_same_as_alone() -> None:
    with pytest.raises(InvalidEventError) as caught:
        encode_payloads([("a", 1), ("b", {"c": (1,)})])

    assert str(caught.value) == refusal_of({"c": (1,)})


# Each has members of two members, all of them strings, so that it could be unpacked.
@pytest.mark.parametrize(
    "record", ["xy", {"key": "x", "event": "UP"}, {"x", "y"}, b"xy", ("x",), ("x", 1, 2), [], 3, None]
)
def test_record_that_is_no_pair_is_refused(record: Any) -> None:
    expected = f"records are pairs of object key and event; one of them is {a(type(record))}: {record!r}"
    with pytest.raises(TypeError, match=re.escape(expected)):
        encode_payloads([("a", 1), record])


@pytest.mark.parametrize(
    ("records", "advice"), [("xy", ""), (b"xy", ""), (3, ""), ({"xy": 1}, "; use records.items() instead")]
)
def test_records_that_hold_no_pairs_are_refused(records: Any, advice: str) -> None:
    expected = f"records are pairs of object key and event, not {a(type(records))}: {records!r}{advice}"
    with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
        encode_payloads(records)


def test_pairs_may_be_lists_or_tuples_of_a_name() -> None:
    pair = namedtuple("pair", "object_key event")

    assert encode_payloads([["x", 1], pair("y", 2)]) == encode_payloads([("x", 1), ("y", 2)])


# --- the libraries themselves, in a process of their own: numpy starts threads -----------------------------


def refusals_of_numpy() -> dict[str, str]:
    import numpy

    values = {
        "bool(x)": [numpy.bool_(True)],
        "int(x)": [numpy.int64(1), numpy.uint8(1)],
        "float(x)": [numpy.float32(0.5), numpy.float64(0.5), numpy.longdouble(0.5)],
        "[float(x.real), float(x.imag)]": [numpy.complex64(1j)],
        "str(x)": [numpy.str_("a"), numpy.datetime64("2026-01-01"), numpy.timedelta64(1, "s")],
        "x.decode()": [numpy.bytes_(b"a")],
        "x.tolist()": [numpy.zeros((2, 2)), numpy.array(1.5)],
    }
    return refusals_followed(values)


def refusals_of_pandas() -> dict[str, str]:
    import pandas

    values = {
        "x.isoformat()": [pandas.Timestamp("2026-01-01")],
        "x.total_seconds()": [pandas.Timedelta(seconds=1)],
        "None": [pandas.NaT, pandas.NA],
        "x.tolist()": [pandas.Series([1, 2]), pandas.Index([1])],
        'x.to_dict("records")': [pandas.DataFrame({"a": [1]})],
    }
    return refusals_followed(values)


def refusals_followed(values: dict[str, list[Any]]) -> dict[str, str]:
    """Return how each type is called, after what was advised has been taken."""
    called = {}
    for advice, some in values.items():
        for value in some:
            message = refusal_of([value])
            assert f"; use {advice} instead" in message or f"; use {advice}, or" in message, message
            encode_event(eval(advice, {"x": value}))
            called[type(value).__name__] = message.split()[2]
    return called


def test_values_of_numpy_are_called_by_their_names_and_what_is_advised_is_taken() -> None:
    called = call(refusals_of_numpy)

    assert called.pop("bool", "numpy.bool") == "numpy.bool"  # before numpy 2: bool_
    assert (
        called.items()
        >= {"int64": "numpy.int64", "float64": "numpy.float64", "ndarray": "numpy.ndarray"}.items()
    )


@pytest.mark.skipif(find_spec("pandas") is None, reason="pandas is not installed")
def test_values_of_pandas_are_called_by_their_names_and_what_is_advised_is_taken() -> None:
    called = call(refusals_of_pandas)

    assert called.items() >= {"Timestamp": "pandas.Timestamp", "DataFrame": "pandas.DataFrame"}.items()
