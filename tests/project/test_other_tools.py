"""The snippets of docs/howto/read-logs-with-other-tools.md that need tools which not everybody has, where they are."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.capabilities import has_command, has_jq
from support.checkout import DOCS

PAGE = DOCS / "howto" / "read-logs-with-other-tools.md"
SNIPPET = re.compile(
    r"^```(?P<language>sh|python)(?P<name> \S+)?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def snippets() -> list[re.Match[str]]:
    return list(SNIPPET.finditer(PAGE.read_text(encoding="utf-8")))


def run(snippet: re.Match[str], directory: Path) -> str:
    """Run a snippet, or save it under its name; return what it printed."""
    if snippet["name"]:
        (directory / snippet["name"].strip()).write_text(snippet["code"])
        return ""
    argv = [sys.executable, "-"] if snippet["language"] == "python" else ["bash", "-euo", "pipefail"]
    ended = subprocess.run(
        argv,
        input=snippet["code"],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(directory), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def is_available(snippet: re.Match[str]) -> bool:
    code = snippet["code"]
    if "sqlite3 :memory:" in code:
        return has_command("sqlite3") and sqlite3.sqlite_version_info >= (3, 38)
    return all(find_spec(name) is not None for name in ("duckdb", "pandas") if f"import {name}" in code)


def test_snippets_for_other_tools_read_a_log_that_is_being_written(tmp_path: Path) -> None:
    printed = {snippet["code"]: run(snippet, tmp_path) for snippet in snippets() if is_available(snippet)}

    assert len(printed) >= 5
    for code, text in printed.items():
        if "sqlite3 :memory:" in code:
            first, _, last = text.splitlines()
            assert re.fullmatch(r'photo123\|"UPLOADED"\|20\d\d-\d\d-\d\d \d\d:\d\d:\d\d', first)
            assert last.startswith('photo123|{"album":"summer"}|20')


@pytest.mark.skipif(not has_jq(), reason="jq is not installed")
@pytest.mark.parametrize("cut", range(1, 90, 8))
def test_snippet_for_jq_leaves_out_a_line_however_much_of_it_is_written(cut: int, tmp_path: Path) -> None:
    program = re.findall(r"^\$ jq -Rc '(.*)' run-42", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[0]
    whole = b'["0000004f",1795447616813638,0,0,"photo8",{"tags":["a","b"],"n":[1]},null,"00000000"]\n'
    log = tmp_path / "log.jsonl"
    log.write_bytes(whole + whole[: min(cut, len(whole) - 2)] + b"\n" * 50)

    ended = subprocess.run(["jq", "-Rc", program, log], capture_output=True, check=True, timeout=60)

    assert ended.stdout == b'["photo8",{"tags":["a","b"],"n":[1]}]\n'
