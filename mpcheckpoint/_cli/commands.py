"""The entry. It turns errors into one line on standard error, never a traceback.

Each command is imported when it is asked for: what the others need takes longer to import than a short command runs.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import click

from mpcheckpoint import __version__, _core
from mpcheckpoint._cli.known_keys import logs_there_are
from mpcheckpoint._cli.lost_ctrl_c import LostCtrlC
from mpcheckpoint._cli.remembered import Origins
from mpcheckpoint._cli.streams import OutputError, StandardStreams
from mpcheckpoint._cli.terminal import Exit, end_by_broken_pipe, say, say_error, without_passwords
from mpcheckpoint.errors import CheckpointError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def _backup() -> click.Command:
    from mpcheckpoint._cli.backup_command import backup_command

    return backup_command


def _compact() -> click.Command:
    from mpcheckpoint._cli.compact_command import compact_command

    return compact_command


def _copy() -> click.Command:
    from mpcheckpoint._cli.copy_command import copy_command

    return copy_command


def _doctor() -> click.Command:
    from mpcheckpoint._cli.doctor_command import doctor_command

    return doctor_command


def _forget() -> click.Command:
    from mpcheckpoint._cli.forget_command import forget_command

    return forget_command


def _import() -> click.Command:
    from mpcheckpoint._cli.import_command import import_command

    return import_command


def _ls() -> click.Command:
    from mpcheckpoint._cli.ls_command import ls_command

    return ls_command


def _map() -> click.Command:
    from mpcheckpoint._cli.maps.map_command import map_command

    return map_command


def _repair() -> click.Command:
    from mpcheckpoint._cli.repair_command import repair_command

    return repair_command


def _report() -> click.Command:
    from mpcheckpoint._cli.report_command import report_command

    return report_command


def _restore() -> click.Command:
    from mpcheckpoint._cli.restore_command import restore_command

    return restore_command


def _results() -> click.Command:
    from mpcheckpoint._cli.maps.results_command import results_command

    return results_command


def _show() -> click.Command:
    from mpcheckpoint._cli.show_command import show_command

    return show_command


def _tail() -> click.Command:
    from mpcheckpoint._cli.tail_command import tail_command

    return tail_command


def _top() -> click.Command:
    from mpcheckpoint._cli.top.top_command import top_command

    return top_command


def _verify() -> click.Command:
    from mpcheckpoint._cli.verify_command import verify_command

    return verify_command


_LOADERS: dict[str, Callable[[], click.Command]] = {
    "backup": _backup,
    "compact": _compact,
    "copy": _copy,
    "doctor": _doctor,
    "forget": _forget,
    "import": _import,
    "ls": _ls,
    "map": _map,
    "repair": _repair,
    "report": _report,
    "restore": _restore,
    "results": _results,
    "show": _show,
    "tail": _tail,
    "top": _top,
    "verify": _verify,
}


class _Commands(Mapping[str, click.Command]):
    """The commands by name."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            self._loaded[name] = _LOADERS[name]()
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in _LOADERS

    def __iter__(self) -> Iterator[str]:
        return iter(_LOADERS)

    def __len__(self) -> int:
        return len(_LOADERS)


@click.group(
    commands=cast("dict[str, click.Command]", _Commands()),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message=f"%(prog)s %(version)s ({_core.description()})")
def cli() -> None:
    """Run jobs that survive being killed, and see what they did.

    \b
    Example:
      ls *.py | mpcheckpoint map --store run-42 --key lines -- wc -l {}
      mpcheckpoint results --store run-42 --key lines

    A store is a directory, or has an address on a server, as postgresql://user@host/database#store; a key names one log
    in it. Any number of processes may use one store.

    Both may be remembered: in MPCHECKPOINT_STORE and MPCHECKPOINT_KEY, or as store and key in the nearest
    mpcheckpoint.toml, or in the table [tool.mpcheckpoint] of the nearest pyproject.toml, here or in a directory above.
    """


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    with StandardStreams() as streams:
        code = _run(argv)
        try:
            failure = streams.finish()
        except KeyboardInterrupt:
            return Exit.INTERRUPTED
        if isinstance(failure, BrokenPipeError):
            end_by_broken_pipe()
        if failure is not None:
            say(f"mpcheckpoint: {failure.strerror}")
            return Exit.USAGE
        return code


def _run(argv: Sequence[str] | None) -> int:
    origins = Origins()
    logging.basicConfig(format="mpcheckpoint: %(message)s", level=logging.WARNING)
    try:
        with LostCtrlC():
            code = cli.main(argv, prog_name="mpcheckpoint", standalone_mode=False, obj=origins)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        return Exit.USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "mpcheckpoint"
        say(f"{where}: {_one_line(error.format_message() + origins.text(error))}")
        return Exit.USAGE
    except BrokenPipeError:
        end_by_broken_pipe()
    except OutputError:
        return Exit.USAGE  # `run` prints it, also if a command caught it
    except StoreUnavailableError as error:
        say_error(error)
        return Exit.SHORTAGE
    except CheckpointError as error:
        say_error(error, logs_there_are(error, origins.address) + without_passwords(origins.text(error)))
        return Exit.USAGE
    except OSError as error:
        say(f"mpcheckpoint: {_one_line(error)}")
        return Exit.USAGE
    except SystemExit as error:  # click raises it, and others at a broken pipe
        code = error.code
    except (click.Abort, KeyboardInterrupt):
        say("mpcheckpoint: interrupted")
        return Exit.INTERRUPTED
    return code if isinstance(code, int) else 0


def _one_line(message: object) -> str:
    return without_passwords(" ".join(str(message).split()))
