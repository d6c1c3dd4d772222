"""Read some of one log: after a position, of a time, or the last records, and no more of it than that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._types import Position
from mpcheckpoint._view.followed import FollowedLog
from mpcheckpoint._view.merged_read import Tap, skip_older

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._store.protocol import StoredLog
    from mpcheckpoint._types import Record
    from mpcheckpoint._view.durable import Only
    from mpcheckpoint._view.merged_read import Choice


def read_log(
    stored: StoredLog, after: Position | None, choice: Choice, last: int | None, only: Only | None
) -> Iterator[Record]:
    """Return the wanted records of a log that come after a position; only the ``last`` so many, unless that is None.

    Raises:
        TypeError: ``after`` is no position: at once.
    """
    if not isinstance(after, Position | None):
        raise TypeError(f"after is the position of a record, or None for the start, not {after!r}")
    return _records(stored, after, choice, last, only)


def _records(
    stored: StoredLog, after: Position | None, choice: Choice, last: int | None, only: Only | None
) -> Iterator[Record]:
    followed = FollowedLog(stored, only, after)
    try:
        followed.begin()
        if last is None:
            if choice.since_us > (0 if after is None else after.stamp_us):
                followed.reader.release()
                followed = FollowedLog(stored, only)
                skip_older(followed.reader, choice.since_us)
            yield from followed.records(choice)
            return
    finally:
        followed.reader.release()
    if after is not None:
        choice = choice._replace(since_us=max(choice.since_us, after.stamp_us))
    tap = Tap(stored, choice, only)
    for found in tap.last(last):
        # Of the batch that the position is in, what is before it is chosen, too: first of all.
        if after is None or found.is_after(after):
            yield found.record()
    if tap.failure is not None:
        raise tap.failure
