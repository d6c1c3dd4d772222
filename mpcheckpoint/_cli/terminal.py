"""What people see: lines on standard error, names made safe to show, and the exit codes."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import NoReturn

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

# What could move the cursor, colour or rename a terminal: everything below the blank but newline and tab, and C1.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def say(line: str) -> None:
    """Print a line on standard error; where nobody reads it any more, that is no reason to stop."""
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is what prints
    except OSError:
        pass


def safe(text: str) -> str:
    """Return a text that a terminal shows and does not obey."""
    return _UNSAFE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def write_out(data: bytes) -> None:
    """Write to standard output."""
    try:
        sys.stdout.buffer.write(data)
    except BrokenPipeError:
        end_by_broken_pipe()


def flush_out() -> None:
    """See to it that standard output has all that was written."""
    try:
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        end_by_broken_pipe()


def end_by_broken_pipe() -> NoReturn:
    """Die quietly, as others do when the reader of their output has gone."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)  # where the signal is blocked
