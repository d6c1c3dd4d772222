"""What is looked up about a place: its file system, free space, limits, the clock, and the store there."""

from __future__ import annotations

import os
import shlex
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mpcheckpoint import _core
from mpcheckpoint import _system as system
from mpcheckpoint._format.names import LOG_SUFFIX, older_name
from mpcheckpoint._format.resync import last_line
from mpcheckpoint._logfile.clock import YEAR_2200_US
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.paths import TEMPORARY_SUFFIX, LogPaths
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint._store.directory import ALLOW_NETWORK
from mpcheckpoint._store.findings import BAD, OK, WARN, Finding, Verdict
from mpcheckpoint.errors import CheckpointError, shell_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._system.mount import Mount

MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_STACKED = frozenset({"overlay", "aufs", "unionfs"})
_OF_PROGRAM = "a program's file system: locks and syncs are as good as that program"
_NO_FLUSHES = frozenset({"nobarrier", "barrier=0"})
_LITTLE_BYTES, _NOTHING_BYTES, _FEW_FILES, _NO_FILES = 64 << 20, 1 << 20, 1000, 16
_FEW_OPEN_FILES = 256
_YEAR_2024_US = 1_704_067_200_000_000
_JUMP_S = 0.1
# A stamp may be this far ahead of the wall clock: clocks are set back a little now and then.
_AHEAD_S = 60.0
_LAST_BYTES = 256 * 1024
_US = 1e6
_MB = 1e6


def file_system(mount: Mount | None) -> Finding:
    """Judge what the file system of the place means for locks and durability."""
    if mount is None:
        return Finding("file system", OK, "not known: this system does not tell")
    text = f"{mount.kind} on {mount.mount_point} ({mount.source}; {','.join(mount.options)})"
    figures = {
        "type": mount.kind,
        "mount_point": mount.mount_point,
        "device": mount.source,
        "options": list(mount.options),
        "kind": system.file_system_kind(mount),
    }
    verdict, remark = _judged(mount)
    return Finding("file system", verdict, f"{text}: {remark}" if remark else text, figures)


def _judged(mount: Mount) -> tuple[Verdict, str]:
    kind = system.file_system_kind(mount)
    if kind == "remote":
        remark = "of a network, a cluster or another system, where locks and appends are not reliable"
        if os.environ.get(ALLOW_NETWORK):
            return WARN, f"{remark}; {ALLOW_NETWORK} is set, so it is used all the same"
        return BAD, f"{remark}; keep the store on a local one, or set {ALLOW_NETWORK}=1 to take the risk"
    if kind == "unknown":
        remark = "of a type that is not known to this release: trust only what is tried here"
        return WARN, f"{remark}. It is {_OF_PROGRAM}" if mount.kind.startswith("fuse") else remark
    return _judged_local(mount)


def _judged_local(mount: Mount) -> tuple[Verdict, str]:
    if mount.kind in MEMORY:
        return WARN, "in memory: nothing here survives a loss of power, or a restart"
    if mount.kind in _STACKED:
        return WARN, "layers of a container: what is written goes with the container; use a volume"
    unsafe = sorted(_NO_FLUSHES.intersection(mount.options))
    if unsafe:
        return WARN, f"mounted with {unsafe[0]}: a loss of power can cost records that were acknowledged"
    if "data=writeback" in mount.options:
        return WARN, (
            "mounted with data=writeback: after a loss of power, stale bytes may stand where nothing was synced; they "
            "are told from records, and acknowledged records are safe"
        )
    if mount.kind.startswith("fuse"):
        return WARN, _OF_PROGRAM
    return OK, "a local file system"


def space(directory: str) -> Finding:
    """Look how many bytes and files are free."""
    left = system.space_at(directory)
    figures = {"free_bytes": left.free_bytes, "free_files": left.free_files}
    files = "" if left.free_files is None else f", {left.free_files:,} files"
    text = f"{left.free_bytes / _MB:,.0f} MB{files} free"
    few_files = left.free_files if left.free_files is not None else _FEW_FILES
    if left.free_bytes < _NOTHING_BYTES or few_files < _NO_FILES:
        return Finding("space", BAD, f"{text}: the disk is full; free some space", figures)
    if left.free_bytes < _LITTLE_BYTES or few_files < _FEW_FILES:
        return Finding(
            "space", WARN, f"{text}: that is little; when it is used up, appends fail and say so", figures
        )
    return Finding("space", OK, text, figures)


def open_files() -> Finding:
    """Look how many files a process may have open."""
    limit = system.open_files_limit()
    figures = {"limit": limit}
    if limit is None:
        return Finding("open files", OK, "no limit", figures)
    text = f"at most {limit:,} a process"
    if limit < _FEW_OPEN_FILES:
        more = "a process that appends to many logs needs about five for each; raise it (ulimit -n 1024)"
        return Finding("open files", WARN, f"{text}: {more}", figures)
    return Finding("open files", OK, text, figures)


def clock(began_wall_us: int, took_s: float) -> Finding:
    """Judge the wall clock: whether it makes sense, and whether it was set during the examination."""
    now_us = system.now_us()
    jump_s = (now_us - began_wall_us) / _US - took_s
    figures = {"now_us": now_us, "jump_s": round(jump_s, 6)}
    if not 0 <= now_us < YEAR_2200_US:
        text = "outside the years 1970 to 2200: appends are refused; set it right"
        return Finding("clock", BAD, text, figures)
    shown = datetime.fromtimestamp(now_us / _US, UTC).astimezone().isoformat(timespec="seconds")
    if now_us < _YEAR_2024_US:
        return Finding("clock", WARN, f"{shown}: that is past; set it right, since records carry it", figures)
    if abs(jump_s) > _JUMP_S:
        text = f"{shown}: it was set by {jump_s:+.1f} s during these checks; the order of records is safe"
        return Finding("clock", WARN, text, figures)
    return Finding("clock", OK, shown, figures)


def core() -> Finding:
    """Say which core this process runs."""
    return Finding("core", OK, _core.description(), {"core": _core.kind})


# --- the store that is there -----------------------------------------------------------------------------------


def store(base: str, directory: str) -> Iterator[Finding]:
    """Look at a store, at the headers and ends of its logs only: ``verify`` reads all of them."""
    if not system.exists(directory):
        yield Finding("store", OK, "none here yet", {"logs": 0})
        return
    if not system.is_directory(directory):
        kind = "a symbolic link" if stat.S_ISLNK(system.stat_path(directory).st_mode) else "a file"
        yield Finding(
            "store", BAD, f"{directory} is {kind}, not a directory: move it away or choose another place"
        )
        return
    found = sorted(system.list_directory(directory))
    logs = [name for name in found if name.endswith(LOG_SUFFIX)]
    damage = [finding for name in logs for finding in _about_log(os.path.join(directory, name))]
    yield from damage
    older = [name for name in found if older_name(name) is not None]
    if older:
        at = shlex.quote(base)
        text = (
            f"{_counted(older, 'file')} of the older checkpoint tool: mpcheckpoint import --store {at} {at}"
        )
        yield Finding("store", WARN, text, {"older_files": len(older)})
    stale = [name for name in found if name.endswith(TEMPORARY_SUFFIX)]
    if stale:
        files = _counted(stale, "temporary file")
        text = f"{files}, of processes that run or were killed: the next new log removes those of killed ones"
        yield Finding("store", OK, text, {"temporary_files": len(stale)})
    if not any(finding.verdict == BAD for finding in damage):
        yield Finding("store", OK, f"{_counted(logs, 'log')}, each with a sound header", {"logs": len(logs)})


def _counted(names: list[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def _about_log(path: str) -> Iterator[Finding]:
    """Yield what is wrong with a log: damage of its header, a failed sync, a stamp in the future."""
    try:
        file = system.open_file(path)
        header = read_header(file.fd, path, log_key=None)
        reason = Poison(LogPaths.of(os.path.dirname(path), header.log_key)).reason(header.generation)
        size = system.size_of(file.fd)
        start = max(0, size - _LAST_BYTES)
        end = system.read_at(file.fd, size - start, start).rstrip(b"\n") + b"\n"
    except (CheckpointError, OSError) as error:
        text = shell_text(error) if isinstance(error, CheckpointError) else str(error)
        yield Finding("store", BAD, text, {"path": path})
        return
    figures = {"path": path, "log_key": header.log_key}
    if reason is not None:
        text = f"the log {header.log_key!r} takes no appends: a sync of it failed ({reason}); recover it"
        yield Finding("store", BAD, f"{text} when the disk is sound: mpcheckpoint repair", figures)
    line = last_line(end, base=start)
    ahead_s = (line.stamp_us - system.now_us()) / _US if line is not None else 0.0
    if ahead_s > _AHEAD_S:
        text = f"the log {header.log_key!r} ends {ahead_s:,.0f} s in the future: was the clock set back?"
        yield Finding(
            "store", WARN, f"{text} Appends go on from there", figures | {"ahead_s": round(ahead_s, 3)}
        )
