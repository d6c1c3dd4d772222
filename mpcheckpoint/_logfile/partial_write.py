"""A write to a log that failed, or was interrupted, perhaps with a part of its bytes in the file."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import EndState
    from mpcheckpoint._logfile.end import LogEnd
    from mpcheckpoint._logfile.log_file import LogFile


class PartialWrite(NamedTuple):
    """The bytes of some batches, where they were to be written, and where the log would end after each."""

    data: bytes
    before: EndState
    ends: list[EndState]

    def settle(self, file: LogFile, end: LogEnd, path: str, error: BaseException) -> None:
        """Truncate back an incomplete write; leave the batches that are whole, which others may have seen already.

        Rejected: quarantine for these bytes. They are our own, nobody was told of them, and on a full disk there would
        be no room to keep them. If the truncation fails too, the next writer finds a torn end and repairs it.
        """
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            return  # somebody closed the file: nothing was written, and nothing can be undone
        try:
            whole = self._whole_in(system.read_at(file.fd, len(self.data), self.before.offset))
            if whole is self.ends[-1]:
                end.move_to(whole)
            elif file.is_intact():  # else it is not our file that would be cut
                end.move_to(whole)  # first: should the truncation fail, these are there all the same
                system.truncate(file.fd, whole.offset)
                end.move_to(whole, whole.offset)
            if end.state.end != self.before:
                note_written(error, path, self.ends[0].offset)
        except OSError as undo_error:
            file.notices.append(f"could not undo a partial write to {path}: {undo_error}")

    def _whole_in(self, found: bytes) -> EndState:
        """Return where the last batch ends that is whole in the bytes that were found in its place."""
        whole = self.before
        for end in self.ends:
            part = slice(whole.offset - self.before.offset, end.offset - self.before.offset)
            if found[part] != self.data[part]:
                break
            whole = end
        return whole


def note_written(error: BaseException, path: str, end: int) -> None:
    """Have an error say that a record was written all the same."""
    error.add_note(f"mpcheckpoint: the record was written; it ends at {end} in {path}")
