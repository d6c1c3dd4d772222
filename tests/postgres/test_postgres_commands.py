"""Each command, and what is sent between processes, on a store of a real server."""

from __future__ import annotations

import sys
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, maintenance
from mpcheckpoint.errors import NotForThisStoreError, StoreNotFoundError
from support.here import CommandLineHere
from support.postgres.addresses import PASSWORD
from support.postgres.handles import store_on

if TYPE_CHECKING:
    from pathlib import Path

    from support.postgres.cluster import Cluster

PYTHON = [sys.executable, "-c"]
FAILS_FOR_B = [*PYTHON, "import sys; print('did', sys.argv[1]); sys.exit(sys.argv[1] == 'b')"]


@pytest.fixture
def place(postgres_database: str) -> str:
    """Return the address of a store, with the password that the server asks for."""
    assert PASSWORD in postgres_database
    return f"{postgres_database}#run"


@pytest.fixture
def run(
    place: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CommandLineHere:
    """Return the command line in an empty directory, with the store in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPCHECKPOINT_STORE", place)
    monkeypatch.delenv("MPCHECKPOINT_KEY", raising=False)
    return CommandLineHere(capfd, PASSWORD)


# The arguments of each command, its exit code, and what is in its output. In this order: some change the store.
STEPS: list[tuple[list[str], int, str]] = [
    (["map", "--key", "m", "--", *FAILS_FOR_B, ":::", "a", "b"], 1, "2 run now (1 ok, 1 failed)"),
    (["map", "--key", "m", "--", *FAILS_FOR_B, ":::", "a", "b", "c"], 1, "1 run now"),
    (["import", "--key", "i", "lines.jsonl"], 0, "1 record imported"),
    (["import", "--key", "i", "lines.jsonl"], 0, "0 records imported, 1 before"),
    (["ls"], 0, "whole"),
    (["ls", "-l", "--json"], 0, '"states":["whole"]'),
    (["show"], 0, "IMPORTED"),
    (["show", "y"], 0, "IMPORTED"),
    (["tail", "-n", "1"], 0, "IMPORTED"),
    (["results", "--key", "m"], 0, "did a"),
    (["results", "--key", "m", "--summary"], 1, "2 ok, 1 failed"),
    (["results", "--key", "m", "--watch"], 1, "failed: b: exit code 1"),
    (["results", "--key", "mm"], 2, "there is no log 'mm'"),
    (["top", "--once", "--interval", "0.1"], 0, "postgresql://"),
    (["report", "-o", "report.html"], 0, "report.html shows 1 log"),
    (["doctor"], 0, "core"),
    (["forget", "y"], 1, "i: 1 object, 1 event"),
    (["forget", "--yes", "y"], 0, "forgotten"),
    (["compact", "--superseded"], 1, "nothing was changed"),
    (["compact", "--superseded", "--yes"], 0, "compacted"),
    (["show", "y"], 1, "no event of 'y'"),
    (["verify"], 2, "not for this store: mpcheckpoint verify is for stores in a directory"),
    (["repair"], 2, "not for this store"),
    (["backup", "backup"], 0, "2 logs as of"),
    (["backup", "backup", "--compact"], 2, "not for this store: a backup with compact"),
    (["copy", "copied"], 0, "2 logs copied into"),
    (["copy", "copied"], 0, "2 there already"),
    (["restore", "backup"], 2, "not for this store"),
]


def test_each_command_works_on_a_server_or_says_that_it_is_not_for_this_store(
    run: CommandLineHere, tmp_path: Path
) -> None:
    (tmp_path / "lines.jsonl").write_text('{"object_key": "y", "event": "IMPORTED"}\n')

    for arguments, code, said in STEPS:
        ended = run(*arguments)

        assert ended.code == code, (arguments, ended)
        assert said in ended.out + ended.err, (arguments, ended)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("backup", "copied", "lines.jsonl", "report.html"),
    ]
    assert PASSWORD not in (tmp_path / "report.html").read_text()


def test_store_that_is_not_there_is_told(place: str, run: CommandLineHere) -> None:
    assert run("ls").code == 2
    with pytest.raises(StoreNotFoundError):
        Checkpoint(place, create=False)


def test_handle_is_sent_to_a_spawned_process_with_its_password(place: str) -> None:
    with Checkpoint(place) as checkpoint:
        checkpoint.log("a")
        with get_context("spawn").Pool(2) as pool:
            pool.starmap(_append, [(checkpoint, number) for number in range(4)])

        assert sorted(checkpoint["x"]) == [0, 1, 2, 3]
        assert PASSWORD not in repr(checkpoint)


def _append(checkpoint: Checkpoint, number: int) -> None:
    checkpoint.log("a").append("x", number)


@pytest.mark.parametrize("told", ["--store={}", "{}", "Checkpoint('{}')", "x" * 150 + " {}"])
def test_password_of_a_command_line_is_in_no_row_and_no_message(
    place: str, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "job", told.format(place)])
    with Checkpoint(place) as checkpoint, checkpoint.log("a").claim("x") as claim:
        assert claim is not None
        (row,) = postgres.execute(
            "select command, w::text from mpcheckpoint.worker w",
            database=place.rpartition("/")[2].partition("#")[0],
        )
        (holder,) = store_on(place.partition("#")[0], "run").workers.holders([claim.worker]).values()

    assert row[0].startswith("python -m job")
    assert len(row[0]) <= 200
    for begun in range(5, len(PASSWORD) + 1):
        assert PASSWORD[:begun] not in f"{row}{holder}"


def test_examination_says_how_durable_the_server_is(place: str) -> None:
    Checkpoint(place)

    examination = maintenance.examine(place)

    assert {each.verdict for each in examination.findings} <= {"ok", "warn"}
    assert len(examination.findings) > 2
    assert PASSWORD not in repr(examination)


def test_functions_about_files_say_that_they_are_not_for_this_store(place: str) -> None:
    with pytest.raises(NotForThisStoreError):
        maintenance.verify(place)
    with pytest.raises(NotForThisStoreError):
        Checkpoint(place).backup("backup", compact=True)
