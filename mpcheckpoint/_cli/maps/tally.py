"""The counts of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpcheckpoint._work.outcomes import Outcome


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
