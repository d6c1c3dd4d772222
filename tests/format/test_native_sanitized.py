"""The native core, built with address and undefined-behaviour sanitizers, goes through its own tests without a finding.

Every object of Python has memory of its own meanwhile, so that a step beyond it is seen. So it is in the situations and
faults of appends that are recorded below the C library: the recorder is then loaded after the sanitizers.
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
from support.recorder.library import recorder

SANITIZERS = ("libasan.so", "libubsan.so")
WHAT_IT_RUNS = (
    "format/test_native_scan.py",
    "format/test_native_count.py",
    "format/test_native_block.py",
    "format/test_native_recode.py",
    "format/test_native_bodies.py",
    "compaction/test_native_tally.py",
    "format/test_native_encode.py",
    "read/test_native_index.py",
    "append/test_native_append.py",
    "append/test_native_threads.py",
    "process/test_native_lock.py",
    "project/test_core.py",
)
RECORDED = "append/test_recorded_calls.py"
# Each takes a minute or less; one runs wherever tests run that are slow, all of them where everything is tried.
SHARES = 8
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


def sanitized_package(directory: Path, source: Path, flags: str = "") -> Path:
    """Return a directory with a copy of the package whose core was built with sanitizers, and with further flags."""
    package = directory / "mpcheckpoint"
    shutil.copytree(
        Path(mpcheckpoint.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    build = [sys.executable, str(ROOT / "native" / "build.py"), "--sanitize", "--into", str(package)]
    compiler = f"{os.environ.get('CC') or sysconfig.get_config_var('CC') or 'cc'} {flags}"
    subprocess.run([*build, "--source", str(source)], check=True, env={**os.environ, "CC": compiler})
    return directory


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is, with its core built with sanitizers."""
    sanitizers()
    return sanitized_package(tmp_path_factory.mktemp("sanitized"), ROOT / "native")


def sanitized_run(directory: Path, *arguments: str, package: Path) -> subprocess.CompletedProcess[str]:
    """Run tests on that copy of the package, with their files in ``directory``."""
    libraries = sanitizers()
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
        "PYTHONPATH": os.pathsep.join([str(package), str(TESTS)]),
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
def test_sanitized_core_goes_through_its_tests_without_a_finding(tmp_path: Path, own: Path) -> None:
    require_no_finding(sanitized_run(tmp_path, *WHAT_IT_RUNS, "-k", ONLY, package=own))


@pytest.mark.timeout(600)
def test_sanitized_core_for_a_processor_without_vectors_finds_the_same(tmp_path: Path) -> None:
    sanitizers()
    package = sanitized_package(tmp_path / "package", ROOT / "native", flags="-U__SSE2__")
    tests = "format/test_native_scan.py", "project/test_core.py"
    require_no_finding(sanitized_run(tmp_path, *tests, "-k", ONLY, package=package))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "share",
    [
        pytest.param(share, marks=pytest.mark.exhaustive if share > 1 else ())
        for share in range(1, SHARES + 1)
    ],
)
def test_sanitized_core_appends_in_recorded_situations_and_faults_without_a_finding(
    tmp_path: Path, own: Path, share: int
) -> None:
    recorder()
    require_no_finding(sanitized_run(tmp_path, RECORDED, "--share", f"{share}/{SHARES}", package=own))


def require_no_finding(run: subprocess.CompletedProcess[str]) -> None:
    """Require of a run that its tests passed, some of them, and that no process of it had a finding."""
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Sanitizer" not in run.stderr
    assert "runtime error" not in run.stderr


def test_sanitized_core_that_reads_beyond_its_bytes_is_found_out(tmp_path: Path) -> None:
    package = mistaken(tmp_path, "lines.c", " || length > size - at)", " || length > size + MAX_LINE_BYTES)")

    run = sanitized_run(tmp_path, "format/test_native_scan.py", "-k", "fuzzed", package=package)

    assert run.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in run.stderr + run.stdout


def test_sanitized_core_that_writes_beyond_its_bytes_in_a_recorded_append_is_found_out(
    tmp_path: Path,
) -> None:
    recorder()
    package = mistaken(tmp_path, "encode.c", "realloc(text->bytes, room);", "realloc(text->bytes, room / 8);")

    run = sanitized_run(tmp_path, RECORDED, "-k", "usual_append", "-x", package=package)

    assert run.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in run.stderr + run.stdout


def mistaken(directory: Path, file: str, right: str, wrong: str) -> Path:
    """Return a copy of the package whose core was built from sources with a mistake in one of them."""
    sanitizers()
    source = directory / "native"
    shutil.copytree(ROOT / "native", source)
    text = (source / file).read_text()
    assert text.count(right) == 1
    (source / file).write_text(text.replace(right, wrong))
    return sanitized_package(directory / "package", source)
