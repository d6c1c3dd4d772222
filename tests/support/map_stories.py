"""Stories of maps that never ran: what a report is made of, with as many items, workers and gaps as a test needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._report.story import Attempt, Begun, Detail, Item, Kind, Story
from mpcheckpoint._work.reruns import RunNote

if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN_US = 1_790_000_000_000_000
S = 1_000_000
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    "</script></pre>{{ 7 * 7 }}'\"&amp;\u202e"
)


def attempt(
    began_s: float, ended_s: float, kind: Kind = Kind.OK, *, key: str = "x", worker: str | None = None
) -> Attempt:
    """Return an attempt between two times, in seconds after the beginning."""
    return Attempt(round(BEGIN_US + began_s * S), round(BEGIN_US + ended_s * S), kind, key, worker)


def many(
    items: int,
    *,
    workers: int = 4,
    item_s: float = 0.05,
    pause_s: float = 0.0,
    name: Callable[[int], str] = "photos/2026/IMG_{:06}.jpg".format,
    output: str = "",
) -> Story:
    """Return the story of a map whose every 50th item failed; after half of the items nothing ran for ``pause_s``."""
    found: dict[str, Item] = {}
    attempts: list[Attempt] = []
    details: dict[tuple[int, str], Detail] = {}
    for number in range(items):
        kind = Kind.FAILED if number % 50 == 7 else Kind.OK
        took_us = round(item_s * S * (0.2 + (number * 7919 % 1000) / 625))
        pause_us = round(pause_s * S) if number >= items // 2 else 0
        began_us = BEGIN_US + pause_us + number // workers * round(item_s * 2 * S)
        key, worker = name(number), f"{number % workers:032x}"
        attempts.append(Attempt(began_us, began_us + took_us, kind, key, worker))
        cause = "exit code 3" if kind is Kind.FAILED else ""
        stamp_us = began_us + took_us
        found[key] = Item(kind, began_us, took_us, 1, 1, worker, cause, stamp_us)
        if kind is Kind.FAILED:
            details[stamp_us, key] = Detail(cause, output or f"cannot convert {key}\n")
    runs = [Begun(RunNote(1, "convert {} small/{}"), BEGIN_US)]
    return Story("photos", runs, attempts, found, details, 0, None)
