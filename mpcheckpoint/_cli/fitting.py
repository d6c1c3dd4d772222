"""Fit text into the columns of a terminal. Names are cut in the middle: the end of a path tells as much as its start.

Only for terminals: rich, which knows the widths of characters, takes a while to import.
"""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

CUT = "…"


def cut_middle(text: str, width: int) -> str:
    """Return a text of at most so many columns; if it is longer, its middle is cut out."""
    if cell_len(text) <= width:
        return text
    end = ""
    for character in reversed(text):
        if cell_len(character + end) > (width - 1) // 2:
            break
        end = character + end
    beginning = set_cell_size(text, max(0, width - 1 - cell_len(end)))
    return set_cell_size(beginning + CUT + end, max(0, width))


def cut_end(text: str, width: int) -> str:
    """Return a text of at most so many columns; if it is longer, its end is cut off."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + CUT[: max(0, width)]


def fitted(text: str, width: int, *, is_right: bool = False) -> str:
    """Return a text of exactly so many columns: padded with blanks, or cut off."""
    blanks = " " * max(0, width - cell_len(text))
    return set_cell_size(blanks + text if is_right else text + blanks, max(0, width))
