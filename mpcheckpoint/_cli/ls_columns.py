"""The columns of ``ls``: what each one says of a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mpcheckpoint._cli.terminal import one_line, shown_name
from mpcheckpoint._cli.times import TimeForm, in_form
from mpcheckpoint.maintenance import LogSurvey

_UNKNOWN = "-"


class Column(NamedTuple):
    """One column of the table."""

    name: str
    short_name: str
    is_number: bool
    text: Callable[[LogSurvey, TimeForm], str]
    is_name: bool = False


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _time(stamp_us: int | None, form: TimeForm) -> str:
    return _UNKNOWN if stamp_us is None else in_form(stamp_us, form)


def _holder(log: LogSurvey) -> str:
    if log.holder_pid is None:
        return _UNKNOWN if log.lock == "free" else "?"
    stopped = " (stopped)" if log.is_holder_stopped else ""
    return f"{log.holder_pid}{stopped} {one_line(log.holder_command or '(gone)')}"


COLUMNS = (
    Column("KEY", "KEY", False, lambda log, _: shown_name(log), is_name=True),
    Column("RECORDS", "RECS", True, lambda log, _: str(log.records)),
    Column("OBJECTS", "OBJS", True, lambda log, _: str(log.objects)),
    Column("BYTES", "BYTES", True, lambda log, _: _number(log.size_bytes)),
    Column("FIRST", "FIRST", False, lambda log, form: _time(log.first_us, form)),
    Column("LAST", "LAST", False, lambda log, form: _time(log.last_us, form)),
    Column("STATE", "STATE", False, lambda log, _: log.state),
)
LONG_COLUMNS = (
    *COLUMNS,
    Column("APPENDS", "APP", True, lambda log, _: str(log.batches)),
    Column("SYNCS", "SYN", True, lambda log, _: str(log.stated_syncs)),
    Column("REPAIRS", "REP", True, lambda log, _: _number(log.repairs)),
    Column("WAITERS", "WAIT", True, lambda log, _: _number(log.waiters)),
    Column("HOLDER", "HOLDER", False, lambda log, _: _holder(log), is_name=True),
)
