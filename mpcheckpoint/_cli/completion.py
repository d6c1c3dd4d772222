"""What a shell completes: the keys of the store that the command line is about."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from mpcheckpoint._cli.known_keys import keys_in

if TYPE_CHECKING:
    import click

_VARIABLE = "_MPCHECKPOINT_COMPLETE"


def complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the keys that begin so, of the store that was typed or is remembered.

    A key that bash would not take as it stands is left out there: bash puts what it gets into the line unquoted.
    """
    del param
    store = ctx.params.get("store")
    if not store:
        return []
    is_bash = os.environ.get(_VARIABLE, "").startswith("bash")
    return [
        CompletionItem(log_key)
        for log_key in sorted(keys_in(store))
        if log_key.startswith(incomplete)
        and log_key.isprintable()
        and not (is_bash and _needs_quotes(log_key))
    ]


def _needs_quotes(log_key: str) -> bool:
    return shlex.quote(log_key) != log_key
