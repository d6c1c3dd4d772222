"""Several processes played by one: each has files, locks, a clock and a knowledge of the logs of its own.

The kernel keeps locks of different open files apart, also within one process. So players exclude each other as
processes do, and a killed one loses its locks as a process does: its files are closed.
"""

from __future__ import annotations

from typing import Any, Self

from mpcheckpoint._logfile.clock import HybridClock, clock
from mpcheckpoint._logfile.descriptors import DescriptorPool, pool
from mpcheckpoint._logfile.places import Places, places
from mpcheckpoint._store.interval import IntervalSyncer
from mpcheckpoint._store.process import Process, process
from mpcheckpoint._system.locks import StoreLocks, store_locks

# The objects of which a process has one each, and what it begins with.
_OF_A_PROCESS: tuple[tuple[object, type], ...] = (
    (process, Process),
    (pool, DescriptorPool),
    (clock, HybridClock),
    (places, Places),
    (store_locks, StoreLocks),
)


class SimulatedProcess:
    """Inside the ``with`` block this process plays another one, which knows nothing at first.

    Handles belong to the player that made them: use them only while that one plays. A player may play inside the turn
    of another. For one thread; not for maps and the "interval" setting, which have threads or processes of their own.
    """

    def __init__(self) -> None:
        self._states = _fresh_states()
        self._earlier: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        if self._earlier:
            raise RuntimeError("this player plays already")
        self._earlier = [dict(vars(shared)) for shared, _ in _OF_A_PROCESS]
        _set_states(self._states)
        return self

    def __exit__(self, *_: object) -> None:
        self._states = [dict(vars(shared)) for shared, _ in _OF_A_PROCESS]
        _set_states(self._earlier)
        self._earlier = []

    def kill(self) -> None:
        """Let it die as by SIGKILL: its files are closed, which frees its locks; what it wrote stays.

        It can then play again, as a new process.
        """
        if self._earlier:
            raise RuntimeError("a player is killed when its turn is over, not during it")
        with self:
            restart()
        self._states = _fresh_states()


def restart() -> None:
    """Let this process close its files of stores and forget what it knows of them, as if it had just been started.

    Existing handles go on as after a fork. Requires: no other thread uses a store.
    """
    # Unlike in a forked child, a background thread lives on here: it keeps the syncer that it belongs to.
    process.interval = IntervalSyncer()
    process.after_fork_in_child()
    vars(clock).update(vars(HybridClock()))
    vars(places).update(vars(Places()))


def _fresh_states() -> list[dict[str, Any]]:
    return [dict(vars(kind())) for _, kind in _OF_A_PROCESS]


def _set_states(states: list[dict[str, Any]]) -> None:
    for (shared, _), state in zip(_OF_A_PROCESS, states, strict=True):
        vars(shared).clear()
        vars(shared).update(state)
