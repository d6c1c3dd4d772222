"""Log keys to file names: any string is a key, no key leaves the directory, names survive case-folding."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple

from mpcheckpoint._format.advice import no_text
from mpcheckpoint.errors import InvalidKeyError

# With the longest suffix (a quarantine file's) the name stays below the 255 bytes that file systems allow.
MAX_NAME_BYTES = 140
LOG_SUFFIX = ".jsonl"

_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
# "store.lock" is the store's own lock, which the append lock of a log named "store" must not be.
_RESERVED = frozenset({"store"})
# Ten digits that begin with 1 are the seconds from 2001 to 2033. A key may end in digits of its own.
_OLDER_TOOL = re.compile(r"(?P<log_key>.*)(?P<created_s>1[0-9]{9})", re.DOTALL)


class OlderName(NamedTuple):
    """The log key, and the time of creation in unix seconds, that the older checkpoint tool put into a file's name."""

    log_key: str
    created_s: int


def file_name(log_key: object) -> str:
    """Return the file name of a log, without suffix.

    Raises:
        InvalidKeyError: ``log_key`` is not a ``str``, or holds a lone surrogate.
    """
    if type(log_key) is not str:
        raise InvalidKeyError(no_text("a log key", log_key), reason="not a string")
    try:
        raw = log_key.encode()
    except UnicodeEncodeError as error:
        raise InvalidKeyError(
            f"the log key {log_key!r} is not valid Unicode: {error}", reason=str(error)
        ) from error
    if not raw:
        return "%"  # no other key gives a lone percent sign
    escaped = [chr(byte) if byte in _KEPT else f"%{byte:02x}" for byte in raw]
    if raw[:1] == b"." or log_key in _RESERVED:
        escaped[0] = f"%{raw[0]:02x}"
    name = "".join(escaped)
    if len(name) <= MAX_NAME_BYTES:
        return name
    return f"{name[: MAX_NAME_BYTES - 66]}%~{sha256(raw).hexdigest()}"


def older_name(name: str) -> OlderName | None:
    """Return what a file name of the older checkpoint tool says, or None if it is not such a name.

    That tool, the predecessor of this library, named its files by a key and the seconds of their creation, no suffix.
    """
    match = _OLDER_TOOL.fullmatch(name)
    return OlderName(match["log_key"], int(match["created_s"])) if match is not None else None
