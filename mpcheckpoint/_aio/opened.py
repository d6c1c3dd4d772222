"""An opened log, and the threads that do what its tasks wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._aio.appends import GroupedAppends
from mpcheckpoint._aio.threads import Threads
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from mpcheckpoint._aio.jobs import Job
    from mpcheckpoint.log import Log

# Of one log, for what waits for locks: others of them share their syncs.
_MOST_WRITING = 8


class Rooms(NamedTuple):
    """The threads of a handle: for reads, which never wait long, and for followers."""

    reads: Threads
    follows: Threads


class OpenedLog:
    """One log of a handle, with the threads of its own: whoever waits for its lock keeps no other log waiting."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.handle = handle_of(log)
        self.writes = Threads("writes", _MOST_WRITING, self.handle.store.settings.path)
        self.appends = GroupedAppends(self.handle)

    def close(self) -> list[Job[Any]]:
        """Take nothing more; return what no thread has taken."""
        return [*self.writes.close(), *self.appends.close()]
