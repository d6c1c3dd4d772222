"""What maps recorded and no start asks for any more: outcomes that a later one replaced, and their attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._work.reruns import RunNote, head_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class Superseded:
    """Finds them while a log is read from its start.

    Which outcomes count is decided by their run, and by whether failures count. So of each object and each run stay the
    last outcome and the last one that is no failure, and the attempts after it. Rejected: of each name. Another start
    may still record as an older run of the name, which does not count, after what does.
    """

    def __init__(self) -> None:
        # By the number of a run, as it is written.
        self._outcomes: dict[bytes, dict[str, int]] = {}
        self._last_ok: dict[bytes, dict[str, int]] = {}
        self._attempts: dict[bytes, dict[str, list[int]]] = {}

    def note(self, fields: dict[str, Any]) -> None:
        """Take note that a run begins. Its outcomes come after that."""
        run = RunNote.of(fields)
        if run is not None:
            number = b"%d" % run.number
            for known in (self._outcomes, self._last_ok):
                known.setdefault(number, {})
            self._attempts.setdefault(number, {})

    def forget(self, object_key: str) -> None:
        """Take note that all that was recorded of an object is forgotten."""
        for known in (self._outcomes, self._last_ok, self._attempts):
            for of_run in known.values():
                of_run.pop(object_key, None)

    @property
    def is_needed(self) -> bool:
        """Whether a map ran on the log, so that ``look`` may find something."""
        return bool(self._outcomes)

    def look(self, number: int, object_key: str, event: bytes) -> Iterator[int]:
        """Yield the numbers of records that the record of this number supersedes."""
        head = head_of(event)
        if head is None or head.run not in self._outcomes:
            return  # no map's, or of a run of which a salvage lost the note
        attempts = self._attempts[head.run]
        if not head.is_outcome:
            attempts.setdefault(object_key, []).append(number)
            return
        yield from attempts.pop(object_key, ())
        outcomes, last_ok = self._outcomes[head.run], self._last_ok[head.run]
        before, before_ok = outcomes.get(object_key), last_ok.get(object_key)
        outcomes[object_key] = number
        if before is not None and before != before_ok:
            yield before
        if head.is_ok:
            if before_ok is not None:
                yield before_ok
            last_ok[object_key] = number
