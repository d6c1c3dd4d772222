"""``mpcheckpoint compact`` from a shell: the plan, the deed, what is said of both, and how it ends early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.maintenance import stray_files
from support.shell import TIMEOUT_S, CommandLine
from support.verbs import become_a_new_process, inside, is_locked, log_file, tree, wait_until

if TYPE_CHECKING:
    from pathlib import Path

COMPACT = ("compact", "--store", "store")
DAY_US = 86400 * 1_000_000
# Appends from a process whose clock stands at the time given.
APPEND_AT = """
import sys
from mpcheckpoint import Checkpoint, _system as system
system.now_us = lambda: int(sys.argv[1])
with Checkpoint("store", durability="never") as checkpoint:
    for object_key in sys.argv[2:]:
        checkpoint.log("a").append(object_key, int(sys.argv[1]))
"""


@pytest.fixture
def shell(tmp_path: Path) -> CommandLine:
    """A command line beside a store with two logs: four records of each of five objects, and one record."""
    with Checkpoint(tmp_path / "store") as checkpoint:
        log = checkpoint.log("a")
        for number in range(20):
            log.append(f"o{number % 5}", number, record_id=f"id{number}")
        checkpoint.log("b").append("tmp/x", 1)
    become_a_new_process()
    return CommandLine(tmp_path)


def events(shell: CommandLine, log_key: str = "a") -> list[Any]:
    with Checkpoint(shell.directory / "store", read_only=True) as checkpoint:
        return [record.event for record in checkpoint.log(log_key).read()]


def contents(shell: CommandLine) -> tuple[dict[str, bytes], list[str]]:
    """Return what the logs are, and all other names in the store."""
    store = inside(shell.directory / "store")
    logs = {path.name: path.read_bytes() for path in store.glob("*.jsonl")}
    return logs, sorted(path.name for path in store.iterdir() if path.name not in logs)


def append_at(shell: CommandLine, stamp_us: int, *object_keys: str) -> None:
    subprocess.run(
        [sys.executable, "-c", APPEND_AT, str(stamp_us), *object_keys],
        cwd=shell.directory,
        env=os.environ | {"MPCHECKPOINT_PURE": "1"},
        check=True,
        timeout=TIMEOUT_S,
    )


# --- plan and deed --------------------------------------------------------------------------------------------


@pytest.mark.guarantee(12)
def test_compact_plans_then_does_it_then_has_nothing_to_do(shell: CommandLine) -> None:
    before, _ = contents(shell)
    size = len(before["a.jsonl"])

    plan = shell.run(*COMPACT, "--key", "a", "--keep-last", "1")

    heading, row, advice = plan.out.splitlines()
    assert (plan.code, plan.err) == (1, "")
    assert heading.split() == ["KEY", "BYTES", "LEFT", "RECORDS", "LEFT", "OBJECTS", "LEFT"]
    key, size_before, size_after, *counts = row.split()
    assert (key, int(size_before), size_after[0], counts) == ("a", size, "~", ["20", "5", "5", "5"])
    assert 0 < int(size_after[1:]) < size
    assert advice == "nothing was changed; the same line with --yes does it"
    assert contents(shell)[0] == before

    done = shell.good(*COMPACT, "--key", "a", "--keep-last", "1", "--yes")

    _, row, said, waited = done.out.splitlines()
    left = log_file(shell.directory / "store").stat().st_size
    assert row.split() == ["a", str(size), str(left), "20", "5", "5", "5"]
    assert said == f"1 log compacted, {size - left:,} bytes freed"
    assert waited.startswith("appends waited 0.")
    assert events(shell) == [15, 16, 17, 18, 19]
    with Checkpoint(shell.directory / "store", read_only=True) as checkpoint:
        assert checkpoint.log("a").count("o0") == 4

    again = shell.good(*COMPACT, "--key", "a", "--keep-last", "1", "--yes")
    assert again.out.splitlines()[-1] == "nothing to drop"


@pytest.mark.parametrize("more", [(), ("--yes",), ("--keep-ids", "1d"), ("--key", "a", "--json")])
def test_compact_without_a_rule_says_which_there_are_and_changes_nothing(
    shell: CommandLine, more: tuple[str, ...]
) -> None:
    before = tree(shell.directory)

    refusal = shell.refused(*COMPACT, *more)

    assert refusal.startswith("mpcheckpoint compact: say what may go: --keep-last N, --older-than DURATION,")
    assert "--drop PATTERN, --purge, or --superseded" in refusal
    assert tree(shell.directory) == before


def test_compact_of_all_logs_does_each_and_prints_one_object_for_each(shell: CommandLine) -> None:
    done = shell.good(*COMPACT, "--drop", "tmp/*", "--drop", "*3", "--yes", "--json")

    first, second = done.rows
    assert list(first) == [
        *("log_key", "bytes_before", "bytes_after", "records_before", "records_after"),
        *("objects_before", "objects_after", "longest_wait_s", "is_changed", "purged_bytes", "error"),
    ]
    assert (first["log_key"], first["records_before"], first["records_after"]) == ("a", 20, 16)
    assert (first["objects_before"], first["objects_after"]) == (5, 4)
    assert (second["log_key"], second["records_after"], second["is_changed"]) == ("b", 0, True)
    assert first["bytes_after"] == len(log_file(shell.directory / "store").read_bytes())
    assert 0 < first["longest_wait_s"] < TIMEOUT_S
    assert (events(shell).count(3), events(shell, "b")) == (0, [])


def test_compact_of_keys_that_are_given_twice_or_do_not_exist(shell: CommandLine) -> None:
    before, _ = contents(shell)

    assert len(shell.run(*COMPACT, "--key", "b", "--key", "b", "--superseded", "--json").rows) == 1
    refusal = shell.refused(*COMPACT, "--key", "a", "--key", "c", "--keep-last", "1", "--yes")
    assert "has no log 'c'; it has 'a', 'b'" in refusal
    assert contents(shell)[0] == before
    assert "there is no store" in shell.refused("compact", "--store", "nowhere", "--superseded")


def test_compact_of_several_logs_goes_on_after_one_that_cannot_be(shell: CommandLine) -> None:
    for log_key in ("c", "d"):
        with Checkpoint(shell.directory / "store") as checkpoint:
            checkpoint.log(log_key).append_many([("x", 1), ("x", 2)])
    become_a_new_process()
    store = shell.directory / "store"
    data = log_file(store).read_bytes()
    log_file(store).write_bytes(data.replace(b'"o1",1,', b'"o1",7,'))
    log_file(store, "c").write_bytes(
        log_file(store, "c").read_bytes().replace(b'"version":1', b'"version":9')
    )

    ended = shell.run(*COMPACT, "--keep-last", "1", "--yes")

    assert ended.code == 2
    assert [row.split()[0] for row in ended.out.splitlines()] == ["KEY", "b", "d"]
    assert [line.partition(":")[0] for line in ended.err.splitlines()] == ["mpcheckpoint"] * 2
    assert "corrupt" in ended.err
    assert "format version" in ended.err
    assert events(shell, "d") == [2]
    told = shell.run(*COMPACT, "--keep-last", "1", "--json")
    assert told.code == 2
    assert [(row["log_key"], row["is_changed"], row["error"] is None) for row in told.rows] == [
        ("a", False, False),
        ("b", False, True),
        (None, False, False),
        ("d", False, True),
    ]


# --- rules ----------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(12)
def test_compact_older_than_drops_by_age_and_keeps_what_keep_last_keeps(tmp_path: Path) -> None:
    shell, now_us = CommandLine(tmp_path), time.time_ns() // 1000
    old_us, older_us = now_us - 40 * DAY_US, now_us - 80 * DAY_US
    append_at(shell, older_us, "x", "y")
    append_at(shell, old_us, "x")
    append_at(shell, now_us, "x")

    assert shell.run(*COMPACT, "--older-than", "12w").code == 0
    shell.good(*COMPACT, "--older-than", "60d", "--keep-last", "1", "--yes")
    assert events(shell) == [older_us, old_us, now_us]  # the only one of y
    shell.good(*COMPACT, "--older-than", "30d", "--yes")
    assert events(shell) == [now_us]


def test_compact_older_than_counts_from_the_newest_record_if_the_clock_is_ahead(tmp_path: Path) -> None:
    shell, now_us = CommandLine(tmp_path), time.time_ns() // 1000
    append_at(shell, now_us - 2000 * DAY_US, "x")
    append_at(shell, now_us - 1999 * DAY_US, "x")

    shell.good(*COMPACT, "--older-than", "1500d", "--yes")
    assert len(events(shell)) == 2
    shell.good(*COMPACT, "--older-than", "12h", "--yes")
    assert len(events(shell)) == 1


def test_compact_superseded_drops_what_maps_left_and_no_record_of_others(shell: CommandLine) -> None:
    command = ("map", "--store", "store", "--key", "a", "--rerun")
    for name in ("one", "one", "two"):
        ended = shell.run(*command, name, "--retry-failed", "--", "false", stdin=b"item\n")
        assert ended.code == 1, ended
    before = len(events(shell))
    assert before > 22

    plan = shell.run(*COMPACT, "--key", "a", "--superseded", "--json")
    assert plan.code == 1
    shell.good(*COMPACT, "--key", "a", "--superseded", "--yes")

    assert events(shell)[:20] == list(range(20))
    assert len(events(shell)) == plan.rows[0]["records_after"] < before
    assert shell.run("results", "--store", "store", "--key", "a", "--summary").code == 1
    assert shell.good(*COMPACT, "--key", "a", "--superseded", "--yes").out.endswith("nothing to drop\n")


def test_compact_keeps_record_ids_for_as_long_as_it_is_told(shell: CommandLine) -> None:
    shell.good(*COMPACT, "--key", "a", "--keep-last", "1", "--yes")
    with Checkpoint(shell.directory / "store") as checkpoint:
        checkpoint.log("a").append("o0", "again", record_id="id0")
        assert "again" not in events(shell)
        checkpoint.log("a").append("o1", "new", record_id="new")
    become_a_new_process()
    shell.good(*COMPACT, "--key", "a", "--keep-last", "1", "--keep-ids", "0", "--yes")
    with Checkpoint(shell.directory / "store") as checkpoint:
        checkpoint.log("a").append("o0", "again", record_id="id0")
        assert "again" in events(shell)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--keep-last", "0"), "0 is not in the range x>=1"),
        (("--keep-last", "some"), "'some' is not a valid integer"),
        (("--older-than", "soon"), "'soon' is no duration: give seconds, as 90"),
        (("--keep-ids", "-1", "--superseded"), "'-1' is no duration"),
        (
            ("--superseded", "--limit-rate", "fast"),
            "'fast' is no rate: give bytes a second, as 500k, 20M or 1G",
        ),
        (("--superseded", "--limit-rate", "0"), "'0' is no rate"),
        (("--superseded", "--lock-timeout", "9999w"), "more than 100000000 s"),
    ],
)
def test_compact_with_a_bad_option_is_refused_before_anything_is_read(
    tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    assert complaint in CommandLine(tmp_path).refused("compact", "--store", "nowhere", *words)


# --- an early end ---------------------------------------------------------------------------------------------


def slowed(shell: CommandLine) -> tuple[str, ...]:
    """Return a command that takes two seconds to look at the log a, and two to copy it."""
    size = log_file(shell.directory / "store").stat().st_size
    return (*COMPACT, "--key", "a", "--keep-last", "1", "--yes", "--limit-rate", str(size // 2))


@pytest.mark.guarantee(12)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_compact_that_is_told_to_end_leaves_the_log_as_it_was_and_nothing_else(
    shell: CommandLine, number: signal.Signals
) -> None:
    shell.run(*COMPACT, "--superseded")  # makes the files beside the logs
    before, others = contents(shell)
    store = inside(shell.directory / "store")
    with shell.beside(*slowed(shell)) as command:
        wait_until(lambda: any(map(is_locked, store.glob("a.jsonl.*.tmp"))), "it copies")
        assert stray_files(shell.directory / "store") == []
        command.process.send_signal(number)
        ended = command.wait()

    assert (ended.code, ended.out) == (128 + number, "")
    assert ended.err == "mpcheckpoint: interrupted; each log is as it was, or compacted whole\n"
    assert contents(shell) == (before, others)


def test_compact_whose_output_is_a_pipe_that_closed_ends_quietly(shell: CommandLine) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [sys.executable, "-m", "mpcheckpoint", *COMPACT, "--superseded"],
        cwd=shell.directory,
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writing)
        _, said = process.communicate(timeout=TIMEOUT_S)

    assert (process.returncode, said) == (-signal.SIGPIPE, b"")


def test_compact_with_a_limit_takes_as_long_as_that_and_shows_how_far_it_is(shell: CommandLine) -> None:
    begun_s = time.monotonic()

    shown = shell.on_terminal(*slowed(shell))

    assert shown.code == 0
    assert time.monotonic() - begun_s >= 3.5
    assert "compact" in shown.out
    assert "3.3/3.3 kB" in shown.out


# --- narrow terminals, and what others say of it -------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 60])
def test_compact_on_a_narrow_terminal_fits(shell: CommandLine, columns: int) -> None:
    log_key = "a name that is far longer than it should be/and a long way down/日本の写真/photos"
    with Checkpoint(shell.directory / "store", durability="never") as checkpoint:
        for start in range(0, 3000, 1000):
            checkpoint.log(log_key).append_many(
                (f"o{number}", number) for number in range(start, start + 1000)
            )
    become_a_new_process()

    for more, code in (((), 1), (("--yes",), 0)):
        dropped = shell.on_terminal(*COMPACT, "--drop", "o1*", *more, columns=columns)
        assert dropped.code == code, dropped
        lines = dropped.out.splitlines()
        (row,) = [line for line in lines if line.startswith("a name")]
        assert row.split()[-1].isdigit()
        assert max(map(len, lines)) <= columns, lines


def test_a_store_that_was_compacted_has_no_file_that_is_not_part_of_it(shell: CommandLine) -> None:
    shell.good(*COMPACT, "--keep-last", "1", "--yes")
    assert inside(shell.directory / "store", "a.compact").read_bytes() == b""
    inside(shell.directory / "store", "zz.compact").touch()  # of no log

    verified = shell.good("verify", "--store", "store")
    assert "not part of the store, and left alone: zz.compact" in verified.out
    inside(shell.directory / "store", "zz.compact").unlink()

    assert "not part" not in shell.good("verify", "--store", "store").out
    assert len(shell.good("ls", "--store", "store", "--json").rows) == 2
