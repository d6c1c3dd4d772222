"""Standard output and error as commands write to them: all of it, or with a reason why not."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TextIO

    from _typeshed import ReadableBuffer

_LOOK_EVERY_MS = 1000
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_WRONG = {errno.EBADF: "it is not open for writing"}


class OutputError(OSError):
    """Standard output cannot be written; the text says why."""


class _Descriptor(io.RawIOBase):
    """A descriptor that is written to until it has taken everything.

    One that is non-blocking (any program that shares the terminal or pipe can make it so) is waited for while it is
    full. Rejected: Python's own streams, which drop what such a descriptor does not take at once.

    Attributes:
        failure: why nothing more is written; None while it is. What is written after that is dropped: it was told once.
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
            # A Ctrl-C. How much the system has taken cannot be known: what came after it might come twice.
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
    """Standard output: of what is wrong with it everybody is told in the same words."""

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
    """Standard error: should it fail, it may work again, and nobody could be told."""

    def write(self, data: ReadableBuffer, /) -> int:
        self.failure = None
        return super().write(data)


class StandardStreams:
    """Give the standard streams these properties while a ``with`` block lasts.

    A stream that is closed leads nowhere: else the next file that is opened, a log or a lock, would get its number, and
    what is printed. What is written to a closed standard output fails: it would be lost.
    """

    def __init__(self) -> None:
        self._output: _Output | None = None
        self._before = (sys.stdout, sys.stderr)

    def __enter__(self) -> Self:
        closed = _open_closed()
        # What a program has put in the place of a stream is its own affair.
        if 1 in closed or _leads_to(sys.stdout, 1):
            is_closed = OSError(errno.EBADF, "it is closed") if 1 in closed else None
            self._output = _Output(1, "<stdout>", is_closed)
            sys.stdout = _text(self._output, self._before[0])
        if 2 in closed or _leads_to(sys.stderr, 2):
            sys.stderr = _text(_Errors(2, "<stderr>"), self._before[1])
        return self

    def finish(self) -> OSError | None:
        """Write out what is still held, and return what kept something from being written.

        Raises:
            KeyboardInterrupt: a Ctrl-C came while it waited; what was held is dropped.
        """
        try:
            sys.stdout.flush()
        except OSError as error:
            return error
        return None if self._output is None else self._output.failure

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.stdout, sys.stderr = self._before


_kept: list[IO[Any]] = []


def _open_closed() -> set[int]:
    """Have closed standard streams lead nowhere; return which these are."""
    closed = set()
    for fd, (_, mode) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            # It gets the lowest number, this one, and keeps it. That there is no input is to be seen by those who want
            # some: it is not an empty one.
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
        errors="backslashreplace" if errors == "strict" else errors,  # to show is better than to end
        line_buffering=getattr(like, "line_buffering", False) or raw.isatty(),
        write_through=getattr(like, "write_through", False),
    )
