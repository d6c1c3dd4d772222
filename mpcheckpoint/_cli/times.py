"""Times, as people give and read them: ISO 8601 in local time, unix time, ages."""

from __future__ import annotations

import re
import time
from datetime import datetime

import click

_US = 1_000_000
_UNIX = re.compile(r"@(\d{1,12})(?:\.(\d{1,6})\d*)?")
_AGE = re.compile(r"(\d{1,12})(?:\.(\d{1,6})\d*)?([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_FORMS = (
    "give a time like 2026-11-01, 2026-11-01T12:30 (local), 2026-11-01T12:30:00Z, @1793536200 (unix), or an age like "
    "10s, 5m, 2h, 3d, 1w"
)


class Moment(click.ParamType[int]):
    """A time on the command line; microseconds since 1970 to the command."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the time that was given."""
        if isinstance(value, int):
            return value
        moment_us = parse_time(str(value), time.time_ns() // 1000)
        if moment_us is None:
            self.fail(f"{value!r} is no time: {_FORMS}", param, ctx)
        return moment_us


def parse_time(text: str, now_us: int) -> int | None:
    """Return the time that ``text`` names, in microseconds since 1970; 0 for one before that, None if it names none."""
    text = text.strip()
    unix = _UNIX.fullmatch(text)
    if unix is not None:
        return _in_us(unix[1], unix[2])
    age = _AGE.fullmatch(text)
    if age is not None:
        return max(0, now_us - _in_us(age[1], age[2]) * _UNIT_S[age[3]])
    if not re.match(r"\d{4}-", text):  # what else Python takes for a date is more likely a slip
        return None
    try:
        moment = datetime.fromisoformat(text).astimezone()
        return max(0, int(moment.timestamp()) * _US + moment.microsecond)
    except (ValueError, OverflowError, OSError):
        return None


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


since_option = click.option(
    "--since", "since_us", type=Moment(), default=None, metavar="TIME", help="Only from then on: see TIME."
)
until_option = click.option(
    "--until", "until_us", type=Moment(), default=None, metavar="TIME", help="Only up to then: see TIME."
)
