"""What people type: keys, stores, durations, and input as editors of other systems save it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.known_keys import shown_keys
from mpcheckpoint._cli.maps.items import ItemReader
from mpcheckpoint._cli.maps.template import Template
from mpcheckpoint._cli.terminal import items_done
from mpcheckpoint._cli.times import parse_duration, parse_time
from mpcheckpoint._work.inputs import NotYet
from support.shell import CommandLine
from support.verbs import become_a_new_process, log_file

if TYPE_CHECKING:
    from pathlib import Path

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in a directory with a store of three logs, and a file."""
    with Checkpoint(tmp_path / "store") as checkpoint:
        for log_key in ("photos", "squares", "Über"):
            checkpoint.log(log_key).append("x", 1)
    become_a_new_process()
    (tmp_path / "file").touch()
    return CommandLine(tmp_path)


# --- keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ls", "show", "tail", "verify", "repair", "results"])
def test_key_that_the_store_does_not_have_is_answered_with_those_it_has(
    cli: CommandLine, command: str
) -> None:
    refusal = cli.refused(command, "--store", "store", "--key", "Square")

    assert "has no log 'Square'; it has 'squares', 'photos', 'Über'" in refusal


def test_results_of_a_log_without_a_map_name_the_others(cli: CommandLine, store: Path) -> None:
    log_file(store, "squares").write_bytes(b"no log any more\n")  # it hides no other

    refusal = cli.refused("results", "--store", "store", "--key", "photos")

    assert refusal.endswith("no map has run on the log 'photos' of store; it has also 'Über'")


def test_import_of_older_files_names_the_keys_they_have(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "photos1612345678").write_text('{"a": "b"}\n')

    refusal = cli.refused("import", "--store", "store", "--key", "photo", "old")

    assert refusal.endswith("for the key 'photo'; it has 'photos'")


def test_keys_are_shown_close_ones_first_and_never_too_many() -> None:
    keys = [f"k{number:03}" for number in range(99)] + ["x\x1b[31m", "y" * 1000]

    assert shown_keys(keys, "K098").startswith("'k098', ")
    assert shown_keys(keys, "zzz").endswith(" and 91 more")
    assert len(shown_keys(keys, "y" * 900)) < 1000
    assert "\x1b" not in shown_keys(keys, "x[31m")
    assert shown_keys(["only"], "another") == "'only'"


# --- stores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("file", "file is a file; a store is a directory"),
        ("store/.checkpoint/photos.jsonl", "is a file; a store is a directory, here {}/store"),
        ("store/.checkpoint", "is the inside of a store; give the directory around it"),
        ("file/sub", "{}/file is no directory: a store is one"),
    ],
)
def test_file_that_is_given_as_a_store_is_called_that(
    cli: CommandLine, tmp_path: Path, place: str, told: str
) -> None:
    for command in (("ls",), ("tail",), ("results", "--key", "k"), ("map", "--key", "k", "true")):
        refusal = cli.refused(command[0], "--store", place, *command[1:])
        assert told.format(tmp_path) in refusal
    assert not (tmp_path / "store" / ".checkpoint" / ".checkpoint").exists()


# --- durations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        (" 5 ", 5.0),
        ("90s", 90.0),
        ("0.25s", 0.25),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
        ("1w2d3h4m5s", 788645.0),
        ("0", 0.0),
        *(
            (text, None)
            for text in ("", "-1", "-0.1", "nan", "inf", "1h30", "30m1h", "5 m", "5M", "1m1m", "h")
        ),
    ],
)
def test_duration_is_understood_or_refused(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


def test_duration_is_never_less_than_nothing() -> None:
    assert str(parse_duration("-0.0")) == "0.0"


def test_age_may_be_given_in_parts() -> None:
    assert parse_time("1h30m", 6_000_000_000) == 600_000_000


def test_durations_are_taken_wherever_seconds_are(cli: CommandLine) -> None:
    cli.good("map", "--store", "store", "--key", "new", "--timeout", "1h30m", "--retry-delay", "1m", "true")
    late = cli.run(
        *("map", "--store", "store", "--key", "late", "--timeout", "0.1s", "sleep"), stdin=b"1000\n"
    )
    cli.good("repair", "--store", "store", "--lock-timeout", "2m")

    assert "timed out after 0.1 s" in late.err
    for option in (("map", "--timeout"), ("map", "--retry-delay"), ("repair", "--lock-timeout")):
        arguments = ["--key", "k", "true"] if option[0] == "map" else []
        refusal = cli.refused(option[0], "--store", "store", option[1], "soon", *arguments)
        assert f"'{option[1]}': 'soon' is no duration: give seconds, as 90" in refusal
    assert "not above 0" in cli.refused("map", "--store", "s", "--key", "k", "--timeout", "0s", "true")
    assert "more than 100000000 s" in cli.refused("repair", "--store", "store", "--lock-timeout", "9999w")


# --- byte order marks -----------------------------------------------------------------------------------------


def test_byte_order_mark_is_treated_alike_by_import_and_map(cli: CommandLine, tmp_path: Path) -> None:
    lines = b'{"object_key": "a", "event": 1}\n{"object_key": "b", "event": 2}\n'
    for name, data in (("with", BYTE_ORDER_MARK + lines), ("without", lines)):
        (tmp_path / name).write_bytes(data)
        cli.good("import", "--store", f"import-{name}", "--key", "k", name)
        cli.good("map", "--store", f"map-{name}", "--key", "k", "-a", name, "true")
        cli.good("map", "--store", f"jsonl-{name}", "--key", "k", "-a", name, "--jsonl", "true", "{event}")

    for kind in ("import", "map", "jsonl"):
        with_mark, without = (Checkpoint(tmp_path / f"{kind}-{name}") for name in ("with", "without"))
        assert sorted(with_mark) == sorted(without)
        assert len(without) == 2


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named_as_such(cli: CommandLine, tmp_path: Path, encoding: str) -> None:
    text = '\ufeff{"object_key": "a", "event": 1}\n'
    (tmp_path / "input").write_bytes(text.encode(encoding))

    for refusal in (
        cli.refused("import", "--store", "new", "--key", "k", "input"),
        cli.refused("map", "--store", "new", "--key", "k", "-a", "input", "true"),
        cli.refused("map", "--store", "new", "--key", "k", "-a", "input", "--jsonl", "true"),
    ):
        assert "UTF-16; make it UTF-8 first: iconv -f UTF-16 -t UTF-8" in refusal


@pytest.mark.parametrize(
    ("pieces", "items"),
    [
        ([BYTE_ORDER_MARK + b"a\nb\n"], [b"a", b"b"]),
        ([b"\xef", b"\xbb", b"\xbf", b"a\n"], [b"a"]),
        ([b"\xef\xbb", b"x\n"], [b"\xef\xbbx"]),
        ([b"a\n" + BYTE_ORDER_MARK + b"b\n"], [b"a", BYTE_ORDER_MARK + b"b"]),
        ([BYTE_ORDER_MARK + BYTE_ORDER_MARK + b"a\n"], [BYTE_ORDER_MARK + b"a"]),
        ([BYTE_ORDER_MARK], []),
        ([b"\xef"], [b"\xef"]),
        ([b"\xff", b"\xfe\n"], [b"\xff\xfe"]),  # a name of bytes that are no text
        ([b"\xff\xfea\n"], [b"\xff\xfea"]),
    ],
)
def test_mark_is_dropped_at_the_start_only_however_it_arrives(
    pieces: list[bytes], items: list[bytes]
) -> None:
    reading, writing = os.pipe()
    lines = ItemReader(reading, is_null_separated=False)
    found = iter(lines)
    given: list[object] = []
    for piece in pieces:
        os.write(writing, piece)
        while not isinstance(entry := next(found), NotYet):
            given.append(entry.item)
    os.close(writing)
    given += [entry.item for entry in found if not isinstance(entry, NotYet)]
    os.close(reading)

    assert given == items
    assert lines.problem is None


def test_first_item_does_not_wait_for_the_bytes_of_a_mark() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a\n")

    entry = next(iter(ItemReader(reading, is_null_separated=False)))

    assert not isinstance(entry, NotYet)
    os.close(reading)
    os.close(writing)


# --- fields of JSON items, without --jsonl --------------------------------------------------------------------


def test_field_without_jsonl_gets_a_hint_and_is_passed_as_it_stands(cli: CommandLine) -> None:
    arguments = ("map", "--store", "store", "--key", "hint", "--print")

    ended = cli.run(*arguments, "echo", "{path}", "{}", stdin=b"a\n")

    assert (ended.code, ended.out) == (0, "{path} a\n")
    assert "mpcheckpoint map: {path} is passed as it stands; with --jsonl it would be a field" in ended.err
    hint = cli.run("map", "--store", "s", "--key", "k", "--dry-run", "echo", "-i{path}", stdin=b"a\n")
    assert "{path} is passed" in hint.err


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ((b"cut.sh", b"{path}", b"{start}"), "{path}"),
        ((b"echo", b"--in={a_b-1}"), "{a_b-1}"),
        *(
            ((b"echo", word), None)
            for word in (b"{}", b"{{x}}", b"${HOME}", b"{1}", b"{a,b}", b"a b {x}", b"{\xff}")
        ),
    ],
)
def test_word_that_looks_like_a_field_is_found(words: tuple[bytes, ...], field: str | None) -> None:
    assert Template(words, is_json=False).unfilled_field() == field
    assert Template(words, is_json=True).unfilled_field() is None


# --- one of them ----------------------------------------------------------------------------------------------


def test_one_is_not_told_as_many(cli: CommandLine, tmp_path: Path) -> None:
    mapped = ("map", "--store", "store", "--key", "one")
    said = [
        cli.run(*mapped, "--dry-run", "echo", stdin=b"1\n").err,
        cli.run(*mapped, "--output-limit", "1", "echo", stdin=b"1\n").err,
        cli.run("results", "--store", "store", "--key", "one").out,
        cli.run(*mapped[:-1], "two", "--jsonl", "echo", stdin=b"1\n{\n").err,
    ]
    (tmp_path / "part").write_bytes(b'{"object_key": "a", "event": 1}\n{')
    said.append(cli.run("import", "--store", "new", "--key", "k", "part").err)

    assert "1 of 1 item would run" in said[0]
    assert "mpcheckpoint: 1 item: 1 run now" in said[1]
    assert "[1 byte was not kept]" in said[2]
    assert "the 1 item before it is done and recorded" in said[3]
    assert "1 byte at its end, from offset 32, is no whole line, and was left" in said[4]
    assert [text for text in said if re.search(r"\b1 [a-z]+s\b", text)] == []


def test_items_done_are_counted_in_words_that_fit() -> None:
    assert [items_done(1, None), items_done(0, 1), items_done(1, 2)] == [
        "1 item done",
        "0 of 1 item done",
        "1 of 2 items done",
    ]
