"""What became of a record whose log got another generation, or none, before it was acknowledged."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.control import SALVAGED
from mpcheckpoint._logfile.read import LogReader
from mpcheckpoint._types import Position
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError

if TYPE_CHECKING:
    from mpcheckpoint._logfile.paths import LogPaths

_NEAR_END_BYTES = 64 * 1024
_FARTHER = 8


def find_in_successor(paths: LogPaths, position: Position) -> Position:
    """Return where a record stands that was written just before the log got another generation.

    The new generation was made durable before it got the log's name, so what was copied is durable. What was covered by
    the copy, made of the very generation it was written to, and is not there was left out on purpose: its position
    stays. What a restore took out is gone, whatever has its stamp now: with a clock that was set back others can.

    Raises:
        OutcomeUnknownError: it is neither there nor was it left out.
    """
    reader = LogReader(paths)
    try:
        _begin_before(reader, position.stamp_us)
        gaps: list[dict[str, Any]] = []
        for chunk in reader.poll():
            for line in chunk.lines:
                if line.stamp_us == position.stamp_us and line.more == 0 and reader.holds(position):
                    return Position(
                        paths.log_key, chunk.generation, line.end, line.stamp_us, lineage=chunk.lineage
                    )
            gaps += [
                gap for note in chunk.notes if note.name == SALVAGED for gap in note.fields.get("gaps", ())
            ]
        # It has a higher stamp than all that was copied, so it was read if the record's place was.
        copied = reader.copied
        # After two switches it is not known: a recovery may have lost it before a compaction covered its stamp.
        is_next = copied is not None and copied.source == position.generation
        covers_us = copied.covers_us if copied is not None and is_next else 0
        if position.stamp_us <= covers_us and not _may_be_lost(position.stamp_us, gaps):
            return position
    except CheckpointError as error:
        cause = f"the log was replaced by one that cannot be read ({error.message})"
        raise outcome_unknown(paths, cause, position) from error
    finally:
        reader.release()
    raise outcome_unknown(paths, "the log was replaced by one that does not hold it", position)


def _begin_before(reader: LogReader, stamp_us: int) -> None:
    """Have a reader begin before what has this stamp, as near to the end as may be."""
    length = _NEAR_END_BYTES
    while (passed_us := reader.begin_near_end(length)) is not None and passed_us >= stamp_us:
        length *= _FARTHER


def _may_be_lost(stamp_us: int, gaps: list[dict[str, Any]]) -> bool:
    """Return whether a salvage may have lost what has this stamp."""
    return any(
        gap.get("after_us", 0) < stamp_us and (gap.get("before_us") is None or stamp_us < gap["before_us"])
        for gap in gaps
    )


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
