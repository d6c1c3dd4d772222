"""Records of calls: read, made comparable, compared.

Two runs of one program differ in what the system gives them: numbers of descriptors, inodes, threads, times of birth.
These are replaced by the order in which they came. All else has to be equal.
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


class _Numbers:
    """Numbers in the place of those that the system gave, in the order in which they came."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}

    def __call__(self, given: int) -> int:
        return self._of.setdefault(given, len(self._of))


def comparable(calls: Iterable[Call]) -> list[Call]:
    """Return calls as they can be compared with those of another run."""
    inodes, threads = _Numbers(), _Numbers()
    return [_comparable(each, inodes)._replace(thread=threads(each.thread)) for each in calls]


def _comparable(call: Call, inodes: _Numbers) -> Call:
    if call.name in {"open", "mmap"} and call.result >= 0:
        return call._replace(result=0)
    data = _INODE.sub(lambda match: f"inode={inodes(int(match[1]))}", call.data)
    offset = _OFFSET.search(call.arguments)
    path = call.path.removesuffix(" (deleted)")  # so the system names a file that has no name any more
    if path.endswith(".page") and call.name in {"pread", "pwrite"} and offset is not None:
        data = comparable_page(bytes.fromhex(data), int(offset[1]), inodes).hex()
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


def is_handed_over(python: Sequence[Call], native: Sequence[Call]) -> bool:
    """Return whether the native path has only looked more often, before its first change, than the one in Python.

    So it may: it has then said "not mine", and Python began anew. All that is changed, and all that follows the first
    change, is equal, and the lock that is held then was taken and given back as often as it should.
    """
    first, native_first = _first_change(python), _first_change(native)
    head, native_head = python[:first], iter(native[:native_first])
    return (
        list(python[first:]) == list(native[native_first:])
        and all(call in native_head for call in head)  # in this order, with others in between
        and _held(python[:first]) == _held(native[:native_first])
    )


def _first_change(calls: Sequence[Call]) -> int:
    return next((at for at, call in enumerate(calls) if call.changes), len(calls))


def _held(calls: Sequence[Call]) -> dict[str, bool]:
    """Return which locks are held at the end."""
    held = {}
    for call in calls:
        if call.name == "flock" and call.result == 0:
            held[call.path] = call.arguments in _LOCKED
    return {path: is_held for path, is_held in held.items() if is_held}
