"""Items that are JSON values, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mpcheckpoint._cli.maps.lines import BadItemError
from mpcheckpoint._cli.maps.template import JsonItem, MissingFieldError, Template
from mpcheckpoint._work.inputs import Input, recorded_of
from mpcheckpoint.errors import CheckpointError, shell_text

if TYPE_CHECKING:
    from collections.abc import Callable

_decode = msgspec.json.Decoder().decode
_canonical = msgspec.json.Encoder(order="sorted").encode


def json_reader(template: Template, item_key: str | None) -> Callable[[int, bytes], Input]:
    """Return what makes an input of the line at a place.

    Its object key is the field ``item_key``; without one the value itself: a string as it is, anything else as JSON,
    with sorted keys and no blanks.
    """

    def read(place: int, line: bytes) -> Input:
        try:
            value = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadItemError(f"is no JSON: {error}") from None
        object_key = _text_of(value).decode() if item_key is None else _key_in(value, item_key)
        item = JsonItem(line, _text_of(value, line.strip()), _fields_of(value))
        try:
            template.argv(item)
        except MissingFieldError as error:
            raise BadItemError(f"has {error}") from None
        try:
            return Input(place, item, object_key, recorded_of(value, object_key))
        except CheckpointError as error:
            raise BadItemError(f"cannot be an item: {shell_text(error)}") from None

    return read


def _text_of(value: Any, written: bytes | None = None) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return _canonical(value) if written is None else written


def _fields_of(value: Any) -> dict[bytes, bytes] | None:
    if not isinstance(value, dict):
        return None
    return {name.encode(): _text_of(each) for name, each in value.items()}


def _key_in(value: Any, item_key: str) -> str:
    if not isinstance(value, dict):
        raise BadItemError(f"is no JSON object, which --item-key {item_key} needs")
    if item_key not in value:
        raise BadItemError(f"has no field {item_key!r}, which --item-key names")
    found = value[item_key]
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise BadItemError(f"has no string or number in the field {item_key!r}, which --item-key names")
    return _text_of(found).decode()
