"""Completion in the shells themselves: what is typed, a tab, and the line that stands there then."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from support.capabilities import has_command, require

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 60.0
REMEMBERED = {"MPCHECKPOINT_STORE", "MPCHECKPOINT_KEY"}
# How each shell is started without settings of this machine's, and what it is told first: what the documents say.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        'eval "$(_MPCHECKPOINT_COMPLETE=bash_source mpcheckpoint)"',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -D -u; eval "$(_MPCHECKPOINT_COMPLETE=zsh_source mpcheckpoint)"',
    ),
}
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07]*\x07")
_START_OF_LINE = b"\x01"  # Ctrl-A


class InteractiveShell:
    """A shell on a terminal of its own. Use it in a ``with`` statement."""

    def __init__(self, name: str, directory: Path) -> None:
        argv, first = SHELLS[name]
        self._ours, theirs = pty.openpty()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            argv,
            cwd=directory,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name not in REMEMBERED}
            | {"PATH": path, "TERM": "xterm", "HOME": str(directory), "LC_ALL": "C.UTF-8", "COLUMNS": "200"},
        )
        os.close(theirs)
        self._seen = ""
        try:
            self.run(first)
        except BaseException:
            self.__exit__()
            raise

    def run(self, line: str) -> None:
        """Have the shell run a line, and wait until it has."""
        self._type(f"{line}; echo re''ady\r".encode())
        self._wait("^ready$")

    def completed(self, typed: str) -> str:
        """Return the line that stands there once a tab was typed after something."""
        self._type(f"{typed}\t".encode() + _START_OF_LINE + b"echo 'line: '\r")
        # What is left of the cursor goes before the line: echo prints the rest as its arguments.
        return self._wait("^line: +(.*)$").strip()

    def _type(self, data: bytes) -> None:
        self._seen = ""
        os.write(self._ours, data)

    def _wait(self, pattern: str) -> str:
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            found = re.search(pattern, _ESCAPES.sub("", self._seen).replace("\r", "\n"), re.MULTILINE)
            if found is not None:
                return found[found.lastindex or 0]
            if select.select([self._ours], [], [], 0.2)[0]:
                self._seen += os.read(self._ours, 65536).decode(errors="replace")
        raise AssertionError(f"{pattern!r} did not come; seen: {self._seen!r}")

    def __enter__(self) -> InteractiveShell:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InteractiveShell]:
    """A shell in a directory with a store of some logs."""
    name: str = request.param
    require(has_command(name), f"{name} is not installed")
    with Checkpoint(tmp_path / "store") as checkpoint:
        for log_key in ("photos", "people", "two words", "semi;>ran", "other"):
            checkpoint.log(log_key).append("x", 1)
    with InteractiveShell(name, tmp_path) as shell:
        yield shell


def test_commands_options_and_their_values_are_completed(shell: InteractiveShell) -> None:
    assert shell.completed("mpcheckpoint resu") == "mpcheckpoint results"
    assert shell.completed("mpcheckpoint results --slo") == "mpcheckpoint results --slowest"
    assert shell.completed("mpcheckpoint results --format par") == "mpcheckpoint results --format parquet"


def test_keys_of_the_store_are_completed(shell: InteractiveShell) -> None:
    assert shell.completed("mpcheckpoint results --store store --key ph") == (
        "mpcheckpoint results --store store --key photos"
    )
    assert shell.completed("mpcheckpoint tail --key ph") == "mpcheckpoint tail --key ph"  # of which store?
    assert shell.completed("mpcheckpoint tail --store store --key oth") == (
        "mpcheckpoint tail --store store --key other"
    )


def test_keys_of_a_remembered_store_are_completed(shell: InteractiveShell, tmp_path: Path) -> None:
    (tmp_path / "mpcheckpoint.toml").write_text('store = "store"\n')
    assert shell.completed("mpcheckpoint results --key pe") == "mpcheckpoint results --key people"

    (tmp_path / "mpcheckpoint.toml").write_text("broken")
    assert shell.completed("mpcheckpoint results --key pe") == "mpcheckpoint results --key pe"

    shell.run("export MPCHECKPOINT_STORE=store")
    assert shell.completed("mpcheckpoint results --key pe") == "mpcheckpoint results --key people"


def test_key_with_characters_of_the_shell_never_becomes_a_command(
    shell: InteractiveShell, tmp_path: Path
) -> None:
    for typed, log_key in [("semi", "semi;>ran"), ("two", "two words")]:
        line = shell.completed(f"mpcheckpoint results --store store --key {typed}")

        # bash leaves it as it is; zsh quotes it, and echo prints it without the quotes.
        assert line.partition("--key ")[2] in (typed, log_key)
    shell.run("true")
    assert not (tmp_path / "ran").exists()
