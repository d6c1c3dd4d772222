"""A Ctrl-C among what the code of an item raises. Whatever else that raises is the outcome of the item.

That is more than Exception: ``asyncio.CancelledError``, GeneratorExit and what pytest's ``skip`` raises derive from
BaseException, too. Who calls for the end of a process has SystemExit, and of a map KeyboardInterrupt.
"""

from __future__ import annotations


def raise_ctrl_c(error: BaseException) -> None:
    """Raise the Ctrl-C that an exception is, or that a group holds, as libraries with tasks raise it; else return.

    Raises:
        KeyboardInterrupt: it is one.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
        raise KeyboardInterrupt from error
