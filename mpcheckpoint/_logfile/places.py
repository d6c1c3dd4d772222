"""What this process has established of the places where stores stand: each once, for it does not change."""

from __future__ import annotations

import os

from mpcheckpoint import _system as system


class Places:
    """Which directories are known for what, by device and inode.

    Invariant: if ``.checkpoint`` at a path is in ``_named``, a completed sync covers every name that leads to it.
    """

    def __init__(self) -> None:
        # Directories in which this process has seen locks work.
        self.locking: set[tuple[int, int]] = set()
        self._named: set[tuple[str, int, int]] = set()

    def make_names_durable(self, directory: str) -> None:
        """Sync the directories that hold the names which lead to a store's ``directory``, up to the mount point.

        All of them: whoever made one of them may have died, or failed, before it was durable, and then nobody else
        would sync it. A store below it would be gone after a loss of power, with all it had acknowledged.

        Raises:
            OSError: a sync failed; it is tried again by the next call.
        """
        status = system.stat_path(directory)
        path = os.path.realpath(directory)  # the name of a link is not ours, the directory behind it may be
        key = (path, status.st_dev, status.st_ino)
        if key in self._named:
            return
        while path != (parent := os.path.dirname(path)) and system.stat_path(parent).st_dev == status.st_dev:
            try:
                system.sync_directory(parent)
            except PermissionError:
                pass  # one that we may not even list holds a name that was there before us
            path = parent
        self._named.add(key)


places = Places()
