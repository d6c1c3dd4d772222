"""What is installed is what was built, and what was built is what is tested."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import mpcheckpoint
from support.checkout import ROOT as CHECKOUT
from support.processes import METHODS, Children

PACKAGE = Path(mpcheckpoint.__file__).parent

under_tox = pytest.mark.skipif(
    os.environ.get("MPCHECKPOINT_UNDER_TOX") != "1",
    reason="outside tox the checkout itself may be what is tested",
)


def say_where_the_package_is(answer: Path) -> None:
    import mpcheckpoint as imported_by_child

    answer.write_text(imported_by_child.__file__)


@under_tox
def test_package_under_tox_is_the_installed_wheel() -> None:
    # Which of the two depends on whether the native core was built.
    assert any(PACKAGE.is_relative_to(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
    assert not PACKAGE.is_relative_to(CHECKOUT / "mpcheckpoint")


@pytest.mark.parametrize("method", METHODS)
def test_package_in_a_child_process_is_the_same(method: str, children: Children, tmp_path: Path) -> None:
    answer = tmp_path / "answer"

    children.start(say_where_the_package_is, answer, method=method)
    children.wait_all()

    assert answer.read_text() == mpcheckpoint.__file__


def test_package_in_a_command_run_in_the_checkout_is_the_same() -> None:
    command = [sys.executable, "-c", "import mpcheckpoint; print(mpcheckpoint.__file__)"]

    printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout

    assert printed.strip() == mpcheckpoint.__file__


def test_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@under_tox
def test_wheel_holds_every_file_of_the_checkout() -> None:
    in_checkout = {path.relative_to(CHECKOUT) for path in (CHECKOUT / "mpcheckpoint").rglob("*.py")}

    installed = {path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")}

    assert installed == in_checkout


def test_version_of_the_distribution_is_that_of_the_package() -> None:
    assert importlib.metadata.version("mpcheckpoint") == mpcheckpoint.__version__


def test_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="mpcheckpoint")

    assert command.value == "mpcheckpoint._cli:main"
    assert callable(command.load())
