"""``logs``: a list of the names of a store's logs that only ever grows, by which readers learn of new ones."""

from __future__ import annotations

import os

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.ownership import open_in_store

NAME_LIST = "logs"


def is_named(directory: str, name: str) -> bool:
    """Return whether the list in a store's directory has a name."""
    path = os.path.join(directory, NAME_LIST)
    try:
        descriptor = system.open_file(path)
    except FileNotFoundError:
        return False
    with translated("reading", path, is_read=True):
        data = system.read_at(descriptor.fd, system.size_of(descriptor.fd), 0)
    return name.encode() in data.split(b"\n")


def add_name(directory: str, name: str) -> None:
    """Make the list grow by a name, if it lacks it. Requires: the store lock."""
    if is_named(directory, name):
        return
    descriptor = open_in_store(os.path.join(directory, NAME_LIST))
    # A newline first: a creator may have died inside its line.
    write_whole(descriptor.fd, f"\n{name}\n".encode(), system.size_of(descriptor.fd))
