"""Log keys to file names: any string is a key, no key leaves the directory, names survive case-folding."""

from __future__ import annotations

from hashlib import sha256

from mpcheckpoint.errors import InvalidKeyError

# With the longest suffix (a quarantine file's) the name stays below the 255 bytes that file systems allow.
MAX_NAME_BYTES = 140
LOG_SUFFIX = ".jsonl"

_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
# "store.lock" is the store's own lock, which the append lock of a log named "store" must not be.
_RESERVED = frozenset({"store"})


def file_name(log_key: object) -> str:
    """Return the file name of a log, without suffix.

    Raises:
        InvalidKeyError: if ``log_key`` is not a ``str``, or holds a lone surrogate.
    """
    if type(log_key) is not str:
        raise InvalidKeyError(
            f"a log key is a str, not {type(log_key).__name__}: {log_key!r}", reason="not a string"
        )
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
