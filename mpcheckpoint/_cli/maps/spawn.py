"""The start of a command: with ``posix_spawn``, which takes a third of the time that ``subprocess`` takes."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mpcheckpoint._cli.remembered import STORE_VARIABLE
from mpcheckpoint._engines import address_of
from mpcheckpoint.errors import InvalidAddressError

if TYPE_CHECKING:
    from collections.abc import Iterable

# Where a command finds the descriptor that keeps its item claimed: the first number after the standard streams that is
# not the number it has here. ``dup2`` to the same number may leave it closed by exec.
_WORKER_FDS = (3, 4)
_MOST_FDS = 65536
# What Python ignores, and commands expect to end them.
_DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ]
_OUR_GROUP: dict[str, Any] = {}
_OWN_GROUP: dict[str, Any] = {"setpgroup": 0}


class Spawner:
    """Starts commands, in the environment of this process as it is when the first one may start."""

    def __init__(self) -> None:
        """Have commands inherit none of the descriptors that are open now, but the standard streams.

        All that Python opens itself is inherited only where that is asked. What the shell that started us has left
        open, as in ``map ... 9> lock``, is not.
        """
        # Rejected: os.environ itself. It is a class in Python, and decodes all of it for each command. Python cannot
        # hand on what has no name, as in "=x=y".
        self._environment = {bytes(name): bytes(value) for name, value in os.environb.items() if name}
        _drop_password(self._environment)
        for fd in _open_fds():
            if fd > 2:
                with suppress(OSError):  # it was that of the listing itself
                    os.set_inheritable(fd, False)

    def start(self, argv: list[bytes], output_fd: int, worker_fd: int, *, leads_group: bool) -> int:
        """Start a command; return its process id. The caller reaps it.

        Its standard input is empty, its standard output and error are ``output_fd``, and it inherits ``worker_fd``, if
        that is not -1.

        Requires: the descriptors are above the standard streams.

        Raises:
            OSError: it could not be started, or there is no such command.
            ValueError: there is a NUL byte in an argument.
        """
        assert output_fd > 2
        assert worker_fd > 2 or worker_fd == -1
        inherited_fd = next(fd for fd in _WORKER_FDS if fd != worker_fd)
        inherited = [] if worker_fd == -1 else [(os.POSIX_SPAWN_DUP2, worker_fd, inherited_fd)]
        return os.posix_spawnp(
            argv[0],
            argv,
            self._environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, output_fd, 1),
                (os.POSIX_SPAWN_DUP2, output_fd, 2),
                *inherited,
            ],
            setsigdef=_DEFAULT_SIGNALS,
            **_OWN_GROUP if leads_group else _OUR_GROUP,
        )


def _drop_password(environment: dict[bytes, bytes]) -> None:
    """Take the password out of the address of a store that commands would inherit: others may read an environment.

    A command that uses the store has it from PGPASSWORD, ``~/.pgpass`` or a service, as whoever starts the map has set
    these.
    """
    name = os.fsencode(STORE_VARIABLE)
    try:
        address = address_of(os.fsdecode(environment.get(name, b"")))
    except InvalidAddressError:
        del environment[name]  # no command can use it, and what is secret in it cannot be told
        return
    if address is not None and address.has_password:
        environment[name] = str(address.without_password()).encode()


def _open_fds() -> Iterable[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        return range(min(_MOST_FDS, os.sysconf("SC_OPEN_MAX")))
