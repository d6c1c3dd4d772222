"""What a worker reports of an item. The outcome itself is in the log."""

from __future__ import annotations

import pickle
import struct
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mpcheckpoint._work.shortage import Shortage


class Kind(Enum):
    """What became of an item that a worker was given."""

    RECORDED = "its outcome is in the log"
    FOUND = "another worker's outcome is in the log"
    TAKEN = "another live worker has it"
    HALTED = "it was not started: an item of this map failed, and that ends the map"
    GIVEN_BACK = "it was given up"
    TO_RETRY = "an attempt failed, and another one will follow"
    DIED = "the process that ran it died"
    KILLED = "what ran it was killed from elsewhere; that is in the log, and it will run again"
    SHORT = "it could not start, because the machine is short of something"
    OVER_MEMORY = "it had more memory than allowed, and its process was ended"
    TIMED_OUT = "it ran for too long, and its process was ended"


class SentError:
    """An exception on its way to another process; ``error`` is None there if it could not be pickled."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            return _received, (pickle.dumps(self.error),)
        except Exception:  # noqa: BLE001 - a class without a name, an open file in an attribute, anything
            return _received, (pickle.dumps(None),)


def _received(data: bytes) -> SentError:
    try:
        error = pickle.loads(data)
    except Exception:  # noqa: BLE001 - a class that is not found here, a constructor that wants more, anything
        error = None
    return SentError(error if isinstance(error, BaseException) else None)


class ItemReport(NamedTuple):
    """What a worker reports of an item.

    Attributes:
        raised: what the item's function raised.
        cause: how the process died, or why the attempt failed.
        pause_s: how long the item rests before the next attempt.
        duration_s: how long it ran before it was ended.
        exit_code: of the process that died.
        deaths: how many processes of this item have died.
        shortage: what the machine is short of.
        event: the outcome that was recorded, as it is in the log; None if it is long, or another worker's.
        stamp_us: of ``event`` in the log.
        worker: the name of the process that died or was ended.
        is_idle: whether its worker has nothing to go on with.
    """

    kind: Kind
    raised: SentError = SentError(None)
    cause: str = ""
    pause_s: float = 0.0
    duration_s: float = 0.0
    exit_code: int = 0
    deaths: int = 0
    shortage: Shortage | None = None
    event: bytes | None = None
    is_idle: bool = False
    stamp_us: int = 0
    worker: str | None = None


# The first byte of a report on its way to another process: an outcome without an exception, which most reports are, as
# it is in the log, after its stamp, with or without an item to go on with; or anything, pickled.
_OUTCOME, _LAST_OUTCOME, _PICKLED = b"o", b"l", b"p"
_STAMP = struct.Struct("=Q")
_EVENT_AT = 1 + _STAMP.size


def sent(message: object) -> bytes:
    """Return a message of a worker process as it is sent."""
    if isinstance(message, ItemReport) and message.event is not None and message.raised.error is None:
        assert message.kind is Kind.RECORDED
        kind = _LAST_OUTCOME if message.is_idle else _OUTCOME
        return kind + _STAMP.pack(message.stamp_us) + message.event
    return _PICKLED + pickle.dumps(message)


def received(data: bytes) -> Any:
    """Return what ``sent`` was given."""
    if data[:1] != _PICKLED:
        (stamp_us,) = _STAMP.unpack_from(data, 1)
        is_idle = data[:1] == _LAST_OUTCOME
        return ItemReport(Kind.RECORDED, event=data[_EVENT_AT:], is_idle=is_idle, stamp_us=stamp_us)
    return pickle.loads(data[1:])
