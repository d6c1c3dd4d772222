"""What is counted by object: how many records it has, and how many of the first ones are still to be dropped.

The native core has the same, without a line or a key of Python's (native/tally.c).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any

from mpcheckpoint import _core
from mpcheckpoint._format.recode import DROP, packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcheckpoint._format.columns import Column, Lines


def new_tally() -> PureTally:
    """Return what counts: the native core's, if there is one."""
    native = _core.native
    return PureTally() if native is None else native.Tally()


def keys_and_stamps(lines: Lines) -> tuple[Any, Any]:
    """Return the keys and the stamps of lines as what counts takes them."""
    if lines.block is not None:
        return lines.block.lines, b""
    return lines.object_keys, packed(lines.stamps_us)


def last_record_in(lines: Lines) -> int | None:
    """Return the index of the last of these lines that is a record; None if none is."""
    controls = {index for index, _ in lines.controls()}
    return next((index for index in reversed(range(len(lines))) if index not in controls), None)


class PureTally:
    """Counts lines by object.

    Invariant: it does what the native one does (held by tests/compaction/test_native_tally.py).
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._olds: Counter[str] = Counter()
        self._lasts_us: dict[str, int] = {}

    def add(self, object_keys: list[str | None], stamps_us: Column, old_below_us: int) -> int:
        """Count lines; return how many are older than that."""
        old = bisect_left(stamps_us, old_below_us)
        self._olds.update(filter(_is_key, object_keys[:old]))  # type: ignore[arg-type]
        self._counts.update(filter(_is_key, object_keys))  # type: ignore[arg-type]
        self._lasts_us.update(zip(object_keys, stamps_us, strict=True))  # type: ignore[arg-type]
        return old

    def drop(self, object_keys: list[str | None], fates: bytearray) -> None:
        """Of each object drop so many of the lines that are not dropped yet; what is counted becomes less."""
        left = self._counts
        for index, object_key in enumerate(object_keys):
            if object_key is not None and object_key in left and fates[index]:
                fates[index] = DROP
                left[object_key] -= 1
                if not left[object_key]:
                    del left[object_key]

    def get(self, object_key: str) -> int:
        """Return the count of an object."""
        return self._counts[object_key]

    def pop(self, object_key: str) -> int:
        """Return the count of an object, which begins anew."""
        self._olds.pop(object_key, None)
        self._lasts_us.pop(object_key, None)
        return self._counts.pop(object_key, 0)

    def set(self, counts: Mapping[str, int]) -> None:
        """Take these counts."""
        self._counts.update(counts)

    def counts(self) -> dict[str, int]:
        """Return the count of each object, in the order in which they came."""
        return self._counts

    def olds(self) -> dict[str, int]:
        """Return how many records of an object are old, where any is."""
        return self._olds

    def lasts_us(self) -> dict[str, int]:
        """Return the stamp of the last record of each object."""
        self._lasts_us.pop(None, None)  # type: ignore[call-overload]
        return self._lasts_us


def _is_key(object_key: str | None) -> bool:
    return object_key is not None
