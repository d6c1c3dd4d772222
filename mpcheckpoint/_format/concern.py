"""What a line concerns: by this an append's condition says which later lines could change what it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._format.control import CLAIM, FORGET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpcheckpoint._format.frame import Payload

# In the place of a control line's key.
CONTROL = b"null"
_OF_OBJECTS = frozenset({CLAIM, FORGET})

_decode_key = msgspec.json.Decoder(str).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode


def concern_of(payload: Payload) -> bytes:
    """Return what a line concerns: an object, by its key as JSON, or a control line's name.

    A forget and a claim concern the object they name. No name that this library gives begins with a quote, as each key
    does. Requires: the payload is one that this library encodes.
    """
    object_key = payload.object_key
    if object_key != CONTROL:
        # Only an escape can be spelt in another way, which other programs do.
        return object_key if b"\\" not in object_key else encode_key(_decode_key(object_key))
    fields = _decode_fields(payload.event)
    name, named = fields["control"], fields.get("object_key")
    is_of_object = name in _OF_OBJECTS and isinstance(named, str)
    return encode_key(named) if is_of_object else str(name).encode()


def concerns_of_objects(object_keys: Iterable[str]) -> frozenset[bytes]:
    """Return what the lines concern that are about these objects: records, claims and forgets."""
    return frozenset(encode_key(object_key) for object_key in object_keys)


def concern_of_notes(name: str) -> bytes:
    """Return what notes of that name concern, other than claims."""
    return name.encode()
