"""Counts, spans of time and names as people read them."""

from __future__ import annotations

import re

# Control characters could move the cursor or change colours and titles: all below the blank but newline and tab, and
# C1. Surrogates stand for bytes of a path that are no UTF-8; no terminal can show them.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def safe(text: str) -> str:
    """Return a text that a terminal shows and does not obey."""
    return _UNSAFE.sub(escaped, text)


def one_line(text: str) -> str:
    """Return a text, which may hold anything, as one line that is safe to show."""
    return safe(text.replace("\n", "\\n").replace("\t", "\\t"))


def escaped(match: re.Match[str]) -> str:
    """Return a character as it is shown."""
    # Python turns a byte that is no UTF-8 into U+DC80 to U+DCFF.
    return f"\\x{ord(match[0]) & 0xFF:02x}"


def plural(number: int, noun: str) -> str:
    """Return the noun in the form that fits the number."""
    return noun if number == 1 else f"{noun}s"


def items_done(done: int, total: int | None) -> str:
    """Return how many items are done, and of how many if that is known."""
    if total is None:
        return f"{done} {plural(done, 'item')} done"
    return f"{done} of {total} {plural(total, 'item')} done"


def span(seconds: float) -> str:
    """Return a span of time as 2:05 or 1:02:05."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"


def rate(per_second: float) -> str:
    """Return a rate: "41.2/s"; of what takes longer than a second, "3.5/min"."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second * 60:.1f}/min"
