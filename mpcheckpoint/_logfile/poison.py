"""The mark that a failed sync leaves beside a log: a file, and a few bytes of the page of hints.

Either of them counts. On a full or failing disk the file may not be written; the page may get lost.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.append_state import AppendState
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.ownership import create_copy, temporary_name
from mpcheckpoint._logfile.page import Page, stated_poison
from mpcheckpoint._logfile.unfinished import refuse_unfinished
from mpcheckpoint.errors import CheckpointError, PoisonedLogError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.paths import LogPaths

_LARGEST_NOTE_BYTES = 4096
_ANY = ""  # a note that cannot be read concerns every generation


class _Note(msgspec.Struct):
    """The generation whose sync failed, and how."""

    generation: str
    reason: str


class Poison:
    """The ``.poison`` file of one log, and what its page says of poison.

    Invariant: a mark concerns the generation that it names and no other, so it is void after a recovery, which makes a
    new generation. Only a recovery clears it.
    """

    def __init__(self, paths: LogPaths) -> None:
        self._paths = paths

    def mark(self, generation: str, error: OSError) -> str | None:
        """Tell every process that a sync of ``generation`` failed; return why that was not possible, or None.

        Best effort, for the disk is failing. Crash, or no room for the file: processes that had the log open get the
        error from their own next sync, and a process that opens it later writes the unsynced part once more before it
        calls that durable.
        """
        if self._is_succeeded(generation):
            return None  # recovered meanwhile: the new generation is sound
        note = msgspec.json.encode(_Note(generation, error.strerror or str(error)))
        temporary = temporary_name(self._paths.log)
        try:
            file = create_copy(temporary, self._paths.log)
        except OSError as failure:
            return f"could not write {self._paths.poison}: {failure}"
        # Never in place: half a note would concern every generation. And visible before it is synced: where a sync
        # failed for want of room, the next one will too.
        steps: tuple[Callable[[], object], ...] = (
            lambda: write_whole(file.fd, note, 0),
            lambda: system.replace(temporary, self._paths.poison),
            lambda: system.sync_data(file.fd),
            lambda: system.sync_directory(self._paths.directory),
        )
        first: OSError | None = None
        for step in steps:
            try:
                step()
            except OSError as failure:
                first = first or failure
        return None if first is None else f"could not write {self._paths.poison}: {first}"

    def stop(self, generation: str) -> None:
        """Have ``generation`` take no appends, of no process that has it open either, until it is replaced.

        It is said in the page alone, which every append looks at: a process that has the log open does not outlive a
        loss of power. Best effort, as ``mark``.

        Requires: the append lock.
        """
        try:
            status = system.path_status(self._paths.log)
            Page(self._paths.page, generation, status, AppendState(EndState)).publish_poison()
        except OSError:
            return

    def _is_succeeded(self, generation: str) -> bool:
        try:
            log = system.open_file(self._paths.log)
            return read_header(log.fd, self._paths.log, log_key=self._paths.log_key).generation != generation
        except (CheckpointError, OSError):
            return False  # unknown: the mark names the generation that it concerns

    def refuse(self, generation: str) -> None:
        """Return if no sync of ``generation`` has failed.

        Raises:
            PoisonedLogError: one has. Nothing was written.
            UnfinishedBackupError: a restore that was interrupted, or is under way, is about to replace it.
            ReadFailedError: the file exists and cannot be read.
        """
        with translated("reading", self._paths.poison):
            reason = self.reason(generation)
        if reason is not None:
            refuse_unfinished(self._paths.directory)
            raise self.refusal(reason)

    def refusal(self, reason: str) -> PoisonedLogError:
        """Return the error for an append to a log of which a sync failed."""
        repair = f"mpcheckpoint repair --store {shlex.quote(os.path.dirname(self._paths.directory))} --yes"
        return PoisonedLogError(
            f"a sync of the log {self._paths.log_key!r} failed ({reason}), so what was written last may not be on disk "
            f"({self._paths.log}). Nothing was written",
            path=self._paths.log,
            reason=reason,
            advice=f"when the disk is sound, call Log.recover(), or run {repair}",
            shell_advice=f"when the disk is sound, run {repair}",
        )

    def reason(self, generation: str) -> str | None:
        """Return why ``generation`` takes no appends, or None if it does.

        Raises:
            OSError: the file exists and cannot be read.
        """
        note = self._note() if system.exists(self._paths.poison) else None
        if note is not None and note.generation in (generation, _ANY):
            return note.reason
        if stated_poison(self._paths.page, generation):
            return "a sync failed, and the note about it is not there"
        return None

    def _note(self) -> _Note | None:
        try:
            file = system.open_file(self._paths.poison)
        except FileNotFoundError:
            return None  # recovered meanwhile
        data = system.read_at(file.fd, _LARGEST_NOTE_BYTES, 0)
        try:
            return msgspec.json.decode(data, type=_Note)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _Note(_ANY, "a sync failed, and then the note about it")

    def clear_older(self, generation: str) -> None:
        """Remove a note about another generation than this one, which has got the log's name.

        Requires: the append lock. The directory is still to be synced.
        """
        note = self._note()
        if note is not None and note.generation not in (generation, _ANY):
            system.remove(self._paths.poison)

    def clear(self) -> None:
        """Forget that a sync failed. Requires: the append lock, and a durable new generation at the log's path.

        Raises:
            WriteFailedError: the mark could not be removed; it names the old generation.
        """
        with translated("removing", self._paths.poison):
            system.remove(self._paths.poison)
            system.sync_directory(self._paths.directory)
