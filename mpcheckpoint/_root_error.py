"""The root of all errors, and the one error that positions raise. `mpcheckpoint.errors` has all of them.

Below positions, so that the other errors can carry a position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

PUBLIC_MODULE = "mpcheckpoint.errors"


class CheckpointError(Exception):
    """Root of every error raised by this library.

    Attributes:
        path: the file or directory concerned, or None.
        offset: the byte offset in that file, or None.
        reason: a short phrase naming the cause.
        message: what happened, and where. ``str`` adds the advice.
        advice, shell_advice: what to do about it, in Python and on the command line; "" where the message has it.
    """

    __module__ = PUBLIC_MODULE

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        offset: int | None = None,
        reason: str = "",
        advice: str = "",
        shell_advice: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path: str | None = None if path is None else str(path)
        self.offset = offset
        self.reason = reason
        self.advice = advice
        self.shell_advice: str = advice if shell_advice is None else shell_advice

    def __str__(self) -> str:
        return advised(self.message, self.advice)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, dict(self.__dict__), getattr(self, "errno", None))


class InvalidPositionError(CheckpointError, ValueError):
    """A position or cursor does not belong to this log or this store, or could not be parsed."""

    __module__ = PUBLIC_MODULE


def advised(message: str, advice: str) -> str:
    """Return a message, with its advice if there is any."""
    return f"{message}; {advice}" if advice else message


def _rebuild(
    cls: type[CheckpointError], message: str, state: Mapping[str, Any], errno: int | None
) -> CheckpointError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(state)
    if isinstance(error, OSError):
        error.errno = errno
    return error
