"""What default= makes of values that are no JSON is what is recorded; sound values never reach it."""

from __future__ import annotations

import copy
import math
import pickle
from collections import namedtuple
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._format import made_json as module
from mpcheckpoint._format.codec import decode_event, encode_event, encode_payload, encode_payloads, is_json
from mpcheckpoint._view.log_handle import LogHandle
from mpcheckpoint.errors import InvalidEventError, InvalidFunctionError, LimitExceededError
from mpcheckpoint.log import handle_of
from support.processes import call

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(10)

Pair = namedtuple("Pair", "left right")


class Node:
    """A node of a graph."""

    def __init__(self, *others: object) -> None:
        self.others = list(others)


def listed(value: Any) -> Any:
    if isinstance(value, tuple | set | frozenset | range):
        return list(value)
    if isinstance(value, Node):
        return {"others": value.others}
    return str(value)


def never(value: object) -> Any:
    raise AssertionError(f"asked for {value!r}")


@pytest.fixture
def log(store: Path) -> Log:
    return Checkpoint(store).log("a")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(event=JSON)
def test_default_is_not_asked_for_what_is_json_and_changes_none_of_its_bytes(event: object) -> None:
    assert encode_payload("x", event, None, never) == encode_payload("x", event)
    assert encode_payloads([("x", event), ("y", 1)], never) == encode_payloads([("x", event), ("y", 1)])


@given(event=JSON, wrapped=st.sampled_from([tuple, lambda value: Pair(*value), lambda value: Node(*value)]))
def test_value_made_anywhere_comes_back_as_it_was_made(event: object, wrapped: Any) -> None:
    made = listed(wrapped([event, event]))

    for given_event, expected in (
        (wrapped([event, event]), made),
        ([wrapped([event, event])], [made]),
        ({"a": [1, {"b": wrapped([event, event])}]}, {"a": [1, {"b": made}]}),
    ):
        assert decode_event(encode_payload("x", given_event, None, listed).event) == expected


@pytest.mark.parametrize(
    ("event", "made"),
    [
        ((1, 2), [1, 2]),
        ([(1, {2}), range(2)], [[1, [2]], [0, 1]]),
        ({"when": datetime(2026, 1, 2, tzinfo=UTC)}, {"when": "2026-01-02 00:00:00+00:00"}),
        ([math.nan, -math.inf], ["nan", "-inf"]),
        ([10**5000], ["asked"]),
        ({"a": "\ud800"}, {"a": "asked"}),
        ("\ud800", "asked"),
        (Fraction(1, 3), "1/3"),
        ((((((1,),),),),), [[[[[1]]]]]),
    ],
)
def test_default_is_asked_for_each_value_that_would_be_refused(event: object, made: object) -> None:
    def asked(value: Any) -> Any:
        return "asked" if isinstance(value, str) or type(value) is int else listed(value)

    assert not is_json(event)
    assert decode_event(encode_event(event, default=asked)) == made


def test_event_is_left_as_it_was() -> None:
    event = {"a": [(1, 2), {"b": {3}}]}
    before = copy.deepcopy(event)

    encode_event(event, default=listed)

    assert event == before


@pytest.mark.parametrize(
    ("event", "default", "message"),
    [
        ({1: (2,)}, listed, r"event: key 1 is an int, not a string; use"),
        ([{"a": {1: (2,)}}], listed, r"event\[0\]\['a'\]: key 1 is an int"),
        ((1, 2), lambda value: value, r"event: default= returned a tuple as it was given; use list\(x\)"),
        ({"a": (1,)}, lambda value: (*value, 1), r"event\['a'\]: default= was asked 16 times in a row"),
        ({"a": (1,)}, lambda value: {1: value}, r"event\['a'\]: key 1 is an int"),
    ],
)
def test_default_that_makes_no_json_is_refused_by_place(event: object, default: Any, message: str) -> None:
    with pytest.raises(InvalidEventError, match=message):
        encode_event(event, default=default)


def cycle() -> Node:
    first, second = Node(), Node()
    first.others, second.others = [second], [first]
    return first


def test_object_that_contains_itself_is_refused() -> None:
    with pytest.raises(InvalidEventError, match=r"Node contains itself; use its name, or an id, instead"):
        encode_event({"graph": cycle()}, default=listed)


def test_object_that_comes_twice_but_not_in_itself_is_made_twice() -> None:
    node = Node(1)

    assert decode_event(encode_event([node, Node(node, node)], default=listed)) == [
        {"others": [1]},
        {"others": [{"others": [1]}, {"others": [1]}]},
    ]


@pytest.mark.parametrize("depth", [64, 65, 10_000])
def test_depth_of_what_is_made_is_bounded_as_that_of_json(depth: int) -> None:
    node = Node()
    for _ in range(depth - 1):
        node = Node(node)

    if depth <= 64:  # a dict and a list each
        assert encode_event(node, default=listed).count(b"others") == depth
    else:
        with pytest.raises(InvalidEventError, match="nested deeper than 128"):
            encode_event(node, default=listed)


def test_default_that_makes_ever_new_values_ends() -> None:
    with pytest.raises(InvalidEventError, match="nested deeper than 128"):
        encode_event(Node(), default=lambda value: [Node(), Node()])


def test_values_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_VALUES", 1000)
    event: Any = (1, 1)
    for _ in range(20):  # a million values, of twenty objects
        event = (event, event)

    with pytest.raises(LimitExceededError, match="more than 1000 values"):
        encode_event(event, default=listed)


# --- given to whatever appends -----------------------------------------------------------------------------


class NoJsonError(Exception):
    """What a default raises."""


def refusing(value: object) -> Any:
    raise NoJsonError(f"no JSON for {value!r}")


def test_what_default_raises_is_raised_and_nothing_is_written(log: Log) -> None:
    log.append("x", 1)
    size = log.stats()["records"]

    with pytest.raises(NoJsonError, match=r"\(1,\)"):
        log.append("x", (1,), default=refusing)
    with pytest.raises(NoJsonError):
        log.append("x", (1,), default=refusing, expected_count=1, record_id="r")
    with pytest.raises(NoJsonError):
        log.append_many([("x", 2), ("y", (1,))], default=refusing)
    with log.transaction() as transaction:
        transaction.append("z", 2)
        with pytest.raises(NoJsonError):
            transaction.append("y", (1,), default=refusing)

    assert log.stats()["records"] == size + 1
    log.append("x", 2)
    assert (log.events("x"), log.events("y"), log.events("z")) == ((1, 2), (), (2,))


def test_default_of_a_call_makes_json(log: Log) -> None:
    log.append("x", (1,), default=listed)
    log.append("x", (2,), default=listed, expected_count=1)
    log.append("x", (3,), default=listed, record_id="three")
    log.append("x", (4,), default=listed, durability="never")
    log.append_many([("x", (5,)), ("x", 6)], default=listed)
    with log.transaction() as transaction:
        transaction.append("x", (7,), default=listed)
        assert transaction.events("x")[-1] == [7]

    assert log.events("x") == ([1], [2], [3], [4], [5], 6, [7])
    with pytest.raises(InvalidEventError, match="a tuple would not come back as one"):
        log.append("x", (8,))


def test_default_of_the_handle_makes_json_and_that_of_a_call_comes_before_it(store: Path) -> None:
    checkpoint = Checkpoint(store, default=listed)
    log = checkpoint.log("a")
    log.append("x", (1,))
    log.append("x", (2,), default=repr)
    log.append_many([("x", (3,))])
    log.update(lambda transaction: transaction.append("x", (4,)))
    checkpoint.writeCheckpoint("a", "x", PurePosixPath("5"))

    assert checkpoint["x"] == ([1], "(2,)", [3], [4], "5")


def append_in_another(log: Log) -> None:
    log.append("x", (2,))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_default_goes_with_the_handle_to_other_processes(method: str, store: Path) -> None:
    checkpoint = Checkpoint(store, default=listed)
    log = checkpoint.log("a")
    copied = pickle.loads(pickle.dumps(checkpoint))
    copied.writeCheckpoint("a", "x", (1,))
    call(append_in_another, log, method=method)

    assert log.events("x") == ([1], [2])
    assert pickle.loads(pickle.dumps(handle_of(log))).default is listed


def test_default_that_cannot_be_pickled_is_refused_by_name_and_works_here(store: Path) -> None:
    checkpoint = Checkpoint(store, default=lambda value: [*value])
    log = checkpoint.log("a")
    log.append("x", (1,))

    for each in (checkpoint, log, handle_of(log)):
        with pytest.raises(InvalidFunctionError, match=r"since its default= cannot: .*<lambda>"):
            pickle.dumps(each)
    assert log.events("x") == ([1],)


def test_handle_for_those_who_append_json_only_leaves_default_out(store: Path) -> None:
    handle = handle_of(Checkpoint(store, default=lambda value: [*value]).log("a"))
    reopen, arguments = handle.without_default()

    found = pickle.loads(pickle.dumps((reopen, arguments)))
    again = found[0](*found[1])

    assert isinstance(again, LogHandle)
    assert (again.default, again.log_key) == (None, "a")


@pytest.mark.parametrize("default", [1, "str", [list]])
def test_default_that_is_no_function_is_refused_and_nothing_is_made(default: Any, store: Path) -> None:
    with pytest.raises(TypeError, match="default is a function that makes JSON of a value, or None, not"):
        Checkpoint(store, default=default)

    assert not store.exists()
