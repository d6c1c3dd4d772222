"""The list of mutants, and how one is put into the source."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).resolve().with_name("list.toml")
NATIVE = "native/"


class StaleMutantError(Exception):
    """What a mutant replaces does not stand in the source exactly once: the code has changed, and so must the list."""


class Mutant(NamedTuple):
    """One plausible mistake.

    Attributes:
        name: what is wrong with it. Stays as it is once it is in the list.
        module: the file in the package; in the checkout for the native core, as `native/lines.c`.
        old: text that stands there exactly once.
        new: what the mistake makes of it.
        caught_by: the tests, as `file::name` below `tests/`, of which at least one must fail.
    """

    name: str
    module: str
    old: str
    new: str
    caught_by: tuple[str, ...]

    @property
    def is_native(self) -> bool:
        """Whether it is in the native core, and has to be built."""
        return self.module.startswith(NATIVE)

    def applied_to(self, source: str) -> str:
        """Return the source with the mistake in it.

        Raises:
            StaleMutantError: what it replaces is not there, or more than once.
        """
        found = source.count(self.old)
        if found != 1:
            raise StaleMutantError(
                f"the mutant {self.name!r} replaces text that stands {found} times in {self.module}: {self.old!r}"
            )
        return source.replace(self.old, self.new)


def listed_mutants() -> list[Mutant]:
    """Return the mutants of the list, in its order."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**entry | {"caught_by": tuple(entry["caught_by"])}) for entry in entries]
