"""``mpcheckpoint map`` grown up: retries, time limits, halting, printed outputs, items from files and JSON Lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._cli import main
from mpcheckpoint._cli.maps.items import BadItemError, json_input
from mpcheckpoint._cli.maps.template import JsonItem, MissingFieldError, Template
from support import process_tree
from support.shell import MPCHECKPOINT, CommandLine, Ended
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.processes import Child, Children


class Shell(CommandLine):
    """Maps commands in a directory."""

    def map(self, *arguments: str, items: str | bytes = b"", key: str = "k") -> Ended:
        """Run ``map`` with these options and command on two workers."""
        stdin = items.encode() if isinstance(items, str) else items
        return self.run("map", "--store", "store", "--key", key, "-j", "2", *arguments, stdin=stdin)

    def start(self, children: Children, items: str, *arguments: str, key: str = "k") -> Child:
        """Start ``map`` beside the test, at the head of a process group of its own; it says what it has to say into the
        file ``said``."""
        (self.directory / "items").write_text(items)
        with (self.directory / "said").open("wb") as said:
            return children.start_command(
                [
                    *MPCHECKPOINT,
                    "map",
                    "--store",
                    "store",
                    "--key",
                    key,
                    "-j",
                    "2",
                    "-a",
                    "items",
                    *arguments,
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What the one beside the test has said."""
        text = (self.directory / "said").read_text()
        assert "Traceback" not in text
        return text

    def log(self, key: str = "k") -> Log:
        """Return the log, to read."""
        return Checkpoint(self.directory / "store", read_only=True).log(key)

    @property
    def runs(self) -> list[str]:
        """What commands took a note of."""
        path = self.directory / "runs"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def run_map(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """``map`` within this process, which is quicker: where the test is not about how a process ends."""
    monkeypatch.chdir(shell.directory)

    def run(*arguments: str, items: str, key: str = "k") -> Ended:
        (shell.directory / "items").write_text(items)
        code = main(["map", "--store", "store", "--key", key, "-j", "2", "-a", "items", *arguments])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return Ended(code, printed.out, printed.err)

    return run


# Takes a note of each run; fails for an item that begins with "bad", and the first two times for one with "flaky".
NOTE = (
    "sh",
    "-c",
    'echo "$1" >> runs; echo "out $1"; case $1 in bad*) exit 3;; flaky*) test $(grep -c "$1" runs) -gt 2;; esac',
    "note",
)


# --- retries -----------------------------------------------------------------------------------------------


def test_command_that_fails_is_tried_again_and_each_attempt_is_told(shell: Shell) -> None:
    ended = shell.map("--retries", "2", "--retry-delay", "0.05", "--", *NOTE, items="flaky\nbad\na\n")

    assert ended.code == 1
    assert "attempt 1 of 3 failed: flaky: exit code 1; again in 0." in ended.err
    assert "attempt 2 of 3 failed: bad: exit code 3; again in 0." in ended.err
    assert "failed: bad: exit code 3 (3 attempts)" in ended.err
    assert "3 run now (2 ok, 1 failed)" in ended.err
    assert sorted(shell.runs) == ["a", "bad", "bad", "bad", "flaky", "flaky", "flaky"]
    rows = {
        row["item"]: row for row in shell.good("results", "--store", "store", "--key", "k", "--json").rows
    }
    assert {item: row["attempts"] for item, row in rows.items()} == {"flaky": 3, "bad": 3, "a": 1}
    text = shell.good("results", "--store", "store", "--key", "k").out
    assert "flaky  (3 attempts)\n    out flaky\n" in text
    assert "bad  (exit code 3, 3 attempts)\n" in text
    assert shell.log().events("flaky")[0]["value"] == {"exit_code": 1, "output": "out flaky\n"}


@pytest.mark.guarantee(8)
def test_map_killed_while_an_item_rests_goes_on_with_the_attempts_that_are_left(
    shell: Shell, children: Children
) -> None:
    child = shell.start(children, "bad\n", "--retries", "1", "--retry-delay", "0.2", "--", *NOTE)
    wait_until(lambda: "attempt 1 of 2 failed" in shell.said, "the first attempt has failed")
    child.kill()

    shell.map("--retries", "1", "--retry-delay", "0.2", "--", *NOTE, items="bad\n")

    assert shell.runs == ["bad"] * 2


def test_map_interrupted_while_an_item_rests_ends_at_once(shell: Shell, children: Children) -> None:
    child = shell.start(children, "bad\n", "--retries", "1", "--retry-delay", "1000", "--", *NOTE)
    wait_until(lambda: "again in" in shell.said, "the item rests")
    summary = shell.good("results", "--store", "store", "--key", "k", "--summary").out
    started_s = time.monotonic()

    os.kill(child.pid, signal.SIGINT)

    assert child.wait() == 130
    assert time.monotonic() - started_s < 10
    assert "Start the same line again to carry on" in shell.said
    assert "to retry  1\nunder way in process" in summary


# --- what the item is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item", ["a; touch taken", "$(touch taken)", "`touch taken`", '"; touch taken; "', "a 'b"]
)
def test_item_handed_to_a_shell_as_an_argument_is_no_part_of_the_script(item: str, shell: Shell) -> None:
    shell.map("--", "sh", "-c", 'echo "$1"', "sh", "{}", items=f"{item}\n")

    (outcome,) = shell.log().results()
    assert outcome.value == {"exit_code": 0, "output": f"{item}\n"}
    assert not (shell.directory / "taken").exists()


def test_item_written_into_a_script_is_run_as_the_help_says(shell: Shell) -> None:
    shell.map("--", "sh", "-c", "echo {}", items="a; touch taken\n")

    assert (shell.directory / "taken").exists()


def test_item_counts_by_its_name_and_with_a_checksum_by_that_too(shell: Shell) -> None:
    file = shell.directory / "file"
    for content in ("one", "two"):
        file.write_text(content)
        shell.map("--", "cat", items="file\n")
        shell.map(
            "--jsonl", "--", "cat", "{path}", items=f'{{"path":"file","sum":"{content}"}}\n', key="sums"
        )

    assert [outcome.value["output"] for outcome in shell.log().results()] == ["one"]
    assert [outcome.value["output"] for outcome in shell.log("sums").results()] == ["one", "two"]


# --- time limits -------------------------------------------------------------------------------------------


def test_command_whose_time_is_up_is_ended_with_all_it_has_started(shell: Shell) -> None:
    earlier = process_tree.living_descendants()
    command = 'echo begun; if [ "$1" = slow ]; then sleep 1000 & sleep 1000; fi'

    ended = shell.map("--timeout", "0.5", "--", "sh", "-c", command, "x", items="slow\na\n")

    assert ended.code == 1
    assert "failed: slow: timed out after 0.5 s" in ended.err
    assert process_tree.living_descendants() == earlier
    (failed,) = shell.good("results", "--store", "store", "--key", "k", "--failed", "--json").rows
    assert failed["value"] == {"exit_code": -signal.SIGTERM, "output": "begun\n"}
    assert 0.5 <= failed["duration_s"] < 5


def test_command_that_ignores_its_end_is_killed_and_one_that_closed_its_output_is_timed_too(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shell.directory / "sitecustomize.py").write_text(
        "import mpcheckpoint._cli.maps.run_command\nmpcheckpoint._cli.maps.run_command._GRACE_S = 0.2\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(shell.directory), prepend=os.pathsep)
    command = "trap '' TERM; [ $1 = quiet ] && exec >/dev/null 2>&1; while true; do sleep 0.1; done"

    ended = shell.map("--timeout", "0.3", "--", "sh", "-c", command, "x", items="loud\nquiet\n")

    assert ended.err.count("timed out after 0.3 s") == 2
    assert {outcome.value["exit_code"] for outcome in shell.log().results()} == {-signal.SIGKILL}


def test_command_that_is_quick_enough_keeps_its_outcome_and_its_daemon(
    shell: Shell, children: Children
) -> None:
    ended = shell.map("--timeout", "30", "--", "sh", "-c", "sleep 1000 & echo $1", "x", items="a\n")

    assert ended.code == 0
    assert [outcome.value["output"] for outcome in shell.log().results()] == ["a\n"]
    children.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_reaches_commands_with_a_time_limit_too(
    number: signal.Signals, shell: Shell, children: Children
) -> None:
    # What ends them is no SIGTERM: that would only come after a while.
    command = ("sh", "-c", "trap '' TERM; echo $1 >> runs; exec sleep 1000", "x")
    child = shell.start(children, "a\nb\nc\n", "--timeout", "500", "--", *command)
    wait_until(lambda: len(shell.runs) == 2, "two items run")
    started_s = time.monotonic()

    os.killpg(child.pid, number)

    assert child.wait() == 128 + number
    assert time.monotonic() - started_s < 6
    assert list(shell.log().results()) == []
    assert "what was running was given back" in shell.said


def test_second_ctrl_c_makes_short_work_of_commands_that_ignore_the_first(
    shell: Shell, children: Children
) -> None:
    command = ("sh", "-c", "trap '' INT TERM; echo $1 >> runs; while true; do sleep 0.1; done", "x")
    child = shell.start(children, "a\nb\n", "--", *command)
    wait_until(lambda: len(shell.runs) == 2, "two items run")
    started_s = time.monotonic()

    os.kill(child.pid, signal.SIGINT)
    wait_until(lambda: "waiting for 2 commands to end; Ctrl-C" in shell.said, "it says what it waits for")
    os.kill(child.pid, signal.SIGINT)

    assert child.wait() == 130
    assert time.monotonic() - started_s < 6  # seven seconds would be given to them otherwise
    assert list(shell.log().results()) == []


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("options", [(), ("--timeout", "500")])
def test_map_that_was_started_to_ignore_ctrl_c_is_not_ended_by_one(
    options: tuple[str, ...], shell: Shell, children: Children
) -> None:
    (shell.directory / "items").write_text("a\nb\n")
    command = ("sh", "-c", 'echo "$1" >> runs; until [ -e go ]; do sleep 0.1; done', "sh", "{}")
    ignoring = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")  # as a shell starts a job in the background
    map_arguments = ("map", "--store", "store", "--key", "k", "-j", "2", "-a", "items", *options, "--")
    child = children.start_command(
        [*ignoring, *MPCHECKPOINT, *map_arguments, *command],
        cwd=shell.directory,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: len(shell.runs) == 2, "two items run")

    os.killpg(child.pid, signal.SIGINT)
    (shell.directory / "go").touch()

    assert child.wait() == 0
    assert [outcome.ok for outcome in shell.log().results()] == [True, True]


# --- halting -----------------------------------------------------------------------------------------------


def test_map_that_halts_says_how_to_carry_on(shell: Shell, run_map: Callable[..., Ended]) -> None:
    items = "".join(f"item{number}\n" for number in range(20))
    first = run_map("--halt-on-error", "--", *NOTE, items=f"bad\n{items}")
    again = run_map("--halt-on-error", "--", *NOTE, items=f"bad\n{items}")

    assert first.code == again.code == 1
    assert "halted by a failure; what ran is recorded. Start the same line again" in first.err
    assert len(first.err.splitlines()) == 4
    assert "halted" not in again.err
    assert "21 items:" in again.err
    assert len(shell.runs) == 21


# --- printed outputs ---------------------------------------------------------------------------------------


def test_outputs_are_printed_in_the_order_of_the_items_also_those_of_before(
    shell: Shell, run_map: Callable[..., Ended]
) -> None:
    names = [f"item{number}" for number in range(8)]
    items = "".join(f"{name}\n" for name in names)
    # Later ones are quicker.
    command = ("sh", "-c", 'sleep 0.$((8 - ${1#item})); printf "<%s\\377>\\n" "$1"', "x")
    run_map("--", *command, items="item3\nitem5\n")

    whole = b"".join(b"<%s\xff>\n" % name.encode() for name in names)
    ended = subprocess.run(
        [*MPCHECKPOINT, "map", "--store", "store", "--key", "k", "-j", "3", "-k", "--", *command],
        input=items.encode(),
        cwd=shell.directory,
        capture_output=True,
        check=False,
        timeout=60,
    )
    unordered = run_map("--print", "--", *command, items=items)

    assert (ended.returncode, ended.stdout) == (0, whole)
    assert sorted(unordered.out.splitlines()) == sorted(whole.decode(errors="replace").splitlines())


def test_output_that_was_cut_is_printed_with_a_note_and_that_of_failures_too(
    run_map: Callable[..., Ended],
) -> None:
    ended = run_map(
        "-k", "--output-limit", "6", "--", "sh", "-c", "printf 123456789; exit $1", "x", items="0\n1\n"
    )

    assert ended.out == "123\n[3 bytes were not kept]\n789" * 2
    assert ended.code == 1


def test_reader_of_the_outputs_that_has_gone_ends_the_map_quietly(shell: Shell) -> None:
    source = (
        f"{' '.join(MPCHECKPOINT)} map --store store --key k -j 1 --print -- sh -c 'echo $1; sleep 0.1' x"
    )

    ended = subprocess.run(
        ["bash", "-c", f"yes | cat -n | ({source}; echo $? > code) 2> said | head -2"],
        cwd=shell.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert len(ended.stdout.splitlines()) == 2
    assert (shell.directory / "code").read_text() == f"{128 + signal.SIGPIPE}\n"
    assert shell.said == ""
    status = shell.log().map_status()
    assert status is not None
    assert (status.running, status.starts) == ((), ())


# --- items from files and JSON Lines -----------------------------------------------------------------------


def test_items_come_from_a_file_or_by_name_from_standard_input(
    shell: Shell, run_map: Callable[..., Ended]
) -> None:
    assert run_map("-k", "--", "echo", items="a\n\nb").out == "a\nb\n"
    assert run_map("--dry-run", "--", "echo", items="a\n\nb", key="other").out == "a\nb\n"
    assert shell.map("--items", "-", "-k", "--", "echo", items="c\n").out == "c\n"


def test_json_items_fill_their_fields_into_the_command(shell: Shell, run_map: Callable[..., Ended]) -> None:
    rows = [
        {"id": 7, "path": "a b", "tags": ["x", {"y": None}]},
        {"id": "seven", "path": "{id}", "tags": True},
    ]
    items = "\n \n".join(json.dumps(row) for row in rows)

    ended = run_map(
        "--jsonl", "--item-key", "id", "-k", "--", "echo", "{path}|{tags}", "{{path}}", "{}", items=items
    )

    assert ended.out == "".join(
        f"{row['path']}|{json.dumps(row['tags'], separators=(',', ':'))} {{path}} {json.dumps(row)}\n"
        for row in rows
    )
    results = {outcome.object_key: outcome.item for outcome in shell.log().results()}
    assert results == {"7": rows[0], "seven": rows[1]}


def test_json_items_without_a_key_are_known_by_their_value(
    shell: Shell, run_map: Callable[..., Ended]
) -> None:
    items = '"plain"\n{"b": 1, "a": [2]}\n3\n{"a":[2],"b":1}\nnull\n'

    ended = run_map("--jsonl", "-k", "--", "echo", items=items)

    assert ended.out == 'plain\n{"b": 1, "a": [2]}\n3\n{"b": 1, "a": [2]}\nnull\n'
    keys = [outcome.object_key for outcome in shell.log().results()]
    assert sorted(keys) == sorted(["plain", '{"a":[2],"b":1}', "3", "null"])


def test_broken_line_is_named_and_what_comes_before_it_is_done(shell: Shell) -> None:
    items = '{"id":0,"name":"a"}\n\n{"id":1,"name":"b"}\n{"id":\n{"id":9,"name":"z"}\n'
    options = ("--jsonl", "--item-key", "id", "-k")

    ended = shell.map(*options, "--", "sh", "-c", "sleep 0.1; echo $1", "x", "{name}", items=items)

    assert (ended.code, ended.out) == (2, "a\nb\n")
    assert "mpcheckpoint map: line 4 of standard input is no JSON" in ended.err
    assert "the 2 items before it are done and recorded" in ended.err
    assert "2 items: 2 run now" in ended.err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"id":', "is no JSON"),
        (b'"\xff"', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1]", "is no JSON object"),
        (b'{"x":1}', "has no field 'id', which --item-key names"),
        (b'{"id":true}', "has no string or number in the field 'id'"),
        (b'{"id":2}', "has no field 'name' for {name}"),
    ],
)
def test_line_that_is_no_item_is_refused_with_what_it_lacks(line: bytes, complaint: str) -> None:
    template = Template((b"echo", b"{name}"), is_json=True)

    with pytest.raises(BadItemError) as caught:
        json_input(template, "id", 0, line)

    assert str(caught.value).startswith(complaint)


def test_first_line_that_is_broken_is_one_line_and_runs_nothing(run_map: Callable[..., Ended]) -> None:
    for dry in ((), ("--dry-run",)):
        ended = run_map(*dry, "--jsonl", "--", "echo", items="oops\n1\n")
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.err.splitlines()) == 1
        assert "line 1 of items is no JSON" in ended.err


def test_other_item_under_the_same_key_is_refused_by_its_line(run_map: Callable[..., Ended]) -> None:
    ended = run_map("--jsonl", "--item-key", "id", "--", "true", items='{"id":1}\n{"id":1,"x":2}\n')

    assert ended.code == 2
    text = "the object key '1' came with another input than before: line 2 of items, "
    assert text + '{"id":1,"x":2}.' in ended.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["-a", "no-such-file", "true"],
            "cannot read the items from no-such-file: No such file or directory",
        ),
        (["-a", ".", "true"], "cannot read the items from .: Is a directory"),
        (["--item-key", "id", "true"], "take --jsonl"),
        (["--retries", "-1", "true"], "--retries"),
        (["--retry-delay", "nan", "true"], "--retry-delay"),
        (["--timeout", "0", "true"], "--timeout"),
        (["--timeout", "inf", "true"], "--timeout"),
        (["--jsonl", "--", "no-such-command", "{x}"], "no-such-command"),
    ],
)
def test_option_that_makes_no_sense_is_one_line_and_creates_nothing(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["map", "--store", "store", "--key", "k", *arguments]) == 2

    printed = capfd.readouterr()
    assert printed.out == ""
    assert complaint in printed.err
    assert len(printed.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# --- the command line as a template ------------------------------------------------------------------------


def json_item(value: object) -> JsonItem:
    fields = (
        {name.encode(): str(each).encode() for name, each in value.items()}
        if isinstance(value, dict)
        else None
    )
    text = json.dumps(value).encode()
    return JsonItem(text, text, fields)


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        ((b"e", b"{a}-{a}"), [b"e", b"1-1"]),
        ((b"e", b"{}"), [b"e", b'{"a": 1}']),
        ((b"e",), [b"e", b'{"a": 1}']),
        ((b"e", b"{{a}}"), [b"e", b"{a}", b'{"a": 1}']),
        ((b"e", b"{ a }{", b"{a; b}", b"{a}"), [b"e", b"{ a }{", b"{a; b}", b"1"]),
        ((b"e", b"{{}}"), [b"e", b"{}", b'{"a": 1}']),
    ],
)
def test_places_in_a_command_line_for_json(words: tuple[bytes, ...], argv: list[bytes]) -> None:
    assert Template(words, is_json=True).argv(json_item({"a": 1})) == argv


def test_field_that_an_item_lacks_is_an_error() -> None:
    for value in ({"b": 1}, [1], "a"):
        with pytest.raises(MissingFieldError, match="no field 'a'"):
            Template((b"e", b"{a}"), is_json=True).argv(json_item(value))


def test_names_in_braces_are_left_alone_without_json() -> None:
    template = Template((b"awk", b"{print}{{x}}", b"{}{}"), is_json=False)

    assert template.argv(b"i") == [b"awk", b"{print}{{x}}", b"ii"]
