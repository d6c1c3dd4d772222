"""Records as commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mpcheckpoint._cli.terminal import safe
from mpcheckpoint._cli.times import iso

if TYPE_CHECKING:
    from mpcheckpoint import Record


def event_text(event: Any) -> str:
    """Return an event as JSON that is safe to show."""
    return safe(msgspec.json.encode(event).decode())


def record_fields(record: Record) -> dict[str, Any]:
    """Return the fields of a record for JSON."""
    return {
        "time": iso(record.stamp_us),
        "stamp_us": record.stamp_us,
        "log_key": record.log_key,
        "object_key": record.object_key,
        "event": record.event,
        "record_id": record.record_id,
        "position": str(record.position),
    }
