"""How far a map is: a bar on a terminal, lines elsewhere, and a summary at the end."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mpcheckpoint._cli.terminal import safe, say

if TYPE_CHECKING:
    from types import TracebackType

    from mpcheckpoint._cli.lines import Lines
    from mpcheckpoint._work.outcomes import Outcome

_LINE_EVERY_S = 10.0
_MOST_FAILURES_SHOWN = 20


class Tally:
    """What became of the items so far."""

    def __init__(self) -> None:
        self.ran_ok = 0
        self.ran_failed = 0
        self.ok_before = 0
        self.failed_before = 0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        if outcome.repeated:
            self.ok_before += outcome.ok
            self.failed_before += not outcome.ok
        else:
            self.ran_ok += outcome.ok
            self.ran_failed += not outcome.ok

    @property
    def done(self) -> int:
        """How many have an outcome."""
        return self.ran_ok + self.ran_failed + self.ok_before + self.failed_before

    @property
    def failed(self) -> int:
        """How many of these failed, now or before."""
        return self.ran_failed + self.failed_before


class _Display(Protocol):
    def show(self, tally: Tally) -> None: ...
    def print(self, line: str) -> None: ...
    def close(self) -> None: ...


class Reporter:
    """Show progress and failures on standard error, while a ``with`` block lasts.

    The commands' output is recorded, not shown: that of several at a time would be a muddle.
    """

    def __init__(self, lines: Lines, tally: Tally) -> None:
        self.tally = tally
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._display: _Display = _Bar(lines) if is_terminal else _Plain(lines)

    def take(self, outcome: Outcome) -> None:
        """Take note of an outcome."""
        self.tally.add(outcome)
        if not outcome.ok and not outcome.repeated:
            self._show_failure(outcome)
        self._display.show(self.tally)

    def _show_failure(self, outcome: Outcome) -> None:
        if self.tally.ran_failed <= _MOST_FAILURES_SHOWN:
            cause = (outcome.error or "").partition("\n")[0]
            self._display.print(safe(f"failed: {outcome.object_key}: {cause}".replace("\n", "\\n")))
        elif self.tally.ran_failed == _MOST_FAILURES_SHOWN + 1:
            self._display.print("more failures are not shown here; results --failed lists them all")

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._display.close()


class _Bar:
    """A bar, its end known as soon as all items are read."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("items", total=None, failed="")
        self._progress.start()

    def show(self, tally: Tally) -> None:
        total = self._lines.count if self._lines.is_at_end else None
        failed = f"{tally.failed} failed" if tally.failed else ""
        self._progress.update(self._task, completed=tally.done, total=total, failed=failed)

    def print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


class _Plain:
    """A line now and then."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._due_s = time.monotonic() + _LINE_EVERY_S

    def show(self, tally: Tally) -> None:
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + _LINE_EVERY_S
        total = f" of {self._lines.count}" if self._lines.is_at_end else ""
        self.print(f"{tally.done}{total} items done, {tally.failed} failed")

    def print(self, line: str) -> None:
        say(f"mpcheckpoint: {line}")

    def close(self) -> None:
        pass
