"""The native core, built with address and undefined-behaviour sanitizers, goes through its own tests without a finding.

Every object of Python has memory of its own meanwhile, so that a step beyond it is seen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import mpcheckpoint
from support.capabilities import native_core, require
from support.checkout import ROOT, TESTS

SANITIZERS = ("libasan.so", "libubsan.so")
WHAT_IT_RUNS = (
    "format/test_native_scan.py",
    "format/test_native_encode.py",
    "read/test_native_index.py",
    "append/test_native_append.py",
    "project/test_core.py",
)
# Without what the memory of sanitizers is in the way of.
ONLY = "(test_native or crc) and not memory_behind"


def sanitizers() -> str:
    """Return the run-time libraries of the compiler's sanitizers; skip the running test where there are none."""
    native_core()
    compiler = str(sysconfig.get_config_var("CC")).split()[0]
    require(shutil.which(compiler) is not None, "needs a C compiler")
    asked = [[compiler, f"-print-file-name={name}"] for name in SANITIZERS]
    found = [
        subprocess.run(each, capture_output=True, text=True, check=True).stdout.strip() for each in asked
    ]
    require(all(map(os.path.isabs, found)), "needs the sanitizers of gcc")
    return ":".join(found)


def sanitized_run(directory: Path, *arguments: str, source: Path) -> subprocess.CompletedProcess[str]:
    """Run tests on a copy of the package whose core was built with sanitizers."""
    libraries = sanitizers()
    package = directory / "mpcheckpoint"
    shutil.copytree(
        Path(mpcheckpoint.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    build = [sys.executable, str(ROOT / "native" / "build.py"), "--sanitize", "--into", str(package)]
    subprocess.run([*build, "--source", str(source)], check=True)
    # -s: a finding ends the process at once, and what pytest had captured would be lost.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qs",
        "-p",
        "no:cacheprovider",
        "-c",
        f"{ROOT}/pyproject.toml",
    ]
    variables = {
        "LD_PRELOAD": libraries,
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter never gives back what it holds at its end
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(directory), str(TESTS)]),
        "PYTHONSAFEPATH": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(directory / "hypothesis"),
        "MPCHECKPOINT_PURE": "0",
    }
    return subprocess.run(
        [*command, f"--basetemp={directory / 'tmp'}", *arguments],
        cwd=TESTS,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
def test_sanitized_core_goes_through_its_tests_without_a_finding(tmp_path: Path) -> None:
    run = sanitized_run(tmp_path, *WHAT_IT_RUNS, "-k", ONLY, source=ROOT / "native")

    assert run.returncode == 0, run.stdout + run.stderr
    assert "Sanitizer" not in run.stderr
    assert "runtime error" not in run.stderr


def test_sanitized_core_that_reads_beyond_its_bytes_is_found_out(tmp_path: Path) -> None:
    source = tmp_path / "native"
    shutil.copytree(ROOT / "native", source)
    text, check = (source / "lines.c").read_text(), " || length > size - at)"
    assert text.count(check) == 1
    (source / "lines.c").write_text(text.replace(check, " || length > size + MAX_LINE_BYTES)"))

    run = sanitized_run(tmp_path, "format/test_native_scan.py", "-k", "fuzzed", source=source)

    assert run.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in run.stderr + run.stdout
