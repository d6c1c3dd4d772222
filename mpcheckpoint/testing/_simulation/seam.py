"""Stand in for the operating system: one handler in place of every function of the platform seam.

The library calls ``mpcheckpoint._system`` through its attributes. Replacing those reaches every use of a file, a lock
or the clock, and nothing else in the process.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

# These change something on the disk: a crash or a failure can come between any two of them.
CHANGING = (
    *("create_locked", "give_access", "make_directory", "open_file", "publish", "remove", "remove_unlocked"),
    *("replace", "sync_data", "sync_directory", "truncate", "write_at"),
)
# No I/O calls: the clock, and functions that only read the kernel's tables, or only judge.
_NOT_CALLS = (
    *("account_name", "file_system_kind", "lock_status", "locked_out", "naming_all", "now_us", "user_id"),
    "without_execute",
)
CALLS = tuple(
    name
    for name, value in sorted(vars(system).items())
    if callable(value) and not isinstance(value, type) and name not in _NOT_CALLS
)

_LONGEST_PATH_BYTES = 1024

# The real functions, whatever replaces them.
_REAL: dict[str, Callable[..., Any]] = {name: getattr(system, name) for name in CALLS}


@dataclass(frozen=True, slots=True)
class SeamCall:
    """One call of a function of the seam, about to be done.

    Attributes:
        number: its 1-based index among the calls that the handler sees.
        name: the function, such as ``write_at``.
        arguments, options: what it was called with.
    """

    number: int
    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def path(self) -> str:
        """The file or directory that it is about; "" if that is unknown."""
        file = self.arguments[0] if self.arguments else self.options.get("path", "")
        return path_of(file) if isinstance(file, int) else os.fspath(file)

    def shortened(self, taken_bytes: int | None = None) -> SeamCall:
        """Return the same write, of the first ``taken_bytes`` only; None for the first half."""
        fd, data, offset = self.arguments
        taken = data[: len(data) // 2 if taken_bytes is None else taken_bytes]
        return replace(self, arguments=(fd, taken, offset))

    def proceed(self) -> Any:
        """Call the real function and return what it returns."""
        return _REAL[self.name](*self.arguments, **self.options)

    def __str__(self) -> str:
        return f"{self.number} {self.name} {self.path}"


class Seam:
    """Hands every call of the seam to ``handler(call)`` inside the ``with`` block.

    Concurrency: calls of all threads are numbered in the order of arrival. One seam at a time in a process: an earlier
    one sees no calls until this one leaves.
    """

    def __init__(self, handler: Callable[[SeamCall], Any], *, names: Collection[str] = CALLS) -> None:
        unknown = set(names) - set(CALLS)
        if unknown:
            raise ValueError(f"no functions of the seam: {sorted(unknown)}; there are {list(CALLS)}")
        self._handler = handler
        self._names = names
        self._earlier: dict[str, Callable[..., Any]] = {}
        # Without a lock: one thread may fork the process while another is here.
        self._numbers = itertools.count(1)
        self.count = 0

    def __enter__(self) -> Self:
        for name in self._names:
            self._earlier[name] = getattr(system, name)
            setattr(system, name, self._stand_in(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._earlier.items():
            setattr(system, name, function)
        self._earlier = {}

    def _stand_in(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count = number = next(self._numbers)
            return self._handler(SeamCall(number, name, arguments, options))

        return call


def path_of(fd: int) -> str:
    """Return the path of an open file; "" if it has none."""
    try:
        if sys.platform == "darwin":
            return os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(_LONGEST_PATH_BYTES)).rstrip(b"\0"))
        return os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")
    except OSError:
        return ""
