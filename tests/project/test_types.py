"""What type checkers say of programs that use the library: right uses pass, and each wrong one is told of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import mpcheckpoint

USES = Path(__file__).parent / "uses"
RIGHT, WRONG = USES / "right_uses.py", USES / "wrong_uses.py"
# Where the package is imported from. In a checkout type checkers have to be told, since they do not follow the hooks of
# an editable installation.
PACKAGES = Path(mpcheckpoint.__file__).parent.parent
IS_INSTALLED = PACKAGES in {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}

Found = dict[str, dict[int, set[str]]]


def expected_of(place: int, file: Path = WRONG) -> dict[int, set[str]]:
    """Return the errors that a file expects: by line, of the first or the second of the type checkers."""
    lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    found = ((number, re.search(r"# E: (.+?) \| (.+)$", line)) for number, line in lines)
    return {number: set(match[1 + place].split()) for number, match in found if match is not None}


def run(command: list[str], directory: Path, **environment: str) -> str:
    """Return what a type checker prints: beside no file of ours, and with no settings of ours."""
    ran = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr + ran.stdout
    assert ran.stdout, ran.stderr
    return ran.stdout


def by_mypy(directory: Path) -> Found:
    """Return what mypy --strict says of both files: by file and line, the codes of its errors."""
    files = [str(RIGHT), str(WRONG)]
    options = ["--strict", "--config-file=", "--cache-dir", str(directory / "cache"), "--output", "json"]
    told = {} if IS_INSTALLED else {"MYPYPATH": str(PACKAGES)}
    found: Found = defaultdict(lambda: defaultdict(set))
    for line in run([sys.executable, "-m", "mypy", *options, *files], directory, **told).splitlines():
        error = json.loads(line)
        if error["severity"] == "error":
            found[Path(error["file"]).name][error["line"]].add(error["code"])
    return found


def by_pyright(directory: Path) -> Found:
    """Return what pyright says of both files, in its strict mode."""
    settings = {
        "include": [str(RIGHT), str(WRONG)],
        "typeCheckingMode": "strict",
        # A wrong use is an expression of which nothing is made.
        "reportUnusedExpression": False,
        "reportUnusedCoroutine": False,
        "extraPaths": [] if IS_INSTALLED else [str(PACKAGES)],
    }
    project = directory / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    options = ["--pythonpath", sys.executable, "--outputjson", "--project", str(project)]
    report: Any = json.loads(run([sys.executable, "-m", "basedpyright", *options], directory))
    assert report["summary"]["filesAnalyzed"] == 2
    found: Found = defaultdict(lambda: defaultdict(set))
    for error in report["generalDiagnostics"]:
        if error["severity"] != "information":
            line = error["range"]["start"]["line"] + 1
            found[Path(error["file"]).name][line].add(error.get("rule", error["message"]))
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("checker", "place"), [(by_mypy, 0), (by_pyright, 1)], ids=["mypy", "pyright"])
def test_right_uses_pass_and_each_wrong_use_is_told_of(checker: Any, place: int, tmp_path: Path) -> None:
    found = checker(tmp_path)

    assert found[RIGHT.name] == {}
    assert found[WRONG.name] == expected_of(place)


def test_right_uses_run_and_do_what_they_say(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-W", "error", RIGHT, tmp_path / "store"], cwd=tmp_path, check=True, timeout=60
    )


def test_each_line_of_the_wrong_uses_that_does_something_is_one() -> None:
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    does_nothing = re.compile(r'def |with |for |from |return |""|``|$')
    plain = [line for line in lines if "# E: " not in line and not does_nothing.match(line.strip())]

    assert plain == []
    assert len(expected_of(0)) == len(expected_of(1)) > 60
