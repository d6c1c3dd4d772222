"""The hybrid logical clock of a process: each stamp is above all that this process has seen.

Source: Kulkarni, Demirbas, Madappa, Avva, Leone, "Logical Physical Clocks", OPODIS 2014, with the physical and the
logical part in one integer of microseconds.
"""

from __future__ import annotations

import threading

from mpcheckpoint import _core
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import MAX_STAMP_US
from mpcheckpoint.errors import ClockError

YEAR_2200_US = 7_258_118_400_000_000


class PureHighestStamp:
    """The highest stamp that this process has given out or seen."""

    def __init__(self) -> None:
        self.highest_us = 0
        # An RLock: a signal handler that appends to another log may run inside.
        self._mutex = threading.RLock()

    def observe(self, stamp_us: int) -> None:
        """Take note of a stamp that was read from a log."""
        if stamp_us > self.highest_us:
            with self._mutex:
                self.highest_us = max(self.highest_us, stamp_us)

    def give(self, wall_us: int, after_us: int) -> int | None:
        """Return a stamp above ``after_us`` and all stamps seen, at least ``wall_us``; None if there is none left."""
        with self._mutex:
            stamp_us = max(wall_us, self.highest_us + 1, after_us + 1)
            if stamp_us > MAX_STAMP_US:
                return None
            self.highest_us = stamp_us
        return stamp_us

    def renew_mutex(self) -> None:
        """Replace the mutex, which another thread of the parent may have held, in a forked child."""
        self._mutex = threading.RLock()


# In native code both are one uninterruptible step.
HighestStamp: type[PureHighestStamp] = getattr(_core.native, "HighestStamp", PureHighestStamp)


class HybridClock:
    """Give out stamps, and take note of those that were read.

    Invariant: ``highest_us`` is at least every stamp that this process gave out or observed. So an event that is
    written after its writer saw another one sorts after that (G3).
    """

    def __init__(self) -> None:
        self.highest = HighestStamp()
        # Take note of a stamp that was read from a log. Not a method: each chunk that is read calls it.
        self.observe = self.highest.observe

    @property
    def highest_us(self) -> int:
        """The highest stamp that this process has given out or seen."""
        return self.highest.highest_us

    @highest_us.setter
    def highest_us(self, stamp_us: int) -> None:
        self.highest.highest_us = stamp_us

    def next(self, after_us: int) -> int:
        """Return a stamp above ``after_us`` and above every stamp seen.

        Raises:
            ClockError: the wall clock, or a log, is beyond what stamps can hold. Nothing was written.
        """
        wall_us = system.now_us()
        if not 0 <= wall_us < YEAR_2200_US:
            raise ClockError(
                f"the wall clock says {wall_us} us since 1970, outside the years 1970 to 2200; set it right",
                reason="wall clock out of range",
            )
        stamp_us = self.highest.give(wall_us, after_us)
        if stamp_us is None:
            raise ClockError("the stamps of this log have reached their limit", reason="stamps exhausted")
        return stamp_us

    def reset_after_fork(self) -> None:
        """Let go of what another thread of the parent may have held."""
        if isinstance(self.highest, PureHighestStamp):
            self.highest.renew_mutex()


clock = HybridClock()
