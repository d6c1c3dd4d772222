"""The items of ``map``: one a line of a file or a pipe, as it stands or as JSON, read ahead without ever waiting."""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mpcheckpoint._cli.maps.template import Item, JsonItem, MissingFieldError, Template
from mpcheckpoint._format.byte_text import to_text
from mpcheckpoint._maintenance.imports.shapes import BYTE_ORDER_MARK
from mpcheckpoint._work.inputs import NOT_YET, Input, NotYet, recorded_of
from mpcheckpoint.errors import CheckpointError, shell_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._cli.maps.quoted_lines import QuotedLines
    from mpcheckpoint._work.file_marks import ChangedFiles

_READ_BYTES = 64 * 1024
# Read ahead so much: enough to know most totals early, little enough to hold.
_MOST_AHEAD_BYTES = 6 * 1024 * 1024
_LINE_BYTES = 48  # memory of a line beside its bytes
MOST_ITEM_BYTES = 1024 * 1024
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DECIDED_BYTES = 4  # one of these marks and a character

_decode = msgspec.json.Decoder().decode
canonical = msgspec.json.Encoder(order="sorted").encode


class Files(NamedTuple):
    """Which files items name.

    Attributes:
        changed: how they are compared with what they were; None if they are not.
        field: the field of a JSON item that names its file; None: the item itself does.
    """

    changed: ChangedFiles | None = None
    field: str | None = None

    @property
    def are_compared(self) -> bool:
        """Whether they are compared."""
        return self.changed is not None


NO_FILES = Files()


class BadItemError(Exception):
    """A line is no item. The text goes on from "line 3": what it is, or what it lacks."""


class ItemReader:
    """Split what arrives at a descriptor into items. Skip blank ones, and leave all others as they are.

    A byte order mark at the very start is treated as by ``import``: that of UTF-8 is dropped, UTF-16 is refused.

    A line that is no item, or that cannot be read, ends the items early; those before it are good.

    Attributes:
        header: the line that names the columns of a table, once it was read.
        count: how many items were read so far, given out or not.
        is_at_end: whether there will be no more.
        problem: why the items ended early; None if they did not.
    """

    def __init__(
        self,
        fd: int,
        *,
        is_null_separated: bool,
        name: str = "standard input",
        to_input: Callable[[int, bytes], Input | None] | None = None,
        has_header: bool = False,
        quoted: QuotedLines | None = None,
        blanks: bytes = b" \t\r",
    ) -> None:
        self.header: bytes | None = None
        self.count = 0
        self.is_at_end = False
        self.problem: str | None = None
        self._fd = fd
        self._name = name
        self._to_input = to_input or plain_input
        self._quoted = quoted
        self._is_header_due = has_header
        self._is_null_separated = is_null_separated
        self._separator = b"\0" if is_null_separated else b"\n"
        self._blanks = b"" if is_null_separated else blanks
        self._lines: deque[bytes] = deque()
        self._held_bytes = 0
        self._rest = b""
        self._is_at_start = True

    def __iter__(self) -> Iterator[Input | NotYet]:
        """Yield items, and NOT_YET while none has arrived."""
        place = number = 0
        while True:
            self._read_ahead()
            if self._lines:
                line = self._lines.popleft()
                number, first = number + 1, number + 1
                if self._quoted is not None:
                    number += line.count(b"\n")
                self._held_bytes -= len(line) + _LINE_BYTES
                if self._is_blank(line):
                    continue
                try:
                    entry = self._to_input(place, line)
                except BadItemError as error:
                    self.problem = f"line {first} of {self._name} {error}"
                    self.count, self.is_at_end = place, True
                    return
                if entry is None:
                    self.header = line
                    continue
                if isinstance(entry.item, JsonItem):
                    entry = entry._replace(item=entry.item._replace(origin=f"line {first} of {self._name}"))
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
                if data and _may_be_part_of_mark(text):
                    self._rest = text
                    continue
                self._is_at_start = False
                text = text.removeprefix(BYTE_ORDER_MARK)
                # A name may begin with these bytes. With a NUL in it, no item that ends in a newline can be run.
                if not self._is_null_separated and text.startswith(_UTF_16) and b"\0" in text:
                    self._end_early(f"{self._name} is UTF-16; make it UTF-8 first: iconv -f UTF-16 -t UTF-8")
                    return
            *lines, self._rest = (text if data else text + self._separator).split(self._separator)
            for line in lines:
                self._take(line)
            if self._quoted is not None:
                problem = self._quoted.problem_at_end if self.is_at_end else self._quoted.problem
                if problem is not None:
                    self._end_early(f"in {self._name}, {problem}")
            if len(self._rest) > MOST_ITEM_BYTES:
                self._end_early(
                    f"item {self.count + 1} is longer than {MOST_ITEM_BYTES} bytes; are the items "
                    "separated by NUL (--null)?"
                )

    def _take(self, line: bytes) -> None:
        if self._quoted is not None:
            if self._quoted.begun is None and self.is_at_end and not line:
                return  # nothing came after the last newline
            row = self._quoted.add(line)
            if row is None:
                return
            line = row
        self._lines.append(line)
        self._held_bytes += len(line) + _LINE_BYTES
        if self._is_blank(line):
            return
        self.count += not self._is_header_due
        self._is_header_due = False

    def _is_blank(self, line: bytes) -> bool:
        return not line.strip(self._blanks)

    def _end_early(self, problem: str) -> None:
        self.problem = problem
        self.is_at_end = True


def _may_be_part_of_mark(text: bytes) -> bool:
    is_utf_16 = len(text) < _DECIDED_BYTES and any(text.startswith(mark[: len(text)]) for mark in _UTF_16)
    return is_utf_16 or BYTE_ORDER_MARK.startswith(text)


def plain_input(place: int, line: bytes) -> Input:
    """Return the line as an item, as it stands."""
    return Input(place, line, to_text(line), {})


def numbered_input(place: int, line: bytes) -> Input:
    """Return the line as an item that knows its number."""
    return Input(place, JsonItem(line, line, None, number=place + 1), to_text(line), {})


def file_of(item: Item) -> bytes:
    """Return the path of the file that an item names. Requires: it names one."""
    return item if isinstance(item, bytes) else item.file or item.text


def json_input(
    template: Template, item_key: str | None, place: int, line: bytes, files: Files = NO_FILES
) -> Input:
    """Return the item that a line of JSON is.

    Its object key is the field ``item_key``. Without one it is the value itself: a string as it is, anything else as
    JSON with sorted keys and no blanks.

    Raises:
        BadItemError: the line is no item for this template.
    """
    try:
        value = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadItemError(f"is no JSON: {error}") from None
    object_key = _text_of(value).decode() if item_key is None else _key_in(value, item_key)
    text = value.encode() if isinstance(value, str) else line.strip()
    is_object = isinstance(value, dict)
    fields = {name.encode(): _text_of(each) for name, each in value.items()} if is_object else None
    columns = tuple(map(_text_of, value)) if isinstance(value, list) else ()
    item = JsonItem(line, text, fields, _file_in(value, files), columns, place + 1)
    try:
        template.argv(item)
    except MissingFieldError as error:
        raise BadItemError(f"has {error}") from None
    try:
        return Input(place, item, object_key, recorded_of(value, object_key))
    except CheckpointError as error:
        raise BadItemError(f"cannot be an item: {shell_text(error)}") from None


def _file_in(value: Any, files: Files) -> bytes | None:
    """Return the path of the file that an item names; None if that is the item itself, or does not matter."""
    if files.field is None:
        if files.are_compared and not isinstance(value, str):
            raise BadItemError("is no string that names a file; --file-field says which field does")
        return None
    if not isinstance(value, dict) or not isinstance(value.get(files.field), str):
        raise BadItemError(f"has no string in the field {files.field!r}, which --file-field names")
    path: str = value[files.field]
    return path.encode()


def _text_of(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else canonical(value)


def _key_in(value: Any, item_key: str) -> str:
    if not isinstance(value, dict):
        raise BadItemError(f"is no JSON object, which --item-key {item_key} needs")
    if item_key not in value:
        raise BadItemError(f"has no field {item_key!r}, which --item-key names")
    found = value[item_key]
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise BadItemError(f"has no string or number in the field {item_key!r}, which --item-key names")
    return _text_of(found).decode()
