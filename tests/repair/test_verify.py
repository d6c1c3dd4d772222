"""Every byte is read, every damage found, and nothing is changed or waited for."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._cli import progress
from mpcheckpoint._format.control import control_payload
from mpcheckpoint._format.frame import EndState, encode_batch
from mpcheckpoint._format.resync import last_line
from mpcheckpoint._maintenance.repairs import verification
from mpcheckpoint._system.holders import LockState, LockStatus
from mpcheckpoint.errors import CorruptLogError, LogNotFoundError, OutcomeUnknownError, StoreNotFoundError
from mpcheckpoint.maintenance import LogCheck, size_in_bytes, stray_files, verify
from support.shell import MPCHECKPOINT, CommandLine
from support.verbs import (
    TORN,
    Faults,
    become_a_new_process,
    flip,
    hold_append_lock,
    inside,
    log_file,
    tear,
    tree,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
    from support.processes import Children

pytestmark = pytest.mark.guarantee(6)


def check(store: Path, log_key: str = "a") -> LogCheck:
    """Return what is found in one log, having seen that nothing was changed."""
    before = tree(store)
    (found,) = verify(store, log_keys=[log_key])
    assert tree(store) == before
    return found


def line_starts(store: Path, log_key: str = "a") -> list[int]:
    data = log_file(store, log_key).read_bytes()
    return [0, *(at + 1 for at, byte in enumerate(data) if byte == 10)]


@pytest.fixture
def filled(log: Log) -> Log:
    """A log of the event 0, seven more, and a batch of three."""
    for number in range(1, 8):
        log.append("x", number)
    log.append_many([("y", number) for number in range(3)])
    return log


# --- what is whole ------------------------------------------------------------------------------------------


def test_verify_of_a_whole_store_reads_every_byte_and_finds_every_record(store: Path, filled: Log) -> None:
    Checkpoint(store).log("b/\u00fc\n").append("x", "." * 3_000_000)
    read: list[int] = []
    before = tree(store)

    checks_made = list(verify(store, on_progress=read.append))

    assert tree(store) == before
    assert [(each.log_key, each.state, each.records) for each in checks_made] == [
        ("a", "whole", 11),
        ("b/\u00fc\n", "whole", 1),
    ]
    assert sum(read) == size_in_bytes(store) == sum(each.size_bytes for each in checks_made)
    assert all(each.is_whole and not each.damages and not each.notes for each in checks_made)
    assert checks_made[0].generation == filled.append("x", 1).generation


@pytest.mark.parametrize("padding", [b"", b"\n", b"\n" * 5000])
def test_verify_of_padding_finds_no_damage(store: Path, filled: Log, padding: bytes) -> None:
    tear(store, padding)

    assert check(store).state == "whole"


def test_verify_beside_writers_gives_no_false_alarm(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    for number in range(2):
        children.start(write_until_killed, store, number, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(4)
    states = set()
    for _ in range(8):
        (found,) = verify(store)
        assert found.is_whole, found
        states.add(found.records)
        acknowledgements.wait_for(len(acknowledgements.acknowledged()) + 1)
    children.kill_all()
    assert len(states) > 1  # they wrote meanwhile


def test_verify_of_a_log_that_grows_faster_than_it_is_read_ends(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 1)
    real = system.read_at
    grown = [0]

    def read_and_grow(fd: int, size: int, offset: int) -> bytes:
        data = real(fd, size, offset)
        if data and grown[0] < 50 and size > 4096:
            monkeypatch.setattr(system, "read_at", real)
            for _ in range(15):
                log.append("x", "." * 100_000, durability="never")
            monkeypatch.setattr(system, "read_at", read_and_grow)
            grown[0] += 1
        return data

    monkeypatch.setattr(system, "read_at", read_and_grow)
    (found,) = verify(store)

    assert found.is_whole
    assert 0 < grown[0] < 10


def write_until_killed(store: Path, number: int, writer: Any) -> None:
    log = Checkpoint(store).log("a")
    while True:
        log.append_many([(f"w{number}", "." * 9_000) for _ in range(4)])
        log.append(f"w{number}", 1)
        writer.acknowledge("written")


# --- damage -------------------------------------------------------------------------------------------------


def test_verify_of_one_bit_anywhere_tells_the_line_that_was_hit(
    store: Path, filled: Log, intensity: int
) -> None:
    starts = line_starts(store)
    good = log_file(store).read_bytes()
    batch = starts[9]
    for offset in range(0, len(good), max(1, 13 // intensity)):
        log_file(store).write_bytes(good)
        flip(store, offset, bit=offset % 8)
        found = check(store)
        hit = max(start for start in starts if start <= offset)
        (damage,) = found.damages
        assert found.damage_count == 1
        assert damage.offset == min(batch, hit)
        assert damage.expected != damage.found
        is_last = hit == starts[-2]
        assert damage.verdict == found.state == ("torn" if damage.offset == batch else "corrupt")
        if not damage.is_mended and not is_last:
            assert damage.offset + damage.length_bytes == starts[starts.index(hit) + 1]
        assert found.records == max(0, starts.index(damage.offset) - 1)
        assert (
            found.records
            + damage.records_behind
            + (not damage.is_mended and hit > 0)
            + max(0, starts.index(hit) - 9) * (not damage.is_mended)
            == 11
        )


def test_verify_of_several_damages_tells_each_and_how_much_can_be_proven_behind_it(
    store: Path, filled: Log
) -> None:
    starts = line_starts(store)
    for line in (2, 3, 6):
        flip(store, starts[line] + 20)

    found = check(store)

    assert found.state == "corrupt"
    assert [(each.offset, each.length_bytes, each.records_behind) for each in found.damages] == [
        (
            starts[2],
            starts[4] - starts[2],
            2,
        ),  # only whole lines vouch for the next: two in a row are one damage
        (starts[6], starts[7] - starts[6], 5),
    ]
    assert all(
        each.after_us is None or each.before_us is None or each.after_us < each.before_us
        for each in found.damages
    )


def test_verify_of_a_torn_end_tells_where_and_how_much(store: Path, filled: Log) -> None:
    end = log_file(store).stat().st_size
    tear(store)
    found = check(store)
    (damage,) = found.damages
    assert (found.state, damage.offset, damage.length_bytes, damage.verdict) == (
        "torn",
        end,
        len(TORN),
        "torn",
    )
    assert found.records == 11


def test_verify_of_a_cut_below_what_the_page_calls_durable_is_corrupt(store: Path, filled: Log) -> None:
    filled.flush()
    become_a_new_process()
    Checkpoint(store).log("a").append("x", 8)  # a new process tells in the page how far all is durable
    Checkpoint(store).log("a").flush()
    page = inside(store, "a.page").read_bytes()
    size = log_file(store).stat().st_size
    log_file(store).write_bytes(log_file(store).read_bytes()[:-3])
    inside(store, "a.page").write_bytes(page)

    found = check(store)

    assert found.state == ("corrupt" if found.durable_bytes == size else "torn")
    log_file(store).write_bytes(log_file(store).read_bytes()[: line_starts(store)[3]])
    cut = check(store)
    assert cut.state == "whole"
    assert any("cut off, or restored from a copy" in note for note in cut.notes)


def test_verify_of_a_log_of_which_a_line_was_removed_is_corrupt_and_an_append_refuses(
    store: Path, log: Log
) -> None:
    """All lines behind it call durable more than stands before them: no crash explains that."""
    for number in range(1, 6):
        log.append("x", number)
    starts = line_starts(store)
    data = log_file(store).read_bytes()
    become_a_new_process()
    log_file(store).write_bytes(data[: starts[3]] + data[starts[4] :])
    inside(store, "a.page").unlink()

    assert check(store).state == "corrupt"
    before = log_file(store).read_bytes()
    with pytest.raises(CorruptLogError, match="mpcheckpoint repair --store"):
        Checkpoint(store).log("a").append("x", "new")
    assert log_file(store).read_bytes() == before


# --- a write in progress --------------------------------------------------------------------------------------


def test_verify_while_somebody_holds_the_append_lock_takes_a_torn_end_for_a_write(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    children.start(hold_append_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    tear(store)
    assert check(store).state == "pending"
    children.kill_all()
    assert check(store).state == "torn"


def test_verify_where_locks_cannot_be_looked_at_looks_twice(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = LockStatus(LockState.UNKNOWN, None, None)
    monkeypatch.setattr(system, "lock_status", lambda path: unknown)
    monkeypatch.setattr(verification, "time", SimpleNamespace(sleep=lambda seconds: None))
    tear(store)
    assert check(store).state == "torn"

    monkeypatch.setattr(verification, "time", SimpleNamespace(sleep=lambda seconds: tear(store, b"1")))
    (found,) = verify(store)
    assert found.state == "pending"


def test_verify_finds_what_was_damage_at_the_first_look_whole_at_the_second(
    store: Path, filled: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = log_file(store).read_bytes()
    start = line_starts(store)[4]
    looks = [0]
    real = system.read_at

    def half_written(fd: int, size: int, offset: int) -> bytes:
        data = real(fd, size, offset)
        if len(data) < 600 or looks[0]:
            return data
        looks[0] += 1
        return data[: start + 8 - offset] + b"\0" * 20 + data[start + 28 - offset :]

    monkeypatch.setattr(system, "read_at", half_written)
    (found,) = verify(store)

    assert looks[0] == 1
    assert found.state == "whole"
    assert found.size_bytes == len(good)


# --- what is no damage of bytes -------------------------------------------------------------------------------


def test_verify_of_a_poisoned_log_says_why(store: Path, log: Log, faults: Faults) -> None:
    fault = faults.fail("sync_data", errno.EIO, on=r"a\.jsonl$")
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)
    fault.clear()

    found = check(store)

    assert found.state == "poisoned"
    assert found.poison == "Input/output error"
    assert not found.is_whole


def append_raw(store: Path, *controls: dict[str, object]) -> None:
    data = log_file(store).read_bytes()
    line = last_line(data, base=0)
    assert line is not None
    end = EndState(line.end, line.stored_crc, line.stamp_us)
    payloads = [control_payload(**control) for control in controls]  # type: ignore[arg-type]  # a str and others
    lines, _ = encode_batch(payloads, end=end, stamp_us=end.stamp_us + 1, durable=end.offset)
    log_file(store).write_bytes(data + lines)


def test_verify_of_what_this_release_does_not_know_cannot_check_it(store: Path, log: Log) -> None:
    log.append("x", 1)
    good = log_file(store).read_bytes()
    append_raw(store, {"control": "future"})
    found = check(store)
    assert found.state == "unreadable"
    assert "'future'" in (found.problem or "")

    log_file(store).write_bytes(good.replace(b'"version":1', b'"version":2'))
    found = check(store)
    assert found.state == "unreadable"
    assert "version 2" in (found.problem or "")


def test_verify_of_a_renamed_log_names_both_and_of_others_goes_on(store: Path, log: Log) -> None:
    Checkpoint(store).log("b").append("x", 1)
    log_file(store, "b").rename(log_file(store, "c"))

    found = {os.path.basename(each.path): each for each in verify(store)}

    assert found["a.jsonl"].state == "whole"
    assert found["c.jsonl"].state == "unreadable"
    assert "'b'" in (found["c.jsonl"].problem or "")
    assert "'c'" in (found["c.jsonl"].problem or "")


@pytest.mark.parametrize("data", [b"", b"\n", b"\0" * 4096, b'["000000', b"rubbish\n" * 9])
def test_verify_of_a_log_without_a_header_is_corrupt_at_its_start(store: Path, log: Log, data: bytes) -> None:
    log_file(store).write_bytes(data)

    found = check(store)

    assert found.state == "corrupt"
    assert found.damages[0].offset == 0
    assert found.log_key == "a"
    assert found.generation is None


def test_verify_of_a_log_that_cannot_be_read_says_so_and_goes_on(
    store: Path, log: Log, faults: Faults
) -> None:
    Checkpoint(store).log("b").append("x", 1)
    faults.fail("read_at", errno.EIO, at=3, on=r"a\.jsonl$")

    first, second = verify(store)

    assert first.state == "unreadable"
    assert "Input/output error" in (first.problem or "")
    assert second.state == "whole"


def test_verify_names_what_does_not_belong_there_and_what_is_in_quarantine(store: Path, log: Log) -> None:
    tear(store)
    log.append("x", 1)
    for name in ("notes.txt", "a.jsonl.bak", "zz.page", "zz.compact", "a.compact", f"a.jsonl.{'0' * 32}.tmp"):
        inside(store, name).write_text("x")

    assert stray_files(store) == ["a.jsonl.bak", "notes.txt", "zz.compact", "zz.page"]
    (note,) = check(store).notes
    assert f"{len(TORN)} bytes that repairs cut off" in note


def test_verify_of_what_is_not_there_is_refused_and_creates_nothing(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        verify(store)
    assert not store.exists()
    Checkpoint(store).log("a")
    with pytest.raises(LogNotFoundError):
        verify(store, log_keys=["b"])


# --- the command ----------------------------------------------------------------------------------------------


def test_verify_command_prints_a_line_a_log_and_each_damage(store: Path, filled: Log, tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)
    Checkpoint(store).log("b\n\x1b[1m").append("x", 1)
    good = shell.good("verify", "--store", "store")
    assert good.out.splitlines() == [
        f"a: whole, 11 records, {log_file(store).stat().st_size} bytes",
        "b\\n\\x1b[1m: whole, 1 record, " + good.out.splitlines()[1].split(", ")[2],
        good.out.splitlines()[2],
    ]
    assert good.out.endswith(": all whole\n")

    starts = line_starts(store)
    flip(store, starts[3] + 20)
    inside(store, "stray").write_text("x")
    before = tree(store)
    bad = shell.run("verify", "--store", "store")
    rows = shell.run("verify", "--store", "store", "--json", "--key", "a")
    assert tree(store) == before
    assert (bad.code, rows.code) == (1, 1)
    assert "a: corrupt, 2 records before the damage" in bad.out
    assert f"  corrupt at offset {starts[3]}, {starts[4] - starts[3]} bytes: expected" in bad.out
    assert "8 records after it can be proven" in bad.out
    assert "left alone: stray" in bad.out
    assert bad.out.endswith("see what can be done: mpcheckpoint repair --store store\n")
    (row,) = rows.rows
    assert (row["log_key"], row["state"], row["damages"][0]["offset"]) == ("a", "corrupt", starts[3])
    assert json.loads(rows.out) == row


def test_verify_command_refuses_in_one_line_what_it_cannot_check(
    store: Path, log: Log, tmp_path: Path
) -> None:
    shell = CommandLine(tmp_path)
    assert "there is no store" in shell.refused("verify", "--store", "nowhere")
    assert "has no log 'b'" in shell.refused("verify", "--store", "store", "--key", "b")

    log_file(store).write_bytes(log_file(store).read_bytes().replace(b'"version":1', b'"version":9'))
    newer = shell.run("verify", "--store", "store")
    assert newer.code == 2
    assert newer.out.endswith(": 0 damaged, 1 could not be checked\n")
    assert "a: could not be checked" in newer.out
    assert "version 9" in newer.out


@pytest.mark.usefixtures("filled")
def test_verify_command_counts_the_damaged_log_of_a_store_that_has_no_other(
    store: Path, tmp_path: Path
) -> None:
    flip(store, line_starts(store)[3] + 20)

    assert ": 1 damaged\n" in CommandLine(tmp_path).run("verify", "--store", "store").out


def test_verify_command_into_a_closed_pipe_ends_quietly(store: Path, filled: Log) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [*MPCHECKPOINT, "verify", "--store", str(store)],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)

    assert process.stderr == b""
    assert process.returncode == -13


def test_verify_bar_appears_when_a_log_takes_long_and_is_gone_before_a_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[object] = []

    class Display:
        def __init__(self, what: str, total_bytes: int | None) -> None:
            shown.append((what, total_bytes))

        def show(self, done: int, total: int | None, failed: int = 0) -> None:
            shown.append((done, total))

        def close(self) -> None:
            shown.append("gone")

    monkeypatch.setattr(progress, "_byte_display", Display)
    monkeypatch.setattr(progress, "_SHOW_EVERY_S", 3600.0)
    bar = progress.ByteProgress("verify", 100, quiet_s=3600.0)
    bar.advance(10)
    assert shown == []
    monkeypatch.setattr(bar, "_quiet_until_s", 0.0)
    bar.advance(20)
    bar.advance(30)
    bar.pause()
    assert shown == [("verify", 100), (30, 100), (60, 100), "gone"]
