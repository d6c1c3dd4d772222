"""How a handle was opened: its settings, checked, and fit to be sent to another process."""

from __future__ import annotations

import pickle
import sys
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._engines import RETRY_S, address_of, engine_at
from mpcheckpoint._format.advice import a, shown
from mpcheckpoint._logfile.paths import store_directory
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._store.durability import Durability
from mpcheckpoint.errors import InvalidFunctionError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from mpcheckpoint._format.made_json import Default
    from mpcheckpoint._store.protocol import Store


# What pickles functions by what they are, not by their names.
_BY_VALUE = frozenset({"cloudpickle", "dill"})


class Settings(NamedTuple):
    """How a handle was opened; enough to open it again in another process.

    Attributes:
        log_keys: once checked, a tuple; None for all logs.
        store: what the handle reads and writes; None for the directory at ``path``.
        default: makes JSON of values that are none.
        retry_s: how long calls go on trying to reach a store that another machine keeps, in seconds.
    """

    path: str
    create: bool
    read_only: bool
    log_keys: Iterable[str] | None
    durability: str
    lock_timeout_s: float | None
    store: Store | None = None
    default: Default | None = None
    retry_s: float = RETRY_S


def open_settings(place: str | os.PathLike[str] | Address, asked: Settings) -> Settings:
    """Return checked settings, with an absolute path, so that they mean the same after a change of directory.

    Args:
        place: the directory or the address of the store. Not looked at if ``asked`` has a ``store``.
        asked: all else that was asked for, unchecked; its ``path`` is not looked at.

    Raises:
        TypeError, ValueError: an argument is not what it should be; UnknownSchemeError if the path is a URL,
            InvalidAddressError if it is a bad address.
        And what opening a store on a server raises.
    """
    if isinstance(asked.log_keys, str):
        raise TypeError(f"log_keys is a list of keys, not the string {asked.log_keys!r}")
    lock_timeout_s, retry_s, default, store = asked.lock_timeout_s, asked.retry_s, asked.default, asked.store
    if lock_timeout_s is not None:
        require_seconds(lock_timeout_s, "lock_timeout_s is a number of seconds, at least 0, or None")
    require_seconds(retry_s, "retry_s is a number of seconds, at least 0")
    Durability.parse(asked.durability)
    if default is not None and not callable(default):
        raise TypeError(
            f"default is a function that makes JSON of a value, or None, not {a(type(default))}: {shown(default)}"
        )
    address = address_of(place) if store is None else None
    if address is not None:
        store = engine_at(address, create=asked.create, read_only=asked.read_only, retry_s=retry_s)
    if store is not None:
        path = store.path
    else:
        assert not isinstance(place, Address)
        path = store_directory(place)
    log_keys = None if asked.log_keys is None else tuple(asked.log_keys)
    return asked._replace(path=path, store=store, log_keys=log_keys)


def require_seconds(value: object, what: str) -> None:
    """Refuse what is no time to wait.

    Raises:
        TypeError, ValueError: it is no number; it is below 0, or NaN. The message begins with ``what``.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what}, not {value!r}")
    if not float(value) >= 0:
        raise ValueError(f"{what}, not {value!r}")


def sendable(settings: Settings) -> Settings:
    """Return settings that are about to be pickled.

    Raises:
        InvalidFunctionError: their ``default`` cannot be pickled.
    """
    # cloudpickle and dill can pickle what pickle cannot: where one is in use, it is left to say what it cannot.
    if settings.default is not None and _BY_VALUE.isdisjoint(sys.modules):
        try:
            pickle.dumps(settings.default)
        except Exception as error:
            name = getattr(settings.default, "__qualname__", None) or a(type(settings.default))
            raise InvalidFunctionError(
                f"the handle of {settings.path} cannot be sent to another process, since its default= cannot: {name}: "
                f"{error}. Put it at the top level of a module, a .py file that is imported",
                path=settings.path,
                reason="cannot be sent",
            ) from error
    return settings
