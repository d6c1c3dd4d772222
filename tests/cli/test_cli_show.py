"""``mpcheckpoint show``, through real processes, and the times that commands take."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Position
from mpcheckpoint._cli.times import iso, parse_time
from support.shell import CommandLine
from support.verbs import become_a_new_process, inside, log_file, tree

if TYPE_CHECKING:
    from pathlib import Path

NOW_US = 1_793_536_200_123_456


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in a directory with a store: x in logs "a" and "b", \\x1b[31m in "a"."""
    with Checkpoint(tmp_path / "store") as checkpoint:
        a, b = checkpoint.log("a"), checkpoint.log("b")
        a.append("x", "UPLOADED")
        b.append("x", {"size": 10**30, "text": "ü\u202e\x7f"}, record_id="id-1")
        a.append("\x1b[31m\n", ["y" * 100])
        a.append("x", None)
    become_a_new_process()
    return CommandLine(tmp_path)


def test_show_prints_the_events_of_an_object_in_merged_order_and_changes_nothing(
    cli: CommandLine, store: Path
) -> None:
    before = tree(inside(store))
    records = list(Checkpoint(store, read_only=True).read(object_key="x"))

    lines = cli.good("show", "x", "--store", "store").out.splitlines()
    rows = cli.good("show", "x", "--store", "store", "--json").rows
    one = cli.good(
        "show", "x", "--store", "store", "--key", "b", "--since", "1h", "--until", "@9007199254"
    ).out

    assert tree(inside(store)) == before
    assert [line.split("  ")[0] for line in lines] == [iso(record.stamp_us) for record in records]
    assert [line.split("  ")[1] for line in lines] == [
        f"{record.log_key}@{record.position.offset}" for record in records
    ]
    assert lines[0].endswith('  "UPLOADED"')
    assert lines[2].endswith("  null")
    assert "\x7f" not in lines[1]
    for row, record in zip(rows, records, strict=True):
        assert (row["log_key"], row["object_key"], row["event"]) == (record.log_key, "x", record.event)
        assert (row["stamp_us"], row["record_id"]) == (record.stamp_us, record.record_id)
        assert Position.parse(row["position"]) == record.position
    assert json.dumps(10**30) in one


def test_show_alone_lists_the_objects_as_they_were_first_recorded(cli: CommandLine) -> None:
    lines = cli.good("show", "--store", "store").out.splitlines()
    rows = cli.good("show", "--store", "store", "--json").rows
    matched = cli.good("show", "--store", "store", "--match", "[!x]*", "--json").rows

    assert [line.split()[0] for line in lines] == ["3", "1"]
    assert lines[0].split()[2:] == ["x", "null"]
    assert "\x1b" not in lines[1]
    assert "\\x1b[31m\\n" in lines[1]
    assert lines[1].endswith("...")
    assert [(row["object_key"], row["count"], row["last"]["event"]) for row in rows] == [
        ("x", 3, None),
        ("\x1b[31m\n", 1, ["y" * 100]),
    ]
    assert [row["object_key"] for row in matched] == ["\x1b[31m\n"]


def test_show_of_what_is_not_there_ends_with_1_and_a_line(cli: CommandLine) -> None:
    for arguments, told in (
        (("show", "nix"), "no event of 'nix' in store"),
        (("show", "x", "--key", "b", "--until", "@1"), "no event of 'x' in b of store"),
        (("show", "--match", "nix*"), "no object that matches 'nix*' in store"),
    ):
        ended = cli.run(*arguments, "--store", "store")
        assert (ended.code, ended.out, ended.err) == (1, "", f"mpcheckpoint: {told}\n")


def test_show_refuses_bad_usage_and_places_in_one_line(cli: CommandLine) -> None:
    forms = cli.refused("show", "--store", "store", "--since", "yesterday")
    assert "'yesterday' is no time" in forms
    assert all(form in forms for form in ("2026-11-01T12:30", "@1793536200", "10s", "5m", "1h30m", "3d"))
    assert "later" in cli.refused("show", "--store", "store", "--since", "1s", "--until", "1h")
    assert "--match" in cli.refused("show", "x", "--store", "store", "--match", "x*")
    assert "has no log 'nix'" in cli.refused("show", "--store", "store", "--key", "nix")
    assert "there is no store" in cli.refused("show", "--store", "nix")


@pytest.mark.guarantee(6)
def test_show_beside_damage_prints_what_can_be_read_and_ends_with_2(cli: CommandLine, store: Path) -> None:
    data = log_file(store).read_bytes()
    log_file(store).write_bytes(data.replace(b"UPLOADED", b"UPLOADEX"))

    ended = cli.run("show", "x", "--store", "store", "--json")

    assert ended.code == 2
    assert [row["log_key"] for row in ended.rows] == ["b"]
    (line,) = ended.err.splitlines()
    assert "is corrupt at offset" in line
    assert cli.run("show", "--store", "store", "--key", "b").code == 0


# --- times ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected_us"),
    [
        ("@0", 0),
        ("@1793536200", 1_793_536_200_000_000),
        ("@1793536200.5", 1_793_536_200_500_000),
        ("@1.1234567", 1_123_456),
        ("10s", NOW_US - 10_000_000),
        ("1.5s", NOW_US - 1_500_000),
        ("5m", NOW_US - 300_000_000),
        ("2h", NOW_US - 7_200_000_000),
        ("3d", NOW_US - 3 * 86_400_000_000),
        ("1w", NOW_US - 7 * 86_400_000_000),
        ("999999999999d", 0),
        ("2026-11-01T12:30:00Z", 1_793_536_200_000_000),
        ("2026-11-01T13:30:00.25+01:00", 1_793_536_200_250_000),
        (" 2026-11-01 12:30:00+00:00 ", 1_793_536_200_000_000),
        ("2026-11-01T10:30", 1_793_536_200_000_000),  # local: two hours behind
        ("2026-11-01", 1_793_498_400_000_000),
        ("1969-12-31T00:00Z", 0),
    ],
)
def test_time_is_understood(text: str, expected_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_zone(monkeypatch, "XXX2")

    assert parse_time(text, NOW_US) == expected_us


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "5", "5 m", "-5m", "5M", "@", "@-1", "@1e9", "12:30", "2026", "20261101", "1793536200"),
        *(
            "2026-13-01",
            "2026-11-01T25:00",
            "10000-01-01",
            "2026-11-01T12:30+99:00",
            "0001-01-01T00:00+14:00x",
        ),
    ],
)
def test_time_that_is_none_is_refused(text: str) -> None:
    assert parse_time(text, NOW_US) is None


def test_time_is_printed_so_that_it_can_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    set_zone(monkeypatch, "XXX-5:30")
    for stamp_us in (0, 1, NOW_US, (1 << 53) - 1):
        assert parse_time(iso(stamp_us), 0) == stamp_us
    assert iso(NOW_US) == "2026-11-01T18:00:00.123456+05:30"
    assert iso(NOW_US, timespec="seconds") == "2026-11-01T18:00:00+05:30"


def set_zone(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Let this process live in a time zone until the test ends."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()


@pytest.fixture(autouse=True)
def _zone_of_before(monkeypatch: pytest.MonkeyPatch) -> object:
    yield
    monkeypatch.undo()
    time.tzset()
    return


def test_store_at_a_path_that_is_no_utf_8_is_shown_by_every_command(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/sp ace \xff \x1b[31m"
    with Checkpoint(os.fsdecode(place)) as checkpoint:
        checkpoint.log("a").append("x", 1)
    # Not a log of ours, for its name is none that a key could have.
    with open(place + b"/.checkpoint/\xff\x1b.jsonl", "wb") as stray:
        stray.write(b"?")
    commands = CommandLine(tmp_path)

    for command, code in (("ls", 1), ("verify", 1), ("repair", 2), ("doctor", 2), ("show", 2), ("tail", 2)):
        given = [os.fsdecode(place)] if command == "doctor" else ["--store", os.fsdecode(place)]
        for more in [["--json"], []][: 1 + (command in {"ls", "verify"})]:
            ended = commands.run(command, *given, *more)
            assert ended.code == code, ended
            assert "\x1b" not in ended.err
            assert "\x1b" not in ended.out
            assert more == [] or len(ended.rows) == len(ended.out.splitlines())
