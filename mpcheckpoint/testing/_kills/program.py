"""The program that a crash test kills, and a run of it: its output is read as it comes, and all of it can be killed."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.testing._kills.points import Point

_PLACEHOLDER = "{store}"
_INTERPRETER = re.compile(r"(python|pypy)[0-9.]*")
_OPTIONS_WITH_A_VALUE = ("-W", "-X")
# In the environment of every process that the program starts: so each can be found.
_MARK = "MPCHECKPOINT_CRASH_TEST_RUN"
_LAST_LINES = 15
_READ_BYTES = 1 << 16
_TICK_S = 0.02
_DEATH_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Program:
    """The program under test: how it is started, and what its output acknowledges."""

    argv: list[str]
    env: dict[str, str] | None
    cwd: str | os.PathLike[str] | None
    ack: Callable[[str], Any]
    timeout_s: float

    def __post_init__(self) -> None:
        if not any(_PLACEHOLDER in text for text in [*self.argv[1:], *(self.env or {}).values()]):
            raise ValueError(f"no argument of {self.argv} holds {_PLACEHOLDER}: where is the store?")

    def command(self, store: Path, point: Point | None) -> list[str]:
        """Return the command that runs it; it dies at ``point`` if there is one."""
        argv = [argument.replace(_PLACEHOLDER, str(store)) for argument in self.argv]
        return argv if point is None else _armed(argv, point)

    def environment(self, store: Path) -> dict[str, str]:
        """Return the environment to start it in."""
        if self.env is None:
            return dict(os.environ)
        return {name: value.replace(_PLACEHOLDER, str(store)) for name, value in self.env.items()}


def _armed(argv: list[str], point: Point) -> list[str]:
    if argv[0] != sys.executable and not _INTERPRETER.fullmatch(Path(argv[0]).name):
        raise ValueError(f"named points are for programs run by a Python interpreter, not by {argv[0]!r}")
    position = 1
    while position < len(argv) and argv[position].startswith("-") and argv[position] != "-m":
        if argv[position] == "-c":
            raise ValueError("named points are for scripts and modules, not for python -c")
        position += 2 if argv[position] in _OPTIONS_WITH_A_VALUE else 1
    return [*argv[:position], "-m", "mpcheckpoint.testing.killed_at", str(point), *argv[position:]]


class HangError(TimeoutError):
    """The program acknowledges nothing more, or survives being killed."""


class ProgramRun:
    """A program that runs, in a session of its own, inside the ``with`` block. For one thread.

    Attributes:
        acknowledged: what ``ack`` made of the lines so far, in their order.
        came_s: when each of these came, since the start.
        last_lines: the latest lines it printed.
        has_ended: whether it has ended, by itself or not.
        ended_s: when that was noticed, since the start.
    """

    def __init__(self, program: Program, store: Path, point: Point | None, errors: Path) -> None:
        """Start the program on ``store``, to die at ``point`` if there is one; stderr goes to the file ``errors``."""
        self.acknowledged: list[Any] = []
        self.came_s: list[float] = []
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.has_ended = False
        self.ended_s = 0.0
        self._ack = program.ack
        self._errors = errors
        self._rest = b""
        self._is_output_at_end = False
        self._is_dead = False
        self._mark = uuid.uuid4().hex
        self._started_s = time.monotonic()
        # Not to a pipe: it need not be read while the program runs, and the lines of the two never mix.
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                program.command(store, point),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**program.environment(store), _MARK: self._mark},
                cwd=program.cwd,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._kill()
        finally:
            self._output.close()

    def error_lines(self) -> list[str]:
        """Return the latest lines that it wrote to stderr."""
        return self._errors.read_text(errors="replace").splitlines()[-_LAST_LINES:]

    # --- while it runs ---------------------------------------------------------------------------------------

    def await_acknowledgements(self, count: int, timeout_s: float) -> None:
        """Return once so many acknowledgements were read, or the program has ended.

        Raises:
            HangError: it acknowledged nothing for ``timeout_s``, nor ended.
        """
        before = -1
        deadline = 0.0
        while not self.has_ended and len(self.acknowledged) < count:
            if len(self.acknowledged) > before:
                before = len(self.acknowledged)
                deadline = time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                raise HangError(f"it neither acknowledged anything nor ended for {timeout_s:g} s")
            self._read(deadline)

    def await_end(self, timeout_s: float) -> int:
        """Return its exit code once it has ended by itself and all was read. Raises HangError."""
        while not self.has_ended:
            self.await_acknowledgements(len(self.acknowledged) + 1, timeout_s)
        return self.end()

    def pass_time(self, duration_s: float) -> None:
        """Read on for so long, or until the program has ended."""
        deadline = time.monotonic() + duration_s
        while not self.has_ended and (left_s := deadline - time.monotonic()) > 0:
            if left_s < 0.005:  # poll() counts in whole milliseconds
                time.sleep(left_s)
            else:
                self._read(deadline - 0.004)
        self.read_what_is_there()
        self._notice_end()

    def read_what_is_there(self) -> None:
        """Read what has been printed until now."""
        while not self._is_output_at_end and self._poll.poll(0):
            self._take()

    # --- its end -----------------------------------------------------------------------------------------------

    def end(self) -> int:
        """Kill what still runs of it, read the rest of its output, and return its exit code.

        Raises:
            HangError: it cannot be killed.
        """
        self._kill()
        deadline = time.monotonic() + _DEATH_TIMEOUT_S
        while not self._is_output_at_end:
            if time.monotonic() > deadline:
                raise HangError("it was killed, but another process still has its output open")
            if self._poll.poll(_TICK_S * 1000):
                self._take()
        # A line without an end may be cut off, unless the program ended well.
        if self._rest and self._process.returncode == 0:
            self._line(self._rest)
        self._rest = b""
        return self._process.returncode

    def _kill(self) -> None:
        """Kill the program's process group, on Linux also processes that left it, and reap the program."""
        if self._is_dead:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of it is dead and reaped
        deadline = time.monotonic() + _DEATH_TIMEOUT_S
        while left := _marked(f"{_MARK}={self._mark}".encode()):
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it just ended
            if time.monotonic() > deadline:
                raise HangError(f"processes of it survive SIGKILL: {left}")
        try:
            self._process.wait(_DEATH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise HangError(f"process {self._process.pid} survives SIGKILL") from None
        self.has_ended = self._is_dead = True

    # --- reading -----------------------------------------------------------------------------------------------

    def _read(self, deadline: float) -> None:
        """Wait for output until ``deadline`` at most, and read it, or notice the end."""
        timeout_s = min(_TICK_S, max(0, deadline - time.monotonic()))
        if self._is_output_at_end:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass  # it closed its output and goes on
        elif self._poll.poll(timeout_s * 1000):
            self._take()
        self._notice_end()

    def _notice_end(self) -> None:
        if not self.has_ended and self._process.poll() is not None:
            self.has_ended = True
            self.ended_s = time.monotonic() - self._started_s

    def _take(self) -> None:
        read = os.read(self._output.fileno(), _READ_BYTES)
        self._is_output_at_end = not read
        *lines, self._rest = (self._rest + read).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        self.last_lines.append(text)
        acknowledgement = self._ack(text)
        if acknowledgement is not None:
            self.acknowledged.append(acknowledgement)
            self.came_s.append(time.monotonic() - self._started_s)


def _marked(mark: bytes) -> list[int]:
    """Return the living processes with ``mark`` in their environment; none on a system without /proc."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:
            continue  # it just ended, or belongs to another user
    return found
