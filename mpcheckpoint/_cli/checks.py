"""What `verify` and `repair` have in common: how a log and its damages are told, and the bar of a long pass."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mpcheckpoint._cli.byte_progress import ByteProgress
from mpcheckpoint._cli.terminal import counted, safe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from mpcheckpoint.maintenance import Damage, LogCheck

_QUICK_S = 0.5
_MOST_TOLD = 20


class LongPass(AbstractContextManager["LongPass"]):
    """A bar that is there while one log takes long, and gone when something is to be printed."""

    def __init__(self, what: str, total_bytes: int) -> None:
        self._what = what
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._since_s = time.monotonic()
        self._bar: ByteProgress | None = None

    def advance(self, done_bytes: int) -> None:
        """Take note that so many more bytes were read."""
        self._done_bytes += done_bytes
        if self._bar is not None:
            self._bar.advance(done_bytes)
        elif time.monotonic() - self._since_s > _QUICK_S:
            self._bar = ByteProgress(self._what, self._total_bytes).__enter__()
            self._bar.advance(self._done_bytes)

    def pause(self) -> None:
        """Take the bar away until the next log takes long."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.__exit__(None, None, None)
        self._since_s = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pause()


def shown_name(check: LogCheck) -> str:
    """Return what a log is called in front of people: its key, or its file where the key cannot be told."""
    name = check.log_key if check.log_key is not None else os.path.basename(check.path)
    return safe(name.replace("\n", "\\n")) or "''"


def shown_path(path: str) -> str:
    """Return a path as it is shown, and as it is written in JSON."""
    return os.fsencode(path).decode(errors="backslashreplace")


def damage_lines(check: LogCheck) -> Iterator[str]:
    """Yield a line a damage, the first twenty of them."""
    for damage in check.damages[:_MOST_TOLD]:
        yield (
            f"  {damage.verdict} at offset {damage.offset}, {counted(damage.length_bytes, 'byte')}: "
            + safe(f"expected {damage.expected}, found {damage.found}{_behind(damage)}")
        )
    if check.damage_count > _MOST_TOLD:
        yield f"  and {counted(check.damage_count - _MOST_TOLD, 'damage')} more (--json has up to 1,000)"
    if check.damages:
        yield f"  in {safe(shown_path(check.path))}"


def _behind(damage: Damage) -> str:
    if damage.is_mended:
        return "; only the line's end was hit, and nothing is lost"
    if damage.records_behind:
        return f"; {counted(damage.records_behind, 'record')} can be proven behind it"
    return ""


def check_fields(check: LogCheck) -> dict[str, Any]:
    """Return a check as it is written in JSON."""
    return {
        "log_key": check.log_key,
        "path": shown_path(check.path),
        "generation": check.generation,
        "state": check.state,
        "records": check.records,
        "size_bytes": check.size_bytes,
        "durable_bytes": check.durable_bytes,
        "damage_count": check.damage_count,
        "damages": [
            {
                "offset": damage.offset,
                "length_bytes": damage.length_bytes,
                "verdict": damage.verdict,
                "expected": damage.expected,
                "found": damage.found,
                "records_behind": damage.records_behind,
                "is_mended": damage.is_mended,
                "after_us": damage.after_us,
                "before_us": damage.before_us,
            }
            for damage in check.damages
        ],
        "problem": check.problem,
        "poison": check.poison,
        "notes": list(check.notes),
    }
