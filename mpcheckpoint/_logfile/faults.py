"""What errors of the operating system mean: errno to typed error."""

from __future__ import annotations

import errno
import os

from mpcheckpoint.errors import (
    CheckpointError,
    LockUnsupportedError,
    NotAStoreError,
    ReadFailedError,
    StoreAccessError,
    StoreNotFoundError,
    WriteFailedError,
)

_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
_ADVICE: dict[int | None, str] = {
    errno.ENOSPC: "free some space and try again",
    errno.EDQUOT: "free some of the quota and try again",
    errno.EFBIG: "raise the limit on the size of files and try again",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and try again",
    errno.ENFILE: "the system has too many open files; try again",
}


NOT_APPENDED, NOT_CHANGED = "nothing was appended", "nothing was changed"


def typed(
    error: OSError, *, doing: str, path: str, is_read: bool = False, left: str = NOT_APPENDED
) -> CheckpointError:
    """Return the typed error for an OSError raised while ``doing`` something to ``path``.

    Args:
        left: where it was to be written to, what that leaves, in words.
    """
    if isinstance(error.filename, str):
        path = error.filename
    reason = error.strerror or str(error)
    what = f"{doing} {path}: {reason}"
    advice = _ADVICE.get(error.errno, "try again when the cause is gone")
    result: CheckpointError
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EISDIR):
        result = NotAStoreError(f"{what}; {_in_the_way(path)}", path=path, reason=reason)
    elif error.errno in _REFUSED:
        right = "mount it for writing" if error.errno == errno.EROFS else "change its permissions"
        advice = shell_advice = f"{right}, or read it as a user who may"
        if not is_read:
            advice = f"{right}, or open the store with read_only=True"
            shell_advice = f"{right}, or run this as a user who may write there"
        result = StoreAccessError(what, path=path, reason=reason, advice=advice, shell_advice=shell_advice)
    elif error.errno == errno.ENOENT:
        result = StoreNotFoundError(f"{what}; was the store removed?", path=path, reason=reason)
    elif error.errno in _NO_LOCKS:
        what += "; the file system does not lock files: keep the store on a local one"
        result = LockUnsupportedError(what, path=path, reason=reason)
    elif is_read:
        what += f"; what was read before stays valid; {advice}"
        result = ReadFailedError(what, path=path, reason=reason)
    else:
        result = WriteFailedError(f"{what}; {left}; {advice}", path=path, reason=reason)
    if isinstance(result, OSError):
        result.errno = error.errno
    return result


def _in_the_way(path: str) -> str:
    """Return, in words, what stands where a directory should."""
    parent = path
    while (parent := os.path.dirname(parent)) not in ("", os.path.dirname(parent)):
        if os.path.lexists(parent) and not os.path.isdir(parent):
            return f"{parent} is no directory: a store is one, and lies in one"
    return "a file, directory or symbolic link stands where the store expects something else"


class translated:  # noqa: N801 - reads as a verb in a with statement
    """Raise an OSError of the block as a typed error."""

    __slots__ = ("_doing", "_is_read", "_left", "_path")

    def __init__(self, doing: str, path: str, *, is_read: bool = False, left: str = NOT_APPENDED) -> None:
        self._doing = doing
        self._path = path
        self._is_read = is_read
        self._left = left

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, CheckpointError):
            raise typed(
                error, doing=self._doing, path=self._path, is_read=self._is_read, left=self._left
            ) from error
