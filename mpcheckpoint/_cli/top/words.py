"""What ``top`` says of a store, as plain texts: for the live screen and for the snapshot."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._cli.terminal import counted, one_line
from mpcheckpoint._cli.times import iso
from mpcheckpoint._progress.words import span
from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpcheckpoint import _system as system
    from mpcheckpoint._maintenance.monitoring.log_monitor import LogSight, MapSight
    from mpcheckpoint._maintenance.monitoring.map_progress import Failure
    from mpcheckpoint._maintenance.monitoring.store_monitor import StoreSight

_UNKNOWN = "-"
_MOST_RUNNING = 20


class Column(NamedTuple):
    """A column of the table of logs: its name, what it says of a log, and by what it is sorted; numbers fall."""

    name: str
    text: Callable[[LogSight], str]
    order: Callable[[LogSight], float | str]
    is_number: bool = True


def log_name(log: LogSight) -> str:
    """Return a log's key as it is shown; the name of its file if the key cannot be told."""
    return one_line(os.path.basename(log.path) if log.log_key is None else log.log_key) or "''"


def size_text(size_bytes: int | None) -> str:
    """Return a size with three digits at most."""
    if size_bytes is None:
        return _UNKNOWN
    size, units = float(size_bytes), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while size >= 999.5 and (larger := next(units, None)) is not None:
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if size >= 99.5 or unit == "B" else f"{size:.1f} {unit}"


def lock_text(log: LogSight) -> str:
    """Return who holds the append lock, and how many wait for it."""
    if log.lock != "held":
        return log.lock
    waiting = f", {log.waiters} wait" if log.waiters else ""
    return f"{_process(log.holder)}{waiting}"


def _process(holder: system.LockHolder | None) -> str:
    if holder is None:
        return "?"
    stopped = " (stopped)" if holder.is_stopped else ""
    return f"{holder.pid}{stopped} {one_line(holder.command or '(gone)')}"


def _done(log: LogSight) -> float:
    return -1.0 if log.map is None else float(log.map.done)


COLUMNS = (
    Column("KEY", log_name, log_name, is_number=False),
    Column("STATE", lambda log: log.state, lambda log: log.state, is_number=False),
    Column("RECORDS", lambda log: f"{log.records:,}", lambda log: log.records),
    Column("APPENDS/S", lambda log: f"{log.appends_s:,.1f}", lambda log: log.appends_s),
    Column("SYNCS/S", lambda log: f"{log.syncs_s:,.1f}", lambda log: log.syncs_s),
    Column("SIZE", lambda log: size_text(log.size_bytes), lambda log: log.size_bytes or 0),
    Column("WRITERS", lambda log: str(len(log.writers)), lambda log: len(log.writers)),
    Column("READERS", lambda log: str(len(log.readers)), lambda log: len(log.readers)),
    Column("MAP", lambda log: "" if log.map is None else done_text(log.map), _done, is_number=True),
    Column("LOCK", lock_text, lock_text, is_number=False),
)


def ordered(logs: Sequence[LogSight], column: Column, *, is_reversed: bool = False) -> list[LogSight]:
    """Return the logs in the order of a column: texts rise, numbers fall; by key where that is equal."""
    by_key = sorted(logs, key=log_name)
    return sorted(by_key, key=column.order, reverse=column.is_number is not is_reversed)


def done_text(progress: MapSight) -> str:
    """Return how many items are done, and of how many if that is known."""
    return f"{progress.done:,}" if progress.items is None else f"{progress.done:,}/{progress.items:,}"


def store_line(sight: StoreSight) -> str:
    """Return what is true of the store as a whole."""
    time = iso(sight.at_us, timespec="seconds")[11:19]
    return (
        f"{one_line(sight.path)}  {counted(len(sight.logs), 'log')}  {sight.appends_s:,.1f} appends/s  "
        f"{sight.syncs_s:,.1f} syncs/s  {time}"
    )


def map_line(log: LogSight, progress: MapSight) -> str:
    """Return how far a map is."""
    parts = [f"{done_text(progress)} done", f"{progress.failed:,} failed"]
    if progress.to_retry:
        parts.append(f"{progress.to_retry:,} to retry")
    if progress.items_s:
        parts.append(f"{progress.items_s:,.1f}/s")
        if progress.left_s:
            parts.append(f"{span(progress.left_s)} left")
    parts.append(f"{len(progress.running)} running")
    parts.append(f"{len(progress.starts)} {'process' if len(progress.starts) == 1 else 'processes'}")
    rerun = "" if progress.rerun is None else f" (rerun {one_line(progress.rerun)})"
    return f"{log_name(log)}{rerun}: {', '.join(parts)}"


def failures_of(sight: StoreSight, most: int) -> list[tuple[LogSight, Failure]]:
    """Return the last failures of all maps, the latest first."""
    found = [(log, each) for log in sight.logs if log.map is not None for each in log.map.failures]
    return sorted(found, key=lambda each: -each[1].stamp_us)[:most]


def failure_line(log: LogSight, failure: Failure) -> str:
    """Return when which item failed, and why."""
    return f"{log_name(log)}  {_failed(failure)}"


def _failed(failure: Failure) -> str:
    time = iso(failure.stamp_us, timespec="seconds")[11:19]
    return f"{time}  {one_line(failure.object_key)}: {one_line(failure.cause)}"


def detail_lines(log: LogSight) -> Iterator[str]:
    """Yield all that there is to say of one log."""
    yield f"log        {log_name(log)}"
    yield f"file       {one_line(log.path)}, {size_text(log.size_bytes)}"
    yield f"state      {log.state}"
    if log.error is not None:
        yield f"           {one_line(shell_text(log.error))}"
    yield f"records    {log.records:,} of {counted(log.objects, 'object')}"
    if log.last_us is not None:
        yield f"last       {iso(log.last_us, timespec='milliseconds')}"
    yield f"rates      {log.appends_s:,.1f} appends/s, {log.syncs_s:,.1f} syncs/s"
    yield f"lock       {lock_text(log)}"
    for name, users in (("writers", log.writers), ("readers", log.readers)):
        yield f"{name}    {len(users)}"
        for each in users:
            yield f"           {_process(each)}"
    if log.map is not None:
        yield from _map_lines(log, log.map)


def _map_lines(log: LogSight, progress: MapSight) -> Iterator[str]:
    yield ""
    yield f"map        {one_line(progress.version) or '(a function)'}"
    yield f"           {map_line(log, progress)}"
    for start in progress.starts:
        items = "" if start.items is None else f", {counted(start.items, 'item')}"
        yield f"process    {start.pid}{items}"
    for item in progress.running[:_MOST_RUNNING]:
        yield f"running    {item.elapsed_s:8.1f} s  {one_line(item.object_key)}"
    for failure in progress.failures:
        yield f"failed     {_failed(failure)}"
