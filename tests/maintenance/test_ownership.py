"""Ordinary administration: who may use a store stays as it was, whoever repairs it, and several users can share one."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile import ownership
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint.errors import CheckpointError, StoreAccessError
from mpcheckpoint.maintenance import copy_store, repair, restore
from mpcheckpoint.testing._simulation.disk import SimulatedCrash, SimulatedDisk
from support.capabilities import is_root, require
from support.nobody import NOBODY, call_as_user, give_to_nobody
from support.verbs import become_a_new_process, flip, inside, log_file, tear, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.verbs import Faults

pytestmark = pytest.mark.guarantee(11)

OTHER, TEAM = 65533, 4242
ACL = "system.posix_acl_access"
# user::rw-, user:1234:rw-, group::r--, mask::rw-, other::---
ENTRIES = (
    (0x01, 6, 2**32 - 1),
    (0x02, 6, 1234),
    (0x04, 4, 2**32 - 1),
    (0x10, 6, 2**32 - 1),
    (0x20, 0, 2**32 - 1),
)


@pytest.fixture
def home(public_tmp_path: Path) -> Path:
    """A directory of NOBODY's."""
    require(is_root(), "becoming another user needs root")
    os.chown(public_tmp_path, NOBODY, NOBODY)
    return public_tmp_path


@pytest.fixture
def store(home: Path) -> Path:
    """A store of NOBODY's, with a log."""
    assert append_as(NOBODY, home / "store", 0) == (0,)
    return home / "store"


def append_as(uid: int, store: Path, event: object, gid: int | None = None, umask: int = 0o022) -> Any:
    """Append as a process of that user; return the events then, or the error."""
    try:
        return call_as_user(uid, uid if gid is None else gid, appended, store, event, umask)
    except CheckpointError as error:
        return error


def appended(store: Path, event: object, umask: int = 0o022) -> tuple[Any, ...]:
    os.umask(umask)
    become_a_new_process()
    log = Checkpoint(store, lock_timeout_s=20).log("a")
    log.append("x", event)
    return tuple(log.events("x"))


def access(path: Path) -> tuple[int, int, int, bytes | None]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), acl_of(path)


def acl_of(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, ACL)
    except OSError:
        return None


def set_acl(path: Path) -> None:
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ENTRIES)
    try:
        os.setxattr(path, ACL, acl)
    except OSError as error:
        require(error.errno != errno.EOPNOTSUPP, "the file system has no access control lists")
        raise


def everything_in(store: Path) -> list[Path]:
    return [inside(store), *inside(store).rglob("*")]


# --- what a repair leaves -------------------------------------------------------------------------------------


def recovered(store: Path) -> None:
    Checkpoint(store).log("a").recover()


def repaired(store: Path) -> None:
    for each in repair(store):
        if each.error is not None:
            raise each.error
        assert each.is_done or each.action == "nothing"


def tear_and_repair(store: Path) -> None:
    tear(store)
    repaired(store)


def tear_and_append(store: Path) -> None:
    tear(store)
    Checkpoint(store).log("a").append("y", 1)


def flip_and_repair(store: Path) -> None:
    flip(store, log_file(store).stat().st_size // 2)
    repaired(store)


def poison_and_repair(store: Path) -> None:
    (generation,) = {record.position.generation for record in Checkpoint(store).log("a").read()}
    Poison(LogPaths.of(str(inside(store)), "a")).mark(generation, OSError(errno.EIO, "planned"))
    assert access(inside(store, "a.poison"))[0] == NOBODY
    repaired(store)


REPAIRS = [recovered, tear_and_repair, tear_and_append, flip_and_repair, poison_and_repair]


@pytest.mark.rule(35)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
@pytest.mark.parametrize("act", REPAIRS)
def test_repair_by_root_leaves_log_and_quarantine_to_the_owner(
    store: Path, act: Callable[[Path], None], mode: int
) -> None:
    for event in range(1, 8):
        append_as(NOBODY, store, event)
    os.chmod(log_file(store), mode)
    os.chown(log_file(store), NOBODY, TEAM)
    before = access(log_file(store))

    act(store)

    assert access(log_file(store)) == before
    assert {path.lstat().st_uid for path in everything_in(store)} == {NOBODY}
    for event in (8, 9):
        call_as_user(NOBODY, NOBODY, tear, store)
        events = append_as(NOBODY, store, event)
        assert isinstance(events, tuple), events
        assert events[-1] == event


def test_bytes_that_root_keeps_are_no_more_public_than_the_log(store: Path) -> None:
    os.chmod(log_file(store), 0o600)

    tear_and_repair(store)

    (kept,) = inside(store, "quarantine").iterdir()
    assert access(kept) == (NOBODY, NOBODY, 0o600, None)
    assert access(inside(store, "quarantine")) == access(inside(store))


@pytest.mark.parametrize("act", REPAIRS[:4])
def test_repair_keeps_the_access_control_list(store: Path, act: Callable[[Path], None]) -> None:
    for event in range(1, 8):
        append_as(NOBODY, store, event)
    set_acl(log_file(store))
    before = access(log_file(store))
    assert before[3] is not None

    act(store)

    assert access(log_file(store)) == before


def test_what_root_makes_in_a_store_belongs_to_its_owner(store: Path) -> None:
    os.umask(0o077)
    try:
        with Checkpoint(store) as checkpoint:
            log = checkpoint.log("new")
            log.append("x", 1)
            assert [record.event for record in log.follow(idle_timeout_s=0.01)] == [1]
            with log.claim("y") as claim:
                assert claim is not None
                of_workers = [access(path) for path in inside(store, "workers").iterdir()]
            recovered(store)
    finally:
        os.umask(0o022)

    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in everything_in(store)} == {(NOBODY, NOBODY)}
    assert [each[0] for each in of_workers] == [NOBODY]
    assert call_as_user(NOBODY, NOBODY, use_everything, store) == ("new", "a")


def use_everything(store: Path) -> tuple[str, ...]:
    """Append to the log of another, make one, follow, claim, recover: everything that opens a file."""
    become_a_new_process()
    with Checkpoint(store, lock_timeout_s=20) as checkpoint:
        for log_key in ("new", "a", "b"):
            log = checkpoint.log(log_key)
            log.append("x", "mine")
            assert [record.event for record in log.follow(idle_timeout_s=0.01)]
            with log.claim("z") as claim:
                assert claim is not None
            log.recover()
            log.append("x", "mine too")
        checkpoint.log(f"of {os.getuid()}").append("x", 1)
    return "new", "a"


def test_new_store_that_root_makes_in_a_directory_of_another_is_left_to_that(home: Path) -> None:
    (home / "new").mkdir()
    give_to_nobody(home / "new")

    appended(home / "new", 1)

    assert {path.lstat().st_uid for path in everything_in(home / "new")} == {NOBODY}
    assert append_as(NOBODY, home / "new", 2) == (1, 2)


# --- where it cannot be left ----------------------------------------------------------------------------------


@pytest.mark.rule(35)
@pytest.mark.parametrize(("act", "gid"), [(recovered, TEAM), (repaired, TEAM), (repaired, OTHER)])
def test_repair_that_would_lock_the_owner_out_is_refused_before_anything_is_changed(
    store: Path, act: Callable[[Path], None], gid: int
) -> None:
    for event in range(1, 8):
        append_as(NOBODY, store, event)
    # Everybody may change the directory, and the log is its owner's and a group's.
    for path in (inside(store), *inside(store).iterdir()):
        os.chmod(path, 0o777 if path.is_dir() else 0o666)
    os.chown(log_file(store), NOBODY, TEAM)
    os.chmod(log_file(store), 0o664)
    if act is repaired:
        flip(store, log_file(store).stat().st_size // 2)
    before = contents(store)

    with pytest.raises(
        StoreAccessError, match=rf"could not write\. .*\(uid {NOBODY}\), or as root"
    ) as caught:
        call_as_user(OTHER, gid, act, store)

    assert caught.value.path == str(log_file(store))
    assert "Nothing was changed" in str(caught.value)
    assert contents(store) == before
    act(store)
    assert access(log_file(store))[:3] == (NOBODY, TEAM, 0o664)


def contents(store: Path) -> dict[str, tuple[int, bytes]]:
    """Return what stands in a store, by name, but for the store lock, which comes with the first use of it."""
    return {
        name: (looks[0], looks[3])
        for name, looks in tree(inside(store)).items()
        if name not in (".", "store.lock")
    }


def test_quarantine_that_the_owner_cannot_write_is_a_clear_error_and_nothing_is_cut(store: Path) -> None:
    tear(store)
    inside(store, "quarantine").mkdir(mode=0o755)
    before = log_file(store).read_bytes()

    error = append_as(NOBODY, store, 1)

    assert isinstance(error, StoreAccessError)
    assert error.path == str(inside(store, "quarantine"))
    assert log_file(store).read_bytes() == before
    advice = str(error).partition("as root: ")[2]
    subprocess.run(["sh", "-c", advice], check=True)
    assert append_as(NOBODY, store, 1) == (0, 1)


def test_backup_of_another_user_is_restored_to_a_store_of_ones_own(home: Path, store: Path) -> None:
    Checkpoint(store).backup(home / "backup")
    own = home / "own"
    own.mkdir()
    os.chown(own, OTHER, OTHER)

    call_as_user(OTHER, OTHER, restore, home / "backup", own / "store")

    assert append_as(OTHER, own / "store", 1) == (0, 1)


@pytest.mark.parametrize("made", ["there", "NEW", "deep/er"])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_store_that_root_restores_elsewhere_is_left_to_the_users_of_the_backup(
    home: Path, store: Path, made: str, umask: int
) -> None:
    os.chown(inside(store), NOBODY, TEAM)
    os.chmod(inside(store), 0o2770)
    os.chown(log_file(store), NOBODY, TEAM)
    os.chmod(log_file(store), 0o660)
    (home / "there").mkdir()
    os.umask(umask)
    try:
        with Checkpoint(store) as checkpoint:
            checkpoint.backup(home / "saved")
        restore(home / "saved", home / made)
    finally:
        os.umask(0o022)

    for place in (home / "saved", home / made):
        assert access(inside(place))[:3] == (NOBODY, TEAM, 0o2770)
        assert {(path.lstat().st_uid, path.lstat().st_gid) for path in everything_in(place)} == {
            (NOBODY, TEAM)
        }
        assert access(log_file(place))[2] == 0o660
    if made == "deep/er":
        os.chmod(home / "deep", 0o755)  # which root's umask has closed, as for any other command
    assert append_as(NOBODY, home / made, 1) == (0, 1)
    assert append_as(ANN, home / made, 2, gid=TEAM) == (0, 1, 2)


def test_root_s_copy_of_a_backup_is_restored_for_those_who_may_use_the_place(home: Path, store: Path) -> None:
    Checkpoint(store).backup(home / "saved")
    for path in [home / "saved", *everything_in(home / "saved")]:
        os.chown(path, 0, 0)
    (home / "there").mkdir()
    give_to_nobody(home / "there")

    restore(home / "saved", home / "there")

    assert {path.lstat().st_uid for path in everything_in(home / "there")} == {NOBODY}
    assert append_as(NOBODY, home / "there", 1) == (0, 1)


def test_backup_that_nobody_may_change_is_restored_to_a_store_that_takes_appends(
    home: Path, store: Path
) -> None:
    Checkpoint(store).backup(home / "saved")
    for path in everything_in(home / "saved"):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)

    restore(home / "saved", home / "new")

    assert append_as(NOBODY, home / "new", 1) == (0, 1)


@pytest.mark.parametrize("made", ["there", "NEW"])
def test_store_that_root_copies_is_left_to_the_users_of_the_first_one(
    home: Path, store: Path, made: str
) -> None:
    os.chown(inside(store), NOBODY, TEAM)
    os.chmod(inside(store), 0o2770)
    os.chmod(log_file(store), 0o600)
    os.chown(log_file(store), NOBODY, TEAM)
    (home / "there").mkdir()

    copy_store(store, home / made)

    assert access(inside(home / made))[:3] == (NOBODY, TEAM, 0o2770)
    assert access(log_file(home / made))[:3] == (NOBODY, TEAM, 0o600)
    assert {path.lstat().st_uid for path in everything_in(home / made)} == {NOBODY}
    assert append_as(NOBODY, home / made, 1) == (0, 1)


# --- several users --------------------------------------------------------------------------------------------

ANN, BOB = 65532, 65533  # without accounts: as in a container, only their processes know their groups


def call_as(uid: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call as somebody with a group of one's own who is also in TEAM."""
    return call_as_user(uid, uid, function, *args, groups=[TEAM])


def use_with_umask(store: Path, umask: int) -> object:
    os.umask(umask)
    return use_everything(store)


@pytest.fixture
def shared(home: Path) -> Path:
    """A directory that a group shares, as the how-to page says."""
    directory = home / "shared"
    directory.mkdir()
    os.chown(directory, ANN, TEAM)
    os.chmod(directory, 0o2770)
    return directory


@pytest.mark.parametrize("is_setgid", [True, False], ids=["setgid", "group only"])
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_users_of_one_group_share_a_store_whatever_their_umask(
    shared: Path, umask: int, is_setgid: bool
) -> None:
    if not is_setgid:
        os.chmod(shared, 0o770)

    for uid in (ANN, BOB, ANN, BOB):
        call_as(uid, use_with_umask, shared, umask)
        call_as(uid, tear, shared)
        call_as(uid, repaired, shared)
        call_as(uid, tear, shared)

    assert call_as(BOB, use_with_umask, shared, umask)
    shares = {path: access(path)[1:3] for path in everything_in(shared)}
    assert {gid for gid, _ in shares.values()} == {TEAM}
    assert not [path for path, (_, mode) in shares.items() if mode & 0o060 != 0o060 or mode & 0o007 & umask]


def test_root_in_a_shared_store_changes_nothing_for_its_users(shared: Path) -> None:
    call_as(ANN, use_everything, shared)
    before = {path: access(path) for path in (log_file(shared), inside(shared), inside(shared, "a.lock"))}

    tear_and_repair(shared)
    recovered(shared)
    use_everything(shared)

    assert {path: access(path) for path in before} == before
    for uid in (ANN, BOB):
        call_as(uid, use_everything, shared)


def test_side_file_that_one_user_makes_beside_a_log_of_another_is_for_both(shared: Path) -> None:
    call_as(ANN, use_everything, shared)
    for name in ("a.lock", "a.page", "a.sync", "store.lock", "bell", "logs"):
        inside(shared, name).unlink(missing_ok=True)

    call_as(BOB, use_with_umask, shared, 0o077)
    call_as(ANN, use_with_umask, shared, 0o077)


@pytest.fixture
def owned(home: Path) -> Path:
    """A store for a group that the owner, who has an account, is not in; its side files are to be made."""
    store = home / "owned"
    store.mkdir()
    os.chown(store, NOBODY, TEAM)
    os.chmod(store, 0o2770)
    call_as_user(NOBODY, NOBODY, use_everything, store)
    for name in ("a.lock", "a.page", "a.sync", "store.lock", "bell", "logs"):
        inside(store, name).unlink(missing_ok=True)
    inside(store, "workers").rmdir()
    tear(store)
    return store


def test_what_a_member_of_the_group_makes_is_for_an_owner_who_is_not_in_it(owned: Path) -> None:
    set_acl(log_file(owned, "b"))  # or there is a skip: no lists here

    assert call_as(BOB, appended, owned, "of bob", 0o077)[-1] == "of bob"
    call_as_user(NOBODY, NOBODY, tear, owned)

    assert inside(owned, "quarantine").stat().st_uid == BOB
    assert call_as_user(NOBODY, NOBODY, appended, owned, "of the owner", 0o077)[-1] == "of the owner"
    assert call_as_user(NOBODY, NOBODY, use_everything, owned)


def test_side_file_that_would_lock_the_owner_out_is_not_made(
    owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.access, "_set_acl", lambda *_: None)  # a file system without lists
    before = contents(owned)

    with pytest.raises(StoreAccessError, match=rf"would be a new file.*as .*\(uid {NOBODY}\), or as root"):
        call_as(BOB, appended, owned, "of bob")

    assert contents(owned) == before
    with pytest.raises(StoreAccessError, match=rf"run this as a member of the group {TEAM}, or as root"):
        call_as_user(NOBODY, NOBODY, appended, owned, "of the owner")
    assert contents(owned) == before
    monkeypatch.undo()
    use_everything(owned)
    assert call_as_user(NOBODY, NOBODY, appended, owned, "of the owner")[-1] == "of the owner"
    assert call_as(BOB, appended, owned, "of bob")[-1] == "of bob"


def test_users_named_in_a_default_access_control_list_share_a_store(home: Path) -> None:
    directory = home / "listed"
    directory.mkdir()
    for kind in ("access", "default"):
        entries = ((1, 7, -1), (2, 7, ANN), (2, 7, BOB), (4, 0, -1), (16, 7, -1), (32, 0, -1))
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        try:
            os.setxattr(directory, f"system.posix_acl_{kind}", acl)
        except OSError as error:
            require(error.errno != errno.EOPNOTSUPP, "the file system has no access control lists")
            raise

    for uid in (ANN, BOB, ANN):
        call_as_user(uid, uid, use_with_umask, directory, 0o077)
        call_as_user(uid, uid, tear, directory)
    assert call_as_user(BOB, BOB, use_with_umask, directory, 0o077)


def test_umask_binds_where_nobody_shares(tmp_path: Path) -> None:
    earlier = os.umask(0o077)
    try:
        appended(tmp_path / "store", 1, 0o077)
    finally:
        os.umask(earlier)

    assert not [path for path in everything_in(tmp_path / "store") if path.lstat().st_mode & 0o077]


def test_store_in_a_sticky_directory_is_its_makers(home: Path) -> None:
    os.chmod(home, 0o1777)
    earlier = os.umask(0o022)
    try:
        appended(home, 1)
    finally:
        os.umask(earlier)

    assert access(inside(home))[:3] == (0, 0, 0o755)
    assert access(log_file(home))[:3] == (0, 0, 0o644)


def test_file_system_without_hard_links_has_side_files_all_the_same(store: Path, faults: Faults) -> None:
    refused = faults.fail("publish", errno.EPERM, times=100, on=r"(lock|page|bell)\.[0-9a-f]{32}\.tmp$")
    for name in ("a.lock", "a.page", "store.lock"):
        inside(store, name).unlink(missing_ok=True)

    become_a_new_process()
    Checkpoint(store).log("b").append("x", 1)
    appended(store, 1)

    assert refused.hits
    assert not [path for path in everything_in(store) if ownership.is_temporary(path.name)]
    assert append_as(NOBODY, store, 2) == (0, 1, 2)


# --- killed in between ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["give_access", "publish", "replace", "make_directory", "open_file"])
def test_root_killed_at_any_call_that_makes_something_locks_nobody_out(home: Path, name: str) -> None:
    for at in range(1, 60):
        store = home / f"{name}{at}"
        assert append_as(NOBODY, store, 0) == (0,)
        tear(store)
        for side_file in ("a.lock", "a.page", "store.lock", "logs"):
            inside(store, side_file).unlink()
        died = is_killed_at(store, name, at)
        events = append_as(NOBODY, store, "next")
        assert isinstance(events, tuple), (at, events)
        assert events[0] == 0
        call_as_user(NOBODY, NOBODY, use_everything, store)
        if not died:
            assert not [path for path in everything_in(store) if ownership.is_temporary(path.name)]
            return
    raise AssertionError("it never came to its end")


def is_killed_at(store: Path, name: str, at: int) -> bool:
    """Do in a store of another, as root, what makes files, and die at that call; return whether it came to that."""
    become_a_new_process()
    with SimulatedDisk(store) as disk:
        disk.crash(at=at, when="after" if name == "open_file" else "before", name=name)
        try:
            with Checkpoint(store, lock_timeout_s=5) as checkpoint:
                log = checkpoint.log("a")
                log.append("x", 1)
                with log.claim("y"):
                    pass
                log.recover()
                checkpoint.log("b").append("x", 1)
        except SimulatedCrash:
            return True
        finally:
            disk.revive()
            become_a_new_process()
    return False
