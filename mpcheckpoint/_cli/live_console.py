"""A terminal that is drawn on, and left as it was by whatever ends us."""

from __future__ import annotations

from rich.console import Console


class LiveConsole(Console):
    """A console for bars and screens that leaves the cursor where it is seen.

    Crash: rich hides the cursor while something is drawn again and again, and shows it at the end. A process that is
    killed has no end, and its user would type blindly.
    """

    def show_cursor(self, show: bool = True) -> bool:
        """Neither hide nor show it: return that nothing was written."""
        del show
        return False
