"""The only place that knows the operating system: descriptors, positioned I/O, syncs, directories, locks, time.

One module per system, each with the same few functions. Callers go through the attributes of this module
(``system.sync_data(fd)``), so that a test can replace any of them by a fault. Functions raise plain OSError; the layers
above decide what that means for a store.
"""
# The imports are the list of what is here.
# ruff: noqa: F401
# mypy: implicit-reexport

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mpcheckpoint import _core
from mpcheckpoint._system.access import (
    Access,
    access_of,
    account_name,
    give_access,
    locked_out,
    naming_all,
    user_id,
    without_execute,
)
from mpcheckpoint._system.clock import now_us
from mpcheckpoint._system.file_systems import file_system_kind, network_file_system, unknown_file_system
from mpcheckpoint._system.files import (
    Descriptor,
    exists,
    free_bytes,
    is_directory,
    list_directory,
    make_directory,
    most_open_files,
    open_file,
    open_files_limit,
    open_source,
    publish,
    read_at,
    read_next,
    read_once,
    remove,
    remove_directory,
    replace,
    size_of,
    space_at,
    stat_fd,
    stat_path,
    touch,
    truncate,
    write_at,
)
from mpcheckpoint._system.holders import LockHolder, LockState, LockStatus, lock_status, openers
from mpcheckpoint._system.locks import LockProof, is_locked, lock, prove_locking, store_lock, try_lock, unlock
from mpcheckpoint._system.memory import can_tell_memory, memory_above
from mpcheckpoint._system.statx import FileStatus, file_status, has_statx, path_mark, path_status
from mpcheckpoint._system.workers import create_locked, remove_unlocked
from mpcheckpoint.errors import UnsupportedPlatformError

if sys.platform == "linux":
    from mpcheckpoint._system.linux import mount_of, shared_word, sync_data, sync_directory
elif sys.platform == "darwin":
    from mpcheckpoint._system.macos import mount_of, shared_word, sync_data, sync_directory
else:
    raise UnsupportedPlatformError(
        f"mpcheckpoint does not run on {sys.platform}: its locks and syncs are tested on Linux and written for "
        "macOS only",
        reason="unsupported platform",
    )

# The native core, where it does what is above in place of several functions of this module; None without one.
native: Any = _core.native if hasattr(_core.native, "AppendState") else None


class _Seam(ModuleType):
    """This module: while one of its functions is replaced, native code must not pass it by."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _OWN:
            (_replaced.discard if value is _OWN[name] else _replaced.add)(name)
            super().__setattr__("native", None if _replaced else _NATIVE)


_OWN, _NATIVE = {name: value for name, value in globals().items() if callable(value)}, native
_replaced: set[str] = set()
sys.modules[__name__].__class__ = _Seam
