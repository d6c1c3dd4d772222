"""What this machine can do: found out by doing it, never by the platform's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from support.tmpfs import TmpFileSystem


def require(is_available: bool, reason: str) -> None:
    """Skip the running test for ``reason`` unless ``is_available``; fail it if MPCHECKPOINT_REQUIRE_ALL=1."""
    if is_available:
        return
    if os.environ.get("MPCHECKPOINT_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (MPCHECKPOINT_REQUIRE_ALL=1 turns this skip into a failure)", pytrace=False)
    pytest.skip(reason)


def is_root() -> bool:
    """Return whether this process may mount, and may become another user."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def has_command(name: str) -> bool:
    """Return whether the shell would find ``name``."""
    return shutil.which(name) is not None


def has_jq() -> bool:
    """Return whether jq is installed."""
    return has_command("jq")


@cache
def can_trace() -> bool:
    """Return whether strace is installed, and may trace a process here."""
    return (
        has_command("strace")
        and subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode == 0
    )


@cache
def can_mount_tmpfs() -> bool:
    """Return whether a small RAM disk can be mounted. Needs root."""
    if not is_root():
        return False
    with tempfile.TemporaryDirectory() as directory:
        try:
            with TmpFileSystem(Path(directory), size_bytes=1 << 20):
                return True
        except OSError:
            return False
