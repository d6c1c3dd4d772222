"""What a system says of the file system that holds a path."""

from __future__ import annotations

from typing import NamedTuple


class Mount(NamedTuple):
    """One line of the table of mounts: where, of what type, from what device, and with what options."""

    mount_point: str
    kind: str
    source: str
    options: tuple[str, ...]
