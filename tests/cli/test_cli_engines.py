"""Each command on a store that is on a server: the engine in memory, at an address, in this process."""

from __future__ import annotations

import os
import pickle
import re
import sys
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Address, Checkpoint, maintenance
from mpcheckpoint import errors as errors_of_package
from mpcheckpoint._cli import main
from mpcheckpoint._cli.commands import cli
from mpcheckpoint._cli.completion import complete_key
from mpcheckpoint._cli.known_keys import keys_in
from mpcheckpoint._cli.terminal import without_passwords
from mpcheckpoint._engines import ENGINES, POSTGRES, RETRY_S
from mpcheckpoint.errors import (
    InvalidAddressError,
    MissingExtraError,
    NotForThisStoreError,
    StoreNotFoundError,
    UnknownSchemeError,
)
from support.here import CommandLineHere
from support.memory_engine import MEMORY, MemoryEngine
from support.processes import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.shell import Ended

PASSWORD = "s3cr3t"
PLACE = f"memory://u:{PASSWORD}@h/db?sslpassword={PASSWORD}#run"
SHOWN = "memory://u:***@h/db?sslpassword=***#run"
STORE = ["--store", PLACE]
PYTHON = [sys.executable, "-c"]
FAILS_FOR_B = [*PYTHON, "import sys; print('did', sys.argv[1]); sys.exit(sys.argv[1] == 'b')"]


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the engine in memory at addresses of its own, and at those of PostgreSQL."""
    for scheme in ("memory", "postgresql", "postgres"):
        monkeypatch.setitem(ENGINES, scheme, MEMORY)
    for variable in ("MPCHECKPOINT_STORE", "MPCHECKPOINT_KEY"):
        monkeypatch.delenv(variable, raising=False)
    yield
    MemoryEngine.forget_all()


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CommandLineHere:
    """Return what runs a command in this process, where its store is, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    return CommandLineHere(capfd, PASSWORD)


@pytest.fixture
def mapped(run: CommandLineHere) -> CommandLineHere:
    """The same, with a map of the items a and b in the log m, of which b failed, and a record of x in the log n."""
    assert run("map", *STORE, "--key", "m", "--", *FAILS_FOR_B, ":::", "a", "b").code == 1
    Checkpoint(PLACE).log("n").append("x", "SEEN")
    return run


# --- each command ------------------------------------------------------------------------------------------

# By command: its arguments, its exit code, and what is in its output.
WORKS: dict[str, list[tuple[list[str], int, str]]] = {
    "backup": [
        (["made"], 0, "2 logs as of"),
        (
            ["backup", "--compact"],
            2,
            f"a backup with compact is for stores in a directory, and {SHOWN} is on a",
        ),
        (["backup", "--skip-damaged"], 2, "a backup with skip_damaged is for stores in a directory"),
    ],
    "compact": [
        (["--superseded"], 1, "nothing was changed; the same line with --yes does it"),
        (["--superseded", "--yes"], 0, "1 log compacted"),
        (["--key", "n", "--keep-last", "1", "--json"], 0, '"log_key":"n"'),
    ],
    "copy": [
        (["made"], 0, "2 logs copied into"),
        ([PLACE.replace("#run", "#other")], 0, f"2 logs copied into {SHOWN.replace('#run', '#other')}"),
        ([PLACE], 2, f"{SHOWN} is the store itself"),
        ([f"memory://u:12#{PASSWORD}@h/db"], 2, "a / before the database is missing"),
    ],
    "doctor": [([], 1, "an append is in memory only")],
    "forget": [(["x"], 1, "n: 1 object, 1 event"), (["--yes", "x"], 0, "n: 1 object, 1 event forgotten")],
    "import": [(["--key", "i", "lines.jsonl"], 0, "1 record imported")],
    "ls": [([], 0, "whole"), (["-l", "--key", "m"], 0, "APPENDS"), (["--json"], 0, f'"path":"{SHOWN}"')],
    "map": [
        (["--key", "m", "--retry-failed", "--", *FAILS_FOR_B, ":::", "a", "b"], 1, f"--store '{SHOWN}'"),
        (["--key", "m", "--dry-run", "--", *FAILS_FOR_B, ":::", "b", "c"], 0, "c"),
        (["--key", "m", "--joblog", "job.log", "--", *FAILS_FOR_B, ":::", "a"], 0, "1 done already"),
    ],
    "report": [(["-o", "report.html"], 0, "report.html shows 1 log")],
    "results": [
        (["--key", "m"], 0, "did a"),
        (["--key", "m", "--summary"], 1, "1 ok, 1 failed"),
        (["--key", "m", "--watch"], 1, "failed: b: exit code 1"),
        (["--key", "m", "--failed", "--json"], 0, '"object_key":"b"'),
        (["--key", "n"], 2, f"no map has run on the log 'n' of {SHOWN}; it has also 'm'"),
        (["--key", "mm"], 2, "it has 'm', 'n'"),
    ],
    "show": [([], 0, "SEEN"), (["x"], 0, "SEEN"), (["y"], 1, f"no event of 'y' in {SHOWN}")],
    "tail": [([], 0, "SEEN"), (["-n", "1", "--json"], 0, '"object_key":"x"')],
    "top": [(["--once", "--interval", "0.1"], 0, SHOWN)],
}
# What is about files.
IN_DIRECTORIES = {
    "repair": [],
    "restore": ["backup"],
    "verify": [],
}


def test_each_command_is_tried_here() -> None:
    assert sorted([*WORKS, *IN_DIRECTORIES]) == sorted(cli.commands)


@pytest.mark.parametrize(
    ("command", "arguments", "code", "said"),
    [(command, *case) for command, cases in WORKS.items() for case in cases],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_command_does_on_a_server_what_it_does_in_a_directory(
    mapped: CommandLineHere, tmp_path: Path, command: str, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "lines.jsonl").write_text('{"object_key": "y", "event": "IMPORTED"}\n')
    store = [PLACE] if command == "doctor" else STORE

    ended = mapped(command, *store, *arguments)

    assert ended.code == code, ended
    assert said in ended.out + ended.err
    made = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert made == [each for each in arguments if each == "made"]


@pytest.mark.parametrize("command", IN_DIRECTORIES)
def test_command_about_files_says_that_it_is_not_for_this_store(run: CommandLineHere, command: str) -> None:
    ended = run(command, *STORE, *IN_DIRECTORIES[command])

    assert ended.code == 2
    assert ended.err == (
        f"mpcheckpoint: not for this store: mpcheckpoint {command} is for stores in a directory, and {SHOWN} is on a "
        "server\n"
    )
    assert not os.path.exists("backup")


def test_store_goes_from_a_server_to_a_directory_and_back(mapped: CommandLineHere) -> None:
    mapped("backup", *STORE, "made")
    mapped("copy", "--store", "made", "memory://u@h/db#back")

    with Checkpoint(PLACE) as here, Checkpoint("memory://u@h/db#back", create=False) as back:
        assert dict(back) == dict(here) != {}
        assert [record.stamp_us for record in back.read()] == [record.stamp_us for record in here.read()]


@pytest.mark.parametrize("command", [*WORKS, *IN_DIRECTORIES])
def test_bad_address_is_refused_without_repeating_it(run: CommandLineHere, command: str) -> None:
    bad = f"memory://u:12#{PASSWORD}@h/db"

    operands = ["target"] if command in ("backup", "copy") else []
    ended = run(command, *([bad] if command == "doctor" else ["--store", bad]), *operands)

    assert ended.code == 2
    assert "the address of the store is invalid: a / before the database is missing" in ended.err


def test_store_that_is_not_there_is_told(run: CommandLineHere) -> None:
    assert f"there is no store at {SHOWN}" in run("ls", *STORE).err
    assert "none here yet" in run("doctor", PLACE).out


def test_store_is_taken_from_the_environment(
    mapped: CommandLineHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPCHECKPOINT_STORE", PLACE)

    assert "did a" in mapped("results", "--key", "m").out
    assert f"now {SHOWN}, from MPCHECKPOINT_STORE" in " ".join(mapped("ls", "--help").out.split())
    assert f"--store is {SHOWN}, from MPCHECKPOINT_STORE" in mapped("results", "--key", "zz").err
    assert "memory in memory only" not in mapped("doctor").err


def test_store_is_taken_from_a_settings_file_that_has_no_password(
    mapped: CommandLineHere, tmp_path: Path
) -> None:
    Checkpoint("memory://u@h/db#filed").log("m").append("x", "FILED")
    settings = tmp_path / "mpcheckpoint.toml"

    settings.write_text('store = "memory://u@h/db#filed"\n')
    assert "FILED" in mapped("show", "x").out
    settings.write_text(f'store = "{PLACE}"\n')
    ended = mapped("show", "x")

    assert ended.code == 2
    assert "a settings file is no place for one" in ended.err
    assert PASSWORD not in mapped("show", "--help").out


def test_keys_of_a_store_on_a_server_are_completed(mapped: CommandLineHere) -> None:
    del mapped
    show = cli.commands["show"]
    with show.make_context("show", STORE.copy(), resilient_parsing=True) as context:
        found = complete_key(context, show.params[0], "")

    assert [each.value for each in found] == ["m", "n"]


# --- where a password could be ------------------------------------------------------------------------------


def test_commands_of_a_map_get_the_address_without_the_password(
    run: CommandLineHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPCHECKPOINT_STORE", PLACE)
    monkeypatch.setenv("PGPASSWORD", "from-the-user")
    shows = "import os; print(os.environ['MPCHECKPOINT_STORE'], os.environ['PGPASSWORD'])"

    assert run("map", "--key", "m", "--", *PYTHON, shows, ":::", "a").code == 0

    assert "memory://u@h/db#run from-the-user" in run("results", "--key", "m").out


def test_commands_of_a_map_get_no_address_that_cannot_be_read(
    run: CommandLineHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPCHECKPOINT_STORE", f"memory://{PASSWORD}")
    shows = "import os; print(os.environ.get('MPCHECKPOINT_STORE'))"

    assert run("map", *STORE, "--key", "m", "--", *PYTHON, shows, ":::", "a").code == 0

    assert "None" in run("results", *STORE, "--key", "m").out


def test_password_is_in_no_output_no_file_and_no_record(
    run: CommandLineHere, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``run`` looks for it in all that each command prints."""
    address = f"postgres://u:{PASSWORD}@h/db?sslpassword={PASSWORD}#run"
    store = ["--store", address]
    (tmp_path / "lines.jsonl").write_text('{"object_key": "y", "event": "IMPORTED"}\n')
    # A command that is given the store itself, as a word and within one.
    given = [*PYTHON, "import sys", address, f"--store={address}", f"psql '{address}' -c x"]
    run("map", *store, "--key", "m", "--joblog", "job.log", "--", *given, ":::", "a")
    run("import", *store, "--key", "i", "lines.jsonl")
    run("report", *store, "-o", "report.html")
    for words in (
        *(
            ["results", "--key", "m"],
            ["results", "--key", "m", "--summary"],
            ["results", "--key", "m", "--json"],
        ),
        *(["results", "--key", "m", "--joblog", "-"], ["results", "--key", "m", "-o", "results.csv"]),
        *(["ls", "--json"], ["show"], ["tail", "--json"], ["top", "--once", "--interval", "0.1"], ["verify"]),
        *(["backup", "made"], ["copy", "copied"], ["copy", f"{address}2"]),
    ):
        run(words[0], *store, *words[1:])

    assert "postgresql://u:***@h/db" in run("results", *store, "--key", "m", "--summary").out.replace(
        "s://", "sql://"
    )
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"job.log", "report.html", "results.csv"}
    for path in files:
        assert PASSWORD.encode() not in path.read_bytes(), path
    for content in MemoryEngine.all_contents():
        assert PASSWORD.encode() not in bytes(content.data)
    assert PASSWORD not in caplog.text


def test_map_whose_command_has_another_password_is_the_same_map(run: CommandLineHere) -> None:
    def mapped(password: str) -> Ended:
        command = [*PYTHON, "import sys", f"postgresql://u:{password}@h/db"]
        return run("map", *STORE, "--key", "m", "--", *command, ":::", "a")

    assert "1 run now" in mapped("old").err
    assert "1 done already" in mapped("new").err


def test_url_of_another_kind_stays_what_it_is_in_a_map(run: CommandLineHere) -> None:
    run("map", *STORE, "--key", "m", "--", *PYTHON, "", "https://u:known@h/x", ":::", "a")

    assert "https://u:known@h/x" in run("results", *STORE, "--key", "m", "--summary").out


# --- in Python ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [PLACE, Address.parse(PLACE)], ids=["text", "address"])
def test_checkpoint_at_an_address_is_the_same_object(place: str | Address) -> None:
    with Checkpoint(place) as checkpoint:
        checkpoint.log("a").append("x", "SEEN")
        copy = pickle.loads(pickle.dumps(checkpoint))

        assert copy["x"] == Checkpoint(PLACE, create=False, read_only=True)["x"] == ("SEEN",)
        assert repr(checkpoint) == repr(copy) == f"<Checkpoint {SHOWN}>"
        with pytest.raises(NotForThisStoreError, match="a backup with compact is for stores in a directory"):
            checkpoint.backup("backup", compact=True)
    with pytest.raises(errors_of_package.ClosedError, match=re.escape(f"the handle of {SHOWN} is closed")):
        checkpoint.log("a")
    assert not os.path.exists("backup")


def test_address_must_exist_unless_it_is_to_be_made() -> None:
    with pytest.raises(StoreNotFoundError, match=re.escape(SHOWN)):
        Checkpoint(PLACE, create=False)


@pytest.mark.parametrize(
    "look",
    [
        lambda place: list(maintenance.verify(place)),
        lambda place: list(maintenance.plan_repairs(place)),
        lambda place: list(maintenance.repair(place)),
        maintenance.size_in_bytes,
        maintenance.stray_files,
        lambda place: maintenance.plan_restore("backup", place),
        lambda place: maintenance.restore("backup", place),
        lambda place: maintenance.restore(place, "store"),
    ],
)
def test_function_about_files_says_that_it_is_not_for_this_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[str], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        NotForThisStoreError, match=r"not for this store: .* is for stores in a directory"
    ) as caught:
        look(PLACE)

    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.path == SHOWN
    assert list(tmp_path.iterdir()) == []


def test_survey_and_examination_are_of_the_server() -> None:
    Checkpoint(PLACE).log("a").append("x", "SEEN")

    (found,) = maintenance.survey(PLACE)
    examination = maintenance.examine(PLACE)

    assert (found.log_key, found.path, found.states, found.records) == ("a", SHOWN, ("whole",), 1)
    assert examination.directory == SHOWN
    assert [(each.check, each.verdict) for each in examination.findings] == [
        ("core", "ok"),
        ("durability", "warn"),
        ("store", "ok"),
    ]


@pytest.mark.parametrize("place", ["redis://h/db", "jdbc:memory://h/db", " memory://h/db", "memory:/h/db"])
def test_other_urls_are_refused_as_before(place: str) -> None:
    with pytest.raises(UnknownSchemeError, match="given as a URL"):
        Checkpoint(place)


def test_bad_address_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(InvalidAddressError):
        Checkpoint(f"memory://{PASSWORD}")
    with pytest.raises(InvalidAddressError):
        maintenance.verify(f"memory://{PASSWORD}")


def test_missing_library_of_a_server_is_named_with_what_installs_it(
    run: CommandLineHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "postgresql", POSTGRES)
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(MissingExtraError, match=re.escape("pip install 'mpcheckpoint[postgres]'")) as caught:
        Checkpoint("postgresql://u@h/db")
    assert caught.value.library == "psycopg"
    assert "pip install 'mpcheckpoint[postgres]'" in run("doctor", "postgresql://u@h/db").err


def test_directory_needs_no_library_of_a_server(tmp_path: Path) -> None:
    assert call(_libraries_after_use, str(tmp_path / "store")) == []


def _libraries_after_use(store: str) -> list[str]:
    Checkpoint(store).log("a").append("x", 1)
    assert main(["show", "--store", store]) == 0
    return [name for name in sys.modules if name.startswith("psycopg")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"at postgresql://u:{PASSWORD}@h/db#run; it has", "at postgresql://u:***@h/db#run; it has"),
        ("at postgresql://u:***@h/db?password=***#run; it has", None),
        (f"x://u:***{PASSWORD}@h", "x://u:***@h"),
        (f"x://h?password=***{PASSWORD}", "x://h?password=***"),
        (f"x://h?a=b&sslpassword={PASSWORD}&c=d", "x://h?a=b&sslpassword=***&c=d"),
    ],
)
def test_message_keeps_all_but_passwords(text: str, shown: str | None) -> None:
    assert without_passwords(text) == (text if shown is None else shown)


def test_hints_do_not_wait_for_a_server_that_does_not_answer(
    mapped: CommandLineHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits_s: list[float] = []

    def open_slow(address: Address, *, create: bool, read_only: bool, retry_s: float) -> MemoryEngine:
        waits_s.append(retry_s)
        return MemoryEngine(address, create=create, read_only=read_only, retry_s=retry_s)

    monkeypatch.setitem(ENGINES, "memory", MEMORY._replace(open=open_slow))

    assert keys_in(Address.parse(PLACE)) == ["m", "n"]
    assert waits_s == [0]
    mapped("ls", *STORE)
    assert waits_s == [0, RETRY_S]
