"""One log of a store, for users."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint._view.handle import Session, Settings
from mpcheckpoint._view.log_handle import RecordLog
from mpcheckpoint._work.asking import AskedApart
from mpcheckpoint._work.claims import claimed
from mpcheckpoint._work.crew import ExecutorCrew, default_jobs, jobs_of
from mpcheckpoint._work.inputs import inputs_of, object_key_of
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.outlet import OnError, Options
from mpcheckpoint._work.perform import CallFunction, LogRef, Plan
from mpcheckpoint._work.permit import Permit
from mpcheckpoint._work.processes import ProcessCrew, require_children_allowed
from mpcheckpoint._work.refusals import DEFAULT_MAX_INVALID_RESULTS, require_function, require_limit
from mpcheckpoint._work.reruns import IfChanged, history_of, require_rerun_name
from mpcheckpoint._work.results import outcomes_of
from mpcheckpoint._work.retries import DEFAULT_DELAY_S, Retries
from mpcheckpoint._work.runs import is_done, join_run
from mpcheckpoint._work.shortage import begun
from mpcheckpoint._work.status import status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager
    from multiprocessing.context import BaseContext

    from mpcheckpoint._work.claims import Claim
    from mpcheckpoint._work.crew import Crew
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.status import MapStatus

__all__ = ["Log"]

T = TypeVar("T")


class Log(RecordLog):
    """One append-only log of a store; get it from ``Checkpoint.log``.

    Concurrency: any number of threads; survives fork on both sides; pickles, to a handle of its own on the same log.
    """

    # --- work -------------------------------------------------------------------------------------------------

    def claim(self, object_key: str) -> AbstractContextManager[Claim | None]:
        """Take the sole right to work on an object, for a ``with`` block.

        The block gets a claim, or None if another live worker has the object: another process, thread, or claim of
        this process. The object is free again when the block ends, and at once when this process dies, however it
        dies: nobody waits for a claim to age. A claim keeps out those who ask for one, not appends.

        Args:
            object_key: any string.

        Raises:
            InvalidKeyError: it is no key.
            ReadOnlyError, LockTimeoutError, WriteFailedError, PoisonedLogError: nothing was taken.

        Durability: none needed; after a loss of power no worker lives.
        Concurrency: any number of threads and processes. A forked child does not share the claim.
        """
        return claimed(self, object_key)

    def pending(
        self, items: Iterable[T], *, key: Callable[[T], str] | None = None, rerun: str | None = None
    ) -> Iterator[T]:
        """Yield the items that are not done, each as it stands when its turn comes.

        Done is, on a log that a map ran on, what has an outcome, be it a failure; on any other, what has an event in
        this log.

        Args:
            items: strings that are object keys, or anything with ``key``.
            key: a function that returns the object key of an item.
            rerun: done is what has an outcome under this name; see ``map``.

        Raises:
            TypeError: an item is no string, and there is no ``key``.
            InvalidKeyError: an object key is none.
            ValueError: ``rerun`` is no name.
        """
        require_rerun_name(rerun)
        return self._pending(items, key, rerun)

    def _pending(self, items: Iterable[T], key: Callable[[T], str] | None, rerun: str | None) -> Iterator[T]:
        for item in items:
            object_key = object_key_of(item, key)
            if not self.look(lambda view, object_key=object_key: is_done(view, object_key, rerun)):  # type: ignore[misc]
                yield item

    def map(  # noqa: PLR0913 - each is a choice of its own, all but two have a default
        self,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        key: Callable[[Any], str] | None = None,
        version: str = "",
        jobs: int | None = None,
        mp_context: BaseContext | None = None,
        executor: Executor | None = None,
        ordered: bool = False,
        on_error: str = "record",
        include_done: bool = True,
        retry_failed: bool = False,
        rerun: str | None = None,
        if_changed: str = "refuse",
        retries: int = 0,
        retry_delay_s: float = DEFAULT_DELAY_S,
        timeout_s: float | None = None,
        max_invalid_results: int | None = DEFAULT_MAX_INVALID_RESULTS,
    ) -> MapRun:
        """Run ``fn(item)`` for every item that has no outcome in this log yet, in parallel, and record each outcome.

        Killed at any instant and called again, it runs only what is missing. Any number of processes may run the same
        map on the same log: they share the items, and no item runs twice while nobody dies. At least once: an item
        whose worker dies before its outcome is recorded runs again.

        Starts at the call. Items are taken as workers become free; memory is bounded however many there are. What
        has a length, as a list, is iterated over in the caller's thread; any other iterable in a thread of its own, an
        item at a time, so that it may wait for an outcome that this very map gives out.

        Args:
            fn: what to run, a function that takes an item and returns a JSON value. An exception, or another value, is
                recorded as a failure. A process that it forks, and that returns or raises too, ends there and counts
                for nothing; as one does that ``items`` forks in its own thread.
            items: strings that are their own object keys, or anything with ``key``. Items that come twice run once and
                share the outcome. An item is compared with the one its key came with before, if both are JSON values of
                at most 1 MiB; others with ==, among the latest 10,000 of this call. What may only be used in the
                thread that made it, as a cursor of sqlite3, is handed in as a list.
            key: a function that returns the object key of an item.
            version: of the work done. It is recorded, and another one is refused (see ``if_changed``), so that outcomes
                do not mix.
            jobs: how many items run at a time; None for one a processor, or as many as ``executor`` has workers.
            mp_context: how worker processes are started, as ``multiprocessing.get_context`` returns it; None for
                the default. With spawn and forkserver ``fn`` must be found by its name in an importable module: no
                lambda, and no function of a notebook cell.
            executor: run in this executor instead of worker processes of our own. It is not shut down.
            ordered: give outcomes out in the order of the items, not as they come.
            on_error: "record" gives failures out as outcomes; "halt" does so, too, and starts no more items once the
                failure of one that ran here is recorded: what runs then finishes, and ``MapRun.is_halted``; "raise"
                starts no more either, and raises what ``fn`` raised.
            include_done: also give out outcomes that were there already (``Outcome.repeated``).
            retry_failed: run again what had failed before this call.
            rerun: a name of your own choice, at most 200 bytes: each of these items is to have an outcome under that
                name. The same call carries on, and another name begins anew, with whatever version. Items that are not
                given keep what they have, and what the map gives out are the outcomes under that name.
            if_changed: what to do if the map, or that rerun of it, came with another ``version`` before: "refuse" the
                call; "keep" what is done, and run what is missing; or "keep-ok": keep what is ok, and run what failed
                again, too. Starts that still run with the version before end with ChangedVersionError.
            retries: how often an item that failed is tried again before it counts as failed. Failed attempts are
                recorded, so the limit holds over all starts and all processes that share the items; an attempt that
                died with its process is not one of them. Meanwhile other items run, up to 1000 at rest.
            retry_delay_s: how long an item rests after its first failed attempt, in seconds; twice as long after each
                further one, to a minute (or to this, if it is more), shortened by up to a quarter at random.
            timeout_s: how long ``fn`` may run for an item, in seconds; None for as long as it likes. Then its process
                is ended, with SIGTERM and 5 s later SIGKILL, and replaced; the attempt has failed, "timed out". What
                ``fn`` has started lives on. Not possible in an ``executor``, whose workers are not ours to end.
            max_invalid_results: for how many items in a row ``fn`` may return what is no JSON value before the map
                stops with InvalidResultError; None for any number. Such an item is recorded as failed, and not retried.
                NaN and infinity count only while ``fn`` has returned nothing that can be recorded.

        Returns:
            A MapRun: iterate over it to have the outcomes. ``close`` ends it early and gives back what runs.

        Raises:
            ChangedVersionError: the map on this log, or that rerun of it, has another version. Nothing was run.
            ChangedItemError: a key came with another input. That input was not run.
            InvalidFunctionError: ``fn`` is no function, an ``async def``, a generator function, or cannot be sent to
                the worker processes. Nothing was run or recorded.
            InvalidItemError: an item cannot be sent to a worker process. That item was not run.
            TypeError, ValueError: an argument, or an item, is not what it should be.
            WorkerDiedError: this process may have no children, or they cannot start; or ``executor`` is broken, or was
                shut down.
            ShortageError: the machine is short of processes, threads, open files or memory, and for a minute nothing
                ran. Before that starts pause, with a logged warning, and the items that could not be started wait.
            ReadOnlyError, LockTimeoutError, WriteFailedError, PoisonedLogError: nothing was run.

        Durability: an outcome survives loss of power before it is given out, whatever the handle's setting.
        Concurrency: the MapRun is for one thread. A worker process that dies costs the item it ran, which runs again;
            the third time it is recorded as failed. Deaths are counted in the log, over all starts and processes; one
            by SIGTERM, SIGHUP or SIGINT only a second later, so that what is closed meanwhile counts nothing.
        """
        if on_error not in ("record", "halt", "raise"):
            raise ValueError(f"on_error is 'record', 'halt' or 'raise', not {on_error!r}")
        if executor is not None and mp_context is not None:
            raise ValueError(
                "executor and mp_context exclude each other: an executor has its own way to start"
            )
        if if_changed not in (known := [each.value for each in IfChanged]):
            raise ValueError(f"if_changed is one of {', '.join(map(repr, known))}, not {if_changed!r}")
        require_rerun_name(rerun)
        if not _is_text(version):
            raise ValueError(f"version is a str that UTF-8 can hold, not {version!r}")
        if jobs is not None and (type(jobs) is not int or jobs < 1):
            raise ValueError(f"jobs is a number of workers, at least 1, or None, not {jobs!r}")
        if type(retries) is not int or retries < 0:
            raise ValueError(f"retries is a number of attempts, at least 0, not {retries!r}")
        if not _is_duration(retry_delay_s):
            raise ValueError(f"retry_delay_s is a number of seconds, at least 0, not {retry_delay_s!r}")
        if timeout_s is not None and not (_is_duration(timeout_s) and timeout_s > 0):
            raise ValueError(f"timeout_s is a number of seconds above 0, or None, not {timeout_s!r}")
        if timeout_s is not None and executor is not None:
            raise ValueError(
                "executor and timeout_s exclude each other: only worker processes of our own can be ended"
            )
        require_limit(max_invalid_results)
        # Not asked for beside an executor: to ask for the default start method settles it for the whole process.
        context = mp_context or (multiprocessing.get_context() if executor is None else None)
        require_function(fn, context, executor)
        if executor is None:
            require_children_allowed()
        run = begun(
            lambda: join_run(
                self, version, rerun=rerun, if_changed=IfChanged(if_changed), retry_failed=retry_failed
            )
        )
        count = len(items) if isinstance(items, Sized) else None
        source = inputs_of(items, key)
        # What has a length does not wait for outcomes.
        asked = source if count is not None else begun(lambda: AskedApart(source))
        halts = on_error != OnError.RECORD.value
        permit = begun(lambda: Permit.given(self.workers_directory)) if halts else None
        plan = Plan(LogRef(self), run, CallFunction(fn), Retries(retries, retry_delay_s), permit)
        crew: Crew
        if context is not None:
            crew = ProcessCrew(plan, jobs or default_jobs(), context, timeout_s)
        else:
            assert executor is not None
            crew = ExecutorCrew(plan, executor, jobs or jobs_of(executor))
        options = Options(
            ordered,
            OnError(on_error),
            include_done,
            total=lambda: count,
            max_invalid_results=max_invalid_results,
        )
        return MapRun(plan, asked, crew, options)

    def results(self, *, rerun: str | None = None) -> Iterator[Outcome]:
        """Yield the last outcome of each item, whatever rerun it came from, in the order of the objects.

        Nothing if no map ran on this log. ``Outcome.item`` is the item as it was recorded: its object key, if it
        was no JSON value.

        Args:
            rerun: the last outcome under this name; nothing if there is no such rerun.

        Raises:
            ValueError: ``rerun`` is no name.
        """
        require_rerun_name(rerun)
        return outcomes_of(self, rerun)

    def reruns(self) -> tuple[str, ...]:
        """Return the names of the reruns on this log, in the order in which they were begun."""
        return tuple(name for name in self.look(history_of).latest if name is not None)

    def map_status(self, *, rerun: str | None = None) -> MapStatus | None:
        """Return how far the log's map is, whoever runs it; None if no map ran on this log.

        Counts what is recorded, and looks which workers and which starts of the map live now. Takes no lock and writes
        nothing; costs a pass over the objects in memory.

        Args:
            rerun: count the outcomes under this name. None for the rerun that is under way, if all starts that live now
                work on the same one; else for each item's last outcome. ``MapStatus.rerun`` tells which.

        Raises:
            CorruptLogError, ReadFailedError: the log cannot be read.
            ValueError: ``rerun`` is no name.
        """
        return status_of(self, require_rerun_name(rerun))

    # --- life -------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._session.settings._replace(log_keys=(self.log_key,)), self.log_key)


def _reopen(settings: Settings, log_key: str) -> Log:
    return Log(Session(settings), log_key)


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_text(value: object) -> bool:
    return type(value) is str and value.encode("utf-8", "replace").decode() == value
