"""The append side of one log in one process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.exclusive import ExclusiveLog
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.generation import Generation
from mpcheckpoint._logfile.generations import switch_generation
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.notices import tell
from mpcheckpoint._logfile.successor import find_in_successor, outcome_unknown
from mpcheckpoint._types import Position
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._types import Repair

_LOCK_WAIT_AT_RELEASE_S = 0.1
_LOCK_WAIT_AFTER_LOSS_S = 10.0

T = TypeVar("T")

logger = logging.getLogger("mpcheckpoint")


class Appended(msgspec.Struct, gc=False):
    """What an append left under its lock: where the log ends, and in which generation.

    ``beginning`` is the generation's then: another one tells that the file was opened, or read, anew since.
    ``found`` is the position of the record that made writing needless, or None if something was written.
    """

    generation: Generation
    end: EndState
    beginning: object
    found: Position | None = None


class LogWriter(ExclusiveLog):
    """Append to one log, with every thread of this process and every other process.

    The locking rules are those of ExclusiveLog. User code never runs inside: events are encoded before.
    """

    def __init__(self, paths: LogPaths) -> None:
        super().__init__(paths)
        self.appends = 0

    # --- append and sync --------------------------------------------------------------------------------------

    def append(
        self,
        payloads: list[Payload],
        *,
        timeout_s: float | None,
        guard: Callable[[], Position | None] | None = None,
    ) -> Appended:
        """Write one batch. It is visible then, and durable after ``make_durable``.

        Args:
            payloads: the records; at least one.
            timeout_s: how long to wait for other writers.
            guard: called under the append lock. What it raises is raised with nothing written; if it returns a
                position, nothing is written and that is ``found``. It must not wait for any lock but the
                mutex of a view.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, WriteFailedError: nothing was appended.
        """
        # What ``_exclusive`` and ``_established`` do, written out: whoever appends has just been woken, and each call
        # that it is spared counts twice. A change to one of them is a change to this.
        repair: Repair | None = None
        self._mutex.refuse_reentry()  # before the try: its finally would give back what the outer call holds
        try:
            generation = self._lock(timeout_s)
            try:
                repair = generation.establish_end()
            except OSError as error:
                raise self._not_established(generation, error) from error
            found = guard() if guard is not None else None
            # A record that was found may be visible and not yet durable: what the log holds now is to be covered.
            try:
                end = generation.end if found is not None else generation.append(payloads)
            except OSError as error:
                if not generation.is_lost(error):
                    raise
                repair = self._established(generation)
                end = generation.append(payloads)
            beginning = generation.beginning
            self.appends += 1
        finally:
            try:
                self._let_go()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                self._let_go()
                raise
            if repair is not None or (self._generation is not None and self._generation.notices):
                tell(repair, self._generation)
        return Appended(generation, end, beginning, found)

    def make_durable(self, appended: Appended) -> Position:
        """Return the position of an append once it survives a loss of power.

        Raises:
            OutcomeUnknownError: the sync failed, or the log was replaced and the record is not in its successor.
        """
        generation, end = appended.generation, appended.end
        position = self.position_of(appended)
        try:
            try:
                self._group_sync.cover(generation, end.offset)
            except OSError as error:
                if generation.is_poisoned:
                    raise self._not_covered(position, error) from error
                is_replaced = self._cover_anew(appended, position)
            else:
                is_replaced = self._is_replaced(appended, position)
            if generation.notices:
                tell(None, generation)
        except CheckpointError:
            raise
        except OSError as error:  # nothing is wrong with the log: it is synced, but may have been replaced
            cause = f"its file cannot be looked at ({error.strerror or error})"
            raise outcome_unknown(self.paths, cause, position) from error
        except BaseException as error:  # a Ctrl-C: the record stays, and whoever catches it should know
            error.add_note(f"mpcheckpoint: the record at {position} was written; it may not be durable")
            raise
        if is_replaced:
            return find_in_successor(self.paths, position)
        return position

    def _is_replaced(self, appended: Appended, position: Position) -> bool:
        """Return whether another file has taken the place of the one that was appended to."""
        generation = appended.generation
        try:
            status = system.file_status(generation.fd)
        except OSError:
            if generation.is_intact():
                raise
        else:
            if status.identity == generation.identity and generation.beginning is appended.beginning:
                return status.links == 0
        # Somebody closed the descriptor, and other threads or processes have synced the log.
        return self._cover_anew(appended, position)

    def _cover_anew(self, appended: Appended, position: Position) -> bool:
        """Make an append durable whose file somebody closed: as a first use does, opening it anew.

        Return whether the log got another generation meanwhile.

        Raises:
            OutcomeUnknownError: it could not be made durable, or what was written went elsewhere.
        """
        cause = "somebody closed the open file of the log"
        try:
            there = self._covered(_LOCK_WAIT_AFTER_LOSS_S, position, tries=1)
        except OutcomeUnknownError:
            raise
        except CheckpointError as failure:
            raise outcome_unknown(self.paths, f"{cause} ({failure.message})", position) from failure
        if there.generation.header.generation != position.generation:
            return True
        # Closed before it was written, it went into whatever file had got the number.
        if there.end.offset < appended.end.offset or not there.generation.bears_out(appended.end):
            raise outcome_unknown(self.paths, f"{cause}, and the record is not in it", position)
        return False

    def position_of(self, appended: Appended) -> Position:
        """Return the position right behind the record that was appended, or found."""
        offset, _, stamp_us = appended.end
        generation = appended.generation.header.generation
        return appended.found or Position(self.paths.log_key, generation, offset, stamp_us)

    def sync(self, timeout_s: float | None) -> int:
        """Make everything durable that the log holds now; return the offset below which that is so.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, OutcomeUnknownError
        """
        covered = self._covered(timeout_s, None, tries=2)
        tell(None, covered.generation)
        # If the log got another generation meanwhile, that holds the same records and was synced before it
        # was put there.
        return covered.end.offset

    def _covered(self, timeout_s: float | None, position: Position | None, *, tries: int) -> Appended:
        """Make everything durable that the log holds now; return where it ends.

        Args:
            tries: how often, where somebody closed its file.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, OutcomeUnknownError
        """
        while True:
            there = self._exclusive(timeout_s, self._established, _as_it_is)
            tries -= 1
            try:
                self._group_sync.cover(there.generation, there.end.offset)
            except OSError as error:
                if there.generation.is_poisoned or not tries:
                    raise self._not_covered(position, error) from error
            else:
                return there

    def _not_covered(self, position: Position | None, error: OSError) -> OutcomeUnknownError:
        tell(None, self._generation)
        return outcome_unknown(self.paths, f"its sync failed ({error.strerror or error})", position)

    @property
    def has_padding(self) -> bool:
        """Whether there is padding behind the end of the log, as far as this process knows."""
        return self._generation is not None and self._generation.has_padding

    def release_padding(self) -> None:
        """Cut off the padding behind the log's end, if there is any and nobody is writing now. Raises nothing."""
        if not self.has_padding:
            return
        try:
            self._exclusive(_LOCK_WAIT_AT_RELEASE_S, self._established, Generation.cut_padding)
        except (CheckpointError, OSError) as error:
            logger.debug("left the padding of log %r: %s", self.paths.log_key, error)

    def known_durable(self, generation: str) -> int:
        """Return the offset below which this process knows that generation to be durable; 0 if it knows nothing."""
        current = self._generation
        return current.known_durable if current is not None and current.header.generation == generation else 0

    @property
    def syncs(self) -> int:
        """How many syncs of the current generation this process did."""
        return self._generation.syncs if self._generation is not None else 0

    # --- another generation -----------------------------------------------------------------------------------

    def recover(self, timeout_s: float | None) -> None:
        """Put a new generation with the same records in the place of this one, and forget that a sync failed.

        Requires: the store lock.

        Raises:
            LockTimeoutError, CorruptLogError, WriteFailedError: nothing was changed.
        """

        def switch(old: Generation) -> None:
            switch_generation(self.paths, old)
            self._forget_poison()

        self._exclusive(timeout_s, _as_found, switch)

    def repair_end(self, timeout_s: float | None) -> Repair | None:
        """Repair a torn end as the next append would, and make what is left durable; return what was cut off, if any.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError: nothing was changed.
            WriteFailedError: nothing was cut.
        """
        repairs: list[Repair | None] = []

        def prepare(_: Generation) -> Repair | None:
            # As a process that has just begun: whoever believes the page does not look behind padding.
            repairs.append(self._established(self._opened()))
            return repairs[0]

        self._exclusive(timeout_s, prepare, lambda _: None)
        return repairs[0]

    def replace_damaged(
        self, timeout_s: float | None, replace: Callable[[Callable[[], None]], T | None]
    ) -> T | None:
        """Return what ``replace`` does under the locks of a log whose file may hold anything; None if that is nothing.

        ``replace`` puts another generation in the place of this one, or returns None. It is given a function that
        raises an OSError if the append lock was lost meanwhile.

        Requires: the store lock.

        Raises:
            LockTimeoutError: nothing was changed. And what ``replace`` raises.
        """
        self._mutex.refuse_reentry()
        try:
            self._lock_whatever_it_holds(timeout_s)
            replaced = replace(self._append_lock.require_held)
            if replaced is not None:
                self._forget_poison()
            return replaced
        finally:
            try:
                self._let_go()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                self._let_go()
                raise

    def _forget_poison(self) -> None:
        with translated("removing", self.paths.poison):
            self._poison.clear()

    # --- poison -----------------------------------------------------------------------------------------------

    def is_poisoned(self) -> bool:
        """Return whether the log takes no appends because a sync of it failed. Only reads."""
        current = self._generation
        if current is not None and current.is_poisoned and self._is_current(current):
            return True
        log = system.open_file(self.paths.log)
        header = read_header(log.fd, self.paths.log, log_key=self.paths.log_key)
        return self._poison.reason(header.generation) is not None

    # --- fork -------------------------------------------------------------------------------------------------

    def reset_after_fork(self) -> None:
        """Let go of everything inherited, in the child."""
        super().reset_after_fork()
        self.appends = 0


def _as_found(generation: Generation) -> None:
    """Take the log in whatever state it is, but no other file for it."""
    generation.reopen_if_lost()


def _as_it_is(generation: Generation) -> Appended:
    return Appended(generation, generation.end, generation.beginning)
