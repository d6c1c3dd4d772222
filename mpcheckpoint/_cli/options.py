"""The options that commands share, so that a store is given the same way everywhere."""

from __future__ import annotations

import click

store_option = click.option(
    "--store", required=True, metavar="DIR", type=click.Path(), help="The directory of the store."
)
key_option = click.option("--key", "log_key", required=True, metavar="KEY", help="The log in that store.")
