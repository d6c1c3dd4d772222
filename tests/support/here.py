"""The command line in this process: for a storage that only this process has, and where starting one takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._cli import main
from support.shell import Ended

if TYPE_CHECKING:
    import pytest


class CommandLineHere:
    """Runs ``mpcheckpoint`` in this process, in its directory. No command may print what is secret."""

    def __init__(self, capfd: pytest.CaptureFixture[str], secret: str) -> None:
        self._capfd = capfd
        self._secret = secret

    def __call__(self, *arguments: str) -> Ended:
        """Run a command to its end."""
        self._capfd.readouterr()
        code = main(arguments)
        out, err = self._capfd.readouterr()
        assert self._secret not in out + err, (arguments, out, err)
        return Ended(code, out, err)
