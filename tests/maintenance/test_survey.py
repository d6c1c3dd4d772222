"""The state of each log: whatever is wrong with one, the others are told of, and nothing is changed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._system.holders import LockHolder, LockState, LockStatus
from mpcheckpoint.errors import (
    CorruptLogError,
    FormatVersionError,
    InvalidKeyError,
    LogNotFoundError,
    NotAStoreError,
    OutcomeUnknownError,
    ReadFailedError,
    StoreAccessError,
    StoreNotFoundError,
    WrongLogError,
)
from mpcheckpoint.maintenance import LogSurvey, survey
from support.nobody import give_to_nobody
from support.verbs import Faults, become_a_new_process, inside, log_file, tear, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint import Log

LOG_KEYS = ("a", "b", "c")


@pytest.fixture
def logs(store: Path) -> dict[str, Log]:
    """Three logs with two records each; nobody has them open."""
    checkpoint = Checkpoint(store)
    logs = {log_key: checkpoint.log(log_key) for log_key in LOG_KEYS}
    for log in logs.values():
        log.append("x", 1)
        log.append("x", 2)
    checkpoint.close()
    become_a_new_process()
    return logs


def surveyed(store: Path, **options: Any) -> dict[str | None, LogSurvey]:
    """Return the survey, by log key, having seen that it changed nothing."""
    before = tree(inside(store))
    found = {log.log_key: log for log in survey(store, **options)}
    assert tree(inside(store)) == before
    return found


@pytest.mark.usefixtures("logs")
def test_sound_logs_are_whole_with_all_figures(store: Path) -> None:
    found = surveyed(store)

    assert list(found) == list(LOG_KEYS)
    for log_key, log in found.items():
        assert log.path == str(log_file(store, str(log_key)))
        assert (log.state, log.states, log.error) == ("whole", ("whole",), None)
        assert (log.records, log.objects, log.batches, log.stated_syncs, log.repairs) == (2, 1, 2, 1, 0)
        assert log.size_bytes == log_file(store, str(log_key)).stat().st_size
        assert log.first_us is not None
        assert log.last_us is not None
        assert log.first_us < log.last_us


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def damage_a_record(store: Path) -> None:
    data = log_file(store, "b").read_bytes()
    flip(log_file(store, "b"), data.index(b'"x",1') + 1)  # the line behind it states that it was durable


def damage_the_header(store: Path) -> None:
    flip(log_file(store, "b"), 50)


def empty_it(store: Path) -> None:
    log_file(store, "b").write_bytes(b"")


def make_it_newer(store: Path) -> None:
    path = log_file(store, "b")
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2', 1))


def give_it_another_name(store: Path) -> None:
    log_file(store, "b").write_bytes(log_file(store, "a").read_bytes())


def put_a_link_there(store: Path) -> None:
    os.rename(log_file(store, "b"), store / "elsewhere")
    os.symlink(store / "elsewhere", log_file(store, "b"))


def put_a_directory_there(store: Path) -> None:
    log_file(store, "b").unlink()
    log_file(store, "b").mkdir()


@pytest.mark.guarantee(6)
@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize(
    ("harm", "state", "error", "log_key", "records"),
    [
        (damage_a_record, "corrupt", CorruptLogError, "b", 0),
        (damage_the_header, "corrupt", CorruptLogError, None, 0),
        (empty_it, "corrupt", CorruptLogError, None, 0),
        (make_it_newer, "unreadable", FormatVersionError, None, 0),
        (give_it_another_name, "unreadable", WrongLogError, None, 0),
        (put_a_link_there, "unreadable", NotAStoreError, None, 0),
        (put_a_directory_there, "unreadable", NotAStoreError, None, 0),
    ],
)
def test_log_that_is_damaged_is_told_of_and_the_others_are_too(
    store: Path,
    harm: Callable[[Path], None],
    state: str,
    error: type[Exception],
    log_key: str | None,
    records: int,
) -> None:
    harm(store)

    found = surveyed(store)

    assert [found[key].state for key in ("a", "c")] == ["whole", "whole"]
    harmed = found[log_key]
    assert harmed.state == state
    assert isinstance(harmed.error, error)
    assert harmed.path == str(log_file(store, "b"))
    assert harmed.records == records
    (alone,) = survey(store, log_keys=["b"])
    assert (alone.log_key, alone.state) == ("b", state)


@pytest.mark.usefixtures("logs")
def test_log_whose_disk_fails_is_unreadable_and_has_the_figures_before(store: Path, faults: Faults) -> None:
    faults.act("read_at", lambda real, fd, size, offset: _fail(), at=2, times=1 << 30, on=r"b\.jsonl$")

    found = surveyed(store)

    assert found["b"].state == "unreadable"
    assert isinstance(found["b"].error, ReadFailedError)
    assert found["c"].state == "whole"


def _fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.guarantee(9)
def test_log_whose_sync_failed_is_poisoned_until_it_is_recovered(
    store: Path, log: Log, faults: Faults
) -> None:
    faults.fail("sync_data", errno.EIO, on=r"a\.jsonl$")
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)
    become_a_new_process()
    tear(store)

    assert surveyed(store)["a"].states == ("poisoned", "torn")
    assert log.stats()["state"] == "poisoned"

    log.recover()
    assert surveyed(store)["a"].states == ("whole",)


@pytest.mark.guarantee(9)
def test_log_that_is_poisoned_and_corrupt_is_both(store: Path, log: Log, faults: Faults) -> None:
    log.append("x", 1)
    faults.fail("sync_data", errno.EIO, on=r"a\.jsonl$")
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 2)
    become_a_new_process()
    flip(log_file(store), log_file(store).read_bytes().index(b'"x",0') + 1)

    assert surveyed(store)["a"].states == ("corrupt", "poisoned")


@pytest.mark.guarantee(8)
def test_lock_that_is_held_is_told_of_with_its_holder(store: Path, log: Log, faults: Faults) -> None:
    status = LockStatus(LockState.HELD, LockHolder(4711, "python job.py", is_stopped=True), 3)
    faults.act("lock_status", lambda real, path: status, times=1 << 30)

    found = surveyed(store)["a"]

    assert (found.lock, found.holder_pid, found.holder_command, found.is_holder_stopped, found.waiters) == (
        *("held", 4711, "python job.py", True, 3),
    )
    assert {name: log.stats()[name] for name in ("lock", "holder_pid", "waiters")} == {
        "lock": "held",
        "holder_pid": 4711,
        "waiters": 3,
    }


@pytest.mark.guarantee(8)
def test_survey_waits_for_no_lock_and_takes_none(store: Path, log: Log, faults: Faults) -> None:
    tear(store)
    locks = [faults.watch(name) for name in ("lock", "try_lock", "is_locked", "store_lock", "prove_locking")]

    surveyed(store)

    assert [lock.seen for lock in locks] == [0] * len(locks)


def test_looks_at_a_log_that_is_written_without_pause_end_and_find_no_damage(tmp_path: Path) -> None:
    """Each look ends, however fast the log grows: at every read of its bytes it has grown by more."""
    looks: dict[str, Callable[[Path], Any]] = {
        "survey": lambda store: next(survey(store)).state,
        "stats": lambda store: Checkpoint(store, read_only=True).log("a").stats()["state"],
        "view": lambda store: "whole" if Checkpoint(store, read_only=True)["x"] else "",
        "read": lambda store: "whole" if list(Checkpoint(store, read_only=True).read()) else "",
        "objects": lambda store: "whole" if list(Checkpoint(store, read_only=True).objects()) else "",
    }
    for name, look in looks.items():
        log = Checkpoint(tmp_path / name).log("a")  # of its own: each look leaves a larger log behind
        for _ in range(3):
            _grow(log)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(system, "read_at", _growing(log, system.read_at))
            assert look(tmp_path / name) == "whole", name


def _grow(log: Log) -> None:
    log.append_many([("x", "y" * 40_000)] * 20, durability="never")  # less than is read at a time


def _growing(log: Log, real: Callable[..., bytes]) -> Callable[..., bytes]:
    is_inside = False
    grown = 0

    def read_at(fd: int, size: int, offset: int) -> bytes:
        nonlocal is_inside, grown
        if size > 1_000_000 and not is_inside:
            is_inside = True
            grown += 1
            assert grown < 50, "it goes on for as long as the log grows"
            for _ in range(2):
                _grow(log)
            is_inside = False
        return real(fd, size, offset)

    return read_at


@pytest.mark.usefixtures("logs")
def test_survey_of_chosen_logs_gives_these_in_this_order(store: Path) -> None:
    assert [log.log_key for log in survey(store, log_keys=["c", "a"])] == ["c", "a"]
    found = survey(store, log_keys=["a", "nix"])
    assert next(found).log_key == "a"
    with pytest.raises(LogNotFoundError):
        next(found)
    with pytest.raises(InvalidKeyError):
        list(survey(store, log_keys=["\ud800"]))


def test_survey_where_there_is_no_store_says_so_and_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        survey(tmp_path / "none")
    (tmp_path / ".checkpoint").touch()
    with pytest.raises(NotAStoreError):
        survey(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".checkpoint"]


def test_log_that_is_closed_to_us_is_unreadable(
    public_tmp_path: Path, run_as_nobody: Callable[..., Any]
) -> None:
    store = public_tmp_path / "store"
    checkpoint = Checkpoint(store)
    for log_key in ("open", "closed"):
        checkpoint.log(log_key).append("x", 1)
    checkpoint.close()
    give_to_nobody(store)
    os.chown(log_file(store, "closed"), 0, 0)
    log_file(store, "closed").chmod(0o600)

    found = run_as_nobody(_states, store)

    assert found == [(None, "unreadable", StoreAccessError), ("open", "whole", type(None))]
    inside(store).chmod(0)
    with pytest.raises(StoreAccessError):
        run_as_nobody(_states, store)


def _states(store: Path) -> list[tuple[str | None, str, type]]:
    return [(log.log_key, log.state, type(log.error)) for log in survey(store)]
