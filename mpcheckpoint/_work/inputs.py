"""Items and the object keys that stand for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from mpcheckpoint._format.advice import a, shown, text_for
from mpcheckpoint._format.codec import encode_event, encode_key
from mpcheckpoint.errors import ChangedItemError, InvalidEventError, LimitExceededError

# A larger item is not copied into its outcome.
_MOST_ITEM_BYTES = 1024 * 1024
_MOST_COMPARED = 10_000
_tuple_new = tuple.__new__  # twice as quick as the call of a NamedTuple


class Input(NamedTuple):
    """One item that was handed in to a map.

    Attributes:
        place: how many inputs came before it.
        item: what was handed in.
        object_key: the object that stands for it.
        recorded: what its outcome says of it: nothing if it is its own key; the item, if it is a JSON value; else that
            it is none.
        attempts: how many attempts had failed when it was given to a worker.
        file: what the file that the item names was before it was given to a worker; None if that does not matter.
        void_us: the stamp of its outcome that does not count, as the map has judged: see ``run_again``. Later ones do.
    """

    place: int
    item: Any
    object_key: str
    recorded: dict[str, Any]
    attempts: int = 0
    file: dict[str, Any] | None = None
    void_us: int = 0


class NotYet:
    """What a source yields when it has no item now, but may have one later."""


NOT_YET: Final = NotYet()


def inputs_of(items: Iterable[Any], key: Callable[[Any], str] | None) -> Iterator[Input]:
    """Yield the items with their object keys.

    Raises:
        TypeError: an item is no string, and there is no ``key``.
        InvalidKeyError: ``key`` returned something that is no object key.
    """
    for place, item in enumerate(items):
        object_key = object_key_of(item, key)
        recorded = {} if object_key is item else recorded_of(item, object_key)
        yield _tuple_new(Input, (place, item, object_key, recorded, 0, None, 0))


def object_key_of(item: Any, key: Callable[[Any], str] | None) -> str:
    """Return the object key that stands for an item."""
    if key is None and type(item) is not str:
        example = "key=str" if text_for(type(item)) == "str(x)" else "key=lambda item: item['id']"
        raise TypeError(
            f"an item that is no str needs key=, a function that returns its object key, as {example}; "
            f"got {a(type(item))}: {shown(item)}"
        )
    object_key: str = item if key is None else key(item)
    if type(object_key) is not str or not object_key.isascii():
        encode_key(object_key)
    return object_key


def recorded_of(item: Any, object_key: str) -> dict[str, Any]:
    """Return what an outcome says of its item: see ``Input.recorded``."""
    if type(item) is str and item == object_key:
        return {}
    try:
        is_opaque = len(encode_event(item)) > _MOST_ITEM_BYTES
    except (InvalidEventError, LimitExceededError):
        is_opaque = True
    return {"opaque": True} if is_opaque else {"item": item}


class LatestItems:
    """Finds keys that come with another item than before, for items that no record can hold.

    Compares with ==, among the latest 10,000 items of a run, so that memory is bounded.
    """

    def __init__(self) -> None:
        self._items: OrderedDict[str, Any] = OrderedDict()

    def check(self, entry: Input) -> None:
        """Take note of an input.

        Raises:
            ChangedItemError: its key came with another item.
        """
        if "opaque" not in entry.recorded:
            return
        known = self._items.setdefault(entry.object_key, entry.item)
        if known is not entry.item and not _is_equal(known, entry.item):
            raise changed_item(entry)
        if len(self._items) > _MOST_COMPARED:
            self._items.popitem(last=False)


def changed_item(entry: Input) -> ChangedItemError:
    """Return the error for a key that came with another input."""
    return ChangedItemError(
        f"the object key {entry.object_key!r} came with another input than before: {entry.item!r:.200}. It was not "
        "run",
        advice="give every input a key of its own, or run it under the name of a new rerun or in another log",
        shell_advice="give every item a key of its own (--item-key), or run it under a new name (--rerun NAME), or in "
        "another log (--key)",
        reason="changed item",
    )


def _is_equal(first: Any, second: Any) -> bool:
    try:
        return bool(first == second)
    except Exception:  # noqa: BLE001 - arrays and others whose == gives no truth value: it cannot be told
        return True
