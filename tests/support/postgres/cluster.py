"""A PostgreSQL cluster of the tests' own: made, started, killed, copied as a standby, and gone without a trace."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import sql

from support.postgres import logs
from support.postgres.addresses import ADMIN, ADMIN_PASSWORD, HOST, PASSWORD, USER, address_of
from support.postgres.process import WAIT_S, ServerProcess
from support.postgres.programs import give_to_server, run_program, server_programs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from psycopg.rows import TupleRow

# Below those that the system gives to outgoing connections, one of which would take a stopped server's port.
PORTS = range(20_000, 32_000)
_PORTS_TRIED = 50
_STEP_S = 0.01
_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 1 << 30
_SETTINGS = {
    # Else a killed server would leave files in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "huge_pages": "off",
    "shared_buffers": "16MB",
    "max_wal_size": "256MB",  # initdb multiplies the size of a segment
    "min_wal_size": "32MB",
    "wal_keep_size": "64MB",  # a standby that was cut off finds what it missed
    "wal_retrieve_retry_interval": "100ms",  # how soon a standby tries again, and can be promoted
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_lock_waits": "on",
}


def make_template(directory: Path) -> Path:
    """Return a directory below ``directory`` with a cluster that never ran; to be copied, in a third of the time."""
    with tempfile.TemporaryDirectory(prefix="mpcheckpoint-pg-") as public:
        _init(Path(public), Path(public, "data"))
        return Path(shutil.move(Path(public, "data"), directory / "template"))


class Cluster:
    """A cluster in a temporary directory: runs inside the ``with`` block, and is removed at its end.

    It runs as another user where this process is root, and ends with this process, however that ends. Clients come
    through ``host`` and ``port``, or a socket in ``directory``, with a password. The port stays the same over restarts.
    """

    def __init__(
        self,
        settings: Mapping[str, str | int] | None = None,
        *,
        fsync: bool = True,
        template: Path | None = None,
        data: Path | None = None,
        wal: Path | None = None,
        own_network: bool = False,
        in_memory: bool = False,
        name: str = "server",
    ) -> None:
        """Say how it shall be; nothing is made yet.

        ``settings`` are the server's, ``template`` what `make_template` returned. ``data`` and ``wal`` are directories
        that do not exist yet, in one that the server's user can enter; without them, both are below ``directory``.
        ``in_memory``: on a RAM disk if there is room, where syncs cost nothing, and a kill loses nothing all the
        same. With ``own_network`` the server is in a network name space of its own, and reached by the socket only
        (needs root).
        """
        self.name = name
        self.host = HOST
        self.port = 0
        self.settings = {**_SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}
        self.directory = Path()
        self.data = data or Path()
        self.process: ServerProcess | None = None
        self._template = template
        self._wal = wal
        self._own_network = own_network
        self.is_in_memory = in_memory

    def __enter__(self) -> Self:
        try:
            self.create()
            self.start()
            self.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(USER), sql.Literal(PASSWORD)
                )
            )
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    # --- made and gone ---------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the cluster."""
        self.make_directory()
        if self._template is None:
            _init(self.directory, self.data)
        else:
            shutil.copytree(self._template, self.data)
        self.adopt()

    def make_directory(self) -> None:
        """Make the directory of the cluster, empty."""
        # Not below pytest's: those are closed to other users, and have names too long for a socket.
        is_in_memory = self.is_in_memory and _has_room(_MEMORY)
        self.directory = Path(
            tempfile.mkdtemp(prefix="mpcheckpoint-pg-", dir=_MEMORY if is_in_memory else None)
        )
        self.directory.chmod(0o755)  # for clients of any user
        give_to_server(self.directory)
        self.data = self.data if self.data != Path() else self.directory / "data"
        logs.add(self)

    def adopt(self) -> None:
        """Have what is in `data` be started with our settings."""
        if self._wal is not None:
            shutil.move(self.data / "pg_wal", self._wal)
            (self.data / "pg_wal").symlink_to(self._wal)
            give_to_server(self._wal)
        main = self.data / "postgresql.conf"
        include = "include 'tests.conf'\n"
        if include not in main.read_text(encoding="utf-8"):
            with main.open("a", encoding="utf-8") as configuration:
                configuration.write(include)
        if self._own_network:
            with (self.data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
                rules.write("host all all samenet scram-sha-256\n")
        self._write_settings()
        give_to_server(self.data)

    def remove(self) -> None:
        """Kill the server, and remove all of it. No error if there is nothing."""
        self.kill()
        logs.keep_last(self)
        for directory in (self.data, self._wal or self.data, self.directory):
            if directory != Path() and directory.exists():
                shutil.rmtree(directory)

    # --- started and stopped ---------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether a process of the server is left."""
        return self.process is not None and self.process.is_running

    def start(self) -> None:
        """Start the server with `settings`, and wait until it takes connections. Raises RuntimeError with its log."""
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        self._write_settings()
        is_first = self.port == 0
        for _ in range(_PORTS_TRIED):
            if is_first:
                self.port = random.choice(PORTS)
            said_before = logs.size(self)
            self.process = self._spawn()
            if self.process.wait_ready():
                return
            self.process.wait_end()
            said = logs.text(self, since=said_before)
            if "could not bind IPv4" not in said:
                raise RuntimeError(f"{self.name} did not start:\n{said}")
            time.sleep(0 if is_first else _STEP_S)
        raise RuntimeError(f"{self.name} finds no free port, the last was {self.port}")

    def stop(self, how: str = "fast") -> None:
        """End the server: "fast" (sessions end, all is written) or "immediate" (it begins with recovery next time)."""
        self.running().stop(how)

    def kill(self) -> None:
        """Kill all processes of the server with SIGKILL, and wait until they are gone. No error if it has ended."""
        if self.process is not None:
            self.process.kill()

    def restart(self, how: str = "fast") -> None:
        """Stop it, as `stop` or `kill` ("kill") do, and start it."""
        if how == "kill":
            self.kill()
        else:
            self.stop(how)
        self.start()

    def running(self) -> ServerProcess:
        """Return the server's process. Raises RuntimeError unless it runs."""
        if self.process is None or not self.process.is_running:
            raise RuntimeError(f"{self.name} does not run")
        return self.process

    def configure(self, **settings: str | int) -> None:
        """Change settings that need no restart, and wait until new sessions have them."""
        self.settings.update(settings)
        self._write_settings()
        ((before,),) = self.execute("SELECT pg_conf_load_time()")
        self.running().signal(signal.SIGHUP)
        self.wait_until("SELECT pg_conf_load_time() > %s", before)

    def _spawn(self) -> ServerProcess:
        programs = server_programs()
        assert programs is not None  # without them there would be no cluster
        command: list[str | Path] = [
            programs / "postgres",
            "-D",
            self.data,
            "-p",
            str(self.port),
            "-k",
            self.directory,
        ]
        listen = "*" if self._own_network else HOST
        return ServerProcess(
            [*command, "-c", f"listen_addresses={listen}"],
            directory=self.directory,
            data=self.data,
            log=self.log_file,
            own_network=self._own_network,
        )

    def _write_settings(self) -> None:
        lines = [
            f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'" for name, value in self.settings.items()
        ]
        path = self.data / "tests.conf"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        give_to_server(path)

    # --- asked -----------------------------------------------------------------------------------------------

    @property
    def log_file(self) -> Path:
        """Where the server writes what it has to say."""
        return self.directory / "log"

    def admin(self, database: str = "postgres") -> psycopg.Connection[TupleRow]:
        """Return a session of the administrator that commits each statement; to be closed by the caller."""
        return psycopg.connect(
            host=str(self.directory),
            port=self.port,
            user=ADMIN,
            password=ADMIN_PASSWORD,
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        )

    def execute(
        self, query: str | sql.Composable, *parameters: object, database: str = "postgres"
    ) -> list[TupleRow]:
        """Run one statement as the administrator, committed at once; return its rows."""
        with self.admin(database) as session:
            cursor = session.execute(_as_query(query), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def wait_until(self, query: str, *parameters: object, database: str = "postgres") -> None:
        """Wait until the first column of the first row is true. Raises TimeoutError."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            rows = self.execute(query, *parameters, database=database)
            if rows and rows[0][0]:
                return
            time.sleep(_STEP_S)
        raise TimeoutError(f"{self.name}: after {WAIT_S} s it is still not so that {query}")

    def address(self, database: str = "postgres", *, user: str = USER, password: str = PASSWORD) -> str:
        """Return the address of a database, as programs take it."""
        return address_of([(self.host, self.port)], database, user=user, password=password)

    def socket_address(self, database: str = "postgres") -> str:
        """Return the address of a database by way of the socket."""
        return address_of([(str(self.directory), self.port)], database)

    def create_database(self, name: str) -> str:
        """Make an empty database that USER owns; return its address."""
        self.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(USER))
        )
        return self.address(name)

    def limit_sessions(self, database: str, number: int) -> None:
        """Let only so many sessions of ordinary users be in ``database``; -1 is no limit."""
        self.execute(
            sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(sql.Identifier(database), number)
        )

    def drop_database(self, name: str) -> None:
        """Remove a database, with the sessions that use it."""
        self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def create_role(self, name: str, database: str, grants: Sequence[str] = ()) -> str:
        """Make a role that may enter ``database`` and no more, but for ``grants``; return its address.

        In a grant, ``{role}`` and ``{owner}`` stand for this role and for USER.
        """
        names = {"role": sql.Identifier(name), "owner": sql.Identifier(USER)}
        self.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(names["role"], sql.Literal(PASSWORD)))
        for grant in (f'GRANT CONNECT ON DATABASE "{database}" TO {{role}}', *grants):
            self.execute(_as_sql(grant).format(**names), database=database)
        return self.address(database, user=name)

    def create_reader(self, name: str, database: str) -> str:
        """Make a role that may read all there is in ``database``, now and later, and no more; return its address."""
        has_schemas = self.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'",
            database=database,
        )
        grants = ["ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO {role}"]
        grants += ["ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON SEQUENCES TO {role}"]
        grants += ["ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT USAGE ON SCHEMAS TO {role}"]
        for (schema,) in has_schemas:
            grants += [f'GRANT USAGE ON SCHEMA "{schema}" TO {{role}}']
            grants += [f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO {{role}}']
            grants += [f'GRANT SELECT ON ALL SEQUENCES IN SCHEMA "{schema}" TO {{role}}']
        return self.create_role(name, database, grants)

    def drop_role(self, name: str, database: str) -> None:
        """Remove a role that was made for ``database``."""
        for statement in ("DROP OWNED BY {role}", "DROP ROLE {role}"):
            self.execute(_as_sql(statement).format(role=sql.Identifier(name)), database=database)

    def terminate_sessions(self, database: str | None = None) -> int:
        """End all client sessions, or those in ``database``, wait until they are gone, and return how many it were."""
        chosen = (
            "backend_type = 'client backend' AND pid <> pg_backend_pid() AND coalesce(datname = %s, true)"
        )
        ended = self.execute(
            f"SELECT pid, pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE {chosen}", database
        )
        # One that ended by itself meanwhile is none that could be terminated.
        unsure = [pid for pid, is_gone in ended if not is_gone]
        assert not self.execute("SELECT pid FROM pg_stat_activity WHERE pid = any(%s)", unsure)
        return len(ended)


def _has_room(disk: Path) -> bool:
    # Containers have a small one, or none.
    return os.access(disk, os.W_OK) and shutil.disk_usage(disk).free > _ROOM_BYTES


def _init(directory: Path, data: Path) -> None:
    password = directory / "password"
    password.write_text(ADMIN_PASSWORD, encoding="ascii")
    password.chmod(0o600)
    give_to_server(directory)
    run_program(
        "initdb",
        *("-D", data, "-U", ADMIN, "--pwfile", password, "--auth=scram-sha-256"),
        *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "--wal-segsize=1"),
    )
    password.unlink()


def _as_query(query: str | sql.Composable) -> bytes | sql.Composed:
    return query.encode() if isinstance(query, str) else sql.Composed([query])


def _as_sql(text: str) -> sql.SQL:
    return sql.SQL(text)  # made of names that tests chose
