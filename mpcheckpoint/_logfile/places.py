"""What this process knows of the directories that hold stores. It does not change, so it is found out once."""

from __future__ import annotations

import os

from mpcheckpoint import _system as system


class Places:
    """What is known of directories, by device and inode.

    Invariant: if ``.checkpoint`` at a path is in ``_named``, a completed sync covers every name that leads to it.
    """

    def __init__(self) -> None:
        # Directories in which this process has seen locks work.
        self.locking: set[tuple[int, int]] = set()
        self._named: set[tuple[str, int, int]] = set()

    def make_names_durable(self, directory: str) -> None:
        """Sync every directory above a store's ``directory``, up to the mount point: they hold the names leading to it.

        The process that made one of them may have died, or failed, before its name was durable, and no other process
        would sync it. A loss of power would then take the store with all that it had acknowledged.

        Raises:
            OSError: a sync failed; the next call tries again.
        """
        status = system.stat_path(directory)
        # A link was there before us, the directory that it leads to maybe not.
        path = os.path.realpath(directory)
        key = (path, status.st_dev, status.st_ino)
        if key in self._named:
            return
        while path != (parent := os.path.dirname(path)) and system.stat_path(parent).st_dev == status.st_dev:
            try:
                system.sync_directory(parent)
            except PermissionError:
                pass  # we may not list it, so the name in it was there before us
            path = parent
        self._named.add(key)


places = Places()
