"""Which core runs, and that the package can be built and used with the native one and without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from zlib import crc32

import pytest

from mpcheckpoint import Checkpoint, _core
from mpcheckpoint._format.frame import closing
from support.capabilities import native_core
from support.checkout import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Log

# What pip needs of a shell's tools, and no compiler among it.
NO_COMPILER = ("env", "ls", "mkdir", "rm", "sh")
IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
SAYS_SO = "built without its native core, as pure Python"

with_compiler = pytest.mark.skipif(
    IS_FREE_THREADED or not shutil.which(str(sysconfig.get_config_var("CC")).split()[0]),
    reason="no compiler here, or a Python for which the core is not built",
)


# --- which one runs --------------------------------------------------------------------------------------------


def core_of_a_process(**variables: str) -> str:
    """Return how a fresh process describes its core."""
    code = "from mpcheckpoint import _core; print(_core.kind, _core.description())"
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_core_is_the_same_in_all_that_tell_of_it(log: Log, store: Path) -> None:
    log.append("x", 1)
    said = subprocess.run(
        [sys.executable, "-m", "mpcheckpoint", "doctor", str(store)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout

    assert log.stats()["core"] == _core.kind
    assert _core.kind == ("native" if _core.native is not None else "pure")
    assert f"ok    core         {_core.description()}\n" in said


@pytest.mark.parametrize("value", ["1", "yes"])
def test_variable_turns_the_native_core_off(value: str) -> None:
    assert core_of_a_process(MPCHECKPOINT_PURE=value) == "pure pure Python: MPCHECKPOINT_PURE is set"


@pytest.mark.parametrize("value", ["", "0"])
def test_variable_that_says_no_turns_nothing_off(value: str) -> None:
    assert "MPCHECKPOINT_PURE" not in core_of_a_process(MPCHECKPOINT_PURE=value)


def test_core_of_another_version_is_not_used_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import mpcheckpoint

    other = SimpleNamespace(VERSION=_core._VERSION + 1, __file__=f"{Path(_core.__file__).parent}/_native.so")
    monkeypatch.delenv("MPCHECKPOINT_PURE", raising=False)
    monkeypatch.setitem(sys.modules, "mpcheckpoint._native", other)
    monkeypatch.setattr(mpcheckpoint, "_native", other, raising=False)

    found, why = _core._usable()

    assert found is None
    assert "install it again" in why


def test_core_that_lies_beside_another_copy_of_the_package_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mpcheckpoint

    other = SimpleNamespace(VERSION=_core._VERSION, __file__="/elsewhere/mpcheckpoint/_native.so")
    monkeypatch.delenv("MPCHECKPOINT_PURE", raising=False)
    monkeypatch.setitem(sys.modules, "mpcheckpoint._native", other)
    monkeypatch.setattr(mpcheckpoint, "_native", other, raising=False)

    assert _core._usable()[0] is None


def test_core_under_tox_is_native_unless_it_is_turned_off() -> None:
    """Else all tests would quietly be of Python alone."""
    if os.environ.get("MPCHECKPOINT_UNDER_TOX") == "1" and not IS_FREE_THREADED:
        expected = "pure" if os.environ.get("MPCHECKPOINT_PURE", "0") not in {"", "0"} else "native"
        assert _core.kind == expected, _core.description()


# --- the module ------------------------------------------------------------------------------------------------


def test_crc_is_that_of_zlib_at_every_size_place_and_beginning() -> None:
    native = native_core()
    data = bytes(index * 37 & 0xFF for index in range(300))
    for start in range(9):
        for stop in range(start, len(data)):
            piece = memoryview(data)[start:stop]
            assert native.crc32(piece, 0x89ABCDEF) == crc32(piece, 0x89ABCDEF)
    assert native.crc32(closing(5)) == crc32(closing(5))


@pytest.mark.parametrize("arguments", [(), ("text",), (5,), (b"", "5"), (b"", 1, 2)])
def test_crc_of_what_is_no_bytes_raises_a_type_error(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        native_core().crc32(*arguments)


def test_module_in_a_second_interpreter_works_or_is_refused() -> None:
    """It keeps nothing that interpreters could share, so one that shares its lock may load it, too."""
    file = native_core().__file__
    code = f"""
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
failure = interpreters.run_string(interpreters.create(), '''
import importlib.util
spec = importlib.util.spec_from_file_location("mpcheckpoint._native", {file!r})
try:
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
except ImportError:
    pass
else:
    assert module.crc32(b"x") == {crc32(b"x")}
    objects = dict()
    module.index(objects, ["a", "a"], 0)
    assert list(objects["a"]) == [0, 1]
''')
assert failure is None, failure
import mpcheckpoint._native as native
assert native.crc32(b"x") == {crc32(b"x")}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- how it is built -------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a build takes: building in the checkout itself would leave files there."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", ".*cache", ".tox", ".git", ".venv*")
    for name in ("mpcheckpoint", "native", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for path in ROOT.glob("*"):
        if path.is_file():
            shutil.copy(path, copy / path.name)
    return copy


@pytest.fixture
def install(checkout: Path, tmp_path: Path) -> Callable[..., tuple[Path, str]]:
    """Return what installs the copy, and returns where, and what was said."""

    def install(*options: str, **variables: str) -> tuple[Path, str]:
        target = tmp_path / "installed"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-v",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
        ]
        run = subprocess.run(
            [*command, "--target", str(target), *options, str(checkout)],
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]} | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return target, run.stdout + run.stderr

    return install


def version_said_by(installed: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "mpcheckpoint", "--version"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


@with_compiler
def test_installation_with_a_compiler_is_native(install: Callable[..., tuple[Path, str]]) -> None:
    installed, said = install()

    assert "(native core)" in version_said_by(installed)
    assert SAYS_SO not in said
    (wheel,) = installed.glob("mpcheckpoint-*.dist-info/WHEEL")
    assert "Root-Is-Purelib: false" in wheel.read_text()
    assert "Tag: cp311-abi3-" in wheel.read_text()


def without_compiler_on_path(directory: Path) -> dict[str, str]:
    """Return a PATH on which there are tools, and no compiler."""
    directory.mkdir()
    for tool in NO_COMPILER:
        (directory / tool).symlink_to(str(shutil.which(tool)))
    assert not shutil.which("cc", path=str(directory))
    return {"PATH": str(directory)}


@pytest.mark.parametrize("missing", ["on PATH", "that CC names", "that works"])
def test_installation_without_a_compiler_is_pure_and_says_so_in_a_line(
    missing: str, install: Callable[..., tuple[Path, str]], tmp_path: Path
) -> None:
    variables = {
        "on PATH": without_compiler_on_path(tmp_path / "bin"),
        "that CC names": {"CC": str(tmp_path / "nowhere" / "cc")},
        "that works": {"CC": "false"},
    }[missing]

    installed, said = install(**variables)

    assert len([line for line in said.splitlines() if SAYS_SO in line]) == 1
    assert "pure Python: there was no C compiler" in version_said_by(installed)
    assert not list(installed.rglob("*.so"))
    (wheel,) = installed.glob("mpcheckpoint-*.dist-info/WHEEL")
    assert "Tag: py3-none-any" in wheel.read_text()


def test_source_distribution_holds_what_builds_tests_and_documents_it(checkout: Path, tmp_path: Path) -> None:
    for name in ("tests", "tools", "benchmarks", ".ci"):
        (checkout / name).mkdir()
        shutil.copy(next(path for path in (ROOT / name).iterdir() if path.is_file()), checkout / name)
    (checkout / "mpcheckpoint" / "_native.abi3.so").touch()
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, check=True)

    (archive,) = tmp_path.glob("mpcheckpoint-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    expected = {
        str(path.relative_to(checkout))
        for path in checkout.rglob("*")
        if path.is_file() and path.suffix not in {".so", ".pyc"} and "egg-info" not in str(path)
    }
    assert not {name for name in expected - names if not name.startswith(".git")}
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_store_written_by_one_core_is_read_by_the_other(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        checkpoint.log("a").append_many([(f"x{number}", {"n": number}) for number in range(500)])
    code = f"""
from mpcheckpoint import Checkpoint, _core
checkpoint = Checkpoint({str(store)!r}, read_only=True)
print(_core.kind, len(checkpoint), checkpoint["x499"])
"""
    other = os.environ | {"MPCHECKPOINT_PURE": "0" if _core.kind == "pure" else "1"}

    run = subprocess.run([sys.executable, "-c", code], env=other, capture_output=True, text=True, check=True)

    assert run.stdout.split(maxsplit=1)[1] == "500 ({'n': 499},)\n"
