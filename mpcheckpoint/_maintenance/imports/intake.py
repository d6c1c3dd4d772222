"""Turn the pieces of a source into batches of encoded records, each with the place in the source it ends at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from mpcheckpoint._format.advice import FOR_LARGE_DATA
from mpcheckpoint._format.codec import encode_payload, encode_payloads
from mpcheckpoint._maintenance.imports.shapes import (
    BYTE_ORDER_MARK,
    Fields,
    FoundRecord,
    NotARecordError,
    WholeLog,
)
from mpcheckpoint._maintenance.imports.sources import MOST_LINE_BYTES
from mpcheckpoint.errors import BadLineError, InvalidEventError, InvalidKeyError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._maintenance.imports.shapes import Shape
    from mpcheckpoint._maintenance.imports.sources import SourcePiece

_REFUSED = (InvalidKeyError, InvalidEventError, LimitExceededError)


class Mark(NamedTuple):
    """A place in a source, the CRC-32 of all bytes before it, and how many lines these are."""

    offset: int
    crc: int
    lines: int


class Batch(NamedTuple):
    """What is to land together.

    Attributes:
        found: the records; payloads: the same, encoded.
        end: after this batch, all before this place in the source is done with.
        error: the bad line after ``end`` that ends the import; None if there is none.
    """

    found: list[FoundRecord]
    payloads: list[Payload]
    end: Mark
    error: BadLineError | None


class _Line(NamedTuple):
    """The line that a record was found in: its number, and the offset it starts at."""

    number: int
    offset: int


class Intake:
    """The lines of one source, in order. For one thread.

    Invariant: ``_end`` is the end of a line that is done with, never of blank lines at the end of the source: they may
    be padding, which the next record of a log overwrites (held by tests/maintenance/test_import.py).

    Attributes:
        skipped: how many lines were skipped because they are no records.
    """

    def __init__(
        self, name: str, shape: Shape, start: Mark, on_bad: Callable[[BadLineError], object] | None
    ) -> None:
        self.skipped = 0
        self._name, self._shape, self._on_bad = name, shape, on_bad
        # The end of all that was read, and of all that is done with.
        self._read = self._end = start
        # Records that are not given out yet. The first `_done` are done with; the rest are of a batch without an end.
        self._found: list[FoundRecord] = []
        self._lines: list[_Line] = []
        self._done = 0
        # A line that may be the half-written end of the source, until another line comes after it.
        self._suspect: BadLineError | None = None
        self._is_in_long_line = False

    @property
    def left_bytes(self) -> int:
        """How many bytes at the end belong to a line or a batch without an end."""
        is_left = self._suspect is not None or self._is_in_long_line or not self._shape.is_at_end_of_batch
        return self._read.offset - self._end.offset if is_left else 0

    def take(self, piece: SourcePiece) -> Batch:
        """Return the batch in a piece. Requires: no earlier batch had an error."""
        if piece.is_of_long_line:
            return self._take_long(piece.data)
        if isinstance(self._shape, Fields) and self._suspect is None:
            found = self._shape.find_in_all(piece.data)
            batch = None if found is None else self._take_all(found, piece.data)
            if batch is not None:
                return batch
        before = self._read
        error = self._take_lines(before, piece.data)
        self._close(before, piece.data)
        return self._encoded(before, piece.data, error)

    def _take_all(self, found: list[FoundRecord], data: bytes) -> Batch | None:
        """Take a piece of one record a line; None if a record is refused, which takes a look at each line."""
        try:
            payloads = encode_payloads((each.object_key, each.event) for each in found)
        except _REFUSED:
            return None
        offset, crc, lines = self._read
        self._read = self._end = Mark(offset + len(data), crc32(data, crc), lines + len(found))
        return Batch(found, payloads, self._end, None)

    def _take_lines(self, before: Mark, data: bytes) -> BadLineError | None:
        """Take a piece line by line; return the error that ends the import."""
        error = None
        start, number = 0, before.lines
        while start < len(data) and error is None:
            stop = data.find(b"\n", start) + 1 or len(data)
            number += 1
            text = data[start:stop]
            if before.offset + start == 0:
                text = text.removeprefix(BYTE_ORDER_MARK)
            if text.strip():
                error = self._take_line(text, _Line(number, before.offset + start))
                if error is None and self._suspect is None and self._shape.is_at_end_of_batch:
                    self._done = len(self._found)
                    self._end = Mark(before.offset + stop, 0, number)
            start = stop
        self._read = Mark(before.offset + len(data), crc32(data, before.crc), number)
        return error

    def _take_line(self, text: bytes, line: _Line) -> BadLineError | None:
        """Take the records of a line that is not blank; return the error that ends the import."""
        if self._suspect is not None:
            suspect, self._suspect = self._suspect, None
            if not self._is_passed_over(suspect):
                return suspect
        try:
            found = self._shape.find(text, line.offset)
        except NotARecordError as error:
            bad = BadLineError(self._name, line.number, line.offset, str(error))
            # After a line of a log that its writer has not finished there may be padding, which is newlines.
            if error.may_be_cut and (text[-1:] != b"\n" or isinstance(self._shape, WholeLog)):
                self._suspect = bad
                return None
            return None if self._is_passed_over(bad) else bad
        self._found += found
        self._lines += [line] * len(found)
        return None

    def _is_passed_over(self, bad: BadLineError) -> bool:
        if self._on_bad is None:
            return False
        # A batch that loses a line is lost.
        self.skipped += 1 + len(self._found) - self._done
        del self._found[self._done :], self._lines[self._done :]
        self._on_bad(bad)
        return True

    def _take_long(self, part: bytes) -> Batch:
        before, error = self._read, None
        number = before.lines if self._is_in_long_line else before.lines + 1
        if not self._is_in_long_line:
            reason = (
                f"longer than {MOST_LINE_BYTES} bytes, which is more than an event may have; {FOR_LARGE_DATA}"
            )
            bad = BadLineError(self._name, number, before.offset, reason)
            error = None if self._is_passed_over(bad) else bad
        self._is_in_long_line = part[-1:] != b"\n"
        self._read = Mark(before.offset + len(part), crc32(part, before.crc), number)
        if error is None and not self._is_in_long_line:
            self._end = self._read
        return Batch([], [], self._end, error)

    def _close(self, before: Mark, data: bytes) -> None:
        """Give the end that was found in a piece its CRC: computed once a piece, not once a line."""
        if self._end.offset == self._read.offset:
            self._end = self._end._replace(crc=self._read.crc)
        elif self._end.offset > before.offset:
            self._end = self._end._replace(crc=crc32(data[: self._end.offset - before.offset], before.crc))

    def _encoded(self, before: Mark, data: bytes, error: BadLineError | None) -> Batch:
        done, self._done = self._done, 0
        found, self._found = self._found[:done], self._found[done:]
        lines, self._lines = self._lines[:done], self._lines[done:]
        try:
            if any(each.record_id is not None for each in found):
                payloads = [encode_payload(*each) for each in found]
            else:
                payloads = encode_payloads((each.object_key, each.event) for each in found)
        except _REFUSED:
            return self._encoded_singly(found, lines, before, data, error)
        return Batch(found, payloads, self._end, error)

    def _encoded_singly(
        self,
        found: list[FoundRecord],
        lines: list[_Line],
        before: Mark,
        data: bytes,
        error: BadLineError | None,
    ) -> Batch:
        """Encode records one by one, and say which one is refused."""
        kept: list[FoundRecord] = []
        payloads: list[Payload] = []
        for each, line in zip(found, lines, strict=True):
            try:
                payload = encode_payload(*each)
            except _REFUSED as refusal:
                # Only the cause: which Python values an event takes is no help for JSON.
                said = (
                    f"the event is refused: {refusal.reason}"
                    if isinstance(refusal, InvalidEventError)
                    else str(refusal)
                )
                bad = BadLineError(self._name, line.number, line.offset, said)
                if self._is_passed_over(bad):
                    continue
                # No record of this line lands until the line is mended.
                earlier = sum(other.number < line.number for other in lines[: len(kept)])
                crc = crc32(data[: line.offset - before.offset], before.crc)
                self._end = Mark(line.offset, crc, line.number - 1)
                return Batch(kept[:earlier], payloads[:earlier], self._end, bad)
            kept.append(each)
            payloads.append(payload)
        return Batch(kept, payloads, self._end, error)
