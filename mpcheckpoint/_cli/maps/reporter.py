"""What ``map`` shows while it runs: progress, failures, and what it waits for. And the counts for its summary."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Self

from mpcheckpoint._cli.maps.outcome_text import failure_line
from mpcheckpoint._cli.terminal import is_screen, one_line
from mpcheckpoint._progress.choice import terminal_display
from mpcheckpoint._progress.lines import ProgressLines
from mpcheckpoint._work.retries import MOST_DEATHS, Death, Retry

if TYPE_CHECKING:
    from mpcheckpoint._cli.maps.job import Job
    from mpcheckpoint._progress.snapshot import ProgressDisplay
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.shortage import ShortageEvent

_MOST_SHOWN = 20


class Tally:
    """The counts of the outcomes so far."""

    def __init__(self) -> None:
        self.ran_ok = self.ran_failed = 0
        self.ok_before = self.failed_before = 0

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
        """How many items have an outcome."""
        return self.ran_ok + self.ran_failed + self.ok_before + self.failed_before

    @property
    def failed(self) -> int:
        """How many of these failed, now or before."""
        return self.ran_failed + self.failed_before


class Reporter:
    """Show progress and failures on standard error, while a ``with`` block lasts.

    The output of the commands is recorded, not shown here: that of several at a time would be a muddle.

    Attributes:
        display: where the map shows how far it is.
    """

    def __init__(self, tally: Tally, job: Job) -> None:
        self._tally = tally
        self._attempts = job.retries + 1
        self.display = _display(job)
        self._printed: Counter[str] = Counter()

    def take(self, outcome: Outcome) -> None:
        """Count an outcome and show it."""
        self._tally.add(outcome)
        if not outcome.ok and not outcome.repeated:
            attempts = f" ({outcome.attempts} attempts)" if outcome.attempts > 1 else ""
            self._print_some(
                f"failed: {failure_line(outcome)}{attempts}",
                "more failures are not shown here; results --failed lists them all",
            )

    def take_retry(self, retry: Retry) -> None:
        """Show an attempt that failed and will be followed by another."""
        which = f"attempt {retry.attempts} of {self._attempts} failed"
        self._print_some(
            f"{which}: {retry.object_key}: {retry.error}; again in {retry.pause_s:.1f} s",
            "more attempts that fail are not shown here",
        )

    def take_death(self, death: Death) -> None:
        """Show a command that was killed from elsewhere and will run again."""
        which = f"death {death.number} of {MOST_DEATHS}"
        self._print_some(
            f"{which}: {death.object_key}: {death.cause}; again in {death.pause_s:.1f} s",
            "more deaths are not shown here",
        )

    def take_wait(self, text: str, is_left: bool) -> None:
        """Show what the map waits for."""
        del is_left
        self.display.print(one_line(text))

    def take_shortage(self, event: ShortageEvent) -> None:
        """Show that the machine is short of something, or no longer."""
        fewer = "" if event.is_over else ", or run fewer --jobs"
        self.display.print(one_line(f"{event}{fewer}"))

    def _print_some(self, line: str, more: str) -> None:
        """Print the first of many lines, then once that there are more."""
        self._printed[more] += 1
        if self._printed[more] <= _MOST_SHOWN:
            self.display.print(one_line(line))
        elif self._printed[more] == _MOST_SHOWN + 1:
            self.display.print(more)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.display.close()


def _display(job: Job) -> ProgressDisplay:
    # A bar and the outputs on one terminal would be a muddle.
    if is_screen(sys.stderr) and not (job.is_printing and sys.stdout.isatty()):
        return terminal_display()
    return ProgressLines()
