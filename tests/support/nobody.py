"""Running code as a user who may do nothing: root is never refused, so permission tests need another."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcheckpoint.testing._power_cuts.mounts import run
from support.processes import call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOBODY = 65534

_CLONE_NEWNS = 0x00020000
_MNT_DETACH = 2
_PR_SET_DUMPABLE = 4


def call_as_nobody(function: Callable[..., Any], *args: Any) -> Any:
    """Return what ``function(*args)`` returns in a forked child that runs as NOBODY. Needs root.

    Exceptions come back as they do from `support.processes.call`. The child's current directory is `/`, and it can
    start this Python, also where that is installed below a directory closed to others.
    """
    return call_as_user(NOBODY, NOBODY, function, *args)


def call_as_user(
    uid: int, gid: int, function: Callable[..., Any], *args: Any, groups: Sequence[int] = ()
) -> Any:
    """Return what ``function(*args)`` returns in a forked child of that user, in these groups only. Else as above."""
    # Mounted over only in the child's own name space: when the child is dead, this is an empty directory again.
    with tempfile.TemporaryDirectory() as stage:
        return call(_as_user, Path(stage), (uid, gid, groups), function, args, method="fork")


def give_to_nobody(*paths: Path) -> None:
    """Make NOBODY the owner of these files and directories, and of everything in them."""
    for path in paths:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        if path.is_dir() and not path.is_symlink():
            give_to_nobody(*path.iterdir())


def _as_user(
    stage: Path, user: tuple[int, int, Sequence[int]], function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    uid, gid, groups = user
    os.chdir("/")
    _open_the_way_to_python(stage)
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)
    # Giving up root hides a process's own files in /proc from it; a process that never was root has them.
    _libc().prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    return function(*args)


def _open_the_way_to_python(stage: Path) -> None:
    """Cover each directory closed to others by an open one that has only this Python's directories in it."""
    needed_of: dict[Path, set[Path]] = {}
    for path in {Path(entry).resolve() for entry in (sys.prefix, sys.base_prefix, *sys.path)}:
        closed = _outermost_closed(path)
        if closed is not None and path.exists():
            needed_of.setdefault(closed, set()).add(path)
    if not needed_of:
        return
    _enter_own_name_space()
    for number, (closed, needed) in enumerate(sorted(needed_of.items())):
        _cover(closed, needed, stage / str(number))


def _cover(closed: Path, needed: set[Path], cover: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", cover.parent)
    cover.mkdir()
    for path in sorted(needed):
        if any(other in path.parents for other in needed):
            continue  # comes with that one
        stand_in = cover / path.relative_to(closed)
        stand_in.mkdir(parents=True, exist_ok=True)
        run("mount", "--rbind", path, stand_in)
    run("mount", "--rbind", cover, closed)


def _outermost_closed(path: Path) -> Path | None:
    for directory in reversed(path.parents):
        if not directory.stat().st_mode & 0o001:
            return directory
    return None


def _enter_own_name_space() -> None:
    if _libc().unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare: no mount name space of its own for the child")
    run("mount", "--make-rprivate", "/")
    # A file system would live on in this copy of the mounts after it was unmounted elsewhere, and a mount of its device
    # would show it as it was.
    for line in Path("/proc/self/mounts").read_bytes().splitlines():
        device, mountpoint = line.split()[:2]
        if device.startswith(b"/dev/loop"):
            _libc().umount2(mountpoint.decode("unicode_escape").encode("latin-1"), _MNT_DETACH)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
