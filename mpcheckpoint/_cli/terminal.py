"""What people see: lines on standard error, text that is safe to show, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

import msgspec

from mpcheckpoint._progress.choice import is_screen as is_screen  # noqa: PLC0414 - for the commands
from mpcheckpoint._progress.lines import say as say  # noqa: PLC0414 - for the commands
from mpcheckpoint._progress.words import escaped
from mpcheckpoint._progress.words import items_done as items_done  # noqa: PLC0414 - for the commands
from mpcheckpoint._progress.words import one_line as one_line  # noqa: PLC0414 - for the commands
from mpcheckpoint._progress.words import plural as plural  # noqa: PLC0414 - for the commands
from mpcheckpoint._progress.words import safe as safe  # noqa: PLC0414 - for the commands
from mpcheckpoint._system.command_line import without_passwords as without_passwords  # noqa: PLC0414 - the same
from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from mpcheckpoint.errors import CheckpointError
    from mpcheckpoint.maintenance import LogCheck, LogSurvey

_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SHORTAGE = os.EX_TEMPFAIL
    INTERRUPTED = 128 + signal.SIGINT


def say_error(error: CheckpointError, more: str = "") -> None:
    """Print an error on standard error, in one line, with the advice that helps on the command line."""
    say(f"mpcheckpoint: {' '.join((shell_text(error) + more).split())}")


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts."""
    return f"{number:,} {plural(number, noun)}"


def shown_name(log: LogCheck | LogSurvey) -> str:
    """Return a log's key as it is shown; the name of its file if the key cannot be told."""
    return one_line(os.path.basename(log.path) if log.log_key is None else log.log_key) or "''"


def json_line(value: object) -> bytes:
    """Return a value as one line of JSON. Bytes of paths that are no UTF-8 become ``\\xNN``."""
    try:
        return msgspec.json.encode(value) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return _SURROGATE.sub(lambda match: "\\" + escaped(match), text).encode() + b"\n"


def write_out(data: bytes) -> None:
    """Write to standard output.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.buffer.write(data)
    except BrokenPipeError:
        end_by_broken_pipe()


def flush_out() -> None:
    """Flush standard output.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        end_by_broken_pipe()


def end_by_broken_pipe() -> NoReturn:
    """Die quietly, as other programs do when the reader of their output has gone."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)  # where the signal is blocked
