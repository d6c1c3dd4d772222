"""What a restore has to do: each log of the backup, of the store, or of both, and what the two have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from mpcheckpoint import _system as system
from mpcheckpoint._backup.marker import change_of
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import Restored
from mpcheckpoint._format.names import LOG_SUFFIX
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint._logfile.replay import is_chain, replay
from mpcheckpoint._store.log_end import clean_end, last_stamp, whole_end
from mpcheckpoint._store.moving import without_controls_of_a_generation
from mpcheckpoint.errors import BackupPlaceError, CorruptLogError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._backup.marker import Marker, SavedEnd
    from mpcheckpoint._format.control import Header
    from mpcheckpoint._format.frame import EndState
    from mpcheckpoint._store.directory import StoreDirectory


# Advice about a backup that is not whole.
_AS_IT_IS = "to go on with what {1}, put a copy of {0} in the place of the store by hand"


@dataclass(frozen=True, slots=True)
class LogRestore:
    """What a restore does to one log, or did.

    Attributes:
        log_key: its key.
        action: "nothing": the store has it as the backup has it; "put back"; "made": the store has none; "taken out":
            the backup has none.
        until_us: the stamp of the last thing that the log holds then, in microseconds since 1970; None if it is taken
            out.
        removed_bytes: how many bytes of the store's log are taken out; they go to quarantine.
        is_done: whether it was done.
        kept_in: the quarantine file with these bytes, if any.
    """

    log_key: str
    action: Literal["nothing", "put back", "made", "taken out"]
    until_us: int | None
    removed_bytes: int
    is_done: bool = False
    kept_in: str | None = None


@dataclass(slots=True)
class RestoreStep:
    """A log of the backup, of the store, or of both: its files in the store, and what each of the two holds.

    Attributes:
        saved_path, header, end: of the backup's log; None if it has none.
        is_there, present, size: of the store's: whether it has one, its header, if that can be read, and its length
            without padding.
        length: up to where the store's log is whole.
        common: up to where it is what the backup's is.
        is_same: whether it holds what the backup's does, no more and no less.
        is_poisoned: whether it takes no appends since a sync failed.
    """

    paths: LogPaths
    saved_path: str = ""
    header: Header | None = None
    end: EndState | None = None
    is_there: bool = False
    present: Header | None = None
    size: int = 0
    length: int = 0
    common: int = 0
    is_same: bool = False
    is_poisoned: bool = False

    def outcome(self) -> LogRestore:
        """Return what is to be done."""
        end, log_key = self.end, self.paths.log_key
        removed = max(0, self.size - self.common)
        if end is None:
            return LogRestore(log_key, "taken out", None, removed)
        if not self.is_there:
            return LogRestore(log_key, "made", end.stamp_us, 0)
        if self.is_same and not self.is_poisoned:
            return LogRestore(log_key, "nothing", end.stamp_us, 0)
        return LogRestore(log_key, "put back", end.stamp_us, removed)


def saved_steps(source: StoreDirectory, marker: Marker, directory: str) -> dict[str, RestoreStep]:
    """Return what the backup has of each log, by key, for a store in that directory.

    Raises:
        BackupPlaceError: its logs do not end as they were backed up, or are not those.
        CorruptLogError, FormatVersionError, ReadFailedError: a log of it cannot be read.
    """
    paths = [LogPaths.of(source.path, log_key) for log_key in source.log_keys()]
    known = marker.logs
    gone = set(known or ()) - {os.path.basename(each.log) for each in paths}
    if gone:
        raise refusal(
            source, f"has lost its {min(gone)}: back up once more; {_AS_IT_IS.format(source.base, 'is left')}"
        )
    return {each.log_key: _saved(source, each, known, directory) for each in paths}


def compared(
    source: StoreDirectory, saved: dict[str, RestoreStep], logs: list[LogPaths]
) -> list[RestoreStep]:
    """Return what each log needs, by key, where the store has these ``logs``.

    All stamps that are seen are taken note of: a record that comes anew must not look like one that is taken out.

    Raises:
        BackupPlaceError: it is a backup of another store.
        FormatVersionError, ReadFailedError: a log of the store cannot be read.
    """
    steps = dict(saved)
    for paths in logs:
        _compare(source, steps.setdefault(paths.log_key, RestoreStep(paths)))
    return [steps[log_key] for log_key in sorted(steps)]


def logs_in(target: StoreDirectory, saved: dict[str, RestoreStep]) -> list[LogPaths]:
    """Return the logs of a store, by key. One whose header is damaged has the key of that of the backup."""
    names = {step.paths.name: step.paths for step in saved.values()}
    found: list[LogPaths] = []
    for path, log_key in target.listing():
        name = os.path.basename(path).removesuffix(LOG_SUFFIX)
        if isinstance(log_key, str):
            found.append(LogPaths.of(target.path, log_key))
        elif name in names:
            found.append(names[name])
        else:
            raise log_key
    return sorted(found, key=lambda paths: paths.log_key)


def previous_of_both(header: Header, present: Header) -> tuple[str, ...]:
    """Return what the generations before a backup's are called, with those that the store had besides.

    All are older than the restore that is to come. One that the store had besides is younger than an earlier restore,
    or the cut of a compacted backup, if it continues the generation that this made: then it comes after what that was
    put back of, else before it. See ``Header.holds``.
    """
    chain, own = (*present.previous, present.generation), (*header.previous, header.generation)
    restored_at = sorted(own.index(each.to) for each in header.restored if each.to in header.previous)
    before: dict[int, list[str]] = {}
    for at, generation in enumerate(chain):
        if generation not in own:
            older = (place for place in restored_at if own[place + 1] not in chain[: at + 1])
            before.setdefault(next(older, len(header.previous)), []).append(generation)
    joined: list[str] = []
    for place, generation in enumerate(header.previous):
        joined += [*before.get(place, ()), generation]
    return (*joined, *before.get(len(header.previous), ()))


def refusal(source: StoreDirectory, what: str) -> BackupPlaceError:
    """Return the error that says why a store cannot be restored from there."""
    return BackupPlaceError(f"{source.base} {what}. Nothing was changed", path=source.base, reason=what)


def _saved(
    source: StoreDirectory, paths: LogPaths, known: dict[str, SavedEnd] | None, directory: str
) -> RestoreStep:
    with translated("reading", paths.log, is_read=True):
        file = system.open_file(paths.log)
        header = read_header(file.fd, paths.log, log_key=paths.log_key)
        end = clean_end(file.fd, header)
        if known is not None:
            _require_as_saved(source, paths, known, file.fd, header, end)
        if end is None or end.offset != system.size_of(file.fd):
            raise refusal(source, f"was written to: more follows the records of its log {paths.log_key!r}")
    clock.observe(end.stamp_us)
    return RestoreStep(LogPaths.of(directory, paths.log_key), paths.log, header, end)


def _require_as_saved(
    source: StoreDirectory,
    paths: LogPaths,
    known: dict[str, SavedEnd],
    fd: int,
    header: Header,
    end: EndState | None,
) -> None:
    """Return if a log of a backup ends as it was backed up."""
    name, log_key = os.path.basename(paths.log), paths.log_key
    if name not in known:
        raise refusal(source, f"was written to: no backup made its log {log_key!r}")
    change = change_of(fd, header, end, known[name])
    if change == "none":
        return
    if change == "damaged":
        raise _damaged(paths.log, whole_end(fd, header), log_key)
    what = {
        "longer": f"was written to: more follows the records of its log {log_key!r}",
        "shorter": f"was cut short: its log {log_key!r} has not all of the {known[name].offset:,} bytes that were "
        "backed up; back up once more",
        "another": f"is not as it was made: its log {log_key!r} was written to, or is damaged",
    }[change]
    raise refusal(source, f"{what}; {_AS_IT_IS.format(source.base, 'it holds')}")


def require_proven(step: RestoreStep) -> None:
    """Read what the backup has of a log.

    Raises:
        CorruptLogError: it is damaged.
        ReadFailedError, StoreAccessError: it cannot be read.
    """
    header, end = step.header, step.end
    if header is None or end is None:
        return
    with translated("reading", step.saved_path, is_read=True):
        file = system.open_file(step.saved_path)
        if _is_proven(file.fd, header, end):
            return
        found = whole_end(file.fd, header)
    raise _damaged(step.saved_path, found, step.paths.log_key)


def _is_proven(fd: int, header: Header, end: EndState) -> bool:
    return end == header.end or is_chain(fd, header.end, end)


def _damaged(path: str, end: EndState, log_key: str) -> CorruptLogError:
    return CorruptLogError(
        path, end.offset, expected="what was backed up", found="other bytes", log_key=log_key
    )


def _compare(source: StoreDirectory, step: RestoreStep) -> None:
    """Take note of what the store has of a log."""
    paths, header, end = step.paths, step.header, step.end
    with translated("reading", paths.log, is_read=True):
        file = system.open_file(paths.log)
        step.is_there, step.size = True, system.size_of(file.fd)
        clock.observe(last_stamp(file.fd))
        try:
            step.present = present = read_header(file.fd, paths.log, log_key=paths.log_key)
        except CorruptLogError:
            return  # for that there are backups
        found = clean_end(file.fd, present)
        if found is not None:
            step.size = found.offset  # what follows is padding
        step.length = step.size if found is not None else whole_end(file.fd, present).offset
        if header is None or end is None:
            return
        is_related = present.continues(header.generation, header.lineage)
        if not is_related and not header.continues(present.generation, present.lineage):
            raise refusal(source, f"is a backup of another store: its log {paths.log_key!r} is another one")
        step.is_poisoned = Poison(paths).reason(present.generation) is not None
        # Every byte is looked at: a log that is damaged further up is to be put back.
        is_common = present.generation == header.generation and end.offset <= step.size
        if is_common and _is_proven(file.fd, header, end):
            step.common = end.offset
            step.is_same = step.size == step.common
        elif found is not None and Restored(header.generation, end.stamp_us) in present.restored[-1:]:
            step.is_same = _is_restored(step, file.fd, present)


def _is_restored(step: RestoreStep, fd: int, present: Header) -> bool:
    """Return whether a log is what a restore made of the backup's, or a later generation of that, with nothing added.

    Its header tells that a restore made it; a compacted copy that was put there by hand says the same. So what each
    line says is compared, which is about what another restore would read.
    """
    assert step.header is not None
    saved = system.open_file(step.saved_path)
    pairs = zip_longest(
        _content(saved.fd, step.header, step.saved_path), _content(fd, present, step.paths.log)
    )
    return all(ours == theirs for ours, theirs in pairs)


def _content(fd: int, header: Header, path: str) -> Iterator[tuple[object, ...]]:
    """Yield what each line says, but for what a generation says of itself; and, at a damage, the damage."""
    for scan in replay(fd, header.end):
        for lines in without_controls_of_a_generation(Lines.of(scan.lines), path):
            for line in lines:
                yield line.stamp_us, line.more, line.object_key, line.event, line.meta
        if scan.damage is not None:
            yield (scan.damage,)
