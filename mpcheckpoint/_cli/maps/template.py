"""The command line of ``map``: its words, and what an item puts into them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

PLACE = b"{}"
# What makes something else of a value that is the name of a file: as in GNU parallel.
_PATHS = rb"/\.|//|/|\."
# Doubled braces stand for single ones. {{}} does only where items have fields: it is older than what follows here.
_PLAIN = re.compile(rb"\{\{(?P<literal>#|%b)\}\}|\{(?P<name>#|%b|)\}" % (_PATHS, _PATHS))
_LISTS = re.compile(
    rb"\{\{(?P<literal>#|\d{0,3}(?:%b)?)\}\}|\{(?P<name>#|\d{0,3}(?:%b)?)\}" % (_PATHS, _PATHS)
)
_FIELDS = re.compile(rb"\{\{(?P<literal>[^{}\s]*)\}\}|\{(?P<name>[^{}\s]*)\}")
_PART = re.compile(rb"(?P<name>.*?)(?P<path>%b)" % _PATHS, re.DOTALL)
_LIKE_A_FIELD = re.compile(rb"(?<![{$])\{[A-Za-z_][\w-]*\}(?!\})", re.ASCII)
_EXTENSION = re.compile(rb"\.[^/.]+\Z")


class JsonItem(NamedTuple):
    """An item that has more than its text: a JSON value, a row of a table, values of lists.

    Attributes:
        line: what it came as.
        text: what {} stands for: a string as it is, anything else as it came.
        fields: what {name} stands for, for each field of an object, or column; None if there are none.
        file: the path of the file that it names, if that is not the item itself.
        columns: what {1}, {2} and so on stand for.
        number: what {#} stands for.
    """

    line: bytes
    text: bytes
    fields: dict[bytes, bytes] | None
    file: bytes | None = None
    columns: tuple[bytes, ...] = ()
    number: int = 0

    def __repr__(self) -> str:
        return self.line.decode(errors="replace")  # in messages


Item = bytes | JsonItem


class MissingFieldError(Exception):
    """The command line names a field that an item does not have."""


class Shape(Enum):
    """What items are, and with that which places a command line may have for them."""

    PLAIN = _PLAIN
    LISTS = _LISTS
    FIELDS = _FIELDS


class Template:
    """A command line with places for an item. Without any, the item goes to the end."""

    def __init__(
        self, words: tuple[bytes, ...], *, is_json: bool = False, shape: Shape | None = None
    ) -> None:
        self.words = words
        self._shape = shape or (Shape.FIELDS if is_json else Shape.PLAIN)
        self._pattern = self._shape.value
        names = [name for word in words for name in self._places_in(word)]
        self._has_place = bool(names)
        self._is_simple = self._shape is Shape.PLAIN and not any(names) and not self._has_literal()
        self.has_number = b"#" in names

    def is_command(self) -> bool:
        """Return whether the first word can be run. True as well if that depends on the item."""
        first = self.words[0]
        return bool(self._places_in(first)) or shutil.which(os.fsdecode(first)) is not None

    def unfilled_field(self) -> str | None:
        """Return a ``{name}`` that stands for itself because items have no fields; None if there is none.

        A word with blanks is more likely a script, and ``${name}`` is a variable of a shell.
        """
        if self._shape is Shape.FIELDS:
            return None
        for word in self.words:
            found = None if len(word.split()) > 1 else _LIKE_A_FIELD.search(word)
            if found is not None:
                return found[0].decode()
        return None

    def argv(self, item: Item) -> list[bytes]:
        """Return the command line for an item.

        Raises:
            MissingFieldError: the item has no such field.
        """
        if isinstance(item, bytes) and self._is_simple:
            # Rejected: substitution by the pattern, four times as slow in the most frequent case.
            words = [word.replace(PLACE, item) for word in self.words]
            return words if self._has_place else [*words, item]
        whole = JsonItem(item, item, None) if isinstance(item, bytes) else item
        words = [self._pattern.sub(lambda match: _filled(match, whole), word) for word in self.words]
        return words if self._has_place else [*words, whole.text]

    def _places_in(self, word: bytes) -> list[bytes]:
        found = [match.groupdict() for match in self._pattern.finditer(word)]
        return [match["name"] for match in found if match["literal"] is None]

    def _has_literal(self) -> bool:
        found = (match for word in self.words for match in self._pattern.finditer(word))
        return any(match["literal"] is not None for match in found)


def _filled(match: re.Match[bytes], item: JsonItem) -> bytes:
    if match["literal"] is not None:
        return b"{" + match["literal"] + b"}"
    name = match["name"]
    if name == b"#" and (item.fields is None or name not in item.fields):
        return b"%d" % item.number
    value = _value(item, name)
    if value is None and (part := _PART.fullmatch(name)) is not None:
        whole = _value(item, part["name"])
        value = None if whole is None else _OF_PATH[part["path"]](whole)
    if value is None:
        shown = name.decode(errors="replace")
        raise MissingFieldError(f"no field {shown!r} for {{{shown}}} (to write braces, double them)")
    return value


def _value(item: JsonItem, name: bytes) -> bytes | None:
    """Return what a name stands for: a field before anything else, since items may have any."""
    if not name:
        return item.text
    if item.fields is not None and name in item.fields:
        return item.fields[name]
    if name.isdigit() and 0 < int(name[:9]) <= len(item.columns):
        return item.columns[int(name) - 1]
    return None


def _without_extension(path: bytes) -> bytes:
    return _EXTENSION.sub(b"", path)


def _base_name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _directory(path: bytes) -> bytes:
    """Return the directory, as ``dirname`` of a shell has it."""
    stripped = path.rstrip(b"/")
    head, slash, _ = stripped.rpartition(b"/")
    if not slash:
        return b"/" if path and not stripped else b"."
    return head.rstrip(b"/") or b"/"


_OF_PATH: dict[bytes, Callable[[bytes], bytes]] = {
    b".": _without_extension,
    b"/": _base_name,
    b"//": _directory,
    b"/.": lambda path: _without_extension(_base_name(path)),
}
