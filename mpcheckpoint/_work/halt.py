"""When failures end a map: after so many, or once so large a share of what ran has failed."""

from __future__ import annotations

import operator
import re
from fractions import Fraction
from typing import Any, NamedTuple

# A share is judged once so many items have run: the first failure is all that ran until then.
_LEAST_RAN = 10
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")
_WHOLE = re.compile(r"\d{1,9}")
EXPECTED = "a number of failures, at least 1, or a share above 0% and up to 100%, as 5 or '10%'"


class Halt(NamedTuple):
    """The failures that end a map: their number, or their share of the items that ran."""

    failures: int | None = None
    share: Fraction | None = None

    @classmethod
    def of(cls, value: Any) -> Halt:
        """Return what 5, "5" and "10%" mean.

        Raises:
            ValueError: nothing.
        """
        if isinstance(value, str):
            found = _SHARE.fullmatch(value)
            if found is not None and 0 < (share := Fraction(found[1]) / 100) <= 1:
                return cls(share=share)
            number = int(value) if _WHOLE.fullmatch(value) else 0
        else:
            try:
                number = 0 if isinstance(value, bool) else operator.index(value)
            except TypeError:
                number = 0
        if number < 1:
            raise ValueError(f"a map is halted by {EXPECTED}, not {value!r}")
        return cls(failures=number)

    @property
    def is_at_first(self) -> bool:
        """Whether the first failure ends the map."""
        return self.failures == 1


class FailureCount:
    """Counts the outcomes of items that ran here, until they end the map.

    Attributes:
        failed: how many failed.
        is_reached: whether these end the map.
    """

    def __init__(self, halt: Halt | None) -> None:
        self._halt = halt
        self._ran = 0
        self.failed = 0
        self.is_reached = False

    def take(self, *, is_ok: bool) -> bool:
        """Count an outcome; return whether the map ends."""
        self._ran += 1
        self.failed += not is_ok
        if self._halt is None:
            return False
        if self._halt.failures is not None:
            self.is_reached = self.failed >= self._halt.failures
        elif self._halt.share is not None and self._ran >= _LEAST_RAN:
            self.is_reached |= self.failed >= self._halt.share * self._ran
        return self.is_reached
