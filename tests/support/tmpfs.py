"""A small RAM disk, for tests that fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from mpcheckpoint.testing._power_cuts.mounts import force_unmount, run, unmount

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class TmpFileSystem:
    """A tmpfs of ``size_bytes``, mounted inside the ``with`` block. Needs root."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self.mountpoint = directory / "tmpfs.mounted"
        self.size_bytes = size_bytes

    def __enter__(self) -> Self:
        self.mountpoint.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={self.size_bytes},mode=0755", "tmpfs", self.mountpoint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                unmount(self.mountpoint)  # a test that leaves a file open here is told so
        finally:
            force_unmount(self.mountpoint)

    def remount_read_only(self) -> None:
        """Let nobody write any more. Requires: no file is open for writing."""
        run("mount", "-o", "remount,ro", self.mountpoint)

    def resize(self, size_bytes: int) -> None:
        """Give or take room: a full disk on which space was freed."""
        run("mount", "-o", f"remount,size={size_bytes}", self.mountpoint)
        self.size_bytes = size_bytes
