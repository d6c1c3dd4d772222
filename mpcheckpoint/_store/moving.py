"""Logs on their way from one storage to another: what is read of one, and what is made of that.

What a log says crosses unchanged, batch by batch: keys, events, metas, notes, what is forgotten, what was dropped, with
the stamps and in the batches that they have. What a generation says of itself stays behind: the other storage writes
that anew.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import CONTROLS_OF_A_GENERATION, DROPPED, Header, Restored, control_name
from mpcheckpoint._format.frame import Payload
from mpcheckpoint._logfile.header import known_control
from mpcheckpoint.errors import BackupPlaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from mpcheckpoint._format.frame import Line


class LogCut(Protocol):
    """A log as it was at one moment, whatever was appended to it, or dropped from it, since.

    Attributes:
        header: its key, its generation and the earlier ones, what they share, and the copies and restores in its past.
        last_us: the stamp of its last line; all up to that is in it. Later lines of this log have higher ones.
        size_bytes: about how much there is to read.
        is_of_one_moment: whether the others of its cut are as they were at that moment, too. False where that takes
            locks which this user may not take: then they are of about the same time.
    """

    @property
    def is_of_one_moment(self) -> bool: ...

    @property
    def header(self) -> Header: ...

    @property
    def last_us(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def lines(self) -> Iterator[Lines]:
        """Yield what it holds, in order, in parts of whole batches: records, and the control lines among them, but not
        what a generation says of itself. What a compaction dropped is said first, in batches that hold nothing else.

        Raises:
            CorruptLogError, ReadFailedError, StoreUnavailableError, FormatVersionError
        """


class Movable(Protocol):
    """What is asked of a storage, so that its logs can go to another one, or come from there."""

    def cut(self, timeout_s: float | None) -> AbstractContextManager[Sequence[LogCut]]:
        """Give all logs as they were at one moment, in the order of their keys, to be read in the block, by one thread.

        A record whose writer had read another one is in it only if that one is, too. What is in it is durable. Nobody
        waits while it is read.

        Raises:
            LockTimeoutError: a lock was held elsewhere for ``timeout_s`` seconds.
            CorruptLogError, PoisonedLogError, ReadFailedError, StoreAccessError, StoreUnavailableError
        """

    def adopt_log(self, log: LogCut, *, timeout_s: float | None, pace: Callable[[int], None]) -> None:
        """Make a log that holds what another one held, durably: whole, or not at all.

        Keys, events, metas, notes, batches and stamps stay, as ``lines`` gives them. Stamps of what is appended from
        then on are above ``last_us``. Positions in the other log up to there are positions of this one; those of what
        the other log records later are refused. Its generation is a new one.

        Killed meanwhile, there is no such log; what is left of it goes when the next one is made.

        Args:
            log: of any storage. It may be of this one.
            timeout_s: how long to wait for others who make logs.
            pace: called with the number of bytes that were taken since the last call, without any lock. What it raises
                ends this, and there is no such log.

        Raises:
            BackupPlaceError: there is a log of that key, which stays as it is.
            LockTimeoutError, StoreAccessError, WriteFailedError, StoreUnavailableError, LimitExceededError: none was
                made. And what ``log.lines`` raises.
            NoAnswerError: it is there, whole, or it is not.
        """


class Content(NamedTuple):
    """What a log is made of.

    Attributes:
        leading: what a compaction dropped, in batches.
        begun_us: below the stamps of all the rest.
        rest: all else, in parts of whole batches.
    """

    leading: list[list[Payload]]
    begun_us: int
    rest: Iterable[Lines]


def content_of(log: LogCut, pace: Callable[[int], None]) -> Content:
    """Return what a log holds, as one of another storage is made of it."""
    parts = _paced(log.lines(), pace)
    leading: list[list[Payload]] = []
    for lines in parts:
        count = _leading_lines(lines)
        leading += batches_of(lines[:count])
        if count < len(lines):
            rest = lines[count:]
            return Content(leading, rest.stamps_us[0] - 1, chain([rest], parts))
    return Content(leading, log.last_us, ())


def _paced(parts: Iterator[Lines], pace: Callable[[int], None]) -> Iterator[Lines]:
    for lines in parts:
        if lines:
            yield lines
            pace(len(lines.events))


def _leading_lines(lines: Lines) -> int:
    """Return how many lines at the start only say what was dropped, in whole batches."""
    count = 0
    for index, line in lines.controls():
        if index != count or control_name(line) != DROPPED:
            break
        count += 1
    while count and lines.mores[count - 1]:
        count -= 1
    return count


def batches_of(lines: Lines) -> list[list[Payload]]:
    """Return what each of some whole batches says."""
    batches: list[list[Payload]] = []
    batch: list[Payload] = []
    for line in lines:
        batch.append(payload_of(line))
        if not line.more:
            batches.append(batch)
            batch = []
    assert not batch
    return batches


def payload_of(line: Line) -> Payload:
    """Return what a line says."""
    return Payload(b"null" if line.object_key is None else encode_key(line.object_key), line.event, line.meta)


def without_controls_of_a_generation(lines: Lines, path: str) -> Iterator[Lines]:
    """Yield some lines without what a generation says of itself.

    Raises:
        FormatVersionError: there is a control line that this release does not know.
    """
    start = 0
    for index, line in lines.controls():
        # Requires of a writer that such a line is a batch of its own.
        is_alone = not line.more and (not index or not lines.mores[index - 1])
        name = known_control(line, path)
        if is_alone and name in CONTROLS_OF_A_GENERATION:
            if start < index:
                yield lines[start:index]
            start = index + 1
    if start < len(lines):
        yield lines[start:]


def came_from(log: LogCut) -> Header:
    """Return the header of which the log that is made of ``log`` is the next generation."""
    header = log.header
    # It holds nothing of that generation beyond the cut: so later positions there are none of this one.
    return header._replace(restored=(*header.restored, Restored(header.generation, log.last_us)))


def is_copy_of(header: Header, log: LogCut) -> bool:
    """Return whether a log was made of another one as that is now, whatever came to it since."""
    return Restored(log.header.generation, log.last_us) in header.restored


def already_there(log_key: str, path: str) -> BackupPlaceError:
    """Return the error for a log that cannot be made, since there is one."""
    return BackupPlaceError(
        f"there is a log {log_key!r} in {path} already; a log is only copied to where there is none of its key. It was "
        "left as it is",
        path=path,
        reason="log exists",
    )
