"""One record in the place of many: what a function of the caller's makes of their events, two at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mpcheckpoint._format.codec import decode_event, encode_payload, fitting, folded_of
from mpcheckpoint._types import Folded

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Line, Payload


class _Folding(NamedTuple):
    """What the first events of an object were folded into so far."""

    value: Any
    records: int
    first_us: int


class Folds:
    """The objects whose events are being folded."""

    def __init__(self, fold: Callable[[Any, Any], Any]) -> None:
        self._fold = fold
        self._folding: dict[str, _Folding] = {}

    def add(self, line: Line) -> None:
        """Fold the next record of an object. What the function raises is raised, with a note that says where."""
        object_key = line.object_key
        assert object_key is not None
        event, own = decode_event(line.event), folded_of(line.meta) or Folded(1, line.stamp_us)
        known = self._folding.get(object_key)
        if known is None:
            self._folding[object_key] = _Folding(event, own.count, own.first_us)
            return
        try:
            value = self._fold(known.value, event)
        except Exception as error:
            error.add_note(f"mpcheckpoint: fold= raised this for {object_key!r}; nothing was changed")
            raise
        self._folding[object_key] = _Folding(value, known.records + own.count, known.first_us)

    def snapshot(self, object_key: str) -> Payload:
        """Return what the events of an object were folded into, as a record that says so.

        Raises:
            InvalidEventError, LimitExceededError: it is no JSON value, or too large.
        """
        value, records, first_us = self._folding.pop(object_key)
        payload = encode_payload(object_key, value)
        meta = msgspec.json.encode({"folded": {"count": records, "first_us": first_us}})
        return fitting(payload._replace(meta=meta), object_key)
