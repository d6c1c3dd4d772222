"""Times as callers give them, and which records they choose."""

from __future__ import annotations

import operator
import time
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._format.frame import MAX_STAMP_US
from mpcheckpoint._view.merged_read import Choice

# When something was: a time, how long ago, or microseconds since 1970.
Moment: TypeAlias = datetime | timedelta | int

_EPOCH = datetime.fromtimestamp(0, UTC)
_US = timedelta(microseconds=1)


def stamp_us_of(moment: Moment, name: str) -> int:
    """Return a time in microseconds since 1970, 0 if it is earlier; ``name`` is what the caller calls it.

    Raises:
        TypeError: it is no time at all.
        ValueError: a datetime that names no time zone, or a number or an age below 0.
    """
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise ValueError(
                f"{name}={moment!r} names no time zone: give datetime.now(UTC), or .astimezone() of a local time"
            )
        return max(0, (moment - _EPOCH) // _US)
    if isinstance(moment, timedelta):
        if moment < timedelta(0):
            raise ValueError(f"{name} is how long ago something was, at least 0, not {moment!r}")
        return max(0, time.time_ns() // 1000 - moment // _US)
    if isinstance(moment, bool) or not hasattr(moment, "__index__"):  # those of numpy are numbers, too
        raise TypeError(f"{name} is a datetime, a timedelta or whole microseconds since 1970, not {moment!r}")
    if moment < 0:
        raise ValueError(f"{name} is a number of microseconds since 1970, at least 0, not {moment!r}")
    return operator.index(moment)


def choice_of(object_key: str | None, since: Moment | None, until: Moment | None) -> Choice:
    """Return which records are wanted: of an object or of all, from when to when.

    Raises:
        InvalidKeyError: ``object_key`` is no key.
        TypeError, ValueError: as ``stamp_us_of``.
    """
    if object_key is not None:
        encode_key(object_key)
    return Choice(
        object_key,
        0 if since is None else stamp_us_of(since, "since"),
        MAX_STAMP_US if until is None else stamp_us_of(until, "until"),
    )


def require_last(last: int | None) -> int | None:
    """Return a number of records, or None for all.

    Raises:
        ValueError: it is neither.
    """
    if last is not None and (type(last) is not int or last < 0):
        raise ValueError(f"last is a number of records, at least 0, or None, not {last!r}")
    return last
