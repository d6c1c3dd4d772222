"""What JSON cannot hold, or would change silently: found in a value, with its place and what to use instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.advice import a, json_for, name_of, shown
from mpcheckpoint._format.frame import MAX_DEPTH, MAX_DIGITS
from mpcheckpoint.errors import InvalidEventError

if TYPE_CHECKING:
    from collections.abc import Iterable

_INTEGER_LIMIT = 10**MAX_DIGITS
_STRINGS = frozenset({str})
# A message shows so many steps into an event; of a longer way the first and the last.
_MOST_PLACES = 8


class UnfitError(Exception):
    """A value is refused.

    Attributes:
        why: the reason.
        instead: what to use instead.
        kind: the type that JSON does not have, if that is the reason.
        place: the indexes and names that lead to the value, innermost first.
    """

    def __init__(self, why: str, instead: str, *, kind: type | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.instead = instead
        self.kind = kind
        self.place: list[object] = []


def require_json(value: Any, depth: int) -> None:
    """Refuse what JSON would change silently.

    Types are compared exactly: an IntEnum or a NumPy float would come back as something else. The place of a refused
    value is put together on the way out, so that sound values do not pay for it.
    """
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return
    if kind is int:
        if not -_INTEGER_LIMIT < value < _INTEGER_LIMIT:
            raise UnfitError(
                f"an integer of more than {MAX_DIGITS} digits, which not every process can read", "hex(x)"
            )
    elif kind is float:
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - the test for NaN
            raise UnfitError(f"{value!r} has no JSON form", "None, or str(x),")
    elif kind is list:
        _require_members(enumerate(value), depth)
    elif kind is dict:
        require_names(value)
        _require_members(value.items(), depth)
    else:
        raise UnfitError(f"{a(kind)} would not come back as one", json_for(kind), kind=kind)


def _require_members(members: Iterable[tuple[object, object]], depth: int) -> None:
    if depth == 0:
        raise UnfitError(f"nested deeper than {MAX_DEPTH}", "something flatter")
    place: object = None
    try:
        for place, item in members:  # noqa: B007 - used where an item is refused
            require_json(item, depth - 1)
    except UnfitError as unfit:
        unfit.place.append(place)
        raise


def require_names(members: dict[Any, object]) -> None:
    """Refuse a dict that has a key other than a string."""
    if not _STRINGS.issuperset(map(type, members)):
        name = next(name for name in members if type(name) is not str)
        why = f"key {shown(name)} is {a(type(name))}, not a string"
        raise UnfitError(why, "{str(key): value for key, value in x.items()}", kind=type(name))


def unfit_text() -> UnfitError:
    """Return the refusal of a text that holds a lone surrogate."""
    return UnfitError(
        "the text holds a lone surrogate, which UTF-8 cannot hold: the name of a file, maybe",
        'x.encode("utf-8", "backslashreplace").decode()',
    )


def refused(unfit: UnfitError, named: str) -> InvalidEventError:
    """Return the error that says what was refused, where it is in the value, and what to use instead.

    Args:
        named: what messages call the whole value.
    """
    where = [f"[{shown(part)}]" for part in reversed(unfit.place)]
    if len(where) > _MOST_PLACES:
        where[_MOST_PLACES // 2 : -_MOST_PLACES // 2] = ["..."]
    return InvalidEventError(
        f"{named}{''.join(where)}: {unfit.why}; use {unfit.instead} instead. {named.capitalize()}s are None, bool, "
        "int, finite float, str, list, and dict with string keys",
        reason=unfit.why,
        type_name=None if unfit.kind is None else name_of(unfit.kind),
    )
