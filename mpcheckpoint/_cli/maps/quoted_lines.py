"""Lines of CSV that belong to one row."""

from __future__ import annotations

import re

# The rest of a quoted field, up to the quote that closes it: one that no other quote follows.
_REST_OF_QUOTED = re.compile(rb'(?:[^"]|"")*+"')
_QUOTE = b'"'
_MOST_ROW_BYTES = 1024 * 1024


class QuotedLines:
    """Puts lines together that belong to one row of CSV: a quoted field may hold newlines.

    Attributes:
        begun: what has come of a row that is not whole yet; None if there is none.
        begun_at: the number of its first line.
    """

    def __init__(self) -> None:
        self.begun: list[bytes] | None = None
        self.begun_at = 0
        self.size_bytes = 0
        self._number = 0

    def add(self, line: bytes) -> bytes | None:
        """Take the next line; return the row that it makes whole, if it does."""
        self._number += 1
        if self.begun is None:
            self.begun, self.begun_at, self.size_bytes = [], self._number, 0
        self.begun.append(line)
        self.size_bytes += len(line) + 1
        if _is_open_after(line, is_open=len(self.begun) > 1):
            return None
        row, self.begun = b"\n".join(self.begun), None
        return row

    @property
    def problem(self) -> str | None:
        """Why the row that is begun can be none; None if it can, once it has ended."""
        if self.begun is None or self.size_bytes <= _MOST_ROW_BYTES:
            return None
        return f"line {self.begun_at} opens a quote that does not close within {_MOST_ROW_BYTES} bytes"

    @property
    def problem_at_end(self) -> str | None:
        """Why the lines may not end here; None if they may."""
        return None if self.begun is None else f"line {self.begun_at} opens a quote that never closes"


def _is_open_after(line: bytes, *, is_open: bool) -> bool:
    """Return whether the end of a line is inside a quoted field. A quote opens one only at the start of a field."""
    place = 0
    is_at_start = not is_open
    while True:
        if is_at_start and line.startswith(_QUOTE, place):
            is_open, place = True, place + 1
        if is_open:
            rest = _REST_OF_QUOTED.match(line, place)
            if rest is None:
                return True
            is_open, place = False, rest.end()
        comma = line.find(b",", place)
        if comma < 0:
            return False
        place, is_at_start = comma + 1, True
