"""Many appends by one call: each a batch of its own, with its own stamp, position and outcome, by one write and one
sync. It is what the thread that has the append lock does for others that wait, of appends that come together.

Crash: of a group that was being written the first batches may be there, whole, and the others are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.opened import Appended
from mpcheckpoint._types import Position
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.append import LogWriter
    from mpcheckpoint._logfile.opened import OpenLog


def append_group(
    writer: LogWriter, batches: Sequence[list[Payload]], timeout_s: float | None
) -> list[Appended | CheckpointError]:
    """Write batches, in their order: visible then, not durable. Return what came of each.

    An error among them says that this batch was not written: there was no room for it, say, and for others there was.

    Raises:
        LockTimeoutError, CorruptLogError, PoisonedLogError, WriteFailedError: none was written.
    """

    def under_lock(log: OpenLog | None) -> list[Appended | CheckpointError]:
        log = log or writer.opened()
        writer.establish(log)
        found, ends = list[Appended | CheckpointError](), list[EndState]()
        try:
            log.append(batches, ends)
        except OSError as error:
            if log.file.is_lost_by(error):
                writer.establish(log)
        # Where there was no room for all of them, the first ones may be there.
        written = ends.index(log.state.end) + 1 if log.state.end in ends else 0
        found += [Appended(log, end, log.state.beginning) for end in ends[:written]]
        found += [_written_alone(log, batch) for batch in batches[written:]]
        writer.queue.written += sum(isinstance(each, Appended) for each in found)
        if system.native is not None and written == len(batches):
            writer.native.attach(log)
        return found

    return writer.exclusive(timeout_s, under_lock)


def _written_alone(log: OpenLog, batch: list[Payload]) -> Appended | CheckpointError:
    """Write one batch; return what came of it."""
    ends: list[EndState] = []
    try:
        log.append([batch], ends)
    except CheckpointError as error:
        if log.state.end not in ends:  # else it failed when all was written, and readers see it
            return error
    return Appended(log, ends[0], log.state.beginning)


def group_made_durable(
    writer: LogWriter, group: Sequence[Appended | CheckpointError]
) -> list[Position | CheckpointError]:
    """Return the position of each that was written once it survives a loss of power, or why that is not known.

    One sync covers all of them. Where the last one is not durable where it was written, each is looked for by itself.
    """
    last = next((each for each in reversed(group) if isinstance(each, Appended)), None)
    outcome = None if last is None else _made_durable(writer, last)
    found: list[Position | CheckpointError] = []
    for each in group:
        if not isinstance(each, Appended):
            found.append(each)
        elif _is_covered(each, last, outcome):
            found.append(writer.position_of(each))
        else:
            found.append(_made_durable(writer, each))
    return found


def _is_covered(
    appended: Appended, last: Appended | None, outcome: Position | CheckpointError | None
) -> bool:
    """Return whether a batch is durable where it was written, since a later one is."""
    return (
        last is not None
        and isinstance(outcome, Position)
        and outcome.generation == last.log.generation
        and appended.log is last.log
        and appended.beginning == last.beginning
    )


def _made_durable(writer: LogWriter, appended: Appended) -> Position | CheckpointError:
    try:
        return writer.wait_durable(appended)
    except CheckpointError as error:
        return error
