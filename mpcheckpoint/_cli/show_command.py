"""``mpcheckpoint show``: the events of an object, or the list of the objects."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.options import json_option, keys_option, store_option
from mpcheckpoint._cli.record_lines import event_text, record_fields
from mpcheckpoint._cli.terminal import Exit, flush_out, json_line, one_line, say, say_error, write_out
from mpcheckpoint._cli.times import TimeForm, in_form, iso, since_option, until_option
from mpcheckpoint._maintenance.readable import ReadableLogs
from mpcheckpoint._view.merged_read import Choice

if TYPE_CHECKING:
    from mpcheckpoint import ObjectSummary, Record
    from mpcheckpoint._postgres.address import Address

_LATEST_US = (1 << 53) - 1
# In a list, an event is cut off after so many characters.
_MOST_SHOWN = 60
_COUNT_WIDTH = 7
_NAME_WIDTH = 20
_LEAST_PLACE = 12
# A terminal of so many columns has room for this form of time. Chosen line by line, columns would not align.
_LIST_FORMS = ((100, TimeForm.FULL), (80, TimeForm.MINUTES), (50, TimeForm.NO_YEAR), (0, TimeForm.AGE))
_EVENT_FORMS = ((100, TimeForm.FULL), (60, TimeForm.LOCAL), (0, TimeForm.NO_YEAR))


@click.command("show", short_help="Print what happened to an object, or list the objects.")
@click.argument("object_key", metavar="[OBJECT]", required=False)
@store_option
@keys_option
@since_option
@until_option
@click.option("--match", metavar="GLOB", help="Only objects whose key matches: 'photo*'. Without OBJECT.")
@json_option
def show_command(
    object_key: str | None,
    store: str | Address,
    log_keys: tuple[str, ...],
    since_us: int | None,
    until_us: int | None,
    match: str | None,
    is_json: bool,
) -> int:
    """Print the events of OBJECT in the merged order: time, log@offset, event. Without OBJECT, list the objects in the
    order in which they were first recorded: count, time and text of the last event.

    \b
    Example:
      mpcheckpoint show --store run-42
      mpcheckpoint show photo123 --store run-42 --since 2h
      mpcheckpoint show --store run-42 --match 'photo1*' --json |
        jq -r 'select(.count > 1) | .object_key'

    TIME is ISO 8601 (local if it names no zone), @ and unix seconds, or an age: 10s, 5m, 1h30m, 3d, 1w. An OBJECT that
    begins with a dash comes after --.

    With --json each event has time, stamp_us, log_key, object_key, event, record_id and position. Each object of a list
    has object_key, count, first_time, first_us, and last: its last event with these fields.

    On a narrow terminal, times get shorter, then names and, in the list, events. A pipe gets all.

    Reads the logs. Writes nothing, and disturbs no writer. If a log cannot be read (damaged, of another user), what can
    be read of it is printed, then what is wrong with it.

    Exit codes: 0; 1 if there is no such event; 2 if something cannot be read, after all that can.
    """
    if object_key is not None and match is not None:
        raise click.UsageError("--match chooses from the list of objects: leave it out, or OBJECT")
    if since_us is not None and until_us is not None and since_us > until_us:
        raise click.UsageError("--since is later than --until")
    choice = Choice(object_key, since_us or 0, _LATEST_US if until_us is None else until_us)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    logs = ReadableLogs(store, log_keys=log_keys or None, on_failure=say_error)
    count = 0
    try:
        if object_key is None:
            for summary in logs.objects(choice, match):
                count += 1
                write_out(_object_json(summary) if is_json else _object_text(summary, width))
        else:
            for record in logs.read(choice):
                count += 1
                write_out(json_line(record_fields(record)) if is_json else _event_text(record, width))
    finally:
        flush_out()
    logs.tell()
    if logs.failures:
        return Exit.USAGE
    if count:
        return Exit.OK
    what = "no object" if object_key is None else f"no event of {one_line(object_key)!r}"
    what += "" if match is None else f" that matches {one_line(match)!r}"
    where = f"in {', '.join(map(one_line, log_keys))} of {store}" if log_keys else f"in {store}"
    say(f"mpcheckpoint: {what} {where}")
    return Exit.FAILED


def _event_text(record: Record, width: int | None) -> bytes:
    """Return the line of an event. The event is what was asked for, and is never cut."""
    place = f"{one_line(record.log_key)}@{record.position.offset}"
    form = _form(_EVENT_FORMS, width)
    when = iso(record.stamp_us) if form is TimeForm.FULL else in_form(record.stamp_us, form)
    if width is not None:
        from mpcheckpoint._cli.fitting import cut_middle  # noqa: PLC0415 - rich takes a while to import

        place = cut_middle(place, max(width // 3, _LEAST_PLACE))
    return f"{when}  {place}  {event_text(record.event)}\n".encode()


def _object_json(summary: ObjectSummary) -> bytes:
    return json_line(
        {
            "object_key": summary.object_key,
            "count": summary.count,
            "first_time": iso(summary.first_us),
            "first_us": summary.first_us,
            "last": record_fields(summary.last),
        }
    )


def _object_text(summary: ObjectSummary, width: int | None) -> bytes:
    """Return the line of an object; one that fits, if there is a width."""
    name, event = one_line(summary.object_key), event_text(summary.last.event)
    if len(event) > _MOST_SHOWN:
        event = event[: _MOST_SHOWN - 3] + "..."
    form = _form(_LIST_FORMS, width)
    when = in_form(summary.last.stamp_us, form)
    before = f"{summary.count:>{_COUNT_WIDTH}}  {when:<{4 if form is TimeForm.AGE else 0}}  "
    if width is None:
        return f"{before}{name:<{_NAME_WIDTH}}  {event}\n".encode()
    from rich.cells import cell_len  # noqa: PLC0415 - as above

    from mpcheckpoint._cli.fitting import cut_end, cut_middle, fitted  # noqa: PLC0415 - as above

    room = max(0, width - len(before) - 2)
    # The event gets what the name does not need, and the name what the event does not need.
    least = min(_NAME_WIDTH, room // 2)
    most = max(least, room * 3 // 5, room - cell_len(event))
    name_width = min(most, max(least, cell_len(name)))
    shown = fitted(cut_middle(name, name_width), name_width)
    return f"{before}{shown}  {cut_end(event, room - name_width)}\n".encode()


def _form(forms: tuple[tuple[int, TimeForm], ...], width: int | None) -> TimeForm:
    return next(form for least, form in forms if width is None or width >= least)
