"""How far a pass over files is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from mpcheckpoint._cli.terminal import say

if TYPE_CHECKING:
    from types import TracebackType

_LINE_EVERY_S = 10.0
_SHOW_EVERY_S = 0.1
_MB = 1e6


class _Display(Protocol):
    def show(self, done_bytes: int) -> None: ...
    def close(self) -> None: ...


class ByteProgress:
    """Show on standard error how many of so many bytes are done, while a ``with`` block lasts.

    Args:
        what: what is being done, as a word before the bar: "verify".
        total_bytes: how many there are; None if that is not known, as of a pipe.
    """

    def __init__(self, what: str, total_bytes: int | None) -> None:
        self._done_bytes = 0
        self._due_s = 0.0
        self._display = _display(what, total_bytes)

    def advance(self, done_bytes: int) -> None:
        """Take note that so many more bytes are done."""
        self._done_bytes += done_bytes
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + _SHOW_EVERY_S
            self._display.show(self._done_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._display.show(self._done_bytes)
        self._display.close()


def _display(what: str, total_bytes: int | None) -> _Display:
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return _Plain(what, total_bytes)
    from mpcheckpoint._cli.byte_bar import ByteBar  # noqa: PLC0415 - rich takes a while to import

    return ByteBar(what, total_bytes)


class _Plain:
    """A line now and then; none where all is done before the first is due."""

    def __init__(self, what: str, total_bytes: int | None) -> None:
        self._what = what
        self._total = "" if total_bytes is None else f" of {total_bytes / _MB:,.1f}"
        self._due_s = time.monotonic() + _LINE_EVERY_S

    def show(self, done_bytes: int) -> None:
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + _LINE_EVERY_S
            say(f"mpcheckpoint: {self._what}: {done_bytes / _MB:,.1f}{self._total} MB")

    def close(self) -> None:
        pass
