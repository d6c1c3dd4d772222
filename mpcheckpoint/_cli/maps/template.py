"""The command line of ``map``: its words, and what an item puts into them."""

from __future__ import annotations

import os
import re
import shutil
from typing import NamedTuple

PLACE = b"{}"
# {name} stands for a field, {{name}} for itself.
_FIELD = re.compile(rb"\{\{(?P<literal>[^{}\s]*)\}\}|\{(?P<name>[^{}\s]*)\}")
_LIKE_A_FIELD = re.compile(rb"(?<![{$])\{[A-Za-z_][\w-]*\}(?!\})", re.ASCII)


class JsonItem(NamedTuple):
    """An item that is a JSON value.

    Attributes:
        line: the line it came in.
        text: what {} stands for: a string as it is, anything else as the line has it.
        fields: what {name} stands for, for each field of an object; None if the value is no object.
        file: the path of the file that it names, if that is not the item itself.
    """

    line: bytes
    text: bytes
    fields: dict[bytes, bytes] | None
    file: bytes | None = None

    def __repr__(self) -> str:
        return self.line.decode(errors="replace")  # in messages


Item = bytes | JsonItem


class MissingFieldError(Exception):
    """The command line names a field that an item does not have."""


class Template:
    """A command line with places for an item. Without any, the item goes to the end."""

    def __init__(self, words: tuple[bytes, ...], *, is_json: bool) -> None:
        self.words = words
        self._is_json = is_json
        self._pattern = _FIELD if is_json else re.compile(re.escape(PLACE))
        self._has_place = any(map(self._places_in, words))

    def is_command(self) -> bool:
        """Return whether the first word can be run. True as well if that depends on the item."""
        first = self.words[0]
        return self._places_in(first) or shutil.which(os.fsdecode(first)) is not None

    def unfilled_field(self) -> str | None:
        """Return a ``{name}`` that stands for itself because items are not JSON; None if there is none.

        A word with blanks is more likely a script, and ``${name}`` is a variable of a shell.
        """
        if self._is_json:
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
        if isinstance(item, bytes):
            # Rejected: substitution by the pattern, four times as slow in the most frequent case.
            words = [word.replace(PLACE, item) for word in self.words]
            return words if self._has_place else [*words, item]
        words = [self._pattern.sub(lambda match: _filled(match, item), word) for word in self.words]
        return words if self._has_place else [*words, item.text]

    def _places_in(self, word: bytes) -> bool:
        return any(match.groupdict().get("literal") is None for match in self._pattern.finditer(word))


def _filled(match: re.Match[bytes], item: JsonItem) -> bytes:
    if match["literal"] is not None:
        return b"{" + match["literal"] + b"}"
    name = match["name"]
    if not name:
        return item.text
    if item.fields is None or name not in item.fields:
        shown = name.decode(errors="replace")
        raise MissingFieldError(f"no field {shown!r} for {{{shown}}} (to write braces, double them)")
    return item.fields[name]
