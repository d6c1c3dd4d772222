"""Loaded into the pytest that judges a mutant: proves which package is tested, and says which tests failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The directory of the package that must be the one imported, and the file that takes the names of failed tests.
PACKAGE = "MPCHECKPOINT_MUTANT_PACKAGE"
FAILED = "MPCHECKPOINT_MUTANT_FAILED"

_WHERE = "import mpcheckpoint; print(mpcheckpoint.__file__)"


def pytest_sessionstart() -> None:
    """Refuse to run if this process, or a child of it, imports another package than the one under test."""
    import mpcheckpoint

    child = subprocess.run([sys.executable, "-c", _WHERE], capture_output=True, text=True, check=False)
    for who, found in (("pytest", mpcheckpoint.__file__), ("a child of it", child.stdout.strip())):
        if Path(found).parent != Path(os.environ[PACKAGE]):
            raise pytest.UsageError(f"{who} imports {found!r} {child.stderr}, and not {os.environ[PACKAGE]}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the name of a test down if it failed."""
    if report.failed:
        how = "timeout" if "from pytest-timeout" in report.longreprtext else report.when
        with open(os.environ[FAILED], "a", encoding="utf-8") as file:
            file.write(f"{report.nodeid} ({how})\n")
