"""A read that the disk refuses: an error, and never the end of a log."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import CheckpointError, ReadFailedError
from support.verbs import LOG, Faults, assert_goes_on, log_file


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(6)
@pytest.mark.rule(28)
def test_read_error_is_raised_and_not_taken_for_the_end(store: Path, log: Log, faults: Faults) -> None:
    log.append("x", 1)
    before = log_file(store).read_bytes()
    failing = [faults.fail(name, errno.EIO, on=LOG, times=1000) for name in ("read_at", "read_once")]

    with pytest.raises(ReadFailedError, match="stays valid"):
        log.events("x")
    with pytest.raises(ReadFailedError):
        list(Checkpoint(store, read_only=True).follow(idle_timeout_s=0))
    with pytest.raises(CheckpointError):
        log.append("x", 2)

    assert log_file(store).read_bytes() == before
    for fault in failing:
        fault.clear()
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(9)
def test_read_that_the_disk_refuses_raises(store: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, size: int, offset: int) -> bytes:
        raise OSError(5, os.strerror(5))

    reader = Checkpoint(store, read_only=True)
    with monkeypatch.context() as patches:
        patches.setattr(os, "pread", refuse)
        with pytest.raises(ReadFailedError):
            log.events("x")
        with pytest.raises(ReadFailedError):
            reader["x"]

    assert log.events("x") == reader["x"] == (0,)
