"""Items that stand on the command line: lists after ``:::``, and their combinations."""

from __future__ import annotations

import itertools
import math
import os
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.maps.items import canonical
from mpcheckpoint._cli.maps.template import JsonItem, MissingFieldError
from mpcheckpoint._format.byte_text import to_text
from mpcheckpoint._work.inputs import Input, recorded_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._cli.maps.template import Template

_SEPARATOR = ":::"
_UNKNOWN = {":::+": "lists are combined, not linked", "::::": "a file of items is given by --items"}


def split_lists(words: tuple[str, ...]) -> tuple[tuple[str, ...], list[list[bytes]] | None]:
    """Return a command line, and the lists after it; None if there are none.

    Raises:
        click.UsageError: that is no command line, or lists of another kind.
    """
    for word, advice in _UNKNOWN.items():
        if word in words:
            raise click.UsageError(f"{word} is not known here: {advice}; nothing was run")
    if _SEPARATOR not in words:
        return words, None
    command, *rest = [
        list(group) for is_list, group in itertools.groupby(_with_ends(words), _is_separator) if not is_list
    ]
    if not command[1:]:
        raise click.UsageError("there is no command before :::; nothing was run")
    return tuple(command[1:]), [[os.fsencode(word) for word in each[1:]] for each in rest]


def _is_separator(word: str) -> bool:
    return word == _SEPARATOR


def _with_ends(words: tuple[str, ...]) -> Iterator[str]:
    """Yield an empty word at the start and after each separator, so that an empty list is one, too."""
    yield ""
    for word in words:
        yield word
        if word == _SEPARATOR:
            yield ""


class Combinations:
    """Every combination of one value of each list, the last list's changing fastest: what an ``ItemReader`` reads.

    The object key of a combination is its values as JSON, as if that had been a line of ``--jsonl``; of one list, the
    value as it stands.
    """

    problem: str | None = None
    header: bytes | None = None
    is_at_end = True

    def __init__(self, lists: list[list[bytes]]) -> None:
        self._lists = lists
        self.count = math.prod(map(len, lists))

    def require_places(self, template: Template) -> None:
        """Refuse a command line that names a list which is not there.

        Raises:
            click.UsageError: it does.
        """
        try:
            template.argv(JsonItem(b"", b"", None, None, tuple(b"" for _ in self._lists)))
        except MissingFieldError as error:
            text = str(error).replace("no field", "no list")
            raise click.UsageError(
                f"there is {text}: there {'is' if len(self._lists) == 1 else 'are'} {len(self._lists)} after :::. "
                "Nothing was run"
            ) from None

    def __iter__(self) -> Iterator[Input]:
        for place, values in enumerate(itertools.product(*self._lists)):
            texts = [to_text(value) for value in values]
            object_key = texts[0] if len(texts) == 1 else canonical(texts).decode()
            line = values[0] if len(values) == 1 else object_key.encode()
            item = JsonItem(line, b" ".join(values), None, None, values, place + 1)
            recorded = recorded_of(texts[0] if len(texts) == 1 else texts, object_key)
            yield Input(place, item, object_key, recorded)

    def total(self) -> int:
        """Return how many there are."""
        return self.count
