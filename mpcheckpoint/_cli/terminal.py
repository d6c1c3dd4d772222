"""What people see: lines on standard error, names made safe to show, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from mpcheckpoint.errors import CheckpointError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

# What could move the cursor, colour or rename a terminal: everything below the blank but newline and tab, and C1. And
# what no terminal can show: the bytes of a path that are no UTF-8, as Python stands them in for.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_STAND_INS = re.compile(r"[\ud800-\udfff]")
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_kept: list[IO[Any]] = []


def open_closed_streams() -> None:
    """Have what is closed of standard input, output and error lead nowhere.

    Else the next file that is opened, a log or a lock, would get its number, and what is printed.
    """
    for fd, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            stream = open(os.devnull, mode)  # noqa: SIM115 - it gets the lowest number, this one, and keeps it
            os.set_inheritable(fd, True)
            _kept.append(stream)
            if fd:  # that there is no input is to be seen by those who want some: it is not an empty one
                setattr(sys, name, stream)


def say(line: str) -> None:
    """Print a line on standard error, made safe; where nobody reads it any more, that is no reason to stop."""
    try:
        print(safe(line), file=sys.stderr, flush=True)  # noqa: T201 - this is what prints
    except OSError:
        pass


def say_error(error: CheckpointError) -> None:
    """Print an error on standard error, in one line, with the advice that helps on the command line."""
    say(f"mpcheckpoint: {' '.join(shell_text(error).split())}")


def safe(text: str) -> str:
    """Return a text that a terminal shows and does not obey."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    # Of a byte that stands for itself Python makes U+DC80 to U+DCFF.
    return f"\\x{ord(match[0]) & 0xFF:02x}"


def json_line(value: object) -> bytes:
    """Return a value as one line of JSON; bytes of paths that are no UTF-8 as ``\\xNN``."""
    try:
        return msgspec.json.encode(value) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return _STAND_INS.sub(lambda match: "\\" + _escaped(match), text).encode() + b"\n"


def write_out(data: bytes) -> None:
    """Write to standard output."""
    try:
        sys.stdout.buffer.write(data)
    except OSError as error:
        _end_by(error)


def flush_out() -> None:
    """See to it that standard output has all that was written."""
    try:
        sys.stdout.buffer.flush()
    except OSError as error:
        _end_by(error)


def _end_by(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError):
        end_by_broken_pipe()
    with open(os.devnull, "wb") as nowhere:  # else the interpreter tries once more at its end, and says so
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    raise click.ClickException(f"cannot write to standard output: {error.strerror}") from error


def end_by_broken_pipe() -> NoReturn:
    """Die quietly, as others do when the reader of their output has gone."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)  # where the signal is blocked
