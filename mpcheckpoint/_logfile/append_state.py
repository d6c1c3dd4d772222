"""What one process knows of a log that it appends to. Native code reads and writes the same attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint import _core

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import EndState


class PureAppendState:
    """What one process knows of a log that it appends to.

    Invariant: a whole batch ends at ``end``; what is before it was validated, as ``LogEnd`` says.

    Invariant: every byte below ``durable`` is on disk: a sync covered it that returned, in this process or in one that
    said so, in a line that this process validated or in the page. A whole batch ends at ``durable``.

    Attributes:
        end, durable: see above.
        beginning: another number whenever the end was found from the header on: the file was opened, or read, anew.
        allocated: up to where there is padding, for all we know.
        extensions: how many lines without padding made the log longer.
        is_alone: whether nobody else wrote between the last two appends of this process.
        is_followed: whether a follower waits to be woken by the next append.
        is_page_proven: whether what was read from the page last fitted, so that its descriptor is that of the page.
        is_patient: whether a leader of a group has been heard of since one was waited for in vain.
        left, unpublished: what this process left in the page last, and how often it has appended since. Below 0: how
            many more appends in a row it is to tell of each, since another process wrote lately.

    Of the rest, native code alone makes use. native/state.h says what it is.

    Concurrency: under the append lock, but for ``durable``, which only grows, and what belongs to the turn to sync:
    ``is_patient`` and ``is_page_proven``.
    """

    def __init__(self, end_type: type[EndState]) -> None:
        self.end = end_type(0, 0, 0)
        self.durable = self.beginning = self.allocated = self.extensions = self.unpublished = 0
        self.is_alone = self.is_followed = self.is_page_proven = False
        self.is_patient = True
        self.left = b""
        # As without native code they stay.
        self.attachments = self.appends = self.syncs = self.waiters = self.taken_count = (
            self.waiting_since_ns
        ) = 0
        self.is_ready = self.is_inside = self.is_leading = self.is_watched = False
        self.slow_sync_s = 0.0
        self.failed_write: tuple[bytes, list[tuple[int, int, int]], int] | None = None
        self.failed_sync: tuple[int, int, bool, int, tuple[Any, ...]] | None = None

    def attach(self, told: tuple[object, ...]) -> None:
        """Have native code know that nothing unusual is known, and which files these are."""

    def detach(self) -> None:
        """Have native code do nothing, and let go of the files: Python is at work."""

    def append(
        self,
        payloads: list[Any],
        told: list[Any],
        is_durable: bool,
        may_wait: bool,
        seen: EndState | None = None,
    ) -> int:
        """Append in native code; see ``native_append``."""
        raise NotImplementedError

    def make_durable(self, offset: int, beginning: int) -> int:
        """Make durable in native code; see ``native_append``."""
        raise NotImplementedError

    def settle_taken(self) -> None:
        """Have native code tell other threads what became of their batches."""

    def wake(self) -> None:
        """Wake threads that wait in native code: the append lock was given back, or a sync has ended."""


AppendState: type[PureAppendState] = getattr(_core.native, "AppendState", PureAppendState)
