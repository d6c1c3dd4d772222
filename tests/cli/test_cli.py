"""The command line, through real processes: ``mpcheckpoint map`` and ``mpcheckpoint results``."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint, __version__, _core
from mpcheckpoint._cli.commands import cli
from mpcheckpoint._cli.maps.child import KeptOutput
from mpcheckpoint._cli.maps.items import ItemReader
from mpcheckpoint._format.byte_text import to_bytes, to_text
from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._work.inputs import Input, NotYet
from mpcheckpoint.maintenance import verify
from support.verbs import inside, log_file, tree, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.processes import Children

MPCHECKPOINT = [sys.executable, "-m", "mpcheckpoint"]
TIMEOUT_S = 60


class Shell:
    """Runs commands in a directory, and keeps count of what they ran."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.runs_file = directory / "runs"

    def run(
        self, *arguments: str | bytes, items: bytes = b"", **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``mpcheckpoint`` with these arguments and standard input."""
        return subprocess.run(
            [*MPCHECKPOINT, *arguments],
            input=items,
            cwd=self.directory,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            **options,
        )

    def map(
        self, *command: str | bytes, items: bytes, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        """Map a command over the items."""
        return self.run(*self.map_arguments(*options), "--", *command, items=items)

    @staticmethod
    def map_arguments(*options: str) -> list[str]:
        """Return the arguments before the command."""
        return ["map", "--store", "store", "--key", "k", "--jobs", "2", *options]

    def results(self, *options: str) -> list[dict[str, Any]]:
        """Return what ``results --json`` prints."""
        found = self.run("results", "--store", "store", "--key", "k", "--json", *options)
        assert found.returncode == 0, found.stderr
        return [json.loads(line) for line in found.stdout.splitlines()]

    def outputs(self) -> dict[str, str]:
        """Return the output that is kept of each item."""
        return {result["item"]: result["value"]["output"] for result in self.results()}

    @property
    def runs(self) -> list[str]:
        """The items that were run, once for each time."""
        return self.runs_file.read_text().splitlines() if self.runs_file.exists() else []


# Takes a note of each run, and fails for items that begin with "bad".
NOTE = ("sh", "-c", 'echo "$1" >> runs; case $1 in bad*) exit 3;; esac; echo "out $1"', "note")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def items_of(*names: str) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def said(ended: subprocess.CompletedProcess[bytes]) -> str:
    """Return what a command wrote to standard error, which is never a traceback."""
    text = ended.stderr.decode()
    assert "Traceback" not in text
    return text


# --- running -----------------------------------------------------------------------------------------------


def test_every_line_is_run_and_its_outcome_recorded(shell: Shell) -> None:
    ended = shell.map(*NOTE, items=items_of("a", "b", "c"))

    assert ended.returncode == 0, ended.stderr
    assert sorted(shell.runs) == ["a", "b", "c"]
    assert shell.outputs() == {"a": "out a\n", "b": "out b\n", "c": "out c\n"}
    assert ended.stdout == b""
    assert "3 items: 3 run now (3 ok, 0 failed), 0 done already" in said(ended)
    assert "mpcheckpoint results --store store --key k" in said(ended)
    assert list(inside(shell.store, "workers").iterdir()) == []


def test_same_line_again_runs_only_what_is_missing(shell: Shell) -> None:
    shell.map(*NOTE, items=items_of("a", "b"))

    ended = shell.map(*NOTE, items=items_of("a", "b", "c"))

    assert ended.returncode == 0
    assert sorted(shell.runs) == ["a", "b", "c"]
    assert "1 run now (1 ok, 0 failed), 2 done already" in said(ended)


def test_item_replaces_braces_wherever_they_stand(shell: Shell) -> None:
    shell.map("echo", "<{}>", "{}{}", "-{}", items=items_of("a b"))

    assert shell.outputs() == {"a b": "<a b> a ba b -a b\n"}


def test_item_is_appended_where_there_are_no_braces(shell: Shell) -> None:
    shell.map("echo", "x", items=items_of("a b"))

    assert shell.outputs() == {"a b": "x a b\n"}


def test_no_shell_comes_between(shell: Shell) -> None:
    item = "$(touch oops); touch 'oops' | `touch oops` *"

    shell.map("echo", items=items_of(item))

    assert shell.outputs() == {item: f"{item}\n"}
    assert not (shell.directory / "oops").exists()


def test_blank_lines_are_skipped_and_all_other_bytes_left_alone(shell: Shell) -> None:
    shell.map("printf", "%s|", items=b"\n a \n\n \t\r\n\r\nb\r\nlast")

    assert shell.outputs() == {" a ": " a |", "b\r": "b\r|", "last": "last|"}


def test_null_separated_items_may_hold_newlines(shell: Shell) -> None:
    shell.map("printf", "%s|", items=b"a\nb\0\0 \0c", options=("--null",))

    assert shell.outputs() == {"a\nb": "a\nb|", " ": " |", "c": "c|"}


def test_item_that_comes_twice_runs_once(shell: Shell) -> None:
    ended = shell.map(*NOTE, items=items_of("a", "b", "a", "a"))

    assert sorted(shell.runs) == ["a", "b"]
    assert "4 items: 2 run now" in said(ended)


def test_standard_input_of_a_command_is_empty(shell: Shell) -> None:
    shell.map("sh", "-c", "cat; echo done", items=items_of("a", "b"))

    assert set(shell.outputs().values()) == {"done\n"}


def test_options_of_the_command_need_no_dashes_before_it(shell: Shell) -> None:
    ended = shell.run(*shell.map_arguments(), "sh", "-c", "echo -n hi", items=b"a\n")

    assert (ended.returncode, shell.outputs()) == (0, {"a": "hi"})


def test_first_item_runs_before_standard_input_ends(shell: Shell, children: Children) -> None:
    child = children.start_command(
        [*MPCHECKPOINT, *shell.map_arguments(), "--", *NOTE],
        cwd=shell.directory,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert isinstance(child.process, subprocess.Popen)
    assert child.process.stdin is not None
    child.process.stdin.write(b"a\n")
    child.process.stdin.flush()

    wait_until(lambda: shell.runs == ["a"], "the first item was run")
    wait_until(lambda: len(shell.results()) == 1, "its outcome is there to be seen")
    child.process.stdin.write(b"b\n")
    child.process.stdin.close()

    assert child.wait() == 0
    assert shell.runs == ["a", "b"]


def test_commands_that_share_a_store_share_the_items_and_none_runs_twice(
    shell: Shell, children: Children
) -> None:
    names = [f"item{number}" for number in range(80)]
    (shell.directory / "items").write_bytes(items_of(*names))
    for _ in range(3):
        with (shell.directory / "items").open("rb") as stdin:
            children.start_command(
                [*MPCHECKPOINT, *shell.map_arguments(), "--", *NOTE], cwd=shell.directory, stdin=stdin
            )
    children.wait_all()

    assert sorted(shell.runs) == sorted(names)
    assert len(shell.results()) == len(names)


# --- names and outputs that are not UTF-8 ------------------------------------------------------------------


@given(st.binary() | st.text(alphabet="\\x0af5cé\n").map(str.encode))
def test_bytes_as_text_come_back_as_they_were(data: bytes) -> None:
    assert to_bytes(to_text(data)) == data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain name.txt", "plain name.txt"),
        ("é".encode(), "é"),
        (b"\xff", "\\xff"),
        (b"\\xff", "\\x5cxff"),
        (b"C:\\xyz\\n", "C:\\xyz\\n"),
        (b"\\x\xff", "\\x\\xff"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    ],
)
def test_bytes_as_text_are_readable(data: bytes, text: str) -> None:
    assert to_text(data) == text
    assert to_bytes(text) == data


def test_name_that_is_not_utf8_reaches_the_command_as_it_is(shell: Shell) -> None:
    name = os.fsencode(shell.directory) + b"/n\xff\xfe"
    Path(os.fsdecode(name)).write_text("content")
    looks_alike = os.fsencode(shell.directory) + b"/n\\xff\\xfe"
    Path(os.fsdecode(looks_alike)).write_text("other")

    ended = shell.map("cat", items=name + b"\n" + looks_alike + b"\n")

    assert ended.returncode == 0, ended.stderr
    outputs = {to_bytes(item): output for item, output in shell.outputs().items()}
    assert outputs == {name: "content", looks_alike: "other"}


def test_output_that_is_not_utf8_is_kept_reversibly(shell: Shell) -> None:
    shell.map("printf", "\\377\\\\xff{}", items=b"a\n")

    (output,) = shell.outputs().values()
    assert to_bytes(output) == b"\xff\\xffa"


def test_command_that_is_not_utf8_is_recorded_and_recognised(shell: Shell) -> None:
    shell.map("echo", b"\xff", items=b"a\n")

    assert shell.map("echo", b"\xff", items=b"a\n").returncode == 0
    assert shell.map("echo", b"\\xff", items=b"a\n").returncode == 2


def test_control_characters_of_a_name_do_not_reach_the_terminal(shell: Shell) -> None:
    ended = shell.map("false", items=b"a\x1b]0;title\x07\x9b\n")
    printed = shell.run("results", "--store", "store", "--key", "k")

    assert b"\x1b" not in ended.stderr + printed.stdout
    assert b"a\\x1b]0;title\\x07" in printed.stdout


# --- output ------------------------------------------------------------------------------------------------


def test_standard_output_and_standard_error_are_kept_together(shell: Shell) -> None:
    ended = shell.map("sh", "-c", "echo one; echo two >&2; echo three", items=b"a\n")

    assert shell.outputs() == {"a": "one\ntwo\nthree\n"}
    assert "two" not in said(ended)


def test_output_above_the_limit_is_cut_in_the_middle_and_that_is_said(shell: Shell) -> None:
    shell.map("seq", "1", items=b"100000\n", options=("--output-limit", "100"))

    (result,) = shell.results()
    value = result["value"]
    whole = "".join(f"{number}\n" for number in range(1, 100001))
    assert value["output"] == whole[:50]
    assert value["output_end"] == whole[-50:]
    assert value["left_out_bytes"] == len(whole) - 100
    printed = shell.run("results", "--store", "store", "--key", "k").stdout.decode()
    assert f"[{len(whole) - 100} bytes were not kept]" in printed


def test_output_limit_of_zero_keeps_nothing(shell: Shell) -> None:
    shell.map("echo", items=b"a\n", options=("--output-limit", "0"))

    assert shell.results()[0]["value"] == {
        "exit_code": 0,
        "output": "",
        "output_end": "",
        "left_out_bytes": 2,
    }


@given(st.lists(st.binary(max_size=40)), st.integers(0, 60))
def test_kept_output_is_the_beginning_and_the_end(parts: list[bytes], limit: int) -> None:
    kept = KeptOutput(limit)
    for part in parts:
        kept.add(part)
    fields = kept.fields()
    whole = b"".join(parts)

    beginning, end = to_bytes(str(fields["output"])), to_bytes(str(fields.get("output_end", "")))
    left_out = int(str(fields.get("left_out_bytes", 0)))
    assert whole.startswith(beginning)
    assert whole.endswith(end)
    assert len(beginning) + len(end) + left_out == len(whole)
    assert len(beginning) + len(end) == min(limit, len(whole))


def test_largest_output_that_can_be_asked_for_fits_into_a_record() -> None:
    kept = KeptOutput(8 * 1024 * 1024)
    kept.add(bytes(9_000_000))  # each takes six characters

    assert len(encode_payload("a", kept.fields()).event) > 6 * 8 * 1024 * 1024


def test_daemon_that_a_command_leaves_behind_holds_up_neither_the_map_nor_the_item(
    shell: Shell, children: Children
) -> None:
    # It keeps the command's output and the worker's descriptor open.
    ended = shell.map("sh", "-c", "sleep 1000 & echo started", items=items_of("a", "b", "c"))

    assert ended.returncode == 0, ended.stderr
    assert shell.outputs() == dict.fromkeys("abc", "started\n")
    assert shell.map("true", items=items_of("a"), options=("--rerun", "again")).returncode == 0
    children.end()


# --- failures ----------------------------------------------------------------------------------------------


def test_failed_items_give_exit_code_1_and_are_done_until_retry_failed(shell: Shell) -> None:
    first = shell.map(*NOTE, items=items_of("a", "bad1", "bad2"))
    assert first.returncode == 1
    assert "failed: bad1: exit code 3" in said(first)
    assert "--retry-failed" in said(first)

    again = shell.map(*NOTE, items=items_of("a", "bad1", "bad2"))
    assert again.returncode == 1
    assert "0 run now (0 ok, 0 failed), 3 done already (2 of them failed)" in said(again)

    retried = shell.map(*NOTE, items=items_of("a", "bad1", "bad2"), options=("--retry-failed",))
    assert retried.returncode == 1
    assert sorted(shell.runs) == ["a", "bad1", "bad1", "bad2", "bad2"]


def test_item_that_is_well_after_a_retry_gives_exit_code_0(shell: Shell) -> None:
    assert shell.map("cat", items=b"late\n").returncode == 1
    (shell.directory / "late").write_text("here")

    assert shell.map("cat", items=b"late\n", options=("--retry-failed",)).returncode == 0
    assert shell.outputs() == {"late": "here"}


@pytest.mark.parametrize(
    ("command", "error", "exit_code"),
    [
        (("sh", "-c", "exit 255"), "exit code 255", 255),
        (("sh", "-c", "kill -9 $$"), "killed by signal 9 (SIGKILL), 3 times", -9),
        (("sh", "-c", "kill -2 $$"), "killed by signal 2 (SIGINT)", -2),
    ],
)
def test_how_a_command_ended_is_recorded(
    command: tuple[str, ...], error: str, exit_code: int, shell: Shell
) -> None:
    shell.map(*command, items=b"a\n")

    (result,) = shell.results("--failed")
    assert (result["error"], result["value"]["exit_code"]) == (error, exit_code)


def test_item_for_which_the_command_cannot_be_started_has_failed(shell: Shell) -> None:
    ended = shell.map("./{}", items=items_of("nothing here"))

    assert ended.returncode == 1
    (result,) = shell.results()
    assert result["error"] == "could not be started: No such file or directory"


def test_item_with_a_nul_byte_has_failed(shell: Shell) -> None:
    shell.map("echo", items=b"a\0b\n")

    assert "could not be started: embedded null byte" in shell.results()[0]["error"]


# --- versions, reruns, dry runs ----------------------------------------------------------------------------


def test_changed_command_is_refused_with_what_to_do_and_runs_nothing(shell: Shell) -> None:
    shell.map("echo", "{}", items=b"a\n")

    ended = shell.map(*NOTE, items=b"b\n")

    assert ended.returncode == 2
    assert said(ended).count("\n") == 1
    assert "'echo {}'" in said(ended)
    assert "another --key" in said(ended)
    assert "--rerun" in said(ended)
    assert shell.runs == []


@pytest.mark.parametrize("changed", [("echo", "a b", "{}"), ("echo", "a", "b"), ("echo", "a", "b", "{}", "")])
def test_command_with_its_words_divided_otherwise_is_another_one(
    changed: tuple[str, ...], shell: Shell
) -> None:
    shell.map("echo", "a", "b", "{}", items=b"a\n")

    assert shell.map(*changed, items=b"a\n").returncode == 2


def test_rerun_runs_every_item_again_and_the_same_line_carries_on(shell: Shell) -> None:
    shell.map(*NOTE, items=items_of("a", "b"))

    ended = shell.map(*NOTE, items=items_of("a", "b"), options=("--rerun", "again"))
    shell.map(*NOTE, items=items_of("a", "b", "c"), options=("--rerun", "again"))
    without = shell.map(*NOTE, items=items_of("a", "b", "c"))

    assert "2 run now" in said(ended)
    assert "0 run now (0 ok, 0 failed), 3 done already" in said(without)
    assert sorted(shell.runs) == ["a", "a", "b", "b", "c"]
    assert len(shell.results()) == 3


def test_dry_run_prints_what_would_run_and_writes_nothing(shell: Shell) -> None:
    shell.map(*NOTE, items=items_of("a", "bad"))
    before = tree(shell.directory)

    ended = shell.map(*NOTE, items=items_of("a", "b", "bad", "b", "c"), options=("--dry-run",))
    retried = shell.map(*NOTE, items=items_of("a", "bad"), options=("--dry-run", "--retry-failed"))
    rerun = shell.map("echo", items=items_of("a"), options=("--dry-run", "--rerun", "again"))
    changed = shell.map("echo", items=items_of("a"), options=("--dry-run",))

    assert (ended.returncode, ended.stdout) == (0, b"b\nc\n")
    assert "2 of 4 items would run" in said(ended)
    assert retried.stdout == b"bad\n"
    assert rerun.stdout == b"a\n"
    assert changed.returncode == 2
    assert tree(shell.directory) == before


def test_dry_run_without_a_store_creates_none(shell: Shell) -> None:
    ended = shell.map("echo", items=b"a\xff\0b", options=("--dry-run", "--null"))

    assert (ended.returncode, ended.stdout) == (0, b"a\xff\0b\0")
    assert list(shell.directory.iterdir()) == []


# --- bad usage and bad luck --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["map", "--store", "s", "--key", "k"], "Missing argument 'COMMAND...'"),
        (["map", "--store", "s", "--", "true"], "Missing option '--key'"),
        (["map", "--key", "k", "--", "true"], "Missing option '--store'"),
        (["map", "--store", "s", "--key", "k", "--jobs", "0", "true"], "--jobs"),
        (["map", "--store", "s", "--key", "k", "--output-limit", "99999999", "true"], "--output-limit"),
        (["map", "--store", "s", "--key", "k", "--nonsense", "true"], "--nonsense"),
        (["map", "--store", "s", "--key", "k", "--", "no-such-command-here"], "no-such-command-here"),
        (["map", "--store", "s", "--key", "k", "--", "./no-such-file"], "./no-such-file"),
        (["map", "--store", "s", "--key", b"\xff", "--", "true"], "key"),
        (["nonsense"], "nonsense"),
        (["results", "--store", "s", "--key", "k"], "no store"),
        (["results", "--store", "s"], "--key"),
    ],
)
def test_bad_usage_is_one_line_on_standard_error_and_exit_code_2(
    arguments: list[str | bytes], complaint: str, shell: Shell
) -> None:
    ended = shell.run(*arguments, items=b"a\n")

    assert ended.returncode == 2
    assert ended.stdout == b""
    assert said(ended).startswith("mpcheckpoint")
    assert said(ended).count("\n") == 1
    assert complaint in said(ended)
    assert not list(shell.directory.rglob("*.jsonl"))


def test_command_that_is_missing_creates_no_store(shell: Shell) -> None:
    assert shell.map("no-such-command-here", items=b"a\n").returncode == 2
    assert list(shell.directory.iterdir()) == []


def test_store_that_is_a_file_is_one_line_and_exit_code_2(shell: Shell) -> None:
    shell.store.write_text("a file")

    ended = shell.map("true", items=b"a\n")

    assert (ended.returncode, said(ended).count("\n")) == (2, 1)
    assert "store" in said(ended)


def test_damaged_log_is_one_line_and_exit_code_2(shell: Shell) -> None:
    shell.map("echo", items=items_of("a", "b", "d"))
    path = log_file(shell.store, "k")
    content = bytearray(path.read_bytes())
    content[content.index(b'"map"') + 1] ^= 1  # many lines behind it state that it is durable
    path.write_bytes(content)

    for ended in (
        shell.map("echo", items=b"c\n"),
        shell.run("results", "--store", "store", "--key", "k"),
        shell.map("echo", items=b"c\n", options=("--dry-run",)),
    ):
        assert ended.returncode == 2
        assert "corrupt at offset" in said(ended)
        assert said(ended).count("\n") == 1


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda log: log.append("x", 1), "no map has run"),
        (lambda log: None, "no map has run"),
    ],
)
def test_results_of_a_log_without_a_map_are_an_error(
    break_it: Callable[[Any], object], complaint: str, shell: Shell
) -> None:
    break_it(Checkpoint(shell.store).log("k"))

    ended = shell.run("results", "--store", "store", "--key", "k")

    assert ended.returncode == 2
    assert complaint in said(ended)


def test_item_without_end_is_refused(shell: Shell) -> None:
    ended = shell.map("true", items=b"a\n" + b"b" * 3_000_000)

    assert ended.returncode == 2
    assert "item 2 is longer" in said(ended)


def test_closed_standard_input_is_one_line_and_exit_code_2(shell: Shell) -> None:
    command = " ".join([*MPCHECKPOINT, *shell.map_arguments(), "true", "<&-"])

    ended = subprocess.run(
        ["sh", "-c", command], cwd=shell.directory, capture_output=True, timeout=TIMEOUT_S, check=False
    )

    assert ended.returncode == 2
    assert "cannot read the items" in said(ended)


def test_reader_of_the_output_that_has_gone_is_no_reason_for_words(shell: Shell) -> None:
    shell.map("echo", items=items_of(*map(str, range(50))), options=("--output-limit", "100000"))
    source = " ".join([*MPCHECKPOINT, "results --store store --key k"])

    # The reader has gone before anything is written.
    ended = subprocess.run(
        ["bash", "-c", f"(sleep 0.01; {source}; echo $? > code) | true"],
        cwd=shell.directory,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ended.stderr == b""
    assert (shell.directory / "code").read_text() == f"{128 + signal.SIGPIPE}\n"


# --- results, help -----------------------------------------------------------------------------------------


def test_results_are_printed_for_people_and_for_programs(shell: Shell) -> None:
    shell.map(*NOTE, items=items_of("a", "bad"))

    printed = shell.run("results", "--store", "store", "--key", "k").stdout.decode()
    failed = shell.run("results", "--store", "store", "--key", "k", "--failed").stdout.decode()

    assert re.search(r"^ok +\d+\.\d{3} s  a\n    out a$", printed, re.MULTILINE)
    assert re.fullmatch(r"failed +\d+\.\d{3} s  bad  \(exit code 3\)\n", failed)
    by_item = {result["item"]: result for result in shell.results()}
    assert set(by_item["a"]) == {
        *("item", "object_key", "ok", "error", "duration_s", "attempts", "value", "rerun", "version"),
        *("began", "ended", "worker"),
    }
    assert by_item["a"]["value"] == {"exit_code": 0, "output": "out a\n"}
    assert [result["item"] for result in shell.results("--failed")] == ["bad"]


def fail_badly(item: int) -> int:
    return 10 // item


def test_results_of_a_map_in_python_are_printed_too(shell: Shell) -> None:
    list(Checkpoint(shell.store).log("k").map(fail_badly, [0, 5], key=str, jobs=1))

    printed = shell.run("results", "--store", "store", "--key", "k").stdout.decode()

    assert "ZeroDivisionError" in printed
    assert "in fail_badly" in printed
    assert re.search(r"  5\n    2$", printed, re.MULTILINE)


def test_version_is_that_of_the_package(shell: Shell) -> None:
    said = shell.run("--version").stdout.decode()

    assert said == f"mpcheckpoint {__version__} ({_core.description()})\n"


@pytest.mark.parametrize("arguments", [["--help"], ["map", "--help"], ["results", "--help"]])
def test_help_holds_an_example(arguments: list[str], shell: Shell) -> None:
    ended = shell.run(*arguments)

    assert ended.returncode == 0
    assert b"Example:\n    " in ended.stdout
    if "map" in arguments:
        assert b"At least once" in ended.stdout


def test_no_arguments_at_all_print_the_help_and_exit_code_2(shell: Shell) -> None:
    ended = shell.run()

    assert ended.returncode == 2
    assert b"map " in ended.stderr


# --- signals and terminals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGINT, False, 130), (signal.SIGTERM, False, 143)],
)
def test_interrupted_map_gives_back_what_runs_and_says_how_to_carry_on(
    number: signal.Signals, to_group: bool, code: int, shell: Shell, children: Children
) -> None:
    # The first item is done, two others run until they are interrupted.
    command = ("sh", "-c", 'echo "$1" >> runs; [ "$1" = first ] || [ -e go ] || exec sleep 1000', "wait")
    items = items_of("first", "second", "third", "fourth")
    (shell.directory / "items").write_bytes(items)
    with (shell.directory / "items").open("rb") as stdin, (shell.directory / "said").open("wb") as stderr:
        child = children.start_command(
            [*MPCHECKPOINT, *shell.map_arguments(), "--", *command],
            cwd=shell.directory,
            stdin=stdin,
            stderr=stderr,
            start_new_session=True,
        )
    wait_until(lambda: len(shell.runs) == 3, "two items run")

    (os.killpg if to_group else os.kill)(child.pid, number)

    assert child.wait() == code
    message = (shell.directory / "said").read_text()
    assert "Traceback" not in message
    assert "interrupted; what is done is recorded" in message
    assert "Start the same line again to carry on" in message
    assert [result["item"] for result in shell.results()] == ["first"]
    (shell.directory / "go").touch()
    assert shell.map(*command, items=items).returncode == 0
    assert shell.runs.count("first") == 1
    assert len(shell.results()) == 4


def test_progress_on_a_terminal_is_a_bar(shell: Shell) -> None:
    (shell.directory / "items").write_bytes(items_of("a", "bad", "c"))
    ours, theirs = pty.openpty()
    with (shell.directory / "items").open("rb") as stdin:
        process = subprocess.Popen(
            [*MPCHECKPOINT, *shell.map_arguments(), "--", *NOTE],
            cwd=shell.directory,
            stdin=stdin,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        )
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        shown += data
    os.close(ours)

    assert process.wait(TIMEOUT_S) == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "3/3" in text
    assert "━" in text
    assert "1 failed" in text
    assert "failed: bad: exit code 3" in text
    assert "3 items: 3 run now" in text


# --- the reader of items -----------------------------------------------------------------------------------


def test_items_are_read_ahead_in_bounded_memory_and_never_waited_for(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    lines = ItemReader(reading, is_null_separated=False)
    source = iter(lines)
    assert isinstance(next(source), NotYet)
    os.write(writing, b"a\nb\nhalf")

    first, second = next(source), next(source)

    assert isinstance(first, Input)
    assert isinstance(second, Input)
    assert (first.object_key, second.place, lines.count, lines.is_at_end) == ("a", 1, 2, False)
    assert isinstance(next(source), NotYet)
    os.close(writing)
    last = next(source)
    assert isinstance(last, Input)
    assert (last.item, lines.is_at_end) == (b"half", True)
    assert next(source, None) is None
    os.close(reading)

    large = tmp_path / "items"
    large.write_bytes(b"a" * 99 + b"\n" + (b"b" * 99 + b"\n") * 200_000)
    with large.open("rb") as file:
        lines = ItemReader(file.fileno(), is_null_separated=False)
        next(iter(lines))
        assert lines.count < 50_000


@pytest.mark.parametrize(("closed", "code"), [(">&-", 2), ("2>&-", 0)])
def test_closed_output_takes_no_files_place_and_is_no_reason_for_a_traceback(
    shell: Shell, closed: str, code: int
) -> None:
    mapped = " ".join([*MPCHECKPOINT, *shell.map_arguments(), "echo {}"])
    looks = " && ".join(
        f"{{ {' '.join(MPCHECKPOINT)} {each} --store store {closed}; test $? -eq {code}; }}"
        for each in ("ls", "show", "tail", "verify --json")
    )

    ended = subprocess.run(
        ["sh", "-c", f"printf '1\\n2\\n' | {mapped} {closed} && {looks}"],
        cwd=shell.directory,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ended.returncode == 0, ended
    assert b"Traceback" not in ended.stderr
    assert b"items" not in ended.stdout  # what is said on standard error goes nowhere else
    assert [each.state for each in verify(shell.directory / "store")] == ["whole"]


# --- the start ---------------------------------------------------------------------------------------------


def test_command_imports_nothing_of_the_others(tmp_path: Path) -> None:
    program = (
        "import sys; from mpcheckpoint._cli import main; main(['map', '--store', 's', '--key', 'k', '--', 'true', "
        "':::', 'a']); print(*(name for name in sys.modules if name.startswith('mpcheckpoint.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.removeprefix("mpcheckpoint.") for name in done.stdout.split()}

    of_commands = {name for name in loaded if name.startswith("_cli.") and name.endswith("_command")}
    assert of_commands == {"_cli.maps.map_command", "_cli.maps.run_command"}
    assert "maintenance" not in loaded


def test_each_command_is_known_by_its_own_name() -> None:
    assert {name: command.name for name, command in cli.commands.items()} == {
        name: name for name in cli.commands
    }
