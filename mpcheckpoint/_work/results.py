"""What a map has recorded, given out again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._work.outcomes import outcome_of
from mpcheckpoint._work.reruns import history_of
from mpcheckpoint._work.runs import standings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._work.outcomes import Outcome


def outcomes_of(log: LogHandle, rerun: str | None) -> Iterator[Outcome]:
    """Yield each object's last outcome that counts for that rerun, or without one."""
    history = log.query(history_of)
    for object_key, outcome, _, _ in standings(log, history.rule(rerun)):
        if outcome is not None:
            yield outcome_of(outcome, object_key, repeated=True, runs=history.by_number)
