"""The start of a map of a function: its arguments are checked, its run is joined, its workers are made ready."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sized
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from mpcheckpoint._progress.choice import display_for, require_progress
from mpcheckpoint._work.causes import chosen_failures
from mpcheckpoint._work.file_marks import ChangedFiles, chosen, marked
from mpcheckpoint._work.fingerprint import AUTO, fingerprint
from mpcheckpoint._work.halt import Halt
from mpcheckpoint._work.input_thread import InputThread
from mpcheckpoint._work.inputs import Input, NotYet, inputs_of
from mpcheckpoint._work.invalid_results import DEFAULT_MAX_INVALID_RESULTS
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.permit import permit_for
from mpcheckpoint._work.plan import LogRef, OnError, Options, Plan
from mpcheckpoint._work.pool import ExecutorPool, PoolExecutor, WorkerPool, default_jobs, jobs_of
from mpcheckpoint._work.process_pool import ProcessPool, require_children_allowed
from mpcheckpoint._work.refusals import (
    require_default,
    require_function,
    require_initializer,
    require_workers,
)
from mpcheckpoint._work.reruns import IfChanged, require_rerun_name
from mpcheckpoint._work.retries import DEFAULT_DELAY_S, Retries
from mpcheckpoint._work.run_again import RunAgain
from mpcheckpoint._work.run_item import FunctionCall
from mpcheckpoint._work.runs import join_run
from mpcheckpoint._work.shortage import outlast_shortage
from mpcheckpoint._work.whole_number import whole_number
from mpcheckpoint._work.worker_options import WorkerOptions, parse_memory, require_memory_told

if TYPE_CHECKING:
    import os
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.permit import Permit

T = TypeVar("T")
R = TypeVar("R")


class _WithHandle(Protocol):
    _handle: LogHandle


def start_map(  # noqa: PLR0913 - each is a choice of its own, all but two have a default
    self: _WithHandle,
    fn: Callable[[T], R] | Callable[[T, Any], R],
    items: Iterable[T],
    *,
    key: Callable[[T], str] | None = None,
    version: str = "",
    jobs: int | None = None,
    mp_context: BaseContext | None = None,
    executor: Executor | None = None,
    ordered: bool = False,
    on_error: Literal["record", "halt", "raise"] = "record",
    include_done: bool = True,
    retry_failed: bool | str | Iterable[str] | Callable[[Outcome[Any, Any]], object] = False,
    rerun: str | None = None,
    if_changed: Literal["refuse", "keep", "keep-ok"] = "refuse",
    retries: int = 0,
    retry_delay_s: float = DEFAULT_DELAY_S,
    timeout_s: float | None = None,
    memory: int | str | None = None,
    initializer: Callable[[], Any] | None = None,
    tasks_per_worker: int | None = None,
    max_invalid_results: int | None = DEFAULT_MAX_INVALID_RESULTS,
    default: Callable[[Any], Any] | None = None,
    changed_files: bool | Literal["stat", "hash"] = False,
    file: Callable[[T], str | bytes | os.PathLike[Any]] | None = None,
    halt: int | str | None = None,
    progress: Any = False,
) -> MapRun[T, R]:
    """Run ``fn(item)`` for every item that has no outcome in this log yet, in parallel, and record each outcome.

    Killed at any instant and called again, it runs only what is missing. Any number of processes may run the same
    map on the same log: they share the items, and no item runs twice while nobody dies. At least once: an item
    whose worker dies before its outcome is recorded runs again.

    Starts at the call. Items are taken as workers become free, in bounded memory. A list, or whatever has a length,
    is iterated over in the caller's thread; any other iterable in a thread of its own, an item at a time, so that
    it may wait for an outcome of this very map.

    Args:
        fn: takes an item and returns a JSON value. Another value, or whatever it raises but a KeyboardInterrupt, is
            recorded as a failure. A process that ``fn`` or ``items`` forks, and that returns too, ends there and counts
            for nothing.
        items: strings that are their own object keys, or anything with ``key``. Items that come twice run once and
            share the outcome. An item is compared with the one its key came with before, if both are JSON values of
            at most 1 MiB; others with ==, among the latest 10,000 of this call. What may only be used in the
            thread that made it, as a cursor of sqlite3, is handed in as a list. What iterating over them raises
            ends the map: this call raises it if it comes among the first items, else the iteration does, after the
            outcomes that are ready. What was recorded stays; what runs then is given back, or recorded if it runs in
            an executor; the same call carries on.
        key: a function that returns the object key of an item.
        version: of the work. It is recorded, and another one is refused (see ``if_changed``): outcomes do not mix. Not
            while the log has no outcome, and nobody works.
            "auto" makes it of the source of ``fn``, without comments, of the defaults of its parameters, and of what it
            holds of its surroundings (variables of an enclosing function, attributes of its object, arguments of a
            partial): JSON by its value, functions by their source. What it calls or looks up by name is not followed,
            nor is ``initializer``.
        jobs: how many items run at a time; None for one a processor, or as many as ``executor`` has workers.
        mp_context: how worker processes are started, as ``multiprocessing.get_context`` returns it; None for the
            default. With spawn and forkserver ``fn`` must be found by its name in an importable module: no lambda,
            and no function of a notebook cell.
        executor: run in this executor instead of worker processes of our own. It is not shut down. Then ``timeout_s``,
            ``memory``, ``initializer`` and ``tasks_per_worker`` cannot be given. A ProcessPoolExecutor breaks as a
            whole when one of its processes dies, and does not tell which: the map counts a death of each item that ran,
            raises WorkerDiedError, and is to be started again in another executor, where an item that has died runs
            alone. In threads, an item that kills its process ends the map with it, and no death is counted.
        ordered: give outcomes out in the order of the items, not as they come.
        on_error: "record" gives failures out as outcomes; "halt" does so, too, and starts no more items once a
            failure is recorded here (``MapRun.is_halted``); "raise" starts no more, and raises what ``fn`` raised.
        include_done: also give out outcomes that were there already (``Outcome.repeated``).
        retry_failed: run again what had failed before this call: True for all of it; "exit=CODE", "timed-out",
            "over-memory", "killed" (by a signal, or with its executor) or "not-started" for what failed so, or several
            of these; or a function that takes an Outcome and returns whether to run it again. What that raises ends the
            map.
        rerun: a name of your own choice, at most 200 bytes: each of these items is to have an outcome under that
            name. The same call carries on; another name begins anew, with any version. Other items keep what they
            have. The outcomes given out are those under that name.
        if_changed: what to do if the map, or that rerun of it, came with another ``version`` before: "refuse" the
            call; "keep" what is done, and run what is missing; or "keep-ok": keep what is ok, and run what failed
            again, too. Starts that still run with the version before end with ChangedVersionError.
        retries: how often an item that failed is tried again before it counts as failed. Failed attempts are
            recorded, so the limit holds over all starts and processes; an attempt that died with its process does
            not count. Meanwhile other items run, up to 1000 at rest.
        retry_delay_s: how long an item rests after its first failed attempt, in seconds; twice as long after each
            further one, to a minute (or to this, if it is more), shortened by up to a quarter at random.
        timeout_s: how long ``fn`` may run for an item, in seconds; None for any time. Then its process is ended,
            with SIGTERM and 5 s later SIGKILL, and replaced; the attempt has failed, "timed out". What ``fn`` has
            started lives on.
        memory: end a worker process that has more memory than this while ``fn`` runs, in bytes or as "2G"; what it
            has started counts, what it shares with this process does not. The attempt has failed. Linux only.
        initializer: called without arguments in each worker process before its first item. What it returns is the
            worker's state, unless it is None: ``fn(item, state)`` is called. If it fails, the map stops.
        tasks_per_worker: replace each worker process after so many items; None to keep it.
        max_invalid_results: for how many items in a row ``fn`` may return what is no JSON value before the map
            stops with InvalidResultError; None for any number. Such an item is recorded as failed, and not retried.
            NaN and infinity count only while ``fn`` has returned nothing that can be recorded.
        default: makes JSON of what ``fn`` returns and is none, where ``fn`` runs and within ``timeout_s``; None for
            that of the handle. See ``append``. What it raises counts as a result that is no JSON value.
        changed_files: run an item again, whatever its outcome, if the file that it names is not what it was when it was
            done: True or "stat" compares size and time of its last change; "hash" size and content (SHA-256), for which
            each file is read. An item whose outcome does not tell what its file was runs again, too. With "hash" a
            thread of its own iterates over the items, also over a list.
        file: a function that returns the path of an item's file. None: the item is the path.
        halt: start no more items once so many have failed that ran in this map: a number, or a share of what ran, as
            "10%", which is judged from the tenth on. What runs then finishes, a few items that were given out included;
            with ``halt=1``, which is ``on_error="halt"``, none of those begins.
        progress: show how far the map is while it is iterated over. True: a bar on standard error, with the rate, the
            time left, what runs, and the last failure; if that is no terminal, a line every ten seconds. A function
            that makes a bar, as ``tqdm.auto.tqdm`` (called with ``total`` and ``unit``): that bar is moved, and closed
            in the end. A bar, or anything with ``update(n)``: it is moved, and left open; its ``total`` is set once it
            is known. What was done before does not count for the rate.

    Returns:
        A MapRun: iterate over it to have the outcomes. ``close`` ends it early and gives back what runs.

    Raises:
        ChangedVersionError: the map on this log, or that rerun of it, has another version. Nothing was run.
        ChangedItemError: a key came with another input. That input was not run.
        InvalidFunctionError: ``fn`` is no function, an ``async def``, a generator function, or cannot be sent to
            the worker processes. Nothing was run or recorded.
        InvalidItemError: an item cannot be sent to a worker process. That item was not run.
        NoSourceError: ``version`` is "auto", and the source of ``fn`` cannot be read. Nothing was run.
        TypeError, ValueError: an argument, or an item, is not what it should be.
        WorkerDiedError: worker processes cannot start, their ``initializer`` fails, or ``executor`` is broken.
        ShortageError: the machine is short of processes, threads, open files or memory, and for a minute nothing
            ran. Before that starts pause, with a logged warning, and the items that could not be started wait.
        ReadOnlyError, LockTimeoutError, WriteFailedError, PoisonedLogError: nothing was run.

    Durability: an outcome survives loss of power before it is given out, whatever the handle's setting.
    Concurrency: the MapRun is for one thread. An item whose worker process dies runs again; the third time it is
        recorded as failed. Deaths are counted in the log, over all starts and processes; one by SIGTERM, SIGHUP or
        SIGINT only a second later, so that a map that is closed meanwhile counts nothing.
    """
    log = self._handle
    _require_choices(version, on_error, rerun, if_changed)
    halting = _halt_of(halt, on_error)
    retries_all, failures = chosen_failures(retry_failed)
    changed, file_of = chosen(changed_files, file)
    require_progress(progress)
    require_workers(mp_context, executor)
    _require_fitting(
        executor,
        mp_context,
        timeout_s=None if isinstance(executor, PoolExecutor) else timeout_s,
        memory=memory,
        initializer=initializer,
        tasks_per_worker=tasks_per_worker,
    )
    if jobs is not None:
        jobs = whole_number(jobs, 1, "jobs is a number of workers, at least 1, or None")
    attempts = Retries(
        whole_number(retries, 0, "retries is a number of attempts, at least 0"),
        _seconds(retry_delay_s, "retry_delay_s is a number of seconds, at least 0"),
    )
    if timeout_s is not None:
        timeout_s = _seconds(timeout_s, limit := "timeout_s is a number of seconds above 0, or None")
        if timeout_s == 0:
            raise ValueError(f"{limit}, not {timeout_s!r}")
    workers = WorkerOptions(timeout_s, *_worker_options(memory, initializer, tasks_per_worker))
    if max_invalid_results is not None:
        what = "max_invalid_results is a number of items, at least 1, or None"
        max_invalid_results = whole_number(max_invalid_results, 1, what)
    # With an executor the default start method is not asked for: asking settles it for the whole process.
    context = mp_context or (multiprocessing.get_context() if executor is None else None)
    _require_function(fn, context, executor)
    if initializer is not None:
        require_initializer(initializer, context)
    default = log.default if default is None else default
    require_default(default, context, executor)
    version = fingerprint(fn) if version == AUTO else version
    if executor is None:
        require_children_allowed()

    choice = IfChanged(if_changed)
    run = outlast_shortage(
        lambda: join_run(log, version, rerun=rerun, if_changed=choice, retry_failed=retries_all)
    )
    count = len(items) if isinstance(items, Sized) else None
    inputs = inputs_of(items, key)
    if changed is not None:
        inputs = marked(inputs, changed, file_of)
    # What has a length does not wait for outcomes. To read a file takes long.
    is_quick = count is not None and changed is not ChangedFiles.HASH
    source = inputs if is_quick else outlast_shortage(lambda: InputThread(inputs))
    permit = _permit_for(halting, log)
    plan = Plan(LogRef(log), run, FunctionCall(fn, default), attempts, permit)
    pool: WorkerPool
    if isinstance(executor, PoolExecutor):
        pool = executor.worker_pool(plan, fn, default, jobs, timeout_s)
    else:
        pool = _pool_of(plan, executor, context, jobs, workers)
    options = Options(
        ordered,
        OnError(on_error),
        include_done,
        total=lambda: count,
        max_invalid_results=max_invalid_results,
        again=None if changed is None and failures is None else RunAgain(failures, run.joined_us),
        halt=halting,
        progress=display_for(progress, count),
    )
    return _begun(plan, source, pool, options)


# It is a method of ``Log``; so messages of Python call it, and so it is pickled.
start_map.__name__, start_map.__qualname__ = "map", "Log.map"


def _begun(
    plan: Plan, source: Iterator[Input | NotYet], pool: WorkerPool, options: Options
) -> MapRun[Any, Any]:
    try:
        return MapRun(plan, source, pool, options)
    except BaseException:
        if options.progress is not None:
            options.progress.close()  # nobody else has it
        raise


def _pool_of(
    plan: Plan,
    executor: Executor | None,
    context: BaseContext | None,
    jobs: int | None,
    workers: WorkerOptions,
) -> WorkerPool:
    if executor is not None:
        return ExecutorPool(plan, executor, jobs or jobs_of(executor))
    assert context is not None
    return ProcessPool(plan, jobs or default_jobs(), context, workers)


def _require_function(fn: Callable[..., Any], context: BaseContext | None, executor: Executor | None) -> None:
    if isinstance(executor, PoolExecutor):
        executor.require_function(fn)
    else:
        require_function(fn, context, executor)


def _require_fitting(executor: object, mp_context: object, **own: object) -> None:
    """Refuse what does not go with an executor; ``own`` is for worker processes of our own."""
    if executor is None:
        return
    if mp_context is not None:
        raise ValueError("executor and mp_context exclude each other: an executor has its own way to start")
    for name, value in own.items():
        if value is not None:
            raise ValueError(
                f"executor and {name} exclude each other: only worker processes of our own {_WHY[name]}"
            )


_WHY = {
    "timeout_s": "can be ended",
    "memory": "can be ended",
    "initializer": "call it; an executor has an initializer of its own",
    "tasks_per_worker": "are replaced",
}


def _worker_options(
    memory: int | str | None, initializer: Callable[[], Any] | None, tasks_per_worker: int | None
) -> tuple[int | None, Callable[[], Any] | None, int | None]:
    if tasks_per_worker is not None:
        what = "tasks_per_worker is a number of items, at least 1, or None"
        tasks_per_worker = whole_number(tasks_per_worker, 1, what)
    memory_bytes = None if memory is None else parse_memory(memory)
    if memory_bytes is not None:
        require_memory_told()
    return memory_bytes, initializer, tasks_per_worker


def _require_choices(version: object, on_error: object, rerun: object, if_changed: object) -> None:
    if on_error not in ("record", "halt", "raise"):
        raise ValueError(f"on_error is 'record', 'halt' or 'raise', not {on_error!r}")
    if if_changed not in (known := [each.value for each in IfChanged]):
        raise ValueError(
            f"if_changed is one of {', '.join(map(repr, known))}, not {if_changed!r}: it is about another version. To "
            "run items again whose file has changed, give changed_files=True"
        )
    require_rerun_name(rerun)
    if type(version) is not str or version.encode("utf-8", "replace").decode() != version:
        raise ValueError(f"version is a str that UTF-8 can hold, not {version!r}")


def _halt_of(halt: int | str | None, on_error: str) -> Halt | None:
    """Return which failures end the map."""
    if halt is None:
        return None if on_error == OnError.RECORD.value else Halt(failures=1)
    if on_error == OnError.RAISE.value:
        raise ValueError('on_error="raise" ends at the first failure; halt= goes with "record" or "halt"')
    return Halt.of(halt)


def _permit_for(halting: Halt | None, log: LogHandle) -> Permit | None:
    if halting is None:
        return None
    return outlast_shortage(lambda: permit_for(halting, log.workers))


def _seconds(value: Any, what: str) -> float:
    if not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < float("inf"):
        return float(value)
    raise ValueError(f"{what}, not {value!r}")
