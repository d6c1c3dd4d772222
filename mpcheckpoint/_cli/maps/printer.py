"""``map --print``: the outputs that were recorded, on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mpcheckpoint._cli.maps.results_text import left_out_note
from mpcheckpoint._work.text import to_bytes

if TYPE_CHECKING:
    from mpcheckpoint import Outcome


class Printer:
    """Print what commands wrote, byte by byte, each whole.

    What was done before is printed from its record: so the line that is started again after a kill prints all there is.
    """

    def print(self, outcome: Outcome) -> None:
        """Print an item's output, and have it seen at once.

        Raises:
            BrokenPipeError: nobody reads it any more.
        """
        value = outcome.value
        if not isinstance(value, dict):
            return
        text = to_bytes(str(value.get("output", "")))
        if "left_out_bytes" in value:
            cut = f"\n{left_out_note(value)}\n".encode()
            text += cut + to_bytes(str(value.get("output_end", "")))
        out = sys.stdout.buffer
        out.write(text)
        out.flush()
