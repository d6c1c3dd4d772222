"""The options that commands share, so that a store is given the same way everywhere."""

from __future__ import annotations

import click


def _named(context: click.Context, parameter: click.Parameter, store: str) -> str:
    """Refuse an empty name: an unset variable of a shell would make a store of the current directory."""
    if not store:
        raise click.BadParameter("it is empty; the current directory is .", context, parameter)
    return store


store_option = click.option(
    "--store",
    required=True,
    envvar="MPCHECKPOINT_STORE",
    show_envvar=True,
    metavar="DIR",
    type=click.Path(),
    callback=_named,
    help="The directory of the store.",
)
key_option = click.option("--key", "log_key", required=True, metavar="KEY", help="The log in that store.")
keys_option = click.option(
    "--key",
    "log_keys",
    multiple=True,
    metavar="KEY",
    help="Only this log; may be given several times. [default: all]",
)
json_option = click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")
