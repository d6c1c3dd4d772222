"""The entry. It turns errors into one line on standard error, never a traceback."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from mpcheckpoint import __version__, _core
from mpcheckpoint._cli.compact_command import compact_command
from mpcheckpoint._cli.doctor_command import doctor_command
from mpcheckpoint._cli.import_command import import_command
from mpcheckpoint._cli.known_keys import logs_there_are
from mpcheckpoint._cli.ls_command import ls_command
from mpcheckpoint._cli.maps.map_command import map_command
from mpcheckpoint._cli.maps.results_command import results_command
from mpcheckpoint._cli.remembered import Origins
from mpcheckpoint._cli.repair_command import repair_command
from mpcheckpoint._cli.report_command import report_command
from mpcheckpoint._cli.show_command import show_command
from mpcheckpoint._cli.streams import OutputError, StandardStreams
from mpcheckpoint._cli.tail_command import tail_command
from mpcheckpoint._cli.terminal import Exit, end_by_broken_pipe, say, say_error, without_passwords
from mpcheckpoint._cli.top.top_command import top_command
from mpcheckpoint._cli.verify_command import verify_command
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message=f"%(prog)s %(version)s ({_core.description()})")
def cli() -> None:
    """Run jobs that survive being killed, and see what they did.

    \b
    Example:
      ls *.py | mpcheckpoint map --store run-42 --key lines -- wc -l {}
      mpcheckpoint results --store run-42 --key lines

    A store is a directory; a key names one log in it. Any number of processes may use one store.

    Both may be remembered: in MPCHECKPOINT_STORE and MPCHECKPOINT_KEY, or as store and key in the nearest
    mpcheckpoint.toml, or in the table [tool.mpcheckpoint] of the nearest pyproject.toml, here or in a directory above.
    """


for command in (
    map_command,
    results_command,
    report_command,
    ls_command,
    show_command,
    tail_command,
    top_command,
    verify_command,
    repair_command,
    compact_command,
    import_command,
    doctor_command,
):
    cli.add_command(command)


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
    except CheckpointError as error:
        say_error(error, logs_there_are(error) + without_passwords(origins.text(error)))
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
