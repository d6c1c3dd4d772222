"""Crash testing: for programs that must carry on from what they acknowledged, and for this library itself.

``crash_test`` kills a whole program; ``kill_workers`` kills functions in worker processes; ``LoopFileSystem`` cuts the
power of a real file system. ``SimulatedDisk`` is a disk that fails and forgets; ``explore_crashes`` and
``explore_faults`` try every call on it. ``check_records``, ``check_recovery`` and ``check_history`` judge what is left.

Needs nothing but the library itself. ``mpcheckpoint.testing.pytest_plugin`` needs pytest;
``mpcheckpoint.testing.conformance`` is for authors of other storages.
"""

from __future__ import annotations

from mpcheckpoint.testing._histories.linearizability import check_history
from mpcheckpoint.testing._histories.operation import Operation
from mpcheckpoint.testing._histories.recorder import HistoryRecorder, RecordableLog, load_history
from mpcheckpoint.testing._histories.verdict import (
    HistorySummary,
    NotLinearizableError,
    UndecidedHistoryError,
)
from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
from mpcheckpoint.testing._kills.crash_test import crash_test
from mpcheckpoint.testing._kills.points import Point, kill_at
from mpcheckpoint.testing._kills.records import RecordsError, by_writer, check_records
from mpcheckpoint.testing._kills.report import CrashTestFailure, Report
from mpcheckpoint.testing._kills.workers import KillReport, kill_workers
from mpcheckpoint.testing._power_cuts.loopback import LoopFileSystem, why_no_power_cut
from mpcheckpoint.testing._simulation.disk import SimulatedCrash, SimulatedDisk
from mpcheckpoint.testing._simulation.explore import (
    SHORT_WRITE,
    CrashPointError,
    Exploration,
    explore_crashes,
    explore_faults,
)
from mpcheckpoint.testing._simulation.images import DiskImage
from mpcheckpoint.testing._simulation.ledger import Attempt, Ledger, check_recovery
from mpcheckpoint.testing._simulation.processes import SimulatedProcess, restart

__all__ = [
    "SHORT_WRITE",
    "AcknowledgementJournal",
    "AcknowledgementWriter",
    "Attempt",
    "CrashPointError",
    "CrashTestFailure",
    "DiskImage",
    "Exploration",
    "HistoryRecorder",
    "HistorySummary",
    "KillReport",
    "Ledger",
    "LoopFileSystem",
    "NotLinearizableError",
    "Operation",
    "Point",
    "RecordableLog",
    "RecordsError",
    "Report",
    "SimulatedCrash",
    "SimulatedDisk",
    "SimulatedProcess",
    "UndecidedHistoryError",
    "by_writer",
    "check_history",
    "check_records",
    "check_recovery",
    "crash_test",
    "explore_crashes",
    "explore_faults",
    "kill_at",
    "kill_workers",
    "load_history",
    "restart",
    "why_no_power_cut",
]
