"""Control lines: what a log says about itself, and what a reader does with one that it does not know."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from mpcheckpoint._format.frame import (
    FORMAT_NAME,
    FORMAT_VERSION,
    EndState,
    Line,
    Mismatch,
    Payload,
    encode_line,
    parse_line,
    stated_length,
)
from mpcheckpoint.errors import LimitExceededError

# The header must be readable in one small read,
MAX_HEADER_BYTES = 64 * 1024
# and must stay so however often the log gets another generation.
MAX_LOG_KEY_BYTES = 32 * 1024
MAX_PREVIOUS = 500
MAX_RESTORED = 20


class _Control(msgspec.Struct):
    """The fields of a control line that decide what a reader does."""

    control: str
    ignorable: bool = False


class Note(msgspec.Struct, frozen=True):
    """A control line that readers may ignore if they do not know it, and what it says."""

    name: str
    fields: dict[str, Any]


class Restored(msgspec.Struct, frozen=True):
    """A log was put back: of the generation ``to``, which a backup held, to the stamp ``cut_us``.

    Or it is in a backup, compacted from that generation up to there. What other generations before that recorded after
    it is gone, and so are positions there.
    """

    to: str
    cut_us: int


class _HeaderEvent(msgspec.Struct):
    control: str
    format: str
    version: int
    log_key: str
    generation: str
    created_us: int
    previous: list[str] = []
    lineage: str | msgspec.UnsetType = msgspec.UNSET
    restored: list[Restored] | msgspec.UnsetType = msgspec.UNSET


class Header(NamedTuple):
    """The first line of a log."""

    log_key: str
    generation: str
    created_us: int
    previous: tuple[str, ...]
    end: EndState
    lineage: str = ""
    restored: tuple[Restored, ...] = ()

    def holds(self, generation: str, stamp_us: int) -> bool:
        """Return whether what that generation had recorded up to there is in this one: no restore took it out."""
        if generation == self.generation:
            return True
        # A generation that is not named, here or any more, may be from before the restore. One that is named is from
        # after a restore of which ``to`` is not named any more: the oldest ones are left out.
        place = self.previous.index(generation) if generation in self.previous else -1
        return all(
            stamp_us <= each.cut_us
            or (place >= 0 and (each.to not in self.previous or place > self.previous.index(each.to)))
            for each in self.restored
        )

    def continues(self, generation: str, lineage: str) -> bool:
        """Return whether a generation, and what its log's generations share ("" if nothing), are of this log."""
        return generation in (self.generation, *self.previous) or (bool(lineage) and lineage == self.lineage)


class Copied(NamedTuple):
    """What the line says that ends the copied part of a generation.

    Attributes:
        stamp_us: its own stamp.
        covers_us: the stamp of the last line of the generation before: all up to that was copied, or left out on
            purpose. 0 if the line does not say.
        source: that generation. What was lost on the way from an earlier one to it, this line does not tell.
    """

    stamp_us: int
    covers_us: int
    source: str


class UnknownVersion(NamedTuple):
    """The first line states a format version that this release does not read."""

    version: object


class UnknownControlError(Exception):
    """A control line that is not known and not marked ignorable."""


COPIED = "copied"
# These say something about one generation only: they are not copied into the next.
CONTROLS_OF_A_GENERATION = frozenset({"header", "sealed", "unsealed", COPIED})
# What a compaction left out. Not to be ignored: without it the counts of objects are wrong.
DROPPED = "dropped"
# From here on the log holds nothing of an object. Not to be ignored, either.
FORGET = "forget"
# A worker takes an object, or gives it back.
CLAIM = "claim"
# A salvage left this generation with what could be proven of a corrupt one.
SALVAGED = "salvaged"
# Holds the place of a line that a compaction took out of its batch.
GONE = "gone"
_BINDING = frozenset({DROPPED, FORGET})

_GENERATION = re.compile("[0-9a-f]{32}")
_decode_control = msgspec.json.Decoder(_Control).decode
_decode_header = msgspec.json.Decoder(_HeaderEvent).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.encode


def require_fitting_log_key(log_key: str) -> None:
    """Raise LimitExceededError if a key is too long for the header of a log file, which any log may be copied into."""
    key_bytes = len(_encode(log_key))
    if key_bytes > MAX_LOG_KEY_BYTES:
        raise LimitExceededError(
            f"the log key takes {key_bytes} bytes; one takes at most {MAX_LOG_KEY_BYTES}",
            reason="log key too long",
        )


def encode_header(
    log_key: str,
    generation: str,
    created_us: int,
    *,
    stamp_us: int,
    previous: tuple[str, ...] = (),
    lineage: str = "",
    restored: tuple[Restored, ...] = (),
) -> tuple[bytes, EndState]:
    """Return the first line of a new log and the end state after it.

    ``previous`` names the generations that this one continues, newest last: their positions are positions of this one.
    ``stamp_us`` is below the stamps of the records, which a new generation keeps. ``lineage`` is what all generations
    of the log share; "" leaves it out. ``restored`` tells of restores of a backup in its past.

    Raises:
        LimitExceededError: the log key is too long for a header.
    """
    require_fitting_log_key(log_key)
    event = _HeaderEvent(
        "header",
        FORMAT_NAME,
        FORMAT_VERSION,
        log_key,
        generation,
        created_us,
        list(previous[-MAX_PREVIOUS:]),
        lineage or msgspec.UNSET,
        _fitting(restored) or msgspec.UNSET,
    )
    line, stored_crc = encode_line(
        Payload(b"null", _encode(event)), stamp_us=stamp_us, durable=0, more=0, crc=0
    )
    return line, EndState(len(line), stored_crc, stamp_us)


def _fitting(restored: tuple[Restored, ...]) -> list[Restored]:
    """Return as many as a header may have; the oldest ones become one that is as strict as all of them."""
    if len(restored) <= MAX_RESTORED:
        return list(restored)
    older, kept = restored[: 1 - MAX_RESTORED], restored[1 - MAX_RESTORED :]
    return [Restored(older[-1].to, min(each.cut_us for each in older)), *kept]


def control_payload(control: str, **fields: object) -> Payload:
    """Return the payload of a control line."""
    return Payload(b"null", _encode({"control": control, **fields}))


def note_payload(note: Note) -> Payload:
    """Return the payload of a control line that readers may ignore if they do not know it."""
    return control_payload(note.name, ignorable=True, **note.fields)


def control_name(line: Line) -> str:
    """Return the name of a control line: one that this release knows, or one that may be ignored.

    Raises:
        UnknownControlError: this release does not know the line, and must not ignore it.
    """
    try:
        control = _decode_control(line.event)
    except msgspec.MsgspecError as error:
        raise UnknownControlError(f"a control line without a name: {error}") from None
    if control.control in CONTROLS_OF_A_GENERATION or control.ignorable or control.control in _BINDING:
        return control.control
    raise UnknownControlError(f"the control line {control.control!r}")


def note_of(line: Line) -> Note:
    """Return what a control line that may be ignored says."""
    fields = _decode_fields(line.event)
    return Note(fields.pop("control"), {name: value for name, value in fields.items() if name != "ignorable"})


def forget_payload(object_key: str) -> Payload:
    """Return the payload of a line from which on the log holds nothing of an object."""
    return control_payload(FORGET, object_key=object_key)


def forgotten_in(line: Line) -> str:
    """Return which object such a line says to forget."""
    return str(_decode_fields(line.event).get("object_key"))


def copied_of(line: Line) -> Copied:
    """Return what a line says that ends the copied part of a generation."""
    fields = _decode_fields(line.event)
    covers_us = fields.get("covers_us", 0)
    return Copied(line.stamp_us, covers_us if isinstance(covers_us, int) else 0, str(fields.get("from")))


def parse_header(data: bytes) -> Header | UnknownVersion | Mismatch:
    """Return the header of the log that begins with ``data``.

    The version is read first, by JSON alone, so that a newer format is recognized even if its framing differs.
    """
    newline = data.find(b"\n", 0, MAX_HEADER_BYTES)
    version = _stated_version(data[:newline]) if newline >= 0 else None
    if version is not None and version != FORMAT_VERSION:
        return UnknownVersion(version)
    length = stated_length(data, 0)
    if length is None or newline != length - 1:
        return Mismatch(0, "the header line of a log", repr(data[:24]))
    line = parse_line(data, 0, length, base=0, crc=0)
    if isinstance(line, str):
        return Mismatch(0, "a header that its crc vouches for", line)
    try:
        event = _decode_header(line.event)
    except msgspec.MsgspecError as error:
        return Mismatch(0, "the header of a log", str(error))
    if line.object_key is not None or line.more or event.control != "header" or event.format != FORMAT_NAME:
        return Mismatch(0, f"the header of a log of format {FORMAT_NAME}", f"a line of {event.format!r}")
    # They become parts of positions and of the names of quarantine files.
    lineage = [] if event.lineage is msgspec.UNSET else [event.lineage]
    restored = [] if event.restored is msgspec.UNSET else [each.to for each in event.restored]
    for generation in (event.generation, *event.previous, *lineage, *restored):
        if not _GENERATION.fullmatch(generation):
            return Mismatch(0, "generations of 32 hex digits", repr(generation[:40]))
    return Header(
        event.log_key,
        event.generation,
        event.created_us,
        tuple(event.previous),
        EndState(length, line.stored_crc, line.stamp_us),
        "".join(lineage),
        () if event.restored is msgspec.UNSET else tuple(event.restored),
    )


def _stated_version(first_line: bytes) -> object:
    try:
        fields = msgspec.json.decode(first_line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    items = fields if isinstance(fields, list) else [fields]
    events = [item for item in items if isinstance(item, dict) and item.get("format") == FORMAT_NAME]
    return events[0].get("version") if events else None
