"""Descriptors that somebody closes, and reuses: each is shown to be its file before it is believed or written to."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._logfile.descriptors import pool
from mpcheckpoint.errors import OutcomeUnknownError, WriteFailedError
from mpcheckpoint.maintenance import repair
from mpcheckpoint.testing import SimulatedProcess
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    become_a_new_process,
    flip,
    generation_of,
    inside,
    is_locked,
    lock_file,
    log_file,
    opened_until,
    seen_anew,
    wait_until,
    writer_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint._logfile.opened import OpenLog
    from support.processes import Children

pytestmark = [pytest.mark.guarantee(11)]


def numbers_of(path: Path) -> list[int]:
    """The numbers on which this process has a file open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == str(path):
                found.append(int(name))
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
def thieves(tmp_path: Path) -> Iterator[Callable[[Path], list[int]]]:
    """What closes every descriptor of a file, and opens files of its own on their numbers, as daemons do."""
    taken: list[int] = []

    def steal(path: Path, content: bytes = b"not yours\n") -> list[int]:
        stolen = numbers_of(path)
        assert stolen, f"nobody has {path} open"
        for number in stolen:
            other = tmp_path / f"other{len(taken)}"
            other.write_bytes(content)
            fd = os.open(other, os.O_RDWR)
            os.dup2(fd, number)
            os.close(fd)
            taken.append(number)
        return stolen

    yield steal
    for number in taken:
        os.close(number)  # fails if the library closed what was not its own


def files_of(store: Path) -> dict[str, Path]:
    return {
        "log": log_file(store),
        "lock": lock_file(store),
        "sync": inside(store, "a.sync"),
        "page": inside(store, "a.page"),
        "bell": inside(store, "bell"),
    }


@pytest.fixture
def busy(store: Path, log: Log) -> Log:
    """A log of which this process has every file open: another one appends, too, and somebody follows."""
    other = SimulatedProcess()
    follower = log.follow(after="start", idle_timeout_s=0.05)
    for number in range(1, 5):
        with other:
            Checkpoint(store).log("a").append("x", f"other {number}")
        log.append("x", number)
        list(follower)
    follower.close()
    return log


EXPECTED = [0, *(event for number in range(1, 5) for event in (f"other {number}", number))]


@pytest.mark.parametrize("which", ["log", "lock", "page", "bell"])
@pytest.mark.parametrize("content", [b"", b"not yours\n" * 1000], ids=["empty", "long"])
def test_file_on_the_number_of_one_of_ours_is_left_alone_and_the_log_goes_on(
    store: Path, busy: Log, thieves: Callable[..., list[int]], which: str, content: bytes
) -> None:
    for number in thieves(files_of(store)[which], content):
        before = os.fstat(number)

    busy.append("x", "next")
    busy.append_many([("x", "two"), ("x", "three")])

    assert (before.st_ino, before.st_size) == (os.fstat(number).st_ino, os.fstat(number).st_size)
    assert os.pread(number, 1 << 20, 0) == content
    assert_goes_on(busy, [*EXPECTED, "next", "two", "three"])


def test_all_descriptors_closed_by_somebody_cost_nothing(store: Path, busy: Log) -> None:
    reader = Checkpoint(store, read_only=True)
    assert list(reader["x"]) == EXPECTED
    for path in files_of(store).values():
        for number in numbers_of(path):
            os.close(number)

    assert list(reader["x"]) == EXPECTED
    busy.append("x", "next")

    assert list(reader["x"]) == [*EXPECTED, "next"]
    assert_goes_on(busy, [*EXPECTED, "next"])


@pytest.mark.parametrize("is_durable", ["always", "never"])
def test_all_numbers_given_to_other_files_cost_nothing(
    store: Path, busy: Log, thieves: Callable[..., list[int]], is_durable: str
) -> None:
    for path in files_of(store).values():
        if numbers_of(path):
            thieves(path)

    for number in range(3):
        busy.append("x", number, durability=is_durable)

    assert_goes_on(busy, [*EXPECTED, 0, 1, 2])


def test_sound_log_is_not_called_corrupt_by_a_reader_whose_number_was_given_to_another_file(
    store: Path, log: Log, thieves: Callable[..., list[int]]
) -> None:
    reader = Checkpoint(store, read_only=True)
    assert reader["x"] == (0,)
    with SimulatedProcess():
        Checkpoint(store).log("a").append("x", 1)
    thieves(log_file(store), log_file(store).read_bytes()[:50] + b"?" * 500)

    assert reader["x"] == (0, 1)
    assert [record.event for record in reader.log("a", create=False).read()] == [0, 1]


def test_reader_whose_number_stands_for_the_log_of_another_store_reads_its_own(
    store: Path, tmp_path: Path, log: Log, thieves: Callable[..., list[int]]
) -> None:
    Checkpoint(tmp_path / "another").log("a").append("x", "of another store")
    reader = Checkpoint(store, read_only=True)
    assert reader["x"] == (0,)
    content = log_file(tmp_path / "another").read_bytes()
    with SimulatedProcess():
        Checkpoint(store).log("a").append("x", 1)
    thieves(log_file(store), content)

    assert reader["x"] == (0, 1)
    log.append("x", 2)
    log.recover()
    assert_goes_on(log, [0, 1, 2])


def test_recovery_copies_the_log_and_not_what_stands_on_its_number(
    store: Path, log: Log, thieves: Callable[..., list[int]]
) -> None:
    log.append("x", 1)
    thieves(log_file(store))

    log.recover()

    assert_goes_on(log, [0, 1])


def test_number_that_a_reader_of_the_same_log_has_got_keeps_nobody_from_appending(
    store: Path, log: Log
) -> None:
    log.append("x", 1)
    (number,) = numbers_of(log_file(store))
    os.close(number)  # as who closes a descriptor twice does
    reader = Checkpoint(store, read_only=True)
    assert reader["x"] == (0, 1)
    assert numbers_of(log_file(store)) == [
        number
    ]  # open for reading only, and every byte is what it should be

    log.append("x", 2)
    log.append("x", 3)

    assert_goes_on(log, [0, 1, 2, 3])


@pytest.mark.guarantee(1)
def test_append_into_a_copy_that_has_the_number_of_the_log_is_not_acknowledged_and_the_next_one_goes_on(
    store: Path, log: Log, thieves: Callable[..., list[int]]
) -> None:
    log.append("x", 1)
    thieves(log_file(store), log_file(store).read_bytes())

    with pytest.raises(OutcomeUnknownError, match="the record is not in it"):
        log.append("x", 2, record_id="two")
    log.append("x", 2, record_id="two")

    assert_goes_on(log, [0, 1, 2])


def test_descriptor_of_the_log_that_takes_no_write_keeps_nobody_from_appending(
    store: Path, log: Log, faults: Faults
) -> None:
    log.append("x", 1)
    (number,) = numbers_of(log_file(store))
    read_only = os.open(log_file(store), os.O_RDONLY)
    os.dup2(read_only, number)  # not ours, and yet the very file
    os.close(read_only)

    log.append("x", 2)
    log.append("x", 3)

    os.fstat(number)
    os.close(number)
    assert_goes_on(log, [0, 1, 2, 3])


def test_sound_log_is_not_called_corrupt_where_its_number_is_given_away_while_it_is_opened_again(
    store: Path, log: Log, faults: Faults, thieves: Callable[..., list[int]]
) -> None:
    log.append("x", 1)
    thieves(log_file(store))

    def steal_again(real: Callable[[str], None], path: str) -> None:
        thieves(log_file(store), b"not yours\n" * 1000)
        real(path)

    faults.act("sync_directory", steal_again, on=r"\.checkpoint$")
    with pytest.raises(WriteFailedError, match="somebody closed"):
        log.append("x", 2)

    log.append("x", 2)
    assert_goes_on(log, [0, 1, 2])


# --- locks -------------------------------------------------------------------------------------------------


def test_lock_whose_descriptor_was_given_to_another_file_still_keeps_processes_apart(
    store: Path, log: Log, thieves: Callable[..., list[int]]
) -> None:
    thieves(lock_file(store))
    writer = writer_of(store)

    writer.lock.enter(1.0)
    try:
        writer.lock.take()
        assert is_locked(lock_file(store))
    finally:
        writer.lock.give_back()
    assert not is_locked(lock_file(store))


@pytest.mark.parametrize("which", ["lock", "sync"])
def test_lock_whose_number_we_were_given_anew_while_it_was_held_is_given_back(
    store: Path, busy: Log, faults: Faults, which: str
) -> None:
    ours: list[system.Descriptor] = []

    def reuse(real: Callable[..., object], fd: int, *rest: object) -> object:
        for number in numbers_of(files_of(store)[which]):
            os.close(number)
            ours.extend(opened_until(number, str(log_file(store))))
        return real(fd, *rest)

    with SimulatedProcess():
        Checkpoint(store).log("a").append("x", "other")
    faults.act("write_at" if which == "lock" else "sync_data", reuse, on=LOG)
    busy.append("x", 5)
    assert ours

    others = [threading.Thread(target=busy.append, args=("x", number)) for number in (6, 7)]
    for other in others:
        other.start()
        other.join(20)
        assert not other.is_alive()
    assert_goes_on(busy, [*EXPECTED, "other", 5, 6, 7])


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("which", ["an append", "a recovery"])
def test_lock_that_is_lost_while_it_is_held_long_stops_what_it_was_held_for(
    store: Path, log: Log, faults: Faults, which: str
) -> None:
    log.append("x", 1)
    with SimulatedProcess():
        Checkpoint(store).log("a").append("x", "other")

    def lose_it(real: Callable[[int], None], fd: int) -> None:
        real(fd)
        for number in numbers_of(lock_file(store)):
            os.close(number)
        with SimulatedProcess():
            Checkpoint(store).log("a").append("x", "meanwhile")

    if which == "an append":
        for number in numbers_of(log_file(store)):
            os.close(number)  # so that the end is established anew, which takes a sync
        log.append("x", "unsynced", durability="never")
        for number in numbers_of(log_file(store)):
            os.close(number)
    faults.act("sync_data", lose_it, on=LOG if which == "an append" else r"\.tmp$")
    with pytest.raises(WriteFailedError, match="closed the open lock file"):
        log.append("x", 2) if which == "an append" else log.recover()

    unsynced = ["unsynced"] if which == "an append" else []
    assert_goes_on(log, [0, 1, "other", *unsynced, "meanwhile"])


@pytest.mark.guarantee(1)
def test_salvage_whose_lock_was_lost_replaces_nothing(store: Path, log: Log, faults: Faults) -> None:
    ends = [log.append("x", number).offset for number in range(1, 40)]
    flip(store, ends[3] - 20)
    content = log_file(store).read_bytes()

    def lose_it(real: Callable[[int], None], fd: int) -> None:
        real(fd)
        for number in numbers_of(lock_file(store)):
            os.close(number)

    fault = faults.act("sync_data", lose_it, on=r"\.tmp$")
    (failed,) = repair(store)

    assert fault.hits == 1
    assert "closed the open lock file" in str(failed.error)
    assert log_file(store).read_bytes() == content
    assert not inside(store, "quarantine").exists() or not list(inside(store, "quarantine").iterdir())
    fault.clear()
    (done,) = repair(store)
    assert done.error is None


@pytest.mark.guarantee(1)
def test_append_that_went_elsewhere_is_not_acknowledged_by_another_thread_that_opened_the_log_again(
    store: Path, log: Log, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 1)
    cover = writer_of(store).commit.wait_durable

    def elsewhere(real: Callable[[int, bytes, int], int], fd: int, data: bytes, offset: int) -> int:
        other = os.open(tmp_path / "elsewhere", os.O_RDWR | os.O_CREAT)
        os.dup2(other, fd)
        os.close(other)
        return real(fd, data, offset)

    def after_another_thread(generation: OpenLog, offset: int) -> None:
        monkeypatch.undo()
        generation.file.lose()
        thread = threading.Thread(target=log.append, args=("x", "of another thread"))
        thread.start()
        thread.join()
        cover(generation, offset)

    faults.act("write_at", elsewhere, on=LOG)
    monkeypatch.setattr(writer_of(store).commit, "wait_durable", after_another_thread)
    with pytest.raises(OutcomeUnknownError, match="the record is not in it"):
        log.append("x", 2)

    assert_goes_on(log, [0, 1, "of another thread"])


def steal_lock_and_append(store: Path, name: str, count: int) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", [name, -1])
    for number in numbers_of(lock_file(store)):
        fd = os.open(store.parent / "another file", os.O_RDWR | os.O_CREAT)
        os.dup2(fd, number)
        os.close(fd)
    for number in range(count):
        log.append("x", [name, number], durability="never")


@pytest.mark.rule(36)
@pytest.mark.slow
def test_processes_whose_lock_descriptors_were_given_to_other_files_lose_no_append(
    store: Path, children: Children
) -> None:
    Checkpoint(store).log("a").append("x", "first")
    for number in range(4):
        children.start(steal_lock_and_append, store, f"writer {number}", 500, method="fork")
    children.wait_all()

    found = seen_anew(Checkpoint(store).log("a"))
    for number in range(4):
        assert [event[1] for event in found if event[0] == f"writer {number}"] == [*range(-1, 500)]


# --- syncs -------------------------------------------------------------------------------------------------


class ClosesFirst:
    """A sync before which somebody closes the descriptor, and perhaps opens another file on its number."""

    def __init__(self, other: Path | None) -> None:
        self._other = other
        self.opened: list[int] = []

    def __call__(self, real: Callable[[int], None], fd: int) -> None:
        os.close(fd)
        if self._other is not None:
            self.opened.append(os.open(self._other, os.O_RDWR | os.O_CREAT))
            assert self.opened[-1] == fd
        real(fd)


@pytest.fixture(params=["closed", "given to another file"])
def closes_first(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClosesFirst]:
    act = ClosesFirst(None if request.param == "closed" else tmp_path / "other")
    yield act
    for fd in act.opened:
        os.close(fd)


@pytest.mark.guarantee(1)
@pytest.mark.rule(36)
@pytest.mark.parametrize("is_shared", [False, True], ids=["alone", "with others"])
def test_append_whose_file_is_closed_before_its_sync_is_not_acknowledged_by_that(
    store: Path, log: Log, faults: Faults, closes_first: ClosesFirst, is_shared: bool
) -> None:
    if is_shared:
        with SimulatedProcess():
            Checkpoint(store).log("a").append("x", "other")
    faults.act("sync_data", closes_first, on=LOG)
    synced: list[str] = []
    watched = system.sync_data
    system.sync_data = lambda fd: (watched(fd), synced.append(os.readlink(f"/proc/self/fd/{fd}")))[0]
    try:
        log.append("x", 1)
    finally:
        system.sync_data = watched

    assert synced[-1:] == [str(log_file(store))]  # once more, through a descriptor of its own
    assert not inside(store, "a.poison").exists()  # no sync of it has failed
    assert generation_of(store).state.durable == generation_of(store).state.end.offset
    assert_goes_on(log, [0, *(["other"] if is_shared else []), 1])


@pytest.mark.guarantee(1)
def test_append_whose_file_is_closed_again_and_again_is_said_to_be_of_unknown_outcome(
    store: Path, log: Log, faults: Faults, closes_first: ClosesFirst
) -> None:
    fault = faults.act("sync_data", closes_first, on=LOG, times=2)

    with pytest.raises(OutcomeUnknownError, match="somebody closed"):
        log.append("x", 1, record_id="one")
    assert fault.hits == 2

    log.append("x", 1, record_id="one")
    assert generation_of(store).state.durable == generation_of(store).state.end.offset
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(1)
def test_background_sync_whose_file_was_closed_is_done_all_the_same(
    store: Path, log: Log, faults: Faults, closes_first: ClosesFirst
) -> None:
    fault = faults.act("sync_data", closes_first, on=LOG)
    log.append("x", 1, durability="interval:1")
    wait_until(lambda: fault.hits, "the background sync")

    wait_until(
        lambda: generation_of(store).state.durable == generation_of(store).state.end.offset,
        "a sync that counts",
    )
    wait_until(lambda: not is_locked(lock_file(store)), "the end of the look for it, under the append lock")
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("goes_on", [False, True], ids=["alone", "another one appends in its place"])
def test_append_written_after_its_file_was_closed_is_not_acknowledged(
    store: Path, log: Log, faults: Faults, tmp_path: Path, goes_on: bool
) -> None:
    with SimulatedProcess():
        Checkpoint(store).log("a").append("x", "other")
    log.append("x", 1)

    def elsewhere(real: Callable[[int, bytes, int], int], fd: int, data: bytes, offset: int) -> int:
        other = os.open(tmp_path / "elsewhere", os.O_RDWR | os.O_CREAT)
        os.dup2(other, fd)
        os.close(other)
        return real(fd, data, offset)

    def append_another(real: Callable[[int], None], fd: int) -> None:
        if goes_on:
            with SimulatedProcess():
                Checkpoint(store).log("a").append("x", "in its place")
        real(fd)

    faults.act("write_at", elsewhere, on=LOG)
    faults.act("sync_data", append_another, on=r"elsewhere$")
    with pytest.raises(OutcomeUnknownError, match="the record is not in it"):
        log.append("x", 2)

    assert_goes_on(log, [0, "other", 1, *(["in its place"] if goes_on else [])])


@pytest.mark.guarantee(1)
def test_append_that_others_have_synced_is_acknowledged_where_its_file_is_closed(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 1)
    cover = writer_of(store).commit.wait_durable

    def close_behind(generation: OpenLog, offset: int) -> None:
        cover(generation, offset)
        if generation.file.is_intact() and not closed:
            closed.append(generation.file.fd)
            os.close(generation.file.fd)

    closed: list[int] = []
    monkeypatch.setattr(system, "native", None)  # which passes what is replaced here by
    monkeypatch.setattr(writer_of(store).commit, "wait_durable", close_behind)
    log.append("x", 2)

    assert closed
    assert_goes_on(log, [0, 1, 2])


def test_flush_opens_a_file_that_was_closed_under_its_sync_once_more(
    store: Path, log: Log, faults: Faults, closes_first: ClosesFirst
) -> None:
    log.append("x", 1, durability="never")
    fault = faults.act("sync_data", closes_first, on=LOG)

    log.flush()

    assert fault.hits == 1
    assert generation_of(store).state.durable == generation_of(store).state.end.offset
    assert_goes_on(log, [0, 1])


def test_file_that_gets_the_number_of_the_page_during_a_sync_is_left_alone(
    store: Path, log: Log, faults: Faults, thieves: Callable[..., list[int]]
) -> None:
    log.append("x", 1)
    with SimulatedProcess():
        Checkpoint(store).log("a").append("x", "other")
    content = b"not yours\n" * 1000
    stolen: list[int] = []

    def steal(real: Callable[[int], None], fd: int) -> None:
        stolen.extend(thieves(inside(store, "a.page"), content))
        real(fd)

    faults.act("sync_data", steal, on=LOG)
    log.append("x", 2)

    assert [os.pread(number, 1 << 20, 0) for number in stolen] == [content]
    assert_goes_on(log, [0, 1, "other", 2])


# --- the numbers of standard streams -----------------------------------------------------------------------


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.rule(36)
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_log_is_never_on_the_number_of_a_closed_standard_stream(store: Path, closed: tuple[int, ...]) -> None:
    done = run(
        """
        import os, sys
        from mpcheckpoint import Checkpoint
        for fd in map(int, sys.argv[2].split()):
            os.close(fd)
        checkpoint = Checkpoint(sys.argv[1])
        log = checkpoint.log("a")
        log.append("x", 1)
        with log.claim("x"):
            for fd in range(3):
                try:
                    os.write(fd, b"libfoo: warning\\n")
                except OSError:
                    pass
        log.append("x", 2)
        list(checkpoint.follow(after="start", idle_timeout_s=0.01))
        log.recover()
        checkpoint.close()
        os._exit(sum(os.path.exists(f"/proc/self/fd/{fd}") for fd in map(int, sys.argv[2].split())))
        """,
        store,
        " ".join(map(str, closed)),
    )

    assert done.returncode == 0, done.stderr
    become_a_new_process()
    assert_goes_on(Checkpoint(store).log("a"), [1, 2])
    assert not any(b"libfoo" in path.read_bytes() for path in inside(store).rglob("*") if path.is_file())


def test_open_file_gives_no_number_of_a_standard_stream(tmp_path: Path) -> None:
    done = run(
        """
        import os, sys
        from mpcheckpoint import _system as system
        for fd in (0, 1, 2):
            os.close(fd)
        opened = [system.open_file(sys.argv[1], write=True, create=True) for _ in range(3)]
        with system.store_lock(sys.argv[1], None):
            found = {int(name) for name in os.listdir("/proc/self/fd")}
        ours = {each.fd for each in opened}
        listing = 1  # the directory itself, while it was listed, on the lowest free number
        os._exit(0 if min(ours) > 2 and len(found & {0, 1, 2}) <= listing else 1)
        """,
        tmp_path / "file",
    )

    assert done.returncode == 0


# --- what closes what --------------------------------------------------------------------------------------


def test_descriptor_closed_by_somebody_and_reused_by_us_is_not_closed_twice(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    first = system.open_file(path, write=True, create=True)
    number = first.fd
    os.close(number)
    *_, second = opened_until(number, path)
    assert first.fd == -1  # and not the number that the second one has now

    first.close()
    del first

    assert second.is_intact()
    second.close()


def test_descriptor_whose_number_stands_for_another_file_leaves_that_open(tmp_path: Path) -> None:
    descriptor = system.open_file(str(tmp_path / "file"), write=True, create=True)
    number = descriptor.fd
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, number)  # which closes what was there

    assert not descriptor.is_intact()
    descriptor.close()

    os.fstat(number)
    os.close(number)
    os.close(other)


# --- given back ----------------------------------------------------------------------------------------------


@pytest.mark.guarantee(4)
def test_reader_whose_file_is_given_back_in_mid_read_reads_on(
    store: Path, log: Log, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint(store).log("b").append("y", 1)
    other = Checkpoint(store, log_keys=["b"])
    monkeypatch.setattr(pool, "_limit", 1)

    def read_another_log(real: Callable[..., bytes], *args: Any) -> bytes:
        assert other["y"] == (1,)
        return real(*args)

    fault = faults.act("read_at", read_another_log, times=100, on=LOG)

    assert Checkpoint(store, log_keys=["a"])["x"] == (0,)
    assert [record.event for record in log.read()] == [0]
    assert fault.hits > 1


@pytest.mark.guarantee(1)
def test_log_whose_file_was_closed_is_proven_anew_also_where_the_first_try_fails(
    store: Path, log: Log, faults: Faults
) -> None:
    log.append("x", 1, durability="never")  # of a sync that fails meanwhile no new descriptor is told
    os.close(generation_of(store).file.fd)
    fault = faults.fail("read_at", errno.EIO, on=LOG)
    with pytest.raises(WriteFailedError):
        log.append("x", "refused")
    assert fault.hits == 1
    written, syncs = faults.watch("write_at", on=LOG), faults.watch("sync_data", on=LOG)

    log.append("x", 2, durability="never")

    assert (written.seen, syncs.seen) == (2, 1)
    assert_goes_on(log, [0, 1, 2])
