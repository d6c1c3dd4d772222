"""PgBouncer in front of a server: a pool that gives a session of the server to one client after another."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.postgres.addresses import HOST, PASSWORD, USER, address_of
from support.postgres.cluster import PORTS
from support.postgres.process import WAIT_S, ServerProcess
from support.postgres.programs import give_to_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres.cluster import Cluster

_TRIES = 20
_STEP_S = 0.01


def pooler_program() -> str | None:
    """Return where PgBouncer is."""
    return shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin") or shutil.which("pgbouncer")


@contextmanager
def pooled(cluster: Cluster, database: str, *, mode: str = "transaction", sessions: int = 1) -> Iterator[str]:
    """Yield the address of a database by way of a pool of so many sessions.

    In mode "transaction" a client has one of them for the length of a transaction, in mode "session" until it leaves.
    """
    with tempfile.TemporaryDirectory(prefix="mpcheckpoint-pg-") as temporary:
        directory = Path(temporary)
        (directory / "users").write_text(f'"{USER}" "{PASSWORD}"\n', encoding="ascii")
        for _ in range(_TRIES):
            port = random.choice(PORTS)
            process = _start(directory, f"host={cluster.host} port={cluster.port}", port, mode, sessions)
            try:
                if _listens(process, port, directory / "log"):
                    yield address_of([(HOST, port)], database)
                    return
            finally:
                process.kill()
        raise RuntimeError(f"PgBouncer did not start:\n{(directory / 'log').read_text(encoding='utf-8')}")


def _start(directory: Path, server: str, port: int, mode: str, sessions: int) -> ServerProcess:
    settings = {
        "listen_addr": HOST,
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": directory / "users",
        "pool_mode": mode,
        "default_pool_size": sessions,
    }
    lines = [
        "[databases]",
        f"* = {server}",
        "[pgbouncer]",
        *(f"{name} = {value}" for name, value in settings.items()),
    ]
    (directory / "pgbouncer.ini").write_text("\n".join(lines) + "\n", encoding="ascii")
    give_to_server(directory)
    program = pooler_program()
    assert program is not None  # whoever asks for a pool has looked
    return ServerProcess(
        [program, directory / "pgbouncer.ini"], directory=directory, data=directory, log=directory / "log"
    )


def _listens(process: ServerProcess, port: int, log: Path) -> bool:
    """Wait until it says so; return False if it ended instead, as where another program has the port."""
    deadline = time.monotonic() + WAIT_S
    while process.is_running and time.monotonic() < deadline:
        if f"listening on {HOST}:{port}" in log.read_text(encoding="utf-8"):
            return True
        time.sleep(_STEP_S)
    return False
