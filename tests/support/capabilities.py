"""What this machine can do: found out by doing it, never by the platform's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import _core
from support.tmpfs import TmpFileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


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


def native_core() -> ModuleType:
    """Return the native core; skip the running test where none was built.

    It is handed out also where it was told not to run: what it does can be asked of it all the same.
    """
    try:
        return import_module("mpcheckpoint._native")
    except ImportError as error:
        is_wanted = not sysconfig.get_config_var("Py_GIL_DISABLED")
        require(not is_wanted, f"the native core is not built, python native/build.py builds it: {error}")
        pytest.skip("a Python for which the native core is not built")


@contextmanager
def native_core_in_use() -> Iterator[ModuleType]:
    """Have the native core run in this process, also where it was told not to."""
    found = native_core()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", found)
        yield found
