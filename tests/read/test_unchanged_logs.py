"""A look where nothing is new costs next to nothing, and never overlooks anything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint._system import statx
from support.processes import call
from support.verbs import handle_of, log_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(4)

PADDING_BYTES = 256 * 1024


class Calls:
    """What was asked of the system, by name, and how many bytes were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.read_bytes = 0
        for name in (
            "open_file",
            "path_mark",
            "path_status",
            "stat_path",
            "stat_fd",
            "size_of",
            "list_directory",
        ):
            monkeypatch.setattr(system, name, self._noting(name))
        for name in ("read_at", "read_once"):
            monkeypatch.setattr(system, name, self._reading(name))

    def _noting(self, name: str) -> object:
        real = getattr(system, name)

        def noting(*args: object, **options: object) -> object:
            self.made.append(name)
            return real(*args, **options)

        return noting

    def _reading(self, name: str) -> object:
        real = getattr(system, name)

        def reading(fd: int, size: int, offset: int) -> bytes:
            self.made.append(name)
            data: bytes = real(fd, size, offset)
            self.read_bytes += len(data)
            return data

        return reading

    def forget(self) -> None:
        self.made, self.read_bytes = [], 0


def overwrite(path: Path, data: bytes, offset: int) -> None:
    """Change bytes in place, as by hand."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def append_elsewhere(store: Path, *events: object) -> None:
    with Checkpoint(store) as checkpoint:
        for event in events:
            checkpoint.log("a").append("x", event)


def recover_elsewhere(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        checkpoint.log("a").recover()


# --- what it costs -----------------------------------------------------------------------------------------


def test_idle_poll_of_a_log_asks_its_path_and_reads_the_end_of_its_last_line(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 1)
    assert log.events("x") == (1,)
    assert log.events("x") == (1,)
    calls = Calls(monkeypatch)

    assert log.events("x") == (1,)
    assert calls.made == ["path_mark", "read_once"]
    assert calls.read_bytes == 12


def test_idle_look_at_more_logs_than_files_may_be_open_opens_none(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Checkpoint(store, durability="never")
    for number in range(60):
        writer.log(f"l{number}").append("x", number)
    checkpoint = Checkpoint(store)
    for _ in range(2):
        assert checkpoint["x"] == tuple(range(60))
    calls = Calls(monkeypatch)

    assert checkpoint["x"] == tuple(range(60))
    assert calls.made.count("path_mark") == 60
    assert sorted(set(calls.made)) == ["path_mark", "read_once", "stat_path"]
    assert calls.made.count("stat_path") == 1  # for new logs


def test_idle_look_at_a_padded_log_reads_a_line_end_and_one_byte(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_elsewhere(store, 1)
    with log_file(store).open("ab") as file:
        file.write(b"\n" * PADDING_BYTES)
    log = Checkpoint(store, read_only=True).log("a")
    assert log.events("x") == (1,)
    calls = Calls(monkeypatch)

    for _ in range(3):
        calls.forget()
        assert log.events("x") == (1,)
        assert calls.read_bytes == 13
        assert "open_file" not in calls.made


# --- what must not be overlooked ------------------------------------------------------------------------------


def test_append_of_another_process_is_seen_at_the_next_look(store: Path) -> None:
    checkpoint = Checkpoint(store)
    log = checkpoint.log("a")
    for number in range(5):
        assert log.count("x") == log.count("x") == len(checkpoint.get("x", ())) == number
        call(append_elsewhere, store, number, method="fork")

    assert log.events("x") == tuple(range(5))


@pytest.mark.parametrize("padding_bytes", [0, PADDING_BYTES])
def test_note_that_is_no_claim_is_read_where_other_lines_are_read_in_one_step(
    store: Path, padding_bytes: int
) -> None:
    append_elsewhere(store, 0)
    with log_file(store).open("ab") as file:
        file.write(b"\n" * padding_bytes)
    log, writer = Checkpoint(store).log("a"), Checkpoint(store, durability="never").log("a")

    for number in range(1, 5):
        writer.append("x", number)
        assert log.events("x") == tuple(range(number + 1))
        note = Note("seen" if number % 2 else "claim", {"object_key": "x", "worker": "w", "number": number})
        handle_of(writer).append_if([note_payload(note)], lambda view: None)
        seen = note if number % 2 else Note("seen", note.fields | {"number": number - 1})
        assert handle_of(log).query(lambda view: view.note("seen")) == seen.fields


def test_many_lines_of_another_process_are_all_seen_at_the_next_look(store: Path) -> None:
    log, writer = Checkpoint(store).log("a"), Checkpoint(store, durability="never").log("a")

    for number in range(1, 40):
        for _ in range(number):
            writer.append_many([("x", "event " * number), ("y", number)])
        assert (log.count("x"), log.count("y")) == (number * (number + 1) / 2,) * 2


def test_recovery_by_another_process_is_seen_at_the_next_look(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 1)
    for number in range(2, 6):
        assert log.count("x") == log.count("x") == number - 1
        call(recover_elsewhere, store, method="fork")
        call(append_elsewhere, store, number, method="fork")

    assert log.events("x") == (1, 2, 3, 4, 5)


def test_log_changed_by_hand_that_keeps_its_size_is_read_anew(store: Path, tmp_path: Path) -> None:
    for directory, event in ((store, 2), (tmp_path / "other", 3)):
        call(append_elsewhere, directory, 1, event, method="fork")
    path, other = log_file(store), log_file(tmp_path / "other").read_bytes()
    log = Checkpoint(store, read_only=True).log("a")
    assert log.events("x") == log.events("x") == (1, 2)
    before = path.stat()
    assert before.st_size == len(other)
    overwrite(path, other, 0)

    assert log.events("x") == (1, 3)


def test_new_generation_of_the_same_size_on_the_same_inode_number_is_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removed file's number may be given to the next one. Its time of birth is another one."""
    for directory, event in ((store, 2), (tmp_path / "other", 3)):
        call(append_elsewhere, directory, 1, event, method="fork")
    path, other = log_file(store), log_file(tmp_path / "other").read_bytes()
    real, of_one_inode = system.path_mark, system.path_mark(str(path))[:1]
    monkeypatch.setattr(system, "path_mark", lambda path: (*of_one_inode, *real(path)[1:]))
    reader = DirectoryStore(str(store), create=False, read_only=True).find_log("a").reader()
    assert [line.event for chunk in reader.poll() for line in chunk.lines] == [b"1", b"2"]
    reader.release()  # as where more logs are read than files may be open
    path.unlink()
    path.write_bytes(other)

    assert [line.event for chunk in reader.poll() for line in chunk.lines] == [b"1", b"3"]


def test_polls_without_statx_see_appends_and_new_generations(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statx, "_statx", None)
    monkeypatch.setattr(statx, "_file_facts", None)
    reader = log._handle.reader()
    seen = [line.event for chunk in reader.poll() for line in chunk.lines]
    for number in range(1, 5):
        assert list(reader.poll()) == []
        if number % 2:
            reader.release()
        call(recover_elsewhere, store, method="fork")
        call(append_elsewhere, store, number, method="fork")
        seen += [line.event for chunk in reader.poll() for line in chunk.lines]

    assert seen == [b"0", b"1", b"2", b"3", b"4"]


def test_record_written_over_padding_is_seen_at_once(store: Path) -> None:
    call(append_elsewhere, store, 1, method="fork")
    path = log_file(store)
    size = path.stat().st_size
    call(append_elsewhere, store, 2, method="fork")
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(b"\n" * PADDING_BYTES)
    log = Checkpoint(store, read_only=True).log("a")
    assert log.events("x") == log.events("x") == (1,)
    overwrite(path, whole[size:], size)

    assert path.stat().st_size == size + PADDING_BYTES
    assert log.events("x") == log.events("x") == (1, 2)


@pytest.mark.guarantee(4)
@pytest.mark.rule(20)
def test_change_that_leaves_every_time_as_it_was_is_seen(log: Log, store: Path) -> None:
    checkpoint = Checkpoint(store)
    assert checkpoint["x"] == (0,)
    for number in range(1, 5):
        before = log_file(store).stat()
        call(log.append, "x", number, method="fork")
        os.utime(log_file(store), ns=(0, before.st_mtime_ns - 10**12))
        assert checkpoint["x"] == tuple(range(number + 1))
