"""What need not be typed each time: the store and the key, from the environment or from the nearest settings file."""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from mpcheckpoint._cli.terminal import one_line, safe, without_passwords
from mpcheckpoint._engines import address_of, shown_place
from mpcheckpoint.errors import InvalidAddressError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mpcheckpoint._postgres.address import Address

STORE_VARIABLE = "MPCHECKPOINT_STORE"
OWN_FILE, PYPROJECT = "mpcheckpoint.toml", "pyproject.toml"
_TABLE = "[tool.mpcheckpoint]"
_KNOWN = ("store", "key")


class Setting(NamedTuple):
    """A value that was not typed, and where it comes from: the name of a variable, or the path of a file."""

    value: str
    origin: str

    @property
    def shown(self) -> str:
        """The value, on one line and without passwords."""
        return without_passwords(one_line(shown_place(self.value)))


class Settings(NamedTuple):
    """What the nearest file says."""

    path: str
    values: Mapping[str, str]

    def setting(self, name: str) -> Setting | None:
        """Return a value, if the file has it. A store is taken relative to the file."""
        value = self.values.get(name)
        if value is None:
            return None
        if name == "store":
            _require_no_password(value, self.path)
        if name == "store" and "://" not in value:  # a URL is refused later, as one that was typed
            value = os.path.relpath(
                os.path.join(os.path.dirname(self.path), os.path.expanduser(value)), start=os.getcwd()
            )
        return Setting(value, self.path)


def nearest_settings() -> Settings | None:
    """Return the settings of the current directory, or of the nearest one above it that has any.

    In one directory mpcheckpoint.toml goes before pyproject.toml. A pyproject.toml without our table has none.

    Raises:
        click.UsageError: a file cannot be read, or says something that we do not know.
    """
    for directory in _upwards():
        for name in (OWN_FILE, PYPROJECT):
            found = _settings_of(os.path.join(directory, name))
            if found is not None:
                return found
    return None


def _upwards() -> Iterator[str]:
    try:
        directory = os.getcwd()
    except OSError:
        return  # it was removed
    while True:
        yield directory
        above = os.path.dirname(directory)
        if above == directory:
            return
        directory = above


def _settings_of(path: str) -> Settings | None:
    is_own = os.path.basename(path) == OWN_FILE
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if not is_own:
            return None  # of another tool, for all that is known
        raise click.UsageError(f"cannot read the settings in {safe(path)}: {error.strerror}") from error
    if not is_own and b"mpcheckpoint" not in data:
        return None
    try:
        table: Any = tomllib.loads(data.decode())
        if not is_own:
            table = table.get("tool", {}).get("mpcheckpoint")
    except (ValueError, AttributeError) as error:
        raise click.UsageError(f"cannot read the settings in {safe(path)}: {one_line(str(error))}") from error
    if table is None:
        return None
    where = safe(path) if is_own else f"{_TABLE} in {safe(path)}"
    if not isinstance(table, dict):
        raise click.UsageError(f"{where} is no table")
    return Settings(path, _checked(table, where))


def _checked(table: dict[str, Any], where: str) -> dict[str, str]:
    for name, value in table.items():
        if name not in _KNOWN:
            close = get_close_matches(name, _KNOWN, n=1)
            meant = (
                f"; did you mean {close[0]!r}?" if close else f"; there are {' and '.join(map(repr, _KNOWN))}"
            )
            raise click.UsageError(f"{where} has {one_line(repr(name))}, which nothing reads{meant}")
        if not isinstance(value, str) or not value:
            raise click.UsageError(
                f"{where}: {name} is a string that is not empty, not {one_line(repr(value))}"
            )
    return table


def _require_no_password(store: str, path: str) -> None:
    """Refuse a password in a file that everybody may read, and that is often shared.

    Raises:
        click.UsageError: there is one.
    """
    try:
        address = address_of(store)
    except InvalidAddressError:
        return  # refused later, as one that was typed
    if address is not None and address.has_password:
        raise click.UsageError(
            f"{safe(path)}: the store has a password in its address, and a settings file is no place for one: leave it "
            "out, and put it into PGPASSWORD or ~/.pgpass"
        )


class RememberedOption(click.Option):
    """An option whose value may come from an environment variable or, if that is not set, from a settings file."""

    def __init__(self, *arguments: Any, setting: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._setting = setting

    def consume_value(
        self, ctx: click.Context, opts: Mapping[str, click.Parameter]
    ) -> tuple[Any, ParameterSource]:
        """Return the value and its source: what was typed, else that of the environment, else that of a file."""
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.ENVIRONMENT and isinstance(self.envvar, str):
            note_origin(ctx, self, Setting(str(value), self.envvar))
        if source is not ParameterSource.DEFAULT:
            return value, source
        try:
            found = _of_file(self._setting)
        except click.UsageError as error:
            if ctx.resilient_parsing:
                return value, source  # the shell asks for completions
            error.ctx = ctx
            raise
        if found is None:
            return value, source
        note_origin(ctx, self, found)
        return found.value, ParameterSource.DEFAULT_MAP

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the line of the help, with the value that would be taken if none was typed."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        usage, text = record
        try:
            now = self._now(ctx)
        except click.UsageError as error:
            return usage, f"{text}  [{error.message}]"
        return usage, text if now is None else f"{text}  [{_told(now)}]"

    def _now(self, ctx: click.Context) -> Setting | None:
        of_environment = self.resolve_envvar_value(ctx)
        if of_environment is not None and isinstance(self.envvar, str):
            return Setting(of_environment, self.envvar)
        return _of_file(self._setting)


def _told(now: Setting) -> str:
    return without_passwords(f"now {now.shown}, from {safe(now.origin)}")


def _of_file(name: str) -> Setting | None:
    settings = nearest_settings()
    return None if settings is None else settings.setting(name)


# --- where values came from, for errors ------------------------------------------------------------------------


class Origins:
    """Given to click as its object, to be there after an error: the values that were not typed, by option.

    Attributes:
        address: of the store, if that is on a server.
    """

    def __init__(self) -> None:
        self.of: dict[str, Setting] = {}
        self.address: Address | None = None

    def text(self, error: Exception) -> str:
        """Return where the values came from that an error may be about; "" if all were typed."""
        options = list(self.of)
        if isinstance(error, click.BadParameter):
            options = [name for name in options if error.param is not None and name in error.param.opts]
        elif isinstance(error, click.UsageError):
            options = []  # it is about something that was typed
        told = [f"{name} is {self.of[name].shown}, from {safe(self.of[name].origin)}" for name in options]
        return f" ({'; '.join(told)})" if told else ""


def note_origin(ctx: click.Context, option: click.Option, found: Setting) -> None:
    """Note where the value of an option came from."""
    if isinstance(ctx.obj, Origins):
        ctx.obj.of[option.opts[0]] = found
