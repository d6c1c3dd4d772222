"""One log of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._postgres.append import Appender
from mpcheckpoint._postgres.append_group import append_group
from mpcheckpoint._postgres.attempt import Attempt
from mpcheckpoint._postgres.compaction import PostgresCompactor
from mpcheckpoint._postgres.examination import durability_of
from mpcheckpoint._postgres.notifier import LONGEST_PAUSE_ALONE_S, PostgresNotifier
from mpcheckpoint._postgres.read import PostgresReader
from mpcheckpoint._store.durability import Durability, Mode
from mpcheckpoint.errors import RecordsLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.compaction import Compacted, Pace
    from mpcheckpoint._logfile.selected import Selection
    from mpcheckpoint._postgres.place import LogPlace
    from mpcheckpoint._types import Position, Repair
    from mpcheckpoint.errors import CheckpointError


class PostgresLog:
    """One log. See ``StoredLog`` in ``_store.protocol``."""

    longest_pause_s = LONGEST_PAUSE_ALONE_S

    def __init__(self, place: LogPlace, notifier: PostgresNotifier) -> None:
        self.log_key = place.log_key
        self._place = place
        self._notifier = notifier
        self._appender = Appender(place)

    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Callable[[], Position | None] | None = None,
    ) -> Position:
        # With ``interval`` at once, too: one sync makes the appends of many durable.
        is_durable = durability.mode is not Mode.NEVER
        attempt = Attempt(
            payloads, guard, timeout_s=timeout_s, is_durable=is_durable, retry_s=self._place.retry_s
        )
        return self._appender.append(attempt)

    def append_group(
        self, batches: Sequence[list[Payload]], *, durability: Durability, timeout_s: float | None
    ) -> list[Position | CheckpointError]:
        """Append each of these batches by itself, with one commit for many; return what came of each."""
        is_durable = durability.mode is not Mode.NEVER
        return append_group(self._appender, self._place, batches, timeout_s, is_durable=is_durable)

    # --- durable ----------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float | None) -> None:
        """Return when all that is visible now, and all that was appended here, is durable.

        Raises:
            RecordsLostError: the server has lost what was appended here without a sync. Raised once.
        """
        del timeout_s  # no lock is waited for
        unsynced = self._appender.unsynced
        self._place.flush()
        self._appender.syncs += 1
        is_there = unsynced is None or self._place.holds(*unsynced)
        if self._appender.unsynced is unsynced:
            self._appender.unsynced = None
        if not is_there:
            raise RecordsLostError(
                f"the server lost what was appended to the log {self.log_key!r} of {self._place.place} and not made "
                "durable before it crashed",
                path=self._place.place,
                reason="records lost",
                advice="read the log, and append again what is missing",
            )

    def finish(self) -> None:
        """Make durable what was appended here with ``never``."""
        if self._appender.unsynced is not None:
            self.flush(None)

    def recover(self, timeout_s: float | None) -> None:
        """Do nothing: a server whose sync failed has stopped, and recovers when it starts."""

    # --- read, look after -------------------------------------------------------------------------------------

    def reader(self, *, resumes: bool = False) -> PostgresReader:
        return PostgresReader(self._place, resumes=resumes)

    def subscribe(self, seconds: float) -> PostgresNotifier | None:
        is_marked = not self._place.is_read_only and self._notifier.follow(self._place.id, seconds)
        return self._notifier if is_marked else None

    def compact(
        self,
        selection: Selection,
        *,
        timeout_s: float | None,
        pace: Pace,
        is_dry_run: bool = False,
        purges: bool = False,
        waits: bool = True,
    ) -> Compacted:
        compactor = PostgresCompactor(self._place, timeout_s, pace, waits=waits, purges=purges)
        return compactor.run(selection, is_dry_run=is_dry_run)

    def size_bytes(self) -> int:
        """Return how many bytes its batches take, without what the server adds."""
        return self._place.size_bytes()

    def repairs(self) -> list[Repair]:
        """Return that nothing was cut: what a server crashed in is not there."""
        return []

    def stats(self) -> dict[str, object]:
        """Return the log's size in bytes, and what this process did to it."""
        return {
            "path": self._place.place,
            "size_bytes": self.size_bytes(),
            "appends": self._appender.appends,
            "syncs": self._appender.syncs,
            "repairs": 0,
            "is_poisoned": False,
            **durability_of(self._place.ask),
        }
