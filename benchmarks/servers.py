"""A PostgreSQL server for a benchmark: one that is started, on a disk of choice, or one that is there already."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_USER, _DATABASE = "benchmark", "postgres"
_DEBIAN = Path("/usr/lib/postgresql")
_NOBODY = 65534
_START_TIMEOUT_S = 60.0
_STEP_S = 0.02
# As it comes, but for what lets two of them run at once. What is durable, above all, is as it comes.
_SETTINGS = ("dynamic_shared_memory_type=mmap", "huge_pages=off", "max_connections=50")


@contextmanager
def server(directory: Path, address: str | None) -> Iterator[str]:
    """Give the address of a database: the one that was given, or that of a new server whose data is in ``directory``.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
        RuntimeError: the server did not start. What it said is in the message.
    """
    if address is not None:
        yield address
        return
    programs = _programs()
    owner = _NOBODY if os.geteuid() == 0 else None  # the server refuses root
    directory.mkdir()
    directory.parent.chmod(0o711)
    data, password, said = directory / "data", directory / "password", directory / "log"
    password.write_text(secrets.token_hex(16))
    if owner is not None:
        os.chown(directory, owner, owner)
        os.chown(password, owner, owner)
    initdb = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        _USER,
        f"--pwfile={password}",
        "-A",
        "scram-sha-256",
        "-E",
        "UTF8",
    ]
    done = _run(initdb, owner)
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed in {directory}: {done.stderr.strip()}")
    with closing(socket.socket()) as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    command = [programs / "postgres", "-D", data, "-p", str(port), "-c", "unix_socket_directories="]
    with said.open("wb") as log:
        process = subprocess.Popen(
            [*command, *(f"-c{each}" for each in _SETTINGS)],
            **_as_user(owner),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us: we end it
        )
    try:
        _wait_until_ready(process, port, said)
        yield f"postgresql://{_USER}:{password.read_text()}@127.0.0.1:{port}/{_DATABASE}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _programs() -> Path:
    found = shutil.which("initdb")
    versions = sorted(_DEBIAN.glob("[0-9]*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    candidates = [Path(found).resolve()] if found else versions[-1:]
    if not candidates:
        raise FileNotFoundError("no PostgreSQL server is installed: give an address, --server")
    return candidates[0].parent


def _as_user(owner: int | None) -> dict[str, object]:
    return {} if owner is None else {"user": owner, "group": owner, "extra_groups": [], "cwd": "/"}


def _run(command: Sequence[str | Path], owner: int | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command, **_as_user(owner), env=environment, capture_output=True, text=True, check=False
    )


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, said: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if "ready to accept connections" in said.read_text(errors="replace"):
            return
        time.sleep(_STEP_S)
    raise RuntimeError(f"the server did not start on port {port}: {said.read_text(errors='replace')}")
