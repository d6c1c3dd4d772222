"""A disk that loses power, fills up and fails, in the place of the one below this process."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from mpcheckpoint.testing._simulation.images import Choices, DiskImage, images, keep_identities
from mpcheckpoint.testing._simulation.medium import DirectoryOnDisk, EntryChange, FileOnDisk
from mpcheckpoint.testing._simulation.seam import CALLS, Seam, SeamCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

When = Literal["before", "in", "after"]

# These change something only if they create something; or never.
_CREATING = frozenset({"open_file", "create_locked", "make_directory"})
_UNCHANGING = frozenset({"prove_locking", "network_file_system", "unknown_file_system"})


class SimulatedCrash(BaseException):
    """The process died here. Nothing of it reaches the disk any more; code that catches this is not there to run."""


@dataclass
class _PlannedFault:
    """Something that is to happen at certain calls."""

    at: int
    times: int
    name: str | None
    on: re.Pattern[str]
    act: Callable[[SeamCall], Any]
    seen: int = 0

    def is_due(self, call: SeamCall, path: str) -> bool:
        if self.name not in (None, call.name) or not self.on.search(path):
            return False
        self.seen += 1
        return self.at <= self.seen < self.at + self.times


class SimulatedDisk:
    """A directory as if it were a disk of its own: a model of what is durable, with faults on demand.

    Inside the ``with`` block every call that the library makes on files below ``root`` goes through the model. What is
    read and written stands in real files, so that other programs can look; what a loss of power would leave of them
    is given by ``images``. A sync costs nothing here. The same seed and the same calls give the same images.

    Locking: for one thread, which may play several processes (``SimulatedProcess``).
    """

    def __init__(self, root: str | os.PathLike[str], *, seed: int = 0) -> None:
        """Stand in for the disk that holds ``root``, a directory: all that is in it now counts as durable."""
        self.root = Path(root).resolve()
        self._prefix = f"{self.root}{os.sep}"
        self.seed = seed
        self.is_crashed = False
        # What was called, and the numbers (from 1) of those calls that changed, or synced, anything on the disk.
        self.calls: list[str] = []
        self.changing: list[int] = []
        self._changed = False
        self._plans: list[_PlannedFault] = []
        self._seam = Seam(self._handle)
        self._next_inode = itertools.count(1)
        self._start()

    def __enter__(self) -> Self:
        self._seam.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seam.__exit__(kind, error, trace)

    # --- faults -----------------------------------------------------------------------------------------------

    def crash(self, *, at: int = 1, when: When = "before", name: str | None = None, on: str = "") -> None:
        """Let the process die at the ``at``-th call from now on: before it, after it, or with half of a write done.

        From then on every call raises SimulatedCrash and does nothing.

        Args:
            name: count only calls of this function of the seam (one of ``CALLS``), such as ``sync_data``.
            on: count only calls on files in whose path this regular expression is found.
        """

        def die(call: SeamCall) -> Any:
            if when == "after":
                self._do(call)
            elif when == "in" and call.name == "write_at":
                self._do(_shortened(call, len(call.arguments[1]) // 2))
            self.is_crashed = True
            raise SimulatedCrash(f"{when} {call}")

        self._plan(die, at=at, times=1, name=name, on=on)

    def fail(
        self,
        error: int | BaseException,
        *,
        at: int = 1,
        times: int = 1,
        name: str | None = None,
        on: str = "",
    ) -> None:
        """Let the ``at``-th call from now on, and ``times`` calls in all, fail with ``error``: errno or exception.

        Nothing is done by a call that fails; but a sync that fails with an errno forgets what it should have written,
        as Linux does, and the next sync through any other descriptor that was open then fails once, too.
        """

        def refuse(call: SeamCall) -> Any:
            if not isinstance(error, int):
                raise error  # a Ctrl-C, or no memory: the system was not asked
            if call.name == "sync_data":
                self._fail_to_sync(call.arguments[0])
            raise OSError(error, os.strerror(error))

        self._plan(refuse, at=at, times=times, name=name, on=on)

    def write_short(self, taken_bytes: int, *, at: int = 1, times: int = 1, on: str = "") -> None:
        """Let the ``at``-th call from now on, and ``times`` calls in all, take only so many bytes if it is a write."""

        def take_less(call: SeamCall) -> Any:
            return self._do(_shortened(call, taken_bytes) if call.name == "write_at" else call)

        self._plan(take_less, at=at, times=times, name=None, on=on)

    def fill_up(self, free_bytes: int, *, on: str = "") -> None:
        """Let writes take only ``free_bytes`` more bytes in all, and then fail with ENOSPC, until ``clear``."""
        left = free_bytes

        def take(call: SeamCall) -> Any:
            nonlocal left
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken = self._do(_shortened(call, left))
            left -= taken
            return taken

        self._plan(take, at=1, times=1 << 62, name="write_at", on=on)

    def meanwhile(
        self, action: Callable[[], object], *, at: int = 1, name: str | None = None, on: str = ""
    ) -> None:
        """Call ``action`` right before the ``at``-th call from now on: what another process does at that moment.

        Let a ``SimulatedProcess`` do it. It must not wait for a lock that is held here: give it a ``lock_timeout_s``.
        """

        def interrupt(call: SeamCall) -> Any:
            action()
            return self._do(call)

        self._plan(interrupt, at=at, times=1, name=name, on=on)

    def clear(self) -> None:
        """Plan no more faults; what has happened stays."""
        self._plans = []

    def _plan(
        self, act: Callable[[SeamCall], Any], *, at: int, times: int, name: str | None, on: str
    ) -> None:
        if at < 1 or times < 1:
            raise ValueError(f"calls are counted from 1, not {min(at, times)}")
        if name is not None and name not in CALLS:
            raise ValueError(f"no function of the seam: {name!r}; there are {list(CALLS)}")
        self._plans.append(_PlannedFault(at, times, name, re.compile(on), act))

    # --- loss of power ----------------------------------------------------------------------------------------

    def images(self, limit: int = 16) -> list[DiskImage]:
        """Return at most ``limit`` different images of what a loss of power at this moment may leave.

        All there are, if they are so few; else a sample that the seed chooses. The first has all that was written:
        what the death of the process alone leaves.
        """
        self._see_all()
        choices = Choices(self._root_inode, self._files, self._directories)
        return list(images(choices, limit=limit, seed=self.seed))

    def revive(self) -> None:
        """Let a new process run, without faults, after one has crashed: what was not synced still is not."""
        self.is_crashed = False
        self.clear()

    def restore(self, image: DiskImage) -> None:
        """Put an image in the place of what is there, and call it durable. Requires: nobody has a file open below."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path_below, data in sorted(image.content.items()):
            if data is None:
                (self.root / path_below).mkdir()
            else:
                (self.root / path_below).write_bytes(data)
        keep_identities(self.root)
        self._start()
        self.is_crashed = False

    # --- the model --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Take all that is there for durable."""
        self._inodes: dict[tuple[int, int], int] = {}
        self._files: dict[int, FileOnDisk] = {}
        self._directories: dict[int, DirectoryOnDisk] = {}
        # How many failed syncs of its file a descriptor has told of: each tells of each once.
        self._errors_seen: dict[int, int] = {}
        self._root_inode = self._inode(os.stat(self.root))
        for directory, names, file_names in os.walk(self.root):
            inode = self._inode(os.stat(directory))
            entries = {}
            for name in [*names, *file_names]:
                status = os.lstat(os.path.join(directory, name))
                entries[name] = self._inode(status)
            self._directories[inode] = DirectoryOnDisk(entries)
            for name in file_names:
                self._files[entries[name]] = FileOnDisk.durable(_content(os.path.join(directory, name)))

    def _handle(self, call: SeamCall) -> Any:
        if self.is_crashed:
            raise SimulatedCrash("this process is dead")
        path = call.path
        if not self._is_below(path):
            # What leads to the disk counts as durable.
            return None if call.name == "sync_directory" else call.proceed()
        self.calls.append(f"{call.name} {path[len(str(self.root)) + 1 :]}")
        due = [plan for plan in self._plans if plan.is_due(call, path)]
        return due[0].act(call) if due else self._do(call)

    def _is_below(self, path: str) -> bool:
        return path.startswith(self._prefix) or path == str(self.root)

    def _do(self, call: SeamCall) -> Any:
        """Do what is called for, in the model too."""
        modelled = getattr(self, f"_on_{call.name}", None)
        if modelled is None:
            return call.proceed()
        self._changed = call.name not in _CREATING | _UNCHANGING
        result = modelled(call)
        if self._changed:
            self.changing.append(len(self.calls))
        return result

    def _on_prove_locking(self, call: SeamCall) -> Any:
        call.options["with_child"] = False  # starting an interpreter proves nothing about a disk
        return call.proceed()

    def _on_network_file_system(self, call: SeamCall) -> None:
        """Return None: this disk is a local one."""

    _on_unknown_file_system = _on_network_file_system

    def _on_write_at(self, call: SeamCall) -> Any:
        fd, _, offset = call.arguments
        file = self._file_of(fd)
        written = call.proceed()
        file.write(_content(fd), offset, offset + written)
        return written

    def _on_truncate(self, call: SeamCall) -> Any:
        file = self._file_of(call.arguments[0])
        call.proceed()
        file.write(_content(call.arguments[0]), 0, 0)

    def _on_sync_data(self, call: SeamCall) -> Any:
        fd = call.arguments[0]
        file = self._file_of(fd)
        if self._errors_seen.get(fd, 0) < file.errors:
            self._fail_to_sync(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        file.sync()

    def _fail_to_sync(self, fd: int) -> None:
        file = self._file_of(fd)
        if self._errors_seen.get(fd, 0) == file.errors:
            file.errors += 1
        file.fail_to_sync()
        self._errors_seen[fd] = file.errors

    def _on_sync_directory(self, call: SeamCall) -> Any:
        path = call.arguments[0]
        self._directory(path).sync(self._live_entries(path))

    def _on_make_directory(self, call: SeamCall) -> Any:
        path = call.arguments[0]
        is_made = call.proceed()
        if is_made:
            self._change(path, self._inode(os.lstat(path)))
        return is_made

    def _on_open_file(self, call: SeamCall) -> Any:
        path = call.arguments[0]
        was_there = os.path.lexists(path)
        opened = call.proceed()
        if opened is not None:
            inode = self._inode(os.stat(opened.fd))
            self._errors_seen[opened.fd] = self._files[inode].errors
            if not was_there:
                self._change(path, inode)
        return opened

    _on_create_locked = _on_open_file

    def _on_publish(self, call: SeamCall) -> Any:
        temporary, path = call.arguments
        inode = self._inode(os.lstat(temporary))
        is_published = call.proceed()
        if is_published:
            self._change(path, inode)
        self._change(temporary, None)
        return is_published

    def _on_replace(self, call: SeamCall) -> Any:
        temporary, path = call.arguments
        inode = self._inode(os.lstat(temporary))
        self._forget(path)
        call.proceed()
        self._change(path, inode, gone=os.path.basename(temporary))

    def _on_remove(self, call: SeamCall) -> Any:
        path = call.arguments[0]
        was_there = os.path.lexists(path)
        self._forget(path)
        is_removed = call.proceed()
        if was_there and not os.path.lexists(path):
            self._change(path, None)
        return is_removed

    _on_remove_unlocked = _on_remove

    def _change(self, path: str, inode: int | None, gone: str | None = None) -> None:
        directory = self._directory(os.path.dirname(path))
        directory.changes.append(EntryChange(os.path.basename(path), inode, gone))
        self._changed = True

    def _directory(self, path: str) -> DirectoryOnDisk:
        return self._directories[self._inode(os.stat(path))]

    def _file_of(self, fd: int) -> FileOnDisk:
        """Return the model of an open file, with what was done to it by other means than the seam."""
        file = self._files[self._inode(os.fstat(fd))]
        file.see(_content(fd))
        return file

    def _inode(self, status: os.stat_result) -> int:
        """Return a number of our own for a file: the system gives those of removed files to new ones."""
        key = (status.st_dev, status.st_ino)
        if key not in self._inodes:
            inode = self._inodes[key] = next(self._next_inode)
            if stat.S_ISDIR(status.st_mode):
                self._directories[inode] = DirectoryOnDisk()
            else:
                self._files[inode] = FileOnDisk()
        return self._inodes[key]

    def _forget(self, path: str) -> None:
        """Take note that a name is about to go; a file without names keeps what is known of it, and its number."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        inode = self._inode(status)
        if inode in self._files:
            self._files[inode].see(_content(path))
            if status.st_nlink == 1:
                del self._inodes[status.st_dev, status.st_ino]

    def _live_entries(self, path: str | os.PathLike[str]) -> dict[str, int]:
        with os.scandir(path) as entries:
            return {entry.name: self._inode(entry.stat(follow_symlinks=False)) for entry in entries}

    def _see_all(self) -> None:
        """Take note of what was done to files and directories by other means than the seam."""
        for directory, _, names in os.walk(self.root):
            self._directory(directory).notice_changes_from_outside(self._live_entries(directory))
            for name in names:
                path = os.path.join(directory, name)
                self._files[self._inode(os.lstat(path))].see(_content(path))


def _shortened(call: SeamCall, taken_bytes: int) -> SeamCall:
    fd, data, offset = call.arguments
    return SeamCall(call.number, call.name, (fd, data[:taken_bytes], offset), call.options)


def _content(file: int | str) -> bytes:
    if isinstance(file, str):
        return Path(file).read_bytes()
    return os.pread(file, os.fstat(file).st_size, 0)
