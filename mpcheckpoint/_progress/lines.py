"""Progress without a terminal: a line now and then, without control characters."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from mpcheckpoint._progress.snapshot import line_of
from mpcheckpoint._progress.words import safe

if TYPE_CHECKING:
    from mpcheckpoint._progress.snapshot import Snapshot

LINE_EVERY_S = 10.0


class Ticker:
    """Something that is due every so many seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._due_s = time.monotonic() + every_s

    def is_due(self) -> bool:
        """Return whether it is due now. It is due again that much later."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._every_s
        return True


def say(line: str) -> None:
    """Print a line on standard error, made safe. If nobody reads it any more, go on all the same."""
    try:
        print(safe(line), file=sys.stderr, flush=True)  # noqa: T201 - this is what prints
    except OSError:
        pass


class ProgressLines:
    """A line on standard error every ten seconds; none if all is done before the first is due."""

    def __init__(self) -> None:
        self._ticker = Ticker(LINE_EVERY_S)

    def show(self, snapshot: Snapshot) -> None:
        """Print how far it is, if that is due."""
        if self._ticker.is_due():
            self.print(line_of(snapshot))

    def print(self, line: str) -> None:
        """Print a line."""
        say(f"mpcheckpoint: {line}")

    def close(self) -> None:
        """Do nothing: what was printed stays."""
