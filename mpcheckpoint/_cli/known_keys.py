"""The keys of a store's logs, to show when a key does not exist."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING

from mpcheckpoint._cli.terminal import one_line
from mpcheckpoint._engines import listing, store_at
from mpcheckpoint.errors import CheckpointError, LogNotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection

    from mpcheckpoint._postgres.address import Address

_MOST_SHOWN = 10
_MOST_CLOSE = 3
_LONGEST_SHOWN = 60


def logs_there_are(error: CheckpointError, address: Address | None) -> str:
    """Return which logs the store has in which one was not found; "" of another error, or if that cannot be told.

    Args:
        address: of the store that the command is about; None if it is a directory.
    """
    if not isinstance(error, LogNotFoundError) or error.path is None or error.log_key is None:
        return ""
    keys = keys_in(os.path.dirname(os.path.dirname(error.path)) if address is None else address)
    return f"; it has {shown_keys(keys, error.log_key)}" if keys else ""


def keys_in(store: str | Address) -> list[str]:
    """Return the keys of a store's logs, as far as they can be told, and without waiting for a server."""
    try:
        return [found for _, found in listing(store_at(store, retry_s=0)) if isinstance(found, str)]
    except CheckpointError:
        return []


def shown_keys(log_keys: Collection[str], wanted: str) -> str:
    """Return some of these keys, those like the wanted one first, and how many more there are."""
    of_folded = {log_key.casefold(): log_key for log_key in sorted(log_keys, reverse=True)}
    close = get_close_matches(wanted.casefold(), of_folded, n=_MOST_CLOSE, cutoff=0.5)
    first = [of_folded[folded] for folded in close]
    ordered = [*first, *sorted(set(log_keys).difference(first))]
    shown = ", ".join(_shown(log_key) for log_key in ordered[:_MOST_SHOWN])
    return shown + (f" and {len(ordered) - _MOST_SHOWN:,} more" if len(ordered) > _MOST_SHOWN else "")


def _shown(log_key: str) -> str:
    text = one_line(log_key)
    return repr(text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "...")
