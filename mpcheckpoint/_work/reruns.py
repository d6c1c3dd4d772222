"""Which outcomes count: the one rule by which everything judges what is done.

A run is what one version of a map does under one name, or without a name. A note in the log begins it and gives it a
number, and its outcomes, failed attempts and deaths begin with that number. So the first bytes of an event tell whether
it counts. What another start still records, under another name or with another version, is not taken for an outcome of
this run.

- For a rerun, a run with a name, the outcomes of its own runs count: an item is done if it has one of them.
- Without a name the outcomes of all runs count, and the last one is the item's.
- A run that goes on with another version says what it keeps of those before it: all, or only what is ok. Runs from
  before there were names kept nothing.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._format.codec import encode_event
from mpcheckpoint._format.control import Note
from mpcheckpoint._view.view import MAP, LogView
from mpcheckpoint.errors import ChangedVersionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mpcheckpoint._view.records import RawEvent

_MOST_NAME_BYTES = 200
_ADVICE = (
    ": any name you choose, such as today's date. Each item given is to have an outcome under it; started again "
    "with the same name a map carries on, another name begins anew"
)
_LARGEST_NUMBER = 10**18 - 1
# Every record of a map begins with two members in this order: of an outcome, a failed attempt, or a death.
_BEGINNING = b'{"run":'
_HEAD_BYTES = 24
_LONGEST_HEAD_BYTES = 48
_HEAD = re.compile(rb'\{"run":(0|[1-9][0-9]{0,17}),"(?:ok":(true|false)|(attempt|death)":)').match


class Keeps(Enum):
    """What a run keeps of the runs before it."""

    NOTHING = None
    ALL = "all"
    OK = "ok"


class IfChanged(Enum):
    """What becomes of finished items if a map comes with another version."""

    REFUSE = "refuse"
    KEEP = "keep"
    KEEP_OK = "keep-ok"


class RunNote(NamedTuple):
    """What the log says of a run. ``rerun`` is its name, or None."""

    number: int
    version: str
    rerun: str | None = None
    keeps: Keeps = Keeps.NOTHING

    @classmethod
    def of(cls, fields: dict[str, Any]) -> RunNote | None:
        """Return what a note says; None if another kind of writer left it."""
        number, version, rerun = fields.get("run"), fields.get("version"), fields.get("rerun")
        if type(number) is not int or not 0 <= number <= _LARGEST_NUMBER:
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


class RecordHead(NamedTuple):
    """What the first bytes of a map's record tell.

    Attributes:
        run: the number of its run, as it is written.
        is_outcome: whether it is an outcome; else it is a failed attempt, or a death.
        is_ok: whether it is an outcome that is no failure.
        is_death: whether it is a death: what ran was killed from elsewhere, and runs again.
    """

    run: bytes
    is_outcome: bool
    is_ok: bool
    is_death: bool = False


class Rule:
    """Which outcomes count.

    Attributes:
        counting: by the number of a run, whether its failures count too.
        latest: the latest run of each name: only its attempts are followed by others.
        beginnings: with which records begin that are outcomes that count, those of the latest run first.
    """

    def __init__(self, counting: dict[bytes, bool], latest: Iterable[bytes]) -> None:
        self.counting = counting
        self.latest = frozenset(latest)
        self.beginnings = tuple(
            b'%b%b,"ok":%b' % (_BEGINNING, number, ok)
            for number, do_failures_count in reversed(counting.items())
            for ok in (b"true", b"false")[: 1 + do_failures_count]
        )

    def counts(self, head: RecordHead) -> bool:
        """Return whether a record is an outcome that counts."""
        if not head.is_outcome:
            return False
        do_failures_count = self.counting.get(head.run)
        return do_failures_count or (do_failures_count is not None and head.is_ok)

    def is_to_retry(self, head: RecordHead) -> bool:
        """Return whether a record is an attempt, or a death, that another attempt follows."""
        return not head.is_outcome and head.run in self.latest


def head_of(event: bytes) -> RecordHead | None:
    """Return what the first bytes of an event tell; None if no map recorded it."""
    # There are few different heads, however many records.
    head = _parsed(event[:_HEAD_BYTES])
    if head is None and event.startswith(_BEGINNING):
        return _parsed.__wrapped__(event[:_LONGEST_HEAD_BYTES])  # the number of the run has many digits
    return head


def records_of(view: LogView, object_key: str) -> Iterator[tuple[RawEvent, RecordHead]]:
    """Yield what maps recorded of an object, the latest first."""
    for number in reversed(view.records.numbers_of(object_key)):
        entry = view.records.entry(number)
        head = head_of(entry.event)
        if head is not None:
            yield entry, head


@lru_cache(maxsize=4096)
def _parsed(beginning: bytes) -> RecordHead | None:
    found = _HEAD(beginning)
    if found is None:
        return None
    return RecordHead(found[1], found[3] is None, found[2] == b"true", found[3] == b"death")


def head_of_decoded(event: Any) -> RecordHead | None:
    """Return the same for a decoded event."""
    if not isinstance(event, dict) or next(iter(event), None) != "run":
        return None
    return head_of(encode_event(dict(islice(event.items(), 2))))


class History:
    """All runs of a log, in the order in which they began. Immutable."""

    def __init__(self, notes: Iterable[RunNote]) -> None:
        self.notes = tuple(notes)
        self.latest = {note.rerun: note for note in self.notes}  # by name; None is one, too
        self.by_number = {note.number: note for note in self.notes}
        self._rules: dict[object, Rule] = {}

    def rule(self, rerun: str | None, planned: RunNote | None = None) -> Rule:
        """Return which outcomes count for a rerun; for None, without a name.

        Args:
            planned: a run of it that may not have begun yet.
        """
        if planned is not None and self.by_number.get(planned.number) == planned:
            planned = None
        asked = (rerun, planned)
        if asked not in self._rules:
            self._rules[asked] = _rule(self.notes if planned is None else (*self.notes, planned), rerun)
        return self._rules[asked]

    def join(
        self, log_key: str, version: str, rerun: str | None, if_changed: IfChanged, *, is_unused: bool = False
    ) -> RunNote:
        """Return the run that a start belongs to: one that has begun, or one that the start will begin.

        Args:
            is_unused: nothing was done yet, so another version is not refused. What the one before does meanwhile does
                not count.

        Raises:
            ChangedVersionError: the start has another version, and ``if_changed`` does not say what to keep.
        """
        known = self.latest.get(rerun)
        if known is not None and known.version == version:
            return known
        number = 1 + max(self.by_number, default=0)
        # Without the word to keep them, outcomes must not count for another version: those of its own name or, for the
        # first run without a name, those of all runs.
        if known is None and rerun is None:
            known = next((note for note in reversed(self.notes) if note.version != version), None)
        is_refused = known is not None and if_changed is IfChanged.REFUSE
        if known is not None and is_refused and not is_unused:
            raise _changed(log_key, known, version)
        if rerun is not None and rerun not in self.latest:
            return RunNote(number, version, rerun)
        keeps = Keeps.OK if known is not None and if_changed is IfChanged.KEEP_OK else Keeps.ALL
        return RunNote(number, version, rerun, keeps if self.notes and not is_refused else Keeps.NOTHING)


def history_of(view: LogView) -> History:
    """Return all runs of a log."""
    history: History | None = view.memo.get(History)
    if history is None:
        notes = (RunNote.of(fields) for fields in view.map_notes)
        history = view.memo[History] = History(note for note in notes if note is not None)
    return history


def require_rerun_name(rerun: object) -> str | None:
    """Return the name of a rerun, or None.

    Raises:
        ValueError: it is no name.
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
        raise ValueError(f"the name of a rerun takes at most {_MOST_NAME_BYTES} bytes: it is in each outcome")
    return rerun


def _rule(notes: tuple[RunNote, ...], rerun: str | None) -> Rule:
    counting: dict[bytes, bool] = {}
    latest: dict[str | None, bytes] = {}
    for note in notes:
        if rerun is not None and note.rerun != rerun:
            continue
        # What a run keeps is about its name: items that it is not given keep what they have.
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
        f"the {what} on the log {log_key!r} was started {_as(known.version)}, not {_as(version)}. Nothing was run",
        reason="changed version",
        advice='to go on with what is done, give if_changed="keep"; to run again what failed, if_changed="keep-ok"; '
        "to run every item again, rerun= with a new name; else use another log",
        shell_advice="to go on with what is done, add --if-changed keep; to run again what failed, --if-changed "
        "keep-ok; to run every item again, --rerun with a new name; else use another --key",
    )


def _as(version: str) -> str:
    return f"as {version!r}" if version else "without a version"
