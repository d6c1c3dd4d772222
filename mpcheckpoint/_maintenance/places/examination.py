"""Find out whether a place can hold a store: look, try, measure, and leave nothing in it."""

from __future__ import annotations

import os
import stat
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._engines import ENGINES, address_of
from mpcheckpoint._logfile.paths import STORE_DIRECTORY, store_directory
from mpcheckpoint._maintenance.places import probes, surroundings
from mpcheckpoint._maintenance.places.scratch import Scratch, remove_stale
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._store.findings import BAD, OK, WARN, Examination, Finding, worst
from mpcheckpoint.errors import CheckpointError, MissingExtraError, shell_text

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

DEFAULT_APPEND_S = 0.5


def examine(
    directory: str | os.PathLike[str] | Address,
    *,
    append_s: float = DEFAULT_APPEND_S,
    on_finding: Callable[[Finding], object] | None = None,
) -> Examination:
    """Find out whether a directory can hold a store: by looking, trying and measuring, in about two seconds.

    It writes only to a temporary directory inside, which it removes in the end, or names if it cannot. It also removes
    those that killed processes left. If the directory does not exist, the one that it would be created in is examined,
    and the directory is not created. A store that is there is only read, and may be in use.

    A server is asked how it is set, above all how safe an append is when it returns. Nothing is tried there.

    Args:
        directory: the place, as given to ``Checkpoint``: a directory, or an address.
        append_s: how long to measure appends in a directory, twice, in seconds; 0 leaves that out.
        on_finding: called with each finding as soon as it is there.

    Returns:
        The findings. Other work on the machine at the same time makes the figures worse.

    Raises:
        UnknownSchemeError: ``directory`` is a URL.
        InvalidAddressError: it begins as an address, and is none.
        MissingExtraError: the library for this address is not installed.
    """
    findings: list[Finding] = []
    address = address_of(directory)
    if address is not None:
        path, looks = str(address), _of_server(address)
    else:
        assert not isinstance(directory, Address)
        path = store_directory(directory)
        looks = _findings(path, append_s, findings)
    # If ``on_finding`` raises, closing removes the temporary directory.
    with closing(looks) as found:
        for finding in found:
            findings.append(finding)
            if on_finding is not None:
                on_finding(finding)
    return Examination(path, tuple(findings))


def _of_server(address: Address) -> Generator[Finding, None, None]:
    yield surroundings.core()
    try:
        yield from ENGINES[address.scheme].examine(address)
    except MissingExtraError:
        raise
    except CheckpointError as error:
        yield Finding("server", BAD, shell_text(error))


def _findings(path: str, append_s: float, so_far: list[Finding]) -> Generator[Finding, None, None]:
    began_us, began_s = system.now_us(), time.monotonic()
    directory, place = _place(path)
    if place.verdict == BAD:
        yield place
        return
    mount = system.mount_of(directory)
    is_memory = mount is not None and mount.kind in surroundings.MEMORY
    try:
        stale = remove_stale(directory)
        with Scratch(directory) as scratch:
            by = "a killed examination" if stale == 1 else f"{stale} killed examinations"
            removed = f"; what {by} had left was removed" if stale else ""
            yield Finding("place", OK, place.text + removed, {"removed": stale})
            yield surroundings.file_system(mount)
            yield from _tried(scratch.path, append_s, so_far, is_memory=is_memory)
        if scratch.left is not None:
            text = f"{scratch.path} could not be removed ({scratch.left.strerror or scratch.left}): remove it by hand"
            yield Finding("clean-up", WARN, text, {"path": scratch.path, "errno": scratch.left.errno})
    except OSError as error:
        cause = error.strerror or error
        yield Finding("place", BAD, f"{directory} cannot be written: {cause}", {"errno": error.errno})
        yield surroundings.file_system(mount)
    yield probes.guarded("space", partial(surroundings.space, directory))
    yield surroundings.open_files()
    yield surroundings.clock(began_us, time.monotonic() - began_s)
    yield surroundings.core()
    try:
        yield from surroundings.store(path, os.path.join(path, STORE_DIRECTORY))
    except OSError as error:
        yield Finding("store", BAD, f"cannot be looked at: {error.strerror or error}", {"errno": error.errno})


def _place(path: str) -> tuple[str, Finding]:
    """Return the directory to try things in: the given one, or the nearest one above it that exists."""
    directory = path
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    try:
        is_directory = stat.S_ISDIR(os.stat(directory).st_mode)
    except OSError:  # a link to nothing, or to something we may not see
        is_directory = False
    if not is_directory:
        text = f"{directory} is no directory: choose another place, or move it away"
        return directory, Finding("place", BAD, text)
    is_there = directory == path
    text = f"{path} can be written" if is_there else f"{path} does not exist; it can be made in {directory}"
    return directory, Finding("place", OK, text)


def _tried(scratch: str, append_s: float, so_far: list[Finding], *, is_memory: bool) -> Iterator[Finding]:
    yield probes.guarded("locks", partial(probes.locks, scratch))
    yield probes.guarded("sync", partial(probes.sync, scratch, is_memory=is_memory))
    yield probes.guarded("names", partial(probes.names, scratch))
    yield probes.guarded("wake-ups", partial(probes.wake_ups, scratch))
    # In a bad place no store is created to measure appends.
    if append_s > 0 and worst(tuple(so_far)) != BAD:
        yield probes.guarded("appends", partial(probes.appends, scratch, append_s))
