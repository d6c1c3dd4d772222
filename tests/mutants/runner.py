"""One run of tests on a copy of the installed package, with or without a mutant in it.

Mutants in Python run in Python alone: the native core would do the work in their place. Those in the native core run
with it, built anew from the sources of the checkout.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mpcheckpoint
from mutants import proof
from mutants.listing import NATIVE, StaleMutantError
from support.checkout import ROOT, TESTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mutants.listing import Mutant

# A test that hangs is a failure, reported by pytest-timeout. A run that hangs outside of its tests is none.
_TEST_TIMEOUT_S = 60
_RUN_TIMEOUT_S = 900
_SEED = 0


class CoreNotBuiltError(Exception):
    """The native core does not compile, with what the compiler said."""


class Verdict(Enum):
    """What a run of tests says."""

    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"


class Run(NamedTuple):
    """A run of tests: its verdict, the tests that failed, how long it took, and what pytest printed.

    BROKEN is a run in which the tests did not get to say anything: the mutant could not be put into the source, or be
    built, or the run hung, found no test, could not import the package, or tested another one. It counts as caught by
    nothing.
    """

    verdict: Verdict
    failed: tuple[str, ...]
    duration_s: float
    output: str


def installed_source(module: str) -> str:
    """Return the source of a file of the package, as it is installed; for the native core, as it is in the checkout."""
    if module.startswith(NATIVE):
        return (ROOT / module).read_text(encoding="utf-8")
    return (Path(mpcheckpoint.__file__).parent / module).read_text(encoding="utf-8")


def run_mutant(mutant: Mutant) -> Run:
    """Run the tests that must catch a mutant, up to the first that fails."""
    return _run(mutant.caught_by, mutant, "-x", is_native=mutant.is_native)


def run_unmutated(tests: Iterable[str], *, is_native: bool = False) -> Run:
    """Run tests on a copy of the package without any mutant: that they pass is what makes a failure mean something."""
    return _run(tests, None, is_native=is_native)


def _run(tests: Iterable[str], mutant: Mutant | None, *options: str, is_native: bool) -> Run:
    with tempfile.TemporaryDirectory(prefix="mpcheckpoint-mutant-") as name:
        directory = Path(name)
        failed = directory / "failed"
        failed.touch()
        started_s = time.monotonic()
        try:
            _copy_package(directory, mutant)
            if is_native:
                _build_core(directory, mutant)
        except (StaleMutantError, CoreNotBuiltError) as error:
            return Run(Verdict.BROKEN, (), time.monotonic() - started_s, f"{error}\n")
        arguments = [*options, *(str(TESTS / test) for test in tests)]
        code, output = _pytest(directory, failed, arguments, is_native=is_native)
        duration_s = time.monotonic() - started_s
        names = tuple(failed.read_text(encoding="utf-8").splitlines())
    return Run(_verdict(code, names), names, duration_s, output)


def _verdict(code: int | None, failed: tuple[str, ...]) -> Verdict:
    if code == 0:
        return Verdict.SURVIVED
    return Verdict.CAUGHT if code == 1 and failed else Verdict.BROKEN


def _copy_package(directory: Path, mutant: Mutant | None) -> None:
    source = Path(mpcheckpoint.__file__).parent
    copy = directory / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None and not mutant.is_native:
        _put_into(copy / mutant.module, mutant)


def _put_into(path: Path, mutant: Mutant) -> None:
    path.write_text(mutant.applied_to(path.read_text(encoding="utf-8")), encoding="utf-8")


def _build_core(directory: Path, mutant: Mutant | None) -> None:
    """Build the core from its sources, with the mutant in them, beside the copy of the package's modules."""
    source = directory / NATIVE
    shutil.copytree(ROOT / NATIVE, source, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        _put_into(directory / mutant.module, mutant)
    command = [sys.executable, str(source / "build.py"), "--into", str(directory / "mpcheckpoint")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RUN_TIMEOUT_S)
    if run.returncode:
        raise CoreNotBuiltError(run.stderr)


def _pytest(
    directory: Path, failed: Path, arguments: list[str], *, is_native: bool
) -> tuple[int | None, str]:
    """Return pytest's exit code, None if it did not end, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--timeout={_TEST_TIMEOUT_S}"]
    command += ["-p", proof.__name__, "-p", "no:cacheprovider", "-p", "no:randomly"]
    command += [f"--hypothesis-seed={_SEED}", f"--basetemp={directory / 'tmp'}"]
    command += ["-c", str(TESTS.parent / "pyproject.toml")]
    output = directory / "output"
    # Into a file: a pipe would not end as long as some process that a test left behind has it open.
    with output.open("wb") as file:
        code = _exit_code(
            [*command, *arguments],
            cwd=directory,
            env=_environment(directory, failed) | {"MPCHECKPOINT_PURE": "0" if is_native else "1"},
            stdout=file,
        )
    return code, output.read_text(encoding="utf-8", errors="backslashreplace")


def _exit_code(command: list[str], **options: Any) -> int | None:
    """Return how a command ended that nothing can interrupt but us; None if it had to be killed."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True, **options
    )
    try:
        return process.wait(_RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(directory: Path, failed: Path) -> dict[str, str]:
    """Return variables under which the copy is the first package found, in pytest and in every child of it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return inherited | {
        "PYTHONPATH": os.pathsep.join([str(directory), str(TESTS)]),
        "PYTHONSAFEPATH": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(directory / "hypothesis"),
        proof.PACKAGE: str(directory / "mpcheckpoint"),
        proof.FAILED: str(failed),
    }
