r"""Any bytes as text, reversibly: what is UTF-8 stays as it is, any other byte is written ``\xNN``.

A backslash that already looks like the start of such an escape is written ``\x5c``, so two different byte strings never
have the same text. Everything else is left alone, so that ordinary names and outputs read as themselves.
"""

from __future__ import annotations

import re

_LOOKS_ESCAPED = re.compile(rb"\\(?=x[0-9a-f]{2})")
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def to_text(data: bytes) -> str:
    """Return the text that stands for ``data``."""
    return _LOOKS_ESCAPED.sub(rb"\\x5c", data).decode("utf-8", errors="backslashreplace")


def to_bytes(text: str) -> bytes:
    """Return the bytes that ``to_text`` made ``text`` of."""
    return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode())
