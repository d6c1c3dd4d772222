"""What need not be typed: store and key, from the environment or the nearest settings file. And what says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.remembered import nearest_settings
from support.shell import CommandLine

if TYPE_CHECKING:
    from collections.abc import Mapping

OWN, PYPROJECT = "mpcheckpoint.toml", "pyproject.toml"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line in a directory deep below one with two stores, "one" and "two": logs "a" and "b" in each."""
    monkeypatch.delenv("MPCHECKPOINT_STORE", raising=False)
    monkeypatch.delenv("MPCHECKPOINT_KEY", raising=False)
    for name in ("one", "two"):
        with Checkpoint(tmp_path / name) as checkpoint:
            for log_key in ("a", "b"):
                list(checkpoint.log(log_key).map(str.upper, [f"{name} {log_key}"], jobs=1))
    (tmp_path / "deep" / "down").mkdir(parents=True)
    return CommandLine(tmp_path / "deep" / "down")


def top(cli: CommandLine) -> Path:
    return cli.directory.parent.parent


def results(cli: CommandLine, *options: str, env: Mapping[str, str] | None = None) -> list[str]:
    ended = cli.run("results", "--json", *options, env=env)
    assert ended.code == 0, ended
    return [row["item"] for row in ended.rows]


def write(path: Path, text: str) -> None:
    path.write_text(text)


# --- which value is taken ----------------------------------------------------------------------------------


def test_what_is_typed_goes_before_the_environment_and_that_before_a_file(cli: CommandLine) -> None:
    write(top(cli) / OWN, 'store = "one"\nkey = "a"\n')
    one, two = str(top(cli) / "one"), str(top(cli) / "two")

    assert results(cli) == ["one a"]
    assert results(cli, env={"MPCHECKPOINT_KEY": "b"}) == ["one b"]
    assert results(cli, env={"MPCHECKPOINT_STORE": two}) == ["two a"]
    assert results(cli, "--store", one, env={"MPCHECKPOINT_STORE": two, "MPCHECKPOINT_KEY": "b"}) == ["one b"]
    assert results(cli, "--key", "a", env={"MPCHECKPOINT_KEY": "b"}) == ["one a"]
    assert results(cli, env={"MPCHECKPOINT_STORE": "", "MPCHECKPOINT_KEY": ""}) == ["one a"]


def test_environment_alone_is_enough(cli: CommandLine) -> None:
    env = {"MPCHECKPOINT_STORE": str(top(cli) / "two"), "MPCHECKPOINT_KEY": "b"}

    assert results(cli, env=env) == ["two b"]


def test_nearest_file_counts_and_in_one_directory_our_own(cli: CommandLine) -> None:
    write(top(cli) / OWN, 'store = "one"\nkey = "a"\n')
    write(top(cli) / "deep" / PYPROJECT, '[tool.mpcheckpoint]\nstore = "../two"\nkey = "a"\n')
    assert results(cli) == ["two a"]

    write(top(cli) / "deep" / OWN, 'store = "../two"\nkey = "b"\n')
    assert results(cli) == ["two b"]

    write(cli.directory / OWN, 'store = "../../one"\n')  # a file is taken as a whole
    assert "Missing option '--key'" in cli.refused("results")


def test_pyproject_without_our_table_is_passed_over(cli: CommandLine) -> None:
    write(top(cli) / OWN, 'store = "one"\nkey = "a"\n')
    write(top(cli) / "deep" / PYPROJECT, '[project]\nname = "mpcheckpoint-user"\n')
    write(cli.directory / PYPROJECT, "this is no TOML, and none of our business\n")

    assert results(cli) == ["one a"]


def test_store_of_a_file_is_relative_to_it_or_to_home_or_absolute(cli: CommandLine, tmp_path: Path) -> None:
    for store, env in [
        ("./one", {}),
        (str(top(cli) / "one"), {}),
        ("~/one", {"HOME": str(top(cli))}),
    ]:
        write(top(cli) / "deep" / OWN, f'store = "{store.replace("./", "../")}"\nkey = "a"\n')
        assert results(cli, env=env) == ["one a"]


def test_command_without_a_store_asks_no_file(cli: CommandLine) -> None:
    write(cli.directory / OWN, "broken")
    one = str(top(cli) / "one")

    assert results(cli, "--store", one, "--key", "a") == ["one a"]
    assert cli.good("--version").out
    assert "Usage" in cli.good("results", "--help").out


def test_key_that_only_chooses_is_not_remembered(cli: CommandLine) -> None:
    env = {"MPCHECKPOINT_STORE": str(top(cli) / "one"), "MPCHECKPOINT_KEY": "a"}

    rows = cli.run("verify", "--json", env=env).rows

    assert sorted(row["log_key"] for row in rows if "log_key" in row) == ["a", "b"]


def test_map_takes_both_from_a_file(cli: CommandLine) -> None:
    write(top(cli) / OWN, 'store = "three"\nkey = "new"\n')

    cli.good("map", "--", "echo", ":::", "x")

    assert results(cli) == ["x"]
    assert (top(cli) / "three" / ".checkpoint" / "new.jsonl").exists()


def test_removed_directory_has_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert nearest_settings() is None
    monkeypatch.chdir(tmp_path)


# --- what is wrong with a file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        (OWN, 'stor = "one"', "has 'stor', which nothing reads; did you mean 'store'?"),
        (OWN, 'jobs = "4"', "has 'jobs', which nothing reads; there are 'store' and 'key'"),
        (OWN, "store = 1", "store is a string that is not empty, not 1"),
        (OWN, 'key = ""', "key is a string that is not empty, not ''"),
        (OWN, "store = [", "cannot read the settings in "),
        (
            PYPROJECT,
            '[tool.mpcheckpoint]\nkeys = ["a"]',
            "has 'keys', which nothing reads; did you mean 'key'?",
        ),
        (PYPROJECT, "[tool.mpcheckpoint\n", "cannot read the settings in "),
        (PYPROJECT, "[tool]\nmpcheckpoint = 1", "is no table"),
    ],
)
def test_file_with_a_mistake_is_refused_with_its_name(
    cli: CommandLine, name: str, text: str, complaint: str
) -> None:
    write(top(cli) / name, text)

    refusal = cli.refused("results")

    assert complaint in refusal
    assert str(top(cli) / name) in refusal


def test_file_that_cannot_be_read_is_told(cli: CommandLine) -> None:
    (top(cli) / OWN).mkdir()

    assert "cannot read the settings in" in cli.refused("results")


def test_url_in_a_file_is_refused_without_its_password(cli: CommandLine) -> None:
    write(top(cli) / OWN, 'store = "mysql://me:secret@host/db"\nkey = "a"\n')

    refusal = cli.refused("results")

    assert "a store is a directory" in refusal
    assert "secret" not in refusal


# --- where a value came from -------------------------------------------------------------------------------


def test_help_says_what_would_be_taken_and_from_where(cli: CommandLine) -> None:
    write(top(cli) / OWN, 'store = "one"\n')
    environment = {"MPCHECKPOINT_KEY": "b", "COLUMNS": "300"}

    said = "".join(cli.run("results", "--help", env=environment).out.split())  # it may be wrapped anywhere

    assert f"[envvar:MPCHECKPOINT_STORE;required][now../../one,from{top(cli) / OWN}]" in said
    assert "[envvar:MPCHECKPOINT_KEY;required][nowb,fromMPCHECKPOINT_KEY]" in said
    (top(cli) / OWN).unlink()
    assert "[now" not in cli.good("map", "--help").out
    write(top(cli) / OWN, "stor = 1\n")
    assert "has 'stor', which nothing reads" in " ".join(cli.good("results", "--help").out.split())


def test_error_says_where_the_values_came_from_that_it_is_about(cli: CommandLine) -> None:
    write(top(cli) / OWN, 'store = "nowhere"\nkey = "a"\n')
    origin = f"--store is ../../nowhere, from {top(cli) / OWN}"

    assert f"({origin}; --key is a, from {top(cli) / OWN})" in cli.refused("results")
    assert (
        f"({origin}; --key is b, from MPCHECKPOINT_KEY)"
        in cli.run("results", env={"MPCHECKPOINT_KEY": "b"}).err
    )
    assert "from" not in cli.refused("results", "--store", "nowhere", "--key", "a")
    assert "from" not in cli.refused("results", "--slowest", "none")


def test_error_about_one_option_says_where_that_one_came_from(cli: CommandLine) -> None:
    (cli.directory / "file").touch()
    write(cli.directory / OWN, 'store = "file"\nkey = "a"\n')

    refusal = cli.refused("results")

    assert "file is a file; a store is a directory" in refusal
    assert refusal.endswith(f"(--store is file, from {cli.directory / OWN})")


def test_passwords_in_values_are_not_shown(cli: CommandLine) -> None:
    ended = cli.run(
        "results", env={"MPCHECKPOINT_STORE": "mysql://me:secret@host/db", "MPCHECKPOINT_KEY": "a"}
    )

    assert ended.code == 2
    assert "secret" not in ended.err
    assert "secret" not in cli.run("results", "--help", env={"MPCHECKPOINT_STORE": "x://me:secret@host"}).out


def test_checkout_of_this_project_has_no_settings_of_its_own() -> None:
    assert nearest_settings() is None, os.getcwd()
