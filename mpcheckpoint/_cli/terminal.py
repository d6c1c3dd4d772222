"""What people see: lines on standard error, names made safe to show, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import msgspec

from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from mpcheckpoint.errors import CheckpointError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SHORTAGE = os.EX_TEMPFAIL
EXIT_INTERRUPTED = 128 + signal.SIGINT

# What could move the cursor, colour or rename a terminal: everything below the blank but newline and tab, and C1. And
# what no terminal can show: the bytes of a path that are no UTF-8, as Python stands them in for.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_STAND_INS = re.compile(r"[\ud800-\udfff]")
_PASSWORD = re.compile(r"(:/[^\s:@]*):\S*@")
_PASSWORD_FIELD = re.compile(r"(?i)([?&](?:password|passwd|pwd|secret|token)=)[^&\s'\")]*")


def say(line: str) -> None:
    """Print a line on standard error, made safe; where nobody reads it any more, that is no reason to stop."""
    try:
        print(safe(line), file=sys.stderr, flush=True)  # noqa: T201 - this is what prints
    except OSError:
        pass


def say_error(error: CheckpointError, more: str = "") -> None:
    """Print an error on standard error, in one line, with the advice that helps on the command line."""
    say(f"mpcheckpoint: {' '.join((shell_text(error) + more).split())}")


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts."""
    return f"{number:,} {plural(number, noun)}"


def plural(number: int, noun: str) -> str:
    """Return the word for so many of them."""
    return noun if number == 1 else f"{noun}s"


def items_done(done: int, total: int | None) -> str:
    """Return how many items are done, and of how many, where that is known."""
    if total is None:
        return f"{done} {plural(done, 'item')} done"
    return f"{done} of {total} {plural(total, 'item')} done"


def safe(text: str) -> str:
    """Return a text that a terminal shows and does not obey."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    # Of a byte that stands for itself Python makes U+DC80 to U+DCFF.
    return f"\\x{ord(match[0]) & 0xFF:02x}"


def without_passwords(text: str) -> str:
    """Return a message about what was given, without the passwords of URLs in it: click repeats what it refuses."""
    return _PASSWORD_FIELD.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def json_line(value: object) -> bytes:
    """Return a value as one line of JSON; bytes of paths that are no UTF-8 as ``\\xNN``."""
    try:
        return msgspec.json.encode(value) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return _STAND_INS.sub(lambda match: "\\" + _escaped(match), text).encode() + b"\n"


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
    """See to it that standard output has all that was written.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        end_by_broken_pipe()


def end_by_broken_pipe() -> NoReturn:
    """Die quietly, as others do when the reader of their output has gone."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)  # where the signal is blocked
