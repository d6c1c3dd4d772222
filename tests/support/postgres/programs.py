"""Where the programs of a PostgreSQL server are, and as whom they run."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from functools import cache
from pathlib import Path

from support.nobody import NOBODY

_DEBIAN = Path("/usr/lib/postgresql")
_COMMAND_TIMEOUT_S = 120
_USERS = ("postgres", "games", "daemon")


@cache
def server_programs() -> Path | None:
    """Return the directory of initdb and postgres: in PATH, where pg_config says, or Debian's newest; None without.

    Debian keeps them out of PATH, and its pg_config may be that of another version than the server's.
    """
    candidates = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    if shutil.which("pg_config"):
        asked = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
        candidates += [Path(asked.stdout.strip())] if asked.returncode == 0 else []
    versions = [path for path in _DEBIAN.glob("*") if path.name.isdecimal()]
    candidates += [path / "bin" for path in sorted(versions, key=lambda path: int(path.name), reverse=True)]
    for directory in candidates:
        if all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres", "pg_basebackup")):
            return directory
    return None


def server_user() -> int | None:
    """Return the user a server runs as if it is not this process's own: PostgreSQL refuses root.

    Not nobody, where there is another one: tests count how many processes nobody has.
    """
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return NOBODY


def give_to_server(path: Path) -> None:
    """Make the server's user the owner of a file or directory, and of everything in it."""
    user = server_user()
    if user is None:
        return
    os.chown(path, user, user, follow_symlinks=False)
    for parent, directories, files in os.walk(path):
        for name in (*directories, *files):
            os.chown(os.path.join(parent, name), user, user, follow_symlinks=False)


def run_program(name: str, *arguments: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run one of the programs to its end, as the server's user; raise RuntimeError with what it said if it fails."""
    programs = server_programs()
    if programs is None:
        raise FileNotFoundError(f"{name}: no programs of a PostgreSQL server are installed")
    user = server_user()
    done = subprocess.run(
        [programs / name, *arguments],
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        cwd="/",
        env=os.environ | {"LC_ALL": "C"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed with {done.returncode}: {done.stderr.strip()}")
