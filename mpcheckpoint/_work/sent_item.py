"""An item on its way to a worker process: what the worker needs to claim it, and the item itself, packed.

The item is unpacked when it begins. That runs the user's code, and the outcome of the item before it is to be recorded
first, whatever becomes of that code.
"""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

from mpcheckpoint._work.ctrl_c import raise_ctrl_c
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.shortage import shortage_of

# Instances of these have nothing that needs the pickler of ``multiprocessing``, which takes ten times as long to make.
_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})


class UnreadableError(Exception):
    """A worker process cannot read an item that it was sent. Says why."""


def packed(entry: Input) -> bytes:
    """Return an input as it is sent.

    Raises: what pickling the item raises.
    """
    item = None
    if entry.recorded or entry.item is not entry.object_key:
        parts = (entry.item, entry.recorded)
        # No view of the buffer: if both are collected in one cycle, Python 3.13 prints that it is still in use.
        item = pickle.dumps(parts) if type(entry.item) in _PLAIN else bytes(ForkingPickler.dumps(parts))
    # As a plain tuple: the name of a class takes more bytes and time than what it holds.
    return pickle.dumps(tuple(entry._replace(item=item, recorded={})))


def header_of(message: bytes) -> Input:
    """Return an input whose item is packed still: enough to claim it."""
    return Input._make(pickle.loads(message))


def unpacked(entry: Input) -> Input:
    """Return the input as it was sent.

    Raises:
        UnreadableError: it cannot be unpickled.
        Exception: the machine is short of something (see ``shortage_of``).
    """
    if entry.item is None:
        return entry._replace(item=entry.object_key)
    try:
        parts: tuple[Any, dict[str, Any]] = pickle.loads(entry.item)
    except BaseException as error:
        raise_ctrl_c(error)
        if shortage_of(error) is not None:
            raise
        raise UnreadableError(f"it cannot be read there: {type(error).__name__}: {error}") from error
    return entry._replace(item=parts[0], recorded=parts[1])
