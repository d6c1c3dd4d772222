"""Find lines again where the chain is broken: after damage, and near the end of a log whose start was not read.

A crc runs over the whole file, so any single line can be proven from the crc field of the line before it. Few bytes
count as the start of a line (docs/format.md, "Lines behind damage").

Rejected: taking every '["' for a start. An event may contain the text of log lines, and each false start would cost a
pass over the rest of the file while the append lock is held.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zlib import crc32

from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    Line,
    parse_line,
    running_crc,
    stated_length,
    stored_crc_before,
)

# Found by one pass of compiled code, whatever the bytes are: the append lock may be held meanwhile.
_LINE_AFTER_CRC = re.compile(rb'"[0-9a-f]{8}"\]\n(?=\["[0-9a-f]{8}")')

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def lines_after_damage(data: bytes, *, base: int, crc: int | None) -> Iterator[Line]:
    """Yield the lines that can be proven after the damaged line at ``data[0]``, in file order.

    Args:
        data: bytes from the damage to the end of the file, or a part of them that ends after a newline.
        base: the file offset of the damage.
        crc: the running CRC of every byte before the damage; None if ``data`` begins with a line after it.
    """
    extra = stated_length(data, 0)
    newline = data.find(b"\n")
    for start in _starts(data, newline, extra):
        # The damage may have hit the crc field of that line. What it should be follows from the bytes before it,
        # computed once for each place where the line may end.
        computed = None
        if crc is not None and start in (extra, newline + 1) and start >= CLOSING_BYTES:
            computed = crc32(memoryview(data)[: start - CLOSING_BYTES], crc)
        line = _candidate(data, start, base, computed)
        if line is not None:
            yield line


def _starts(data: bytes, newline: int, extra: int | None) -> Iterator[int]:
    """Yield, in order, where a line may start: after a closed crc field, and where the damaged line may end."""
    special = {newline + 1} if newline >= 0 else set()
    if extra is not None:
        special.add(extra)
    waiting = sorted(start for start in special if start < len(data))
    for match in _LINE_AFTER_CRC.finditer(data):
        while waiting and waiting[0] < match.end():
            yield waiting.pop(0)
        if match.end() not in special:
            yield match.end()
    yield from waiting


def _candidate(data: bytes, start: int, base: int, computed_crc: int | None) -> Line | None:
    length = stated_length(data, start)
    if length is None or data.find(b"\n", start, start + length) != start + length - 1:
        return None
    for stored_crc in (stored_crc_before(data, start), computed_crc):
        if stored_crc is not None:
            line = parse_line(data, start, start + length, base=base, crc=running_crc(stored_crc))
            if isinstance(line, Line):
                return line
    return None


def first_end(data: bytes, *, base: int) -> Line | None:
    """Return the first line in ``data`` that ends a batch and fits the crc field of the line before it, or None.

    Args:
        data: any bytes of a log; the line and the crc field before it must both lie within.
        base: the file offset of ``data[0]``.
    """
    starts = (match.end() for match in _LINE_AFTER_CRC.finditer(data))
    return next((line for line in _lines_at(starts, data, base) if line.more == 0), None)


def last_line(data: bytes, *, base: int) -> Line | None:
    """Return the last line in ``data`` that fits the crc field of the line before it, or None; see ``first_end``."""
    starts = reversed([match.end() for match in _LINE_AFTER_CRC.finditer(data)])
    return next(_lines_at(starts, data, base), None)


def _lines_at(starts: Iterable[int], data: bytes, base: int) -> Iterator[Line]:
    for start in starts:
        line = _candidate(data, start, base, None)
        if line is not None:
            yield line
