"""Command lines as others see them: in locks' holders, in messages, in what workers record."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import _system as system
from mpcheckpoint._system.command_line import shown_command
from mpcheckpoint._system.holders import _LONGEST_COMMAND_BYTES
from support.capabilities import require
from support.verbs import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--store", f"postgresql://u:{SECRET}@h/db#x"], "--store postgresql://u:***@h/db#x"),
        ([f"--store=postgresql://u:{SECRET}@h/db#x"], "--store=postgresql://u:***@h/db#x"),
        ([f"postgresql://u:{SECRET} {SECRET}@h/db"], "postgresql://u:***@h/db"),
        ([f"postgresql://u:%40{SECRET}@h/db"], "postgresql://u:***@h/db"),
        (["-c", f"Checkpoint('postgresql://u:{SECRET}@h/db')"], "-c Checkpoint('postgresql://u:***@h/db')"),
        ([f"postgresql://h/db?sslpassword={SECRET}&a=b#x"], "postgresql://h/db?sslpassword=***&a=b#x"),
        ([f"postgresql://h/db?scram_client_key={SECRET}"], "postgresql://h/db?scram_client_key=***"),
        ([f"postgresql%3A%2F%2Fu%3A{SECRET}%40h%2Fdb"], "postgresql%3A%2F%2Fu%3A***%40"),
        ([f"host=h password={SECRET} user=u"], "host=h password=*** user=u"),
        ([f"host=h password='{SECRET} \\' {SECRET}' user=u"], "host=h password=*** user=u"),
        ([f"host=h password = {SECRET}\\ {SECRET} user=u"], "host=h password = *** user=u"),
        (["env", f"PGPASSWORD={SECRET}", "psql"], "env PGPASSWORD=*** psql"),
        (["--db-password", SECRET, "x"], "--db-password *** x"),
        (["--db-password", "--x"], "--db-password --x"),
        ([f'{{"password": "{SECRET}", "x": 1}}'], '{"password": ***, "x": 1}'),
        (["postgresql://u:***@h/db?password=***#x"], "postgresql://u:***@h/db?password=***#x"),
        (["wc", "-l", "http://h:80/x", "a:b@c"], "wc -l http://h:80/x a:b@c"),
    ],
)
def test_command_line_is_shown_without_what_is_secret(words: list[str], shown: str) -> None:
    assert shown_command(words) == shown


@pytest.mark.parametrize("length", range(5, 40))
@pytest.mark.parametrize("whole", [f"postgresql://u:{SECRET}@h/db", f"h=x password='{SECRET} x'"])
def test_command_line_that_was_cut_is_shown_without_the_half_of_a_password(whole: str, length: int) -> None:
    shown = shown_command(["x", whole[:length]], is_cut=True)

    assert "s3" not in shown


def test_command_line_of_any_length_is_shown_soon_and_without_a_password() -> None:
    shown = shown_command(["x" * 20_000, f"--store=postgresql://u:{SECRET}@h/db"])
    cut = shown_command(["x" * 16_360 + f" postgresql://u:{SECRET}@h/db"])

    assert "s3" not in shown + cut
    assert len(cut) < 17_000


@pytest.mark.parametrize("filler", [0, _LONGEST_COMMAND_BYTES - 70, _LONGEST_COMMAND_BYTES])
def test_holder_of_a_lock_is_named_without_the_password_of_its_command_line(
    tmp_path: Path, filler: int
) -> None:
    path = tmp_path / "a.lock"
    path.touch()
    code = "import sys, fcntl; f = open(sys.argv[1]); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(path), "x" * filler, f"postgresql://u:{SECRET}@h/db"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"held\n"
            status = system.lock_status(str(path))
            require(status.holder is not None, "the system does not show all locks to this process")
            assert status.holder is not None
            assert status.holder.command is not None
            assert "-c import sys" in status.holder.command
            assert "s3c" not in status.holder.command
        finally:
            assert child.stdin is not None
            child.stdin.close()
    wait_until(lambda: system.lock_status(str(path)).holder is None, "it is free")
