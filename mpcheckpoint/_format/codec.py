"""JSON values to bytes and back, kept exactly or refused (G10)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mpcheckpoint import _core
from mpcheckpoint._format.advice import FOR_LARGE_DATA, a, no_text, shown
from mpcheckpoint._format.frame import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_KEY_BYTES,
    MAX_LINE_BYTES,
    NO_META,
    Payload,
    batch_bytes_bound,
    may_hold_long_integer,
)
from mpcheckpoint._format.made_json import made_json
from mpcheckpoint._format.unfit import UnfitError, refused, require_json, unfit_text
from mpcheckpoint._types import Folded
from mpcheckpoint.errors import InvalidEventError, InvalidKeyError, LimitExceededError

if TYPE_CHECKING:
    from mpcheckpoint._format.made_json import Default

# Of these types, a value that does not decode to itself is the only one that JSON changes: a float that is not finite.
_ATOMS = frozenset({str, bool, type(None), int, float})
_STRINGS = frozenset({str})
_KEPT_ALWAYS = frozenset({str, bool, type(None)})
# Keys and events that are no longer than this together make no line too long, nor are they too long themselves.
_PLAINLY_SMALL_BYTES = MAX_KEY_BYTES
_PAIRS = "records are pairs of object key and event"

_tuple_new = tuple.__new__  # as in ``frame``
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
decode_event = msgspec.json.Decoder().decode
_decode_lines = msgspec.json.Decoder().decode_lines
_decode_meta = msgspec.json.Decoder(dict[str, Any] | None).decode


def encode_event(event: object, *, named: str = "event", default: Default | None = None) -> bytes:
    """Return the JSON bytes of ``event``, proven to decode to the same value, types included.

    Args:
        event: the value.
        named: what messages call it.
        default: asked for JSON in place of values that are refused, and for nothing else; then what it made is proven.

    Raises:
        InvalidEventError: ``event`` is no JSON value: NaN, a tuple, a set, bytes, a key that is no string, a
            subclass of a JSON type, a lone surrogate, nesting deeper than 128, or a structure that contains itself.
            The message names the place in the event, the type, and what to use instead.
        LimitExceededError: what ``default`` makes has no end.
        And what ``default`` raises.
    """
    try:
        return _kept(event, named)
    except InvalidEventError:
        if default is None:
            raise
    return _kept(made_json(event, default, named), named)


def _kept(event: object, named: str) -> bytes:
    kind = type(event)
    if kind is str or kind is bool or event is None:
        return _encoded(event, named)
    try:
        require_json(event, MAX_DEPTH)
    except UnfitError as unfit:
        raise refused(unfit, named) from None
    encoded = _encoded(event, named)
    try:
        decoded = decode_event(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise InvalidEventError(
            f"the {named} has no lossless JSON form: {error}", reason=str(error)
        ) from error
    if decoded != event:
        raise InvalidEventError(f"the {named} does not decode to itself", reason="not lossless")
    return encoded


def _encoded(event: object, named: str) -> bytes:
    try:
        return _encode(event)
    except UnicodeEncodeError as error:
        unfit = unfit_text()
        unfit.place = _place_of_surrogate(event)
        raise refused(unfit, named) from error
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
        raise InvalidEventError(f"the {named} has no JSON form: {error}", reason=str(error)) from error


def _place_of_surrogate(value: object) -> list[object]:
    """Return where in a value the text with a surrogate is, innermost first."""
    pairs: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for place, item in pairs:
        try:
            _encode(item)
        except UnicodeEncodeError:
            return [*_place_of_surrogate(item), place]
    return []


def encode_key(object_key: object) -> bytes:
    """Return the JSON bytes of an object key.

    Raises:
        InvalidKeyError: if it is not a ``str``, or holds a lone surrogate.
    """
    if type(object_key) is not str:
        raise InvalidKeyError(no_text("an object key", object_key), reason="not a string")
    try:
        return _encode(object_key)
    except UnicodeEncodeError as error:
        raise InvalidKeyError(
            f"the object key {object_key!r} is not valid Unicode: {error}", reason=str(error)
        ) from error


def encode_payload(
    object_key: object, event: object, record_id: object = None, default: Default | None = None
) -> Payload:
    """Return what a record says, encoded and within the limits of the format.

    Args:
        default: as for ``encode_event``. An event that is JSON costs no more for it.

    Raises:
        InvalidKeyError, InvalidEventError, LimitExceededError: nothing was written.
        And what ``default`` raises.
    """
    native = _core.native
    if native is not None:
        found: Payload | None = native.payload(Payload, object_key, event, record_id, _PLAINLY_SMALL_BYTES)
        if found is not None:
            return found
    kind = type(event)
    has_texts = type(object_key) is str and (record_id is None or type(record_id) is str)
    if has_texts and (kind in _ATOMS or _is_simple(event)):
        try:
            key_json, event_json = _encode(object_key), _encode(event)
            meta = NO_META if record_id is None else _encode({"id": record_id})
            is_kept = kind is str or (
                decode_event(event_json) == event
                and (len(event_json) <= MAX_DIGITS or not may_hold_long_integer(event_json))
            )
            if is_kept and len(key_json) + len(event_json) + len(meta) <= _PLAINLY_SMALL_BYTES:
                return _tuple_new(Payload, (key_json, event_json, meta))
        except (msgspec.MsgspecError, ValueError):
            pass
    # Not simple, or refused: what follows says why.
    meta = NO_META if record_id is None else _encode({"id": _checked_id(record_id)})
    payload = Payload(encode_key(object_key), encode_event(event, default=default), meta)
    key_bytes = len(payload.object_key) + len(meta)
    if key_bytes > MAX_KEY_BYTES:
        raise LimitExceededError(
            f"the object key and the record id take {key_bytes} bytes; a record holds at most {MAX_KEY_BYTES} of them",
            reason="object key too long",
        )
    return fitting(payload, object_key)


def fitting(payload: Payload, object_key: object) -> Payload:
    """Return what a record of that object says if it fits a line.

    Raises:
        LimitExceededError: it does not.
    """
    if batch_bytes_bound([payload]) > MAX_LINE_BYTES:
        raise LimitExceededError(
            f"the event for {shown(object_key)} takes {len(payload.event)} bytes, and a line holds at most "
            f"{MAX_LINE_BYTES}, with all that is in it",
            reason="event too large",
            advice=FOR_LARGE_DATA,
        )
    return payload


def encode_payloads(
    records: Iterable[tuple[object, object]], default: Default | None = None
) -> list[Payload]:
    """Return what ``encode_payload`` returns for each pair of object key and event, quicker where there are many.

    Raises:
        TypeError: ``records`` are no pairs; nothing was written.
        InvalidKeyError, InvalidEventError, LimitExceededError: nothing was written.
        And what ``default`` raises.
    """
    _require_many(records)
    given = list(records)
    native = _core.native
    if native is not None:
        found: list[Payload] | None = native.payloads(Payload, given, _PLAINLY_SMALL_BYTES)
        if found is not None:
            return found
    pairs = [each if type(each) is tuple and len(each) == 2 else _pair(each) for each in given]
    if all(map(_is_simple, [event for _, event in pairs])):
        payloads = _encode_simple(pairs)
        if payloads is not None:
            return payloads
    return [encode_payload(object_key, event, None, default) for object_key, event in pairs]


def _require_many(records: object) -> None:
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        hint = "; use records.items() instead" if isinstance(records, Mapping) else ""
        raise TypeError(f"{_PAIRS}, not {a(type(records))}: {shown(records)}{hint}")


def _pair(record: object) -> tuple[object, object]:
    """Return a pair that is no plain tuple.

    Rejected: to unpack whatever has two members. A text of two letters has, and so has a dict with two names: an object
    of that name would have a name as its event.
    """
    if not isinstance(record, tuple | list) or len(record) != 2:
        raise TypeError(f"{_PAIRS}; one of them is {a(type(record))}: {shown(record)}")
    return record[0], record[1]


def _is_simple(event: Any) -> bool:
    """Return whether an event is an atom, or a dict or list of atoms.

    Such an event is kept if it equals its decoded self. Others need the walk of ``require_json`` as well: an IntEnum
    equals the int that it decodes to.
    """
    kind = type(event)
    if kind is dict:
        return _ATOMS.issuperset(map(type, event.values())) and _STRINGS.issuperset(map(type, event))
    if kind is list:
        return _ATOMS.issuperset(map(type, event))
    return kind in _ATOMS


def _encode_simple(pairs: list[tuple[object, object]]) -> list[Payload] | None:
    """Return the payloads of simple events by one encode and one decode of all of them, or None if any is refused.

    The encoder writes newlines only between the lines. ``encode_payload`` says which event is refused, and why.
    """
    object_keys = [object_key for object_key, _ in pairs]
    events = [event for _, event in pairs]
    if not _STRINGS.issuperset(map(type, object_keys)):
        return None
    try:
        keys_text, events_text = _encode_lines(object_keys), _encode_lines(events)
        if not _KEPT_ALWAYS.issuperset(map(type, events)) and _decode_lines(events_text) != events:
            return None
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError):
        return None
    encoded = events_text.split(b"\n")[:-1]
    may_be_long = len(events_text) > MAX_DIGITS and max(map(len, encoded)) > MAX_DIGITS
    if may_be_long and may_hold_long_integer(events_text):
        return None
    if len(keys_text) + len(events_text) > _PLAINLY_SMALL_BYTES:
        return None
    return list(map(Payload, keys_text.split(b"\n"), encoded))


def is_json(event: object) -> bool:
    """Return whether an event is encoded as it stands. One that is only too large counts, too."""
    try:
        encode_payload("", event)
    except InvalidEventError:
        return False
    except LimitExceededError:
        pass
    return True


def _checked_id(record_id: object) -> str:
    if type(record_id) is not str:
        raise InvalidKeyError(no_text("a record id", record_id), reason="not a string")
    try:
        record_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidKeyError(
            f"the record id {record_id!r} is not valid Unicode", reason=str(error)
        ) from error
    return record_id


def record_id_of(meta: bytes) -> str | None:
    """Return the record id that a line's meta holds, or None."""
    if meta == NO_META:
        return None
    fields = _decode_meta(meta) or {}
    record_id = fields.get("id")
    return record_id if isinstance(record_id, str) else None


def folded_of(meta: bytes) -> Folded | None:
    """Return what a line's meta says of the records that were folded into it, or None."""
    if meta == NO_META:
        return None
    fields = (_decode_meta(meta) or {}).get("folded")
    count, first_us = (
        (fields.get("count"), fields.get("first_us")) if isinstance(fields, dict) else (None, None)
    )
    return Folded(count, first_us) if isinstance(count, int) and isinstance(first_us, int) else None
