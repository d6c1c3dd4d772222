"""Put what can be proven of a corrupt log into a new generation: all before the damage, and what is proven behind it.

Whole batches only, with their stamps, so that positions and cursors from before go on to work. Order, and what is on
disk if we die:
1. store lock and append lock, held throughout; the log is judged again.
2. the bytes that are not carried over, to quarantine, synced.     Crash: the log is as it was; the next repair keeps
                                                                   them once more.
3. the copy, under a temporary name, synced.                       Crash: a stale temporary file, removed by the next
                                                                   who creates a log or repairs one.
4. rename over the damaged file, directory synced.                 Crash: one or the other, each whole.

The damaged file is not sealed: nobody can say where it ends. Whoever has it open finds another file at the path, as
after every switch of generations.

Rejected: to keep the damaged file itself in quarantine. A copy of it takes its whole size again, where there is often
little room; and with a hard link to it, an append whose sync returns at that moment would not notice that its log has
been replaced, and acknowledge a record that is in quarantine only.
"""

from __future__ import annotations

import errno
import re
from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import MAX_HEADER_BYTES, Header, Note, note_payload
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.generations import GenerationCopy
from mpcheckpoint._logfile.ownership import temporary_name
from mpcheckpoint._logfile.page import stated_generation
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._salvage.inspection import SALVAGED, inspect, removed_spans, selected
from mpcheckpoint._salvage.scan import Batches, Walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._salvage.inspection import Candidate, Inspection
    from mpcheckpoint._types import Repair

UNKNOWN_GENERATION = "0" * 32
_GENERATION = re.compile(rb'"([0-9a-f]{32})"')
_LOG_KEY = re.compile(rb'"log_key":("(?:[^"\\]|\\.)*")')
# One quarantine file a damage, up to so many; else one for all from the first on.
_MOST_FILES = 64
_MOST_GAPS_TOLD = 100
_SPARE_BYTES = 1024 * 1024


class Salvage(NamedTuple):
    """What a salvage did: what it found, the generation it made, and what it kept in quarantine."""

    found: Inspection
    generation: str
    repairs: list[Repair]


def salvage_log(paths: LogPaths, require_lock: Callable[[], None]) -> Salvage | None:
    """Replace a corrupt log by what can be proven of it; return None if it is not corrupt.

    Requires: the store lock and the append lock, of which ``require_lock`` raises an OSError if it was lost meanwhile.

    Raises:
        FormatVersionError: the log holds what this release does not know. Nothing was changed.
        StoreAccessError: somebody who may write the log could not write the copy, or no quarantine can be made or
            written. Nothing was changed.
        WriteFailedError, ReadFailedError: nothing was changed but, at most, quarantine; or the log was replaced, and it
            is not known whether that survives a loss of power. Either way a second call completes it.
    """
    with translated("repairing", paths.log):
        descriptor = system.open_file(paths.log)
        found = inspect(descriptor.fd, paths.log, paths.page)
        if found.refusal is not None:
            raise found.refusal
        if found.stated_version is not None or not is_corrupt(found):
            return None
        kept = selected(found)
        spans = removed_spans(found, kept)
        _require_room(descriptor.fd, found, spans)
        old = _old_header(descriptor.fd, paths, found, kept)
        repairs: list[Repair] = []
        temporary = temporary_name(paths.log)
        try:
            copy = GenerationCopy(paths, temporary, old)
            _quarantine(descriptor.fd, paths, old.generation, spans, repairs)
            _copy_kept(descriptor.fd, copy, kept)
            copy.finish(note_payload(_note(old.generation, found)))
            system.sync_data(copy.fd)
            require_lock()  # else others may have appended to what was copied, and had it acknowledged
        except BaseException:
            _undo(temporary, repairs)
            raise
        try:
            system.replace(temporary, paths.log)
        except OSError:
            # Only where the copy still has its own name: else the log is replaced, be it that a Ctrl-C or an error came
            # behind that, and what is in quarantine is nowhere else.
            if system.exists(temporary):
                _undo(temporary, repairs)
            raise
        system.sync_directory(paths.directory)
    return Salvage(found, copy.generation, repairs)


def is_corrupt(found: Inspection) -> bool:
    """Return whether any damage hit bytes that were once durable."""
    return any(found.is_corrupt(each) for each in found.breaks)


def _require_room(fd: int, found: Inspection, spans: list[tuple[int, int]]) -> None:
    """Refuse before anything is written what would fill the disk: others write there, too."""
    needed = found.size + sum(stop - start for start, stop in spans) + _SPARE_BYTES
    free = system.free_bytes(fd)
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"a copy needs {needed:,} bytes, and {free:,} are free on its file system"
        )


def _quarantine(
    fd: int, paths: LogPaths, generation: str, spans: list[tuple[int, int]], repairs: list[Repair]
) -> None:
    if len(spans) > _MOST_FILES:
        spans = [(spans[0][0], spans[-1][1])]
    for start, stop in spans:
        repair = keep_bytes(fd, paths, generation, start, stop=stop)
        if repair is not None:
            repairs.append(repair)


def _undo(temporary: str, repairs: list[Repair]) -> None:
    """Remove what was written: the bytes are in the log still, and on a full disk the room is needed."""
    for path in (temporary, *(repair.path for repair in repairs)):
        try:
            system.remove(path)
        except OSError:
            continue  # they stay; that harms nobody, and what failed first is what is to be told


def _copy_kept(fd: int, copy: GenerationCopy, kept: list[Candidate]) -> None:
    """Copy what the candidates hold, found once more in the same walk. Only whoever holds the locks finds the same."""
    stops = [each.stop for each in kept]
    for piece in Walk(fd, system.size_of(fd)).pieces():
        if not isinstance(piece, Batches):
            continue
        offsets = piece.lines.offsets
        for each in islice(kept, bisect_right(stops, offsets[0]), None):
            if each.start >= piece.lines.ends[-1]:
                break
            copy.add(piece.lines[bisect_left(offsets, each.start) : bisect_left(offsets, each.stop)])


def _note(generation: str, found: Inspection) -> Note:
    """Return the note of what cannot be vouched for: where records may be missing, and between which stamps."""
    lost = [each for each in found.breaks if not each.gap.is_mended]
    gaps = [
        {
            "offset": each.gap.damage.offset,
            "length_bytes": each.gap.stop - each.gap.damage.offset,
            "after_us": max(0, each.after_us),
            "before_us": each.before_us if each.before_us >= 0 else None,
        }
        for each in lost[:_MOST_GAPS_TOLD]
    ]
    return Note(SALVAGED, {"from": generation, "damages": len(found.breaks), "gaps": gaps})


# --- a header that is lost -----------------------------------------------------------------------------------


def _old_header(fd: int, paths: LogPaths, found: Inspection, kept: list[Candidate]) -> Header:
    """Return the header of the log, or what can be said of one that is damaged.

    Names of generations in it are taken as they stand: a wrong one is that of no log, and a right one keeps positions
    valid. The page names the last one, too.
    """
    if found.header is not None:
        return found.header
    first_line = system.read_at(fd, MAX_HEADER_BYTES, 0).partition(b"\n")[0]
    named = [match.decode() for match in _GENERATION.findall(first_line)]
    previous = [*named[1:], *named[:1]]
    at_page = stated_generation(paths.page)
    if at_page is not None:
        previous = [*(each for each in previous if each != at_page), at_page]
    generation = previous.pop() if previous else UNKNOWN_GENERATION
    stamp_us = kept[0].first_us - 1 if kept else clock.next(0)
    return Header(paths.log_key, generation, 0, tuple(previous), EndState(0, 0, max(0, stamp_us)))


def log_key_in(fd: int) -> bytes | None:
    """Return what a damaged first line says of the log key, as JSON; None if it says nothing."""
    match = _LOG_KEY.search(system.read_at(fd, MAX_HEADER_BYTES, 0).partition(b"\n")[0])
    return match[1] if match else None
