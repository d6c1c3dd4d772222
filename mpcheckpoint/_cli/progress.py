"""How far a command is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from mpcheckpoint._cli.terminal import is_screen, say
from mpcheckpoint._progress.lines import LINE_EVERY_S, Ticker

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._cli.bars import Bar

_SHOW_EVERY_S = 0.1
_MB = 1e6


class PlainProgress:
    """A line every ten seconds; none if all is done before the first is due."""

    def __init__(self, text: Callable[[int, int | None, int], str]) -> None:
        self._text = text
        self._ticker = Ticker(LINE_EVERY_S)

    def show(self, done: int, total: int | None, failed: int = 0) -> None:
        """Print how much is done, if that is due."""
        if self._ticker.is_due():
            self.print(self._text(done, total, failed))

    def print(self, line: str) -> None:
        """Print a line on standard error."""
        say(f"mpcheckpoint: {line}")

    def close(self) -> None:
        """Do nothing: what was printed stays."""


class ByteProgress:
    """Show on standard error how many bytes are done, while a ``with`` block lasts.

    Args:
        what: the word before the bar: "verify".
        total_bytes: how many there are; None if that is not known, as of a pipe.
        quiet_s: show nothing for so long from the start, and after each ``pause``, in seconds.
    """

    def __init__(self, what: str, total_bytes: int | None, *, quiet_s: float = 0.0) -> None:
        self._what, self._total_bytes, self._quiet_s = what, total_bytes, quiet_s
        self._done_bytes = 0
        self._display: Bar | PlainProgress | None = None
        self._quiet_until_s = time.monotonic() + quiet_s
        self._ticker = Ticker(_SHOW_EVERY_S)

    def advance(self, done_bytes: int) -> None:
        """Add so many bytes to those that are done."""
        self._done_bytes += done_bytes
        is_due = self._ticker.is_due()
        if self._display is None and time.monotonic() >= self._quiet_until_s:
            self._display = _byte_display(self._what, self._total_bytes)
            is_due = True
        if self._display is not None and is_due:
            self._display.show(self._done_bytes, self._total_bytes)

    def pause(self) -> None:
        """Take the bar away: something is to be printed."""
        display, self._display = self._display, None
        if display is not None:
            display.show(self._done_bytes, self._total_bytes)
            display.close()
        self._quiet_until_s = time.monotonic() + self._quiet_s

    def __enter__(self) -> Self:
        self.advance(0)
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()


def _byte_display(what: str, total_bytes: int | None) -> Bar | PlainProgress:
    if not is_screen(sys.stderr):
        of_total = "" if total_bytes is None else f" of {total_bytes / _MB:,.1f}"
        return PlainProgress(lambda done, _total, _failed: f"{what}: {done / _MB:,.1f}{of_total} MB")
    from mpcheckpoint._cli.bars import byte_bar  # noqa: PLC0415 - rich takes a while to import

    return byte_bar(what, total_bytes)
