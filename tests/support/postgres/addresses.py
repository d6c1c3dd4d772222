"""Who may log in to a cluster of the tests, and how its addresses are written."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Iterable

HOST = "127.0.0.1"
ADMIN = "postgres"
ADMIN_PASSWORD = "of-the-administrator"
# An ordinary user, who owns the databases of the tests.
USER = "mpcheckpoint"
PASSWORD = "open-sesame"


def address_of(
    servers: Iterable[tuple[str, int]],
    database: str,
    *,
    user: str = USER,
    password: str = PASSWORD,
    **parameters: str,
) -> str:
    """Return the address of a database on one of these servers; a host that begins with "/" is a socket's directory.

    ``parameters`` are libpq's: ``target_session_attrs="read-write"`` picks the primary among several.
    """
    hosts = ",".join(f"{quote(host, safe='')}:{port}" for host, port in servers)
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{hosts}/{quote(database, safe='')}{query}"
