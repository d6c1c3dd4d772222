"""The forms in which ``results`` prints outcomes: for people, and for other programs."""

from __future__ import annotations

import csv
import io
import re
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any

from mpcheckpoint._cli.maps.outcome_text import json_row, text_of
from mpcheckpoint._cli.terminal import safe
from mpcheckpoint._cli.times import iso
from mpcheckpoint._cli.whole_file import LOOK_BYTES
from mpcheckpoint._work.results import COLUMNS, extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint import Outcome, Results

_TIMES = ("began", "ended")
# As jq's @tsv writes them, and PostgreSQL reads them: a cell is one line, without a tab.
_TSV = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

# What files begin with that hold outcomes.
_PARQUET = b"PAR1"
_AFTER_ITEM = b',"object_key":'
_ROW = rb'\{"item":[^\n]*?%b' % re.escape(_AFTER_ITEM)


class Form(Enum):
    """What ``--format`` takes."""

    TEXT = "text"
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


_BEGINNINGS = {
    Form.TEXT: re.compile(rb"(?:ok    |failed) +\d+\.\d{3} s  "),
    Form.TABLE: re.compile(rb"STATE +BEGAN +DURATION +ATTEMPTS +WORKER +ITEM  +"),
    Form.JSON: re.compile(rb"\[(?:\]\n\Z|\n%b)" % _ROW),
    Form.JSONL: re.compile(_ROW),
    Form.CSV: re.compile(re.escape(",".join(COLUMNS).encode() + b"\n")),
    Form.TSV: re.compile(re.escape("\t".join(COLUMNS).encode() + b"\n")),
}


def chunks_of(outcomes: Results, form: Form, *, is_for_file: bool) -> Iterator[bytes]:
    """Yield the outcomes in a form other than Parquet, piece by piece."""
    if form is Form.TABLE:
        # rich takes a while to import.
        from mpcheckpoint._cli.maps.outcome_table import table_lines  # noqa: PLC0415

        return table_lines(outcomes, is_for_file=is_for_file)
    # A cell may hold anything, and a terminal would obey it. Files and programs get it as it is.
    is_shown = not is_for_file and sys.stdout.isatty()
    if form is Form.CSV:
        return _csv(outcomes, is_shown=is_shown)
    if form is Form.TSV:
        return _tsv(outcomes, is_shown=is_shown)
    if form is Form.JSON:
        return _array(outcomes)
    if form is Form.JSONL:
        return map(json_row, outcomes)
    return (text_of(outcome).encode() for outcome in outcomes)


def is_earlier(form: Form, path: str, beginning: bytes) -> bool:
    """Return whether a file, with this beginning, is what ``results`` wrote in a form.

    Raises:
        MissingExtraError: it may be Parquet, and pyarrow is not installed.
    """
    if form is Form.PARQUET:
        return beginning.startswith(_PARQUET) and _has_columns(path)
    if len(beginning) == LOOK_BYTES:
        beginning += _AFTER_ITEM  # the first item may be longer than that
    return _BEGINNINGS[form].match(beginning) is not None


def _has_columns(path: str) -> bool:
    parquet = extra("pyarrow.parquet", "arrow")
    try:
        return bool(parquet.read_schema(path).names == list(COLUMNS))
    except (OSError, ValueError):  # it is none
        return False


def _array(outcomes: Results) -> Iterator[bytes]:
    before = b"["
    for outcome in outcomes:
        yield before + b"\n" + json_row(outcome).rstrip(b"\n")
        before = b","
    yield b"\n]\n" if before == b"," else b"[]\n"


def _cells(outcome: Outcome) -> list[str]:
    return [_cell(name, of(outcome)) for name, of in COLUMNS.items()]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return iso(value) if name in _TIMES else str(value)


def _csv(outcomes: Results, *, is_shown: bool) -> Iterator[bytes]:
    """Yield rows as RFC 4180 has them, but for their end, which is a newline."""
    text = io.StringIO()
    # With this end of a row all Pythons quote a cell that has a carriage return in it.
    writer = csv.writer(text, lineterminator="\r\n")

    def row(cells: list[str]) -> bytes:
        text.seek(0)
        text.truncate()
        writer.writerow(cells)
        line = text.getvalue().removesuffix("\r\n")
        return (safe(line) if is_shown else line).encode() + b"\n"

    yield row(list(COLUMNS))
    for outcome in outcomes:
        yield row(_cells(outcome))


def _tsv(outcomes: Results, *, is_shown: bool) -> Iterator[bytes]:
    yield "\t".join(COLUMNS).encode() + b"\n"
    for outcome in outcomes:
        line = "\t".join(cell.translate(_TSV) for cell in _cells(outcome))
        yield (safe(line) if is_shown else line).encode() + b"\n"
