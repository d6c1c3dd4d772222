"""The command line. Only this package imports click.

``main`` is the entry; each command has a module of its name. Exit codes: 0 all is well; 1 an item failed; 2 bad usage,
or a store that cannot be used; 128 plus the number of the signal that ended it (130: Ctrl-C).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        # Not at the top: a Ctrl-C during the import of click and rich is no reason for a traceback.
        from mpcheckpoint._cli.commands import run  # noqa: PLC0415

        return run(argv)
    except KeyboardInterrupt:  # nor is one while an error is told, or the output is flushed
        return 130
