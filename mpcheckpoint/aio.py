"""The same store for tasks of an event loop: nothing blocks the loop, and what many tasks append shares its syncs."""

from __future__ import annotations

from mpcheckpoint._aio.checkpoint import AsyncCheckpoint
from mpcheckpoint._aio.claim import AsyncClaim
from mpcheckpoint._aio.jobs import UnderWay, under_way
from mpcheckpoint._aio.log import AsyncLog
from mpcheckpoint._aio.map import AsyncMapRun
from mpcheckpoint._aio.records import AsyncFollower, AsyncTail
from mpcheckpoint._aio.transaction import AsyncTransaction

__all__ = [
    "AsyncCheckpoint",
    "AsyncClaim",
    "AsyncFollower",
    "AsyncLog",
    "AsyncMapRun",
    "AsyncTail",
    "AsyncTransaction",
    "UnderWay",
    "under_way",
]
