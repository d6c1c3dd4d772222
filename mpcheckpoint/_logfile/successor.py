"""What became of a record whose log got another generation, or none, before it was acknowledged."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.read import LogReader
from mpcheckpoint._types import Position
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError

if TYPE_CHECKING:
    from mpcheckpoint._logfile.paths import LogPaths


def find_in_successor(paths: LogPaths, position: Position) -> Position:
    """Return where a record stands that was written just before the log got another generation.

    Raises:
        OutcomeUnknownError: it is not there.
    """
    reader = LogReader(paths)
    try:
        for chunk in reader.poll():
            for line in chunk.lines:
                if line.stamp_us == position.stamp_us and line.more == 0:
                    return Position(paths.log_key, chunk.generation, line.end, line.stamp_us)
    except CheckpointError as error:
        cause = f"the log was replaced by one that cannot be read ({error.message})"
        raise outcome_unknown(paths, cause, position) from error
    finally:
        reader.release()
    raise outcome_unknown(paths, "the log was replaced by one that does not hold it", position)


def outcome_unknown(paths: LogPaths, cause: str, position: Position | None) -> OutcomeUnknownError:
    """Return the error for a record that was written and could not be made durable."""
    return OutcomeUnknownError(
        f"the record was written to {paths.log}, but it is not known whether it is durable: {cause}",
        position=position,
        path=paths.log,
        reason=cause,
        advice="append it again with the same record_id once the log is recovered (Log.recover())",
        shell_advice="when the disk is sound, run mpcheckpoint repair --store "
        f"{shlex.quote(os.path.dirname(paths.directory))} --yes, and start the same line again",
    )
