"""What the native core finds in bytes, in forms for those who need no line of Python: a block, or records alone."""

from __future__ import annotations

from typing import Any

from mpcheckpoint import _core
from mpcheckpoint._format.columns import Block, Lines, lines_in
from mpcheckpoint._format.frame import MAX_BATCH_BYTES, EndState
from mpcheckpoint._format.scan import Scan, scan


def scan_block(data: bytes, end: EndState) -> Scan:
    """Return what ``scan`` returns, with lines that make no column before one is asked for, where all are usual.

    Invariant: the lines are those of ``scan`` (held by tests/format/test_native_block.py).
    """
    native = _core.native
    found = None if native is None else native.block(data, *end, MAX_BATCH_BYTES)
    if found is None:
        return scan(data, end)
    lines, size, start, *place, has_controls, has_metas, has_batches = found
    after = EndState(*place)
    block = Block(lines, size, start, after.offset, has_controls, has_metas, has_batches)
    rest = scan(data[after.offset - end.offset :], after)
    if rest.lines:
        return scan(data, end)  # lines that only Python takes follow: all of them in one
    return rest._replace(lines=Lines.in_block(block))


def canonical_records(
    data: bytes, end: EndState, note_type: type, *, most_batch_bytes: int
) -> tuple[Lines, list[Any], list[int], EndState, int] | None:
    """Return the records among the lines that ``canonical_lines`` would return, if these are whole batches; else None.

    And what the control lines say, ``note_type`` made of usual claims and the bytes of others; their stamps; the end
    after the last line; and the highest offset that a line calls durable.
    """
    native = _core.native
    found = native.records(data, *end, most_batch_bytes, note_type) if native is not None else None
    if found is None:
        return None
    columns, (notes, stamps_us), after, durable = found
    return lines_in(columns), notes, stamps_us, EndState(*after), durable
