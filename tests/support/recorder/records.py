"""Records of calls: read, made comparable, compared.

Two runs of one program differ in what the system gives them: numbers of descriptors, inodes, threads, times of birth.
These are replaced by what stands for them in every run. All else has to be equal.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

_OFFSET = re.compile(r"offset=(\d+)")
_INODE = re.compile(r"inode=(\d+)")
# So the system names a file that has no name any more.
_GONE = " (deleted)"
# Where in the page of hints stands which file it is about, with a check, and until when somebody follows:
# docs/format.md has the layout.
_BOUND, _FOLLOWED = slice(64, 108), slice(152, 160)
_FILE_AT, _CHECK_AT = 16, 40
_FILE, _CHECK = struct.Struct("<QQ"), struct.Struct("<I")
# What it is rung with is the time.
_BELL = b"bell"
_SHOWN_BYTES = 160
_CONTEXT = 3
# What changes something that others see, or is needed so that it lasts.
_CHANGES = frozenset(
    {"pwrite", "write", "ftruncate", "fdatasync", "fsync", "rename", "link", "unlink", "mkdir", "rmdir"}
)
_MAKES = 0o100  # O_CREAT
_LOCKED = {"operation=2", "operation=6"}  # LOCK_EX, and without waiting


class Call(NamedTuple):
    """One call: see recorder.c."""

    thread: int
    name: str
    path: str
    arguments: str
    result: int
    error: int
    data: str
    note: str

    def __str__(self) -> str:
        failed = f" {os.strerror(self.error)}" if self.error else ""
        shown = self.data if len(self.data) <= _SHOWN_BYTES else f"{self.data[:_SHOWN_BYTES]}..."
        note = f" ({self.note})" if self.note else ""
        return f"{self.name} {self.path} {self.arguments} = {self.result}{failed} {shown}{note}".rstrip()

    @property
    def changes(self) -> bool:
        """Whether it may have changed something that others see."""
        flags = re.search(r"flags=(0x[0-9a-f]+|0)", self.arguments) if self.name == "open" else None
        return self.name in _CHANGES or (flags is not None and bool(int(flags[1], 16) & _MAKES))


def read_record(path: Path) -> list[Call]:
    """Return the calls of a record; none if nothing was recorded."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    fields = [line.split("\t") for line in lines]
    return [
        Call(int(thread), name, path, arguments, int(result), int(error), data, note)
        for thread, name, path, arguments, result, error, data, note in fields
    ]


# --- comparable ----------------------------------------------------------------------------------------------


class _Files:
    """Which file an inode is: the number of its path, as that was when the file was looked at first."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._numbers: dict[int, int] = {}
        seen: dict[str, int] = {}
        for call in calls:
            looked = _INODE.match(call.data)
            if looked is not None and int(looked[1]) not in self._numbers:
                path = call.path.removesuffix(_GONE)
                seen[path] = seen.get(path, 0) + 1  # one that came in the place of another has another number
                self._numbers[int(looked[1])] = crc32(f"{path} {seen[path]}".encode())

    def __call__(self, inode: int) -> int:
        return self._numbers.get(inode, 0)


def comparable(calls: Sequence[Call]) -> list[Call]:
    """Return calls as they can be compared with those of another run."""
    files, threads = _Files(calls), dict[int, int]()
    return [
        _comparable(each, files)._replace(thread=threads.setdefault(each.thread, len(threads)))
        for each in calls
    ]


def _comparable(call: Call, files: _Files) -> Call:
    if call.name in {"open", "mmap"} and call.result >= 0:
        return call._replace(result=0)
    data = _INODE.sub(lambda match: f"inode={files(int(match[1]))}", call.data)
    offset = _OFFSET.search(call.arguments)
    path = call.path.removesuffix(_GONE)
    if path.endswith(".page") and call.name in {"pread", "pwrite"} and offset is not None:
        data = comparable_page(bytes.fromhex(data), int(offset[1]), files).hex()
    elif path.endswith("/bell") and call.name in {"pread", "pwrite"} and len(data) == 2 * len(_BELL):
        data = _BELL.hex()
    return call._replace(data=data)


def comparable_page(data: bytes, offset: int, number_of: Callable[[int], int]) -> bytes:
    """Return bytes of a page of hints, which stand at an offset of it, as they can be compared with another's."""
    page = bytearray(max(_FOLLOWED.stop, offset + len(data)))
    page[offset : offset + len(data)] = data
    if any(part := page[_BOUND]):
        inode, born_ns = _FILE.unpack_from(part, _FILE_AT)
        is_valid = _CHECK.unpack_from(part, _CHECK_AT)[0] == crc32(part[:_CHECK_AT])
        _FILE.pack_into(part, _FILE_AT, number_of(inode), int(born_ns > 0))
        _CHECK.pack_into(part, _CHECK_AT, int(is_valid))
        page[_BOUND] = part
    if any(page[_FOLLOWED]):
        page[_FOLLOWED] = b"followed"
    return bytes(page[offset : offset + len(data)])


def without_polls(calls: Iterable[Call]) -> list[Call]:
    """Return calls with one refusal of a lock in the place of many: how often it is asked for depends on the time."""
    kept: list[Call] = []
    for call in calls:
        if call.name != "flock" or call.result == 0 or not kept or kept[-1] != call:
            kept.append(call)
    return kept


def tree_of(directory: Path) -> dict[str, str]:
    """Return everything below a directory as it can be compared: kind, permissions and bytes, by relative path."""
    if not directory.exists():
        return {}
    paths = sorted(directory.rglob("*"))
    names = {path.lstat().st_ino: number for number, path in enumerate(paths)}
    tree = {}
    for path in paths:
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if path.suffix == ".page":
            content = comparable_page(content, 0, lambda inode: names.get(inode, len(names)))
        if path.name == "bell" and any(content):
            content = _BELL + content[len(_BELL) :]
        tree[str(path.relative_to(directory))] = f"{stat.filemode(path.lstat().st_mode)} {content!r}"
    return tree


# --- compared ------------------------------------------------------------------------------------------------


def differences(one: Sequence[Call], other: Sequence[Call]) -> str:
    """Return where two comparable records differ first, with some calls before; "" if they are equal."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return _difference(one, at, str(a), str(b))
    if len(one) == len(other):
        return ""
    at = min(len(one), len(other))
    return _difference(one, at, *(str(each[at]) if at < len(each) else "(no call)" for each in (one, other)))


def _difference(one: Sequence[Call], at: int, a: str, b: str) -> str:
    context = "".join(f"    {each}\n" for each in one[max(0, at - _CONTEXT) : at])
    return f"call {at + 1}:\n{context}  - {a}\n  + {b}\n"


def differences_but_for_looks(python: Sequence[Call], native: Sequence[Call]) -> str:
    """Return where the native path of one append differs, but for more looks before its first change; "" if nowhere.

    These are fine: it has said "not mine" then, and Python began anew. All that is changed, and all that follows the
    first change, has to be equal, and the same locks are to be held then.
    """
    first, native_first = _first_change(python), _first_change(native)
    found = differences(python[first:], native[native_first:])
    if found:
        return f"from the first change on, {found}"
    looks = iter(native[:native_first])
    missed = [
        str(call) for call in python[:first] if call not in looks
    ]  # in this order, with others in between
    if missed:
        return f"before the first change, a call that is not made: {missed[0]}\n"
    held, native_held = _held(python[:first]), _held(native[:native_first])
    return "" if held == native_held else f"before the first change, locks: {held}, {native_held}\n"


def _first_change(calls: Sequence[Call]) -> int:
    return next((at for at, call in enumerate(calls) if call.changes), len(calls))


def _held(calls: Sequence[Call]) -> dict[str, bool]:
    """Return which locks are held at the end."""
    held = {}
    for call in calls:
        if call.name == "flock" and call.result == 0:
            held[call.path] = call.arguments in _LOCKED
    return {path: is_held for path, is_held in held.items() if is_held}
