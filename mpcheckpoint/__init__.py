"""Record, durably, what happened to which object, from any number of processes on one machine.

from mpcheckpoint import Checkpoint

with Checkpoint("run-42") as checkpoint:
    log = checkpoint.log("photos")
    log.append("photo123", "UPLOADED")
    checkpoint["photo123"]  # ('UPLOADED',) in every process
"""

from __future__ import annotations

from mpcheckpoint._compaction.compacting import Compaction
from mpcheckpoint._compaction.retention import Retention
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._types import Cursor, Folded, Position, Record, Repair
from mpcheckpoint._view.follow import Follower
from mpcheckpoint._view.merged_read import Reading
from mpcheckpoint._view.object_index import ObjectSummary
from mpcheckpoint._view.object_mapping import Snapshot
from mpcheckpoint._view.tail import Tail
from mpcheckpoint._view.transaction import Transaction
from mpcheckpoint._work.claims import Claim
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.outcomes import Outcome
from mpcheckpoint._work.presence import MapStart
from mpcheckpoint._work.results import Results
from mpcheckpoint._work.status import MapStatus, RunningItem
from mpcheckpoint.checkpoint import Checkpoint
from mpcheckpoint.log import Log

__version__ = "0.1.0"

__all__ = [
    "Address",
    "Checkpoint",
    "Claim",
    "Compaction",
    "Cursor",
    "Folded",
    "Follower",
    "Log",
    "MapRun",
    "MapStart",
    "MapStatus",
    "ObjectSummary",
    "Outcome",
    "Position",
    "Reading",
    "Record",
    "Repair",
    "Results",
    "Retention",
    "RunningItem",
    "Snapshot",
    "Tail",
    "Transaction",
    "__version__",
]
