"""The errors of what stands on logs: maps, tables, imports, journals of Optuna. `mpcheckpoint.errors` has all."""

from __future__ import annotations

from mpcheckpoint._root_error import PUBLIC_MODULE, CheckpointError

# --- parallel maps -----------------------------------------------------------------------------------------


class ChangedVersionError(CheckpointError, ValueError):
    """The map on this log, or that rerun of it, is another one: it has another ``version`` (in the shell: another
    command line), so nothing was run; or it went on with another one while this one ran, which has stopped."""


class ChangedItemError(CheckpointError, ValueError):
    """The same object key came with another input than the one it stands for. The later input was not run."""


class InvalidFunctionError(CheckpointError, TypeError):
    """What was handed to ``Log.map`` can run for no item: it is no function, an ``async def``, a generator, or cannot
    be sent to the worker processes. Nothing was run or recorded.

    Or a handle cannot be pickled, because its ``default`` cannot.
    """


class NoSourceError(CheckpointError, ValueError):
    """``version="auto"`` needs the source of the map's function, and there is none. Nothing was run or recorded."""


class InvalidItemError(CheckpointError, TypeError):
    """An item of a map cannot be sent to a worker process. It was not run."""


class ItemFailedError(CheckpointError, RuntimeError):
    """An item of a map had failed before, and ``on_error="raise"`` was asked for.

    Attributes:
        object_key: the item's object key.
        error: what was recorded as the cause.
    """

    object_key: str
    error: str

    def __init__(self, object_key: str, error: str) -> None:
        super().__init__(
            f"item {object_key!r} failed: {error}",
            reason="item failed",
            advice="retry_failed=True runs it again",
            shell_advice="--retry-failed runs it again",
        )
        self.object_key = object_key
        self.error = error


class WorkerDiedError(CheckpointError, RuntimeError):
    """The worker processes of a map cannot be kept alive. What was recorded stays; start the map again to carry on."""


class ShortageError(CheckpointError, OSError):
    """The machine was short of something that a map needs to start an item (processes, threads, open files, memory),
    and for a minute nothing ran. No item has failed for it; what was recorded stays; start the map again to carry on.

    Attributes:
        errno: what the operating system said last: EAGAIN, EMFILE, ENFILE or ENOMEM.
    """


# --- tables ------------------------------------------------------------------------------------------------


class MissingExtraError(CheckpointError, ImportError):
    """A library that a table, a store on a server, or a journal of Optuna needs is not installed. Nothing was read.

    Attributes:
        extra: which extra of mpcheckpoint installs it.
        library: the library.
    """

    extra: str
    library: str

    def __init__(self, extra: str, library: str) -> None:
        super().__init__(
            f"{library} is not installed; the extra {extra!r} has it: pip install 'mpcheckpoint[{extra}]'",
            reason="missing extra",
        )
        self.extra = extra
        self.library = library


# --- Optuna ------------------------------------------------------------------------------------------------


class JournalError(CheckpointError, ValueError):
    """A log is no journal of Optuna, or not all of one: it holds other records, or some were taken out. Nothing was
    written.

    Attributes:
        reason: "no journal", "journal forgotten", "operations dropped" (by a compaction), or "operations lost" (they
            were read before).
    """


# --- imports -----------------------------------------------------------------------------------------------


class BadLineError(CheckpointError, ValueError):
    """A line of a source is no record. It was not imported.

    Attributes:
        path: the name of the source; line: the number of the line in it, from 1; offset: where it starts.
        reason: what is wrong with it.
    """

    line: int

    def __init__(self, path: str, line: int, offset: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}", path=path, offset=offset, reason=reason)
        self.line = line


class SourceChangedError(CheckpointError, ValueError):
    """A source is not what was imported under its name before, so there is no place to carry on from. Nothing was
    imported."""


class SourceBusyError(CheckpointError, RuntimeError):
    """Another import of the same source into the same log got on while this one was under way. What this one would have
    imported next was not imported by it."""


# Each is shown, and pickled, as one of the module that users import it from.
for _error in [each for each in globals().values() if isinstance(each, type) and each.__module__ == __name__]:
    _error.__module__ = PUBLIC_MODULE
