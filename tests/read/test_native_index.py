"""The index of objects by the native core: the same numbers for the same objects as Python's loop gives."""

from __future__ import annotations

import pickle
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import _core
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import Line
from mpcheckpoint._view.records import Records
from support.capabilities import native_core
from support.leaks import CALLS, require_no_leak

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(scope="module")
def native() -> ModuleType:
    """The native core."""
    return native_core()


def numbers(native: ModuleType, *wanted: int) -> Any:
    """Return these numbers as the native core keeps them."""
    objects: dict[str, Any] = {}
    for number in wanted:
        native.index(objects, ["x"], number)
    return objects["x"]


def records_of(chunks: list[list[str]], native: ModuleType | None) -> Records:
    """Return the records of chunks of object keys, made with a native core or without."""
    made, number = Records(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", native)
        for keys in chunks:
            lines = []
            for key in keys:
                lines.append(
                    Line(number * 50, number * 50 + 50, number + 1, 0, 0, key, b"%d" % number, b"null", 0)
                )
                number += 1
            columns = Lines.of(lines)
            columns.event_ends = array("Q", columns.event_ends)
            made.add(columns)
    return made


@given(chunks=st.lists(st.lists(st.sampled_from(["a", "b", "ü", "", "long" * 20]), max_size=30), max_size=6))
def test_records_are_the_same_with_the_native_core_and_without(chunks: list[list[str]]) -> None:
    with_it, without = records_of(chunks, native_core()), records_of(chunks, None)

    assert list(with_it.objects) == list(without.objects)
    for key in [*without.objects, "never"]:
        assert list(with_it.numbers_of(key)) == list(without.numbers_of(key))
        assert with_it.events_of(key) == without.events_of(key)
    assert [with_it.entry(number) for number in range(with_it.count)] == [
        without.entry(number) for number in range(without.count)
    ]
    assert with_it.count == without.count == sum(map(len, chunks))


def test_cut_of_records_holds_nothing_of_what_the_native_core_adds_later(native: ModuleType) -> None:
    made = records_of([["a", "b", "a", "a"]], native)
    cut = made.cut()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", native)
        made.add(Lines.of([Line(200, 250, 9, 0, 0, "a", b"4", b"null", 0)]))

    assert list(cut.numbers_of("a")) == [0, 2, 3]
    assert list(made.numbers_of("a")) == [0, 2, 3, 4]


@given(
    wanted=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=40),
    index=st.integers(-50, 50),
    data=st.data(),
)
def test_numbers_are_a_sequence_as_a_list_is(wanted: list[int], index: int, data: st.DataObject) -> None:
    found = numbers(native_core(), *wanted)
    where = data.draw(st.slices(len(wanted)))

    assert list(found) == wanted
    assert len(found) == len(wanted)
    assert list(found[where]) == wanted[where]
    assert list(reversed(found)) == wanted[::-1]
    if -len(wanted) <= index < len(wanted):
        assert found[index] == wanted[index]
    else:
        with pytest.raises(IndexError):
            found[index]
    assert bisect_left(numbers(native_core(), *sorted(wanted)), index) == bisect_left(sorted(wanted), index)


def test_numbers_are_pickled_as_what_needs_no_native_core(native: ModuleType) -> None:
    for found in (numbers(native, 7, 8, 2**32 - 1), numbers(native, 7, 8)[2:]):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(found, protocol)
            assert pickle.loads(pickled) == array("I", found)
            assert b"_native" not in pickled


def test_number_that_stands_alone_is_an_int(native: ModuleType) -> None:
    assert numbers(native, 7) == 7
    assert list(numbers(native, 7, 8)) == [7, 8]


def test_numbers_are_made_and_changed_by_nobody_else(native: ModuleType) -> None:
    found = numbers(native, 1, 2)

    with pytest.raises(TypeError):
        native.Numbers()
    with pytest.raises(TypeError):
        found[0] = 5
    with pytest.raises(TypeError):
        found["0"]
    with pytest.raises(TypeError):
        native.Numbers.new = 5
    assert not hasattr(found, "append")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        (({}, [], "0"), TypeError),
        (([], [], 0), TypeError),
        (({}, ("x",), 0), TypeError),
        (({}, ["x", None], 0), TypeError),
        (({}, [b"x"], 0), TypeError),
        (({"x": "y"}, ["x"], 0), TypeError),
        (({"x": [1, 2]}, ["x"], 0), TypeError),
        (({"x": -1}, ["x"], 0), OverflowError),
        (({}, ["x"], -1), OverflowError),
        (({}, ["x"], 2**32), OverflowError),
        (({}, ["x", "y"], 2**32 - 1), OverflowError),
    ],
)
def test_bad_arguments_of_the_index_raise(
    native: ModuleType, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        native.index(*arguments)


def test_places_are_shifted_as_python_would(native: ModuleType) -> None:
    places = array("Q", [0, 5, 2**40])

    assert array("Q", native.shifted(places, 7)).tolist() == [7, 12, 2**40 + 7]
    assert native.shifted(b"", 7) == b""
    for arguments, error in (((b"1234567", 1), ValueError), ((places,), TypeError), (([1], 1), TypeError)):
        with pytest.raises(error):
            native.shifted(*arguments)


@given(
    chunks=st.lists(st.lists(st.sampled_from(["a", "b", "ü", "", "long" * 20]), max_size=30), max_size=6),
    keys=st.lists(st.sampled_from(["a", "b", "ü", "", "never"]), max_size=10),
)
def test_last_records_are_the_same_with_the_native_core_and_without(
    chunks: list[list[str]], keys: list[str]
) -> None:
    found = []
    for core in (native_core(), None):
        records = records_of(chunks, core)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_core, "native", core)
            found.append(records.last_of_each(keys))

    assert found[0] == found[1]
    every = [key for chunk in chunks for key in chunk]
    last = {key: (number + 1, b"%d" % number) for number, key in enumerate(every)}
    assert found[0] == [last.get(key) for key in keys]


ENDS, STARTS, STAMPS = array("Q", [1, 3]), array("I", [0, 1]), array("Q", [7, 8])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        (([], ["x"], ENDS, b"abc", STARTS, STAMPS), TypeError),
        (({}, ("x",), ENDS, b"abc", STARTS, STAMPS), TypeError),
        (({}, [b"x"], ENDS, b"abc", STARTS, STAMPS), TypeError),
        (({}, [], [1, 3], b"abc", STARTS, STAMPS), TypeError),
        (({"x": "y"}, ["x"], ENDS, b"abc", STARTS, STAMPS), TypeError),
        (({"x": -1}, ["x"], ENDS, b"abc", STARTS, STAMPS), OverflowError),
        (({"x": 2**32}, ["x"], ENDS, b"abc", STARTS, STAMPS), OverflowError),
        (({"x": []}, ["x"], ENDS, b"abc", STARTS, STAMPS), IndexError),
        (({"x": 2}, ["x"], ENDS, b"abc", STARTS, STAMPS), ValueError),
        (({"x": 1}, ["x"], ENDS, b"ab", STARTS, STAMPS), ValueError),
        (({"x": 1}, ["x"], array("Q", [4, 3]), b"abcd", STARTS, STAMPS), ValueError),
        (({"x": 1}, ["x"], ENDS, b"abc", array("I", [2, 3]), STAMPS), ValueError),
        (({"x": 1}, ["x"], ENDS, b"abc", array("I"), array("Q")), ValueError),
        (({"x": 1}, ["x"], ENDS, b"abc", STARTS, array("Q", [7])), ValueError),
        (({"x": 1}, ["x"], ENDS, b"abc", b"12345", b"1234567890"), ValueError),
    ],
)
def test_bad_arguments_of_the_last_records_raise(
    native: ModuleType, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        native.last_records(*arguments)


def test_last_records_take_the_stamp_of_their_batch(native: ModuleType) -> None:
    objects: dict[str, Any] = {}
    native.index(objects, ["a", "b", "a", "c"], 0)
    ends, starts, stamps = array("Q", [1, 3, 6, 10]), array("I", [0, 3]), array("Q", [7, 2**53])

    found = native.last_records(objects, ["a", "c", "b", "x"], ends, b"0112223333", starts, stamps)

    assert found == [(7, b"222"), (2**53, b"3333"), (7, b"11"), None]


def test_indexed_records_leave_no_memory_behind(native: ModuleType, intensity: int) -> None:
    keys = ["a", "b", "a", "c", "a"]

    def call() -> None:
        objects: dict[str, Any] = {}
        native.index(objects, keys, 0)
        objects["a"][1:].__reduce__()
        native.shifted(b"12345678", 5)
        native.last_records(objects, [*keys, "x"], ends, b"12345", starts, stamps)

    ends, starts, stamps = array("Q", range(1, 6)), array("I", range(5)), array("Q", range(1000, 1005))
    require_no_leak(call, [*keys, native.Numbers], calls=CALLS * intensity)
