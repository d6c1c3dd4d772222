"""A directory to try things in. It is removed, also if its process is killed: by the next examination."""

from __future__ import annotations

import errno
import os
import time
import uuid
from typing import Self

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.paths import TEMPORARY_SUFFIX

_PREFIX = ".mpcheckpoint-doctor-"
_IN_USE = "in-use"
_TRIES = 10
_STILL_OPEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY})
_LONGEST_REMOVAL_S, _PAUSE_S = 2.0, 0.02
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


class Scratch:
    """A new directory inside ``directory``, for the time of a ``with`` block. Its contents are removed with it.

    Crash: it stays, and its lock is free. By that ``remove_stale`` knows it.

    Attributes:
        path: the directory.
        left: after the block, why it could not be removed; None if it was.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock: system.Descriptor | None = None
        self.path = ""
        self.left: OSError | None = None

    def __enter__(self) -> Self:
        for _ in range(_TRIES):
            self.path = os.path.join(self._directory, f"{_PREFIX}{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
            if not system.make_directory(self.path):
                continue
            try:
                self._lock = system.create_locked(os.path.join(self.path, _IN_USE))
            except FileNotFoundError:
                continue  # another examination took it for a stale one before it was locked
            except BaseException as error:
                if isinstance(error, OSError) and error.errno in _NO_LOCKS:
                    return self  # the probe of locks will say so
                _remove_tree(self.path)
                raise
            if self._lock is not None:
                return self
            _remove_tree(self.path)
        raise OSError(
            f"another process removes the temporary directories in {self._directory} again and again"
        )

    def __exit__(self, *_: object) -> None:
        # First: if an open file is removed, FUSE and NFS keep it in its directory under another name.
        if self._lock is not None:
            self._lock.close()
        deadline_s = time.monotonic() + _LONGEST_REMOVAL_S
        while True:
            try:
                _remove_tree(self.path)
            except OSError as refusal:  # no reason to lose the findings
                # They let go of such a file a moment after we, or a process that ended, closed it.
                if refusal.errno in _STILL_OPEN and time.monotonic() < deadline_s:
                    time.sleep(_PAUSE_S)
                    continue
                self.left = refusal
            return


def remove_stale(directory: str) -> int:
    """Remove the directories that killed examinations left in a directory; return how many there were."""
    stale = 0
    for name in system.list_directory(directory):
        path = os.path.join(directory, name)
        if name.startswith(_PREFIX) and system.is_directory(path):
            try:
                if not system.is_locked(os.path.join(path, _IN_USE)):
                    _remove_tree(path)
                    stale += 1
            except OSError:
                continue  # another process removes it, or we may not
    return stale


def _remove_tree(path: str) -> None:
    try:
        names = system.list_directory(path)
    except FileNotFoundError:
        return
    for name in names:
        inside = os.path.join(path, name)
        try:
            is_directory = system.is_directory(inside)
        except FileNotFoundError:
            continue
        if is_directory:
            _remove_tree(inside)
        else:
            system.remove(inside)
    system.remove_directory(path)
