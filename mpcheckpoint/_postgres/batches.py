"""Batches of a log as a compaction sees them: what becomes of each."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.control import GONE, control_payload
from mpcheckpoint._format.frame import Payload
from mpcheckpoint._format.recode import KEEP, LEFT
from mpcheckpoint._postgres.rows import body_of
from mpcheckpoint._store.moving import payload_of

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping

    from mpcheckpoint._format.columns import Lines

_GONE = control_payload(GONE, ignorable=True)


class Batches(NamedTuple):
    """Some batches that follow each other in a log.

    Attributes:
        after: the number after which they come.
        size: of their bodies, in bytes.
    """

    after: int
    ends: array[int]
    stamps_us: array[int]
    counts: array[int]
    lines: Lines
    size: int

    def up_to(self, number: int) -> Batches:
        """Return those up to a number."""
        count = bisect_right(self.ends, number)
        lines = self.lines[: sum(self.counts[:count])]
        return Batches(
            self.after, self.ends[:count], self.stamps_us[:count], self.counts[:count], lines, self.size
        )

    def changed(
        self, fates: bytes | bytearray, payloads: Mapping[int, Payload], *, keep_ids_from_us: int
    ) -> dict[int, bytes | None]:
        """Return the bodies of the batches that do not stay as they are, by their numbers: None for one that goes, an
        empty one for one that leaves its id."""
        bodies: dict[int, bytes | None] = {}
        at = 0
        for number, stamp_us, count in zip(self.ends, self.stamps_us, self.counts, strict=True):
            fate = fates[at : at + count]
            if fate.count(KEEP) == count:
                if not count and stamp_us < keep_ids_from_us:
                    bodies[number] = None
            elif not any(fate):
                bodies[number] = b"" if stamp_us >= keep_ids_from_us else None
            else:
                bodies[number] = body_of(
                    [self._payload(index, fates[index], payloads) for index in range(at, at + count)]
                )
            at += count
        return bodies

    def _payload(self, index: int, fate: int, payloads: Mapping[int, Payload]) -> Payload:
        if fate == LEFT:
            return _GONE
        if index in payloads:
            return payloads[index]
        return payload_of(self.lines[index])
