"""Items from a file or a pipe: one a line, read ahead without ever waiting."""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

from mpcheckpoint._maintenance.imports.shapes import BYTE_ORDER_MARK
from mpcheckpoint._work.inputs import NOT_YET, Input, NotYet
from mpcheckpoint._work.text import to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ_BYTES = 64 * 1024
# So much is read ahead: enough to know most totals early, little enough to hold.
_MOST_AHEAD_BYTES = 6 * 1024 * 1024
_LINE_BYTES = 48  # what a line takes beside its bytes
_MOST_ITEM_BYTES = 1024 * 1024
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DECIDED_BYTES = 4  # one of these marks and a character


class BadItemError(Exception):
    """A line is no item; the text says what it is, or what it lacks."""


def plain_reader(place: int, line: bytes) -> Input:
    """Return the input that a line is, as it stands."""
    return Input(place, line, to_text(line), {})


class Lines:
    """Split what arrives at a descriptor into items. Blank ones are skipped, all others are left as they are.

    A byte order mark at the very start is treated as by ``import``: of UTF-8 it is dropped, UTF-16 is refused by name.

    A line that is no item, or that cannot be read, ends the items early: those before it are as good as they were.

    Attributes:
        count: how many items were read so far, given out or not.
        is_at_end: whether there will be no more.
        problem: None, or why they ended early.
    """

    def __init__(
        self,
        fd: int,
        *,
        is_null_separated: bool,
        name: str = "standard input",
        read: Callable[[int, bytes], Input] = plain_reader,
    ) -> None:
        self.count = 0
        self.is_at_end = False
        self.problem: str | None = None
        self._fd = fd
        self._name = name
        self._read = read
        self._is_null_separated = is_null_separated
        self._separator = b"\0" if is_null_separated else b"\n"
        self._blank = b"" if is_null_separated else b" \t\r"
        self._lines: deque[bytes] = deque()
        self._held_bytes = 0
        self._rest = b""
        self._is_at_start = True

    def __iter__(self) -> Iterator[Input | NotYet]:
        """Yield items, and NOT_YET where there is none at this moment."""
        place = number = 0
        while True:
            self._read_ahead()
            if self._lines:
                line = self._lines.popleft()
                number += 1
                self._held_bytes -= len(line) + _LINE_BYTES
                if self._is_blank(line):
                    continue
                try:
                    entry = self._read(place, line)
                except BadItemError as error:
                    self.problem = f"line {number} of {self._name} {error}"
                    self.count, self.is_at_end = place, True
                    return
                yield entry
                place += 1
            elif self.is_at_end:
                return
            else:
                yield NOT_YET

    def total(self) -> int | None:
        """Return how many items there are; None if that is not known yet."""
        return self.count if self.is_at_end else None

    def _read_ahead(self) -> None:
        while not self.is_at_end and self._held_bytes < _MOST_AHEAD_BYTES:
            try:
                if not select.select([self._fd], [], [], 0)[0]:
                    return
                data = os.read(self._fd, _READ_BYTES)
            except (OSError, ValueError) as error:
                self._end_early(f"cannot read the items from {self._name}: {error}")
                return
            self.is_at_end = not data
            text = self._rest + data
            if self._is_at_start:
                if data and self._may_be_part_of_mark(text):
                    self._rest = text
                    continue
                self._is_at_start = False
                text = text.removeprefix(BYTE_ORDER_MARK)
                if self._is_utf_16(text):
                    self._end_early(f"{self._name} is UTF-16; make it UTF-8 first: iconv -f UTF-16 -t UTF-8")
                    return
            *lines, self._rest = (text if data else text + self._separator).split(self._separator)
            for line in lines:
                self._lines.append(line)
                self._held_bytes += len(line) + _LINE_BYTES
                self.count += not self._is_blank(line)
            if len(self._rest) > _MOST_ITEM_BYTES:
                self._end_early(
                    f"item {self.count + 1} is longer than {_MOST_ITEM_BYTES} bytes; are the items "
                    "separated by NUL (--null)?"
                )

    @staticmethod
    def _may_be_part_of_mark(text: bytes) -> bool:
        is_utf_16 = len(text) < _DECIDED_BYTES and any(text.startswith(mark[: len(text)]) for mark in _UTF_16)
        return is_utf_16 or BYTE_ORDER_MARK.startswith(text)

    def _is_utf_16(self, text: bytes) -> bool:
        # A name may begin with these bytes; with a NUL no item that ends in a newline can be run.
        return not self._is_null_separated and text.startswith(_UTF_16) and b"\0" in text

    def _is_blank(self, line: bytes) -> bool:
        return not line.strip(self._blank)

    def _end_early(self, problem: str) -> None:
        self.problem = problem
        self.is_at_end = True
