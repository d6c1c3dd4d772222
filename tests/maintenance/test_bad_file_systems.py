"""File systems that do not lock, or do not let us write: refused before anything is risked."""

from __future__ import annotations

import errno
import os
import struct
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile.places import places
from mpcheckpoint._system.macos import mount_in
from mpcheckpoint._system.mount import Mount
from mpcheckpoint.errors import (
    CheckpointError,
    LockUnsupportedError,
    NetworkFileSystemError,
    StoreAccessError,
    WriteFailedError,
)
from support.nobody import give_to_nobody
from support.verbs import inside, log_file, told, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_file_system_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system be tried by each test: the inode of a store that is gone may be the next one's."""
    monkeypatch.setattr(places, "locking", set())


# --- file systems ------------------------------------------------------------------------------------------


@pytest.mark.rule(21)
def test_network_file_system_is_refused_unless_asked_for(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "network_file_system", lambda path: "nfs4")
    monkeypatch.delenv("MPCHECKPOINT_ALLOW_NETWORK", raising=False)

    with pytest.raises(NetworkFileSystemError, match=r"nfs4.*MPCHECKPOINT_ALLOW_NETWORK"):
        Checkpoint(store).log("a").append("x", 1)
    assert list(inside(store).glob("*")) == []

    monkeypatch.setenv("MPCHECKPOINT_ALLOW_NETWORK", "1")
    Checkpoint(store).log("a").append("x", 1)


@pytest.mark.guarantee(8)
@pytest.mark.rule(22)
@pytest.mark.parametrize("error", [38, 37, 95])  # ENOSYS, ENOLCK, EOPNOTSUPP
def test_file_system_without_locks_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(system.locks, "lock", refuse)
    monkeypatch.setattr(system.locks, "try_lock", refuse)
    monkeypatch.setattr(system, "lock", refuse)

    with pytest.raises(LockUnsupportedError, match="keep the store"):
        Checkpoint(store).log("a").append("x", 1)
    assert list(inside(store).glob("*.jsonl")) == []
    assert list(inside(store).glob("probe*")) == []


@pytest.mark.guarantee(8)
@pytest.mark.rule(22)
def test_file_system_whose_locks_do_nothing_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.locks, "lock", lambda fd, timeout_s=None: True)
    monkeypatch.setattr(system.locks, "try_lock", lambda fd: True)

    with pytest.raises(LockUnsupportedError, match="two descriptors of one file"):
        Checkpoint(store).log("a").append("x", 1)


@pytest.mark.guarantee(8)
def test_file_system_whose_locks_stop_at_the_process_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        system.locks,
        "_proof_by_child",
        lambda path: system.LockProof(False, "another process was given a lock"),
    )

    with pytest.raises(LockUnsupportedError, match="another process was given"):
        Checkpoint(store).log("a").append("x", 1)
    assert places.locking.isdisjoint({(os.stat(inside(store)).st_dev, os.stat(inside(store)).st_ino)})


@pytest.mark.guarantee(8)
def test_lock_that_a_child_was_granted_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.locks, "_lock_in_child", lambda path: 0)
    monkeypatch.setattr(system.locks, "_proof_by_interpreter", lambda path: system.LockProof(True))

    assert system.locks._proof_by_child(str(tmp_path / "file")).works is False


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("unclear", [None, errno.ENOLCK, errno.EINTR])
def test_answer_that_says_nothing_has_an_interpreter_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unclear: int | None
) -> None:
    monkeypatch.setattr(system.locks, "_lock_in_child", lambda path: unclear)
    with (tmp_path / "file").open("wb") as file:
        system.lock(file.fileno())
        assert system.locks._proof_by_child(file.name) == system.LockProof(True)

        monkeypatch.setattr(sys, "executable", "/no/python")

        assert system.locks._proof_by_child(file.name).works is None


# --- not proven is not broken --------------------------------------------------------------------------------


def program(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.guarantee(11)
@pytest.mark.rule(38)
@pytest.mark.parametrize(
    ("text", "mode", "cause"),
    [
        (None, 0, "could not be run: No such file"),
        ("#!/bin/sh\n", 0o644, "could not be run: Permission denied"),
        ("no program", 0o755, "could not be run: Exec format error"),
        ("#!/bin/sh\necho hello\n", 0o755, "gave no answer: exit code 0"),
        ("#!/bin/sh\necho lost >&2; exit 3\n", 0o755, "gave no answer: lost"),
        ("#!/bin/sh\nexec sleep 60\n", 0o755, "gave no answer for 0.2 s"),
    ],
)
def test_store_made_while_no_process_can_be_started_is_used_and_that_is_said(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
    mode: int,
    cause: str,
) -> None:
    python = str(tmp_path / "python") if text is None else program(tmp_path / "python", text, mode)
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setattr(system.locks, "_lock_in_child", None)
    monkeypatch.setattr(system.locks, "_CHILD_TIMEOUT_S", 0.2)

    log = Checkpoint(store).log("a")
    log.append("x", 1)
    log.append("x", 2)

    (message,) = [record.getMessage() for record in told(caplog)]
    assert f"{python} {cause}" in message
    assert "not proven" in message
    assert "mpcheckpoint doctor" in message
    assert Checkpoint(store)["x"] == (1, 2)


@pytest.mark.guarantee(11)
@pytest.mark.parametrize(
    ("error", "kind", "advice"),
    [
        (errno.EIO, WriteFailedError, "try again when the cause is gone"),
        (errno.ENOSPC, WriteFailedError, "free some space"),
        (errno.EMFILE, WriteFailedError, "ulimit -n"),
        (errno.ENOMEM, WriteFailedError, "try again when the cause is gone"),
        (errno.EACCES, StoreAccessError, "permissions"),
    ],
)
@pytest.mark.parametrize("where", ["open", "lock"])
def test_probe_of_locks_that_cannot_run_is_its_own_error_and_not_one_of_locks(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: int, kind: type[Exception], advice: str, where: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    if where == "open":
        monkeypatch.setattr(system.locks.os, "open", refuse)
        monkeypatch.setattr(system, "open_file", lambda *_, **__: system.Descriptor(-1))
    else:
        monkeypatch.setattr(system.locks, "lock", refuse)

    with pytest.raises(CheckpointError, match=advice) as caught:
        Checkpoint(store).log("a")

    assert type(caught.value) is kind
    assert os.strerror(error) in str(caught.value)
    assert "lock files" not in str(caught.value)
    assert list(inside(store).glob("*.jsonl")) == []
    monkeypatch.undo()
    Checkpoint(store).log("a").append("x", 1)


@pytest.mark.guarantee(11)
def test_lock_of_the_probe_that_somebody_else_holds_is_not_taken_for_evidence(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.locks, "lock", lambda fd, timeout_s=None: False)

    with pytest.raises(WriteFailedError, match="already locked"):
        Checkpoint(store).log("a")


@pytest.mark.guarantee(11)
def test_probe_that_a_killed_process_left_goes_with_the_next_new_log(store: Path) -> None:
    Checkpoint(store).log("a")
    left = inside(store, f"probe.{'0' * 32}.tmp")
    left.touch()

    Checkpoint(store).log("b")

    assert not left.exists()


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("most", [3, 1000])
def test_probe_that_is_taken_for_that_of_a_killed_process_is_made_again_but_not_for_ever(
    store: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    real = system.open_file
    removed: list[str] = []

    def opened(path: str, **how: Any) -> system.Descriptor:
        descriptor = real(path, **how)
        if "probe." in path and len(removed) < most:
            os.unlink(path)
            removed.append(path)
        return descriptor

    monkeypatch.setattr(system, "open_file", opened)

    with pytest.raises(CheckpointError) if most > 3 else nullcontext():
        Checkpoint(store).log("a").append("x", 1)

    assert 3 <= len(set(removed)) < 1000
    assert list(inside(store).glob("probe*")) == []


# --- permissions -------------------------------------------------------------------------------------------


def attempt_as_nobody(function_name: str, store: Path) -> tuple[str, str]:
    try:
        {"open": Checkpoint, "append": lambda path: Checkpoint(path).log("a").append("x", 1)}[function_name](
            store
        )
    except CheckpointError as error:
        return type(error).__name__, str(error)
    return "nothing", ""


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("closed", ["parent", "store", "log"])
def test_store_without_permission_to_write_is_a_clear_error(
    public_tmp_path: Path, run_as_nobody: Callable[..., Any], closed: str
) -> None:
    store = public_tmp_path / "store"
    if closed != "parent":
        Checkpoint(store).log("a").append("x", 0)
    if closed == "log":
        give_to_nobody(public_tmp_path)
        os.chown(log_file(store), 0, 0)
    before = tree(public_tmp_path)

    name, message = run_as_nobody(attempt_as_nobody, "append", store)

    assert name == StoreAccessError.__name__
    assert str(store) in message
    assert "read_only=True" in message
    if closed != "log":
        assert tree(public_tmp_path) == before


def read_as_nobody(store: Path) -> tuple[object, ...]:
    return Checkpoint(store, read_only=True)["x"]


def test_store_without_permission_to_write_is_read_by_read_only_handles(
    public_tmp_path: Path, run_as_nobody: Callable[..., Any]
) -> None:
    Checkpoint(public_tmp_path / "store").log("a").append("x", 0)

    assert run_as_nobody(read_as_nobody, public_tmp_path / "store") == (0,)


# --- what is known of which ----------------------------------------------------------------------------------

SILENT = "ext4 xfs btrfs zfs tmpfs overlay f2fs bcachefs jfs reiserfs nilfs2 ntfs3 exfat vfat fuseblk"
REFUSED = (
    "nfs4 cifs 9p ceph fuse.ceph-fuse fuse.gcsfuse fuse.juicefs fuse.grpcfuse grpcfuse fuse.mount-s3 fuse.blobfuse2 "
    "fuse.vmhgfs-fuse vmhgfs fakeowner vboxsf prl_fs fuse.prl_fsd wekafs panfs pvfs2 virtiofs lustre fuse.sshfs"
)


def mounted_as(monkeypatch: pytest.MonkeyPatch, place: Path, kind: str, source: str = "/dev/x") -> None:
    """Let the kernel's table of mounts say that a place is of this type."""
    table = place.parent / "mountinfo"
    table.write_text(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        f"30 21 0:44 / {place} rw,nosuid,nodev shared:2 - {kind} {source} rw,user_id=0\n"
    )
    monkeypatch.setattr(system.linux, "_MOUNTS", table)


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("kind", SILENT.split())
def test_store_on_a_known_local_file_system_is_used_without_a_word(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    mounted_as(monkeypatch, store, kind)

    Checkpoint(store).log("a").append("x", 1)

    assert told(caplog) == []


@pytest.mark.guarantee(11)
@pytest.mark.rule(39)
@pytest.mark.parametrize(
    ("kind", "source"),
    [
        *((kind, "/dev/x") for kind in REFUSED.split()),
        *(("fuse", source) for source in ("mountpoint-s3", "blobfuse2", "JuiceFS:mine", "sshfs")),
    ],
)
def test_store_on_a_known_remote_file_system_is_refused_by_name(
    store: Path, monkeypatch: pytest.MonkeyPatch, kind: str, source: str
) -> None:
    mounted_as(monkeypatch, store, kind, source)
    monkeypatch.delenv("MPCHECKPOINT_ALLOW_NETWORK", raising=False)

    with pytest.raises(NetworkFileSystemError, match="MPCHECKPOINT_ALLOW_NETWORK=1") as caught:
        Checkpoint(store).log("a").append("x", 1)

    assert (kind if kind != "fuse" else f"fuse ({source})") in str(caught.value)
    assert list(inside(store).glob("*")) == []


@pytest.mark.guarantee(11)
@pytest.mark.rule(39)
@pytest.mark.parametrize("kind", ["newfs", "fuse.bindfs", "fuse"])
def test_store_on_an_unknown_file_system_is_used_with_one_warning_that_names_it(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    mounted_as(monkeypatch, store, kind)
    monkeypatch.delenv("MPCHECKPOINT_ALLOW_NETWORK", raising=False)

    for log_key in ("a", "b"):
        Checkpoint(store).log(log_key).append("x", 1)
    Checkpoint(store, read_only=True)["x"]

    (warning,) = told(caplog)
    assert warning.name == "mpcheckpoint"
    assert f"not known to this release: {kind}" in warning.getMessage()
    assert str(inside(store)) in warning.getMessage()


def test_unknown_file_system_is_not_warned_of_where_the_risk_was_taken(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mounted_as(monkeypatch, store, "newfs")
    monkeypatch.setenv("MPCHECKPOINT_ALLOW_NETWORK", "1")

    Checkpoint(store).log("a").append("x", 1)

    assert told(caplog) == []


def test_table_of_mounts_of_macos_is_read_as_its_header_lays_it_out() -> None:
    data = struct.pack(
        "=IiQQQQQqIIII16s1024s1024s32x",
        *(4096, 1 << 20, 9, 8, 7, 6, 5, 1, 501, 26, 0x1000 | 0x1, 0),
        *(b"apfs", b"/System/Volumes/Data", b"/dev/disk3s5"),
    )

    assert len(data) == 2168
    assert mount_in(data) == Mount("/System/Volumes/Data", "apfs", "/dev/disk3s5", ("ro", "local"))
