"""The check for memory that calls leave behind sees what is left, whoever took it, and nothing else."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest

from support.leaks import CALLS, require_no_leak

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES = 16


def memory_of_c() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    return library


def taking(one_in: int) -> Callable[[], object]:
    """Return a call that takes memory of the C library, one time in so many, and never gives it back."""
    library = memory_of_c()
    made = 0

    def call() -> None:
        nonlocal made
        made += 1
        if made % one_in == 0:
            ctypes.memset(library.malloc(BYTES), 1, BYTES)

    return call


@pytest.mark.parametrize("one_in", [1, 4])
def test_memory_of_c_that_is_not_given_back_is_seen(one_in: int) -> None:
    with pytest.raises(AssertionError):
        require_no_leak(taking(one_in), calls=CALLS)


def test_memory_of_c_that_one_call_in_sixteen_keeps_is_seen_among_a_million() -> None:
    with pytest.raises(AssertionError):
        require_no_leak(taking(16), calls=10 * CALLS)


def test_memory_of_c_that_was_free_before_and_is_not_given_back_is_seen() -> None:
    library = memory_of_c()
    if not hasattr(library, "mallinfo2"):
        pytest.skip("the C library does not say what memory it has given out")
    places = [library.malloc(BYTES) for _ in range(4 * CALLS)]
    for place in places:
        ctypes.memset(place, 1, BYTES)
    for place in places[::2]:  # so that no page is free as a whole, and each stays resident
        library.free(place)

    try:
        with pytest.raises(AssertionError):
            require_no_leak(taking(1), calls=CALLS)
    finally:
        for place in places[1::2]:
            library.free(place)


def test_objects_that_are_kept_are_seen() -> None:
    kept: list[object] = []

    with pytest.raises(AssertionError):
        require_no_leak(lambda: kept.append(object()), calls=CALLS)


def test_references_that_are_kept_are_seen() -> None:
    shared: object = object()
    kept: list[object] = [None] * (2 * CALLS)
    numbers = iter(range(2 * CALLS))

    def call() -> None:
        kept[next(numbers)] = shared

    with pytest.raises(AssertionError):
        require_no_leak(call, [shared], calls=CALLS)


def test_calls_that_keep_nothing_pass() -> None:
    require_no_leak(lambda: [object()] * 100, calls=CALLS)
