"""Command lines of processes, as others see them: without what is secret in them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# What is looked through: a look takes long where a text seems to begin an address again and again.
_MOST_CHARACTERS = 16_384
_NAMES = r"(?:password|passwd|pwd|secret|token|scram_client_key|scram_server_key)"
# What is redacted already stays as it is, and what follows it, too.
_PASSWORD = re.compile(r"(:/[^\s:@]*):(?!\*\*\*@)\S*@")
_PARAMETER = re.compile(
    r"(?i)([?&](?:(?:ssl)?password|passwd|pwd|secret|token)=)(?!\*\*\*(?:[&#;\s'\")]|$))[^&\s'\")]*"
)
# An address that is a word, or the value of an option: there may be blanks in its password.
_ADDRESS = re.compile(r"(?s)\A((?:-[\w-]*=)?[A-Za-z][\w+.-]*://[^\s:@]*):(?!\*\*\*@).*@")
# One whose end is not there.
_CUT_ADDRESS = re.compile(r"(:/[^\s:@]*):(?!\*\*\*@)\S*\Z")
_ESCAPED = re.compile(r"(?i)(%3a%2f%2f(?:(?!%3a|%40)\S)*%3a)(?!\*\*\*%40)\S*(?:%40|\Z)")
# As in parameters of libpq, in variables of the environment, in calls: the value may be in quotes, to the end if cut.
_FIELD = re.compile(
    rf"(?is)({_NAMES}[\w-]{{0,40}}['\"]?\s*(?:[=:]|%3d)\s*)(?!\*\*\*(?:[&#;\s'\")]|\Z))"
    r"(?:'(?:[^'\\]|\\.)*'?|\"(?:[^\"\\]|\\.)*\"?|(?:\\.|[^\s\\])+)"
)
_OPTION = re.compile(rf"(?i)-[\w-]*{_NAMES}")


def without_passwords(text: str) -> str:
    """Return a text without the passwords of URLs in it."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def shown_command(words: Sequence[str], *, is_cut: bool = False) -> str:
    """Return a command line without passwords: rather without more than that.

    Args:
        is_cut: the last word may go on, so the end of an address may be missing, by which its password is told. It is
            better to shorten what is returned.
    """
    shown: list[str] = []
    left, is_secret = _MOST_CHARACTERS, False
    for number, word in enumerate(words, 1):
        is_value = is_secret and not word.startswith("-")
        is_secret = _OPTION.fullmatch(word) is not None
        is_whole = len(word) <= left and not (is_cut and number == len(words))
        shown.append("***" if is_value else _redacted(word[:left], is_whole=is_whole))
        left -= len(word)
        if left <= 0:
            break
    return " ".join(shown)


def _redacted(word: str, *, is_whole: bool) -> str:
    word = without_passwords(_ADDRESS.sub(r"\1:***@", word))
    word = _FIELD.sub(r"\1***", _ESCAPED.sub(r"\1***%40", word))
    return word if is_whole else _CUT_ADDRESS.sub(r"\1:***", word)
