"""One file of the native core serves every Python from 3.11 on, whichever of them built it."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mpcheckpoint
from support.capabilities import native_core
from support.checkout import ROOT

NATIVE = ROOT / "native"
# Appends alone and beside another process, a view, a check, and a recovery: each passes the border to C with bytes.
USE = """
import os, sys, threading
from mpcheckpoint import Checkpoint, _core
from mpcheckpoint.maintenance import verify
assert _core.native is not None, _core.native
assert _core.native.__file__.startswith(sys.argv[2]), _core.native.__file__
log = Checkpoint(sys.argv[1]).log("a")
log.append("x", 0)
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for index in range(50):
                log.append("x", [number, index])
            code = 0
        finally:
            os._exit(code)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
threads = [threading.Thread(target=lambda: [log.append("y", 1) for _ in range(50)]) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert (len(log.events("x")), len(log.events("y"))) == (151, 200)
assert [check.state for check in verify(sys.argv[1])] == ["whole"]
held = sys.getrefcount(None)
for number in range(1000):
    log.append("z", number, record_id=str(number))
assert sys.getrefcount(None) > held - 500, "None is given out and not counted"
print("used")
"""
INCLUDE = "import sysconfig; print(sysconfig.get_path('include'))"


def other_pythons() -> dict[str, str]:
    """Return the Pythons on the PATH that this core is for and that could build it: name, path."""
    found: dict[str, str] = {}
    for directory in os.get_exec_path():
        for command in glob.glob(os.path.join(directory, "python3.[0-9][0-9]")):
            asked = subprocess.run([command, "-c", INCLUDE], capture_output=True, text=True, check=False)
            if asked.returncode == 0 and os.path.exists(os.path.join(asked.stdout.strip(), "Python.h")):
                found.setdefault(os.path.basename(command), command)
    found.pop(f"python3.{sys.version_info.minor}", None)
    return {name: command for name, command in found.items() if int(name.removeprefix("python3.")) >= 11}


def test_core_that_another_python_built_appends_and_reads_as_our_own_does(tmp_path: Path) -> None:
    native_core()
    pythons = other_pythons()
    if not pythons:
        pytest.skip("no other Python with its headers is on the PATH")
    for name, command in pythons.items():
        package = tmp_path / name / "mpcheckpoint"
        ours = Path(mpcheckpoint.__file__).parent
        shutil.copytree(ours, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        subprocess.run([command, str(NATIVE / "build.py"), "--into", str(package)], check=True)

        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                USE,
                tmp_path / f"store {name}",
                package,
            ],
            env={**os.environ, "PYTHONPATH": str(package.parent)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

        assert (done.returncode, done.stdout) == (0, "used\n"), (name, done.stderr)


@pytest.mark.parametrize("path", sorted(NATIVE.glob("*.[ch]")), ids=lambda path: path.name)
def test_no_format_has_a_length_of_its_own(path: Path) -> None:
    """``y#`` compiled by Python 3.13 is a SystemError in Python 3.12 and before, whatever PY_SSIZE_T_CLEAN says."""
    assert re.findall(r'"[^"\n]*[szyuUw]\#[^"\n]*"', path.read_text()) == []
