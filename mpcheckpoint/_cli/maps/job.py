"""What the command line of ``map`` asks for."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mpcheckpoint._cli.maps.items import Files, ItemReader, file_of, json_input, numbered_input, plain_input
from mpcheckpoint._cli.maps.lists import Combinations
from mpcheckpoint._cli.maps.quoted_lines import QuotedLines
from mpcheckpoint._cli.maps.tables import TableInputs
from mpcheckpoint._cli.maps.template import JsonItem, Shape, Template
from mpcheckpoint._cli.terminal import safe, say, without_passwords
from mpcheckpoint._engines import names_an_address
from mpcheckpoint._format.byte_text import to_bytes, to_text
from mpcheckpoint._work.causes import any_of
from mpcheckpoint._work.file_marks import ChangedFiles, marked
from mpcheckpoint._work.reruns import IfChanged
from mpcheckpoint._work.run_again import RunAgain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint._work.halt import Halt
    from mpcheckpoint._work.inputs import Input, NotYet
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.runs import JoinedRun

STDIN = "-"


# Items of either kind: read ahead, or on the command line.
Items = ItemReader | Combinations


def _recorded(word: bytes) -> str:
    """Return a word of the command as it is recorded, where everybody who reads the store sees it.

    Of other URLs the passwords stay: without them a map that began before would count as another one.
    """
    text = to_text(word)
    return without_passwords(text) if names_an_address(text) else text


class Job(NamedTuple):
    """A command, the items to run it for, and where to record the outcomes."""

    store: str | Address
    log_key: str
    words: tuple[bytes, ...]
    jobs: int
    items: str
    is_null_separated: bool
    is_json: bool
    is_csv: bool
    is_tsv: bool
    item_key: str | None
    retries: int
    retry_delay_s: float
    timeout_s: float | None
    memory_bytes: int | None
    halt: Halt | None
    retry_failed: bool
    where: tuple[str, ...]
    rerun: str | None
    if_changed: str
    compares_files: bool
    compares_content: bool
    file_field: str | None
    is_printing: bool
    is_ordered: bool
    output_limit_bytes: int
    is_tagging: bool
    delay_s: float
    most_load: float | None
    joblog: str | None
    lists: list[list[bytes]] | None = None

    @property
    def version(self) -> str:
        """What identifies the work: the command line, as a shell would read it, without passwords of addresses."""
        return " ".join("{}" if word == b"{}" else shlex.quote(_recorded(word)) for word in self.words)

    @property
    def template(self) -> Template:
        """The command line with places for an item."""
        if self.lists is not None:
            return Template(self.words, shape=Shape.LISTS)
        return Template(self.words, shape=Shape.FIELDS if self.has_fields else Shape.PLAIN)

    @property
    def has_fields(self) -> bool:
        """Whether items have fields: they are JSON, or the rows of a table."""
        return self.is_json or self.is_csv or self.is_tsv

    @property
    def results_line(self) -> str:
        """The command that shows what was recorded."""
        of_rerun = "" if self.rerun is None else f" --rerun {shlex.quote(self.rerun)}"
        where = f"--store {shlex.quote(str(self.store))} --key {shlex.quote(self.log_key)}"
        return f"mpcheckpoint results {where}{of_rerun}"

    @property
    def choice(self) -> dict[str, Any]:
        """Which run of the log's map it belongs to, for ``join_run``."""
        return {
            "rerun": self.rerun,
            "if_changed": IfChanged(self.if_changed),
            "retry_failed": self.retry_failed and not self.where,
        }

    @property
    def files(self) -> Files:
        """Which files the items name, and how they are compared with what they were."""
        how = ChangedFiles.HASH if self.compares_content else ChangedFiles.STAT
        return Files(how if self.compares_files else None, self.file_field)

    @property
    def has_gate(self) -> bool:
        """Whether commands wait before they start."""
        return self.delay_s > 0 or self.most_load is not None

    def tag(self, outcome: Outcome) -> bytes | None:
        """Return what the lines of an item's output begin with; None for nothing."""
        if not self.is_tagging:
            return None
        item = outcome.item
        text: bytes = item.text if isinstance(item, JsonItem) else item
        return text if self.item_key is None else to_bytes(outcome.object_key)

    def inputs(self, items: Items) -> Iterator[Input | NotYet]:
        """Return the items, with the marks of their files if these are compared."""
        changed = self.files.changed
        return iter(items) if changed is None else marked(items, changed, file_of)

    def again(self, run: JoinedRun) -> RunAgain | None:
        """Return which outcomes that are there already do not count."""
        if not self.compares_files and not self.where:
            return None
        return RunAgain(any_of(self.where) if self.where else None, run.joined_us)

    def open_items(self) -> Items:
        """Open the items.

        Raises:
            click.ClickException: they cannot be read.
        """
        template = self.template
        if self.lists is not None:
            combinations = Combinations(self.lists)
            combinations.require_places(template)
            return combinations
        is_table = self.is_csv or self.is_tsv
        return ItemReader(
            self._open(),
            is_null_separated=self.is_null_separated,
            name="standard input" if self.items == STDIN else safe(self.items),
            to_input=self._to_input(template),
            has_header=is_table,
            quoted=QuotedLines() if self.is_csv else None,
            blanks=b" \r" if self.is_tsv else b" \t\r",  # tabs alone are a row of empty fields
        )

    def _to_input(self, template: Template) -> Callable[[int, bytes], Input | None]:
        if self.is_json:
            return partial(json_input, template, self.item_key, files=self.files)
        if self.is_csv or self.is_tsv:
            return TableInputs(template, self.item_key, self.files, is_csv=self.is_csv)
        return numbered_input if template.has_number else plain_input

    def _open(self) -> int:
        if self.items != STDIN:
            try:
                file = click.open_file(self.items, "rb")
                return click.get_current_context().with_resource(file).fileno()
            except OSError as error:
                raise click.UsageError(
                    f"cannot read the items from {safe(self.items)}: {error.strerror}; nothing was run"
                ) from error
        if sys.stdin is None:
            # The next file that is opened would get its descriptor, and be read as if it held items.
            raise click.UsageError("cannot read the items: standard input is closed; nothing was run")
        if sys.stdin.isatty():
            say("mpcheckpoint: reading items from the terminal, one a line; end with Ctrl-D")
        return sys.stdin.fileno()
