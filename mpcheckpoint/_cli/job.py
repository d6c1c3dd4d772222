"""What was asked for on the command line of ``map``."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from mpcheckpoint._work.text import to_text


class Job(NamedTuple):
    """A command, the items to run it for, and where to record what became of them."""

    store: str
    log_key: str
    jobs: int
    is_null_separated: bool
    retry_failed: bool
    rerun: bool
    output_limit_bytes: int
    words: tuple[bytes, ...]

    @property
    def version(self) -> str:
        """What identifies the work: the command line, as a shell would read it."""
        return " ".join("{}" if word == b"{}" else shlex.quote(to_text(word)) for word in self.words)

    @property
    def results_line(self) -> str:
        """The command that shows what was recorded."""
        return f"mpcheckpoint results --store {shlex.quote(self.store)} --key {shlex.quote(self.log_key)}"
