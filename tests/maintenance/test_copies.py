"""Copies of a store, taken while it is written: whole lines read, appends go on, and holes are told of."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._logfile import first_use as trust
from mpcheckpoint._logfile import padding
from mpcheckpoint._logfile.page import PAGE_BYTES, Page, stated_durable
from mpcheckpoint._system import FileStatus, file_status, path_status, statx
from mpcheckpoint.errors import CorruptLogError
from support.verbs import (
    Faults,
    assert_goes_on,
    become_a_new_process,
    generation_of,
    inside,
    log_file,
    page_file,
)

if TYPE_CHECKING:
    from pathlib import Path

    from support.processes import Children

pytestmark = [pytest.mark.guarantee(6), pytest.mark.guarantee(11)]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Where a copy of the store is to stand."""
    return tmp_path / "copy"


def copy_of(store: Path, elsewhere: Path, log_bytes: bytes | None = None) -> Log:
    """Copy a store, its log perhaps as it was earlier, as `cp -r` would; return the log as a new process opens it."""
    shutil.copytree(store, elsewhere)
    if log_bytes is not None:
        log_file(elsewhere).unlink()
        log_file(elsewhere).write_bytes(log_bytes)
    become_a_new_process()
    return Checkpoint(elsewhere).log("a")


def inside_a_line(store: Path) -> bytes:
    """Return what a copy of the log holds that is taken now, while the next record is being written."""
    return log_file(store).read_bytes() + b'["0000004a",1790000002500000,297,0,"x","UPLO'


# --- a copy whose page is younger than its log -------------------------------------------------------------


@pytest.mark.rule(33)
def test_copy_whose_page_is_younger_than_its_log_reads_its_whole_lines_and_takes_appends(
    store: Path, elsewhere: Path, log: Log
) -> None:
    copied_first = inside_a_line(store)
    for number in range(1, 21):
        log.append("x", number)

    copy = copy_of(store, elsewhere, copied_first)

    assert list(copy.events("x")) == [0]  # a reader judges by itself
    copy.append("x", 1)
    assert_goes_on(copy, [0, 1])
    assert len(copy.repairs()) == 1


def test_copy_whose_log_ends_with_a_line_before_what_its_page_calls_durable_goes_on(
    store: Path, elsewhere: Path, log: Log
) -> None:
    copied_first = log_file(store).read_bytes()
    for number in range(1, 40):
        log.append("x", number)

    copy = copy_of(store, elsewhere, copied_first)

    copy.append("x", 1)
    assert_goes_on(copy, [0, 1])


@pytest.mark.parametrize("is_torn", [False, True])
def test_older_copy_written_over_the_log_in_place_is_told_of_and_goes_on(
    store: Path, log: Log, caplog: pytest.LogCaptureFixture, is_torn: bool
) -> None:
    # As `cp backup/* store/.checkpoint/` does it: the inode stays, and the page is that of the longer log.
    copied_first = inside_a_line(store) if is_torn else log_file(store).read_bytes()
    for number in range(1, 40):
        log.append("x", number)
    log_file(store).write_bytes(copied_first)
    become_a_new_process()

    log = Checkpoint(store).log("a")
    assert list(log.events("x")) == [0]
    with caplog.at_level(logging.WARNING, "mpcheckpoint"):
        log.append("x", 1)

    assert "were durable once" in caplog.text
    assert_goes_on(log, [0, 1])


def test_restored_copy_is_appended_to_by_processes_that_have_the_old_file_open(
    store: Path, elsewhere: Path, log: Log
) -> None:
    shutil.copytree(store, elsewhere)
    for number in range(1, 20):
        log.append("x", number)
    for file in inside(elsewhere).iterdir():  # as `rsync` and `tar` do it: another file takes the name
        file.rename(inside(store, file.name))

    log.append("x", "after it")

    assert_goes_on(log, [0, "after it"])


@pytest.mark.rule(33)
@pytest.mark.slow
@pytest.mark.parametrize("how", ["tar", "cp"])
def test_live_copies_taken_while_processes_append_are_usable_or_refused(
    store: Path, tmp_path: Path, children: Children, how: str
) -> None:
    Checkpoint(store).log("a").append("x", 0)
    for number in range(3):
        children.start(append_until_told, store, f"writer {number}", method="fork")
    commands = {
        "tar": "mkdir {to} && tar -C {store} -cf - . | tar -C {to} -xf -",
        "cp": "cp -r {store} {to}",
    }
    copies = [tmp_path / f"copy{number}" for number in range(12)]
    for copy in copies:
        done = subprocess.run(
            commands[how].format(store=store, to=copy), shell=True, capture_output=True, check=False
        )
        assert done.returncode in (0, 1), done.stderr  # tar: a file changed as it was read
    inside(store, "stop").write_text("")
    children.wait_all()

    become_a_new_process()
    source = log_file(store).read_bytes()
    usable = 0
    for copy in copies:
        is_whole = source.startswith(log_file(copy).read_bytes().rstrip(b"\n"))
        log = Checkpoint(copy).log("a")
        try:
            found = log.events("x")
        except CorruptLogError:  # one part was read before, the next one after others had appended to both
            assert not is_whole
            continue
        usable += is_whole
        for writer in range(3):
            numbers = [
                event[1] for event in found if isinstance(event, list) and event[0] == f"writer {writer}"
            ]
            assert numbers == list(range(len(numbers)))
        log.append("x", "goes on")
        assert log.events("x") == (*found, "goes on")
    assert usable


def append_until_told(store: Path, name: str) -> None:
    log = Checkpoint(store).log("a")
    number = 0
    while not inside(store, "stop").exists():
        log.append("x", [name, number])
        number += 1


# --- holes -------------------------------------------------------------------------------------------------


def ends_of_lines(data: bytes) -> list[int]:
    lines = data.rstrip(b"\n")
    return [index + 1 for index, byte in enumerate(lines) if byte == 10]


def with_a_hole(data: bytes) -> bytes:
    """Return the bytes of a log of which a slow copy took newlines where padding was filled meanwhile."""
    ends = ends_of_lines(data)
    start, stop = ends[len(ends) // 3], ends[len(ends) // 2]
    return data[:start] + b"\n" * (stop - start) + data[stop:]


@pytest.mark.parametrize("page", ["copied", "lost"])
def test_append_to_a_copy_with_a_hole_is_refused_as_its_readers_are(
    store: Path, elsewhere: Path, log: Log, page: str
) -> None:
    for number in range(1, 100):
        log.append("x", number)
    content = with_a_hole(log_file(store).read_bytes())
    copy = copy_of(store, elsewhere, content)
    if page == "lost":
        page_file(elsewhere).unlink()

    for attempt in (
        lambda: copy.events("x"),
        lambda: copy.append("x", "new"),
        lambda: copy.append("x", "again"),
    ):
        with pytest.raises(CorruptLogError) as caught:
            attempt()
        assert content[caught.value.offset : caught.value.offset + 1] == b"\n"

    assert log_file(elsewhere).read_bytes() == content


@pytest.mark.rule(37)
def test_slow_copy_of_a_padded_log_has_a_hole_and_is_refused_to_readers_and_writers_alike(
    store: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padding, "_EXTENSIONS_BEFORE", 0)
    monkeypatch.setattr(padding, "_FIRST_BYTES", 64 * 1024)
    log = Checkpoint(store).log("a")
    for number in range(20):
        log.append("x", number)
    half = log_file(store).read_bytes()
    assert half.endswith(b"\n" * 1000)
    for number in range(20, 300):
        log.append("x", number)
    whole = log_file(store).read_bytes()
    ends = ends_of_lines(whole)
    assert len(ends) > 60
    behind = next(end for end in ends[60:] if end < len(half))  # what the copy reads later than the rest
    copy = copy_of(store, elsewhere, half[:behind] + whole[behind:])

    with pytest.raises(CorruptLogError):
        copy.events("x")
    with pytest.raises(CorruptLogError):
        copy.append("x", "new")


# --- validated once ----------------------------------------------------------------------------------------


def bytes_read(faults: Faults, on: str = r"a\.jsonl$") -> list[int]:
    read: list[int] = []

    def count(real: object, fd: int, size: int, offset: int) -> bytes:
        data: bytes = real(fd, size, offset)  # type: ignore[operator]
        read.append(len(data))
        return data

    faults.act("read_at", count, on=on, times=1 << 30)
    return read


def test_copy_is_read_whole_by_its_first_writer_and_by_no_other(
    store: Path, elsewhere: Path, log: Log, faults: Faults
) -> None:
    for _ in range(20):
        log.append_many([("y", "y" * 1000)] * 500)
    log.append("x", 1)
    copy = copy_of(store, elsewhere)
    size = log_file(elsewhere).stat().st_size
    read = bytes_read(faults)

    copy.append("x", 2)
    first = sum(read)
    become_a_new_process()
    read.clear()
    Checkpoint(elsewhere).log("a").append("x", 3)

    assert first > size > 10_000_000
    assert sum(read) < 1_000_000
    assert_goes_on(copy, [0, 1, 2, 3])


def test_long_validation_is_told_of(
    store: Path,
    elsewhere: Path,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(1, 20):
        log.append("x", number)
    monkeypatch.setattr(trust, "_LONG_VALIDATION_S", 0.0)

    with caplog.at_level(logging.WARNING, "mpcheckpoint"):
        copy_of(store, elsewhere).append("x", 20)
        become_a_new_process()
        Checkpoint(elsewhere).log("a").append("x", 21)

    assert caplog.text.count("validated") == 1
    assert "it was copied or restored" in caplog.text


def test_damage_in_a_log_without_a_page_is_found_by_its_first_writer(store: Path, log: Log) -> None:
    ends = [log.append("x", number).offset for number in range(1, 60)]
    content = bytearray(log_file(store).read_bytes())
    content[ends[3] - 20] ^= 1
    log_file(store).write_bytes(content)
    page_file(store).unlink()
    become_a_new_process()

    with pytest.raises(CorruptLogError) as caught:
        Checkpoint(store).log("a").append("x", "new")

    assert caught.value.offset == ends[2]
    assert log_file(store).read_bytes() == content


# --- which file a page speaks of ---------------------------------------------------------------------------


def test_page_does_not_vouch_for_another_file_with_the_same_inode(store: Path, log: Log) -> None:
    for number in range(1, 40):
        log.append("x", number)
    generation = generation_of(store)
    own = file_status(generation.file.fd)
    assert own.born_ns, "this file system does not tell when a file was made"

    def durable_of(log: FileStatus) -> int:
        return stated_durable(str(page_file(store)), generation.end.header.generation, log)

    known = durable_of(own)
    assert known > generation.end.header.end.offset
    assert durable_of(own._replace(born_ns=own.born_ns + 1)) == 0
    assert durable_of(own._replace(inode=own.inode + 1)) == 0
    assert durable_of(own._replace(born_ns=0)) == known  # not known: it fits any


def test_page_of_a_writer_that_could_not_tell_when_its_log_was_made_fits_any(store: Path, log: Log) -> None:
    generation = generation_of(store)
    path = str(page_file(store))
    Page(
        path, generation.end.header.generation, generation.file.status._replace(born_ns=0), generation.state
    ).publish_end(generation.state.end, 0, b"somebody", durable=generation.state.durable)

    assert (
        stated_durable(path, generation.end.header.generation, generation.file.status)
        == generation.state.durable
    )
    assert_goes_on(log, [0])


def test_log_is_read_and_appended_to_where_statx_is_forbidden(
    store: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statx, "_statx", None)
    monkeypatch.setattr(statx, "_file_facts", None)
    log = Checkpoint(store).log("a")
    for number in range(30):
        log.append("x", number)

    assert file_status(generation_of(store).file.fd).born_ns == 0
    copy = copy_of(store, elsewhere, inside_a_line(store))

    copy.append("x", 30)
    assert_goes_on(copy, [*range(31)])


def test_thread_that_asks_while_another_learns_that_statx_is_forbidden_gets_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = statx._Buffer

    def buffer_while_another_is_refused() -> object:
        monkeypatch.setattr(statx, "_statx", None)
        monkeypatch.setattr(statx, "_file_facts", None)
        return buffer()

    monkeypatch.setattr(statx, "_idle", [])
    monkeypatch.setattr(statx, "_Buffer", buffer_while_another_is_refused)

    assert file_status(0).inode == os.fstat(0).st_ino
    assert path_status(str(tmp_path)).inode == tmp_path.stat().st_ino


def test_log_is_read_from_a_stack_too_deep_to_ask_statx(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 1)
    assert log.events("x") == (0, 1)

    def too_deep(*arguments: object) -> int:
        raise ctypes.ArgumentError("so ctypes says that the stack is too deep")

    monkeypatch.setattr(statx, "_statx", too_deep)
    monkeypatch.setattr(statx, "_file_facts", None)

    assert log.events("x") == (0, 1)
    log.append("x", 2)
    assert log.events("x") == (0, 1, 2)


def test_page_is_as_long_as_it_was_and_threads_that_wait_on_it_go_on(store: Path, log: Log) -> None:
    threads = [threading.Thread(target=lambda: [log.append("y", n) for n in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert os.stat(page_file(store)).st_size == PAGE_BYTES
    assert len(log.events("y")) == 80
