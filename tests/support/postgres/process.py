"""The processes of one run of a server, below a guard that ends them when this process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support import process_tree
from support.postgres import guard
from support.postgres.programs import server_user

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT_S = 60.0
_STEP_S = 0.005
_STATUS_LINE = 7  # of postmaster.pid, from 0
_READY = frozenset({"ready", "standby"})


class ServerProcess:
    """A server that was started; ``pid`` is its first process.

    Invariant: all its processes are below a guard that `process_tree` leaves alone: they come and go without a test
    having started them, and a server of which one process is killed ends all the others.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        directory: Path,
        data: Path,
        log: Path,
        own_network: bool = False,
    ) -> None:
        """Start ``command``, whose standard error goes to ``log``. If this process dies, both directories go, too."""
        self.data = data
        user = server_user()
        program: list[str | Path] = [
            sys.executable,
            "-I",
            "-S",
            guard.__file__,
            str(os.getpid()),
            directory,
            data,
        ]
        program += ["" if user is None else str(user), "own network" if own_network else "", *command]
        with log.open("ab") as end_of_log:
            self.guard = subprocess.Popen(
                program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=end_of_log,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests
            )
        process_tree.leave_alone(self.guard.pid)
        assert self.guard.stdout is not None
        with self.guard.stdout as says:
            self.pid = int(
                says.readline() or 0
            )  # 0: it could not be started, and the guard has said why in the log

    @property
    def is_running(self) -> bool:
        """Whether a process of the server is left."""
        return self.guard.poll() is None

    def wait_ready(self, timeout_s: float = WAIT_S) -> bool:
        """Wait until it takes connections; return False if it ended instead. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._status() in _READY:
                return True
            if not self.is_running:
                return False
            time.sleep(_STEP_S)
        raise TimeoutError(f"the server takes no connections after {timeout_s} s")

    def signal(self, number: int) -> None:
        """Send a signal to its first process."""
        assert self.pid > 0  # 0 would be all of the tests
        os.kill(self.pid, number)

    def stop(self, how: str) -> None:
        """Have it end, and wait for that: "fast" (all is written) or "immediate" (as in a crash)."""
        self.signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how])
        self.wait_end()

    def kill(self) -> None:
        """Kill all its processes with SIGKILL, the first one first. No error if it has ended."""
        deadline = time.monotonic() + WAIT_S
        while self.is_running:
            guard.kill_below(self.guard.pid)
            if time.monotonic() > deadline:
                raise TimeoutError("the server was killed, and still runs")
            time.sleep(_STEP_S)
        self.wait_end()

    def wait_end(self) -> None:
        """Wait until none of its processes is left. Raises subprocess.TimeoutExpired."""
        self.guard.wait(WAIT_S)
        guard.remove_shared_memory(self.data)
        process_tree.end_leaving_alone(self.guard.pid)

    def _status(self) -> str:
        """Return what its file says of the state it is in; "" if that is not its file, or not written yet."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return ""
        is_its_own = len(lines) > _STATUS_LINE and lines[0] == str(self.pid)
        return lines[_STATUS_LINE].strip() if is_its_own else ""
