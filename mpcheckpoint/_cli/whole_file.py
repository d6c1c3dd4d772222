"""Files that commands write: replaced as a whole, so that a reader sees the one or the other."""

from __future__ import annotations

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


def require_earlier(path: str, head: bytes, kind: str, named: str) -> None:
    """Refuse a file that does not begin with ``head``: it is none that we have written.

    Args:
        kind: what it should be, in messages.
        named: how messages name it, the path included.

    Raises:
        click.UsageError: it is another kind of file, or cannot be looked at.
    """
    if path == STDOUT:
        return
    try:
        beginning = _first_bytes(path, len(head))
    except OSError as error:
        raise click.UsageError(f"cannot write {named}: {error.strerror}") from error
    if not head.startswith(beginning):
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


def _first_bytes(path: str, most: int) -> bytes:
    """Return what the file begins with that ``write_whole`` would replace; nothing where it would replace none.

    A pipe or a device is written to: reading from one might wait for ever.

    Raises:
        OSError: it cannot be looked at, or is a directory.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except FileNotFoundError:
        return b""


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
