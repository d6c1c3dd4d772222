"""Measure how many durable appends a second several processes do here together."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from mpcheckpoint._logfile.places import places
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint.checkpoint import Checkpoint

_PATIENCE_S = 30.0
_LOG_KEY = "rate"


def append_rates(directory: str, counts: tuple[int, ...], seconds: float) -> list[float]:
    """Return how many appends a second so many processes did together, for each of ``counts``.

    Raises:
        NoWriterError: processes cannot be started.
        OSError: a process did not get there.
    """
    # The examination has tried the locks, and has judged the file system.
    places.locking.add(StoreDirectory(directory, create=True, read_only=False).identity)
    with Checkpoint(directory) as checkpoint:
        checkpoint.log(_LOG_KEY)  # here, so that a writer that outlives us creates nothing
    with ExitStack() as ended:
        writers = [ended.enter_context(_Writer(directory, seconds)) for _ in range(max(counts))]
        for writer in writers:
            writer.answer()
        rates = []
        for count in counts:
            for writer in writers[:count]:
                writer.start()
            rates.append(sum(float(writer.answer()) for writer in writers[:count]))
        return rates


class NoWriterError(OSError):
    """The processes that should append cannot be started. That says nothing about the place."""


class _Writer:
    """A process that appends for a while each time it is told to. It ends with the ``with`` block."""

    def __init__(self, directory: str, seconds: float) -> None:
        package = str(Path(__file__).parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import write; write()", directory, str(seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
        except OSError as error:
            cause = f"{sys.executable or 'Python'} cannot be run: {error.strerror or error}"
            raise NoWriterError(error.errno, cause) from error

    def start(self) -> None:
        """Tell it to append."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its answer says why

    def answer(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if not select.select([self._process.stdout], [], [], _PATIENCE_S)[0]:
            raise OSError(f"a process that appends gave no answer for {_PATIENCE_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            errors = self._process.stderr.read().decode(errors="replace").splitlines()
            raise OSError(f"a process that appends failed: {errors[-1] if errors else 'it does not say why'}")
        return line.decode()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def write() -> None:
    """Append for so many seconds whenever a line comes, and print how many appends a second that were."""
    directory, seconds = sys.argv[1], float(sys.argv[2])
    with Checkpoint(directory, create=False) as checkpoint:
        log = checkpoint.log(_LOG_KEY)
        log.append("object", "first")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for _ in sys.stdin:
            count, began_s = 0, time.monotonic()
            while time.monotonic() < began_s + seconds:
                log.append("object", count)
                count += 1
            sys.stdout.write(f"{count / (time.monotonic() - began_s)}\n")
            sys.stdout.flush()
