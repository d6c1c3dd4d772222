"""Statistics of one log, counted as it is read. Memory is bounded, apart from the keys of its objects."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from mpcheckpoint._format.columns import Lines

if TYPE_CHECKING:
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._store.protocol import Reader, StoredLog


class Figures:
    """What was counted.

    Attributes:
        records, object_keys: how many records, and the keys of their objects.
        first_us, last_us: the stamps of the first and of the last record; None if there is none.
        batches: how many appends wrote the records, in all processes.
        stated_syncs: how many syncs the records tell of: different offsets that their lines state as durable. There may
            have been more, which covered nothing new. It begins anew with each generation of the log.
    """

    def __init__(self) -> None:
        self.records = 0
        self.object_keys: set[str | None] = set()
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.batches = 0
        self.stated_syncs = 0
        self._highest_durable: int | None = None
        self._begun_us = 0

    def add(self, chunk: Chunk) -> None:
        """Count what a reader found new."""
        lines = Lines.of(chunk.lines)
        self.object_keys.update(lines.object_keys)
        for at, object_key, _ in chunk.forgets:
            if object_key not in lines.object_keys[at:]:
                self.object_keys.discard(object_key)
        if not lines:
            return
        stamps_us = lines.stamps_us
        self.records += len(lines)
        # The lines of a batch share a stamp, and no other batch has it.
        self.batches += len(set(stamps_us)) if any(lines.mores) else len(lines)
        self.first_us = stamps_us[0] if self.first_us is None else self.first_us
        self.last_us = stamps_us[-1]
        self._count_syncs(lines, chunk.begun_us)

    def _count_syncs(self, lines: Lines, begun_us: int) -> None:
        if begun_us != self._begun_us:
            self.stated_syncs, self._highest_durable, self._begun_us = 0, None, begun_us
        # Each line that was copied from another generation states its own offset.
        copied = bisect_right(lines.stamps_us, begun_us)
        if copied == len(lines):
            return
        if self._highest_durable is None:
            self._highest_durable = lines.offsets[copied]  # all before it was synced before it had a name
        known = self._highest_durable
        news = {durable for durable in lines.durables[copied:] if durable > known}
        if news:
            self.stated_syncs += len(news)
            self._highest_durable = max(news)


class Statistics:
    """The figures of a log, brought up to date by reading what is new.

    Concurrency: for one thread at a time; the caller sees to it.
    """

    def __init__(self, stored: StoredLog) -> None:
        self._stored = stored
        self.figures = Figures()
        self.reader: Reader = stored.reader()
        self._counted = 0

    def refresh(self) -> Figures:
        """Count what is new; return the figures.

        Raises:
            CorruptLogError, ReadFailedError, LogNotFoundError: what is before the damage was counted.
        """
        if self.reader.given != self._counted:
            # A signal handler raised when the reader had moved on and this had not: count anew.
            self.reader.release()
            self.figures, self.reader, self._counted = Figures(), self._stored.reader(), 0
        for chunk in self.reader.poll():
            if chunk.is_reset:
                self.figures = Figures()
            self.figures.add(chunk)
            self._counted = self.reader.given
        return self.figures

    def states(self, *, is_poisoned: bool) -> tuple[str, ...]:
        """Return the states that the log is in, the worst first: "poisoned", "torn", "pending", "whole".

        Requires: ``refresh``.
        """
        rest = self.reader.rest()
        states = ["poisoned"] if is_poisoned else []
        if rest is not None:
            states.append("torn" if rest.is_torn else "pending")
        return tuple(states) or ("whole",)


class StatisticsOfLogs:
    """The figures of those logs of a store that were asked for.

    Concurrency: as of Statistics.
    """

    def __init__(self) -> None:
        self._by_log_key: dict[str, Statistics] = {}

    def of(self, stored: StoredLog) -> Statistics:
        """Return the figures of a log, brought up to date."""
        statistics = self._by_log_key.get(stored.log_key)
        if statistics is None:
            statistics = self._by_log_key[stored.log_key] = Statistics(stored)
        statistics.refresh()
        return statistics

    def drop(self) -> None:
        """Give back files and memory."""
        for statistics in self._by_log_key.values():
            statistics.reader.release()
        self._by_log_key = {}
