"""A store in a database of a server."""

from __future__ import annotations

import os
import threading
from importlib import resources
from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.control import require_fitting_log_key
from mpcheckpoint._format.names import file_name
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._postgres.examination import examine
from mpcheckpoint._postgres.faults import DUPLICATE_OBJECT, NO_SUCH_STORE, ServerError, typed
from mpcheckpoint._postgres.log import PostgresLog
from mpcheckpoint._postgres.moving import Adoption, cut_of_store
from mpcheckpoint._postgres.notifier import PostgresNotifier
from mpcheckpoint._postgres.place import LogPlace
from mpcheckpoint._postgres.read import LOOK, PostgresReader, pages_in, parameters_of
from mpcheckpoint._postgres.rows import int4, int8, milliseconds, new_id, number_in
from mpcheckpoint._postgres.session import statement
from mpcheckpoint._postgres.sessions import sessions_of
from mpcheckpoint._postgres.workers import PostgresWorkers
from mpcheckpoint._store.findings import BAD, OK, Finding
from mpcheckpoint.errors import FormatVersionError, LogNotFoundError, StoreAccessError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint._postgres.moving import SnapshotLog
    from mpcheckpoint._postgres.session import Session
    from mpcheckpoint._store.moving import LogCut
    from mpcheckpoint._store.protocol import Reader

SCHEMA_VERSION = 1

HAS_SCHEMA = statement("has_schema", "select to_regclass('mpcheckpoint.version') is not null")
VERSION = statement("version", "select version::bigint from mpcheckpoint.version")
STORE = statement("store_1", "select id::bigint from mpcheckpoint.store where name = $1::bytea")
MAKE_STORE = statement(
    "make_store_1",
    "insert into mpcheckpoint.store (id, name) values ($1::bigint, $2::bytea) on conflict do nothing",
)
LOGS = statement("logs_1", "select logs from mpcheckpoint.store where id = $1::bigint")
# A row without a key where there is no log; none where there is no such store.
KEYS = statement(
    "keys_1",
    "select l.key from mpcheckpoint.store s left join mpcheckpoint.log l on l.store = s.id where s.id = $1::bigint",
)
FIND = statement(
    "find_1", "select id from mpcheckpoint.log where store = $1::bigint and key_hash = sha256($2::bytea)"
)
MAKE_LOG = statement(
    "make_log_1",
    "select mpcheckpoint.make_log_1($1::bigint, $2::bigint, $3::bytea, $4::bigint, $5::bytea, $6::bytea, $7::bigint, "
    "$8::integer)",
)


class PostgresStore:
    """The logs of one store of a database. See ``Store`` in ``_store.protocol``."""

    def __init__(self, address: Address, *, create: bool, read_only: bool, retry_s: float) -> None:
        """Open the store, making it, and the schema of the database, where they are not there and it may.

        Raises:
            StoreNotFoundError: it is not there, and may not be made.
            StoreUnavailableError, StoreAccessError, FormatVersionError, WriteFailedError
        """
        self.path = str(address)
        self._arguments = address, create, read_only, retry_s
        self._read_only = read_only
        self._retry_s = retry_s
        self.sessions = sessions_of(address, must_write=not read_only)
        self._what = f"opening the store {address.store!r}"
        may_make = create and not read_only
        self._id = self.sessions.read(
            lambda session: _opened(session, address.store, self.path, may_make=may_make),
            self._what,
            retry_s=retry_s,
        )
        self.workers = PostgresWorkers(self.sessions, self._id, retry_s, (_workers_of, self._arguments))
        self._notifier = PostgresNotifier(self.sessions, self._id)
        # How many logs there were at the last look of each thread, until it asks.
        self._looked = threading.local()

    def log_keys(self) -> list[str]:
        result = self._read_of_store(KEYS)
        keys = (result.get_value(row, 0) for row in range(result.ntuples))
        return sorted(key.decode() for key in keys if key is not None)

    def change_token(self) -> object | None:
        """Return how many logs there are: none is ever removed."""
        logs: int | None = self._looked.__dict__.pop("logs", None)
        return number_in(self._read_of_store(LOGS).get_value(0, 0)) if logs is None else logs

    def look(self, readers: Sequence[Reader]) -> bool:
        """Have the next poll of each reader give what one look at all of them finds, all as of one moment."""
        ours = [reader for reader in readers if isinstance(reader, PostgresReader)]
        if not ours:
            return False
        result = self.sessions.read(
            lambda session: session.read_one(LOOK, *parameters_of([reader.wanted() for reader in ours])),
            "reading the logs",
            retry_s=self._retry_s,
        )
        pages, self._looked.logs = pages_in(result)
        # Of a log that is gone there is no page: its reader looks by itself, and says so.
        are_whole = [reader.found(pages[at]) for at, reader in enumerate(ours) if at in pages]
        return len(are_whole) == len(ours) and all(are_whole)

    def find_log(self, log_key: str) -> PostgresLog:
        return self._found(log_key, _key_bytes(log_key))

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> PostgresLog:
        key = _key_bytes(log_key)
        if not create:
            return self._found(log_key, key)
        require_fitting_log_key(log_key)
        result = self._read(FIND, int8(self._id), key)
        if not result.ntuples:
            names = os.urandom(16), os.urandom(16)
            timeout = None if timeout_s is None else int4(milliseconds(timeout_s))
            self._read(
                MAKE_LOG,
                int8(self._id),
                int8(new_id()),
                key,
                int8(new_id()),
                *names,
                int8(clock.next(0)),
                timeout,
            )
            return self._found(log_key, key)
        return self._log(log_key, number_in(result.get_value(0, 0)))

    def cut(self, timeout_s: float | None) -> AbstractContextManager[Sequence[SnapshotLog]]:
        """Give all logs as one snapshot has them."""
        del timeout_s  # no lock is waited for
        return cut_of_store(self.sessions, self._id, retry_s=self._retry_s, read_only=self._read_only)

    def adopt_log(self, log: LogCut, *, timeout_s: float | None, pace: Callable[[int], None]) -> None:
        _key_bytes(log.header.log_key)
        Adoption(self.sessions, self._id, log, pace).run(timeout_s)

    def _found(self, log_key: str, key: bytes) -> PostgresLog:
        result = self._read(FIND, int8(self._id), key)
        if not result.ntuples:
            raise LogNotFoundError(
                f"there is no log {log_key!r} in {self.path}",
                path=self.path,
                reason="no such log",
                log_key=log_key,
            )
        return self._log(log_key, number_in(result.get_value(0, 0)))

    def _log(self, log_key: str, log_id: int) -> PostgresLog:
        place = LogPlace(self.sessions, log_key, log_id, read_only=self._read_only, retry_s=self._retry_s)
        return PostgresLog(place, self._notifier)

    def _read(self, asked: Any, *parameters: bytes | None) -> Any:
        return self.sessions.read(
            lambda session: session.call_one(asked, *parameters), "finding logs", retry_s=self._retry_s
        )

    def _read_of_store(self, asked: Any) -> Any:
        """Return what a statement gives that has a row where the store is there."""
        result = self._read(asked, int8(self._id))
        if not result.ntuples:
            raise typed(ServerError(NO_SUCH_STORE, "no such store"), "finding logs", self.path)
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PostgresStore) and other._arguments == self._arguments

    def __hash__(self) -> int:
        return hash(self._arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, self._arguments


def examine_server(address: Address) -> Iterator[Finding]:
    """Yield how a server is set for a store, and how the store there is; see ``_engines.ExamineServer``."""
    sessions = sessions_of(address, must_write=False)
    yield from examine(lambda operation: sessions.read(operation, "examining the server", retry_s=0))
    try:
        logs = len(PostgresStore(address, create=False, read_only=True, retry_s=0).log_keys())
    except StoreNotFoundError:
        yield Finding("store", OK, "none here yet", {"logs": 0})
    except StoreAccessError:
        yield Finding("store", BAD, "this role may not read it, if it is there", {})
    else:
        yield Finding("store", OK, f"{logs} log{'' if logs == 1 else 's'}", {"logs": logs})


def _reopen(address: Address, create: bool, read_only: bool, retry_s: float) -> PostgresStore:
    return PostgresStore(address, create=create, read_only=read_only, retry_s=retry_s)


def _workers_of(address: Address, create: bool, read_only: bool, retry_s: float) -> PostgresWorkers:
    return _reopen(address, create, read_only, retry_s).workers


def _key_bytes(log_key: str) -> bytes:
    """Return a log key as rows have it.

    Raises:
        InvalidKeyError
    """
    file_name(log_key)
    return log_key.encode()


def _opened(session: Session, name: str, place: str, *, may_make: bool) -> int:
    """Return the number of a store, made if it may."""
    if session.call_one(HAS_SCHEMA).get_value(0, 0) != b"\1":
        if not may_make:
            raise StoreNotFoundError(f"there is no store in {place}", path=place, reason="no store")
        _make_schema(session)
    version = number_in(session.call_one(VERSION).get_value(0, 0))
    if version != SCHEMA_VERSION:
        raise FormatVersionError(
            f"{place} holds stores of version {version}; this release uses version {SCHEMA_VERSION}",
            path=place,
            reason="another version",
        )
    found = session.call_one(STORE, name.encode())
    if not found.ntuples:
        if not may_make:
            raise StoreNotFoundError(f"there is no store {name!r} in {place}", path=place, reason="no store")
        session.call_one(MAKE_STORE, int8(new_id()), name.encode())
        found = session.call_one(STORE, name.encode())
    return number_in(found.get_value(0, 0))


def _make_schema(session: Session) -> None:
    """Make the schema, unless another process does at the same time."""
    sql = resources.files(__package__).joinpath("schema.sql").read_text("utf-8")
    try:
        session.script(f"begin; select pg_advisory_xact_lock({SCHEMA_LOCK}); {sql}; commit")
    except ServerError as error:
        session.script("rollback")
        if error.code not in DUPLICATE_OBJECT:
            raise


# Any number: who makes the schema waits for who makes it.
SCHEMA_LOCK = 6_364_136_223_846_793_005
