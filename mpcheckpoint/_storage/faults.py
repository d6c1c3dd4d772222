"""What the operating system's refusals mean: errno to typed error."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mpcheckpoint.errors import (
    CheckpointError,
    LockUnsupportedError,
    NotAStoreError,
    ReadFailedError,
    StoreAccessError,
    StoreNotFoundError,
    WriteFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
_ADVICE: dict[int | None, str] = {
    errno.ENOSPC: "free some space and try again",
    errno.EDQUOT: "free some of the quota and try again",
    errno.EFBIG: "raise the limit on the size of files and try again",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and try again",
    errno.ENFILE: "the system has too many open files; try again",
}


def typed(error: OSError, *, doing: str, path: str, is_read: bool = False) -> CheckpointError:
    """Return the typed error for a refusal met while ``doing`` something to ``path``. Nothing was written."""
    what = f"{doing} {path}: {error.strerror or error}"
    reason = error.strerror or str(error)
    result: CheckpointError
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EISDIR):
        result = NotAStoreError(
            f"{what}; a file, directory or symbolic link stands where the store expects something else",
            path=path,
            reason=reason,
        )
    elif error.errno in _REFUSED:
        result = StoreAccessError(
            f"{what}; change its permissions, or open the store with read_only=True", path=path, reason=reason
        )
    elif error.errno == errno.ENOENT:
        result = StoreNotFoundError(f"{what}; was the store removed?", path=path, reason=reason)
    elif error.errno in _NO_LOCKS:
        result = LockUnsupportedError(
            f"{what}; the file system does not lock files: keep the store on a local one", path=path, reason=reason
        )
    elif is_read:
        result = ReadFailedError(f"{what}; what was read before stays valid", path=path, reason=reason)
    else:
        advice = _ADVICE.get(error.errno, "try again when the cause is gone")
        result = WriteFailedError(f"{what}; nothing was appended; {advice}", path=path, reason=reason)
    if isinstance(result, OSError):
        result.errno = error.errno
    return result


@contextmanager
def translated(doing: str, path: str, *, is_read: bool = False) -> Iterator[None]:
    """Raise the operating system's refusals inside the block as typed errors."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise typed(error, doing=doing, path=path, is_read=is_read) from error
