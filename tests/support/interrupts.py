"""A Ctrl-C at the one place after the other."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


def _raise() -> None:
    raise KeyboardInterrupt


def interrupted_everywhere(
    act: Callable[[], object], come: Callable[[], object] = _raise
) -> Iterator[KeyboardInterrupt]:
    """Do something again and again, interrupted at the first place, the second, and so on, until none is left.

    Places are where the interpreter looks for signals: where a function of Python begins, and after one of C. Not in
    finalizers: an exception is lost there.

    Args:
        act: what is interrupted.
        come: what a place does; it raises, or sees to it that ``act`` raises.

    Yields:
        Each interrupt that came out, which is kept by who asked for it: with the frames that it came through.
    """
    number = 0
    while True:
        number += 1
        left = number

        def interrupt(frame: FrameType, event: str, _: Any) -> None:
            nonlocal left
            is_place = event in ("call", "c_return")
            left -= is_place
            if is_place and left <= 0 and not _is_of_finalizer(frame):
                sys.setprofile(None)
                come()

        gc.disable()  # what it calls is no place either
        sys.setprofile(interrupt)
        try:
            act()
        except KeyboardInterrupt as error:
            yield error
        finally:
            sys.setprofile(None)
            gc.enable()
        if left > 0:
            return


_FINALIZERS = ("weakref", "_weakrefset", "multiprocessing.util")


def _is_of_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_globals.get("__name__") in _FINALIZERS:
            return True
        frame = frame.f_back
    return False
