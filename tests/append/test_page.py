"""The page of hints: the store is right with it deleted, stale, from another boot, full of rubbish, on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.append_state import AppendState
from mpcheckpoint._logfile.opened import OpenLog
from mpcheckpoint._logfile.page import PAGE_BYTES, Page
from mpcheckpoint._system import FileStatus
from mpcheckpoint.errors import CorruptLogError, PoisonedLogError
from mpcheckpoint.testing import SimulatedProcess
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    become_a_new_process,
    generation_of,
    inside,
    log_file,
    page_file,
    seeded,
    seen_anew,
    tear,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.processes import Children

pytestmark = [pytest.mark.guarantee(1), pytest.mark.guarantee(3)]

PAGE = r"a\.page$"
GENERATION = "0123456789abcdef" * 2
A_FILE = FileStatus(device=1, inode=2, links=1, size_bytes=0, born_ns=3)


@pytest.fixture
def log(store: Path) -> Log:
    """A log that is in use: this process believes its page."""
    log = Checkpoint(store).log("a")
    for number in range(3):
        log.append("x", number)
    return log


@pytest.fixture
def other() -> SimulatedProcess:
    """Another process."""
    return SimulatedProcess()


def append_by(player: SimulatedProcess, store: Path, event: object, durability: str = "always") -> None:
    with player:
        Checkpoint(store).log("a").append("x", event, durability=durability)


def page_of(store: Path) -> Page:
    """The page, as a process that knows nothing of it opens it."""
    generation = generation_of(store)
    state = AppendState(EndState)
    return Page(str(page_file(store)), generation.end.header.generation, generation.file.status, state)


def state_as_durable(store: Path, offset: int) -> None:
    """Leave in the page that all below ``offset`` is durable, true or not."""
    page = page_of(store)
    with page_file(store).open("r+b") as file:
        file.seek(64)
        file.write(page._known(offset))


def damage_the_last_record(store: Path) -> bytes:
    """Flip a bit in a record that no later line vouches for, but the page does; return what the log is then."""
    generation = generation_of(store)
    state_as_durable(store, generation.state.durable)
    content = bytearray(log_file(store).read_bytes())
    content[-20] ^= 1
    log_file(store).write_bytes(content)
    become_a_new_process()
    return bytes(content)


# --- what is done to the page ------------------------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, 70)


def zero(path: Path) -> None:
    path.write_bytes(bytes(PAGE_BYTES))


def fill_with_rubbish(path: Path) -> None:
    path.write_bytes(seeded("rubbish").randbytes(PAGE_BYTES))


def flip_each_part(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    content[80] ^= 1
    path.write_bytes(content)


def make_it_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_it_a_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def put_another_in_its_place(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    copy.rename(path)


DAMAGE = [
    delete,
    empty,
    cut,
    zero,
    fill_with_rubbish,
    flip_each_part,
    make_it_a_directory,
    make_it_a_link,
    put_another_in_its_place,
]


@pytest.mark.rule(27)
@pytest.mark.parametrize("harm", DAMAGE)
def test_page_that_is_harmed_while_the_log_is_in_use_costs_nothing_but_time(
    store: Path, log: Log, other: SimulatedProcess, harm: Callable[[Path], None]
) -> None:
    append_by(other, store, 3)
    harm(page_file(store))

    log.append("x", 4)
    append_by(other, store, 5)
    log.append_many([("x", 6), ("x", 7)])
    append_by(other, store, 8)
    log.append("x", 9)

    assert_goes_on(log, [*range(10)])


@pytest.mark.parametrize("harm", DAMAGE)
def test_page_that_is_harmed_between_processes_costs_nothing_but_time(
    store: Path, log: Log, harm: Callable[[Path], None]
) -> None:
    harm(page_file(store))
    become_a_new_process()

    log.append("x", 3)

    assert_goes_on(log, [*range(4)])


@pytest.mark.parametrize("age", range(1, 6))
def test_page_restored_from_a_backup_leads_nobody_into_the_middle(
    store: Path, log: Log, other: SimulatedProcess, age: int
) -> None:
    expected = [0, 1, 2]
    backups = [page_file(store).read_bytes()]
    for number in range(3, 8):
        append_by(other, store, number)
        expected.append(number)
        backups.append(page_file(store).read_bytes())

    page_file(store).write_bytes(backups[-1 - age])
    log.append("x", "mine")
    page_file(store).write_bytes(backups[-1 - age])
    append_by(other, store, "the other's")

    assert_goes_on(log, [*expected, "mine", "the other's"])


def test_page_of_a_longer_log_that_was_restored_from_a_backup_is_not_believed(store: Path, log: Log) -> None:
    backup = log_file(store).read_bytes()
    for number in range(3, 9):
        log.append("x", number)
    with log_file(store).open("r+b") as file:  # in place, as `cp` does it
        file.truncate()
        file.write(backup)
    become_a_new_process()

    for number in range(3, 6):
        log.append("x", number)
        # Else the log, grown again, would be taken for durable up to where the old one was.
        page = page_of(store)
        hints = page.hints_in(page.look())
        assert hints.durable <= generation_of(store).state.end.offset

    assert_goes_on(log, [*range(6)])


def test_durable_word_above_the_end_is_reset_before_the_log_grows_past_it(
    store: Path, log: Log, other: SimulatedProcess
) -> None:
    generation = generation_of(store)
    syncs = generation.state.syncs
    state_as_durable(store, generation.state.end.offset + 10_000)

    append_by(other, store, "x" * 20_000)  # grown past it, in one step
    assert log.append("x", "mine").offset > 20_000

    assert generation.state.syncs == syncs + 1  # not covered by a word that nobody's sync has earned
    with other:
        assert generation_of(store).state.syncs >= 1


def test_stale_durable_word_does_not_cover_an_append(
    store: Path, log: Log, other: SimulatedProcess, faults: Faults
) -> None:
    append_by(other, store, 3)  # so this process does not write alone, and looks at the word
    state_as_durable(store, 1 << 40)
    fault = faults.fail("sync_data", errno.EIO, on=LOG)

    with pytest.raises(Exception, match="its sync failed"):
        log.append("x", 4)

    assert fault.hits == 1


def test_page_names_an_end_inside_the_log_where_no_line_ends_and_is_not_believed(
    store: Path, log: Log
) -> None:
    generation = generation_of(store)
    page = generation.page
    assert page is not None
    for end in (
        EndState(generation.state.end.offset + 13, 0x12345678, generation.state.end.stamp_us + 5),
        EndState(generation.state.end.offset, 0x12345678, generation.state.end.stamp_us + 5),
        EndState(
            generation.state.end.offset - 1, generation.state.end.stored_crc, generation.state.end.stamp_us
        ),
        EndState((1 << 63) + 5, 0, 1),
    ):
        page.publish_end(end, end.offset, b"somebody", None)
        log.append("x", end.offset)

    assert len(log.events("x")) == 7
    assert_goes_on(log, list(log.events("x")))


def test_page_of_another_generation_says_nothing(store: Path) -> None:
    path = str(store) + ".page"
    page = Page(path, GENERATION, A_FILE, AppendState(EndState))
    page.publish_end(EndState(100, 1, 2), 100, b"somebody", durable=100)
    assert page.hints_in(page.look()).end == EndState(100, 1, 2)
    assert page.hints_in(page.look()).durable == 100

    successor = Page(path, GENERATION[::-1], A_FILE, AppendState(EndState))

    assert successor.hints_in(successor.look()).end is None
    assert successor.hints_in(successor.look()).durable == 0


def test_writer_that_dies_between_its_line_and_the_page_leaves_nothing_in_the_way(
    store: Path, log: Log, other: SimulatedProcess, faults: Faults
) -> None:
    append_by(other, store, 3)
    before = page_file(store).read_bytes()
    append_by(other, store, 4)
    page_file(store).write_bytes(before)

    log.append("x", 5)

    assert_goes_on(log, [*range(6)])


def test_torn_write_of_a_dead_writer_is_found_though_the_page_is_whole(
    store: Path, log: Log, other: SimulatedProcess
) -> None:
    append_by(other, store, 3)
    tear(store)

    log.append("x", 4)

    assert len(log.repairs()) == 1
    assert_goes_on(log, [*range(5)])


def test_seal_of_a_dead_switcher_is_read_though_the_page_is_whole(
    store: Path, log: Log, other: SimulatedProcess
) -> None:
    append_by(other, store, 3)
    generation_of(store).find_end()
    generation_of(store).seal(GENERATION)  # and then the switcher dies, before the next generation is there
    assert b'"sealed"' in log_file(store).read_bytes()
    become_a_new_process()
    append_by(other, store, 4)

    assert b'"unsealed"' in log_file(store).read_bytes()
    assert_goes_on(log, [*range(5)])


# --- no page at all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call_name", ["open_file", "write_at", "shared_word", "read_at", "read_once", "size_of"]
)
def test_page_that_cannot_be_had_is_done_without(store: Path, faults: Faults, call_name: str) -> None:
    faults.fail(call_name, errno.ENOSPC, on=PAGE, times=1 << 30)

    log = Checkpoint(store).log("a")
    for number in range(5):
        log.append("x", number)

    assert_goes_on(log, [*range(5)])


def test_read_only_handle_makes_no_page(store: Path, log: Log) -> None:
    page_file(store).unlink()
    before = tree(store)

    assert Checkpoint(store, read_only=True)["x"] == (0, 1, 2)

    assert tree(store) == before


@pytest.mark.rule(27)
def test_page_file_truncated_under_processes_that_map_it_kills_none(
    store: Path, log: Log, children: Children
) -> None:
    children.start(append_for_a_while, store, method="fork")
    children.start(append_for_a_while, store, method="fork")
    for _ in range(200):
        os.truncate(page_file(store), 0)
        log.append("x", "mine", durability="never")

    inside(store, "stop").write_text("")
    children.wait_all()
    assert len(log.events("x")) >= 203


def append_for_a_while(store: Path) -> None:
    log = Checkpoint(store).log("a")
    while not inside(store, "stop").exists():
        log.append("x", "by a child")


# --- damage ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_damage_below_the_durable_word_of_the_page_is_corruption_for_a_new_writer(
    store: Path, log: Log
) -> None:
    # The last synced group: no line behind it vouches for it. The page does.
    content = damage_the_last_record(store)

    with pytest.raises(CorruptLogError):
        log.append("x", 3)

    assert log_file(store).read_bytes() == content
    page_file(store).unlink()
    log.append("x", 3)  # nobody vouches for it any more: a torn end, its bytes kept
    assert len(log.repairs()) == 1


@pytest.mark.guarantee(6)
def test_damage_below_the_durable_word_of_the_page_is_corruption_for_a_reader(store: Path, log: Log) -> None:
    damage_the_last_record(store)

    with pytest.raises(CorruptLogError):
        seen_anew(log)

    page_file(store).unlink()
    assert seen_anew(log) == [0, 1]


# --- poison ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
def test_poison_that_only_the_page_tells_of_refuses_everybody_until_the_log_is_recovered(
    store: Path, log: Log, other: SimulatedProcess
) -> None:
    append_by(other, store, 3)
    page_of(store).publish_poison()  # as where there is no room for the file
    before = log_file(store).read_bytes()

    with pytest.raises(PoisonedLogError):
        log.append("x", 4)
    with other, pytest.raises(PoisonedLogError):
        Checkpoint(store).log("a").append("x", 5)
    become_a_new_process()
    with pytest.raises(PoisonedLogError):
        Checkpoint(store).log("a").append("x", 6)

    assert log_file(store).read_bytes() == before
    assert log.stats()["is_poisoned"]
    log.recover()
    assert_goes_on(log, [*range(4)])


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(11)
@pytest.mark.rule(34)
@pytest.mark.parametrize("untold", [0, 1 << 10], ids=["publishing nothing", "publishing its end"])
def test_poison_set_between_look_and_publication_of_a_sole_writer_is_not_erased(
    store: Path, log: Log, other: SimulatedProcess, faults: Faults, untold: int
) -> None:
    page = page_of(store)  # of the process whose sync hangs, and fails while the other one is at it
    for number in range(48):
        append_by(other, store, number)
    with other:
        generation_of(store).state.unpublished = untold
    faults.act(
        "write_at",
        lambda real, fd, data, offset: (page.publish_poison(), real(fd, data, offset))[1],
        on=LOG,
    )
    append_by(other, store, "written when the flag is set")

    with pytest.raises(PoisonedLogError):
        append_by(other, store, "after it")
    with pytest.raises(PoisonedLogError):
        log.append("x", "mine")
    become_a_new_process()
    with pytest.raises(PoisonedLogError):
        log.append("x", "by a new process")


@pytest.mark.parametrize("in_a_row", [1, 2, 5])
def test_end_is_in_the_page_where_two_take_turns_however_often_each_appends(
    store: Path, log: Log, other: SimulatedProcess, monkeypatch: pytest.MonkeyPatch, in_a_row: int
) -> None:
    append_by(other, store, "its first")
    log.append("x", "after it")
    reads: list[int] = []
    real = OpenLog._find_end_in_log
    monkeypatch.setattr(
        OpenLog, "_find_end_in_log", lambda log: (reads.append(log.state.end.offset), real(log))[1]
    )

    for turn in range(8):
        for _ in range(in_a_row):
            append_by(other, store, turn)
        for _ in range(in_a_row):
            log.append("x", turn)

    assert reads == []
    for turn in range(40):
        log.append("x", turn)
    append_by(other, store, "after many")
    assert len(reads) == 1  # the page is told at every 16th append of a sole writer only


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(11)
@pytest.mark.rule(34)
def test_poison_is_not_erased_by_the_publication_of_a_group(
    store: Path, log: Log, other: SimulatedProcess, faults: Faults
) -> None:
    append_by(other, store, 3)  # so this process does not write alone, and leads a group
    page = page_of(store)
    synced = faults.act("sync_data", lambda real, fd: (real(fd), page.publish_poison())[0], on=LOG)
    log.append("x", 4)

    assert synced.hits == 1
    with pytest.raises(PoisonedLogError):
        log.append("x", 5)
    with pytest.raises(PoisonedLogError):
        append_by(other, store, 6)


@pytest.mark.guarantee(9)
def test_failed_sync_is_told_to_other_processes_at_their_next_append(
    store: Path, log: Log, other: SimulatedProcess, faults: Faults
) -> None:
    append_by(other, store, 3)
    fault = faults.fail("sync_data", errno.EIO, on=LOG)
    with pytest.raises(Exception, match="its sync failed"):
        log.append("x", 4)
    fault.clear()
    before = log_file(store).read_bytes()

    with other, pytest.raises(PoisonedLogError):
        Checkpoint(store).log("a").append("x", 5)

    assert log_file(store).read_bytes() == before


# --- how little is read ------------------------------------------------------------------------------------


def test_append_to_a_log_that_others_write_reads_nothing_of_what_they_wrote(
    store: Path, log: Log, other: SimulatedProcess, faults: Faults
) -> None:
    another = SimulatedProcess()
    for _ in range(20):
        append_by(other, store, "y" * 1000, durability="never")
        append_by(another, store, "y" * 1000, durability="never")
    read: list[int] = []

    def count(real: Callable[..., bytes], fd: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real(fd, size, offset)

    for call_name in ("read_at", "read_once"):
        faults.act(call_name, count, on=LOG, times=1 << 30)

    log.append("x", 3)

    assert 0 < sum(read) < 100


def test_first_append_of_a_process_to_a_long_log_reads_a_bounded_part_of_it(
    store: Path, log: Log, faults: Faults
) -> None:
    for _ in range(20):
        log.append_many([("y", "y" * 1000)] * 1000)
    become_a_new_process()
    read: list[int] = []

    def count(real: Callable[..., bytes], fd: int, size: int, offset: int) -> bytes:
        data = real(fd, size, offset)
        read.append(len(data))
        return data

    faults.act("read_at", count, on=LOG)
    log.append("x", 3)

    assert log_file(store).stat().st_size > 20_000_000
    assert sum(read) < 2_500_000  # the last batch of a thousand records, and some
    assert seen_anew(log) == [0, 1, 2, 3]


# --- an end that the log has not reached ----------------------------------------------------------------------


@pytest.fixture
def stale_end(store: Path) -> Log:
    """A log whose unsynced records the power took, beside a page that names the end behind them."""
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    size = log_file(store).stat().st_size
    other = SimulatedProcess()
    for number in range(20):
        append_by(other, store, number, "never")
        log.append("x", number, durability="never")
    os.truncate(log_file(store), size)
    become_a_new_process()
    return log


def assert_each_append_is_synced(store: Path, log: Log, faults: Faults) -> None:
    fault = faults.act("sync_data", lambda sync, fd: sync(fd), on=LOG, times=1 << 30)
    for number in range(12):
        log.append("x", f"new {number}")
        assert fault.hits > number, "an append was acknowledged that no sync has covered"


def test_stale_end_is_not_synced_for_when_a_writer_was_interrupted(
    store: Path, stale_end: Log, faults: Faults
) -> None:
    interrupted = faults.fail("write_at", KeyboardInterrupt(), at=2, on=PAGE)
    with pytest.raises(KeyboardInterrupt):
        stale_end.append("x", "interrupted")
    assert interrupted.hits

    stale_end.flush()

    assert_each_append_is_synced(store, stale_end, faults)


def test_stale_end_is_not_synced_for_when_a_writer_was_killed(
    store: Path, stale_end: Log, faults: Faults, children: Children
) -> None:
    stale_end.flush()
    child = children.start(append_and_die_before_the_page, store, method="fork")
    assert child.wait() == -signal.SIGKILL

    stale_end.flush()

    assert_each_append_is_synced(store, stale_end, faults)


def append_and_die_before_the_page(store: Path) -> None:
    Page.publish_end = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign, assignment]  # it dies
    Checkpoint(store).log("a").append("x", "killed")


def test_stale_end_is_not_synced_for_when_the_page_cannot_be_written(
    store: Path, stale_end: Log, faults: Faults
) -> None:
    faults.fail("write_at", errno.EIO, on=PAGE, times=1 << 30)

    for number in range(5):
        stale_end.append("x", number)

    generation = generation_of(store)
    assert generation.state.durable <= generation.state.end.offset


@pytest.mark.parametrize("size", [0, 30, 56, 64, 80, 90, 96, 130, 159, 4000])
def test_page_cut_to_any_size_costs_nothing_but_time(
    store: Path, log: Log, other: SimulatedProcess, size: int
) -> None:
    append_by(other, store, 3)
    log.append("x", 4)
    os.truncate(page_file(store), size)

    for number in range(5, 25):
        log.append("x", number)
    append_by(other, store, 25)

    assert page_file(store).stat().st_size == PAGE_BYTES
    assert_goes_on(log, [*range(26)])


@pytest.mark.guarantee(6)
def test_recovery_of_a_log_whose_last_record_is_damaged_below_the_durable_word_is_refused(
    store: Path, log: Log
) -> None:
    content = damage_the_last_record(store)

    with pytest.raises(CorruptLogError):
        log.recover()

    assert log_file(store).read_bytes().startswith(content)


@pytest.mark.guarantee(9)
def test_late_marks_of_a_generation_that_was_recovered_do_not_poison_its_successor(
    store: Path, log: Log
) -> None:
    old = generation_of(store).end.header.generation
    poison = generation_of(store)._poison
    log.recover()

    poison.mark(old, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    poison.mark(old, OSError(errno.EIO, os.strerror(errno.EIO)))

    assert_goes_on(log, [0, 1, 2])
