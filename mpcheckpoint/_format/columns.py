"""Many lines at once, as columns: numbers packed, and no object of Python for a line until one is asked for.

The native core makes them, or Python (rows.py). Both take what ``parse_line`` takes, with the same result (held by
tests/format/test_native_scan.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, compress
from operator import itemgetter, sub
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

from mpcheckpoint import _core
from mpcheckpoint._format.frame import NO_META, EndState, Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# What has one item a line.
_COLUMNS = ("offsets", "ends", "stamps_us", "durables", "mores", "object_keys", "crcs")


# Packed where the native core made them.
Column: TypeAlias = "list[int] | array[int]"


class Block(NamedTuple):
    """Whole batches that the native core holds, and what is known of them; the last three may be said in vain."""

    lines: Any
    size: int
    start: int
    stop: int
    has_controls: bool
    has_metas: bool
    has_batches: bool


class Lines(Sequence[Line]):
    """Proven lines as columns, one for each field. A Line is made where one is asked for.

    Attributes:
        offsets, ends, stamps_us, durables, mores, object_keys, crcs: of each line. The key of a control line is None.
        events: the events of all lines, one after the other.
        event_ends: where each ends in ``events``.
        metas: of each line; None if all are null.
        is_plain: whether there is surely neither a control line nor a meta among them.
        block: where the native core holds the lines; else None.
    """

    __slots__ = (*_COLUMNS, "block", "event_ends", "events", "is_plain", "metas")

    def __init__(self) -> None:
        self.block: Block | None = None
        self.offsets: Column = []
        self.ends: Column = []
        self.stamps_us: Column = []
        self.durables: Column = []
        self.mores: Column = []
        self.object_keys: list[str | None] = []
        self.events: bytes | bytearray = b""
        self.event_ends: Column = []
        self.metas: list[bytes] | None = None
        self.crcs: Column = []
        self.is_plain = True

    @classmethod
    def in_block(cls, block: Block) -> Lines:
        """Return the lines of a block. Columns are made once one is asked for."""
        made = cls.__new__(cls)
        made.block = block
        made.is_plain = not (block.has_controls or block.has_metas)
        return made

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Make the columns: called where one is not there yet."""
            if name not in Lines.__slots__:
                raise AttributeError(name)
            _fill(self, self.block.lines.columns())
            return getattr(self, name)

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Lines:
        """Return any lines as columns."""
        if isinstance(lines, cls):
            return lines
        made = cls()
        made.is_plain = False
        columns = [list(column) for column in zip(*lines, strict=True)] or [[] for _ in Line._fields]
        made.offsets, made.ends, made.stamps_us, made.durables, made.mores = columns[:5]
        made.object_keys, events, made.metas, made.crcs = columns[5:]
        made.events = b"".join(events)
        made.event_ends = list(accumulate(map(len, events)))
        return made

    @classmethod
    def joined(cls, parts: Iterable[Lines]) -> Lines:
        """Return the lines of some parts, which follow each other."""
        made = cls()
        made.events = bytearray()
        for part in parts:
            made.add(part)
        return made

    def __len__(self) -> int:
        return len(self.ends) if self.block is None else self.block.size

    @property
    def start(self) -> int:
        """The offset of the first line. Requires: there is one."""
        return self.offsets[0] if self.block is None else self.block.start

    @property
    def stop(self) -> int:
        """The end of the last line. Requires: there is one."""
        return self.ends[-1] if self.block is None else self.block.stop

    @property
    def has_metas(self) -> bool:
        """Whether a meta may be other than null."""
        return self.metas is not None if self.block is None else self.block.has_metas

    @property
    def has_batches(self) -> bool:
        """Whether there is a batch of more lines than one."""
        return any(self.mores) if self.block is None else self.block.has_batches

    @overload
    def __getitem__(self, index: int) -> Line: ...
    @overload
    def __getitem__(self, index: slice) -> Lines: ...
    def __getitem__(self, index: int | slice) -> Line | Lines:
        if isinstance(index, slice):
            return self._sliced(index)
        stop = self.event_ends[index]
        start = self.event_ends[index - 1] if index % len(self) else 0
        return Line(
            self.offsets[index],
            self.ends[index],
            self.stamps_us[index],
            self.durables[index],
            self.mores[index],
            self.object_keys[index],
            bytes(self.events[start:stop]),
            NO_META if self.metas is None else self.metas[index],
            self.crcs[index],
        )

    def end_after(self, number: int) -> EndState:
        """Return the end of a log whose last line this is."""
        return EndState(self.ends[number], self.crcs[number], self.stamps_us[number])

    def _sliced(self, where: slice) -> Lines:
        start, stop, step = where.indices(len(self))
        if step != 1:
            return Lines.of([self[index] for index in range(start, stop, step)])
        if (start, stop) == (0, len(self)):
            return self
        part = self._taking(itemgetter(where))
        part.is_plain = self.is_plain
        first = self.event_ends[start - 1] if start else 0
        part.event_ends = self.event_ends[where]
        last = part.event_ends[-1] if part.event_ends else first
        part.events = self.events[first:last]
        if first:
            part.event_ends = [place - first for place in part.event_ends]
        return part

    def _taking(self, take: Callable[[list[Any]], list[Any]]) -> Lines:
        """Return some of the lines, without their events: ``take`` chooses the same ones of each column."""
        part = Lines()
        for name in _COLUMNS:
            setattr(part, name, take(getattr(self, name)))
        part.metas = None if self.metas is None else take(self.metas)
        return part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def records(self) -> Lines:
        """Return all lines but the control lines."""
        if self.is_plain or None not in self.object_keys:
            return self
        kept = [object_key is not None for object_key in self.object_keys]
        part = self._taking(lambda column: list(compress(column, kept)))
        part.is_plain = False
        starts = [0, *self.event_ends[:-1]]
        part.event_ends = list(accumulate(compress(map(sub, self.event_ends, starts), kept)))
        # Control lines are few: the events between two of them are copied at once.
        pieces, after = [], 0
        for index in [index for index, is_kept in enumerate(kept) if not is_kept]:
            pieces.append(self.events[after : starts[index]])
            after = self.event_ends[index]
        part.events = b"".join([*pieces, self.events[after:]])
        return part

    def controls(self) -> Iterator[tuple[int, Line]]:
        """Yield the control lines, each with its index."""
        if self.block is not None and self.block.has_controls:
            yield from ((index, Line._make(fields)) for index, fields in self.block.lines.controls())
        elif self.block is None and not self.is_plain:
            for index, object_key in enumerate(self.object_keys):
                if object_key is None:
                    yield index, self[index]

    def add(self, other: Lines) -> None:
        """Add the lines that follow."""
        if self.metas is None and other.metas is not None:
            self.metas = [NO_META] * len(self)
        if self.metas is not None:
            self.metas += [NO_META] * len(other) if other.metas is None else other.metas
        before = len(self.events)
        self.event_ends.extend([place + before for place in other.event_ends] if before else other.event_ends)
        self.events += other.events
        for name in _COLUMNS:
            getattr(self, name).extend(getattr(other, name))
        self.is_plain = self.is_plain and other.is_plain


def canonical_lines(data: bytes, end: EndState, *, most_batch_bytes: int) -> tuple[Lines, int] | None:
    """Return the lines that follow ``end`` at the start of ``data``, as far as they are exactly as our writer makes
    them and stand in their place, and how many of them make whole batches; None if there is none, or no native core.

    It may stop anywhere: whatever is not taken here is to be judged by ``parse_lines`` and ``parse_line``.
    """
    native = _core.native
    found = native.scan(data, *end, most_batch_bytes) if native is not None else None
    if found is None:
        return None
    return lines_in(found), found[0]


def lines_in(found: tuple[Any, ...]) -> Lines:
    """Return the lines of which the native core gave these columns."""
    lines = Lines()
    _fill(lines, found)
    return lines


def _fill(lines: Lines, found: tuple[Any, ...]) -> None:
    _, offsets, ends, stamps_us, durables, event_ends, mores, crcs, *texts, lines.is_plain = found
    lines.object_keys, lines.events, lines.metas = texts
    lines.offsets, lines.ends = array("Q", offsets), array("Q", ends)
    lines.stamps_us, lines.durables = array("Q", stamps_us), array("Q", durables)
    lines.event_ends = array("Q", event_ends)
    lines.mores, lines.crcs = array("I", mores), array("I", crcs)
