"""The page of hints of one log: what its writers leave for each other, so that none has to read what others wrote.

The store is right without it: deleted, stale, restored from a backup, filled with rubbish, or from another boot. Each
value carries a check of its own and the generation that it is about; one that does not fit is read once more and is
void then. What it says of the end of the log is believed only where the log's own bytes bear it out.

Layout, in bytes, little-endian; docs/format.md describes it too, as something that may change from version to version:

    0..55     the end        generation 16, writer 8, offset 8, stamp_us 8, allocated 8, stored_crc 4, CRC-32 of that 4
    64..95    what is known  generation 16, durable 8, flags 4, CRC-32 of that 4
    128..135  two words, 4 each, for those who wait for a sync: of a group with an even number, and with an odd one
    136..151  the group whose sync began last: its number 4, zeros 4, the offset that it covers 8, 0 when it has ended
    152..159  until when somebody follows this log: CLOCK_MONOTONIC, in nanoseconds
"""

from __future__ import annotations

import struct
import time
from typing import NamedTuple
from zlib import crc32

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._storage.repair import write_whole

PAGE_BYTES = 4096
_MOST_OFFSET = 1 << 62  # no file is so long; the system refuses to read there
_READ_BYTES = 160
_KNOWN_BYTES = 88
_END_AT, _KNOWN_AT, _WORDS_AT, _GROUP_AT, FOLLOWED_AT = 0, 64, 128, 136, 152
# What their checks are of.
_END_PART, _KNOWN_PART, _KNOWN_BODY_PART = slice(0, 52), slice(64, 92), slice(0, 28)
_GAP_TO_KNOWN, _GAP_TO_WORDS = bytes(8), bytes(32)
_ALL = struct.Struct("<16s8sQQQII 8x 16sQII 64x")
_END_BODY, _KNOWN_BODY, _WORD = struct.Struct("<16s8sQQQI"), struct.Struct("<16sQI"), struct.Struct("<I")
_KNOWN = struct.Struct("<16sQII")
_KNOWN_AND_WORDS = struct.Struct("<16sQII 32x II I4xQ")
_NUMBER, _WORDS, _GROUP = struct.Struct("<Q"), struct.Struct("<II"), struct.Struct("<I4xQ")
FLAGS_AT, _POISONED = 88, 1
_WORD_MASK = 0xFFFFFFFF
NOBODY = bytes(8)
_LONGEST_FOLLOWED_NS = 60 * 10**9


class Hints(NamedTuple):
    """What the page says of one generation, for those who append.

    Attributes:
        end: where the log ends; None if that is void.
        allocated: the offset up to which there is padding.
        writer: who left those two.
        durable: the offset below which somebody's sync has covered all; 0 if that is void.
        is_poisoned: whether somebody's sync failed.
    """

    end: EndState | None
    allocated: int
    writer: bytes
    durable: int
    is_poisoned: bool


class Known(msgspec.Struct, gc=False):
    """What the page says of one generation, for those who sync. A Struct: a NamedTuple is made by a call of its own.

    Attributes:
        durable, is_poisoned: as above.
        words: the values of the two words to wait on.
        group: the number of the sync that began last. Not checked: it only says who wakes whom.
        target: the offset that it will cover; 0 if it has ended. Not checked either.
    """

    durable: int
    is_poisoned: bool
    words: tuple[int, int]
    group: int
    target: int


_NO_HINTS = Hints(None, 0, b"", 0, False)
_NOTHING_KNOWN = Known(0, False, (0, 0), 0, 0)


class Page:
    """The page of one log, as one process has it open.

    Locking rules:
    1. ``publish_end``: under the append lock, so that the end has one writer at a time.
    2. ``publish_durable``: by anyone, at any time, of what is true. Of two at once the later one counts, which may
       state less: that costs somebody a sync, no more.
    3. ``publish_group``: under the leader lock, so that the word changes each time.
    """

    def __init__(self, path: str, generation: str) -> None:
        """Open the page, making it if there is none.

        Raises:
            OSError: there can be none here.
        """
        self._descriptor = system.open_file(path, write=True, create=True)
        self._fd = self._descriptor.fd
        size = system.size_of(self._fd)
        if size < PAGE_BYTES:
            # Written, not only made so long: on a full disk this fails, and no later write can.
            write_whole(self._fd, bytes(PAGE_BYTES - size), size)
        # Of an even and of an odd group.
        self.words = [system.shared_word(self._fd, _WORDS_AT + at) for at in (0, _WORD.size)]
        self._generation = bytes.fromhex(generation)

    def look(self) -> bytes:
        """Return the bytes that say something; none, where they cannot be read."""
        try:
            data = system.read_at(self._fd, _READ_BYTES, 0)
        except OSError:
            return b""
        return data if len(data) == _READ_BYTES else b""

    @staticmethod
    def is_followed(look: bytes) -> bool:
        """Return whether somebody who follows the log waits to be woken."""
        if not look:
            return False
        (until_ns,) = _NUMBER.unpack_from(look, FOLLOWED_AT)
        # From another boot, or rubbish, is what lies too far ahead.
        return bool(0 < until_ns - time.monotonic_ns() < _LONGEST_FOLLOWED_NS)

    def read(self) -> Hints:
        """Return what the page says now."""
        return self.hints_in(self.look())

    def hints_in(self, look: bytes) -> Hints:
        """Return what the page said when these bytes were read. What is void is read once more."""
        hints = self._decoded(look)
        if hints.end is None or not hints.durable:  # it may just have been written
            hints = self._decoded(self.look())
        return hints

    def _decoded(self, data: bytes) -> Hints:
        if not data:
            return _NO_HINTS
        (
            generation, writer, offset, stamp_us, allocated, stored_crc, end_check,
            known_generation, durable, flags, known_check,
        ) = _ALL.unpack(data)  # fmt: skip
        end = None
        if generation == self._generation and end_check == crc32(data[_END_PART]) and offset < _MOST_OFFSET:
            end = EndState(offset, stored_crc, stamp_us)
        if known_generation != self._generation or known_check != crc32(data[_KNOWN_PART]):
            durable = flags = 0
        return Hints(end, allocated, writer, durable, flags == _POISONED)

    def known(self) -> Known:
        """Return what the page says now to those who sync."""
        try:
            data = system.read_at(self._fd, _KNOWN_BYTES, _KNOWN_AT)
        except OSError:
            return _NOTHING_KNOWN
        if len(data) < _KNOWN_BYTES:
            return _NOTHING_KNOWN
        generation, durable, flags, check, even, odd, group, target = _KNOWN_AND_WORDS.unpack(data)
        if generation != self._generation or check != crc32(data[_KNOWN_BODY_PART]):
            durable = flags = 0  # void, or just being written: then we look again soon
        return Known(durable, flags == _POISONED, (even, odd), group, target)

    # --- what writers leave -----------------------------------------------------------------------------------

    def publish_end(self, end: EndState, allocated: int, writer: bytes, durable: int | None) -> bytes:
        """Say where the log ends, and, unless None, below which offset all is durable, in one write.

        Return what the page begins with then, until somebody else publishes something.

        Requires: the append lock, a whole batch that ends there, and that ``durable`` is true of this generation.
        """
        offset, stored_crc, stamp_us = end
        data = _END_BODY.pack(self._generation, writer, offset, stamp_us, allocated, stored_crc)
        data += _WORD.pack(crc32(data))
        if durable is not None:
            known = _KNOWN_BODY.pack(self._generation, durable, 0)
            data += _GAP_TO_KNOWN + known + _WORD.pack(crc32(known))
        try:
            system.write_at(self._fd, data, _END_AT)
        except OSError:
            return b""
        return data

    def publish_durable(self, durable: int, *, is_poisoned: bool = False) -> None:
        """Say below which offset all is durable, and whether a sync has failed.

        Requires: it is true of this generation.
        """
        self._write(self._known(durable, is_poisoned), _KNOWN_AT)

    def begin_group(self, group: int, target: int) -> None:
        """Say which sync begins, and how far it will reach. Requires: the leader lock."""
        self._write(_GROUP.pack(group & _WORD_MASK, target), _GROUP_AT)

    def publish_group(self, durable: int, known: Known, group: int, *, is_poisoned: bool = False) -> None:
        """Say what came of the sync of a group, and change its word from what it was.

        Requires: it is true of this generation, and the leader lock.
        """
        words = list(known.words)
        words[group % 2] = (words[group % 2] + 1) & _WORD_MASK
        ended = _WORDS.pack(*words) + _GROUP.pack(group & _WORD_MASK, 0)
        self._write(self._known(durable, is_poisoned) + _GAP_TO_WORDS + ended, _KNOWN_AT)

    def _known(self, durable: int, is_poisoned: bool) -> bytes:
        body = _KNOWN_BODY.pack(self._generation, durable, _POISONED if is_poisoned else 0)
        return body + _WORD.pack(crc32(body))

    def _write(self, data: bytes, at: int) -> None:
        try:
            system.write_at(self._fd, data, at)
        except OSError:
            pass  # a hint less; what stood there is checked before it is believed

    # --- waiting ----------------------------------------------------------------------------------------------

    def wake(self, group: int) -> None:
        """Wake those who wait for this group, in every process, and one of those who wait for the next."""
        self.words[group % 2].wake()
        self.words[1 - group % 2].wake(1)

    # --- life -------------------------------------------------------------------------------------------------

    def is_at(self, path: str) -> bool:
        """Return whether this is still the page that stands at ``path``, and whole."""
        try:
            at_path, own = system.stat_path(path), system.stat_fd(self._fd)
        except OSError:
            return False
        is_same = (at_path.st_dev, at_path.st_ino) == (own.st_dev, own.st_ino)
        return is_same and own.st_size >= PAGE_BYTES

    def close(self) -> None:
        """Close it, in a forked child; elsewhere whoever lets go of it last does."""
        self._descriptor.close()
        for word in self.words:
            word.close()


def followed_until(monotonic_ns: int) -> bytes:
    """Return what stands at FOLLOWED_AT while somebody follows."""
    return _NUMBER.pack(monotonic_ns)


def stated_generation(path: str) -> str | None:
    """Return the generation that the page at ``path`` speaks of; None if it says nothing. Only reads."""
    try:
        page = system.open_file(path)
        data = system.read_at(page.fd, _READ_BYTES, 0)
    except OSError:
        return None
    if len(data) < _READ_BYTES:
        return None
    stated, _, _, check = _KNOWN.unpack_from(data, _KNOWN_AT)
    is_valid = any(stated) and check == crc32(data[_KNOWN_PART])
    return bytes(stated).hex() if is_valid else None


def stated_durable(path: str, generation: str) -> int:
    """Return the offset below which the page at ``path`` calls all durable; 0 if it says nothing. Only reads."""
    try:
        page = system.open_file(path)
        data = system.read_at(page.fd, _READ_BYTES, 0)
    except OSError:
        return 0
    if len(data) < _READ_BYTES:
        return 0
    stated, durable, _, check = _KNOWN.unpack_from(data, _KNOWN_AT)
    is_valid = stated == bytes.fromhex(generation) and check == crc32(data[_KNOWN_PART])
    return int(durable) if is_valid else 0
