"""What an append relies on: how many events objects have, what was read of them, and where the log ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._format.concern import concerns_of_objects
from mpcheckpoint._types import Position
from mpcheckpoint.errors import ConflictError, InvalidPositionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcheckpoint._view.log_states import LogState
    from mpcheckpoint._view.view import LogView, ObjectState

# The place before all records of a log.
START = "start"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What has to be true of a log for a batch to be appended; each is judged in constant time.

    Attributes:
        counts: how many events objects have to have.
        states: the state in which objects have to be.
        end: after which nothing may have been appended; None for anything.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, ObjectState] = field(default_factory=dict)
    end: Position | str | None = None

    def __bool__(self) -> bool:
        return bool(self.counts or self.states or self.end)

    @property
    def relies_on(self) -> frozenset[bytes] | None:
        """What lines concern that could change what this comes to; None for any line."""
        return concerns_of_objects([*self.counts, *self.states]) if self.end is None else None

    def require(self, state: LogState) -> None:
        """Return if all is true of the log, as it was read.

        Raises:
            ConflictError: something is not.
            InvalidPositionError: ``end`` is no position of this log, or what was before it is lost.
        """
        if self.end is not None:
            _require_end(state, self.end)
        for object_key, count in self.counts.items():
            require_count(state.view, object_key, count)
        for object_key, known in self.states.items():
            require_count(state.view, object_key, known.events, state=known)


def conditions(
    expected_counts: Mapping[str, int] | None, expected_end: Position | str | None
) -> Conditions | None:
    """Return what a caller of ``Log.append_many`` expects; None if that is nothing.

    Raises:
        InvalidKeyError: something that was to be counted is no object key.
        ValueError: a count is no number of events, or the end is neither a position nor "start".
    """
    if expected_counts is None and expected_end is None:
        return None
    if not isinstance(expected_end, Position | None) and expected_end != START:
        raise ValueError(f"expected_end is a position, {START!r} or None, not {expected_end!r}")
    counts = dict(expected_counts or {})
    for object_key, count in counts.items():
        encode_key(object_key)
        require_number(f"the expected count of {object_key!r}", count)
    return Conditions(counts, end=expected_end)


def require_number(what: str, number: object) -> None:
    """Raise ValueError if that is no number of events."""
    if type(number) is not int or number < 0:
        raise ValueError(f"{what} is a number of events, at least 0, not {number!r}")


def require_count(view: LogView, object_key: str, expected: int, *, state: ObjectState | None = None) -> None:
    """Return if an object has so many events, and, unless None, is still in that state."""
    numbers, dropped = view.records.numbers_of(object_key), view.dropped_of(object_key)
    is_same = state is None or state.is_same(view.state_of(object_key))
    if dropped + len(numbers) != expected or not is_same:
        unexpected = numbers[expected - dropped] if 0 <= expected - dropped < len(numbers) else None
        raise ConflictError(
            object_key,
            expected=expected,
            found=dropped + len(numbers),
            position=view.position_of(unexpected) if unexpected is not None else None,
        )


def _require_end(state: LogState, expected: Position | str) -> None:
    """Return if no record came after that place, and nothing was forgotten: what is read of the log is the same."""
    stored, reader, view = state
    end = reader.position()
    stamp_us, more = 0, 0
    if isinstance(expected, Position):
        stamp_us, more = expected.stamp_us, expected.more
        is_of_it = expected.log_key == view.log_key and expected.generation == view.generation
        # No place is after the end, whichever generation it is of, unless what was there is lost.
        if not is_of_it or expected > end:
            another = stored.reader(resumes=True)
            try:
                another.seek(expected)
                is_lost = end < expected != another.position()  # else it was left out
            finally:
                another.release()
            if is_lost:
                raise InvalidPositionError(
                    f"{expected} is after all that the log {view.log_key!r} holds: what was there was lost",
                    offset=expected.offset,
                    reason="records lost",
                )
    if view.last <= (stamp_us, -more):
        return
    first = view.records.first_after(stamp_us, more)
    found = view.records.count - first
    position = view.position_of(first) if found else None
    if view.last[0] > end.stamp_us:  # where that was left out, and nothing stands in its place
        end = Position(view.log_key, view.generation, end.offset, view.last[0], 0, view.lineage)
    raise ConflictError(None, expected=0, found=found, position=position, end=end, after=str(expected))
