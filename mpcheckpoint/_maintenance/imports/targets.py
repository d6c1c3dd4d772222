"""The log that an import appends to: its notes of earlier imports, and how the next batch lands once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mpcheckpoint._format.codec import record_id_of
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import DROPPED, Note, note_payload
from mpcheckpoint._format.dropped import dropped_of
from mpcheckpoint._format.frame import NO_META
from mpcheckpoint.errors import SourceBusyError

if TYPE_CHECKING:
    from collections.abc import Collection

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.protocol import Reader
    from mpcheckpoint._view.log_handle import LogHandle

IMPORT = "import"


class ImportProgress(msgspec.Struct, frozen=True):
    """How far a source was imported into a log: the fields of a note in that log.

    Attributes:
        source: its name.
        shape: how its lines were understood.
        offset, crc, lines: all bytes below this offset were imported; their CRC-32, and how many lines they are.
        records: how many records they gave.
        skipped: how many of the lines were no records and were skipped.
    """

    source: str
    shape: str
    offset: int = 0
    crc: int = 0
    lines: int = 0
    records: int = 0
    skipped: int = 0


class Identity(NamedTuple):
    """What a record is known by: its object key and its record id."""

    object_key: str
    record_id: str


class KnownIdError(Exception):
    """Another process appended a record of the batch just before the batch."""


class ImportTarget:
    """One log, read without the view of its handle: the memory grows with the sources, not with the records.

    Record ids are held from the first question for one.
    """

    def __init__(self, log: LogHandle) -> None:
        self._log = log
        self._reader: Reader = log.reader()
        self._places: dict[str, ImportProgress] = {}
        # In the order in which the log tells of them; None until they are asked for.
        self._identities: dict[Identity, int] | None = None
        self._told = 0
        # Of objects that were forgotten, how many had been told of then; and what was dropped since, by stamp.
        self._forgotten: dict[str, int] = {}
        self._dropped_us: dict[str, int] = {}

    def places(self) -> dict[str, ImportProgress]:
        """Return how far each source was imported, as the log says now."""
        self._catch_up()
        return self._places

    def known(self, identities: Collection[Identity]) -> set[Identity]:
        """Return which of these the log holds."""
        if self._identities is None:
            self._reader.release()
            self._reader, self._identities = self._log.reader(), {}
        self._catch_up()
        return self._known(identities)

    def land(
        self,
        payloads: list[Payload],
        identities: Collection[Identity],
        before: ImportProgress | None,
        after: ImportProgress,
    ) -> None:
        """Append records and the note of the place that they end at, as one batch.

        Args:
            payloads: the records.
            identities: those of the records that have record ids.
            before: what the log says of the source unless another import got on meanwhile.
            after: what it is to say.

        Raises:
            SourceBusyError: another import got on. Nothing was written.
            KnownIdError: the log holds one of ``identities`` by now. Nothing was written.
            LimitExceededError, WriteFailedError, LockTimeoutError, ...: as of ``Log.append_many``.
        """

        def guard() -> None:
            self._catch_up()
            if self._places.get(after.source) != before:
                raise SourceBusyError(
                    f"another import of {after.source} into the log {self._log.log_key!r} got on meanwhile; nothing "
                    "is imported twice. Start this one again when that one is done",
                    reason="another import",
                )
            if self._known(identities):
                raise KnownIdError

        self._catch_up()  # outside the lock, so that little is left to read inside
        # The note goes last: another reader of the log sees the records first.
        note = note_payload(Note(IMPORT, msgspec.to_builtins(after)))
        self._log.append_guarded([*payloads, note], guard)

    def _known(self, identities: Collection[Identity]) -> set[Identity]:
        told = self._identities or {}
        return {each for each in identities if told.get(each, -1) >= self._forgotten.get(each.object_key, 0)}

    def _catch_up(self) -> None:
        for chunk in self._reader.poll():
            for note in chunk.notes:
                if note.name == IMPORT:
                    self._take_note(note)
                elif note.name == DROPPED and self._identities is not None:
                    for each in dropped_of(note.fields).objects:
                        self._dropped_us[each.object_key] = each.last_us
                        for record_id, _, _ in each.ids:
                            self._tell(Identity(each.object_key, record_id), self._identities)
            if self._identities is not None:
                lines, done = Lines.of(chunk.lines), 0
                for at, object_key, stamp_us in chunk.forgets:
                    self._take_identities(lines[done:at], self._identities)
                    if self._dropped_us.get(object_key, 0) < stamp_us:
                        self._forgotten[object_key] = self._told
                    done = at
                self._take_identities(lines[done:], self._identities)

    def _take_note(self, note: Note) -> None:
        try:
            place = msgspec.convert(note.fields, ImportProgress)
        except msgspec.ValidationError:
            return  # another program's note of that name
        self._places[place.source] = place

    def _take_identities(self, lines: Lines, identities: dict[Identity, int]) -> None:
        for object_key, meta in zip(lines.object_keys, lines.metas or (), strict=False):
            record_id = record_id_of(meta) if meta != NO_META else None
            if record_id is not None and object_key is not None:
                self._tell(Identity(object_key, record_id), identities)

    def _tell(self, identity: Identity, identities: dict[Identity, int]) -> None:
        identities[identity] = self._told
        self._told += 1
