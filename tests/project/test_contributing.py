"""What CONTRIBUTING.md tells newcomers to do can be done, and the settings beside it say what pyproject.toml says."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib

from mutants.listing import listed_mutants
from support import slow_tests, stores, verbs
from support.checkout import ROOT, TESTS

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE) + re.findall(r"`(\.venv/bin/[^`]*)`", PAGE)


def test_environments_of_tox_that_are_named_exist() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    named = {
        name
        for command in COMMANDS
        for names in re.findall(r"tox -e ([\w,-]+)", command)
        for name in names.split(",")
    }

    assert [name for name in sorted(named) if f"testenv:{name}" not in tox] == []
    assert "fast" in named


def test_paths_that_are_named_exist() -> None:
    named = re.findall(r"`((?:mpcheckpoint|tests|benchmarks|docs|tools)/[\w./]*)`", PAGE)
    named += re.findall(r"\]\(([^)]+)\)", PAGE)
    named += [path for command in COMMANDS for path in re.findall(r"\b(?:tests|tools)/[\w./]+", command)]

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_folder_of_tests_has_its_line() -> None:
    lines = re.findall(r"^\| (`tests/.*?) \|", PAGE, re.MULTILINE)
    told = {folder.removeprefix("tests/") for line in lines for folder in re.findall(r"`([\w/]+)`", line)}

    assert told == {path.parent.name for path in TESTS.glob("*/test_*.py")} | {"support"}


def test_options_and_names_that_are_shown_exist() -> None:
    groups = PROJECT["dependency-groups"]

    assert "--group dev" in PAGE
    assert {"pre-commit", "pytest", "ruff", "mypy", "tox"} <= set(_names(_all_of("dev", groups)))
    assert "--measure" in PAGE
    assert hasattr(slow_tests, "pytest_addoption")
    assert hasattr(stores, "store")
    for verb in ("tear", "seen_anew", "assert_goes_on", "Faults"):
        assert verb in PAGE
        assert hasattr(verbs, verb)
    (parts,) = re.findall(r"-e mutants -- (.*?)`", PAGE)
    for part in shlex.split(parts):
        assert any(part in mutant.name for mutant in listed_mutants()), part


def test_hooks_before_a_commit_take_the_versions_of_the_project() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    known = {*PROJECT["project"]["dependencies"], *_all_of("dev", PROJECT["dependency-groups"])}
    wanted = re.findall(r'"([\w-]+[<>=~]=[\w.]+)"', hooks)

    assert set(wanted) <= known
    assert {*PROJECT["project"]["dependencies"]} <= set(wanted)


def test_licence_is_the_one_that_the_package_names() -> None:
    assert PROJECT["project"]["license"] == "MIT"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


def _all_of(group: str, groups: dict[str, list[str | dict[str, str]]]) -> list[str]:
    """Return the requirements of a dependency group, those of the groups that it includes too."""
    found: list[str] = []
    for each in groups[group]:
        found += [each] if isinstance(each, str) else _all_of(each["include-group"], groups)
    return found


def _names(requirements: list[str]) -> list[str]:
    return [re.split(r"[<>=~ ]", requirement)[0] for requirement in requirements]
