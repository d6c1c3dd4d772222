"""``mpcheckpoint results --watch``: how a map goes on, seen from elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import click

from mpcheckpoint._cli.results_text import json_row
from mpcheckpoint._cli.terminal import flush_out, safe, write_out
from mpcheckpoint._work.outcomes import outcome_in
from mpcheckpoint._work.presence import map_starts
from mpcheckpoint._work.runs import current_run
from mpcheckpoint._work.status import MapStatus, running_items

if TYPE_CHECKING:
    from mpcheckpoint import Log, MapStart, Outcome, Record, RunningItem

_LOOK_EVERY_S = 0.5
_RATE_OVER_S = 30.0
_LINE_EVERY_S = 10.0
_MOST_FAILURES = 5


class Progress:
    """What is known of a map by following its log.

    Takes about a hundred bytes an item, since an item may be recorded again and is to be counted once.
    """

    def __init__(self, run: int) -> None:
        self.run = run
        self.is_ok: dict[str, bool] = {}
        self.failed = 0
        self.retries = 0
        self.failures: deque[Outcome] = deque(maxlen=_MOST_FAILURES)
        self.running: tuple[RunningItem, ...] = ()
        self.starts: tuple[MapStart, ...] = ()
        self._recent_s: deque[tuple[float, int]] = deque()

    @property
    def done(self) -> int:
        """How many items are done."""
        return len(self.is_ok)

    @property
    def items(self) -> int | None:
        """How many there are, if the map knows."""
        return max((start.items for start in self.starts if start.items is not None), default=None)
