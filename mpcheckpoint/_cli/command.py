"""A command run for an item, without a shell in between."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from mpcheckpoint._cli.output import KeptOutput
from mpcheckpoint._work.outcomes import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._cli.interrupts import Interrupts
    from mpcheckpoint._work.workers import Worker

PLACE = b"{}"
_READ_BYTES = 64 * 1024
_LOOK_MS = 100
_DRAIN_S = 1.0
_SUSPECT_S = 1.0
_FAILED_S = 0.02
_POLL_S = 0.02
# At the end commands get so long to stop by themselves, then to obey SIGTERM, then to be gone after SIGKILL.
_STOP_S = ((2.0, signal.SIGTERM), (5.0, signal.SIGKILL), (5.0, signal.SIGKILL))


def is_command(word: bytes) -> bool:
    """Return whether the first word of a command line can be run; true as well where that depends on the item."""
    return PLACE in word or shutil.which(os.fsdecode(word)) is not None


class RunCommand:
    """Run one command line for each item, in any number of threads.

    Each command inherits the descriptor of its worker, so that one that outlives this process keeps its item claimed,
    and is not overlapped by its rerun. It belongs to our process group: a Ctrl-C reaches it as it reaches us.

    Locking: ``_lock`` guards ``_running`` and is held while a command is started, so that ``stop`` misses none.
    """

    def __init__(self, words: Sequence[bytes], output_limit_bytes: int, interrupts: Interrupts) -> None:
        self._words = words
        self._interrupts = interrupts
        self._has_place = any(PLACE in word for word in words)
        self._output_limit_bytes = output_limit_bytes
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = threading.Event()

    def argv(self, item: bytes) -> list[bytes]:
        """Return the command line for an item."""
        if self._has_place:
            return [word.replace(PLACE, item) for word in self._words]
        return [*self._words, item]

    def __call__(self, item: bytes, worker: Worker) -> Result | None:
        """Run the command; return its exit code and output, or None if it was interrupted."""
        try:
            process = self._started(item, worker)
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in an argument
            reason = error.strerror if isinstance(error, OSError) else None
            return Result(False, None, f"could not be started: {reason or error}")
        if process is None:
            return None
        try:
            kept = KeptOutput(self._output_limit_bytes)
            _read_all(process, kept)
            code = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
        if code != 0 and self._was_interrupted(code):
            return None
        return Result(code == 0, {"exit_code": code} | kept.fields(), _error_of(code))

    def stop(self) -> None:
        """Start no more commands, and end those that run: first by themselves, then by signals. Return when they have.

        A Ctrl-C in here makes short work of them.
        """
        self._stopping.set()
        for patience_s, signal_number in _STOP_S:
            try:
                self._await_end(patience_s)
            except KeyboardInterrupt:
                signal_number = signal.SIGKILL  # noqa: PLW2901
            with self._lock:
                for process in self._running:
                    process.send_signal(signal_number)

    def _await_end(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._running and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _started(self, item: bytes, worker: Worker) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            process = subprocess.Popen(
                self.argv(item),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[worker.fd],
            )
            self._running.add(process)
            return process

    def _was_interrupted(self, code: int) -> bool:
        """Return whether a command ended because of us, or of the Ctrl-C that is about to end us.

        The terminal interrupts everybody at once, and the command may be the first to be done with it. So a failed one
        waits a moment before it is believed to have failed by itself.
        """
        is_suspect = code in (-signal.SIGINT, 128 + signal.SIGINT)
        return self._stopping.is_set() or self._interrupts.have_come(_SUSPECT_S if is_suspect else _FAILED_S)


def _read_all(process: subprocess.Popen[bytes], kept: KeptOutput) -> None:
    """Read until all who could write have closed their end, or the command has ended and a daemon of its holds it."""
    assert process.stdout is not None
    deadline: float | None = None
    with process.stdout as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while deadline is None or time.monotonic() < deadline:
            if poll.poll(0 if deadline is not None else _LOOK_MS):
                data = os.read(pipe.fileno(), _READ_BYTES)
                if not data:
                    return
                kept.add(data)
            elif deadline is not None:
                return  # it has ended, and what it had written was read
            elif process.poll() is not None:
                deadline = time.monotonic() + _DRAIN_S


def _error_of(code: int) -> str | None:
    if code == 0:
        return None
    if code > 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"
