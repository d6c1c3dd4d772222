"""How far a map is at one moment."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from mpcheckpoint._progress.words import items_done, one_line, rate, span

_MOST_RUNNING = 3
_LONG_S = 1.0


class Snapshot(NamedTuple):
    """How far a map is.

    Attributes:
        items: how many there are; None while that is not known.
        done: how many have an outcome.
        before: how many of these were done before this start of the map.
        failed: how many of the done ones failed, now or before.
        running: the object keys of the items that run now, and for how many seconds, the longest running first.
        last_failure: the item that failed last here, and why.
        per_second: how many items a second were done lately; 0 if that cannot be told.
    """

    items: int | None
    done: int
    before: int
    failed: int
    running: tuple[tuple[str, float], ...] = ()
    last_failure: str | None = None
    per_second: float = 0.0

    @property
    def left_s(self) -> float | None:
        """For how many seconds it will go on at this rate; None if that cannot be told."""
        if self.items is None or not self.per_second or self.done >= self.items:
            return None
        return (self.items - self.done) / self.per_second


class ProgressDisplay(Protocol):
    """Where the progress of a map is shown."""

    def show(self, snapshot: Snapshot) -> None:
        """Show how far it is."""

    def print(self, line: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """Show nothing more. Twice is fine."""


def pace_text(snapshot: Snapshot) -> list[str]:
    """Return the rate and the time left, as far as they are known."""
    parts = [rate(snapshot.per_second)] if snapshot.per_second else []
    if snapshot.left_s is not None:
        parts.append(f"{span(snapshot.left_s)} left")
    return parts


def running_text(snapshot: Snapshot) -> str:
    """Return what runs, in one line: how many, and those that run longest; "" if nothing does."""
    if not snapshot.running:
        return ""
    shown = [
        one_line(key) + (f" ({span(elapsed_s)})" if elapsed_s >= _LONG_S else "")
        for key, elapsed_s in snapshot.running[:_MOST_RUNNING]
    ]
    more = ", ..." if len(snapshot.running) > _MOST_RUNNING else ""
    return f"{len(snapshot.running)} running: {', '.join(shown)}{more}"


def line_of(snapshot: Snapshot) -> str:
    """Return the counts and the pace in one line."""
    parts = [items_done(snapshot.done, snapshot.items), f"{snapshot.failed} failed", *pace_text(snapshot)]
    return ", ".join(parts)
