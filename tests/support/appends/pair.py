"""Two servers, one with the native core and one without it, and what the same situation comes to in both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from support.appends.program import FIRST, OUTCOMES, RECORD, STORE
from support.appends.server import COMPLAINT, MARK
from support.appends.situations import CATALOGUE
from support.processes import Children
from support.recorder.library import under_recorder
from support.recorder.records import (
    Call,
    comparable,
    differences,
    is_handed_over,
    read_record,
    tree_of,
    without_polls,
)

if TYPE_CHECKING:
    from pathlib import Path

_KILLED = -9


class Run(NamedTuple):
    """What one run of a situation came to.

    Attributes:
        status: the exit code of its process, minus the signal that ended it.
        calls: as they were recorded.
        first_calls: those of them that the first append made.
        outcomes: of the calls of the library, as JSON lines.
        files: everything below the store, comparable.
        directory: where all of this stands.
    """

    status: int
    calls: list[Call]
    first_calls: list[Call]
    outcomes: str
    files: dict[str, str]
    directory: Path


class Server:
    """One server, and the directory in which its situations run, one after the other."""

    def __init__(self, children: Children, directory: Path, *, is_pure: bool) -> None:
        self._directory = directory
        child = children.start_command(
            [sys.executable, "-m", "support.appends.server"],
            env=under_recorder(is_pure=is_pure),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._process: Any = child.process
        self.core = self._answer()["core"]

    def ask(self, situation: str, rules: str = "") -> None:
        """Have a situation run, with more rules than its own."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        self._tell("run", situation=situation, rules=rules)

    def wait(self) -> int:
        """Return the exit code of what was asked for, minus the signal that ended it, once that is over."""
        return int(self._answer()["status"])

    def run_of(self, status: int) -> Run:
        """Return what came of a run that ended with this exit code."""
        complaint = self.complaint()
        if status not in (0, _KILLED):
            raise AssertionError(complaint or f"the run ended with {status}")
        outcomes = self._directory / OUTCOMES
        return Run(
            status,
            read_record(self._directory / RECORD),
            read_record(self._directory / FIRST),
            outcomes.read_text(encoding="utf-8") if outcomes.exists() else "",
            tree_of(self._directory / STORE),
            self._directory,
        )

    def ask_judge(self) -> None:
        """Have the store judged that the last run left."""
        self._tell("judge")

    def complaint(self) -> str:
        """Return the traceback of the last child, if it failed; else ""."""
        complaint = self._directory / COMPLAINT
        return complaint.read_text(encoding="utf-8") if complaint.exists() else ""

    def _tell(self, what: str, **more: str) -> None:
        self._process.stdin.write(
            json.dumps({"what": what, "directory": str(self._directory), **more}) + "\n"
        )
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
        raise ChildProcessError("a server died")


class Pair:
    """Both servers. Use it in a ``with`` block."""

    def __init__(self, directory: Path) -> None:
        self._children = Children()
        # Names of one length: the paths are in messages.
        self._both = [
            Server(self._children, directory / name, is_pure=name == "python")
            for name in ("python", "native")
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._children.end()

    @property
    def cores(self) -> list[str]:
        """Which core each runs with."""
        return [server.core for server in self._both]

    def run(self, situation: str, rules: str = "") -> list[Run]:
        """Return what a situation comes to without the native core, and with it. They run at the same time."""
        for server in self._both:
            server.ask(situation, rules)
        statuses = [server.wait() for server in self._both]  # of both, whatever came of them
        return [server.run_of(status) for server, status in zip(self._both, statuses, strict=True)]

    def judge(self) -> list[str]:
        """Return what is wrong with the stores that the last run left; "" for each where nothing is."""
        for server in self._both:
            server.ask_judge()
        statuses = [server.wait() for server in self._both]
        return [
            server.complaint() or ("" if status == 0 else f"ended with {status}")
            for server, status in zip(self._both, statuses, strict=True)
        ]


def difference(situation: str, python: Run, native: Run) -> str:
    """Return in what two runs of a situation differ: calls, outcomes, the files after them; "" if in nothing."""
    found = CATALOGUE[situation]
    calls, native_calls = (comparable(run.calls) for run in (python, native))
    if found.is_polled:
        calls, native_calls = without_polls(calls), without_polls(native_calls)
    difference = differences(calls, native_calls)
    if difference and not found.is_usual and is_handed_over(calls, native_calls):
        difference = ""
    outcomes, native_outcomes = (
        run.outcomes.replace(str(run.directory), "DIRECTORY") for run in (python, native)
    )
    if outcomes != native_outcomes:
        difference += f"outcomes:\n- {outcomes}\n+ {native_outcomes}\n"
    for path in sorted(python.files.keys() | native.files.keys()):
        one, other = python.files.get(path, "(no file)"), native.files.get(path, "(no file)")
        if one != other:
            difference += f"{path}:\n- {one}\n+ {other}\n"
    if python.status != native.status:
        difference += f"exit codes: {python.status}, {native.status}\n"
    return difference
