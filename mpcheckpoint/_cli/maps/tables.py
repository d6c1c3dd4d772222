"""Items that are the rows of a table: CSV or TSV, with the names of the columns in the first line."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from mpcheckpoint._cli.maps.items import MOST_ITEM_BYTES, BadItemError, Files, canonical
from mpcheckpoint._cli.maps.template import JsonItem, MissingFieldError
from mpcheckpoint._format.byte_text import to_text
from mpcheckpoint._work.inputs import Input, recorded_of
from mpcheckpoint.errors import CheckpointError, shell_text

if TYPE_CHECKING:
    from mpcheckpoint._cli.maps.template import Template

_MOST_SHOWN_COLUMNS = 20
_LONE_RETURN = r"has a carriage return without a newline; if all its lines end so, first run: tr '\r' '\n'"


class TableInputs:
    """Turns rows into items. The first one has the names of the columns.

    The object key of an item is the column ``item_key``. Without one it is the row as JSON, with the names of the
    columns in their order by name.
    """

    def __init__(self, template: Template, item_key: str | None, files: Files, *, is_csv: bool) -> None:
        self._template = template
        self._item_key = item_key
        self._files = files
        self._is_csv = is_csv
        self._names: list[bytes] | None = None

    def __call__(self, place: int, line: bytes) -> Input | None:
        """Return the item that a row is; None for the first one.

        Raises:
            BadItemError: it is no row of this table, or the columns are not what the command line names.
        """
        row = line.removesuffix(b"\r")
        values = self._split(row)
        if self._names is None:
            self._take_names(values)
            return None
        if len(values) != len(self._names):
            raise BadItemError(
                f"has {_counted(len(values))}, unlike the first, which names {len(self._names)}"
            )
        fields = dict(zip(self._names, values, strict=True))
        path = None if self._files.field is None else fields[self._files.field.encode()]
        item = JsonItem(line, row, fields, path, tuple(values), place + 1)
        texts = {to_text(name): to_text(value) for name, value in fields.items()}
        object_key = canonical(texts).decode() if self._item_key is None else texts[self._item_key]
        try:
            return Input(place, item, object_key, recorded_of(texts, object_key))
        except CheckpointError as error:
            raise BadItemError(f"cannot be an item: {shell_text(error)}") from None

    def _split(self, row: bytes) -> list[bytes]:
        if not self._is_csv:
            if self._names is None and b"\r" in row:  # else the whole file is the line that names the columns
                raise BadItemError(_LONE_RETURN)
            return row.split(b"\t")
        text = row.decode("utf-8", "surrogateescape")
        csv.field_size_limit(MOST_ITEM_BYTES)
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise BadItemError(f"is no CSV: {error}") from None
        if len(rows) != 1:
            raise BadItemError(_LONE_RETURN)
        (values,) = rows
        return [value.encode("utf-8", "surrogateescape") for value in values]

    def _take_names(self, names: list[bytes]) -> None:
        known = [to_text(name) for name in names]
        twice = next((name for name in known if known.count(name) > 1), None)
        if twice is not None:
            raise BadItemError(f"names the column {twice!r} twice")
        there_are = ", ".join(known[:_MOST_SHOWN_COLUMNS]) + (
            ", ..." if len(known) > _MOST_SHOWN_COLUMNS else ""
        )
        for option, name in (("--item-key", self._item_key), ("--file-field", self._files.field)):
            if name is not None and name not in known:
                raise BadItemError(f"has no column {name!r}, which {option} names; it has {there_are}")
        if self._files.are_compared and self._files.field is None:
            raise BadItemError("names no file; --file-field says which column does")
        try:
            self._template.argv(JsonItem(b"", b"", dict.fromkeys(names, b""), None, tuple(names)))
        except MissingFieldError as error:
            raise BadItemError(f"has {error}; its columns are {there_are}") from None
        self._names = names


def _counted(number: int) -> str:
    return "1 column" if number == 1 else f"{number} columns"
