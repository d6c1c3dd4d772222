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

from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from typing import TextIO

    from mpcheckpoint.errors import CheckpointError
    from mpcheckpoint.maintenance import LogCheck, LogSurvey

# Control characters could move the cursor or change colours and titles: all below the blank but newline and tab, and
# C1. Surrogates stand for bytes of a path that are no UTF-8; no terminal can show them.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_PASSWORD = re.compile(r"(:/[^\s:@]*):\S*@")
_PASSWORD_FIELD = re.compile(r"(?i)([?&](?:password|passwd|pwd|secret|token)=)[^&\s'\")]*")


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SHORTAGE = os.EX_TEMPFAIL
    INTERRUPTED = 128 + signal.SIGINT


def is_screen(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(line: str) -> None:
    """Print a line on standard error, made safe. If nobody reads it any more, go on all the same."""
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
    """Return the noun in the form that fits the number."""
    return noun if number == 1 else f"{noun}s"


def items_done(done: int, total: int | None) -> str:
    """Return how many items are done, and of how many if that is known."""
    if total is None:
        return f"{done} {plural(done, 'item')} done"
    return f"{done} of {total} {plural(total, 'item')} done"


def safe(text: str) -> str:
    """Return a text that a terminal shows and does not obey."""
    return _UNSAFE.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return a text, which may hold anything, as one line that is safe to show."""
    return safe(text.replace("\n", "\\n").replace("\t", "\\t"))


def shown_name(log: LogCheck | LogSurvey) -> str:
    """Return a log's key as it is shown; the name of its file if the key cannot be told."""
    return one_line(os.path.basename(log.path) if log.log_key is None else log.log_key) or "''"


def _escaped(match: re.Match[str]) -> str:
    # Python turns a byte that is no UTF-8 into U+DC80 to U+DCFF.
    return f"\\x{ord(match[0]) & 0xFF:02x}"


def without_passwords(text: str) -> str:
    """Return a message without the passwords of URLs: click repeats what it refuses."""
    return _PASSWORD_FIELD.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def json_line(value: object) -> bytes:
    """Return a value as one line of JSON. Bytes of paths that are no UTF-8 become ``\\xNN``."""
    try:
        return msgspec.json.encode(value) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return _SURROGATE.sub(lambda match: "\\" + _escaped(match), text).encode() + b"\n"


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
