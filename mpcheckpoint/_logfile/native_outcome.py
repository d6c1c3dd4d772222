"""What native code did to a log; see native/append.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._format.frame import EndState

if TYPE_CHECKING:
    from collections.abc import Sequence

_tuple_new = tuple.__new__  # a NamedTuple is made by a function in Python


class NativeAppend(NamedTuple):
    """What one call of native code did to a log.

    Attributes:
        is_written: whether the batch is in the log. Else its write has failed with ``error``; or was cut short, if that
            is 0.
        before, after: where the log ended, and where it ends with the batch.
        allocated, durable, is_alone, is_followed: as the open log knows them now.
        left, unpublished: what this process left in the page last, and how many appends ago.
        is_unlocked: whether the kernel's lock was given back.
        is_extended: whether the batch goes beyond what was allocated, so that the log is longer by it.
        data: the bytes of a batch that is not written.
    """

    is_written: bool
    before: EndState
    after: EndState
    allocated: int
    durable: int
    is_alone: bool
    is_followed: bool
    left: bytes
    unpublished: int
    is_unlocked: bool
    is_extended: bool
    error: int
    data: bytes


def native_append(told: Sequence[Any]) -> NativeAppend:
    """Return what native code told in a tuple."""
    is_written, before, after, *rest = told
    ends = _tuple_new(EndState, before), _tuple_new(EndState, after)
    return _tuple_new(NativeAppend, (is_written, *ends, *rest))
