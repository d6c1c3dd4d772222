"""Build the recorder, once a process, and start programs under it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

from support.capabilities import require

SOURCE = Path(__file__).with_name("recorder.c")
_FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-O2", "-U_FORTIFY_SOURCE", "-fvisibility=hidden", "-fPIC", "-shared"),
    *("-Wall", "-Wextra", "-Werror"),
)


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


@cache
def why_no_recorder() -> str:
    """Return why no program can be run under the recorder here; "" if one can."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return "it is for 64-bit Linux"
    try:
        is_glibc = os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (OSError, ValueError):
        is_glibc = False
    if not is_glibc:
        return "it is for glibc"
    if shutil.which(_compiler()[0]) is None:
        return "there is no C compiler"
    return ""


@cache
def _built() -> Path:
    # Kept for as long as this process: the children of its children load it, too.
    directory = tempfile.TemporaryDirectory(prefix="mpcheckpoint-recorder-")
    _kept.append(directory)
    built = Path(directory.name, "recorder.so")
    subprocess.run([*_compiler(), *_FLAGS, "-o", str(built), str(SOURCE), "-ldl"], check=True)
    return built


_kept: list[tempfile.TemporaryDirectory[str]] = []


def recorder() -> Path:
    """Return the built recorder; skip the running test where there can be none."""
    require(not why_no_recorder(), f"the recorder below the C library cannot be used: {why_no_recorder()}")
    return _built()


def under_recorder(*, is_pure: bool, **settings: object) -> dict[str, str]:
    """Return the environment of a program that runs under the recorder.

    Args:
        is_pure: without the native core; else with it, where it was built, whatever this process runs with.
        settings: out, below, rules, time_us, seed: what RECORDER_OUT and the others are set to.
    """
    environment = {name: value for name, value in os.environ.items() if name != "MPCHECKPOINT_PURE"}
    # After what is loaded before everything here: the sanitizers of a core that was built with them have to come first.
    loaded = [*filter(None, [os.environ.get("LD_PRELOAD")]), str(recorder())]
    environment |= {"LD_PRELOAD": ":".join(loaded), "PYTHONHASHSEED": "0"}
    if is_pure:
        environment["MPCHECKPOINT_PURE"] = "1"
    return environment | {f"RECORDER_{name.upper()}": str(value) for name, value in settings.items()}
