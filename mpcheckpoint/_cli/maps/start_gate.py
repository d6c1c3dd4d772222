"""What commands wait at before they start: ``--delay`` between two of them, and ``--load`` of the machine."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import TYPE_CHECKING

from mpcheckpoint._work.flag import Flag
from mpcheckpoint._work.pool import default_jobs

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S = 0.25
# A wait for the load is told of once it has lasted so long.
_TELL_AFTER_S = 1.0
_LOADAVG = "/proc/loadavg"
_RUNNABLE = re.compile(r"\S+ \S+ \S+ (\d+)/")
_LOAD = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(%?)")


def load_limit(text: str) -> float:
    """Return the load that "8", "7.5" and "90%", of the processors that there are, mean.

    Raises:
        ValueError: nothing.
    """
    found = _LOAD.fullmatch(text)
    limit = 0.0 if found is None else float(found[1]) * (default_jobs() / 100 if found[2] else 1)
    if limit <= 0:
        raise ValueError(
            f"a load is a number above 0, as 8, or a share of the processors, as 90%, not {text!r}"
        )
    return limit


def current_load() -> float:
    """Return how many processes run, or could if there were more processors.

    Where the system does not tell, the average over a minute: that lags behind, and lets too many start.
    """
    try:
        with open(_LOADAVG, encoding="ascii") as file:
            found = _RUNNABLE.match(file.read())
    except OSError:
        found = None
    return os.getloadavg()[0] if found is None else max(0, int(found[1]) - 1)  # without the thread that asks


class StartGate:
    """Lets commands through one after the other, in the threads that run them.

    A command waits here before its item is claimed. So the wait counts for no duration, and other starts of the map may
    take the item meanwhile.

    Locking: ``_turn`` is held by the thread whose turn it is, while it waits. It ends as soon as the gate is opened.
    """

    def __init__(
        self,
        delay_s: float,
        most_load: float | None,
        notify: Callable[[str], None],
        load: Callable[[], float] = current_load,
    ) -> None:
        self._delay_s = delay_s
        self._most_load = most_load
        self._notify = notify
        self._load = load
        self._turn = threading.Lock()
        self._is_open = Flag()
        self._next_s = 0.0
        self._has_told = False

    def wait(self) -> None:
        """Return when the next command may start."""
        if not self._delay_s and self._most_load is None:
            return
        with self._turn:
            self._is_open.wait(max(0.0, self._next_s - time.monotonic()))
            if self._most_load is not None:
                self._await_load(self._most_load)
            self._next_s = time.monotonic() + self._delay_s

    def open(self) -> None:
        """Let everything through from now on: the map ends."""
        self._is_open.set()

    def _await_load(self, most: float) -> None:
        began_s = time.monotonic()
        while not self._is_open.is_set and (load := self._load()) >= most:
            if not self._has_told and time.monotonic() - began_s >= _TELL_AFTER_S:
                self._has_told = True
                self._notify(f"the load is {load:g}, and --load starts commands below {most:g}: waiting")
            self._is_open.wait(_LOOK_S)
