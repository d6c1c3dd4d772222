"""Standard output and error that write everything, or say why they cannot."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer

_LOOK_EVERY_MS = 1000
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_WRONG = {errno.EBADF: "it is not open for writing"}


class OutputError(OSError):
    """Standard output cannot be written; the text says why."""


class _Descriptor(io.RawIOBase):
    """A descriptor that is written to until it has taken everything.

    Any program that shares the terminal or pipe can make it non-blocking. Then this waits while it is full. Rejected:
    Python's own streams, which drop what such a descriptor does not take at once.

    Attributes:
        failure: why nothing more is written; None while it works. Later writes are dropped: the failure is told once.
    """

    def __init__(self, fd: int, name: str, failure_at_once: OSError | None = None) -> None:
        super().__init__()
        self.name = name
        self.failure: OSError | None = None
        self._failure_at_once = failure_at_once
        self._fd = fd
        self._is_cut = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._is_cut or self.failure is not None:
            return memoryview(data).nbytes
        try:
            return self._write(data)
        except OSError as error:
            self.failure = error
            raise
        except BaseException:
            # A Ctrl-C. How much was written is not known, and to go on could write it twice.
            self._is_cut = True
            raise

    def _write(self, data: ReadableBuffer) -> int:
        if self._failure_at_once is not None:
            raise self._failure_at_once
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(_LOOK_EVERY_MS)

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return self._failure_at_once is None and os.isatty(self._fd)

    def writable(self) -> bool:
        return True


class _Output(_Descriptor):
    """Standard output. Every command tells its failure in the same words."""

    def _write(self, data: ReadableBuffer) -> int:
        try:
            return super()._write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            number = error.errno or 0
            reason = _WRONG.get(number, error.strerror) if self._failure_at_once is None else error.strerror
            raise OutputError(number, f"cannot write to standard output: {reason}") from error


class _Errors(_Descriptor):
    """Standard error. After a failure it may work again, and there is no other place to tell it."""

    def write(self, data: ReadableBuffer, /) -> int:
        self.failure = None
        return super().write(data)


class StandardStreams:
    """Replace the standard streams while a ``with`` block lasts.

    Closed streams are reopened on /dev/null. Else the next file that is opened, a log or a lock, would get their number
    and what is printed. To write to a closed standard output still fails: it would be lost.
    """

    def __init__(self) -> None:
        self._output: _Output | None = None
        self._before = (sys.stdout, sys.stderr)

    def __enter__(self) -> Self:
        closed = _open_closed()
        # A stream that a program has replaced is left alone.
        if 1 in closed or _leads_to(sys.stdout, 1):
            is_closed = OSError(errno.EBADF, "it is closed") if 1 in closed else None
            self._output = _Output(1, "<stdout>", is_closed)
            sys.stdout = _text(self._output, self._before[0])
        if 2 in closed or _leads_to(sys.stderr, 2):
            sys.stderr = _text(_Errors(2, "<stderr>"), self._before[1])
        return self

    def finish(self) -> OSError | None:
        """Flush standard output; return the error that kept something from being written.

        Raises:
            KeyboardInterrupt: a Ctrl-C came while it waited; the rest is dropped.
        """
        try:
            sys.stdout.flush()
        except OSError as error:
            return error
        return None if self._output is None else self._output.failure

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before


_kept: list[IO[Any]] = []


def _open_closed() -> set[int]:
    """Reopen closed standard streams on /dev/null; return their numbers."""
    closed = set()
    for fd, (_, mode) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            # The file gets the lowest free number, which is this one. `sys.stdin` stays None, so that commands can tell
            # a closed input from an empty one.
            _kept.append(open(os.devnull, mode))  # noqa: SIM115
            os.set_inheritable(fd, True)
            closed.add(fd)
    return closed


def _leads_to(stream: TextIO | None, fd: int) -> bool:
    try:
        return stream is not None and isinstance(stream, io.TextIOWrapper) and stream.fileno() == fd
    except (OSError, ValueError):
        return False


def _text(raw: _Descriptor, like: Any) -> TextIO:
    errors = getattr(like, "errors", None) or "strict"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(like, "encoding", None) or "utf-8",
        errors="backslashreplace" if errors == "strict" else errors,  # better shown escaped than not at all
        line_buffering=getattr(like, "line_buffering", False) or raw.isatty(),
        write_through=getattr(like, "write_through", False),
    )
