"""Put what can be proven of a corrupt log into a new generation: all before the damage, and what is proven after it.

Whole batches only, with their stamps, so that older positions and cursors still work. The steps, and what is on disk if
we die:
1. Take the store lock and the append lock, held throughout; judge the log again.
2. Copy the bytes that are not kept to quarantine, and sync them.  Crash: the log is as it was; the next repair copies
                                                                   them once more.
3. Write the copy under a temporary name, and sync it.             Crash: a stale temporary file, which the next process
                                                                   that makes or repairs a log removes.
4. Rename it over the damaged file, and sync the directory.        Crash: one or the other, each whole.

The damaged file is not sealed, since its end cannot be told. A process that has it open finds another file at the path,
as after every new generation.

Rejected: to keep the damaged file itself in quarantine. A copy takes its whole size again, where there is often little
room. With a hard link to it, an append whose sync returns at that moment would not notice that its log was replaced,
and would acknowledge a record that is in quarantine only.
"""

from __future__ import annotations

import errno
import re
from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import MAX_HEADER_BYTES, SALVAGED, Header, Note, Restored, note_payload
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.faults import NOT_CHANGED, translated
from mpcheckpoint._logfile.generations import GenerationCopy
from mpcheckpoint._logfile.ownership import temporary_name
from mpcheckpoint._logfile.page import stated_generation
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._salvage.inspection import Candidate, Inspection, inspect, removed_spans, selected
from mpcheckpoint._salvage.scan import Batches, Walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._types import Repair

UNKNOWN_GENERATION = "0" * 32
_GENERATION = re.compile(rb'"([0-9a-f]{32})"')
_LINEAGE = re.compile(rb'"lineage":"([0-9a-f]{32})"')
_RESTORED = re.compile(rb'\{"to":"([0-9a-f]{32})","cut_us":(\d{1,18})\}')
_LOG_KEY = re.compile(rb'"log_key":("(?:[^"\\]|\\.)*")')
# One quarantine file for each damage, up to so many; of more damages, one file from the first to the last.
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

    Requires: the store lock and the append lock; ``require_lock`` raises an OSError if the latter was lost meanwhile.

    Raises:
        FormatVersionError: the log holds something that this release does not know. Nothing was changed.
        StoreAccessError: a user who may write the log could not write the copy, or no quarantine can be made or
            written. Nothing was changed.
        WriteFailedError, ReadFailedError: at most quarantine was changed; or the log was replaced, and that may not
            survive a loss of power. Either way a second call completes it.
    """
    with translated("repairing", paths.log, left=NOT_CHANGED):
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
            covers_us = kept[-1].last_us if kept else old.end.stamp_us
            copy.finish(note_payload(_note(old.generation, found)), covers_us=covers_us)
            system.sync_data(copy.fd)
            require_lock()  # else another process may have appended to the copied log, and had it acknowledged
        except BaseException:
            _undo(temporary, repairs)
            raise
        try:
            system.replace(temporary, paths.log)
        except OSError:
            # Only while the copy still has its own name. Else the log is replaced, whatever failed after that, and the
            # bytes in quarantine are nowhere else.
            if system.exists(temporary):
                _undo(temporary, repairs)
            raise
        system.sync_directory(paths.directory)
    return Salvage(found, copy.generation, repairs)


def is_corrupt(found: Inspection) -> bool:
    """Return whether any damage hit bytes that were durable once."""
    return any(found.is_corrupt(each) for each in found.breaks)


def _require_room(fd: int, found: Inspection, spans: list[tuple[int, int]]) -> None:
    """Refuse to fill the disk, where others write too, before anything is written."""
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
    """Remove what was written: the log still has the bytes, and on a full disk the room is needed."""
    for path in (temporary, *(repair.path for repair in repairs)):
        try:
            system.remove(path)
        except OSError:
            continue  # it stays, which does no harm; the first error is the one to report


def _copy_kept(fd: int, copy: GenerationCopy, kept: list[Candidate]) -> None:
    """Copy what the candidates hold, found again by the same walk. Requires: the locks, or it finds something else."""
    stops = [each.stop for each in kept]
    for piece in Walk(fd, system.size_of(fd)).pieces():
        if not isinstance(piece, Batches):
            continue
        offsets = piece.lines.offsets
        for each in islice(kept, bisect_right(stops, offsets[0]), None):
            if each.start >= piece.lines.ends[-1]:
                break
            copy.add(fd, piece.lines[bisect_left(offsets, each.start) : bisect_left(offsets, each.stop)])


def _note(generation: str, found: Inspection) -> Note:
    """Return the note that says where records may be missing, and between which stamps."""
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


# --- a lost header -------------------------------------------------------------------------------------------


def _old_header(fd: int, paths: LogPaths, found: Inspection, kept: list[Candidate]) -> Header:
    """Return the header of the log, or what is left of a damaged one.

    Generations in it are taken as they stand: a wrong one belongs to no log, and a right one keeps positions valid. The
    page names the last one too.
    """
    if found.header is not None:
        return found.header
    first_line = system.read_at(fd, MAX_HEADER_BYTES, 0).partition(b"\n")[0]
    of_all = _LINEAGE.search(first_line)
    restored = tuple(Restored(match[1].decode(), int(match[2])) for match in _RESTORED.finditer(first_line))
    first_line = _RESTORED.sub(b"", _LINEAGE.sub(b"", first_line, count=1))
    named = [match.decode() for match in _GENERATION.findall(first_line)]
    previous = [*named[1:], *named[:1]]
    at_page = stated_generation(paths.page)
    if at_page is not None:
        previous = [*(each for each in previous if each != at_page), at_page]
    generation = previous.pop() if previous else UNKNOWN_GENERATION
    stamp_us = kept[0].first_us - 1 if kept else clock.next(0)
    lineage = "" if of_all is None else of_all[1].decode()
    end = EndState(0, 0, max(0, stamp_us))
    return Header(paths.log_key, generation, 0, tuple(previous), end, lineage, restored)


def log_key_in(fd: int) -> bytes | None:
    """Return the log key in a damaged first line, as JSON; None if there is none."""
    match = _LOG_KEY.search(system.read_at(fd, MAX_HEADER_BYTES, 0).partition(b"\n")[0])
    return match[1] if match else None
