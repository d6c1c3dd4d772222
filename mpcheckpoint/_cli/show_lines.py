"""The lines of ``show``: all of it for a pipe, one line an object for a terminal of any width."""

from __future__ import annotations

import shutil

from mpcheckpoint._cli.times import TimeForm, in_form, iso

_COUNT = 7
_NAME = 20
_LEAST_PLACE = 12
# A terminal of so many columns has room for this form of time. Not found out line by line: columns would not align.
_FORMS = ((100, TimeForm.FULL), (80, TimeForm.MINUTES), (50, TimeForm.NO_YEAR), (0, TimeForm.AGE))
_EVENT_FORMS = ((100, TimeForm.FULL), (60, TimeForm.LOCAL), (0, TimeForm.NO_YEAR))


class Shape:
    """How the lines for a pipe look: nothing is left out."""

    def event_time(self, stamp_us: int) -> str:
        """Return when an event was recorded."""
        return iso(stamp_us)

    def place(self, text: str) -> str:
        """Return where an event stands."""
        return text

    def object_line(self, count: int, stamp_us: int, name: str, event: str) -> str:
        """Return the line of an object."""
        return f"{count:>{_COUNT}}  {iso(stamp_us, timespec='seconds')}  {name:<{_NAME}}  {event}"


class TerminalShape(Shape):
    """How the lines look on a terminal of so many columns."""

    def __init__(self, width: int) -> None:
        from mpcheckpoint._cli import fitting  # noqa: PLC0415 - only terminals need rich, which takes a while to import

        self._width = width
        self._fitting = fitting

    def event_time(self, stamp_us: int) -> str:
        """Return when an event was recorded."""
        form = _form(_EVENT_FORMS, self._width)
        return iso(stamp_us) if form is TimeForm.FULL else in_form(stamp_us, form)

    def place(self, text: str) -> str:
        """Return where an event stands. The event is what was asked for, and is never cut."""
        return self._fitting.cut_middle(text, max(self._width // 3, _LEAST_PLACE))

    def object_line(self, count: int, stamp_us: int, name: str, event: str) -> str:
        """Return the line of an object."""
        form = _form(_FORMS, self._width)
        when = in_form(stamp_us, form)
        before = f"{count:>{_COUNT}}  {when:<{4 if form is TimeForm.AGE else 0}}  "
        room = max(0, self._width - len(before) - 2)
        fitting = self._fitting
        # The event has what the name does not need, and the name what the event does not.
        least = min(_NAME, room // 2)
        most = max(least, room * 3 // 5, room - fitting.width_of(event))
        name_width = min(most, max(least, fitting.width_of(name)))
        shown = fitting.fitted(fitting.cut_middle(name, name_width), name_width)
        return f"{before}{shown}  {fitting.cut_end(event, room - name_width)}"


PIPED = Shape()


def terminal_shape() -> Shape:
    """Return the shape for the terminal that is there."""
    return TerminalShape(shutil.get_terminal_size().columns)


def _form(forms: tuple[tuple[int, TimeForm], ...], width: int) -> TimeForm:
    return next(form for least, form in forms if width >= least)
