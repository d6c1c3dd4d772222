"""How far a map is: a bar on a terminal, lines elsewhere, and a summary at the end."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

from mpcheckpoint._cli.terminal import items_done, safe, say
from mpcheckpoint._work.deaths import MOST_DEATHS

if TYPE_CHECKING:
    from types import TracebackType

    from mpcheckpoint._cli.maps.job import Job
    from mpcheckpoint._cli.maps.lines import Lines
    from mpcheckpoint._cli.maps.tally import Tally
    from mpcheckpoint._work.deaths import Death
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.retries import Retry
    from mpcheckpoint._work.shortage import ShortageEvent

_LINE_EVERY_S = 10.0
_MOST_FAILURES_SHOWN = 20


class _Display(Protocol):
    def show(self, tally: Tally) -> None: ...
    def print(self, line: str) -> None: ...
    def close(self) -> None: ...


class Reporter:
    """Show progress and failures on standard error, while a ``with`` block lasts.

    The commands' output is recorded, not shown here: that of several at a time would be a muddle.
    """

    def __init__(self, lines: Lines, tally: Tally, job: Job) -> None:
        self.tally = tally
        self._job = job
        self._display = _display(lines, job)
        self._retries = self._deaths = 0

    def take(self, outcome: Outcome) -> None:
        """Take note of an outcome."""
        self.tally.add(outcome)
        if not outcome.ok and not outcome.repeated:
            self._show_failure(outcome)
        self._display.show(self.tally)

    def take_retry(self, retry: Retry) -> None:
        """Take note of an attempt that failed and is followed by another."""
        self._retries += 1
        if self._retries <= _MOST_FAILURES_SHOWN:
            which = f"attempt {retry.attempts} of {self._job.retries + 1} failed"
            self._print(f"{which}: {retry.object_key}: {retry.error}; again in {retry.pause_s:.1f} s")
        elif self._retries == _MOST_FAILURES_SHOWN + 1:
            self._display.print("more attempts that fail are not shown here")

    def take_wait(self, text: str, is_left: bool) -> None:
        """Take note of what is waited for."""
        del is_left
        self._print(text)

    def take_death(self, death: Death) -> None:
        """Take note of a command that was killed from elsewhere, and that is to run again."""
        self._deaths += 1
        if self._deaths <= _MOST_FAILURES_SHOWN:
            which = f"death {death.number} of {MOST_DEATHS}"
            self._print(f"{which}: {death.object_key}: {death.cause}; again in {death.pause_s:.1f} s")
        elif self._deaths == _MOST_FAILURES_SHOWN + 1:
            self._display.print("more deaths are not shown here")

    def take_shortage(self, event: ShortageEvent) -> None:
        """Take note of something that the machine is short of, or no longer."""
        fewer = "" if event.is_over else ", or run fewer --jobs"
        self._print(f"{event}{fewer}")

    def _print(self, line: str) -> None:
        self._display.print(safe(line.replace("\n", "\\n")))

    def _show_failure(self, outcome: Outcome) -> None:
        if self.tally.ran_failed <= _MOST_FAILURES_SHOWN:
            cause = (outcome.error or "").partition("\n")[0]
            attempts = f" ({outcome.attempts} attempts)" if outcome.attempts > 1 else ""
            self._print(f"failed: {outcome.object_key}: {cause}{attempts}")
        elif self.tally.ran_failed == _MOST_FAILURES_SHOWN + 1:
            self._display.print("more failures are not shown here; results --failed lists them all")

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._display.close()


def _display(lines: Lines, job: Job) -> _Display:
    # A bar and the outputs on one terminal would be a muddle.
    if job.is_printing and sys.stdout.isatty():
        return _Plain(lines)
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return _Plain(lines)
    from mpcheckpoint._cli.maps.bar import Bar  # noqa: PLC0415 - rich takes a while to import, and only this needs it

    try:
        return Bar(lines)
    except RuntimeError:  # "can't start new thread"
        return _Plain(lines)


class _Plain:
    """A line now and then."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._due_s = time.monotonic() + _LINE_EVERY_S

    def show(self, tally: Tally) -> None:
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + _LINE_EVERY_S
        total = self._lines.count if self._lines.is_at_end else None
        self.print(f"{items_done(tally.done, total)}, {tally.failed} failed")

    def print(self, line: str) -> None:
        say(f"mpcheckpoint: {line}")

    def close(self) -> None:
        pass
