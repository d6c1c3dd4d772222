"""Two servers, one with the native core and one without it, and what the same situation comes to in both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from support.appends.program import ENDS, OUTCOMES, RECORD, STORE
from support.appends.server import COMPLAINT, MARK
from support.appends.situations import CATALOGUE
from support.processes import Children
from support.recorder.library import under_recorder
from support.recorder.records import (
    Call,
    comparable,
    differences,
    differences_but_for_looks,
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
        ends: how many of them were made up to the end of each call of the library.
        outcomes: of the calls of the library, as JSON lines.
        files: everything below the store, comparable.
        directory: where all of this stands.
    """

    status: int
    calls: list[Call]
    ends: tuple[int, ...]
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

    def ask(self, situation: str, rules: str, planted: str | None = None) -> None:
        """Have a situation run with these rules, and with a mistake of ``planted.PLANTED``."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        self._tell("run", situation=situation, rules=rules, planted=planted)

    def wait(self) -> int:
        """Return the exit code of what was asked for, minus the signal that ended it, once that is over."""
        return int(self._answer()["status"])

    def run_of(self, status: int) -> Run:
        """Return what came of a run that ended with this exit code."""
        complaint = self.complaint()
        if status not in (0, _KILLED):
            raise AssertionError(complaint or f"the run ended with {status}")
        return Run(
            status,
            read_record(self._directory / RECORD),
            tuple(map(int, _text_of(self._directory / ENDS).split())),
            _text_of(self._directory / OUTCOMES),
            tree_of(self._directory / STORE),
            self._directory,
        )

    def ask_judge(self) -> None:
        """Have the store judged that the last run left."""
        self._tell("judge")

    def complaint(self) -> str:
        """Return the traceback of the last child, if it failed; else ""."""
        return _text_of(self._directory / COMPLAINT)

    def _tell(self, what: str, **more: str | None) -> None:
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
        """Return what a situation comes to without the native core, and with it. They run at the same time.

        Args:
            rules: more of them, which come after those of the situation.
        """
        rules = "; ".join(filter(None, (CATALOGUE[situation].rules, rules)))
        for server in self._both:
            server.ask(situation, rules)
        statuses = [server.wait() for server in self._both]  # of both, whatever came of them
        return [server.run_of(status) for server, status in zip(self._both, statuses, strict=True)]

    def run_in_python(self, situation: str, planted: str | None = None) -> Run:
        """Return what a situation comes to without the native core, and without any rule."""
        server = self._both[0]
        server.ask(situation, "", planted)
        return server.run_of(server.wait())

    def difference(self, situation: str, python: Run, native: Run) -> str:
        """Return in what two runs of a situation differ; "" if in nothing that matters.

        Where a look of the native path fails, it may hand over to Python, whose own look does not fail then. So it may
        also come to what a run comes to in which nothing fails.
        """
        noted = [call for call in native.calls if call.note]
        is_usual = CATALOGUE[situation].is_usual and not noted
        found = difference(situation, python, native, may_hand_over=not is_usual)
        if found and noted and native.status == 0 and not any(call.changes for call in noted):
            clean = self.run_in_python(situation)
            return found if difference(situation, clean, native, may_hand_over=True) else ""
        return found

    def judge(self) -> list[str]:
        """Return what is wrong with the stores that the last run left; "" for each where nothing is."""
        for server in self._both:
            server.ask_judge()
        statuses = [server.wait() for server in self._both]
        return [
            server.complaint() or ("" if status == 0 else f"ended with {status}")
            for server, status in zip(self._both, statuses, strict=True)
        ]


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def difference(situation: str, python: Run, native: Run, *, may_hand_over: bool) -> str:
    """Return in what two runs differ: calls, outcomes, the files after them; "" if in nothing.

    Args:
        may_hand_over: whether native code may look first, and then leave all to Python.
    """
    steps, native_steps = (_by_step(run, CATALOGUE[situation].is_polled) for run in (python, native))
    if may_hand_over and len(steps) == len(native_steps):
        found = next(filter(None, map(differences_but_for_looks, steps, native_steps)), "")
    else:
        found = differences([*chain(*steps)], [*chain(*native_steps)])
    outcomes, native_outcomes = (
        run.outcomes.replace(str(run.directory), "DIRECTORY") for run in (python, native)
    )
    if outcomes != native_outcomes:
        found += f"outcomes:\n- {outcomes}\n+ {native_outcomes}\n"
    for path in sorted(python.files.keys() | native.files.keys()):
        one, other = python.files.get(path, "(no file)"), native.files.get(path, "(no file)")
        if one != other:
            found += f"{path}:\n- {one}\n+ {other}\n"
    if python.status != native.status:
        found += f"exit codes: {python.status}, {native.status}\n"
    return found


def _by_step(run: Run, is_polled: bool) -> list[list[Call]]:
    """Return the comparable calls of each call of the library, and what came after the last one."""
    calls = comparable(run.calls)
    bounds = zip((0, *run.ends), (*run.ends, len(calls)), strict=True)
    steps = [calls[start:end] for start, end in bounds]
    return [without_polls(step) for step in steps] if is_polled else steps
