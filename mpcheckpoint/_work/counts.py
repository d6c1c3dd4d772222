"""How many items of a map are done, and how that is shown while it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint._progress.pace import Pace
from mpcheckpoint._progress.snapshot import Snapshot
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint._work.status import running_items

if TYPE_CHECKING:
    from collections.abc import Collection

    from mpcheckpoint._progress.snapshot import ProgressDisplay
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.status import RunningItem

_SHOW_EVERY_S = 0.25


class Counts:
    """The inputs of a map that have an outcome.

    Args:
        joined_us: outcomes of others with a later stamp were recorded since this start of the map.

    Attributes:
        done: how many.
        before: how many of them had it before this start of the map.
        failed: how many of them failed, now or before.
        last_failure: the one that failed last since then, and why.
        pace: how many are done a second.
    """

    def __init__(self, joined_us: int) -> None:
        self.done = self.before = self.failed = 0
        self.last_failure: str | None = None
        self.pace = Pace(time.monotonic())
        self._joined_us = joined_us

    def take(self, outcome: Outcome, inputs: int) -> None:
        """Count an outcome, which so many inputs have."""
        is_new = not outcome.repeated or outcome.ended_us >= self._joined_us
        self.done += inputs
        if is_new:
            self.pace.take(time.monotonic())
        else:
            self.before += inputs
        if not outcome.ok:
            self.failed += inputs
            if is_new:
                cause = (outcome.error or "").partition("\n")[0]
                self.last_failure = f"{outcome.object_key}: {cause}"


class ProgressMeter:
    """Shows the counts of a map, a few times a second and when it ends."""

    def __init__(self, display: ProgressDisplay | None, log: LogHandle, counts: Counts) -> None:
        self._display = display
        self._log = log
        self._counts = counts
        self._due_s = 0.0

    @property
    def patience_s(self) -> float | None:
        """How long to wait before it is shown again; None for ever."""
        return None if self._display is None else max(0.0, self._due_s - time.monotonic())

    def show(self, items: int | None, given: Collection[str], *, is_last: bool = False) -> None:
        """Show how far the map is, if that is due.

        Args:
            items: how many there are, if that is known.
            given: the object keys that its workers have.
        """
        if self._display is None:
            return
        now_s = time.monotonic()
        if now_s < self._due_s and not is_last:
            return
        self._due_s = now_s + _SHOW_EVERY_S
        counts = self._counts
        running = () if is_last else self._running(given)
        self._display.show(
            Snapshot(
                items,
                counts.done,
                counts.before,
                counts.failed,
                tuple((item.object_key, item.elapsed_s) for item in running),
                counts.last_failure,
                counts.pace.per_second(now_s),
            )
        )

    def close(self, items: int | None) -> None:
        """Show how far the map came, and nothing more. Twice is fine."""
        display = self._display
        if display is not None:
            self.show(items, (), is_last=True)
            self._display = None
            display.close()

    def _running(self, given: Collection[str]) -> tuple[RunningItem, ...]:
        try:
            return running_of(self._log, given)
        except Exception as error:
            if shortage_of(error) is None:
                raise
            return ()  # it is no reason to end the map


def running_of(log: LogHandle, given: Collection[str]) -> tuple[RunningItem, ...]:
    """Return which of these items run now, the longest running first: some wait in the pipe of a worker."""
    return tuple(item for item in running_items(log) if item.object_key in given) if given else ()
