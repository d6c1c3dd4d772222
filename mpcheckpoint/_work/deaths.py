"""Deaths: an item whose process was killed from elsewhere runs again, three times in all, counted in the log.

Who kills with SIGKILL is seldom the item itself: the kernel when memory runs out, a batch system, an administrator. So
the item is run again; only three times, since it may be what eats the memory. A death is a record beside the attempts,
written by the map that saw it. Where the map was killed, too, nothing is counted: a map may be killed as often as one
likes.

Rejected: to have the next start count the claims that dead workers left. It cannot tell an item that killed its map
from one that was killed with it, and three kills of a map would fail whatever ran.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._work.outcomes import beginning_of
from mpcheckpoint._work.reruns import history_of, tell

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._view.view import LogView
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.outcomes import Result
    from mpcheckpoint._work.runs import Run

MOST_DEATHS = 3
# What kills for want of memory kills again at once: a moment's rest, longer the second time.
_REST_S = 1.0
# A signal to a whole job reaches its processes one after the other. So long a death by such a signal is not believed to
# be the item's own.
HELD_S = 1.0
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Death(NamedTuple):
    """An item whose process was killed, and which is to run again: the number of this death, and after how long."""

    object_key: str
    number: int
    cause: str
    pause_s: float


def is_kill(code: int) -> bool:
    """Return whether an exit code (negative: a signal) tells of SIGKILL, of the process or of what its shell ran."""
    return code in (-signal.SIGKILL, 128 + signal.SIGKILL)


def is_told_to_end(code: int) -> bool:
    """Return whether an exit code tells of a signal that asks to end, and that may have been sent to a whole job."""
    return -code in _ENDING or code - 128 in _ENDING


def deaths_of(view: LogView, run: Run, object_key: str) -> int:
    """Return how often the process of an object was killed in a run since it last had an outcome that counts there."""
    rule, number, count = history_of(view).rule(run.rerun, run.note), b"%d" % run.number, 0
    for entry in reversed(view.entries(object_key)):
        told = tell(entry.event)
        if told is None:
            continue
        if rule.counts(told):
            break
        count += told.is_death and told.run == number
    return count


def death_payload(run: Run, entry: Input, number: int, result: Result, duration_s: float) -> Payload:
    """Return the record of a death after which the item is to run again."""
    event = beginning_of(run, "death", number) | {"error": result.error}
    if result.value is not None:
        event["value"] = result.value
    event["duration_s"] = round(duration_s, 6)
    return encode_payload(entry.object_key, event)


def last_death(result: Result) -> Result:
    """Return the failure that the last of its deaths is for an item; it is not retried."""
    cause, newline, where = (result.error or "").partition("\n")
    error = f"{cause}, {MOST_DEATHS} times{newline}{where}"
    return result._replace(error=error, is_final=True, is_death=False)


def rest_s(deaths: int) -> float:
    """Return how long an item rests after so many deaths."""
    return _REST_S * deaths


class Resting:
    """What a map leaves alone for a moment: items after a death, and failures that are not to be recorded yet."""

    def __init__(self) -> None:
        self._due_s: dict[str, float] = {}
        self._held: dict[str, tuple[Input, Result]] = {}

    def rest(self, object_key: str, pause_s: float) -> None:
        """Leave an item alone for so long."""
        self._due_s[object_key] = time.monotonic() + pause_s

    def hold(self, entry: Input, failure: Result) -> None:
        """Leave the failure of an item alone for a second: a death is none if the map is told to end meanwhile; and
        what a shortage kept from being recorded may be recorded then."""
        self.rest(entry.object_key, HELD_S)
        self._held[entry.object_key] = entry, failure

    def is_held(self, object_key: str) -> bool:
        """Return whether the failure of an item is to be recorded yet."""
        return object_key in self._held

    def is_resting(self, object_key: str) -> bool:
        """Return whether an item is to be left alone still."""
        due_s = self._due_s.get(object_key)
        if due_s is not None and time.monotonic() >= due_s and object_key not in self._held:
            del self._due_s[object_key]
            return False
        return due_s is not None

    def due(self) -> list[tuple[Input, Result]]:
        """Return the failures that were held long enough, with their items."""
        now_s = time.monotonic()
        due = [object_key for object_key in self._held if self._due_s[object_key] <= now_s]
        for object_key in due:
            del self._due_s[object_key]
        return [self._held.pop(object_key) for object_key in due]
