"""What the scripts of a report are handed, as plain JSON; short where there are many items."""

from __future__ import annotations

import base64
import gzip
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mpcheckpoint._report.figures import chosen, failed, histogram_of, slowest, throughput_of
from mpcheckpoint._report.story import Kind
from mpcheckpoint._report.timeline import Axis, lanes_of, shares_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._report.story import Detail, Item, Story

_MS = 1000
_S = 1_000_000
# Up to so many attempts each has a bar of its own; of more, lines are divided into parts.
MOST_BARS = 4000
_MOST_PARTS, _MOST_CELLS = 800, 40_000
_RATE_PARTS = 120
# The page stays below 5 MB: half a megabyte are libraries, a megabyte the items that are shown without scripts.
_MOST_BYTES = 3_000_000
MOST_ITEMS = 200_000
_MOST_FAILED, _MOST_SLOWEST = 500, 20
_CAUSE_CHARS = 160
KINDS = tuple(Kind)


class LogContent(NamedTuple):
    """What the page shows of one log besides its figures.

    Attributes:
        failed, slowest: object keys.
        details: by object key, of these.
        lanes: how many workers ran at once.
        axis: where times are shown.
    """

    story: Story
    axis: Axis
    lanes: int
    failed: list[str]
    slowest: list[str]
    details: dict[str, Detail]
    fields: dict[str, Any]


def content_of(story: Story) -> LogContent:
    """Return what is shown of a log, all but its items."""
    attempts = sorted(story.attempts, key=lambda each: each.began_us)
    axis = Axis(attempts)
    lanes = lanes_of(attempts)
    keys_failed, keys_slowest = failed(story.items, _MOST_FAILED), slowest(story.items, _MOST_SLOWEST)
    details = {
        key: story.details[place]
        for key in (*keys_failed, *keys_slowest)
        if (place := (story.items[key].stamp_us, key)) in story.details
    }
    bars = [
        (lane, axis.shown(each.began_us), axis.shown(each.ended_us), each)
        for lane, each in zip(lanes, attempts, strict=True)
    ]
    count = max(lanes, default=-1) + 1
    rate = throughput_of(story, axis, _RATE_PARTS)
    taken = histogram_of(story.items.values())
    fields: dict[str, Any] = {
        "begin_ms": axis.begin_us / _MS,
        "span_s": axis.span_us / _S,
        "pieces": [(shown / _S, real / _MS) for shown, real in axis.pieces],
        "gaps": [(axis.shown(gap.from_us) / _S, axis.shown(gap.to_us) / _S) for gap in axis.gaps],
        "runs": [axis.shown(run.stamp_us) / _S for run in story.runs if run.stamp_us],
        "lanes": count,
        "kinds": [kind.value for kind in KINDS],
        "rate": {"part_s": rate.part_us / _S, "ok": rate.ok, "failed": rate.failed},
        "durations": {"edges_s": taken.edges_s, "ok": taken.ok, "failed": taken.failed},
    }
    if len(bars) <= MOST_BARS:
        fields["bars"] = [
            (lane, begin / _S, end / _S, KINDS.index(each.kind), each.object_key)
            for lane, begin, end, each in bars
        ]
    else:
        fields["shares"] = _shares(bars, count, axis.span_us)
    return LogContent(story, axis, count, keys_failed, keys_slowest, details, fields)


def _shares(bars: Sequence[tuple[int, int, int, Any]], lanes: int, span_us: int) -> list[tuple[str, str]]:
    """Return each line in parts, a digit a part: how busy it was, from 0 to 9, and whether something failed there."""
    parts = max(50, min(_MOST_PARTS, _MOST_CELLS // max(lanes, 1)))
    bad = (Kind.FAILED, Kind.DIED, Kind.LOST)
    shares = shares_of(
        [(lane, begin, end, each.kind in bad) for lane, begin, end, each in bars], lanes, span_us, parts
    )
    return [
        (
            "".join(
                str(min(9, round(part * 9) if part < 1e-9 else max(1, round(part * 9))))
                for part in share.busy
            ),
            "".join("1" if part else "0" for part in share.is_bad),
        )
        for share in shares
    ]


class Packed(NamedTuple):
    """The JSON of all logs, compressed, as base64: it holds no character that HTML has a use for.

    ``shown`` is how many items of each log are in it.
    """

    text: str
    shown: list[int]


def packed(logs: Sequence[LogContent]) -> Packed:
    """Return the content of all logs, with as many items of each as there is room for."""
    most = max(1, MOST_ITEMS // max(1, len(logs)))
    while True:
        tables = [_table(log, most) for log in logs]
        content = [log.fields | {"items": table} for log, table in zip(logs, tables, strict=True)]
        data = base64.b64encode(gzip.compress(msgspec.json.encode(content), 6, mtime=0))
        if len(data) <= _MOST_BYTES or most == 1:
            return Packed(data.decode(), [len(table["key"]) for table in tables])
        most = min(most, max(len(table["key"]) for table in tables)) // 2 or 1


def _table(log: LogContent, most: int) -> dict[str, Any]:
    """Return items as columns, which take less room than rows. Times are microseconds from the beginning."""
    items = log.story.items
    keys = chosen(items, most)
    rows: list[Item] = [items[key] for key in keys]
    return {
        "key": keys,
        "kind": [KINDS.index(item.kind) for item in rows],
        "began": [item.began_us - log.axis.begin_us for item in rows],
        "took": [item.duration_us for item in rows],
        "attempts": [item.attempts for item in rows],
        "run": [item.run for item in rows],
        "cause": {index: item.cause[:_CAUSE_CHARS] for index, item in enumerate(rows) if item.cause},
        "detail": {index: log.details[key] for index, key in enumerate(keys) if key in log.details},
    }
