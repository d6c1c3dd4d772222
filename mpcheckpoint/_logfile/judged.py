"""The condition of an append, judged before the append lock is taken: that holds if nothing was appended meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import EndState
    from mpcheckpoint._types import Position

# After that it is judged under the lock, where nobody else can append.
_MOST_EARLY = 3


class Seen(NamedTuple):
    """What a reader has read: a generation of a log, up to an end.

    Attributes:
        end: whatever the storage tells ends by. Two ends of one generation are equal only if all before them is; of a
            log file it is an EndState, whose crc runs over the whole file.
    """

    generation: str
    end: object


class LastingEnd:
    """An end from which a storage tells by itself whether anything came since that a condition relies on.

    So a condition may be judged of a view that is not up to date: what was appended since is found out in any case.
    """

    __slots__ = ()


class Judged:
    """A condition, as an append takes it for its ``guard``.

    Invariant: a batch is appended only to what the condition was judged of (held by tests/append/test_judged_early.py),
    or to what differs from that in nothing that the condition relies on (tests/append/test_relied_on.py).

    Attributes:
        seen: what the log held when the condition was last found to be met, without the lock; None if it was not.
        relies_on: what the condition, and the batch that it chooses, depend on: lines that do not concern this
            (``_format.concern``) change neither. None if they may depend on anything.
        appended: what the log held once the batch was appended, if that is a ``LastingEnd``; None if not told. What the
            batch says of an object is true there, and for as long as nothing comes that concerns the object.
    """

    def __init__(
        self,
        judge: Callable[[], Position | None],
        judge_early: Callable[[], Seen | None],
        relies_on: frozenset[bytes] | None = None,
    ) -> None:
        """Take what judges under the append lock, and raises or returns a position if the condition is not met; and
        what judges without it, and returns None then."""
        self._judge = judge
        self._judge_early = judge_early
        self.relies_on = relies_on
        self._tries = 0
        self.seen: Seen | None = None
        self.appended: Seen | None = None

    def __call__(self) -> Position | None:
        """Judge. Raises and returns what ``judge`` does. Requires: the append lock."""
        return self._judge()

    def is_met_anew(self) -> bool:
        """Judge without the lock; return whether the condition is met by something else than the last time."""
        before, self.seen = self.seen, None
        if self._tries < _MOST_EARLY:
            self._tries += 1
            self.seen = self._judge_early()
        return self.seen is not None and self.seen != before


def judged(guard: Callable[[], Position | None], generation: str, end: EndState) -> Position | None:
    """Return what a condition comes to under the append lock, where it may have been judged of what the log holds now.

    Args:
        end: where the log ends now.
    """
    if isinstance(guard, Judged) and guard.seen == (generation, end):
        return None
    return guard()
