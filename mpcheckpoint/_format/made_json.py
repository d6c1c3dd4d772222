"""JSON made of values that are none, by a function of the caller's: ``default=``. Needed only once a value was refused.

The function is asked as that of ``json.dumps`` is, but for every value that would not come back as it is: for a tuple,
a subclass of a JSON type, and NaN, too. What it returns stands in place of the value, and may hold more values that it
is asked for. So what is recorded is what it made, and comes back as that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpcheckpoint._format.advice import FOR_LARGE_DATA, a, json_for
from mpcheckpoint._format.frame import MAX_DEPTH, MAX_LINE_BYTES
from mpcheckpoint._format.unfit import UnfitError, refused, require_json, require_names, unfit_text
from mpcheckpoint.errors import LimitExceededError

Default = Callable[[Any], Any]

# How often the function is asked in a row, for what it has just returned. A value of a program takes one or two.
_MOST_IN_A_ROW = 16
# No line holds more: each takes a byte, and one more that keeps it apart from the next.
_MOST_VALUES = MAX_LINE_BYTES // 2


def made_json(event: object, default: Default, named: str = "event") -> Any:
    """Return a copy of ``event`` in which every value that is no JSON is what ``default`` makes of it.

    Args:
        named: what messages call the event.

    Raises:
        InvalidEventError: a key of a dict is no string; it is nested too deep, or contains itself; or ``default``
            returned what it was given, or never JSON.
        LimitExceededError: it holds more values than a line may.
        And what ``default`` raises.
    """
    try:
        return _Making(default).made(event, MAX_DEPTH)
    except UnfitError as unfit:
        raise refused(unfit, named) from None


class _Making:
    """The way through one event.

    Invariant: ``_within`` has the ids of values that live: each is held by a call of ``made`` that is under way.
    """

    def __init__(self, default: Default) -> None:
        self._default = default
        self._within: set[int] = set()
        self._left = _MOST_VALUES

    def made(self, value: Any, depth: int) -> Any:
        """Return the JSON that a value is, or that is made of it."""
        self._left -= 1
        if self._left < 0:
            raise LimitExceededError(
                f"the event, as default= makes it, has more than {_MOST_VALUES} values, and a line holds at most "
                f"{MAX_LINE_BYTES} bytes",
                reason="event too large",
                advice=FOR_LARGE_DATA,
            )
        asked: list[Any] = []
        try:
            while (unfit := _unfit(value)) is not None:
                value = self._answer(value, asked, unfit)
            return self._with_members(value, depth) if type(value) in (list, dict) else value
        finally:
            self._within.difference_update(map(id, asked))

    def _answer(self, value: Any, asked: list[Any], unfit: UnfitError) -> Any:
        """Ask the function. ``asked`` has what it was asked for at this place before."""
        kind = type(value)
        if id(value) in self._within and all(value is not each for each in asked):
            raise UnfitError(f"{a(kind)} contains itself", "its name, or an id,", kind=kind)
        if asked and value is asked[-1]:
            raise UnfitError(f"default= returned {a(kind)} as it was given", json_for(kind), kind=kind)
        if len(asked) == _MOST_IN_A_ROW:
            why = f"default= was asked {_MOST_IN_A_ROW} times in a row, and returned {a(kind)}, which is no JSON"
            raise UnfitError(why, unfit.instead, kind=kind)
        asked.append(value)
        self._within.add(id(value))
        return self._default(value)

    def _with_members(self, value: Any, depth: int) -> Any:
        """Return a copy of a list or dict. Two calls a level of nesting: the caller's stack may be deep."""
        is_dict = type(value) is dict
        if is_dict:
            require_names(value)
        if depth == 0:
            raise UnfitError(f"nested deeper than {MAX_DEPTH}", "something flatter")
        members: list[tuple[Any, Any]] = []
        for place, member in value.items() if is_dict else enumerate(value):
            try:
                members.append((place, self.made(member, depth - 1)))
            except UnfitError as unfit:
                unfit.place.append(place)
                raise
        return dict(members) if is_dict else [member for _, member in members]


def _unfit(value: Any) -> UnfitError | None:
    """Return why a value is no JSON, apart from its members; None if it is."""
    kind = type(value)
    if kind is list or kind is dict:
        return None
    try:
        require_json(value, 0)
        if kind is str:
            value.encode()
    except UnicodeEncodeError:
        return unfit_text()
    except UnfitError as unfit:
        return unfit
    return None
