"""The page of a report: one HTML file that holds all it needs and may fetch nothing."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

from mpcheckpoint._report.content import content_of, packed
from mpcheckpoint._report.figures import counts_of, durations_of
from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpcheckpoint._report.content import LogContent
    from mpcheckpoint._report.story import Detail, Item, Story

# How a report begins: a file that begins so may be replaced by another report.
BEGINNING = "<!doctype html>\n<!-- report of mpcheckpoint -->\n"
_SCRIPTS = ("uplot.js", "tabulator.js", "report.js")
_STYLES = ("uplot.css", "tabulator.css", "report.css")
_LICENSES = ("uplot.LICENSE", "tabulator.LICENSE")
# What is shown without scripts, too.
_MOST_FAILED, _MOST_SLOWEST = 100, 10


def page_of(title: str, stories: Sequence[Story], notices: Sequence[str], made_us: int) -> str:
    """Return the page.

    Args:
        stories: the logs that it shows.
        notices: what is to be said first: of logs that cannot be read.
        made_us: when it was made.

    Raises:
        ImportError: jinja2 is not installed.
    """
    import jinja2  # noqa: PLC0415 - an extra, which only this needs

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"moment": _moment, "span": _span, "number": "{:,}".format}
    logs = [content_of(story) for story in stories]
    data = packed(logs)
    scripts = {name: _asset(name) for name in _SCRIPTS}
    shown = [
        {
            "key": log.story.log_key,
            "story": log.story,
            "counts": counts_of(log.story),
            "durations": durations_of(log.story.items.values()),
            "axis": log.axis,
            "lanes": log.lanes,
            "in_table": in_table,
            "failed": _entries(log, log.failed[:_MOST_FAILED]),
            "slowest": _entries(log, log.slowest[:_MOST_SLOWEST]),
            "damage": None if log.story.damage is None else shell_text(log.story.damage),
        }
        for log, in_table in zip(logs, data.shown, strict=True)
    ]
    return BEGINNING + environment.from_string(_asset("report.html.jinja")).render(
        title=title,
        made_us=made_us,
        notices=notices,
        logs=shown,
        data=data.text,
        scripts=scripts,
        styles=[_asset(name) for name in _STYLES],
        licenses=[_asset(name) for name in _LICENSES],
        policy=_policy(scripts.values()),
    )


def _entries(log: LogContent, keys: Sequence[str]) -> list[tuple[str, Item, Detail | None]]:
    return [(key, log.story.items[key], log.details.get(key)) for key in keys]


def _asset(name: str) -> str:
    return resources.files("mpcheckpoint._report").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """Return the content security policy: these scripts, byte by byte, styles of the page, and no network at all."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _moment(stamp_us: int) -> str:
    return datetime.fromtimestamp(stamp_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    """Return a time as people say it, with three digits or so."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest_s} s"
