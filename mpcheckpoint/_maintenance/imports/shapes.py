"""The shapes of a source: JSON Lines of any fields, a log of ours, a file of the older tool."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from mpcheckpoint._format.codec import decode_event, record_id_of
from mpcheckpoint._format.control import (
    CONTROLS_OF_A_GENERATION,
    Header,
    UnknownControlError,
    UnknownVersion,
    control_name,
    parse_header,
)
from mpcheckpoint._format.frame import Line, parse_line, running_crc, stored_crc_before

_decode_lines = msgspec.json.Decoder().decode_lines

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEX = frozenset("0123456789abcdef")
_HINTS = (
    ((b"\xff\xfe", b"\xfe\xff"), "UTF-16; make it UTF-8 first: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first: gzip -dc FILE | mpcheckpoint import --as NAME ... -"),
    (
        b"\x28\xb5\x2f\xfd",
        "compressed by zstd; unpack it first: zstd -dc FILE | mpcheckpoint import --as NAME ... -",
    ),
)
_NOT_LINES = "JSON over several lines, or an array; make it one object a line first: jq -c '.[]' FILE"


class FoundRecord(NamedTuple):
    """One record that a line holds. Its values are not checked yet."""

    object_key: str
    event: Any
    record_id: str | None = None


class NotARecordError(Exception):
    """A line is no record; the text says why.

    Attributes:
        may_be_cut: whether the end of the line may only be missing yet.
    """

    def __init__(self, reason: str, *, may_be_cut: bool = False) -> None:
        super().__init__(reason)
        self.may_be_cut = may_be_cut


class Fields:
    """One object a line, of which two fields count. Single lines of a log of ours are read, too.

    Args:
        object_field: the field that holds the object key: a string, or an integer, whose digits are then the key.
        event_field: the field that holds the event; None if the whole object is the event.
    """

    is_at_end_of_batch = True

    def __init__(self, object_field: str, event_field: str | None) -> None:
        self._object_field, self._event_field = object_field, event_field
        event = "the whole as event" if event_field is None else f"event {event_field!r}"
        self.name = f"object {object_field!r}, {event}"

    def find(self, line: bytes, offset: int) -> list[FoundRecord]:
        """Return the record that the line holds."""
        value: Any = _decoded(line)
        if type(value) is not dict:
            return _found_in_line_of_log(value)
        try:
            object_key = value[self._object_field]
            event = value if self._event_field is None else value[self._event_field]
        except KeyError as error:
            raise NotARecordError(f"there is no field {error.args[0]!r}; it has {_names(value)}") from None
        if type(object_key) is int:
            object_key = str(object_key)
        if type(object_key) is not str:
            raise NotARecordError(f"the field {self._object_field!r} is neither a string nor an integer")
        return [FoundRecord(object_key, event)]

    def find_in_all(self, lines: bytes) -> list[FoundRecord] | None:
        """Return the records in whole lines, quicker than one by one; None if only ``find`` can tell.

        Invariant: it finds what ``find`` finds (held by tests/maintenance/test_import_shapes.py).
        """
        field = self._event_field
        try:
            values = _decode_lines(lines)
            object_keys = list(map(itemgetter(self._object_field), values))
            events = values if field is None else list(map(itemgetter(field), values))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            return None
        if (
            len(values) != lines.count(b"\n")
            or not _are_objects(lines)
            or set(map(type, values)) != {dict}
            or set(map(type, object_keys)) != {str}
        ):
            return None
        return list(map(FoundRecord, object_keys, events))


class OlderTool:
    """One object a line. Each member of it is an object key and its event."""

    name = "older tool"
    is_at_end_of_batch = True

    def find(self, line: bytes, offset: int) -> list[FoundRecord]:
        """Return the records in the line: one, as the older tool wrote it, or more."""
        value: Any = _decoded(line)
        if type(value) is not dict or not value:
            raise NotARecordError("not an object {object key: event}, as the older tool wrote them")
        return [FoundRecord(object_key, event) for object_key, event in value.items()]


class WholeLog:
    """A log of ours, from its header on: only what its checksums prove, and only whole batches.

    Attributes:
        is_at_end_of_batch: whether the last line was the last one of its batch.
    """

    name = "log"

    def __init__(self) -> None:
        self.is_at_end_of_batch = True
        self._crc = 0

    def resume(self, before: bytes) -> None:
        """Go on after a line that ends with these bytes."""
        stored_crc = stored_crc_before(before, len(before))
        self._crc = 0 if stored_crc is None else running_crc(stored_crc)

    def find(self, line: bytes, offset: int) -> list[FoundRecord]:
        """Return the record in the line; none if it is a control line."""
        parsed = parse_line(line, 0, len(line), base=offset, crc=self._crc)
        stored_crc = stored_crc_before(line, len(line))
        if stored_crc is not None:
            self._crc = running_crc(stored_crc)
        if not isinstance(parsed, Line):
            self.is_at_end_of_batch = True
            raise NotARecordError(f"damage in a log: {parsed}", may_be_cut=True)
        self.is_at_end_of_batch = parsed.more == 0
        if parsed.object_key is not None:
            return [FoundRecord(parsed.object_key, decode_event(parsed.event), record_id_of(parsed.meta))]
        try:
            control_name(parsed)
        except UnknownControlError as error:
            raise NotARecordError(f"{error}, which this release does not know") from None
        return []


# How to read the lines of a source. `find` returns the records in the line at an offset, none if the line may be
# skipped, and raises NotARecordError. Only an import of the same `name` carries on. Unless `is_at_end_of_batch`, the
# records so far may not be imported without the next ones.
Shape = Fields | OlderTool | WholeLog


def is_whole_log(head: bytes) -> bool:
    """Return whether bytes are the beginning of a log of ours.

    Raises:
        NotARecordError: of a log in a newer format.
    """
    header = parse_header(head)
    if isinstance(header, UnknownVersion):
        raise NotARecordError(f"a log in format version {header.version!r}, which this release does not know")
    return isinstance(header, Header)


def _decoded(line: bytes) -> object:
    try:
        return decode_event(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        for beginnings, hint in _HINTS:
            if line.startswith(beginnings):
                raise NotARecordError(hint) from None
        hint = f" ({_NOT_LINES})" if line.strip() in (b"[", b"{") else ""
        raise NotARecordError(f"not JSON: {error}{hint}", may_be_cut=True) from None
    except RecursionError:
        raise NotARecordError("nested too deep") from None


def _found_in_line_of_log(value: object) -> list[FoundRecord]:
    """Return the record in a line of a log that came alone, through grep or jq: no checksum proves it then."""
    if not isinstance(value, list):
        raise NotARecordError(f"not an object but {_kind(value)}")
    if not _looks_like_line(value):
        raise NotARecordError(f"not an object but an array ({_NOT_LINES})")
    object_key, event, meta = value[4:7]
    if object_key is not None:
        record_id = meta.get("id") if meta is not None else None
        return [FoundRecord(object_key, event, record_id if isinstance(record_id, str) else None)]
    control = event.get("control") if isinstance(event, dict) else None
    if control in CONTROLS_OF_A_GENERATION or (isinstance(event, dict) and event.get("ignorable") is True):
        return []
    raise NotARecordError(f"the control line {control!r} of a log, which this release does not know")


def _looks_like_line(value: list[Any]) -> bool:
    if len(value) != 8:
        return False
    length, stamp_us, durable, more, object_key, _, meta, crc = value
    return (
        all(type(each) is str and len(each) == 8 and _HEX.issuperset(each) for each in (length, crc))
        and all(type(each) is int for each in (stamp_us, durable, more))
        and (object_key is None or type(object_key) is str)
        and (meta is None or type(meta) is dict)
    )


def _are_objects(lines: bytes) -> bool:
    """Return whether each line begins and ends as an object does.

    Then as many values as lines means one value a line: none can go on across ``}``, newline, ``{``.
    """
    count = lines.count(b"\n")
    begin = lines.startswith(b"{") and lines.count(b"\n{") == count - 1
    return begin and lines.endswith(b"\n") and lines.count(b"}\n") + lines.count(b"}\r\n") == count


def _names(fields: dict[str, Any]) -> str:
    names = ", ".join(map(repr, list(fields)[:8]))
    return (names or "none") + (", ..." if len(fields) > 8 else "")


def _kind(value: object) -> str:
    return {type(None): "null", str: "a string", bool: "a truth value"}.get(type(value), "a number")
