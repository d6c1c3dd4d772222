"""The address of a store on a server, and how it is shown: never with its password.

``postgresql://[user[:password]@][host[:port][,host[:port]...]]/[database][?parameters][#store]``, as libpq reads it,
but for the name of the store. What is not said there, libpq takes from where it always does: PGUSER, PGPASSWORD,
PGSERVICE, ``~/.pgpass``.

Rejected: ``urllib.parse.urlsplit``. Its errors repeat what they complain of, and that may be the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn
from urllib.parse import quote, unquote_to_bytes

from mpcheckpoint.errors import InvalidAddressError

DEFAULT_STORE = "checkpoint"
REDACTED = "***"
_MOST_STORE_BYTES = 200
_SCHEMES = {"postgres": "postgresql"}
_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)/(?P<database>[^?#]*)"
    r"(?:\?(?P<query>[^#]*))?(?:\#(?P<store>.*))?",
    re.DOTALL,
)
_BLANK = re.compile(r"[\x00-\x20\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%A-Za-z]+\]|[\w.~%-]*)(?::(?P<port>[0-9]{0,5}))?")
_HIGHEST_PORT = 65535
# The parameters of libpq whose values are no secret. Of all others, also of later versions, only the name is shown.
_PARAMETERS = """
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name
    gssdelegation gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle
    keepalives_interval krbsrvname load_balance_hosts max_protocol_version min_protocol_version options passfile
    port replication require_auth requirepeer requiressl service servicefile ssl_max_protocol_version
    ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslmode sslnegotiation
    sslrootcert sslsni target_session_attrs tcp_user_timeout user
"""
_SHOWN_PARAMETERS = frozenset(_PARAMETERS.split())


class Host(NamedTuple):
    """A server of the address: a name, an IP address or the directory of a socket; and its port, "" for the usual."""

    name: str
    port: str


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where a store is on a server. It pickles, with its password; ``str`` and ``repr`` have ``***`` in its place.

    Attributes:
        scheme: "postgresql".
        user, password, hosts, database, parameters: what is given to libpq; None or empty for what the address does not
            say. ``password`` and some parameters are secret.
        store: the name of the store in the database.
    """

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[Host, ...]
    database: str
    parameters: tuple[tuple[str, str], ...]
    store: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that a text is. A password of ``***``, as addresses are shown, is none.

        Raises:
            InvalidAddressError: it is none. The message repeats nothing of it.
        """
        if _BLANK.search(text):
            _refuse("it has a blank or a control character in it: write %20 for a blank")
        match = _ADDRESS.fullmatch(text)
        if match is None:
            _refuse(
                "a / before the database is missing; within a password, write / ? # and @ as %2F %3F %23 %40"
            )
        login, at, servers = match["authority"].rpartition("@")
        # Else the rest of a password that has one of / ? # in it would be taken for a name, and be shown.
        if text.count("@") > bool(at):
            _refuse("there is an @ too many: within a password or a name, write %40")
        user, colon, password = login.partition(":")
        return cls(
            _SCHEMES.get(scheme := match["scheme"].lower(), scheme),
            _decoded(user) or None if at else None,
            _secret(_decoded(password)) if colon else None,
            _hosts(servers),
            _decoded(match["database"]),
            _parameters(match["query"]),
            _store(match["store"]),
        )

    @property
    def has_password(self) -> bool:
        """Whether there is something secret in it."""
        return self.password is not None or self.without_password() != self

    def without_password(self) -> Address:
        """Return the same address without what is secret: libpq may find that elsewhere."""
        shown = tuple(each for each in self.parameters if each[0] in _SHOWN_PARAMETERS)
        return replace(self, password=None, parameters=shown)

    def conninfo(self) -> str:
        """Return what libpq takes to connect, with the password. Not for anything that is shown."""
        has_ports = any(host.port for host in self.hosts)
        given = {
            "user": self.user,
            "password": self.password,
            "host": ",".join(host.name for host in self.hosts),
            "port": ",".join(host.port for host in self.hosts) if has_ports else None,
            "dbname": self.database,
        }
        all_of_it = {name: value for name, value in given.items() if value} | dict(self.parameters)
        return " ".join(f"{name}={_quoted(value)}" for name, value in all_of_it.items())

    def __str__(self) -> str:
        login = "" if self.user is None else quote(self.user, safe="")
        login += "" if self.password is None else f":{REDACTED}"
        hosts = ",".join(map(_host_text, self.hosts))
        pairs = "&".join(
            f"{quote(name, safe='')}={quote(value, safe=',:/') if name in _SHOWN_PARAMETERS else REDACTED}"
            for name, value in self.parameters
        )
        return (
            f"{self.scheme}://{f'{login}@' if login else ''}{hosts}/{quote(self.database, safe='')}"
            f"{f'?{pairs}' if pairs else ''}#{quote(self.store)}"
        )

    def __repr__(self) -> str:
        return f"<Address {self}>"


def is_shown(name: str) -> bool:
    """Return whether that is a parameter of libpq whose value is no secret."""
    return name in _SHOWN_PARAMETERS


def _refuse(why: str) -> NoReturn:
    raise InvalidAddressError(why) from None


def _decoded(text: str) -> str:
    """Return a part of the address without its escapes."""
    if _BAD_ESCAPE.search(text):
        _refuse("a % has no two hexadecimal digits after it: for a % itself, write %25")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeError:
        _refuse("there are bytes in it that are no UTF-8")
    if "\0" in decoded:
        _refuse("there is a NUL in it")
    return decoded


def _secret(value: str) -> str | None:
    return None if value in ("", REDACTED) else value


def _hosts(text: str) -> tuple[Host, ...]:
    return tuple(map(_host, text.split(","))) if text else ()


def _host(text: str) -> Host:
    match = _HOST.fullmatch(text)
    if match is None:
        _refuse("what is given as a host is none; within a password, write : and / as %3A and %2F")
    name = _decoded(match["host"].removeprefix("[").removesuffix("]"))
    port = match["port"] or ""
    if "," in name or (port and not 0 < int(port) <= _HIGHEST_PORT):
        _refuse("what is given as a port is none")
    return Host(name, port)


def _host_text(host: Host) -> str:
    name = f"[{quote(host.name, safe=':')}]" if ":" in host.name else quote(host.name, safe="")
    return f"{name}:{host.port}" if host.port else name


def _parameters(query: str | None) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for pair in (query or "").split("&") if query else ():
        name, equals, value = map(_decoded, pair.partition("="))
        if not name.isidentifier() or not name.isascii() or not equals or name in found:
            _refuse(
                "what follows the ? is not name=value&name=value, each name once; for a & itself, write %26"
            )
        if name in _SHOWN_PARAMETERS or _secret(value):
            found[name] = value
    return tuple(found.items())


def _store(fragment: str | None) -> str:
    if fragment is None:
        return DEFAULT_STORE
    store = _decoded(fragment)
    if not 0 < len(store.encode()) <= _MOST_STORE_BYTES:
        _refuse(f"the name of the store, after the #, has 1 to {_MOST_STORE_BYTES} bytes")
    return store


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
