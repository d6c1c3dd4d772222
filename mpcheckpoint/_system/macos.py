"""macOS: written for, and not tested. fsync there does not reach the medium; F_FULLFSYNC does."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING

from mpcheckpoint._system.words import PolledWord

if TYPE_CHECKING:
    from mpcheckpoint._system.mount import Mount


def sync_data(fd: int) -> None:
    """Make a file's bytes and size durable."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        raise NotImplementedError


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_data(fd)
    finally:
        os.close(fd)


def shared_word(fd: int, offset: int) -> PolledWord:
    """Return the 32-bit word at ``offset`` of an open file, for processes to wait on."""
    return PolledWord(fd, offset)


def network_file_system(path: str) -> str | None:
    """Return None: not looked up on this system."""
    del path
    return None


def mount_of(path: str) -> Mount | None:
    """Return None: not looked up on this system."""
    del path
    return None
