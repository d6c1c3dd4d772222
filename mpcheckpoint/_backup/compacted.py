"""A log of a backup that is compacted while it is copied. The log of the store stays as it is.

What is dropped is decided by one pass over the log, up to where it was cut; a second one writes what is left, as in a
compaction. The copy is a generation of its own, that comes after the store's. Its header says, as after a restore, that
it holds nothing of that one beyond the cut: so in a store that is restored from it, positions up to the cut go on, and
later ones are refused, whatever was dropped.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._backup.copying import BrokenSourceError
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import Restored
from mpcheckpoint._format.frame import Mismatch
from mpcheckpoint._logfile.chunk import Origin
from mpcheckpoint._logfile.generations import GenerationCopy
from mpcheckpoint._logfile.ownership import create_copy
from mpcheckpoint._logfile.selected import blocks_up_to, planned_bytes
from mpcheckpoint.errors import CorruptLogError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._backup.copying import CopyPace
    from mpcheckpoint._logfile.selected import Selection
    from mpcheckpoint._store.cut import CutLog

SPARE_BYTES = 1024 * 1024


def compacted_copy(
    log: CutLog, source: system.Descriptor, temporary: str, selection: Selection, pace: CopyPace
) -> GenerationCopy | None:
    """Write what ``selection`` leaves of a log under a temporary name, synced; None if there is nothing to drop.

    Raises:
        BrokenSourceError: the log is not whole up to where it was cut.
        OSError: some of it may have been written. And what ``selection`` raises.
    """
    header, stop = log.header, log.end
    selection.begin(stop.stamp_us, Origin(header.log_key, header.generation, header.lineage))
    for lines, _ in _lines(log, source, pace):
        selection.look(lines)
    if not selection.decide():
        return None
    made = create_copy(temporary, log.paths.log)
    free = system.free_bytes(made.fd) - SPARE_BYTES
    if stop.offset > free:
        needed = planned_bytes(header.end, _lines(log, source, pace), selection)
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, and {max(0, free):,} are free there")
        selection.decide()  # once more: it was asked for the fates
    old = header._replace(restored=(*header.restored, Restored(header.generation, stop.stamp_us)))
    copy = GenerationCopy(log.paths, temporary, old, selection.leading(), file=made)
    for lines, data in _lines(log, source, pace):
        copy.add(source.fd, lines, *selection.fates(lines), data)
    copy.finish(covers_us=stop.stamp_us)
    system.sync_data(copy.fd)
    return copy


def _lines(
    log: CutLog, source: system.Descriptor, pace: CopyPace
) -> Iterator[tuple[Lines, tuple[bytes, int]]]:
    """Yield the lines of a log after its header, proven; at the end it is shown that they are those that were cut."""
    end = log.header.end
    pace.advance(end.offset)
    try:
        for scan, data in blocks_up_to(source, end, log.end, log.paths):
            if scan.lines:
                yield Lines.of(scan.lines), data
            pace.advance(scan.end.offset - end.offset)
            end = scan.end
    except CorruptLogError as error:
        raise BrokenSourceError(Mismatch(error.offset or 0, error.expected, error.found)) from error
    if end != log.end:
        raise BrokenSourceError(Mismatch(end.offset, "what was there when it was cut", "other bytes"))
