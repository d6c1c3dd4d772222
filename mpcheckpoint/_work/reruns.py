"""Whose outcomes count: the one rule by which everybody judges what is done.

A run is what one version of a map does under one name, or under none. It is begun by a note in the log, which gives it
a number; its outcomes, failed attempts and deaths begin with that number. So the first bytes of an event tell whether
it counts, and what a start still records under another name, or with another version, is not mistaken for an outcome of
this run.

- For a rerun, a named one, the outcomes of its own runs count: an item is done if it has one of them.
- Without a name the outcomes of all runs count, whatever name they were made under; the last one is the item's.
- A run that goes on with another version says what it keeps of those before it: all, or only what is ok. Runs of before
  there were names kept nothing.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._format.control import Note
from mpcheckpoint._view.view import MAP
from mpcheckpoint.errors import ChangedVersionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpcheckpoint._view.view import LogView

_MOST_NAME_BYTES = 200
_ADVICE = (
    ": one of your own choice, such as today's date. Each item given is to have an outcome under it; started again "
    "with the same name a map carries on, another name begins anew"
)
_LARGEST_NUMBER = 10**18 - 1
# How the record of an outcome begins, and that of an attempt that failed: the first two members, in this order.
_BEGINNING = b'{"run":'
_HEAD_BYTES = 24
_LONGEST_HEAD_BYTES = 48
_TOLD = re.compile(rb'\{"run":(0|[1-9][0-9]{0,17}),"(?:ok":(true|false)|(attempt|death)":)').match


class Keeps(Enum):
    """What a run keeps of the runs before it."""

    NOTHING = None
    ALL = "all"
    OK = "ok"


class IfChanged(Enum):
    """What becomes of that which is done where a map comes with another version."""

    REFUSE = "refuse"
    KEEP = "keep"
    KEEP_OK = "keep-ok"


class RunNote(NamedTuple):
    """What the log says of a run. ``rerun`` is its name, None if it has none."""

    number: int
    version: str
    rerun: str | None = None
    keeps: Keeps = Keeps.NOTHING

    @classmethod
    def of(cls, fields: dict[str, Any]) -> RunNote | None:
        """Return what a note says; None for what a writer of another kind noted under that name."""
        number, version, rerun = fields.get("run"), fields.get("version"), fields.get("rerun")
        if type(number) is not int or not _is_number(number):
            return None
        if not isinstance(version, str) or not isinstance(rerun, str | None):
            return None
        keeps = fields.get("keeps")
        is_known = keeps in (Keeps.ALL.value, Keeps.OK.value)
        return cls(number, version, rerun, Keeps(keeps) if is_known else Keeps.NOTHING)

    def note(self) -> Note:
        """Return the note."""
        fields: dict[str, Any] = {"version": self.version, "run": self.number}
        if self.rerun is not None:
            fields["rerun"] = self.rerun
        if self.keeps is not Keeps.NOTHING:
            fields["keeps"] = self.keeps.value
        return Note(MAP, fields)


class Told(NamedTuple):
    """What the first bytes of a map's record tell.

    Attributes:
        run: the number of its run, as it is written.
        is_outcome: whether it is an outcome; else it is an attempt that failed, or a death.
        is_ok: whether it is an outcome that is no failure.
        is_death: whether it is a death: what ran was killed from elsewhere, and is to run again.
    """

    run: bytes
    is_outcome: bool
    is_ok: bool
    is_death: bool = False


class Rule:
    """Which outcomes count.

    Attributes:
        counting: by number of the run, whether its failures count, too.
        latest: the latest run of each name: only attempts of these are followed by others.
    """

    def __init__(self, counting: dict[bytes, bool], latest: Iterable[bytes]) -> None:
        self.counting = counting
        self.latest = frozenset(latest)

    def counts(self, told: Told) -> bool:
        """Return whether what was told is an outcome that counts."""
        if not told.is_outcome:
            return False
        do_failures_count = self.counting.get(told.run)
        return do_failures_count or (do_failures_count is not None and told.is_ok)

    def is_to_retry(self, told: Told) -> bool:
        """Return whether what was told is an attempt, or a death, that is to be followed by another."""
        return not told.is_outcome and told.run in self.latest


def tell(event: bytes) -> Told | None:
    """Return what the first bytes of an event tell of a map; None if it is no record of one."""
    # Of these heads there are few different ones, however many records.
    told = _told_by(event[:_HEAD_BYTES])
    if told is None and event.startswith(_BEGINNING):
        return _told_by.__wrapped__(event[:_LONGEST_HEAD_BYTES])  # a run's number of many digits
    return told


@lru_cache(maxsize=4096)
def _told_by(head: bytes) -> Told | None:
    found = _TOLD(head)
    if found is None:
        return None
    return Told(found[1], found[3] is None, found[2] == b"true", found[3] == b"death")


def tell_decoded(event: Any) -> Told | None:
    """Return the same of a decoded event."""
    if not isinstance(event, dict) or not _is_number(event.get("run")):
        return None
    names, number = list(event)[:2], b"%d" % event["run"]
    if names == ["run", "ok"] and isinstance(event["ok"], bool):
        return Told(number, is_outcome=True, is_ok=event["ok"])
    if names not in (["run", "attempt"], ["run", "death"]):
        return None
    return Told(number, is_outcome=False, is_ok=False, is_death=names[1] == "death")


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_NUMBER


class History:
    """All runs of a log, in the order in which they were begun. Not changed once it is made."""

    def __init__(self, notes: Iterable[RunNote]) -> None:
        self.notes = tuple(notes)
        self.latest = {note.rerun: note for note in self.notes}  # by name; None is one, too
        self.by_number = {note.number: note for note in self.notes}
        self._rules: dict[object, Rule] = {}

    def rule(self, rerun: str | None, planned: RunNote | None = None) -> Rule:
        """Return which outcomes count for that rerun; for None, without one.

        Args:
            planned: a run of it that may not have been begun yet.
        """
        asked = (rerun, planned)
        if asked not in self._rules:
            is_begun = planned is None or self.by_number.get(planned.number) == planned
            notes = self.notes if is_begun or planned is None else (*self.notes, planned)
            self._rules[asked] = _rule(notes, rerun)
        return self._rules[asked]

    def join(self, log_key: str, version: str, rerun: str | None, if_changed: IfChanged) -> RunNote:
        """Return the run that a start belongs to: one that was begun, or one that it is to begin.

        Raises:
            ChangedVersionError: it has another version, and was not told what to keep.
        """
        known = self.latest.get(rerun)
        if known is not None and known.version == version:
            return known
        number = 1 + max(self.by_number, default=0)
        # Outcomes that nobody has said to keep must not count for another version: those of its own name, and
        # without a name, where none has come before, those of all.
        if known is None and rerun is None:
            known = next((note for note in reversed(self.notes) if note.version != version), None)
        if known is not None and if_changed is IfChanged.REFUSE:
            raise _changed(log_key, known, version)
        if rerun is not None and rerun not in self.latest:
            return RunNote(number, version, rerun)
        keeps = Keeps.OK if known is not None and if_changed is IfChanged.KEEP_OK else Keeps.ALL
        return RunNote(number, version, rerun, keeps if self.notes else Keeps.NOTHING)


def history_of(view: LogView) -> History:
    """Return all runs of a log. What others noted under that name is no run."""
    history: History | None = view.memo.get(History)
    if history is None:
        notes = (RunNote.of(fields) for fields in view.map_notes)
        history = view.memo[History] = History(note for note in notes if note is not None)
    return history


def require_rerun_name(rerun: object) -> str | None:
    """Return the name of a rerun, or None.

    Raises:
        ValueError: it is none, with what to do.
    """
    if rerun is None:
        return None
    if not isinstance(rerun, str):
        raise ValueError(f"a rerun needs a name, a str, not {rerun!r}{_ADVICE}")
    if not rerun:
        raise ValueError(f"a rerun needs a name{_ADVICE}")
    if rerun.startswith("-") or not rerun.isprintable():
        raise ValueError(
            f"the name of a rerun is printable and does not begin with '-', unlike {rerun!r}{_ADVICE}"
        )
    if len(rerun.encode()) > _MOST_NAME_BYTES:
        raise ValueError(
            f"the name of a rerun takes at most {_MOST_NAME_BYTES} bytes: it stands in each outcome"
        )
    return rerun


def _rule(notes: tuple[RunNote, ...], rerun: str | None) -> Rule:
    counting: dict[bytes, bool] = {}
    latest: dict[str | None, bytes] = {}
    for note in notes:
        if rerun is not None and note.rerun != rerun:
            continue
        # What a named run keeps or not is about that name: items that it is not given keep what they have.
        if note.rerun == rerun:
            if note.keeps is Keeps.NOTHING:
                counting, latest = {}, {}
            elif note.keeps is Keeps.OK:
                counting = dict.fromkeys(counting, False)
        number = b"%d" % note.number
        counting[number], latest[note.rerun] = True, number
    return Rule(counting, latest.values())


def _changed(log_key: str, known: RunNote, version: str) -> ChangedVersionError:
    what = "map" if known.rerun is None else f"rerun {known.rerun!r}"
    return ChangedVersionError(
        f"the {what} on the log {log_key!r} was started as {known.version!r}, not as {version!r}. Nothing was run",
        reason="changed version",
        advice='to go on with what is done, give if_changed="keep"; to run again what failed, if_changed="keep-ok"; '
        "to run every item again, rerun= with a new name; else use another log",
        shell_advice="to go on with what is done, add --if-changed keep; to run again what failed, --if-changed "
        "keep-ok; to run every item again, --rerun with a new name; else use another --key",
    )
