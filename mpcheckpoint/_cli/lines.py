"""Items from standard input: one a line, as bytes, read ahead without ever waiting."""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

import click

from mpcheckpoint._work.inputs import NOT_YET, Input, NotYet
from mpcheckpoint._work.text import to_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ_BYTES = 64 * 1024
# So much is read ahead: enough to know most totals early, little enough to hold.
_MOST_AHEAD_BYTES = 4 * 1024 * 1024
_MOST_ITEM_BYTES = 1024 * 1024


class Lines:
    """Split what arrives at a descriptor into items. Blank ones are skipped, all others are left as they are.

    Attributes:
        count: how many items were read so far, given out or not.
        is_at_end: whether there will be no more.
    """

    def __init__(self, fd: int, *, is_null_separated: bool) -> None:
        self.count = 0
        self.is_at_end = False
        self._fd = fd
        self._separator = b"\0" if is_null_separated else b"\n"
        self._blank = b"" if is_null_separated else b" \t\r"
        self._items: deque[bytes] = deque()
        self._held_bytes = 0
        self._rest = b""

    def __iter__(self) -> Iterator[Input | NotYet]:
        """Yield items, and NOT_YET where there is none at this moment.

        Raises:
            click.ClickException: the input cannot be read.
        """
        place = 0
        while True:
            self._read_ahead()
            if self._items:
                item = self._items.popleft()
                self._held_bytes -= len(item)
                yield Input(place, item, to_text(item), {})
                place += 1
            elif self.is_at_end:
                return
            else:
                yield NOT_YET

    def _read_ahead(self) -> None:
        while not self.is_at_end and self._held_bytes < _MOST_AHEAD_BYTES:
            try:
                if not select.select([self._fd], [], [], 0)[0]:
                    return
                data = os.read(self._fd, _READ_BYTES)
            except (OSError, ValueError) as error:
                raise click.ClickException(f"cannot read the items from standard input: {error}") from error
            self.is_at_end = not data
            *items, self._rest = (self._rest + (data or self._separator)).split(self._separator)
            for item in items:
                if item.strip(self._blank):
                    self._items.append(item)
                    self._held_bytes += len(item)
                    self.count += 1
            if len(self._rest) > _MOST_ITEM_BYTES:
                raise click.ClickException(
                    f"item {self.count + 1} is longer than {_MOST_ITEM_BYTES} bytes; are the items separated by NUL "
                    "(--null)?"
                )
