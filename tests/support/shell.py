"""The command line through real processes: run to its end, beside the test, or on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

MPCHECKPOINT = [sys.executable, "-m", "mpcheckpoint"]
TIMEOUT_S = 60.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Ended(NamedTuple):
    """What became of a command: its exit code (negative: the signal that killed it) and all it printed."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return what was printed, one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class CommandLine:
    """Runs ``mpcheckpoint`` in a directory. Every command is given so long to end, and none prints a traceback."""

    def __init__(self, directory: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self.directory = directory
        self._timeout_s = timeout_s

    def run(self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Ended:
        """Run a command to its end."""
        ended = subprocess.run(
            [*MPCHECKPOINT, *arguments],
            input=stdin,
            cwd=self.directory,
            env=os.environ | (env or {}),
            capture_output=True,
            timeout=self._timeout_s,
            check=False,
        )
        return _checked(Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode()))

    def good(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """Run a command that is to end with exit code 0."""
        ended = self.run(*arguments, stdin=stdin)
        assert ended.code == 0, ended
        return ended

    def refused(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run a command that is to be refused: return its one line on standard error."""
        ended = self.run(*arguments, stdin=stdin)
        assert ended.code == 2, ended
        lines = ended.err.splitlines()
        assert len(lines) == 1, ended
        return lines[0]

    def beside(self, *arguments: str) -> Beside:
        """Start a command that runs beside the test; use it in a ``with`` statement."""
        return Beside([*MPCHECKPOINT, *arguments], self.directory, self._timeout_s)

    def on_terminal(
        self,
        *arguments: str,
        typed: bytes = b"",
        columns: int = 100,
        react: Callable[[bytes], object] = lambda shown: None,
        program: Sequence[str] = MPCHECKPOINT,
        typed_at: Mapping[bytes, bytes] | None = None,
    ) -> Ended:
        """Run a command whose three streams are one terminal; ``out`` is all that was shown, without its escapes.

        ``react`` is called with all that was shown so far, whenever there is more. ``typed_at`` says what is typed once
        something is shown.
        """
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, columns))
        try:
            process = subprocess.Popen(
                [*program, *arguments],
                cwd=self.directory,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != "COLUMNS"}
                | {"TERM": "xterm"},
            )
        finally:
            os.close(theirs)
        try:
            os.write(ours, typed)
            waiting = dict(typed_at or {})

            def look(shown: bytes) -> None:
                for awaited in [each for each in waiting if each in shown]:
                    os.write(ours, waiting.pop(awaited))
                react(shown)

            shown = _read_terminal(ours, time.monotonic() + self._timeout_s, look)
            code = process.wait(self._timeout_s)
        finally:
            os.close(ours)
            process.kill()
            process.wait()
        text = _ESCAPES.sub("", shown.decode()).replace("\r\n", "\n")
        return _checked(Ended(code, text, ""))


class Beside:
    """A command that runs beside the test. It is killed, and reaped, when the ``with`` block ends."""

    def __init__(self, argv: list[str], directory: Path, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._seen = b""
        self.process = subprocess.Popen(
            argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def wait_for(self, is_there: Callable[[str], bool]) -> str:
        """Return all that was printed so far as soon as ``is_there`` holds for it."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline_s = time.monotonic() + self._timeout_s
        while not is_there(self._seen.decode(errors="replace")):
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"not printed in {self._timeout_s} s; so far: {self._seen!r}"
            if select.select([fd], [], [], left_s)[0]:
                data = os.read(fd, 65536)
                assert data, f"it ended; it had printed {self._seen!r}"
                self._seen += data
        return self._seen.decode(errors="replace")

    def interrupt(self) -> Ended:
        """Send what Ctrl-C sends, and return what became of the command."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> Ended:
        """Return what became of the command."""
        out, err = self.process.communicate(timeout=self._timeout_s)
        return _checked(Ended(self.process.returncode, (self._seen + out).decode(), err.decode()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()


def _read_terminal(fd: int, deadline_s: float, react: Callable[[bytes], object]) -> bytes:
    shown = b""
    while select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        try:
            data = os.read(fd, 4096)
        except OSError:  # the other end is closed
            return shown
        if not data:
            return shown
        shown += data
        react(shown)
    raise AssertionError(f"the terminal did not close in time; shown so far: {shown!r}")


def _checked(ended: Ended) -> Ended:
    assert "Traceback" not in ended.err, ended.err
    assert "Traceback" not in ended.out, ended.out
    return ended
