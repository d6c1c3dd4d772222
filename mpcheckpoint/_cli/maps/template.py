"""The command line of ``map``: its words, and what an item puts into them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from mpcheckpoint._format.byte_text import to_text

PLACE = b"{}"
# What makes something else of a value that is the name of a file: as in GNU parallel.
_PATHS = rb"/\.|//|/|\."
# Doubled braces stand for single ones. {{}} does only where items have fields: it is older than what follows here.
_PLAIN = re.compile(rb"\{\{(?P<literal>#|%b)\}\}|\{(?P<name>#|%b|)\}" % (_PATHS, _PATHS))
_LISTS = re.compile(
    rb"\{\{(?P<literal>#|\d{0,3}(?:%b)?)\}\}|\{(?P<name>#|\d{0,3}(?:%b)?)\}" % (_PATHS, _PATHS)
)
# Where items have fields, whether braces are a place depends on what is between them: see _is_place.
_FIELDS = re.compile(rb"\{\{(?P<literal>[^{}]*)\}\}|\{(?P<name>[^{}]*)\}")
_BLANK = re.compile(rb"\s")
# Words like those of a name with blanks in it. No { echo a; } of a shell, no {print $1} of awk, no JSON; and what would
# be {print NF} or {exit 1} of awk is left out.
_LIKE_A_NAME = re.compile(
    rb"(?!print[ \t]|exit[ \t]+\d+\Z)[\w\x80-\xff][\w.\x80-\xff-]*(?:[ \t]+[\w.\x80-\xff-]+)+(?:%b)?" % _PATHS
)
_PART = re.compile(rb"(?P<name>.*?)(?P<path>%b)" % _PATHS, re.DOTALL)
_LIKE_A_FIELD = re.compile(rb"(?<![{$])\{[A-Za-z_][\w-]*\}(?!\})", re.ASCII)
_MOST_PATTERNS = 64
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
        origin: which line of what it came as; empty if nothing else would say so.
    """

    line: bytes
    text: bytes
    fields: dict[bytes, bytes] | None
    file: bytes | None = None
    columns: tuple[bytes, ...] = ()
    number: int = 0
    origin: str = ""

    def __repr__(self) -> str:
        text = self.line.decode(errors="replace")  # in messages
        return f"{self.origin}, {text}" if self.origin else text


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
        return self._pattern.search(first) is not None or shutil.which(os.fsdecode(first)) is not None

    def unfilled_field(self) -> str | None:
        """Return a ``{name}`` that stands for itself because items have no fields; None if there is none.

        Another word with blanks is more likely a script, and ``${name}`` is a variable of a shell.
        """
        if self._shape is Shape.FIELDS:
            return None
        for word in self.words:
            if word[:1] + word[-1:] == b"{}" and _LIKE_A_NAME.fullmatch(word[1:-1]):
                return to_text(word)
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
        filling = _Filling(whole)
        pattern = self._pattern if self._shape is not Shape.FIELDS else _pattern_for(whole.fields or {})
        words = [pattern.sub(filling, word) for word in self.words]
        return words if filling.has_place else [*words, whole.text]

    def _places_in(self, word: bytes) -> list[bytes]:
        found = [match.groupdict() for match in self._pattern.finditer(word)]
        return [match["name"] for match in found if match["literal"] is None]

    def _has_literal(self) -> bool:
        found = (match for word in self.words for match in self._pattern.finditer(word))
        return any(match["literal"] is not None for match in found)


class _Filling:
    """What an item puts into the places of a command line.

    Attributes:
        has_place: there was one.
    """

    def __init__(self, item: JsonItem) -> None:
        self._item = item
        self.has_place = False

    def __call__(self, match: re.Match[bytes]) -> bytes:
        literal, name = match["literal"], match["name"]
        if not _is_place(name if literal is None else literal, self._item.fields or {}):
            return match[0]
        if literal is not None:
            return b"{" + literal + b"}"
        self.has_place = True
        return _filled(name, self._item)


def _is_place(text: bytes, fields: dict[bytes, bytes]) -> bool:
    """Return whether braces around a text are a place, for a field that is there or one that is lacking.

    They are without any blank in the text. With blanks, as ``{ echo a; }`` of a shell, they are only if it is the name
    of a field, or looks like one: else a name that was mistyped would go unnoticed.
    """
    if _BLANK.search(text) is None or text in fields or _LIKE_A_NAME.fullmatch(text) is not None:
        return True
    part = _PART.fullmatch(text)
    return part is not None and part["name"] in fields


def _pattern_for(fields: dict[bytes, bytes]) -> re.Pattern[bytes]:
    """Return what finds the places for fields: names may have braces of their own."""
    odd = [name for name in fields if b"{" in name or b"}" in name]
    return _pattern_with(tuple(sorted(odd, key=len, reverse=True))) if odd else _FIELDS


@lru_cache(_MOST_PATTERNS)
def _pattern_with(names: tuple[bytes, ...]) -> re.Pattern[bytes]:
    known = rb"(?:%b)(?:%b)?|[^{}]*" % (b"|".join(map(re.escape, names)), _PATHS)
    return re.compile(rb"\{\{(?P<literal>%b)\}\}|\{(?P<name>%b)\}" % (known, known))


def _filled(name: bytes, item: JsonItem) -> bytes:
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
