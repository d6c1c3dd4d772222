"""The start of a map of a function: its arguments are checked, its run is joined, its workers are made ready."""

from __future__ import annotations

import multiprocessing
import operator
from collections.abc import Callable, Iterable, Sized
from numbers import Real
from typing import TYPE_CHECKING, Any

from mpcheckpoint._work.input_thread import InputThread
from mpcheckpoint._work.inputs import inputs_of
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.permit import Permit
from mpcheckpoint._work.plan import LogRef, OnError, Options, Plan
from mpcheckpoint._work.pool import ExecutorPool, WorkerPool, default_jobs, jobs_of
from mpcheckpoint._work.process_pool import ProcessPool, require_children_allowed
from mpcheckpoint._work.refusals import require_function
from mpcheckpoint._work.reruns import IfChanged, require_rerun_name
from mpcheckpoint._work.retries import Retries
from mpcheckpoint._work.run_item import FunctionCall
from mpcheckpoint._work.runs import join_run
from mpcheckpoint._work.shortage import outlast_shortage
from mpcheckpoint._work.worker_options import WorkerOptions, parse_memory, require_memory_told

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

    from mpcheckpoint._view.log_handle import LogHandle


def start_map(  # noqa: PLR0913 - the arguments of ``Log.map``
    log: LogHandle,
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    key: Callable[[Any], str] | None,
    version: str,
    jobs: int | None,
    mp_context: BaseContext | None,
    executor: Executor | None,
    ordered: bool,
    on_error: str,
    include_done: bool,
    retry_failed: bool,
    rerun: str | None,
    if_changed: str,
    retries: int,
    retry_delay_s: float,
    timeout_s: float | None,
    memory: int | str | None,
    initializer: Callable[[], Any] | None,
    tasks_per_worker: int | None,
    max_invalid_results: int | None,
) -> MapRun:
    """Start a map: see ``Log.map``."""
    _require_choices(version, on_error, rerun, if_changed)
    if executor is not None and mp_context is not None:
        raise ValueError("executor and mp_context exclude each other: an executor has its own way to start")
    if executor is not None:
        _require_own_workers(timeout_s, memory, initializer, tasks_per_worker)
    if jobs is not None:
        jobs = _whole(jobs, 1, "jobs is a number of workers, at least 1, or None")
    attempts = Retries(
        _whole(retries, 0, "retries is a number of attempts, at least 0"),
        _seconds(retry_delay_s, "retry_delay_s is a number of seconds, at least 0"),
    )
    if timeout_s is not None:
        timeout_s = _seconds(timeout_s, limit := "timeout_s is a number of seconds above 0, or None")
        if timeout_s == 0:
            raise ValueError(f"{limit}, not {timeout_s!r}")
    workers = WorkerOptions(timeout_s, *_worker_options(memory, initializer, tasks_per_worker))
    if max_invalid_results is not None:
        what = "max_invalid_results is a number of items, at least 1, or None"
        max_invalid_results = _whole(max_invalid_results, 1, what)
    # With an executor the default start method is not asked for: asking settles it for the whole process.
    context = mp_context or (multiprocessing.get_context() if executor is None else None)
    require_function(fn, context, executor)
    if initializer is not None:
        require_function(initializer, context, executor)
    if executor is None:
        require_children_allowed()

    choice = IfChanged(if_changed)
    run = outlast_shortage(
        lambda: join_run(log, version, rerun=rerun, if_changed=choice, retry_failed=retry_failed)
    )
    count = len(items) if isinstance(items, Sized) else None
    inputs = inputs_of(items, key)
    # What has a length does not wait for outcomes.
    source = inputs if count is not None else outlast_shortage(lambda: InputThread(inputs))
    halts = on_error != OnError.RECORD.value
    permit = outlast_shortage(lambda: Permit.given(log.workers_directory)) if halts else None
    plan = Plan(LogRef(log), run, FunctionCall(fn), attempts, permit)
    pool: WorkerPool
    if context is not None:
        pool = ProcessPool(plan, jobs or default_jobs(), context, workers)
    else:
        assert executor is not None
        pool = ExecutorPool(plan, executor, jobs or jobs_of(executor))
    options = Options(
        ordered, OnError(on_error), include_done, total=lambda: count, max_invalid_results=max_invalid_results
    )
    return MapRun(plan, source, pool, options)


def _require_own_workers(
    timeout_s: object, memory: object, initializer: object, tasks_per_worker: object
) -> None:
    given = {
        "timeout_s": timeout_s,
        "memory": memory,
        "initializer": initializer,
        "tasks_per_worker": tasks_per_worker,
    }
    for name, value in given.items():
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
        tasks_per_worker = _whole(tasks_per_worker, 1, what)
    memory_bytes = None if memory is None else parse_memory(memory)
    if memory_bytes is not None:
        require_memory_told()
    return memory_bytes, initializer, tasks_per_worker


def _require_choices(version: object, on_error: object, rerun: object, if_changed: object) -> None:
    if on_error not in ("record", "halt", "raise"):
        raise ValueError(f"on_error is 'record', 'halt' or 'raise', not {on_error!r}")
    if if_changed not in (known := [each.value for each in IfChanged]):
        raise ValueError(f"if_changed is one of {', '.join(map(repr, known))}, not {if_changed!r}")
    require_rerun_name(rerun)
    if type(version) is not str or version.encode("utf-8", "replace").decode() != version:
        raise ValueError(f"version is a str that UTF-8 can hold, not {version!r}")


def _whole(value: Any, least: int, what: str) -> int:
    """Return a whole number of any type that has one, as those of numpy; True is none."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise ValueError(f"{what}, not {value!r}")
    return number


def _seconds(value: Any, what: str) -> float:
    if not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < float("inf"):
        return float(value)
    raise ValueError(f"{what}, not {value!r}")
