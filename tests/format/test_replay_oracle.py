"""Every truncation and every wrong bit of small logs, judged by the library and by an oracle of its own.

The oracle knows the log as it was written and what was done to it. What it says is section "Torn or corrupt" of
docs/format.md: let S be the highest ``durable`` of the lines that were not hit; damage below S is corrupt, an error;
damage at or above S is torn, silent, and costs what stands behind it.

Whether bytes survive a loss of power is not the matter here, so syncs do nothing: they would take all the time.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tracemalloc
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile import torn_or_corrupt as judge
from mpcheckpoint.errors import CorruptLogError, FormatVersionError
from support import tally
from support.verbs import become_a_new_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint import Log

pytestmark = [pytest.mark.guarantee(2), pytest.mark.guarantee(6)]

LOG_KEY = "k"
BLOCK_BYTES = 32

# Bytes of each log: what is tried on them follows from these.
SIZES = {"always": 617, "never": 617, "crowd": 553, "several": 727}


# --- the oracle --------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """A line as it was written, decoded with nothing but the json module."""

    start: int
    end: int
    durable: int
    more: int
    object_key: str | None
    event: Any


class Verdict(NamedTuple):
    """What must come of a damaged log: how far it reads, what it holds, and whether the rest is an error."""

    ends_at: int
    records: list[tuple[str, Any]]
    is_corrupt: bool
    is_header_hit: bool = False


class Oracle:
    """Knows a log as it was written."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        lines = data.splitlines(keepends=True)
        ends = list(accumulate(map(len, lines)))
        fields = [json.loads(line) for line in lines]
        self.lines = [
            Written(end - len(line), end, durable, more, object_key, event)
            for line, end, (_, _, durable, more, object_key, event, _, _) in zip(
                lines, ends, fields, strict=True
            )
        ]
        self.batches: list[list[Written]] = [[]]
        for line in self.lines:
            self.batches[-1].append(line)
            if line.more == 0:
                self.batches.append([])
        self.batches.pop()

    def truncated(self, size: int) -> Verdict:
        """The bytes from ``size`` on are gone. What is left says of nothing that it once was there."""
        if size < self.lines[0].end:
            return Verdict(0, [], is_corrupt=True, is_header_hit=True)
        return self._read_to(
            max(batch[-1].end for batch in self.batches if batch[-1].end <= size), is_corrupt=False
        )

    def hit(self, start: int, stop: int) -> Verdict:
        """The bytes from ``start`` to ``stop`` are wrong: the lines they stand in are, and no other."""
        if start < self.lines[0].end:
            return Verdict(0, [], is_corrupt=True, is_header_hit=True)
        damage = max(batch[0].start for batch in self.batches if batch[0].start <= start)
        durable = max([line.durable for line in self._provable(start, stop)], default=0)
        return self._read_to(damage, is_corrupt=damage < max(durable, self.lines[0].end))

    def _provable(self, start: int, stop: int) -> list[Written]:
        hit = [line for line in self.lines if line.start < stop and line.end > start]
        closing = hit[-1].end - 12
        # The crc field in a line's last twelve bytes proves the next one. If just these bytes of one line are wrong, it
        # follows from the rest of that line; else the next line is lost too.
        is_next_lost = stop > closing and (len(hit) > 1 or start < closing)
        lost = {line.start for line in hit} | ({hit[-1].end} if is_next_lost else set())
        return [line for line in self.lines if line.start not in lost]

    def _read_to(self, end: int, *, is_corrupt: bool) -> Verdict:
        records = [
            (line.object_key, line.event)
            for line in self.lines
            if line.end <= end and line.object_key is not None
        ]
        return Verdict(end, records, is_corrupt)


# --- the logs ----------------------------------------------------------------------------------------------


def write_always(log: Log) -> None:
    log.append("a", 1)
    log.append("a", 2, record_id="i")
    log.append_many([("a", 3), ("b", 4)])
    log.append("b", 5)
    log.append("a", 6)


def write_never(log: Log) -> None:
    """Durable lags behind: two syncs in all."""
    log.append("a", 1, durability="never")
    log.append("b", 2, durability="never")
    log.flush()
    log.append_many([("a", 3), ("b", 4)], durability="never")
    log.append("a", 5, durability="never", record_id="i")
    log.append("b", 6, durability="never")


def write_crowd(log: Log) -> None:
    """Nothing was synced but the header, so no line vouches for another."""
    log.append("a", 1, durability="never")
    log.append("b", 2, durability="never")
    log.append_many([("a", 3), ("b", 4), ("c", 5)], durability="never")


def write_several(log: Log) -> None:
    """Four processes, one after the other; each makes durable what it finds."""
    log.append("a", 1, durability="never")
    log.append("b", 2, durability="never")
    become_a_new_process()
    log.append_many([("a", 3), ("b", 4)], durability="never")
    log.append("a", 5)
    become_a_new_process()
    log.append("b", 6, durability="never")
    become_a_new_process()
    log.append("a", 7)
    log.append("b", 8, durability="never")


WRITERS: dict[str, Callable[[Log], None]] = {
    "always": write_always,
    "never": write_never,
    "crowd": write_crowd,
    "several": write_several,
}


class Store:
    """A store with one log, in which a log file can be put as a new process would find it."""

    def __init__(self, base: Path, name: str) -> None:
        self.base = base
        self.file = base / ".checkpoint" / f"{LOG_KEY}.jsonl"
        self.page = self.file.with_suffix(".page")
        self.quarantine = base / ".checkpoint" / "quarantine"
        self.name = name
        with Checkpoint(base, durability="always") as checkpoint:
            WRITERS[name](checkpoint.log(LOG_KEY))
        self.data = self.file.read_bytes()
        assert len(self.data) == SIZES[name]

    def put(self, data: bytes) -> None:
        # Not truncated to nothing first: ext4 would then write it to disk at once, for the sake of programs that
        # replace files in this way.
        with self.file.open("r+b") as file:
            file.write(data)
            file.truncate()
        for path in self.quarantine.glob("*"):
            path.unlink()
        # A copy of the log alone: what the page vouches for is tested where the page is.
        self.page.unlink(missing_ok=True)
        become_a_new_process()

    def tear(self, size: int) -> bytes:
        return self.data[:size]

    def flip_bit(self, bit: int) -> bytes:
        flipped = bytearray(self.data)
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)

    def zero(self, start: int) -> bytes:
        stop = min(start + BLOCK_BYTES, len(self.data))
        return self.data[:start] + b"\0" * (stop - start) + self.data[stop:]


@pytest.fixture(params=WRITERS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    # Thousands of repairs, a warning each.
    monkeypatch.setattr(logging.getLogger("mpcheckpoint"), "disabled", True)
    monkeypatch.setattr(system, "sync_data", lambda fd: None)
    monkeypatch.setattr(system, "sync_directory", lambda path: None)
    return Store(tmp_path, request.param)


# --- what a new process makes of it ------------------------------------------------------------------------


def records_in(checkpoint: Checkpoint) -> list[tuple[str, Any]]:
    return [(record.object_key, record.event) for record in checkpoint.log(LOG_KEY).read()]


def assert_judged(store: Store, data: bytes, verdict: Verdict, *, appends: bool = True) -> None:
    """A fresh handle sees what the oracle says, and so does one that appends."""
    store.put(data)
    if verdict.is_header_hit:
        assert_header_refused(store, data)
    elif verdict.is_corrupt:
        assert_corrupt(store, data, verdict, appends=appends)
    else:
        assert_readable(store, data, verdict)
        if appends:
            assert_appendable(store, data, verdict)


def assert_header_refused(store: Store, data: bytes) -> None:
    for read_only in (True, False):
        with Checkpoint(store.base, read_only=read_only) as checkpoint:
            with pytest.raises((CorruptLogError, FormatVersionError)) as caught:
                checkpoint.getCheckpointKeys()
            assert caught.value.path == str(store.file)
            with pytest.raises((CorruptLogError, FormatVersionError)):
                checkpoint.log(LOG_KEY)
    assert store.file.read_bytes() == data


def assert_corrupt(store: Store, data: bytes, verdict: Verdict, *, appends: bool) -> None:
    with Checkpoint(store.base, read_only=True) as checkpoint:
        with pytest.raises(CorruptLogError) as caught:
            checkpoint.getCheckpointKeys()
        error = caught.value
        assert (error.path, error.offset) == (str(store.file), verdict.ends_at)
        assert error.expected
        assert error.found
        before: list[tuple[str, Any]] = []
        with pytest.raises(CorruptLogError):
            before.extend((record.object_key, record.event) for record in checkpoint.log(LOG_KEY).read())
    assert store.file.read_bytes() == data
    if not appends:
        return
    with Checkpoint(store.base, durability="never") as checkpoint:
        # An append validates what is not known durable; damage before that is for readers to find.
        try:
            checkpoint.log(LOG_KEY).append("new", 0)
        except CorruptLogError as refused:
            assert refused.offset == verdict.ends_at  # noqa: PT017  # either outcome is right
            assert store.file.read_bytes() == data
        assert checkpoint.log(LOG_KEY).repairs() == []
    assert store.file.read_bytes().startswith(data)
    with Checkpoint(store.base, read_only=True) as checkpoint, pytest.raises(CorruptLogError):
        checkpoint.getCheckpointKeys()


def assert_readable(store: Store, data: bytes, verdict: Verdict) -> None:
    with Checkpoint(store.base, read_only=True) as checkpoint:
        assert records_in(checkpoint) == verdict.records
        assert sorted(checkpoint) == sorted({object_key for object_key, _ in verdict.records})
    assert store.file.read_bytes() == data


def assert_appendable(store: Store, data: bytes, verdict: Verdict) -> None:
    cut = data[verdict.ends_at :]
    with Checkpoint(store.base, durability="never") as checkpoint:
        log = checkpoint.log(LOG_KEY)
        log.append("new", 0)
        repairs = log.repairs()
    assert [(repair.offset, repair.length_bytes) for repair in repairs] == (
        [(verdict.ends_at, len(cut))] if cut else []
    )
    assert [path.read_bytes() for path in store.quarantine.glob("*")] == ([cut] if cut else [])
    become_a_new_process()
    with Checkpoint(store.base, read_only=True) as checkpoint:
        assert records_in(checkpoint) == [*verdict.records, ("new", 0)]
    assert store.file.read_bytes().startswith(data[: verdict.ends_at])


# --- the trials --------------------------------------------------------------------------------------------


@pytest.mark.rule(1)
@pytest.mark.exhaustive
def test_log_cut_off_at_every_byte_reads_as_a_prefix_and_takes_appends(store: Store) -> None:
    oracle = Oracle(store.data)
    for size in range(len(store.data) + 1):
        assert_judged(store, store.tear(size), oracle.truncated(size))
    tally.add("truncations", len(store.data) + 1)


@pytest.mark.exhaustive
def test_log_with_every_bit_flipped_is_corrupt_or_torn_as_its_durable_fields_say(store: Store) -> None:
    oracle = Oracle(store.data)
    corrupt = 0
    for bit in range(len(store.data) * 8):
        verdict = oracle.hit(bit // 8, bit // 8 + 1)
        corrupt += verdict.is_corrupt
        # Every flip is read. One bit of each byte is enough to see what an append does.
        assert_judged(store, store.flip_bit(bit), verdict, appends=bit % 8 == bit // 8 % 8)
    tally.add("bit flips", len(store.data) * 8)
    tally.add("bit flips refused as corrupt", corrupt)


@pytest.mark.exhaustive
def test_log_with_every_block_zeroed_is_corrupt_or_torn_as_its_durable_fields_say(store: Store) -> None:
    oracle = Oracle(store.data)
    starts = range(0, len(store.data), BLOCK_BYTES)
    for start in starts:
        assert_judged(store, store.zero(start), oracle.hit(start, min(start + BLOCK_BYTES, len(store.data))))
    tally.add("zeroed blocks", len(starts))


def test_log_written_with_always_is_corrupt_wherever_a_bit_before_its_last_record_is_flipped(
    tmp_path: Path,
) -> None:
    """What the design promises for ``always``, said without S."""
    data = Store(tmp_path, "always").data
    oracle = Oracle(data)
    last = oracle.batches[-1][0].start

    for position in range(len(data)):
        assert oracle.hit(position, position + 1).is_corrupt == (position < last)


@pytest.mark.rule(4)
def test_log_that_ends_in_padding_zeros_or_rubbish_reads_whole_and_takes_appends(store: Store) -> None:
    oracle = Oracle(store.data)
    whole = oracle.truncated(len(store.data))
    for behind in (b"\0" * 65536, b"rubbish", b'["0000', store.data[:100], b"\n\n\nx", b"\0\n" * 5_000):
        assert_judged(store, store.data + behind, whole)
    for padding in (b"\n", b"\n" * 65536):
        store.put(store.data + padding)
        with Checkpoint(store.base, durability="never") as checkpoint:
            assert records_in(checkpoint) == whole.records
            checkpoint.log(LOG_KEY).append("new", 0)
            assert checkpoint.log(LOG_KEY).repairs() == []
        become_a_new_process()
        with Checkpoint(store.base, read_only=True) as checkpoint:
            assert records_in(checkpoint) == [*whole.records, ("new", 0)]


def test_log_repaired_twice_keeps_both_cuts(store: Store) -> None:
    whole = Oracle(store.data).truncated(len(store.data))
    store.put(store.data + b"one")
    for torn in (b"two", b"three"):
        with Checkpoint(store.base, durability="never") as checkpoint:
            checkpoint.log(LOG_KEY).append("new", torn.decode())
        with store.file.open("ab") as file:
            file.write(torn)
    with Checkpoint(store.base, durability="never") as checkpoint:
        checkpoint.log(LOG_KEY).append("new", "last")
        assert [repair.length_bytes for repair in checkpoint.log(LOG_KEY).repairs()] == [3, 3, 5]
        assert records_in(checkpoint)[: len(whole.records)] == whole.records
        assert checkpoint.getCheckpoints("new") == ["two", "three", "last"]


# --- damage that took a script to find ---------------------------------------------------------------------


@pytest.mark.timeout(30)
def test_log_that_ends_between_two_lines_of_a_batch_is_torn(store: Store) -> None:
    """Nothing stands behind the last valid line, and yet something is missing: that must not be waited for."""
    oracle = Oracle(store.data)
    for line in oracle.lines:
        if line.more:
            assert_judged(store, store.tear(line.end), oracle.truncated(line.end))


@pytest.mark.parametrize("size", [1 << 20, 3 << 20])
@pytest.mark.parametrize("from_end", [1, 2, 5, 12, 40], ids=lambda place: f"{place}-from-end")
def test_log_with_a_flip_before_a_last_record_of_megabytes_is_corrupt(
    tmp_path: Path, size: int, from_end: int
) -> None:
    """The one line that vouches for the damage ends in a later chunk than the damaged one."""
    with Checkpoint(tmp_path) as checkpoint:
        log = checkpoint.log(LOG_KEY)
        log.append("a", "first")
        end = log.append("a", "damaged").offset
        log.append("a", "x" * size)
    file = tmp_path / ".checkpoint" / f"{LOG_KEY}.jsonl"
    data = bytearray(file.read_bytes())
    data[end - from_end] ^= 1
    file.write_bytes(data)
    become_a_new_process()

    with Checkpoint(tmp_path, read_only=True) as checkpoint, pytest.raises(CorruptLogError):
        checkpoint.getCheckpoints("a")
    with Checkpoint(tmp_path) as checkpoint, pytest.raises(CorruptLogError):
        checkpoint.log(LOG_KEY).append("a", "new")
    assert file.read_bytes() == data


def test_log_with_a_long_tail_of_zeros_is_judged_in_bounded_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "MAX_LINE_BYTES", 2 << 20)
    whole = Oracle(store.data).truncated(len(store.data))
    store.put(store.data + b"rubbish\n")
    os.truncate(store.file, 64 << 20)
    tracemalloc.start()
    try:
        with Checkpoint(store.base, read_only=True) as checkpoint:
            assert records_in(checkpoint) == whole.records
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 32 << 20


@pytest.mark.guarantee(1)
def test_log_appended_to_from_a_deep_stack_keeps_its_records(store: Store) -> None:
    """What cannot be decoded for want of stack is not damage, and must not be cut off."""
    event: Any = 1
    for _ in range(128):
        event = [event]
    with Checkpoint(store.base) as checkpoint:
        checkpoint.log(LOG_KEY).append("deep", event)
    data = store.file.read_bytes()

    def append_at(depth: int, log: Log) -> None:
        if depth:
            append_at(depth - 1, log)
        else:
            log.append("new", 0)

    for depth in range(0, sys.getrecursionlimit(), 20):
        store.put(data)
        with Checkpoint(store.base, durability="never") as checkpoint:
            log = checkpoint.log(LOG_KEY)
            try:
                append_at(depth, log)
            except RecursionError:
                pass  # there was no room to append, which is not the matter here
            assert log.repairs() == [], f"at depth {depth}"
        assert store.file.read_bytes().startswith(data)
