"""Whole numbers as arguments of maps."""

from __future__ import annotations

import operator
from typing import Any


def whole_number(value: Any, least: int, what: str) -> int:
    """Return a whole number of any type that has one, as those of numpy; True is none.

    Raises:
        ValueError: it is none, or below ``least``. The message begins with ``what``.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise ValueError(f"{what}, not {value!r}")
    return number
