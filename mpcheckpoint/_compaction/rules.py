"""What to drop, as it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._types import Record

WEEK_S = 7 * 24 * 3600.0
# Some hundred years: nothing in a log is older.
LONGEST_S = 1e10


class Rules(NamedTuple):
    """What to drop. Without a rule: nothing but what is of no use to anybody any more.

    Attributes:
        keep_last: keep so many records of each object.
        newer_than_s: keep the records that are at most so many seconds old. With both: what either keeps.
        drop: drop the records of which it returns true, whatever the others say.
        fold: keep, in the place of what the first two would drop of an object, what this makes of the events, two at
            a time: the earlier one (or what it made of those before), and the later one.
        keep_ids_s: for so many seconds record ids of dropped records are known, and the count of an object of which
            nothing is left.
        purge: leave nothing of what was forgotten, not even that it was.
        most_kept: drop nothing where more than this part of the log would be kept, in bytes.
    """

    keep_last: int | None = None
    newer_than_s: float | None = None
    drop: Callable[[Record], object] | None = None
    fold: Callable[[Any, Any], Any] | None = None
    keep_ids_s: float = WEEK_S
    purge: bool = False
    most_kept: float = float("inf")  # a copy may be longer, by what holds places
