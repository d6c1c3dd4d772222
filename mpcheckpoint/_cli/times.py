"""Times and durations as people write them: ISO 8601 in local time, unix time, ages; 90, 90s, 1h30m."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime
from enum import Enum

import click

_US = 1_000_000
_UNIX = re.compile(r"@(\d{1,12})(?:\.(\d{1,6})\d*)?")
_UNIT_S = {"w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile("".join(rf"(?:(\d{{1,12}})(?:\.(\d{{1,6}})\d*)?{unit})?" for unit in _UNIT_S))
_LONGEST_S = 1e8  # three years
_FORMS = (
    "give a time like 2026-11-01, 2026-11-01T12:30 (local), 2026-11-01T12:30:00Z, @1793536200 (unix), or an age like "
    "10s, 5m, 1h30m, 3d, 1w"
)


def moment(text: str) -> int:
    """Return the time that was given on the command line, in microseconds since 1970."""
    moment_us = parse_time(text, time.time_ns() // 1000)
    if moment_us is None:
        raise click.BadParameter(f"{text!r} is no time: {_FORMS}")
    return moment_us


def parse_time(text: str, now_us: int) -> int | None:
    """Return the time in ``text``, in microseconds since 1970; 0 if it is earlier, None if it is no time."""
    text = text.strip()
    unix = _UNIX.fullmatch(text)
    if unix is not None:
        return _in_us(unix[1], unix[2])
    age_us = parse_span(text)
    if age_us is not None:
        return max(0, now_us - age_us)
    if not re.match(r"\d{4}-", text):  # Python takes more for a date, most likely slips
        return None
    try:
        moment = datetime.fromisoformat(text).astimezone()
        return max(0, int(moment.timestamp()) * _US + moment.microsecond)
    except (ValueError, OverflowError, OSError):
        return None


def duration(text: str) -> float:
    """Return the duration that was given on the command line, in seconds: finite and not negative."""
    seconds = any_duration(text)
    if seconds > _LONGEST_S:
        raise click.BadParameter(f"{text!r} is more than {_LONGEST_S:.0f} s")
    return seconds


def any_duration(text: str) -> float:
    """Return the same, however long it is: the age of something, and no time to wait."""
    seconds = parse_duration(text)
    if seconds is None:
        raise click.BadParameter(
            f"{text!r} is no duration: give seconds, as 90 or 0.5, or 90s, 5m, 1h30m, 2d"
        )
    return seconds


def duration_above_0(text: str) -> float:
    """Return the duration that was given on the command line, in seconds: finite and above 0."""
    seconds = duration(text)
    if not seconds:
        raise click.BadParameter(f"{text!r} is not above 0")
    return seconds


def parse_duration(text: str) -> float | None:
    """Return the duration in ``text``, a number or with units, in seconds; None if it is none."""
    span_us = parse_span(text.strip())
    if span_us is not None:
        return span_us / _US
    try:
        seconds = float(text)
    except ValueError:
        return None
    return abs(seconds) if math.isfinite(seconds) and seconds >= 0 else None  # abs: there is a -0.0


def parse_span(text: str) -> int | None:
    """Return the duration in ``text``, like 90s or 1h30m, in microseconds; None if it is none."""
    match = _SPAN.fullmatch(text)
    if not text or match is None:
        return None
    numbers = zip(match.groups()[::2], match.groups()[1::2], _UNIT_S.values(), strict=True)
    return sum(_in_us(whole, fraction) * unit_s for whole, fraction, unit_s in numbers if whole is not None)


def _in_us(whole: str, fraction: str | None) -> int:
    return int(whole) * _US + int((fraction or "").ljust(6, "0"))


def iso(stamp_us: int, *, timespec: str = "microseconds") -> str:
    """Return a time as ISO 8601, local, with its offset from UTC."""
    seconds, microseconds = divmod(stamp_us, _US)
    return (
        datetime.fromtimestamp(seconds)
        .astimezone()
        .replace(microsecond=microseconds)
        .isoformat("T", timespec)
    )


class TimeForm(Enum):
    """The forms of a time, from the usual one to the shortest for little room."""

    FULL = "2026-11-01T12:30:00+01:00"
    LOCAL = "2026-11-01T12:30:00"
    MINUTES = "2026-11-01T12:30"
    NO_YEAR = "11-01T12:30"
    AGE = "3d"


def in_form(stamp_us: int, form: TimeForm) -> str:
    """Return a time in a form, local, to the second at most."""
    if form is TimeForm.AGE:
        return age(stamp_us, time.time_ns() // 1000)
    start = 5 if form is TimeForm.NO_YEAR else 0
    return iso(stamp_us, timespec="seconds")[start : start + len(form.value)]


def age(stamp_us: int, now_us: int) -> str:
    """Return how long ago a time was, as one number and a unit. Options that take an age understand it."""
    seconds = max(0, now_us - stamp_us) // _US
    for unit in ("w", "d", "h", "m"):
        # Not 1d for 47 hours: below 2 the number is too coarse.
        if seconds >= 2 * _UNIT_S[unit]:
            return f"{seconds // _UNIT_S[unit]}{unit}"
    return f"{seconds}s"


since_option = click.option(
    "--since", "since_us", type=moment, metavar="TIME", help="Only from this time on: see TIME."
)
until_option = click.option(
    "--until", "until_us", type=moment, metavar="TIME", help="Only up to this time: see TIME."
)
