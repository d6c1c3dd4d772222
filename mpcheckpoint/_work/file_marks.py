"""What the file that an item names was when the item was done, and whether it is another by now."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint._format.advice import a, shown

if TYPE_CHECKING:
    from mpcheckpoint._work.inputs import Input, NotYet

    Entry = TypeVar("Entry", Input, Input | NotYet)

# What an outcome says of the file of its item.
Mark = dict[str, Any]
FileOf = Callable[[Any], str | bytes | os.PathLike[Any]]

# There is no such file: the item is a URL, say, or its file was removed.
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


class ChangedFiles(Enum):
    """How the file of an item is compared with what it was."""

    STAT = "stat"
    HASH = "hash"

    @classmethod
    def of(cls, value: object) -> ChangedFiles | None:
        """Return what ``changed_files=`` means.

        Raises:
            ValueError: nothing.
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls.STAT
        if isinstance(value, str) and value in {each.value for each in cls}:
            return cls(value)
        raise ValueError(
            f"changed_files is False, True or 'stat' (size and time), or 'hash' (content), not {value!r}"
        )


def item_itself(item: Any) -> str | bytes | os.PathLike[Any]:
    """Return the file that an item is the name of.

    Raises:
        TypeError: it is no name.
    """
    if isinstance(item, str | bytes | os.PathLike):
        return item
    raise TypeError(
        f"an item that is no path needs file=, a function that returns the path of its file; got {a(type(item))}: "
        f"{shown(item)}"
    )


def chosen(changed_files: object, file: object) -> tuple[ChangedFiles | None, FileOf]:
    """Return what the arguments ``changed_files`` and ``file`` of the caller mean.

    Raises:
        ValueError: ``changed_files`` means nothing, or is missing.
        TypeError: ``file`` is no function.
    """
    changed = ChangedFiles.of(changed_files)
    if file is None:
        return changed, item_itself
    if not callable(file):
        raise TypeError(
            f"file is a function that returns the path of an item's file, not {a(type(file))}: {shown(file)}"
        )
    if changed is None:
        raise ValueError("file= says which file changed_files= compares; give both")
    return changed, file


def marked(source: Iterable[Entry], changed: ChangedFiles, file_of: FileOf) -> Iterator[Entry]:
    """Yield inputs with the marks of their files.

    A mark is made before its item runs. So a file that changes meanwhile has another one next time, and the item runs
    once more.
    """
    for entry in source:
        if isinstance(entry, tuple):
            yield entry._replace(file=mark_of(file_of(entry.item), changed))
        else:
            yield entry


def mark_of(path: str | bytes | os.PathLike[Any], changed: ChangedFiles) -> Mark:
    """Return what a file is now; links are followed."""
    try:
        found = os.stat(path)
        mark: Mark = {"size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
        # A pipe would never end; a directory has no content to read.
        if changed is ChangedFiles.HASH and stat.S_ISREG(found.st_mode):
            with open(path, "rb", buffering=0) as file:
                mark["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    except ValueError:  # a NUL byte
        return {"missing": True}
    except OSError as error:
        if error.errno in _NO_FILE:
            return {"missing": True}
        return {"unreadable": error.strerror or str(error)}
    return mark


def is_changed(recorded: object, now: Mark) -> bool:
    """Return whether a file is another than its mark says. What is not known counts as changed.

    Args:
        recorded: its mark in an outcome; any other value if that has none.
    """
    if not isinstance(recorded, dict) or "unreadable" in now or "unreadable" in recorded:
        return True
    if "missing" in now or "missing" in recorded:
        return ("missing" in now) != ("missing" in recorded)
    if recorded.get("size_bytes") != now["size_bytes"]:
        return True
    name = "sha256" if "sha256" in now else "mtime_ns"
    return bool(recorded.get(name) != now[name])
