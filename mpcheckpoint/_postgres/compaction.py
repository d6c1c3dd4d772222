"""Shrink a log of a server: write its next generation beside it, and put that in its place.

What is dropped is decided once, of the batches up to the last one that the log had at the start. Steps, and what is
there if we die:
1. A lock of a session of our own, throughout: one compaction of a log at a time. Nobody else waits for it.
2. *plan*: one pass over the log, a page at a time. Callers' code runs here and in step 3 only.
3. *copy*: a second pass. The server copies what stays as it is; we send what is changed. Then what was appended
   meanwhile, in passes.                     Crash: rows of a generation that no log is in.
4. *switch*: under the lock of the log, in one transaction: the last batches, and the head names the new generation.
                                                     Crash: the old log or the new one, each whole.
5. The rows of the old generation go, a part at a time.                                    Crash: they are leftover.

Numbers, stamps and the ids of batches stay. A batch of which nothing stays leaves its id for a while: who got no answer
to its append may still ask for it.
"""

from __future__ import annotations

import math
import time
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._logfile.chunk import Origin
from mpcheckpoint._logfile.compaction import Compacted
from mpcheckpoint._postgres.batches import Batches
from mpcheckpoint._postgres.faults import CANNOT_LOCK, ConnectionLostError, ServerError
from mpcheckpoint._postgres.next_generation import NextGeneration, kept_bytes, remove_leftovers, vacuum
from mpcheckpoint._postgres.read import LOOK, START, page_in, parameters_of
from mpcheckpoint._postgres.rows import body_of, int8, numbers_in
from mpcheckpoint._postgres.session import BEGIN, COMMIT, ROLLBACK, Call, lock_timeout, statement
from mpcheckpoint._postgres.sessions import told
from mpcheckpoint.errors import CheckpointError, CompactionError, LockTimeoutError, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._logfile.compaction import Pace
    from mpcheckpoint._logfile.selected import Selection
    from mpcheckpoint._postgres.place import LogPlace
    from mpcheckpoint._postgres.read import Page
    from mpcheckpoint._postgres.session import Session

_MOST_UNDER_LOCK_BYTES = 256 * 1024
_MOST_PASSES = 30
_MOST_BEGINNINGS = 5
# Longer than any append is tried again.
_KEEP_BATCH_IDS_S = 24 * 3600

_ALONE = statement("compaction_lock", "select pg_advisory_lock($1::bigint)")
_SWITCH = statement(
    "switch_1",
    "select mpcheckpoint.switch_1($1::text, $2::bigint, $3::bigint, $4::bigint, $5::uuid, $6::bigint, $7::bytea)",
)
_LOCK = statement("compaction_log", "select from mpcheckpoint.lock_1($1::text, $2::bigint, null, null, null)")
_ASYNC = statement("compaction_async", "set synchronous_commit = off")
_SYNC = statement("compaction_sync", "set synchronous_commit = on")


class _Start(NamedTuple):
    """The log as it was at the start."""

    gen: int
    origin: Origin
    number: int
    stamp_us: int
    id: bytes | None


class _OvertakenError(Exception):
    """The log is another one than was copied."""


class PostgresCompactor:
    """One compaction of one log.

    Locking rules: the compaction lock, then the lock of the log.
    """

    def __init__(
        self, place: LogPlace, timeout_s: float | None, pace: Pace, *, waits: bool, purges: bool
    ) -> None:
        self._place = place
        self._timeout_s = timeout_s
        self._pace = pace
        self._waits = waits
        self._purges = purges
        self._what = f"compacting the log {place.log_key!r}"
        self._longest_wait_s = 0.0
        self._passes = 0

    def run(self, selection: Selection, *, is_dry_run: bool) -> Compacted:
        """Compact the log. See ``StoredLog.compact``."""
        place = self._place
        with told(self._what, place.place), place.sessions.another(self._what) as session:
            self._take_lock(session)
            for _ in range(_MOST_BEGINNINGS):
                try:
                    remove_leftovers(session, place)
                    return self._run(session, selection, is_dry_run=is_dry_run)
                except _OvertakenError:
                    continue
                except BaseException:
                    self._give_up(session)
                    raise
        raise CompactionError(
            f"the log {self._place.log_key!r} was given another generation {_MOST_BEGINNINGS} times while it was being "
            "copied; nothing was changed",
            path=self._place.place,
            reason="overtaken",
        )

    def _give_up(self, session: Session) -> None:
        """Remove what was written, as far as the server lets us: else the next compaction does."""
        if not session.is_lost:
            try:
                remove_leftovers(session, self._place)
            except (ConnectionLostError, ServerError):
                pass

    def _take_lock(self, session: Session) -> None:
        session.call(lock_timeout(self._timeout_s if self._waits else 0))
        name = blake2b(b"mpcheckpoint compaction %d" % self._place.id, digest_size=8).digest()
        try:
            session.call_one(_ALONE, name)
        except ServerError as error:
            if error.code != CANNOT_LOCK:
                raise
            raise LockTimeoutError(
                f"another process compacts the log {self._place.log_key!r} of {self._place.place}",
                path=self._place.place,
                reason="lock timeout",
                advice="try again later",
            ) from None
        session.call(lock_timeout(self._timeout_s), Call(_ASYNC))

    # --- plan -------------------------------------------------------------------------------------------------

    def _run(self, session: Session, selection: Selection, *, is_dry_run: bool) -> Compacted:
        start = self._begin(session)
        selection.begin(start.stamp_us, start.origin)
        before, done = self._place.size_bytes(), 0
        for batches in self._batches(session, start, START, start.number):
            selection.look(batches.lines)
            done += batches.size
            self._pace(done, 2 * before)
        if not selection.decide():
            return Compacted(None, before, before)
        if is_dry_run or selection.most_kept < math.inf:
            after = self._planned_bytes(session, start, selection)
            if is_dry_run or after > before * selection.most_kept:
                return Compacted(None, before, after)
            selection.decide()  # once more: it was asked for the fates
        copy = NextGeneration(session, self._place, start.gen)
        keep_ids_from_us = start.stamp_us - int(_KEEP_BATCH_IDS_S * 1e6)
        copy.add_leading(selection.leading())
        for batches in self._batches(session, start, START, start.number):
            changed = batches.changed(*selection.fates(batches.lines), keep_ids_from_us=keep_ids_from_us)
            copy.add(batches, changed)
            done += batches.size
            self._pace(done, 2 * before)
        self._finish(session, start, copy, selection)
        after = self._place.size_bytes()
        remove_leftovers(session, self._place)
        if self._purges:
            vacuum(session, self._place)
        return Compacted(copy.generation.hex(), before, after, self._longest_wait_s, self._passes)

    def _begin(self, session: Session) -> _Start:
        head = self._page(session, None, 2**62)
        last = self._page(session, head.gen, head.end - 1) if head.end else None
        has_last = last is not None and bool(last.ends)
        return _Start(
            head.gen,
            Origin(self._place.log_key, head.generation, head.lineage),
            head.end,
            numbers_in(last.stamps_us)[-1] if has_last and last is not None else 0,
            last.last_id if last is not None else None,
        )

    def _page(self, session: Session, gen: int | None, after: int) -> Page:
        return page_in(session.call_one(LOOK, *parameters_of([(self._place.id, gen, after)])))

    def _batches(self, session: Session, start: _Start, after: int, until: int) -> Iterator[Batches]:
        """Yield all batches after a number, up to another one."""
        while after < until:
            page = self._page(session, start.gen, after)
            if page.gen != start.gen:
                raise _OvertakenError
            if not page.ends:
                return
            batches = Batches(
                after,
                numbers_in(page.ends),
                numbers_in(page.stamps_us),
                numbers_in(page.counts),
                page.lines(),
                len(page.bodies),
            )
            after = page.last
            yield batches if after <= until else batches.up_to(until)

    def _planned_bytes(self, session: Session, start: _Start, selection: Selection) -> int:
        size = sum(len(body_of([payload])) + 1 for payload in selection.leading())
        for batches in self._batches(session, start, START, start.number):
            changed = batches.changed(*selection.fates(batches.lines), keep_ids_from_us=2**62)
            size += kept_bytes(session, start.gen, batches, changed)
        return size

    # --- copy -------------------------------------------------------------------------------------------------

    def _finish(self, session: Session, start: _Start, copy: NextGeneration, selection: Selection) -> None:
        """Copy what was appended since, and put the copy in the log's place."""
        copied = _Copied(start.number, start.id)
        for _ in range(_MOST_PASSES):
            copied = self._catch_up(session, start, copy, copied, selection)
            if self._is_switched(session, start, copy, copied, selection):
                return
        raise CompactionError(
            f"the log {self._place.log_key!r} grew faster than it was copied, {_MOST_PASSES} times in a row; nothing "
            "was changed",
            path=self._place.place,
            reason="outrun",
            advice="try again when less is appended",
        )

    def _catch_up(
        self, session: Session, start: _Start, copy: NextGeneration, copied: _Copied, selection: Selection
    ) -> _Copied:
        """Copy what stands after ``copied`` by now."""
        self._passes += 1
        head = self._page(session, start.gen, copied.number)
        if head.gen != start.gen or (copied.id is not None and head.known_id != copied.id):
            raise _OvertakenError
        for batches in self._batches(session, start, copied.number, head.end):
            if selection.is_out_of_date(batches.lines):
                raise _OvertakenError
            copy.add(batches, {})
            copied = _Copied(batches.ends[-1], None)
        if copied.id is None and copied.number > START:
            copied = copied._replace(id=self._page(session, start.gen, copied.number).known_id)
        return copied

    def _is_switched(
        self, session: Session, start: _Start, copy: NextGeneration, copied: _Copied, selection: Selection
    ) -> bool:
        """Put the copy in the log's place; return False if too much is left to copy for others to wait."""
        # Whoever looks sees what was committed before: the copy becomes durable with the switch.
        session.call_one(_SYNC)
        begun_s = time.perf_counter()
        try:
            session.call(Call(BEGIN, is_last=False), Call(_LOCK, [session.marker, int8(self._place.id)]))
            head = self._page(session, start.gen, copied.number)
            if head.gen != start.gen or (copied.id is not None and head.known_id != copied.id):
                raise _OvertakenError
            if head.end - copied.number > _MOST_UNDER_LOCK_BYTES:
                session.call_one(ROLLBACK)
                return False
            for batches in self._batches(session, start, copied.number, head.end):
                if selection.is_out_of_date(batches.lines):
                    raise _OvertakenError
            switching = (
                session.marker,
                int8(self._place.id),
                int8(start.gen),
                int8(copied.number),
                copied.id,
                int8(copy.gen),
                copy.generation,
            )
            switched = session.call_one(_SWITCH, *switching)
        except ConnectionLostError:
            raise
        except BaseException:
            _roll_back(session)
            raise
        if switched.get_value(0, 0) is None:
            session.call_one(ROLLBACK)
            raise _OvertakenError
        self._commit(session, copy.generation)
        self._longest_wait_s = max(self._longest_wait_s, time.perf_counter() - begun_s)
        session.call_one(_ASYNC)
        return True

    def _commit(self, session: Session, generation: bytes) -> None:
        """Make the switch, or find out that it was made where there is no answer.

        Raises:
            ConnectionLostError, ServerError: it was not. NoAnswerError: nobody can be asked.
        """
        try:
            session.call_one(COMMIT)
        except (ConnectionLostError, ServerError) as error:
            # A session that was ended at the commit may have committed.
            if isinstance(error, ServerError) and not error.is_of_session:
                raise
            try:
                page = page_in(self._place.read(LOOK, *parameters_of([(self._place.id, None, 2**62)])))
                self._place.flush()
            except CheckpointError:
                raise NoAnswerError(
                    f"{self._what} of {self._place.place}: the server gave no answer ({error}): the log is compacted, "
                    "or as it was",
                    path=self._place.place,
                    reason="no answer",
                ) from None
            if page.generation != generation.hex():
                raise


class _Copied(NamedTuple):
    """Up to where a log was copied: a number, and the id of that batch; None for the start."""

    number: int
    id: bytes | None


def _roll_back(session: Session) -> None:
    try:
        session.call_one(ROLLBACK)
    except (ConnectionLostError, ServerError):
        pass
