"""The API reference names everything public, says what the docstrings say, and its examples run."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import mpcheckpoint
from mpcheckpoint import Checkpoint, errors, maintenance, testing
from support.checkout import DOCS, TESTS
from support.examples import examples_of
from support.scripts import script

PAGES = sorted((DOCS / "api").glob("*.md"))
write_api = script("write_api")


def marked(page: Path) -> list[str]:
    """Return the names that stand in the marks of a page."""
    return [name for example in examples_of(page.read_text(encoding="utf-8"))[1] for name in example.names]


# --- what is generated ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_what_the_docstrings_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert text == write_api.written(text), "run: python tools/write_api.py"


def test_index_leads_to_all_pages_and_names() -> None:
    assert write_api.INDEX.read_text(encoding="utf-8") == write_api.index(), "run: python tools/write_api.py"
    assert {page.name for page in PAGES} == {page.name for page in write_api.pages()}


def test_everything_public_is_on_one_page() -> None:
    told = Counter(name for page in PAGES for name in marked(page))
    public = set(write_api.entries())

    assert public - told.keys() == set(), "write <!-- api: NAME --> and an example on a page of docs/api"
    assert told.keys() - public == set()
    assert [name for name, times in told.items() if times > 1] == []


def test_entries_are_all_that_is_public_and_leave_out_only_what_exists() -> None:
    entries = write_api.entries()
    members = {
        f"{name}.{member}"
        for name, value in entries.items()
        if inspect.isclass(value)
        for member in dir(value)
    }

    assert {name for name in mpcheckpoint.__all__ if not name.startswith("_")} <= entries.keys()
    assert set(testing.__all__) | set(maintenance.__all__) <= entries.keys()
    assert {name for name, value in vars(errors).items() if name.endswith("Error")} <= entries.keys()
    assert {f"Log.{name}" for name in ("append", "claim", "get", "map", "read", "update")} <= entries.keys()
    others = {name for name in write_api.FOR_OTHER_LAYERS if "." in name}
    assert members >= others


def test_handles_and_logs_offer_what_the_pages_name_and_nothing_else(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)

    for each in (checkpoint.log("a"), checkpoint, checkpoint.snapshot()):
        offered = {name for name in dir(each) if not name.startswith("_")}
        documented = {
            name.partition(".")[2]
            for name in write_api.entries()
            if name.startswith(f"{type(each).__name__}.")
        }
        assert offered == documented | {name for name in dir(Mapping) if not name.startswith("_")}


def test_everything_public_has_a_docstring() -> None:
    def text_of(value: Any) -> str | None:
        return inspect.getdoc(value.fget if isinstance(value, property) else value)

    without = [name for name, value in write_api.entries().items() if not text_of(value)]

    assert without == []


def test_attributes_that_are_told_of_have_types_and_all_of_a_class_are_told_of() -> None:
    for name, value in write_api.entries().items():
        told = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", inspect.getdoc(value) or "", re.MULTILINE)
        if not inspect.isclass(value) or told is None:
            continue
        types = write_api.attribute_types(value)
        starts = re.findall(r"^    (\w+(?:, \w+)*): ", told[1], re.MULTILINE)
        named = {each for start in starts for each in start.split(", ")}
        assert named - types.keys() == set(), name
        fields = {each for each in getattr(value, "__annotations__", {}) if not each.startswith("_")}
        assert fields - set(re.findall(r"\w+", told[1])) == set(), name


# --- the examples --------------------------------------------------------------------------------------------


def is_call(value: object) -> bool:
    """Return whether this is something that a program calls: a function, a method, a property; or what users make."""
    if inspect.isclass(value):
        is_written = write_api._is_written(vars(value).get("__init__"))
        return is_written and write_api._is_made_by_users(value)
    return callable(value) or isinstance(value, property | classmethod | staticmethod)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_call_is_used_by_the_example_below_it(page: Path) -> None:
    entries = write_api.entries()
    _, examples = examples_of(page.read_text(encoding="utf-8"))

    without = [
        name
        for example in examples
        for name in example.names
        if is_call(entries[name]) and not re.search(rf"\b{name.rpartition('.')[2]}\b", example.code)
    ]

    assert without == []


def run(page: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "support.examples", str(page), str(directory)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    ran = run(page, tmp_path)

    assert ran.returncode == 0, ran.stderr + ran.stdout


@pytest.mark.parametrize(
    ("example", "complaint"),
    [
        ("assert x == 2", r'page.md", line 14.*AssertionError'),
        ("import warnings\nwarnings.warn('old')", "UserWarning"),
        ("raise SystemExit(3)", "SystemExit"),
        ("print(unknown)", "NameError"),
    ],
)
def test_example_that_fails_is_found_out(example: str, complaint: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    right = "<!-- api: a -->\n## a\n<!-- end -->\n```python\nassert x == 1\n```\n"
    wrong = f"<!-- api: b -->\n<!-- end -->\n```python\n{example}\n```\n"
    page.write_text(f"# Page\n```python\nx = 1\n```\n{right}{wrong}{right}", encoding="utf-8")

    ran = run(page, tmp_path)

    assert ran.returncode == 1
    assert re.search(complaint, ran.stderr, re.DOTALL), ran.stderr
    assert ran.stderr.count("Traceback") == 1


def test_examples_do_not_see_each_other_and_begin_with_the_first_block(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code = "assert names == []\nnames.append(1)\nopen('here', 'x').close()\n"
    each = f"<!-- api: a -->\n<!-- end -->\n```python\n{code}```\n"
    page.write_text(f"```python\nnames = []\n```\n{each}{each}", encoding="utf-8")

    begin, examples = examples_of(page.read_text(encoding="utf-8"))

    assert [block.code for block in begin] == ["names = []\n"]
    assert [example.blocks[0].line for example in examples] == [7, 14]
    assert run(page, tmp_path).returncode == 0


def test_test_file_of_an_example_is_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    test = "<!-- api: a -->\n<!-- end -->\n```python test_it.py\ndef test_it():\n    assert False\n```\n"
    page.write_text(test, encoding="utf-8")

    ran = run(page, tmp_path)

    assert ran.returncode == 1
    assert "1 failed" in ran.stdout
