"""What is tried in a place: locks, syncs, names, wake-ups, appends. The caller removes the files of it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._maintenance.places.append_rate import NoWriterError, append_rates
from mpcheckpoint._store.findings import BAD, OK, WARN, Finding
from mpcheckpoint._system.words import PolledWord

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_BYTES = 4096
# No disk writes a block and says so in less. The quickest ones, with memory of their own, take a little more.
_INCREDIBLE_S = 20e-6
_SLOW_S = 0.1
_SYNCS, _LONGEST_SYNCS_S = 50, 2.0
_LOCKS, _NAMES = 500, 10
_MOST_PROCESSES = 4
_US = 1e6


def locks(directory: str) -> Finding:
    """Try whether files can be locked: against another descriptor, and against another process."""
    path = os.path.join(directory, "locks")
    descriptor = system.open_file(path, write=True, create=True)
    proof = system.prove_locking(path, with_child=True)
    if proof.works is False:
        return Finding("locks", BAD, f"the file system does not lock files as it must: {proof.cause}")
    began_s = time.perf_counter()
    for _ in range(_LOCKS):
        system.lock(descriptor.fd)
        system.unlock(descriptor.fd)
    pair_us = (time.perf_counter() - began_s) / _LOCKS * _US
    figures = {"pair_us": round(pair_us, 2)}
    if proof.works is None:
        text = f"work between descriptors; not proven between processes: {proof.cause}"
        return Finding("locks", WARN, text, figures)
    text = f"work between descriptors and between processes; {pair_us:.1f} us to lock and unlock"
    return Finding("locks", OK, text, figures)


def sync(directory: str, *, is_memory: bool) -> Finding:
    """Measure how long a block takes to become durable, and judge whether that can be true."""
    descriptor = system.open_file(os.path.join(directory, "sync"), write=True, create=True)
    durations_s: list[float] = []
    while len(durations_s) < _SYNCS and sum(durations_s) < _LONGEST_SYNCS_S:
        write_whole(descriptor.fd, os.urandom(BLOCK_BYTES), BLOCK_BYTES * len(durations_s))
        began_s = time.perf_counter()
        system.sync_data(descriptor.fd)
        durations_s.append(time.perf_counter() - began_s)
    median_s, worst_s = _median(durations_s), max(durations_s)
    figures = {
        "median_us": round(median_s * _US, 1),
        "worst_us": round(worst_s * _US, 1),
        "syncs": len(durations_s),
        "block_bytes": BLOCK_BYTES,
    }
    of = f"{len(durations_s)} syncs of {BLOCK_BYTES} bytes"
    text = f"{_duration(median_s)} median, {_duration(worst_s)} worst of {of}"
    if is_memory:
        return Finding("sync", OK, f"{text}, in memory: nothing can become durable here", figures)
    if median_s < _INCREDIBLE_S:
        lie = (
            "no disk is that quick. Something on the way to the disk says done and does nothing: a virtual machine "
            "that ignores flushes, libeatmydata, an unprotected disk cache. A loss of power can cost records"
        )
        return Finding("sync", WARN, f"{text}: {lie}", figures)
    if median_s > _SLOW_S:
        slow = 'so durable appends are slow; append in batches, or choose durability="interval"'
        return Finding("sync", WARN, f"{text}: {slow}", figures)
    return Finding("sync", OK, text, figures)


def names(directory: str) -> Finding:
    """Try whether files can be renamed, and their names become durable."""
    durations_s = []
    for number in range(_NAMES):
        temporary, path = (os.path.join(directory, f"name{number}{end}") for end in (".new", ""))
        system.open_file(temporary, write=True, create=True, exclusive=True).close()
        began_s = time.perf_counter()
        if not system.publish(temporary, path):
            return Finding("names", BAD, f"{path} could not be created: the system says that it exists")
        system.open_file(temporary, write=True, create=True, exclusive=True).close()
        system.replace(temporary, path)
        system.sync_directory(directory)
        durations_s.append(time.perf_counter() - began_s)
    median_s = _median(durations_s)
    text = f"files get names, and the names are synced; {_duration(median_s)} for two names and a sync"
    return Finding("names", OK, text, {"median_us": round(median_s * _US, 1)})


def wake_ups(directory: str) -> Finding:
    """Try whether processes that wait for a sync, or follow a log, are woken or have to poll."""
    descriptor = system.open_file(os.path.join(directory, "page"), write=True, create=True)
    write_whole(descriptor.fd, bytes(BLOCK_BYTES), 0)
    try:
        word = system.shared_word(descriptor.fd, 0)
    except OSError as error:
        cause = error.strerror or error
        text = f"files cannot be mapped here ({cause}), so processes that wait poll: slower, not less safe"
        return Finding("wake-ups", WARN, text, {"is_woken": False})
    word.close()
    is_woken = not isinstance(word, PolledWord)
    how = "are woken" if is_woken else "look again every half millisecond"
    return Finding("wake-ups", OK, f"processes that wait {how}", {"is_woken": is_woken})


def appends(directory: str, seconds: float) -> Finding:
    """Measure how many durable appends a second one process does, and several on one log."""
    several = max(2, min(_MOST_PROCESSES, os.cpu_count() or 2))
    try:
        one_rate, several_rate = append_rates(os.path.join(directory, "rate"), (1, several), seconds)
    except NoWriterError as error:
        return Finding("appends", WARN, f"not measured: {error.strerror or error}")
    text = f"{one_rate:,.0f}/s durable by one process, {several_rate:,.0f}/s by {several} on one log"
    figures = {"one_per_s": round(one_rate), "several_per_s": round(several_rate), "processes": several}
    return Finding("appends", OK, text, figures)


def guarded(check: str, probe: Callable[[], Finding]) -> Finding:
    """Return what a probe finds. If the system refuses something, that is bad."""
    try:
        return probe()
    except OSError as error:
        return Finding(check, BAD, f"failed: {error.strerror or error}", {"errno": error.errno})


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
