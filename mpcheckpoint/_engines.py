"""Which storage a store is on: a directory, or a server of which the address is given. Only this module chooses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint.errors import InvalidAddressError, MissingExtraError, NotForThisStoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mpcheckpoint._store.findings import Finding
    from mpcheckpoint._store.protocol import Store
    from mpcheckpoint.errors import CheckpointError


# How long calls go on trying to reach a server, in seconds.
RETRY_S = 60.0


class OpenStore(Protocol):
    """Opens a store on a server."""

    def __call__(self, address: Address, *, create: bool, read_only: bool, retry_s: float) -> Store:
        """Return the store at an address. Its ``path`` is the address without its password.

        Args:
            retry_s: how long to try again while the server does not answer, in seconds.

        Raises:
            StoreNotFoundError: there is none, and ``create`` is false.
        """


class ExamineServer(Protocol):
    """Examines a server, for `mpcheckpoint.maintenance.examine`."""

    def __call__(self, address: Address) -> Iterable[Finding]:
        """Yield how the server is set for a store, and how the store there is, if there is one.

        Above all how safe an append is when it returns, and what the server does that no setting of the handle can make
        up for. The checks have names of the engine's own, and the figures have units in their names. Changes nothing,
        and takes a few seconds at most.

        Raises:
            CheckpointError: it cannot be asked, or not for all. What was yielded before is as it was found.
        """


class Engine(NamedTuple):
    """A kind of server that keeps stores."""

    open: OpenStore
    examine: ExamineServer


def open_postgres(address: Address, *, create: bool, read_only: bool, retry_s: float) -> Store:
    """Return the store at an address of PostgreSQL.

    Raises:
        MissingExtraError: psycopg is not installed, or finds no libpq.
        And what ``PostgresStore`` raises.
    """
    require_psycopg()
    from mpcheckpoint._postgres.store import PostgresStore  # noqa: PLC0415

    return PostgresStore(address, create=create, read_only=read_only, retry_s=retry_s)


def examine_postgres(address: Address) -> Iterable[Finding]:
    """Yield how a PostgreSQL server is set. Raises as `ExamineServer`, and MissingExtraError."""
    require_psycopg()
    from mpcheckpoint._postgres.store import examine_server  # noqa: PLC0415

    return examine_server(address)


def require_psycopg() -> None:
    """Raise MissingExtraError unless psycopg is there: whose store is a directory needs none, and does not wait for its
    import."""
    try:
        import psycopg  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingExtraError("postgres", "psycopg") from error


POSTGRES = Engine(open_postgres, examine_postgres)
# By the scheme of their addresses, as it is written.
ENGINES: dict[str, Engine] = {"postgresql": POSTGRES, "postgres": POSTGRES}


def address_of(place: str | os.PathLike[str] | Address) -> Address | None:
    """Return the address that was given as a store; None if it is something else, such as the path of a directory.

    Raises:
        InvalidAddressError: it begins as an address, and is none.
    """
    if isinstance(place, Address):
        return place
    if not isinstance(place, str) or place.partition("://")[0].lower() not in ENGINES:
        return None
    return Address.parse(place)


def directory_of(place: str | os.PathLike[str] | Address, what: str) -> str | os.PathLike[str]:
    """Return the directory that was given as a store, for ``what`` is about its files.

    Raises:
        NotForThisStoreError: an address was given.
        InvalidAddressError: as `address_of`.
    """
    address = address_of(place)
    if address is not None:
        raise NotForThisStoreError(what, str(address))
    assert not isinstance(place, Address)
    return place


def engine_at(address: Address, *, create: bool, read_only: bool, retry_s: float = RETRY_S) -> Store:
    """Open a store on a server.

    Raises:
        MissingExtraError: what its engine needs is not installed.
        And what the engine raises.
    """
    return ENGINES[address.scheme].open(address, create=create, read_only=read_only, retry_s=retry_s)


def store_at(place: str | os.PathLike[str] | Address, *, retry_s: float = RETRY_S) -> Store:
    """Open a store for reading, wherever it is.

    Raises:
        UnknownSchemeError, InvalidAddressError, StoreNotFoundError, NotAStoreError, StoreAccessError, MissingExtraError
    """
    address = address_of(place)
    if address is not None:
        return engine_at(address, create=False, read_only=True, retry_s=retry_s)
    assert not isinstance(place, Address)
    return DirectoryStore(place, create=False, read_only=True)


def listing(store: Store) -> Iterator[tuple[str, str | CheckpointError]]:
    """Yield where each log of a store is, in order, with its key or the error that keeps it unknown."""
    if isinstance(store, DirectoryStore):
        return store.directory.listing()
    return ((store.path, log_key) for log_key in store.log_keys())


def place_of_log(store: Store, log_key: str) -> str:
    """Return where a log is: its file, or the address of its store. Raises InvalidKeyError."""
    return LogPaths.of(store.path, log_key).log if isinstance(store, DirectoryStore) else store.path


def shown_place(place: str) -> str:
    """Return a store, as it was given, fit to be shown: an address without its password."""
    try:
        address = address_of(place)
    except InvalidAddressError:
        return f"{place.partition('://')[0]}://..."
    return place if address is None else str(address)


def names_an_address(text: str) -> bool:
    """Return whether there is something in a text that begins as the address of a store on a server."""
    lowered = text.lower()
    return any(f"{scheme}://" in lowered for scheme in ENGINES)
