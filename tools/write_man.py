"""Write docs/man/: the manual pages, one of mpcheckpoint and one of each command, made of their help.

    python tools/write_man.py [DIRECTORY]

`tests/project/test_man.py` compares the pages with what this writes, and has man show them.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpcheckpoint import __version__
from mpcheckpoint._cli.commands import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = Path(__file__).resolve().parent.parent / "docs" / "man"
_NAME = "mpcheckpoint"
_EXIT_CODES = "Exit codes: "
_LITERAL = "\b"  # click leaves the paragraph after it as it is
_FILES = """\
The options \\fB\\-\\-store\\fR and \\fB\\-\\-key\\fR may be left out where they are remembered: by the environment
variables \\fBMPCHECKPOINT_STORE\\fR and \\fBMPCHECKPOINT_KEY\\fR, else by \\fBstore\\fR and \\fBkey\\fR in the file
\\fImpcheckpoint.toml\\fR, or in the table \\fB[tool.mpcheckpoint]\\fR of \\fIpyproject.toml\\fR, of the current
directory or of the nearest one above it that has one of them. A \\fBstore\\fR in a file is relative to that file."""


def pages() -> dict[str, str]:
    """Return the pages by the names of their files."""
    # What is remembered here is no part of the help.
    variables = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MPCHECKPOINT_")}
    directory = os.getcwd()
    os.chdir("/")
    try:
        context = click.Context(cli, info_name=_NAME, **cli.context_settings)
        made = {f"{_NAME}.1": _page(_NAME, cli, context)}
        for name, command in sorted(cli.commands.items()):
            of_command = click.Context(command, info_name=name, parent=context)
            made[f"{_NAME}-{name}.1"] = _page(f"{_NAME}-{name}", command, of_command)
    finally:
        os.chdir(directory)
        os.environ.update(variables)
    return made


def _page(title: str, command: click.Command, context: click.Context) -> str:
    summary, *paragraphs = _paragraphs(command)
    short = summary.rstrip(".")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    body = [text for text in paragraphs if not text.startswith(_EXIT_CODES)]
    codes = [text.removeprefix(_EXIT_CODES) for text in paragraphs if text.startswith(_EXIT_CODES)]
    path = context.command_path
    lines = [
        '.\\" Written by tools/write_man.py from the help.',
        f'.TH "{title.upper()}" "1" "" "{_NAME} {__version__}" "User Commands"',
        *(".SH NAME", f"{_escaped(title)} \\- {_escaped(short[:1].lower() + short[1:])}"),
        *(".SH SYNOPSIS", f"\\fB{_escaped(path)}\\fR {_escaped(usage[len(path) + 1 :])}"),
        *(".SH DESCRIPTION", *_text(summary)),
        *(line for text in body for line in _text(text)),
        *_options(command, context),
    ]
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS"]
        for name, each in sorted(command.commands.items()):
            lines += [
                ".TP",
                f"\\fB{_escaped(f'{_NAME}-{name}')}\\fR(1)",
                _escaped(each.get_short_help_str(200)),
            ]
        lines += [".SH ENVIRONMENT AND FILES", *_FILES.splitlines()]
    if codes:
        lines += [".SH EXIT STATUS", *_text(codes[0])]
    lines += _see_also(title)
    return "\n".join(lines) + "\n"


def _paragraphs(command: click.Command) -> list[str]:
    text = inspect.cleandoc(command.help or "").partition("\f")[0]
    return [each for each in re.split(r"\n[ \t]*\n", text) if each.strip()]


def _text(paragraph: str) -> Iterator[str]:
    """Yield the lines of a paragraph; of one that is to stay as it is, without filling."""
    if not paragraph.startswith(_LITERAL):
        yield from (".PP", _escaped(" ".join(paragraph.split())))
        return
    lines = paragraph.splitlines()[1:]
    if lines and not lines[0].startswith(" "):  # what it is about stands before it
        yield from (".PP", _escaped(lines.pop(0)))
    if lines:
        yield from (
            ".PP",
            ".RS 4",
            ".nf",
            *(_escaped(line.removeprefix("  ")) for line in lines),
            ".fi",
            ".RE",
        )


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    if records:
        yield ".SH OPTIONS"
    for names, text in records:
        yield from (".TP", f"\\fB{_escaped(names)}\\fR", _escaped(" ".join(text.split())))


def _see_also(title: str) -> Iterator[str]:
    others = [f"{_NAME}-{name}" for name in sorted(cli.commands)] if title == _NAME else [_NAME]
    yield ".SH SEE ALSO"
    yield ", ".join(f"\\fB{_escaped(other)}\\fR(1)" for other in others)


def _escaped(text: str) -> str:
    """Return a text as roff shows it: each character as it is, and no line of it taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text


def main(directory: Path = PAGES) -> None:
    """Write the pages; remove those of commands that are gone."""
    directory.mkdir(exist_ok=True)
    made = pages()
    for old in directory.glob("*.1"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
