"""The three settings of when an append becomes durable."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

_DEFAULT_INTERVAL_MS = 100
_SETTING = re.compile(r"always|never|interval(?::(?P<ms>[1-9]\d{0,6}))?")


class Mode(Enum):
    """What makes an append durable."""

    ALWAYS = "always"
    INTERVAL = "interval"
    NEVER = "never"


class Durability(NamedTuple):
    """A setting, parsed."""

    mode: Mode
    interval_s: float = 0.0

    @classmethod
    def parse(cls, setting: object) -> Durability:
        """Return the setting that ``always``, ``never``, ``interval`` or ``interval:<milliseconds>`` names.

        Raises:
            ValueError: if it is none of these.
        """
        match = _SETTING.fullmatch(setting) if isinstance(setting, str) else None
        if match is None:
            raise ValueError(
                f"durability is 'always', 'interval', 'interval:<milliseconds>' or 'never', not {setting!r}"
            )
        mode = Mode(match.group().partition(":")[0])
        return cls(mode, int(match["ms"] or _DEFAULT_INTERVAL_MS) / 1000)
