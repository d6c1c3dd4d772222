"""The options that several commands have, so that a store is given the same way everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from mpcheckpoint._cli.completion import complete_key
from mpcheckpoint._cli.remembered import STORE_VARIABLE, Origins, RememberedOption
from mpcheckpoint._cli.terminal import safe
from mpcheckpoint._cli.times import duration
from mpcheckpoint._engines import address_of
from mpcheckpoint._logfile.paths import A_STORE_IS, STORE_DIRECTORY, refuse_url
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._work.reruns import require_rerun_name
from mpcheckpoint._work.worker_options import parse_memory, require_memory_told
from mpcheckpoint.errors import InvalidAddressError, NotForThisStoreError, UnknownSchemeError

Command = TypeVar("Command", bound=Callable[..., Any])
# What click passes on if the option comes without a name: at the end, or before another option.
_NO_NAME = ""


class LocalPath(click.Path):
    """A path, but no URL: click's message that it does not exist would show a password."""

    def __init__(self, what: str, advice: str, **options: Any) -> None:
        super().__init__(**options)
        self._what = what
        self._advice = advice

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path; refuse a URL."""
        try:
            refuse_url(value, what=self._what, advice=self._advice)
        except UnknownSchemeError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


class StorePlace(LocalPath):
    """A store: the path of a directory, or the address of one on a server, which is shown without its password."""

    def __init__(self) -> None:
        super().__init__("store", A_STORE_IS)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the path, or the address; refuse another URL."""
        try:
            address = address_of(value)
        except InvalidAddressError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx) if address is None else address


STORE_PLACE = StorePlace()


def _named(context: click.Context, parameter: click.Parameter, store: str | Address) -> str | Address:
    """Refuse what cannot be a store.

    An empty name is an unset variable of a shell, and would turn the current directory into a store. A file, or the
    inside of a store, is what people see when they look.
    """
    if isinstance(store, Address):
        if isinstance(context.obj, Origins):
            context.obj.address = store
        return store
    if not store:
        raise click.BadParameter("it is empty; the current directory is .")
    if os.path.isfile(store):
        around, inside, _ = os.path.abspath(store).rpartition(f"/{STORE_DIRECTORY}/")
        here = f", here {safe(around)}" if inside else ""
        raise click.BadParameter(f"{safe(store)} is a file; a store is a directory{here}")
    if os.path.basename(os.path.abspath(store)) == STORE_DIRECTORY and os.path.isdir(store):
        raise click.BadParameter(f"{safe(store)} is the inside of a store; give the directory around it")
    return store


def _directory(context: click.Context, parameter: click.Parameter, store: str | Address) -> str:
    named = _named(context, parameter, store)
    if isinstance(named, Address):
        raise NotForThisStoreError(f"mpcheckpoint {context.info_name}", str(named))
    return named


def _store_option(
    callback: Callable[[click.Context, click.Parameter, str | Address], str | Address],
    metavar: str,
    help_text: str,
) -> Callable[[Command], Command]:
    return click.option(
        "--store",
        cls=RememberedOption,
        setting="store",
        required=True,
        envvar=STORE_VARIABLE,
        show_envvar=True,
        metavar=metavar,
        type=STORE_PLACE,
        callback=callback,
        help=help_text,
    )


store_option = _store_option(_named, "STORE", "The directory of the store, or its address on a server.")
directory_option = _store_option(_directory, "DIR", "The directory of the store.")
key_option = click.option(
    "--key",
    "log_key",
    cls=RememberedOption,
    setting="key",
    required=True,
    envvar="MPCHECKPOINT_KEY",
    show_envvar=True,
    metavar="KEY",
    shell_complete=complete_key,
    help="The log in that store.",
)
keys_option = click.option(
    "--key",
    "log_keys",
    multiple=True,
    metavar="KEY",
    shell_complete=complete_key,
    help="Only this log; may be given several times. [default: all]",
)
yes_option = click.option(
    "-y", "--yes", "is_yes", is_flag=True, help="Do it. Without this, only say what would be done."
)
json_option = click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")


def _rerun(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    try:
        return require_rerun_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def rerun_option(help_text: str) -> Callable[[Command], Command]:
    """Return the option ``--rerun NAME``."""
    return click.option(
        "--rerun", metavar="NAME", is_flag=False, flag_value=_NO_NAME, callback=_rerun, help=help_text
    )


lock_timeout_option = click.option(
    "--lock-timeout",
    "lock_timeout_s",
    type=duration,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for writers: seconds, or like 90s, 5m, 1h30m.",
)


def memory_size(text: str) -> int:
    """Return the size in bytes that was given as a limit on memory."""
    try:
        size_bytes = parse_memory(text)
        require_memory_told()
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return size_bytes


def byte_rate(text: str) -> int:
    """Return the rate in bytes a second that was given as a limit."""
    try:
        return parse_memory(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no rate: give bytes a second, as 500k, 20M or 1G") from None
