"""Crash testing: for this library, for storages behind it, and for programs that stand on it.

Needs nothing but the library itself; ``mpcheckpoint.testing.pytest_plugin`` needs pytest.
"""

from __future__ import annotations

from mpcheckpoint.testing._disk import SimulatedCrash, SimulatedDisk
from mpcheckpoint.testing._explore import (
    SHORT_WRITE,
    CrashPointError,
    Exploration,
    explore_crashes,
    explore_faults,
)
from mpcheckpoint.testing._images import DiskImage
from mpcheckpoint.testing._ledger import Attempt, Ledger, check_recovery
from mpcheckpoint.testing._processes import SimulatedProcess, restart

__all__ = [
    "SHORT_WRITE",
    "Attempt",
    "CrashPointError",
    "DiskImage",
    "Exploration",
    "Ledger",
    "SimulatedCrash",
    "SimulatedDisk",
    "SimulatedProcess",
    "check_recovery",
    "explore_crashes",
    "explore_faults",
    "restart",
]
