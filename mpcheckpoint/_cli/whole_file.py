"""Files that commands write: replaced as a whole, so that a reader sees the one or the other."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import click

from mpcheckpoint import _system as system
from mpcheckpoint._cli.terminal import flush_out, safe, write_out

if TYPE_CHECKING:
    from collections.abc import Callable


STDOUT = "-"
# So much of a file is looked at.
LOOK_BYTES = 64 * 1024


def begins(head: bytes) -> Callable[[bytes], bool]:
    """Return what tells whether the beginning of a file is ``head``, or as much of it as there is."""
    return lambda beginning: head.startswith(beginning[: len(head)])


def require_earlier(path: str, is_earlier: Callable[[bytes], bool], kind: str, named: str) -> None:
    """Refuse a file that is none that we have written, and one that cannot be: before what it is to hold is made.

    Args:
        is_earlier: told the first ``LOOK_BYTES`` of a file that is not empty.
        kind: what it should be, in messages.
        named: how messages name it, the path included.

    Raises:
        click.UsageError: it is another kind of file, or cannot be looked at.
    """
    if path == STDOUT:
        return
    try:
        beginning = _first_bytes(path)
    except OSError as error:
        raise click.UsageError(f"cannot write {named}: {error.strerror}") from error
    if beginning and not is_earlier(beginning):
        raise click.UsageError(f"{safe(path)} is no {kind}: it is left alone. Give the name of another file")


def put_out(path: str, content: bytes, named: str) -> None:
    """Write to standard output, or a file as a whole.

    Raises:
        click.ClickException: it cannot be written; ``named`` is how the message names it.
    """
    if path == STDOUT:
        write_out(content)
        flush_out()
        return
    try:
        write_whole(path, lambda file: file.write(content))
    except OSError as error:
        raise click.ClickException(f"cannot write {named}: {error.strerror}") from error


def _first_bytes(path: str) -> bytes:
    """Return what the file begins with that ``write_whole`` would replace; nothing where it would replace none.

    A pipe or a device is written to: reading from one might wait for ever.

    Raises:
        OSError: it cannot be looked at, or is a directory; or no file can be made beside it.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return b""
    try:
        with open(path, "rb") as file:
            beginning = file.read(LOOK_BYTES)
    except FileNotFoundError:
        beginning = b""
    directory = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return beginning


def write_whole(path: str, write: Callable[[IO[bytes]], object]) -> None:
    """Have ``write`` write a file, and put it in the place of ``path``; a pipe or a device is written to as it is.

    If ``write`` raises, what was there before is there still.

    Raises:
        OSError: it cannot be written.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:  # a pipe, /dev/stderr
            write(file)
        return
    path = os.path.realpath(path)
    name = os.path.basename(path)
    descriptor, new = tempfile.mkstemp(prefix=f".{name[:100]}-", dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file:
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(descriptor, os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o666 & ~mask)
            write(file)
        system.replace(new, path)
    except BaseException:
        with suppress(OSError):
            system.remove(new)
        raise
