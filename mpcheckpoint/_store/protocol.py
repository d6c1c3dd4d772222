"""The storage protocol: what a handle asks of its storage. Append, read from a position, list keys.

Another storage can take the place of the directory if it keeps what is promised here. `checkpoint_on` in
``mpcheckpoint.checkpoint`` opens a handle on it, and `mpcheckpoint.testing.conformance` tries each promise; a
subclass of a few lines runs that suite.

For all of it:

- Every error is a `CheckpointError` of the type named, and after it nothing has changed, unless its name says
  otherwise.
- What an append wrote is *visible*, to every reader of every store on the same place in every process that shares it,
  at the latest when the append returns. Nothing is ever visible that was refused.
- Any number of threads may use a Store and a StoredLog at once, and any number of processes that share the place. A
  Reader is for one thread at a time. A storage that keeps open files or locks takes care of forks itself:
  ``process.register`` (``_store.process``) tells it of them.
- A storage that a server keeps is made with ``retry_s``. Where that server cannot be reached, a call goes on trying for
  so many seconds. Then it raises StoreUnavailableError: nothing was written. An append that was sent and got no answer
  raises NoAnswerError instead: it may have been written or not, and the log goes on.
- A process that dies, at any instant, leaves no lock behind and no batch in part.
- A log need not have the bytes of ``docs/format.md``. What crosses this seam is its vocabulary: a
  Payload in, Lines and Notes out (``_format.frame``, ``_format.control``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mpcheckpoint._store.moving import Movable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._logfile.compaction import Compacted, Pace
    from mpcheckpoint._logfile.judged import Seen
    from mpcheckpoint._logfile.near_end import Rest
    from mpcheckpoint._logfile.selected import Selection
    from mpcheckpoint._store.durability import Durability
    from mpcheckpoint._store.worker_protocol import Workers
    from mpcheckpoint._types import Position, Repair
    from mpcheckpoint.errors import CheckpointError


class Reader(Protocol):
    """One log, read forward by one thread at a time. Never writes, and never waits for a writer or a lock.

    Attributes:
        given: how many chunks were given out. Counted before anything else of the reader moves on: a caller that was
            interrupted and took fewer chunks must take a new reader.
    """

    given: int

    def poll(self) -> Iterable[Chunk]:
        """Return what became visible since the last call, oldest first; at the first call the whole log.

        What was visible at the call is in it; what became so meanwhile may be. Each record comes once, in the order of
        the log. A batch comes whole and in one chunk. No chunk is empty: where nothing is new there is none. Chunks
        that the caller leaves come at the next call.

        A chunk's lines have ``object_key``, ``event`` and ``meta``, the bytes that were appended, and the line's place:

        - ``stamp_us``: shared by the lines of one batch, and above those of all earlier batches of this log. It is
          taken from ``clock.next`` (``_logfile.clock``), and each stamp that is read is shown to ``clock.observe``:
          so it is also above each stamp that this process has seen, in any log, and an effect sorts after its cause.
        - ``more``: how many lines of its batch follow it.
        - ``offset``, ``end``: any integers of at most 18 digits that rise along a generation, ``end`` above ``offset``.

        Payloads that are ignorable control lines (`note_payload`) come as ``notes``, not as lines. ``generation`` is
        32 hex digits that no other log has anywhere; a log may take others in its life. ``durable`` is an
        offset: lines that end at or below it survive a loss of power; too low is fine. ``is_reset`` says that what was
        given before is void and the log comes anew from its start: only where it was replaced, or where records are
        gone that were given, and never if the reader ``resumes``. ``lines`` is a list of Lines, or a Lines
        (``_format.columns``), which costs less where there are many; lists are the caller's to change. ``begun_us`` is
        above the stamps of lines that were copied from an earlier generation, and below all others; 0 where there are
        none. ``note_stamps_us`` may stay empty.

        Raises:
            CorruptLogError, ReadFailedError, LogNotFoundError: what was given before stays valid.
            RecordsLostError: the reader ``resumes``, and records are gone that were given, or sought: a crash of a
                server may take visible ones that were not durable. Raised at each further poll, too. What is appended
                after such a crash never gets a stamp, or a place, that a lost record had.
        """

    def seek(self, position: Position) -> None:
        """Have the first ``poll`` begin right after ``position``; inside a batch, with the rest of that batch.

        A position is valid for as long as its log is, also through its text, after a reopen, and after ``recover``.
        It is found by ``stamp_us`` and ``more``; ``offset`` is what an append or a Line said, or that of its batch's
        first line. Notes may come from before it.

        Requires: ``poll`` was not called yet.

        Raises:
            InvalidPositionError: it is no position of this log, but of one with the same key on another place, say; or
                the record before it is lost.
        """

    def begin_near_end(self, length_bytes: int) -> int | None:
        """Have the first ``poll`` begin at a batch about so many bytes before the end of the log, or at an earlier one.

        What is skipped is not read: damage in it is not found, and its notes are not given.

        Returns:
            The stamp of the batch before that one: all that is younger comes. None if reading begins at the start,
            which is always allowed.

        Requires: neither ``poll`` nor ``seek`` was called. It may be called again, to begin earlier.
        """

    def rest(self) -> Rest | None:
        """Return what follows the last whole batch, as the last ``poll`` found it; None for nothing, or padding.

        Requires: all that ``poll`` returned was taken.
        """

    def position(self) -> Position:
        """Return the place after what was given so far, or sought. Requires: ``poll`` or another of these methods was
        called."""

    def seen(self) -> Seen | None:
        """Return what was given so far, for a condition that is judged on it: the log's generation, and its end there.

        None where the storage cannot tell, or nothing was given yet. Requires: all that ``poll`` returned was taken,
        and neither ``seek`` nor ``begin_near_end`` was called.
        """

    def release(self) -> None:
        """Give back files and the like. The next ``poll`` takes them again and goes on where the last one ended."""


class Notifier(Protocol):
    """What wakes a follower. Any number of threads may use one at once.

    Attributes:
        longest_pause_s: how long a follower waits at most until it polls again, though nothing woke it.
        shortest_pause_s: how long it does so at least; 0 where polls cost next to nothing.
    """

    longest_pause_s: float
    shortest_pause_s: float

    def value(self) -> int:
        """Return what changes at each append to a subscribed log."""

    def wait(self, value: int, timeout_s: float) -> None:
        """Return when the value is another one, after so many seconds, or earlier for no reason."""


class StoredLog(Protocol):
    """One log, for any number of threads.

    Attributes:
        longest_pause_s: how long a follower waits at most between two polls where nothing can wake it.
    """

    log_key: str
    longest_pause_s: float

    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Callable[[], Position | None] | None = None,
    ) -> Position:
        """Append one batch, atomically, on the condition that ``guard`` neither raises nor returns a position.

        All appends to a log happen one after the other: ``guard`` is called once, when every earlier append is visible,
        and between its call and the batch nothing else is appended. It reads the log, and it neither appends nor waits.

        Args:
            payloads: the records, and notes; at least one. The list stays the caller's. ``guard`` may change it: the
                batch is what it holds when ``guard`` returns, never more bytes than before.
            durability: what is to be true when this returns. ALWAYS: the batch survives a loss of power. INTERVAL: it
                does after ``interval_s`` seconds, or ``finish``, or when the process exits. NEVER: no matter.
            timeout_s: how long to wait for other writers in seconds; None for ever.
            guard: raises what this shall raise, or returns the position this shall return, with nothing written. In the
                latter case what is at that position is as durable as asked. One that is a ``Judged``
                (``_logfile.judged``) need not be called if the log holds what it has ``seen``, and nothing else; or, in
                the same generation, nothing else that concerns what it ``relies_on`` (``concern_of`` of each later
                line, whoever appended it, is not among that; a compaction since then may change anything). A storage
                that finds something else may call ``is_met_anew()``, outside of its lock, and try again for as long as
                that is true; after that it calls the guard under the lock.

        Returns:
            The position right after the batch: that of its last line.

        Raises:
            LockTimeoutError: others were writing for ``timeout_s`` seconds. Nothing was written.
            ReentrancyError: this thread is inside an append to this log already. Nothing was written.
            WriteFailedError, CorruptLogError, PoisonedLogError, StoreAccessError, LogNotFoundError, ClockError:
                nothing was written.
            OutcomeUnknownError: it was written and is visible, but may not be durable. From then on every append raises
                PoisonedLogError, until ``recover``.
            NoAnswerError: it may have been written, or not, or be written yet. The log goes on. Before it raises that,
                a storage tries again what was not answered, and appends it once: found by a name of the batch, and
                before any condition is judged, or it would meet its own records.
        """

    def append_group(
        self, batches: Sequence[list[Payload]], *, durability: Durability, timeout_s: float | None
    ) -> list[Position | CheckpointError]:
        """Append each of these batches as ``append`` does, with a stamp and a position of its own, in their order.

        They share the wait for the disk. A crash may leave the first ones of them, or all, or none.

        Returns:
            What came of each: its position, or what ``append`` would have raised.

        Args:
            batches: at least one. durability, timeout_s: as for ``append``.

        Raises:
            LockTimeoutError, ReentrancyError, CorruptLogError, PoisonedLogError, WriteFailedError, StoreAccessError,
            LogNotFoundError, ClockError: none was written.
        """

    def reader(self, *, resumes: bool = False) -> Reader:
        """Return a reader at the start of the log.

        Args:
            resumes: if the log is replaced (``recover``), go on after what was given, instead of starting anew.
        """

    def subscribe(self, seconds: float) -> Notifier | None:
        """Have appends to this log notify for so long; None if they cannot, and a follower has to poll.

        A hint: a follower finds what no notification announced a little later.
        """

    def flush(self, timeout_s: float | None) -> None:
        """Return when all that is visible now survives a loss of power, written by any process.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, OutcomeUnknownError
        """

    def finish(self) -> None:
        """Return when what this process appended to this log with INTERVAL survives a loss of power.

        Raises:
            OutcomeUnknownError
        """

    def recover(self, timeout_s: float | None) -> None:
        """Make the log take appends again after a failed sync; harmless on a sound log.

        Records keep their order, stamps, batches and meta, and positions stay valid, also if the generation becomes
        another.

        Raises:
            LockTimeoutError, CorruptLogError, WriteFailedError: nothing was changed.
        """

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
        """Drop what ``selection`` says of what the log holds now, at once for all or not at all.

        What is left keeps its order, stamps, batches and meta, and positions stay valid, those of dropped records, too.
        Lines that are appended meanwhile stay. A reader that was not made to resume comes anew from the start
        (``is_reset``); others go on after what they gave.

        Args:
            selection, pace: see ``_logfile.compaction``. Both are called without any lock.
            is_dry_run: only tell what would be done.
            purges: also remove, for good, what earlier repairs have cut off the log.
            waits: for another compaction of the log, for ``timeout_s`` seconds; else LockTimeoutError comes at once.

        Raises:
            LockTimeoutError, CorruptLogError, PoisonedLogError, WriteFailedError, ReadFailedError, StoreAccessError,
            CompactionError: nothing was changed. And what ``selection`` and ``pace`` raise.
        """

    def size_bytes(self) -> int:
        """Return how large the log is. Asked for often, so it must not cost anything to those who append."""

    def repairs(self) -> list[Repair]:
        """Return what repairs after crashes have cut off, oldest first; [] if none did."""

    def stats(self) -> dict[str, object]:
        """Return figures by name, among them ``size_bytes``, ``appends`` and ``syncs`` (by this process), ``repairs``
        (a count) and ``is_poisoned``.

        Where there are locks that others can look at also ``lock`` ("free", "held" or "unknown"), ``waiters``,
        ``holder_pid``, ``holder_command`` and ``is_holder_stopped``. What is read from the records is the handle's.
        """


class Store(Movable, Protocol):
    """A set of logs on one place. Any number of stores may stand on the same place and show the same logs.

    Pickles to a store on the same place, equal to its other copies and of one hash with them: so handles pickle, and a
    worker that is sent one again and again opens it once.

    Attributes:
        path: names the place, in messages and in what a process remembers of it.
    """

    path: str

    @property
    def workers(self) -> Workers:
        """Who works on the objects of its logs, in all processes that share the place."""

    def log_keys(self) -> list[str]:
        """Return the keys of all logs, each once, sorted by code points.

        Every string that UTF-8 can hold is a key: the empty one, slashes, control characters; keys differ if a single
        code point does, also in case only. A log is listed from when ``open_log`` returned it to anyone.
        """

    def change_token(self) -> object | None:
        """Return a value that is another one, by ==, once a log was added; None if that cannot be told without listing.

        It has changed before ``open_log`` returns the new log to anyone. Right after ``look`` it may be the value of
        that moment, for the thread that looked.
        """

    def look(self, readers: Sequence[Reader]) -> bool:
        """Have the next ``poll`` of each of these readers give what one look at all of their logs finds.

        For a storage to which each poll is a message: so one is enough. What a look finds is given once, also if the
        next call is another look, or ``release``, or if an interrupt ends it at any point; what comes after the look
        need not be in that poll. A storage may do nothing.

        Returns:
            Whether the polls will show one moment of all these logs, and nothing later: then an effect in one does not
            come without its cause in another. Where this is False, they are logs that were read one after the other.
        """

    def find_log(self, log_key: str) -> StoredLog:
        """Return a log for reading, without waiting for anybody.

        Raises:
            LogNotFoundError: there is none, and none was created.
            InvalidKeyError: it is no ``str`` that UTF-8 can hold.
        """

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> StoredLog:
        """Return a log for writing. If there is none and ``create`` is true, make it, empty; of all who do so at
        once, one does. A log that is there keeps what it holds.

        Raises:
            LogNotFoundError: there is none and ``create`` is false; none was created.
            InvalidKeyError: as for ``find_log``.
            LimitExceededError: the key is longer than this storage takes, which is at least 32 KiB as JSON.
            LockTimeoutError, StoreAccessError, WriteFailedError: none was created.
        """
