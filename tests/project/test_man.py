"""The manual pages are those that the help makes now, and man shows them without a complaint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from tomllib import loads
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint._cli.commands import cli
from support.capabilities import has_command, require
from support.checkout import DOCS, ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted((DOCS / "man").glob("*.1"), key=lambda page: page.stem)
EVERY = sorted({"mpcheckpoint", *(f"mpcheckpoint-{name}" for name in cli.commands)})


def written(directory: Path) -> dict[str, str]:
    """Return the pages as the tool writes them, in a process of its own."""
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "write_man.py"), str(directory)],
        env=os.environ | {"MPCHECKPOINT_STORE": "of this machine"},
        check=True,
        timeout=60,
    )
    return {page.name: page.read_text(encoding="utf-8") for page in directory.glob("*.1")}


def shown(page: Path, width: int = 80) -> str:
    """Return a page as man shows it."""
    require(has_command("man"), "man is not installed")
    ended = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(page)],
        env=os.environ
        | {"MANWIDTH": str(width), "MANPAGER": "cat", "GROFF_NO_SGR": "1", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert ended.stderr == b""
    return re.sub(".\b", "", ended.stdout.decode())


def test_pages_are_what_the_help_makes(tmp_path: Path) -> None:
    made = written(tmp_path)

    for page in PAGES:
        assert made[page.name].splitlines() == page.read_text(encoding="utf-8").splitlines(), (
            "run: python tools/write_man.py"
        )
    assert sorted(made) == sorted(page.name for page in PAGES)
    assert [page.stem for page in PAGES] == EVERY
    assert "of this machine" not in "".join(made.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_shown_by_man_without_warnings(page: Path) -> None:
    text = shown(page)

    assert f"{page.stem} - " in re.sub(" +", " ", text)  # man spreads a line
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"):
        assert re.search(rf"^{heading}$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_formatted_by_groff_without_warnings(page: Path) -> None:
    require(has_command("groff"), "groff is not installed")

    ended = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-Kutf8", "-z", str(page)],
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert ended.stderr == b""


def test_page_says_what_the_help_says() -> None:
    text = " ".join(shown(DOCS / "man" / "mpcheckpoint-map.1", 500).split())

    assert "mpcheckpoint map --store run-42 --key sizes -- sh -c 'wc -c < \"$1\"' sh {}" in text
    assert "{//} its directory" in text
    assert "--timeout DURATION End a command that runs longer" in text
    assert "EXIT STATUS 0 all items are done and well, 1 some failed" in text
    results = " ".join(shown(DOCS / "man" / "mpcheckpoint-results.1", 500).split())
    assert r"as \t, \n, \r and \\, and quotes nothing" in results
    assert "jq -r 'select(.ok) | .item'" in results


def test_pages_are_installed_where_man_looks_for_them(tmp_path: Path) -> None:
    listed = [str(page.relative_to(ROOT)) for page in PAGES]
    data_files = loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]

    assert data_files == {"share/man/man1": ["docs/man/*.1"]}
    assert listed
    if os.environ.get("MPCHECKPOINT_UNDER_TOX") == "1":
        assert {page.name for page in PAGES} <= set(
            os.listdir(os.path.join(sys.prefix, "share", "man", "man1"))
        )
