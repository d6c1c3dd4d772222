"""Start a map of a function: judge what the caller gave, join the run, and put the parts together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from mpcheckpoint._work.asking import AskedApart
from mpcheckpoint._work.crew import ExecutorCrew, default_jobs, jobs_of
from mpcheckpoint._work.inputs import inputs_of
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.outlet import OnError, Options
from mpcheckpoint._work.perform import CallFunction, LogRef, Plan
from mpcheckpoint._work.permit import Permit
from mpcheckpoint._work.processes import ProcessCrew, require_children_allowed
from mpcheckpoint._work.refusals import require_function, require_limit
from mpcheckpoint._work.reruns import IfChanged, require_rerun_name
from mpcheckpoint._work.retries import Retries
from mpcheckpoint._work.runs import join_run
from mpcheckpoint._work.shortage import begun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._work.crew import Crew


def start_map(  # noqa: PLR0913 - each is a choice of its own
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
    max_invalid_results: int | None,
) -> MapRun:
    """See ``Log.map``, which has the defaults."""
    if on_error not in ("record", "halt", "raise"):
        raise ValueError(f"on_error is 'record', 'halt' or 'raise', not {on_error!r}")
    if executor is not None and mp_context is not None:
        raise ValueError("executor and mp_context exclude each other: an executor has its own way to start")
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
            log, version, rerun=rerun, if_changed=IfChanged(if_changed), retry_failed=retry_failed
        )
    )
    count = len(items) if isinstance(items, Sized) else None
    source = inputs_of(items, key)
    # What has a length does not wait for outcomes.
    asked = source if count is not None else begun(lambda: AskedApart(source))
    halts = on_error != OnError.RECORD.value
    permit = begun(lambda: Permit.given(log.workers_directory)) if halts else None
    plan = Plan(LogRef(log), run, CallFunction(fn), Retries(retries, retry_delay_s), permit)
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


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_text(value: object) -> bool:
    return type(value) is str and value.encode("utf-8", "replace").decode() == value
