"""``mpcheckpoint results --watch``: the progress of a map, seen from elsewhere."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from mpcheckpoint._cli.maps.outcome_text import failure_line, json_row
from mpcheckpoint._cli.terminal import flush_out, items_done, write_out
from mpcheckpoint._progress.lines import LINE_EVERY_S, Ticker
from mpcheckpoint._work.outcomes import outcome_in
from mpcheckpoint._work.presence import map_starts
from mpcheckpoint._work.reruns import History, head_of_decoded, history_of
from mpcheckpoint._work.runs import latest_outcomes
from mpcheckpoint._work.status import running_items
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from mpcheckpoint import Log, MapStart, MapStatus, Outcome, Position, Record, RunningItem
    from mpcheckpoint._view.log_handle import LogHandle

_LOOK_EVERY_S = 0.5
_RATE_OVER_S = 30.0
_MOST_RECENT = 100_000
_MOST_FAILURES = 5


class Watched:
    """What is known of a map, or of a rerun of it, by following its log.

    Takes about a hundred bytes an item, so that an item that is recorded again is counted once.
    """

    def __init__(self, version: str, rerun: str | None, history: History) -> None:
        self.version = version
        self.rerun = rerun
        self.is_ok: dict[str, bool] = {}
        self.failed = 0
        self.failures: deque[Outcome] = deque(maxlen=_MOST_FAILURES)
        self.to_retry: set[str] = set()
        self.running: tuple[RunningItem, ...] = ()
        self.starts: tuple[MapStart, ...] = ()
        self._history = history
        self._rule = history.rule(rerun)
        self._recent_us: deque[int] = deque(maxlen=_MOST_RECENT)

    @property
    def done(self) -> int:
        """How many items are done."""
        return len(self.is_ok)

    @property
    def items(self) -> int | None:
        """How many items there are; None if the map does not know. It may not count all that others have done."""
        known = [start.items for start in self.starts if start.items is not None]
        return max(*known, self.done) if known else None

    def is_of_new_run(self, record: Record) -> bool:
        """Return whether a record belongs to a run that began after the last look."""
        told = head_of_decoded(record.event)
        return told is not None and int(told.run) not in self._history.by_number

    def take(self, record: Record) -> Outcome | None:
        """Count a record; return the outcome in it, if there is one."""
        told = head_of_decoded(record.event)
        if told is None:
            return None
        if self._rule.is_to_retry(told):
            self.to_retry.add(record.object_key)
        if not self._rule.counts(told):
            return None
        outcome = outcome_in(record.event, record.object_key, record.stamp_us, self._history.by_number)
        self._count(record.object_key, is_ok=outcome.ok)
        self.to_retry.discard(record.object_key)
        self._recent_us.append(record.stamp_us)
        if not outcome.ok:
            self.failures.append(outcome)
        return outcome

    def look(self, log: LogHandle) -> None:
        """Find out which processes work on the map, and on which items."""
        self.running = running_items(log)
        starts = map_starts(log.workers, log.log_key)
        self.starts = tuple(start for start in starts if self.rerun in (None, start.rerun))
        self.learn(log)

    def learn(self, log: LogHandle) -> None:
        """Find out which runs began meanwhile."""
        history = log.query(history_of)
        if history is not self._history:
            self._history, self._rule = history, history.rule(self.rerun)
            self._recount(log)

    def _recount(self, log: LogHandle) -> None:
        """Count anew by another rule. A record that is followed afterwards is still counted once."""
        self.is_ok, self.failed, self.to_retry = {}, 0, set()
        for object_key, _, told, is_to_retry in latest_outcomes(log, self._rule):
            if told is not None:
                self._count(object_key, is_ok=told.is_ok)
            if is_to_retry:
                self.to_retry.add(object_key)

    def _count(self, object_key: str, *, is_ok: bool) -> None:
        self.failed += (not is_ok) - (self.is_ok.get(object_key) is False)
        self.is_ok[object_key] = is_ok

    def rate(self) -> float:
        """Return how many items a second were done lately."""
        now_us = time.time() * 1e6
        while self._recent_us and self._recent_us[0] < now_us - _RATE_OVER_S * 1e6:
            self._recent_us.popleft()
        if len(self._recent_us) < 2:
            return 0.0
        return len(self._recent_us) * 1e6 / max(1e6, now_us - self._recent_us[0])


class WatchDisplay:
    """Where a watched map is shown: nowhere, unless a subclass does more."""

    def take(self, outcome: Outcome) -> None:
        """Show an outcome."""

    def show(self, watched: Watched) -> None:
        """Show the progress of the map."""

    def close(self) -> None:
        """Show nothing more."""


def watch(log: Log, status: MapStatus, display: WatchDisplay) -> None:
    """Follow a map until no process works on it any more."""
    watched = Watched(status.version, status.rerun, handle_of(log).query(history_of))
    position: Position | None = None
    with log.follow(after="start", idle_timeout_s=_LOOK_EVERY_S) as follower:
        while True:
            watched.look(handle_of(log))
            display.show(watched)
            if not watched.starts:
                break
            due_s = time.monotonic() + _LOOK_EVERY_S
            for record in follower:
                position = record.position
                _take(log, watched, display, record)
                if time.monotonic() >= due_s:
                    break
    # A process that has ended recorded its last outcome before that, and the follower may not have given it yet.
    for record in log.read(after=position):
        _take(log, watched, display, record)
    display.show(watched)


def _take(log: Log, watched: Watched, display: WatchDisplay, record: Record) -> None:
    if watched.is_of_new_run(record):
        watched.learn(handle_of(log))
    outcome = watched.take(record)
    if outcome is not None:
        display.take(outcome)


class JsonRows(WatchDisplay):
    """A line of JSON for every outcome, as it comes."""

    def __init__(self, *, only_failed: bool) -> None:
        self._only_failed = only_failed

    def take(self, outcome: Outcome) -> None:
        """Print it."""
        if not (self._only_failed and outcome.ok):
            write_out(json_row(outcome))

    def show(self, watched: Watched) -> None:
        """Flush what was printed."""
        del watched
        flush_out()


class PlainLines(WatchDisplay):
    """A line for each failure, and one every ten seconds for the counts."""

    def __init__(self) -> None:
        self._ticker = Ticker(LINE_EVERY_S)

    def take(self, outcome: Outcome) -> None:
        """Print a failure."""
        if not outcome.ok:
            write_out(f"failed: {failure_line(outcome)}\n".encode())

    def show(self, watched: Watched) -> None:
        """Print the counts, if that is due."""
        if self._ticker.is_due():
            done = items_done(watched.done, watched.items)
            write_out(f"{done}, {watched.failed} failed, {watched.rate():.1f} items/s\n".encode())
        flush_out()
