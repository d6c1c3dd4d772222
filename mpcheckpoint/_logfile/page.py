"""The page of hints of one log: what its writers leave for each other, so that none has to read what others wrote.

The store is right without it: deleted, stale, restored from a backup, copied with its log or without, filled with
rubbish, or from another boot. Each value has a check of its own and names its generation; one that does not fit is read
once more, and then ignored. The end of the log is believed only where the log's own bytes bear it out. The durable
offset vouches for one file only, that with this inode and time of birth: a copy of a log may have been taken before the
copy of its page, and lack what that calls durable.

docs/format.md has the layout.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.ownership import open_beside_log

if TYPE_CHECKING:
    from mpcheckpoint._logfile.append_state import PureAppendState
    from mpcheckpoint._system import FileStatus

PAGE_BYTES = 4096
_MOST_OFFSET = 1 << 62  # no file is so long; the system refuses to read there
_READ_BYTES = 184
_END_AT, _KNOWN_AT, _WORDS_AT, _GROUP_AT, FOLLOWED_AT, _POISON_AT = 0, 64, 128, 136, 152, 160
FOLLOWED_PART = slice(FOLLOWED_AT, _POISON_AT)
POISON_PART = slice(_POISON_AT, None)
# What their checks are of.
_END_PART, _KNOWN_PART = slice(0, 52), slice(64, 104)

_GAP_TO_KNOWN, _GAP_TO_WORDS = bytes(8), bytes(20)
_ALL = struct.Struct("<16s8sQQQII 8x 32sQI 76x")
_END_BODY, _KNOWN_BODY, _WORD = struct.Struct("<16s8sQQQI"), struct.Struct("<32sQ"), struct.Struct("<I")
_KNOWN = struct.Struct("<32sQI")
_KNOWN_AND_WORDS = struct.Struct("<32sQI 20x II I4xQ 32x")
_BINDING, _FILE, _POISON = struct.Struct("<16sQQ"), struct.Struct("<QQ"), struct.Struct("<16sII")
_POISON_BODY = struct.Struct("<16sI")
_NUMBER, _WORDS, _GROUP = struct.Struct("<Q"), struct.Struct("<II"), struct.Struct("<I4xQ")
_POISONED = 1
_WORD_MASK = 0xFFFFFFFF
NOBODY = bytes(8)
NO_POISON = bytes(_POISON.size)
_LONGEST_FOLLOWED_NS = 60 * 10**9
_MOST_NUMBER = (1 << 64) - 1


class Hints(NamedTuple):
    """What the page says of one generation, for those who append.

    Attributes:
        end: where the log ends; None if that is void.
        allocated: the offset up to which there is padding.
        writer: who left those two.
        durable: the offset below which somebody's sync has covered all, and all was validated from the header on; 0 if
            that is void, or about another file.
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
        look: the bytes that it was read from.
    """

    durable: int
    is_poisoned: bool
    words: tuple[int, int]
    group: int
    target: int
    look: bytes = b""


_NO_HINTS = Hints(None, 0, b"", 0, False)
_NOTHING_KNOWN = Known(0, False, (0, 0), 0, 0)


class Page:
    """The page of one log, as one process has it open.

    Locking rules:
    1. ``publish_end``: under the append lock, so that the end has one writer at a time.
    2. ``publish_group``: under the leader lock, so that the word changes each time. What both of these state as
       durable is true whenever it is written; the later one counts, which may state less: that costs somebody a sync.
    3. ``publish_poison``: by anyone, at any time. Nothing else writes these bytes, so an end or a group that is
       published at the same moment erases nothing; a recovery makes a generation that they are not about.

    Invariant: a process that states an offset as durable knows every byte below it to be part of the chain of lines
    that begins with the header of this very file: it validated them itself, or took over such a statement.
    """

    def __init__(self, path: str, generation: str, log: FileStatus, state: PureAppendState) -> None:
        """Open the page of the log file ``log``, making it if there is none.

        Args:
            state: takes note whether what was read fitted.

        Raises:
            OSError: there can be none here.
        """
        self._descriptor = open_beside_log(path)
        self._fd = self._descriptor.fd
        size = system.size_of(self._fd)
        if size < PAGE_BYTES:
            # Written, not only made so long: on a full disk this fails, and no later write can.
            write_whole(self._fd, bytes(PAGE_BYTES - size), size)
        # Of an even and of an odd group.
        self.words = [system.shared_word(self._fd, _WORDS_AT + at) for at in (0, _WORD.size)]
        self._generation = bytes.fromhex(generation)
        self._bound = _binding(generation, log)
        self._state = state
        state.is_page_proven = False

    def look(self) -> bytes:
        """Return the bytes that say something; none, where they cannot be read."""
        try:
            data = system.read_once(self._fd, _READ_BYTES, 0)
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
            bound, durable, known_check,
        ) = _ALL.unpack(data)  # fmt: skip
        end = None
        if generation == self._generation and end_check == crc32(data[_END_PART]) and offset < _MOST_OFFSET:
            end = EndState(offset, stored_crc, stamp_us)
        if not self._is_about_us(bound) or known_check != crc32(data[_KNOWN_PART]):
            durable = 0
        self._state.is_page_proven = end is not None or durable > 0
        return Hints(end, allocated, writer, durable, self._poisons(data[_POISON_AT:]))

    def is_poisoned(self, look: bytes) -> bool:
        """Return whether a sync of this generation had failed when these bytes were read."""
        return look[_POISON_AT:] != NO_POISON and self._poisons(look[_POISON_AT:])

    def _poisons(self, data: bytes) -> bool:
        return data != NO_POISON and is_poison(data, self._generation)

    def _is_about_us(self, bound: bytes) -> bool:
        return bound == self._bound or _is_same_file(bound, self._bound)

    def known(self) -> Known:
        """Return what the page says now to those who sync."""
        look = self.look()
        if not look:
            return _NOTHING_KNOWN
        bound, durable, check, even, odd, group, target = _KNOWN_AND_WORDS.unpack_from(look, _KNOWN_AT)
        self._state.is_page_proven = self._is_about_us(bound) and check == crc32(look[_KNOWN_PART])
        if not self._state.is_page_proven:
            durable = 0  # void, or just being written: then we look again soon
        is_poisoned = look[_POISON_AT:] != NO_POISON and self._poisons(look[_POISON_AT:])
        return Known(durable, is_poisoned, (even, odd), group, target, look)

    def await_group(self, offset: int, most: int, pause_s: float) -> Known:
        """Wait while somebody leads a group, but at most ``most`` times ``pause_s`` seconds, and not once every byte
        below ``offset`` is durable; return what the page says then."""
        native = system.native
        if native is not None:
            addresses = self.words[0].address, self.words[1].address
            told = native.await_group(
                self._fd, self._generation, self._bound, offset, addresses, most, pause_s
            )
            if told is None:
                return _NOTHING_KNOWN
            _, known, self._state.is_page_proven = told
            return Known(*known)
        known = self.known()
        while most > 0 and known.target and known.durable < offset and not known.is_poisoned:
            self.wait(known, offset, pause_s)
            known = self.known()
            most -= 1
        return known

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
            data += _GAP_TO_KNOWN + self._known(durable)
        return data if self._is_written(data, _END_AT) else b""

    def publish_poison(self) -> None:
        """Say that a sync of this generation has failed."""
        self._state.is_page_proven = False  # whatever failed that sync may have closed this file, too
        body = _POISON_BODY.pack(self._generation, _POISONED)
        self._is_written(body + _WORD.pack(crc32(body)), _POISON_AT)

    def begin_group(self, group: int, target: int) -> None:
        """Say which sync begins, and how far it will reach. Requires: the leader lock."""
        self._is_written(_GROUP.pack(group & _WORD_MASK, target), _GROUP_AT)

    def publish_group(self, durable: int, known: Known, group: int) -> None:
        """Say what came of the sync of a group, and change its word from what it was.

        Requires: it is true of this file, and the leader lock.
        """
        # A sync takes its time: somebody may have closed this file meanwhile.
        self._state.is_page_proven = False
        words = list(known.words)
        words[group % 2] = (words[group % 2] + 1) & _WORD_MASK
        ended = _WORDS.pack(*words) + _GROUP.pack(group & _WORD_MASK, 0)
        self._is_written(self._known(durable) + _GAP_TO_WORDS + ended, _KNOWN_AT)

    def _known(self, durable: int) -> bytes:
        body = _KNOWN_BODY.pack(self._bound, durable)
        return body + _WORD.pack(crc32(body))

    def _is_written(self, data: bytes, at: int) -> bool:
        """Write hints; return False where that cannot be done, which costs others time and nothing else."""
        if not self._state.is_page_proven:
            # What was read last was void, or nothing was read: somebody may have closed our descriptor, and opened
            # another file on its number.
            if not self._descriptor.is_intact():
                return False
            self._state.is_page_proven = True
        try:
            system.write_at(self._fd, data, at)
        except OSError:
            return False  # what stood there is checked before it is believed
        return True

    # --- waiting ----------------------------------------------------------------------------------------------

    def wait(self, known: Known, offset: int, pause_s: float) -> None:
        """Wait for the end of the sync that covers ``offset``, but no longer than ``pause_s`` seconds."""
        # The present leader covers us, or began too early for that: then the next one does.
        group = known.group if known.target >= offset else known.group + 1
        self.words[group % 2].wait(known.words[group % 2], pause_s)

    def wake(self, group: int) -> None:
        """Wake those who wait for this group, in every process, and one of those who wait for the next."""
        self.words[group % 2].wake()
        self.words[1 - group % 2].wake(1)

    # --- for native code --------------------------------------------------------------------------------------

    def for_native(self) -> tuple[object, ...]:
        """Return the descriptor, its number, and which file that is; what names the generation, and the file, that the
        page is about; and where the words are to wait on."""
        own = self._descriptor
        addresses = self.words[0].address, self.words[1].address
        return own, (own.fd, own.identity), self._generation, self._bound, addresses

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
        """Close it, in a forked child; elsewhere the last reference to it does."""
        self._descriptor.close()
        for word in self.words:
            word.close()


def followed_until(monotonic_ns: int) -> bytes:
    """Return what stands at FOLLOWED_AT while somebody follows."""
    return _NUMBER.pack(monotonic_ns)


def _binding(generation: str, log: FileStatus) -> bytes:
    """Return what names a generation, and the file that it stands in."""
    return _BINDING.pack(bytes.fromhex(generation), log.inode & _MOST_NUMBER, log.born_ns & _MOST_NUMBER)


def _is_same_file(bound: bytes, other: bytes) -> bool:
    """Return whether two bindings can be those of one file: a time of birth that is not known fits any."""
    (inode, born_ns), (other_inode, other_born_ns) = _FILE.unpack(bound[16:]), _FILE.unpack(other[16:])
    return bound[:16] == other[:16] and inode == other_inode and 0 in (born_ns, other_born_ns)


def is_poison(data: bytes, generation: bytes) -> bool:
    """Return whether the bytes of a page that tell of poison are valid, and about that generation."""
    stated, flag, check = _POISON.unpack(data)
    return bool(stated == generation and flag == _POISONED) and check == crc32(data[: _POISON_BODY.size])


def stated_poison(path: str, generation: str) -> bool:
    """Return whether the page at ``path`` says that a sync of that generation has failed. Only reads."""
    data = _read(path)
    return data is not None and is_poison(data[_POISON_AT:], bytes.fromhex(generation))


def stated_generation(path: str) -> str | None:
    """Return the generation that the page at ``path`` speaks of; None if it says nothing. Only reads."""
    data = _read(path)
    return None if data is None else generation_in(data)


def generation_in(data: bytes) -> str | None:
    """Return the generation that the bytes of a page speak of; None if they say nothing."""
    if len(data) < _READ_BYTES:
        return None
    bound, _, check = _KNOWN.unpack_from(data, _KNOWN_AT)
    is_valid = any(bound) and check == crc32(data[_KNOWN_PART])
    return bytes(bound[:16]).hex() if is_valid else None


def stated_durable(path: str, generation: str, log: FileStatus) -> int:
    """Return the offset below which the page at ``path`` calls all durable of that generation in the file ``log``; 0 if
    it says nothing of that. Only reads."""
    data = _read(path)
    if data is None:
        return 0
    bound, durable, check = _KNOWN.unpack_from(data, _KNOWN_AT)
    wanted = _binding(generation, log)
    is_valid = bound == wanted or _is_same_file(bound, wanted)
    return int(durable) if is_valid and check == crc32(data[_KNOWN_PART]) else 0


def vouched_durable(path: str, generation: str, log_fd: int) -> int:
    """Return the offset below which the page at ``path`` vouches for what stands in an open log; 0 if it does not.

    Not for a file that is shorter. No crash takes durable bytes away: somebody cut it off, or wrote a copy over it, and
    that is whole as far as it goes.
    """
    stated = stated_durable(path, generation, system.file_status(log_fd))
    return stated if stated <= system.size_of(log_fd) else 0  # looked at after the page: a log grows


def rebound(data: bytes, log: FileStatus) -> bytes:
    """Return the bytes of a page as it vouches for the file ``log``, instead of the one that it vouches for.

    For a simulated disk, which makes its files anew: on a real one a loss of power gives no file another inode.

    Requires: ``generation_in`` returns a generation.
    """
    generation = data[_KNOWN_AT : _KNOWN_AT + 16]
    _, durable, _ = _KNOWN.unpack_from(data, _KNOWN_AT)
    body = _KNOWN_BODY.pack(_binding(generation.hex(), log), durable)
    return data[:_KNOWN_AT] + body + _WORD.pack(crc32(body)) + data[_KNOWN_AT + _KNOWN.size :]


def _read(path: str) -> bytes | None:
    try:
        page = system.open_file(path)
        data = system.read_at(page.fd, _READ_BYTES, 0)
    except OSError:
        return None
    return data if len(data) == _READ_BYTES else None
