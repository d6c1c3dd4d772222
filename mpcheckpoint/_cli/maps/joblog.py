"""The outcomes of a map as a job log of GNU parallel: a table of ten columns, one line an item."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from mpcheckpoint._cli.maps.items import canonical
from mpcheckpoint._cli.maps.template import Item, JsonItem, MissingFieldError, Shape, Template
from mpcheckpoint._cli.terminal import one_line, safe
from mpcheckpoint._cli.whole_file import begins, put_out, require_earlier
from mpcheckpoint._format.byte_text import to_bytes, to_text
from mpcheckpoint._work.causes import NOT_STARTED, TIMED_OUT, exit_code, killing_signal
from mpcheckpoint._work.outcomes import outcome_of
from mpcheckpoint._work.reruns import history_of
from mpcheckpoint._work.runs import dated_outcomes

if TYPE_CHECKING:
    from mpcheckpoint import Outcome
    from mpcheckpoint._view.log_handle import LogHandle

_HEAD = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
_HOST = ":"  # this one
_NOT_FOUND, _NOT_RUN = 127, 126  # of a shell


def require_joblog(path: str) -> None:
    """Refuse a file that a job log must not take the place of.

    Raises:
        click.UsageError: it is another kind of file, or cannot be looked at, or there is no place for it.
    """
    require_earlier(path, begins(_HEAD), "job log", _named(path))


def write_joblog(log: LogHandle, rerun: str | None, path: str, *, only_failed: bool = False) -> None:
    """Write the last outcome of each item, in the order in which they ended.

    A file is replaced as a whole: whoever reads it meanwhile sees the one or the other.

    Raises:
        click.ClickException: it cannot be written.
    """
    put_out(path, _HEAD + b"".join(_rows(log, rerun, only_failed=only_failed)), _named(path))


def _named(path: str) -> str:
    return f"the job log {safe(path)}"


def _rows(log: LogHandle, rerun: str | None, *, only_failed: bool) -> list[bytes]:
    history = log.query(history_of)
    rows = []
    for number, (stamp_us, object_key, event) in enumerate(dated_outcomes(log, history.rule(rerun)), 1):
        outcome = outcome_of(event, object_key, stamp_us, history.by_number)
        if not (only_failed and outcome.ok):
            rows.append((stamp_us, number, _row(number, stamp_us, outcome)))
    return [row for _, _, row in sorted(rows)]


def _row(number: int, stamp_us: int, outcome: Outcome) -> bytes:
    began_s = max(0.0, stamp_us / 1e6 - outcome.duration_s)
    code, signal_number = _ended(outcome)
    fields = (
        *(number, _HOST, f"{began_s:.3f}", f"{outcome.duration_s:10.3f}", 0, _received_bytes(outcome.value)),
        *(code, signal_number, one_line(command_of(outcome))),
    )
    return "\t".join(map(str, fields)).encode() + b"\n"


def _received_bytes(value: Any) -> int:
    if not isinstance(value, dict) or "output" not in value:
        return 0
    kept = sum(len(to_bytes(str(value.get(name, "")))) for name in ("output", "output_end"))
    left_out = value.get("left_out_bytes", 0)
    return kept + (left_out if isinstance(left_out, int) else 0)


def _ended(outcome: Outcome) -> tuple[int, int]:
    """Return the exit code and the signal, as GNU parallel has them."""
    error = outcome.error or ""
    code = exit_code(outcome)
    number = killing_signal(outcome)
    if error.startswith(TIMED_OUT):
        return -1, number or 0
    if number is not None:
        return 0, number
    if error.startswith(NOT_STARTED):
        return (_NOT_FOUND if "No such file" in error else _NOT_RUN), 0
    return (int(not outcome.ok) if code is None else code), 0


def command_of(outcome: Outcome) -> str:
    """Return the command line that an outcome came from, with its item in it.

    The numbers of items are not recorded, so {#} stands for itself.
    """
    error = outcome.error or ""
    if exit_code(outcome) is None and not error.startswith(NOT_STARTED):
        return f"{outcome.version or '(a function)'} {outcome.object_key}"
    item, shape = _item_of(outcome)
    try:
        words = tuple(to_bytes(word).replace(b"{#}", b"{{#}}") for word in shlex.split(outcome.version))
        argv = Template(words, shape=shape).argv(item)
    except (ValueError, MissingFieldError):  # another kind of writer
        return f"{outcome.version} {outcome.object_key}"
    return shlex.join(map(to_text, argv))


def _item_of(outcome: Outcome) -> tuple[Item, Shape]:
    value = outcome.item
    if isinstance(value, str):
        return to_bytes(value), Shape.PLAIN if value == outcome.object_key else Shape.FIELDS
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        columns = tuple(map(to_bytes, value))
        return JsonItem(b"", b" ".join(columns), None, None, columns), Shape.LISTS
    text = canonical(value)
    fields = (
        {name.encode(): _text_of(each) for name, each in value.items()} if isinstance(value, dict) else None
    )
    columns = tuple(
        map(_text_of, value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    )
    return JsonItem(text, text, fields, None, columns), Shape.FIELDS


def _text_of(value: Any) -> bytes:
    return to_bytes(value) if isinstance(value, str) else canonical(value)
