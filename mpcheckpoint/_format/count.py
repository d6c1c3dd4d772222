"""What the lines at the start of some bytes come to, for those who check a log and ask for none of its records.

The native core proves the lines as it does for a scan, and makes objects of Python for the control lines alone.
Without it there is no count: the scan tells the same, and more.
"""

from __future__ import annotations

from typing import NamedTuple

from mpcheckpoint import _core
from mpcheckpoint._format.frame import MAX_BATCH_BYTES, EndState, Line


class Count(NamedTuple):
    """The whole batches at the start of some bytes, as far as they are exactly as our writer makes them.

    Attributes:
        proven_bytes: of all lines that were proven, those of a batch whose end is missing among them.
        lines, records: how many there are, with the control lines and without.
        end: after the last of them.
        first_us: the stamp of the first line.
        durable: the highest offset that a line calls durable.
        has_batches: whether one of them has more lines than one.
        controls: the control lines.
    """

    proven_bytes: int
    lines: int
    records: int
    end: EndState
    first_us: int
    durable: int
    has_batches: bool
    controls: list[Line]


def can_count() -> bool:
    """Return whether there is a native core, which counts."""
    return _core.native is not None


def count(data: bytes, end: EndState) -> Count | None:
    """Return what follows ``end`` at the start of ``data``; None if nothing is proven, or there is no native core.

    It may stop anywhere: whatever is not counted is to be judged by ``scan``.

    Invariant: what is counted is what ``scan`` would have given (held by tests/format/test_native_count.py).
    """
    native = _core.native
    found = None if native is None else native.count(data, *end, MAX_BATCH_BYTES)
    if found is None:
        return None
    proven_bytes, lines, records, *place, first_us, durable, has_batches, controls = found
    counted = first_us, durable, has_batches, list(map(Line._make, controls))
    return Count(proven_bytes, lines, records, EndState(*place), *counted)
