"""What a process knows of a log whose files it has given back: the first use after that begins there.

That every byte below the end was validated, or written by this process, and is durable: nothing was left to be synced
when the files were closed. Of what others write meanwhile it knows nothing, and hears of no sync of theirs that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import EndState
    from mpcheckpoint._logfile.opened import OpenLog


class KnownEnd(NamedTuple):
    """An end of a log.

    Attributes:
        file: device, inode and time of birth.
        end: below it everything is durable.
    """

    generation: str
    file: tuple[object, ...]
    end: EndState


def known_end_of(log: OpenLog) -> KnownEnd | None:
    """Return what is known of a log; None if it is not used, not durable up to its end, or anything is wrong with it.

    Without the append lock: ends only grow, and what is durable is looked at after the end.
    """
    if not log.end.is_used or log.end.is_sealed:
        return None
    if log.file.is_broken() or log.file.status.born_ns <= 0:
        return None  # without a time of birth another file may have its inode
    end = log.state.end
    return KnownEnd(log.generation, _file(log), end) if log.state.durable >= end.offset else None


def durable_of(known: KnownEnd | None, generation: str) -> int:
    """Return the offset below which a generation is known to be durable; 0 if nothing is known of it."""
    return known.end.offset if known is not None and known.generation == generation else 0


def go_on_from(log: OpenLog, known: KnownEnd | None) -> None:
    """Have a log that was just opened go on from what is known, if it is the same file. Requires: the append lock."""
    if known is not None and (known.generation, known.file) == (log.generation, _file(log)):
        log.end.go_on_from(known.end)


def _file(log: OpenLog) -> tuple[object, ...]:
    return (*log.file.identity, log.file.status.born_ns)
