"""One import of one source into one log: each record once, however often it is killed and started again.

A batch holds records and a note of the place in the source that they end at, so neither is there without the other.
Rejected: record ids made of source and offset. They cost some fifty bytes a record for ever, and an index of all of
them in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mpcheckpoint._format.frame import CLOSING_BYTES
from mpcheckpoint._maintenance.imports.intake import Intake, Mark
from mpcheckpoint._maintenance.imports.shapes import WholeLog
from mpcheckpoint._maintenance.imports.targets import Identity, ImportProgress, ImportTarget, KnownIdError
from mpcheckpoint.errors import BadLineError, SourceChangedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._maintenance.imports.intake import Batch
    from mpcheckpoint._maintenance.imports.shapes import FoundRecord, Shape
    from mpcheckpoint._maintenance.imports.sources import Source
    from mpcheckpoint._view.log_handle import LogHandle

_ANEW = "give it another name to import it from its start (--as NAME, in Python name=...)"


@dataclass(frozen=True, slots=True)
class Imported:
    """How far an import has come.

    Attributes:
        source: the name of the source.
        records: how many records this import appended, or would have in a dry run.
        records_before: how many earlier imports of this source appended.
        known: how many records this import left out because the log had their record ids.
        skipped: how many lines this import skipped because they are no records.
        skipped_before: how many lines earlier imports of this source skipped.
        offset_bytes: the import is done with all bytes before this offset of the source.
        left_bytes: how many bytes after it are part of a line without an end. They are left for the next import.
    """

    source: str
    records: int = 0
    records_before: int = 0
    known: int = 0
    skipped: int = 0
    skipped_before: int = 0
    offset_bytes: int = 0
    left_bytes: int = 0


class ImportTask:
    """One import of one source into one log. For one thread.

    Invariant: ``_place`` is what the log says of the source, or would say if this were no dry run. What was read after
    it is read again if the process dies.
    """

    def __init__(
        self, log: LogHandle | None, source: Source, name: str, shape: Shape, *, is_dry_run: bool = False
    ) -> None:
        self._source, self._name, self._shape = source, name, shape
        self._target = ImportTarget(log) if log is not None else None
        self._is_dry_run = is_dry_run
        self._place: ImportProgress | None = None
        self._done = Imported(name)
        self._would_be_known: set[Identity] = set()

    def run(
        self,
        *,
        refuse_renamed: bool = False,
        on_bad: Callable[[BadLineError], object] | None = None,
        on_batch: Callable[[Imported], object] | None = None,
    ) -> Imported:
        """Import the rest of the source. ``refuse_renamed``: refuse it if it was imported under another name."""
        start = self._start(refuse_renamed=refuse_renamed)
        intake = Intake(self._name, self._shape, start, on_bad)
        for piece in self._source.pieces():
            batch = intake.take(piece)
            self._land(batch, intake.skipped)
            if batch.error is not None:
                raise batch.error
            if on_batch is not None:
                on_batch(self._done)
        return replace(self._done, left_bytes=intake.left_bytes)

    def _start(self, *, refuse_renamed: bool) -> Mark:
        """Return the place to begin at, after all that earlier imports have done, and go there."""
        places = self._target.places() if self._target is not None else {}
        place = self._place = places.get(self._name)
        if place is None:
            if refuse_renamed:
                self._refuse_renamed(list(places.values()))
            return Mark(0, 0, 0)
        if place.shape != self._shape.name:
            raise self._changed(f"was imported as {place.shape}, not as {self._shape.name}")
        crc = self._source.crc_below(place.offset)
        if crc is None:
            raise self._changed(f"is shorter than the {place.offset} bytes that were imported")
        if crc != place.crc:
            raise self._changed(f"has changed within the {place.offset} bytes that were imported")
        if isinstance(self._shape, WholeLog):
            self._shape.resume(self._source.bytes_before(place.offset, CLOSING_BYTES))
        self._done = Imported(
            self._name, records_before=place.records, skipped_before=place.skipped, offset_bytes=place.offset
        )
        return Mark(place.offset, place.crc, place.lines)

    def _refuse_renamed(self, places: list[ImportProgress]) -> None:
        """Raise if the source begins with bytes that were imported under another name."""
        size = self._source.size_bytes
        if size is None:
            return
        candidates = sorted(
            (each for each in places if 0 < each.offset <= size), key=lambda each: each.offset
        )
        crcs = self._source.crcs_below([each.offset for each in candidates])
        for place, crc in zip(candidates, crcs, strict=True):
            if crc == place.crc:
                raise SourceChangedError(
                    f"{self._name} begins with the {place.offset} bytes that were imported as {place.source}. Nothing "
                    f"was imported: give it that name to carry on with it, or {_ANEW}",
                    path=self._name,
                    reason="imported under another name",
                )

    def _changed(self, how: str) -> SourceChangedError:
        return SourceChangedError(
            f"{self._name} {how}. Nothing was imported: {_ANEW}", path=self._name, reason="source changed"
        )

    def _land(self, batch: Batch, skipped: int) -> None:
        while True:
            kept = self._unknown(batch)
            before, done = self._place, self._done
            self._done = replace(
                done,
                records=done.records + len(kept),
                known=done.known + len(batch.found) - len(kept),
                skipped=skipped,
                offset_bytes=batch.end.offset,
            )
            after = ImportProgress(
                self._name,
                self._shape.name,
                *batch.end,
                records=self._done.records_before + self._done.records,
                skipped=self._done.skipped_before + skipped,
            )
            if self._is_dry_run or self._target is None or after.offset == (before.offset if before else 0):
                return
            identities = {each for index in kept if (each := _identity(batch.found[index])) is not None}
            try:
                self._target.land([batch.payloads[index] for index in kept], identities, before, after)
            except KnownIdError:
                self._done = done  # another process has just appended one: leave it out now
            else:
                self._place = after
                return

    def _unknown(self, batch: Batch) -> list[int]:
        """Return which records of a batch the log does not hold, by their record ids."""
        identities = list(map(_identity, batch.found))
        given = {each for each in identities if each is not None}
        if not given:
            return list(range(len(identities)))
        met = given & self._would_be_known
        if self._target is not None:
            met |= self._target.known(given)
        kept = []
        for index, identity in enumerate(identities):
            if identity is None or identity not in met:
                kept.append(index)
            if identity is not None:
                met.add(identity)
        if self._is_dry_run:
            self._would_be_known |= given
        return kept


def _identity(found: FoundRecord) -> Identity | None:
    return None if found.record_id is None else Identity(found.object_key, found.record_id)
