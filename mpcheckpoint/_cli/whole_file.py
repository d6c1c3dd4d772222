"""Files that commands write: replaced as a whole, so that a reader sees the one or the other."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from collections.abc import Callable


def first_bytes(path: str, most: int) -> bytes:
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
