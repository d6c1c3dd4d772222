"""What the operating system says of the file system that holds a path."""

from __future__ import annotations

from typing import NamedTuple


class Mount(NamedTuple):
    """A mount: where, of what type, from what device, with what options; and whether the system calls it remote."""

    mount_point: str
    kind: str
    source: str
    options: tuple[str, ...]
    is_called_remote: bool = False
