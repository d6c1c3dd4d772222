"""Progress shown by a bar of the caller's: a tqdm, or what behaves as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._progress.words import one_line

if TYPE_CHECKING:
    from mpcheckpoint._progress.snapshot import Snapshot


class TqdmBar:
    """Moves a bar that has ``update(n)``, and perhaps ``total``, ``initial``, ``set_postfix_str`` and ``close``.

    Args:
        bar: the bar.
        is_ours: whether it was made for this map, which then closes it.
    """

    def __init__(self, bar: Any, *, is_ours: bool) -> None:
        self._bar = bar
        self._is_ours = is_ours
        self._new = self._before = 0

    def show(self, snapshot: Snapshot) -> None:
        """Move the bar."""
        if snapshot.items is not None and getattr(self._bar, "total", snapshot.items) != snapshot.items:
            self._bar.total = snapshot.items
            self._refresh()
        self._move_over(snapshot.before - self._before)
        new = snapshot.done - snapshot.before
        moved, self._new, self._before = new - self._new, new, snapshot.before
        if snapshot.failed and hasattr(self._bar, "set_postfix_str"):
            last = "" if snapshot.last_failure is None else f", last {one_line(snapshot.last_failure)}"
            self._bar.set_postfix_str(f"{snapshot.failed} failed{last}", refresh=False)
        if moved:
            self._bar.update(moved)

    def _move_over(self, before: int) -> None:
        """Move the bar over items that were done before, which are no part of its rate, if it has a word for that."""
        if not before:
            return
        if not hasattr(self._bar, "initial"):
            self._bar.update(before)
            return
        self._bar.initial += before
        self._bar.n += before
        if hasattr(self._bar, "last_print_n"):
            self._bar.last_print_n += before
        self._refresh()

    def _refresh(self) -> None:
        if hasattr(self._bar, "refresh"):
            self._bar.refresh()

    def print(self, line: str) -> None:
        """Print a line, as tqdm does beside its bars."""
        write = getattr(self._bar, "write", None)
        if write is not None:
            write(line)

    def close(self) -> None:
        """Close a bar that was made for this map; leave one of the caller's to them."""
        self._refresh()
        if self._is_ours and hasattr(self._bar, "close"):
            self._bar.close()
