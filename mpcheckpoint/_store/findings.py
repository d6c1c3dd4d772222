"""The findings of an examination of a place: a directory, or a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Verdict = Literal["ok", "warn", "bad"]
OK: Final = "ok"
WARN: Final = "warn"
BAD: Final = "bad"
_WORST_LAST = (OK, WARN, BAD)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: "place", "file system", "locks", "sync", "names", "wake-ups", "appends", "clean-up" (only if something
            could not be removed), "space", "open files", "clock", "core" or "store". Of a server: "core", "store", and
            names of the engine's own.
        verdict: "ok"; "warn": a store can be here, with this in mind; "bad": none can, or the one here cannot be used.
        text: what was found, and what to do about it.
        figures: what was measured or looked up. The names have units.
    """

    check: str
    verdict: Verdict
    text: str
    figures: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings about a place.

    Attributes:
        directory: the place: a directory, or an address without its password.
        findings: the findings, in the order of the checks.
    """

    directory: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all: "ok", "warn" or "bad"."""
        return worst(self.findings)


def worst(findings: tuple[Finding, ...]) -> Verdict:
    """Return the worst verdict of some findings."""
    return max((finding.verdict for finding in findings), key=_WORST_LAST.index, default=OK)
