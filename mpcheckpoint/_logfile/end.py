"""Where a log ends, found out from its own bytes, and made durable before anything is built upon it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import CLOSING_BYTES, PADDING, EndState, closing
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.first_use import trusted_start, write_again
from mpcheckpoint._logfile.header import known_control, read_header
from mpcheckpoint._logfile.notices import repaired
from mpcheckpoint._logfile.page import vouched_durable
from mpcheckpoint._logfile.places import places
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.torn_or_corrupt import Broken, refuse_shortened, require_torn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mpcheckpoint._format.frame import Line
    from mpcheckpoint._logfile.append_state import PureAppendState
    from mpcheckpoint._logfile.log_file import LogFile
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._types import Repair


class LogEnd:
    """The end of a log, found out: ``state.end``, and ``state.durable``.

    Invariant: every byte between ``durable`` at the first use and the end was validated: by this process, or by the
    writer that left the end in the page, where the log's own bytes bear that out.

    Concurrency: under the append lock, but for ``bears_out``, ``note_durable`` and reading attributes.
    """

    def __init__(
        self, paths: LogPaths, file: LogFile, state: PureAppendState, require_lock: Callable[[], None]
    ) -> None:
        """Begin with the end of the header; ``first_use`` finds the log's.

        Args:
            state: what is to be brought up to date.
            require_lock: raises an OSError if the append lock was lost: who closed one descriptor may have closed more.

        Raises:
            OSError, CorruptLogError, FormatVersionError, WrongLogError
        """
        self._paths = paths
        self._file = file
        self.state = state
        self._require_lock = require_lock
        self.header = read_header(file.fd, paths.log, log_key=paths.log_key)
        state.end, state.durable = self.header.end, self.header.end.offset
        self.is_used = False
        self.is_sealed = False
        # Up to where this process has seen padding.
        self._seen_padding = 0
        # What was known to be durable before the file was found changed, or was opened.
        self._floor = 0
        # Where the first use may begin, if the log still bears it out.
        self._known: EndState | None = None

    @property
    def known_durable(self) -> int:
        """The offset below which this process knows the bytes to be durable, also while it begins anew."""
        return max(self.state.durable, self._floor)

    # --- what becomes of it --------------------------------------------------------------------------------------

    def take_over(self, end: EndState, allocated: int, durable: int) -> None:
        """Take over what another writer left in the page. Requires: the log bears it out."""
        state = self.state
        if end != state.end:
            self.is_sealed = False  # a writer that seals a generation leaves no end in the page
        state.end, state.allocated = end, allocated
        if durable <= end.offset:
            state.durable = max(state.durable, durable)

    def move_to(self, end: EndState, allocated: int | None = None) -> None:
        """Take note of a batch that this process wrote, with padding up to ``allocated``."""
        if end is not self.state.end:
            self.is_sealed = False
        self.state.end = end
        if allocated is not None:
            self.state.allocated = self._seen_padding = allocated

    def seal(self) -> None:
        """Take note that the last line is a seal."""
        self.is_sealed = True

    def adopt(self, end: EndState) -> None:
        """Take note that this process wrote the whole file, and made it durable, up to ``end``."""
        self.state.end, self.state.durable = end, end.offset
        self.state.allocated = self._seen_padding = end.offset
        self.is_used = True

    def go_on_from(self, end: EndState) -> None:
        """Take note that this process knew all up to ``end`` to be sound and durable in this very file."""
        self._known, self._floor = end, end.offset

    def distrust(self) -> None:
        """Have the next append prove the log as the first one does."""
        self.is_used = False

    def note_durable(self, offset: int) -> None:
        """Take note that a sync covered everything below ``offset``."""
        self.state.durable = max(self.state.durable, offset)

    def bears_out(self, end: EndState) -> bool:
        """Return whether a line of the log ends there, with that crc."""
        try:
            found = system.read_at(self._file.fd, CLOSING_BYTES, end.offset - CLOSING_BYTES)
        except OSError:
            return False
        return found == closing(end.stored_crc)

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Return bytes of the log; fewer, or none, where they cannot be read, as when somebody closed the file."""
        try:
            return system.read_once(self._file.fd, length, offset)
        except OSError:
            return b""

    # --- found out from the log's own bytes -----------------------------------------------------------------------

    def catch_up(self, sync: Callable[[], object]) -> Repair | None:
        """Validate what others wrote after the end, and cut off a torn end. Requires: the log bears the end out.

        Args:
            sync: makes what was written to the file durable. Passed, not kept: its owner has this object, too,
                and a circle would keep descriptors open.

        Raises:
            CorruptLogError, FormatVersionError: nothing was changed.
            OSError: nothing was cut.
        """
        fd, state = self._file.fd, self.state
        rest = system.read_at(fd, 1, state.end.offset)
        # A write begins right after the end. So if there is still padding of which all was seen, nothing was written.
        if not rest or (rest == PADDING and state.end.offset < self._seen_padding):
            return None
        for result in replay(fd, state.end):
            self._take_note(result.lines)
            state.end = result.end
            if result.damage is not None:
                return self._cut_torn_end(Broken(result.damage, result.broken_at, result.broken_crc), sync)
        state.allocated = self._seen_padding = system.size_of(fd)
        return None

    def _take_note(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        controls: Iterable[tuple[int, Line]]
        if isinstance(lines, Lines):  # no line of Python is made of the others
            controls = lines.controls()
        else:
            controls = ((index, line) for index, line in enumerate(lines) if line.object_key is None)
        self.is_sealed = False
        for index, line in controls:
            is_seal = known_control(line, self._paths.log) == "sealed"
            self.is_sealed = is_seal and index == len(lines) - 1
        clock.observe(lines[-1].stamp_us)

    def first_use(self, sync: Callable[[], object]) -> Repair | None:
        """Prove and make durable what this process finds before it appends for the first time.

        What reads well need not be on disk: its writer may have died before its sync, and pages that a failed sync
        marked clean read well, sync "successfully", and are lost with the power. So every byte of which no valid line
        says that it is durable is validated, written once more in place, and synced. On ext4 a sync into preallocated
        space does not carry the log's name with it, so the directories come first.

        So is what others wrote while this process had given the file back: their sync may have failed unheard, and they
        may have died before they could say so. Up to where this process knew it nothing is done again.

        The cost is the unsynced part of the log; without a page that vouches for it, one pass over its bytes.
        """
        fd, state = self._file.fd, self.state
        known = self._known if self._known is not None and self.bears_out(self._known) else None
        if known is None:
            system.sync_directory(self._paths.directory)
        places.make_names_durable(self._paths.directory)  # the store may have been moved
        start, notices = (known, []) if known is not None else trusted_start(fd, self.header, self._paths)
        self._file.notices += notices
        state.durable, state.end = start.offset, start
        repair = self.catch_up(sync)
        refuse_shortened(fd, state.end.offset, self._paths, known_durable=self._floor)
        if start.offset < state.end.offset:
            write_again(fd, start.offset, state.end.offset)
            sync()
        state.durable = state.end.offset
        self.is_used = True
        return repair

    def begin_again(self) -> None:
        """Forget the end: other bytes stand before it than this process validated. Requires: ``first_use`` after it.

        Somebody changed the file by hand. To append at the old end would leave a hole, or lines that nothing leads to.

        Raises:
            CorruptLogError, FormatVersionError, WrongLogError: the header cannot be read.
        """
        header = read_header(self._file.fd, self._paths.log, log_key=self._paths.log_key)
        self.is_used = False  # a first use that fails is to be done again, floor and all
        is_same = header.generation == self.header.generation  # of another one nothing is known
        self._floor = max(self._floor, self.state.durable) if is_same else 0
        self.header = header
        self.state.beginning += 1

    def _cut_torn_end(self, broken: Broken, sync: Callable[[], object]) -> Repair | None:
        """Cut a torn end off, and keep the bytes.

        Why this loses nothing: we hold the append lock, so no write is in progress; the bytes are judged torn, so no
        one was ever told that they are safe; and they are durable in quarantine before they leave the log.
        """
        fd, offset = self._file.fd, broken.damage.offset
        vouched = vouched_durable(self._paths.page, self.header.generation, fd)
        require_torn(fd, broken, self._paths, known_durable=max(self.known_durable, vouched))
        repair = keep_bytes(fd, self._paths, self.header.generation, offset)
        # Crash: before the truncation both copies exist, and the next writer repairs again; after it,
        # unsynced, the torn bytes may come back with the power, and the next writer repairs again.
        self._require_lock()
        system.truncate(fd, offset)
        self.state.allocated = self._seen_padding = offset
        sync()
        if repair is not None:
            self._file.notices.append(repaired(repair))
        return repair
