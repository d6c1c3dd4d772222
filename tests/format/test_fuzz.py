"""Any bytes where a log should stand: nothing but our own errors, and no record that was not written.

What is put there, `support.log_bytes` makes. Time and memory are the matter of test_cost_bounds.py. What was found in
this way has tests of its own, by what it is about: test_strange_events.py, test_batches.py, test_columns.py and others.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint, Position, _core
from mpcheckpoint._format import scan as scan_module
from mpcheckpoint._format.scan import Scan, scan
from mpcheckpoint._logfile.read import LogReader
from mpcheckpoint._view import follow as follower
from mpcheckpoint._view import merged_read as reading_module
from mpcheckpoint.errors import (
    CheckpointError,
    ClockError,
    CorruptLogError,
    FormatVersionError,
    WrongLogError,
)
from support import log_bytes
from support.fuzz_bench import MARKER, Bench, Reading, grouped, read_to_the_end
from support.log_bytes import GENERATION, LOG_KEY, OTHER_GENERATION, DamagedLog, WrittenLog
from support.verbs import become_a_new_process, inside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint import Log

pytestmark = pytest.mark.guarantee(6)


def examples(share: float) -> Callable[[Any], Any]:
    """Give a test its share of the examples that one has by default, which is 100 times the intensity."""
    return settings(
        max_examples=round(settings.default.max_examples * share),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


# --- what must hold of any bytes ---------------------------------------------------------------------------


def assert_readers_agree(bench: Bench) -> Reading:
    """Whoever reads sees the same records, or the same refusal, and nobody changes a byte."""
    before = bench.file.read_bytes()
    reading = bench.read()
    with Checkpoint(bench.store, read_only=True) as checkpoint:
        try:
            log = checkpoint.log(LOG_KEY)
            followed = read_to_the_end(lambda: log.follow(idle_timeout_s=0))
            assert followed == reading
            durable = read_to_the_end(lambda: log.read(durable=True))
            assert reading.records[: len(durable.records)] == durable.records
            assert durable.error == reading.error
            log.repairs()
            figures = log.stats()
            assert figures["records"] == len(reading.records)
            expected = grouped(reading.records)
            assert {key: list(log.events(key)) for key in expected} == expected
            assert dict(checkpoint.items()) == {key: tuple(all_) for key, all_ in expected.items()}
            assert checkpoint.getCheckpointKeys() == list(expected)
        except CheckpointError as error:
            assert reading.error == (type(error), error.offset)  # noqa: PT017  # or else there was none
        else:
            assert reading.is_whole
    assert bench.file.read_bytes() == before
    return reading


def assert_writers_agree(bench: Bench, data: bytes, reading: Reading) -> None:
    """What was readable stays so, whatever an append or a recovery makes of the rest, and what was appended is too."""
    for act, added in ((bench.append, [MARKER]), (bench.recover, [])):
        bench.put(data)
        refusal = act()
        become_a_new_process()
        found = bench.read()
        if refusal is None and reading.is_whole:
            assert found == Reading([*reading.records, *added], None)
        elif refusal is not None and not issubclass(refusal, ClockError):
            assert not reading.is_whole
            assert bench.file.read_bytes() == data
        if not reading.is_whole:
            # An append validates what is not known durable; damage before that is for readers to find.
            assert found.records[: len(reading.records)] == reading.records
            assert found.error is not None
        if refusal is None and act == bench.recover:
            assert reading.is_whole, "a copy of what cannot be read"


def assert_pieces_give_the_same(bench: Bench, data: bytes, cuts: list[int]) -> None:
    """A log that grows between the looks of one reader gives the records that one look gives."""
    bench.put(data)
    expected = bench.read()
    header_end = data.find(b"\n") + 1
    sizes = sorted({header_end, *(cut for cut in cuts if header_end <= cut <= len(data)), len(data)})
    bench.change(data[:header_end])
    try:
        with Checkpoint(bench.store, read_only=True, log_keys=[LOG_KEY]) as checkpoint:
            log = checkpoint.log(LOG_KEY)
            following = log.follow(idle_timeout_s=0)
            followed: list[tuple[str, Any]] = []
            for size in sizes:
                bench.change(data[:size])
                viewed = count_of(log)
                looked = read_to_the_end(lambda: following)
                followed += looked.records
            assert Reading(followed, looked.error) == expected
            assert viewed == (len(expected.records) if expected.is_whole else expected.error)
    except CheckpointError as error:
        assert expected.error == (type(error), error.offset), "the header was refused"  # noqa: PT017


def count_of(log: Any) -> Any:
    try:
        return log.stats()["records"]
    except CheckpointError as error:
        return type(error), error.offset


def assert_nothing_invented(log: DamagedLog, reading: Reading) -> None:
    """What was read is what stands before the damage, neither less nor more."""
    assert reading.records == log.source.records_below(log.intact_bytes)
    if log.intact_bytes < log.source.header_end:
        assert not reading.is_whole


# --- bytes of any kind -------------------------------------------------------------------------------------

cut_lists = st.lists(st.integers(0, 3_000), max_size=4)


@examples(1)
@given(data=log_bytes.arbitrary_bytes(), cuts=cut_lists)
def test_arbitrary_bytes_raise_only_our_errors(bench: Bench, data: bytes, cuts: list[int]) -> None:
    bench.put(data)
    reading = assert_readers_agree(bench)

    assert reading.records == []
    assert_writers_agree(bench, data, reading)
    assert_pieces_give_the_same(bench, data, cuts)


@examples(3)
@given(log=log_bytes.damaged_logs(), cuts=cut_lists)
def test_damaged_log_gives_the_records_before_the_damage_and_no_other(
    bench: Bench, log: DamagedLog, cuts: list[int]
) -> None:
    bench.put(log.data)
    reading = assert_readers_agree(bench)
    event("whole" if reading.is_whole else "refused")

    assert_nothing_invented(log, reading)
    assert_writers_agree(bench, log.data, reading)
    assert_pieces_give_the_same(bench, log.data, cuts)


@examples(4)
@given(data=log_bytes.forged_logs(), cuts=cut_lists)
def test_forged_log_reads_alike_for_everybody_and_raises_only_our_errors(
    bench: Bench, data: bytes, cuts: list[int]
) -> None:
    bench.put(data)
    reading = assert_readers_agree(bench)
    event(f"{'whole' if reading.is_whole else reading.error[0].__name__}")  # type: ignore[index]
    event(f"{min(len(reading.records), 3)} records or more")
    assert_writers_agree(bench, data, reading)
    assert_pieces_give_the_same(bench, data, cuts)


@examples(1)
@given(
    log=log_bytes.written_logs(),
    offset=st.integers(0, 3_000) | st.just(10**18 - 1),
    stamp_us=st.integers(log_bytes.CREATED_US - 1, log_bytes.CREATED_US + 12),
    more=st.integers(0, 5),
)
def test_log_read_behind_any_position_gives_what_is_younger(
    bench: Bench, log: WrittenLog, offset: int, stamp_us: int, more: int
) -> None:
    """The offset is a hint; the stamp says what comes behind it, and a stale or forged hint changes nothing."""
    bench.put(log.data)
    with Checkpoint(bench.store, read_only=True, log_keys=[LOG_KEY]) as checkpoint:
        opened = checkpoint.log(LOG_KEY)
        every = [record.position for record in opened.read()]
        after = Position(LOG_KEY, GENERATION, offset, stamp_us, more)

        assert [record.position for record in opened.read(after)] == [
            place for place in every if place > after
        ]


@examples(1.5)
@given(
    data=log_bytes.forged_logs() | log_bytes.damaged_logs().map(lambda log: log.data),
    cut=st.integers(0, 3_000),
)
def test_scan_in_bulk_of_forged_lines_finds_what_a_look_at_each_finds(data: bytes, cut: int) -> None:
    _, start = log_bytes.header()
    rest = data[start.offset :][:cut] if cut % 2 else data[start.offset :]
    in_bulk, one_by_one = (scanned(rest, start, worth=worth) for worth in (1, len(rest) + 1))

    assert in_bulk == one_by_one


def scanned(data: bytes, start: Any, *, worth: int) -> Scan:
    """Scan by Python alone, with a bulk look at what has at least ``worth`` bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", None)
        patch.setattr(scan_module, "_WORTH_COLUMNS_BYTES", worth)
        return scan(data, start)


@examples(1)
@given(
    before=log_bytes.damaged_logs(),
    after=log_bytes.damaged_logs().map(lambda log: log.data) | log_bytes.forged_logs(),
    appends=st.booleans(),
)
def test_log_whose_bytes_change_behind_its_user_reads_as_what_stands_there_now(
    bench: Bench, before: DamagedLog, after: bytes, *, appends: bool
) -> None:
    bench.put(before.data)
    with Checkpoint(bench.store, durability="never") as checkpoint:
        try:
            log = checkpoint.log(LOG_KEY)
            if appends:
                log.append(*MARKER)
            log.stats()
            following = log.follow(after="end", idle_timeout_s=0)
        except CheckpointError:
            return
        (end,) = following.cursor
        known = bench.file.read_bytes()[: end.offset][-12:]
        bench.change(after)
        if after[: end.offset][-12:] == known:
            return  # a reader looks at the twelve bytes before its place, and cannot know of others
        assert_noticed(bench, log, following)


def assert_noticed(bench: Bench, log: Log, following: follower.Follower) -> None:
    """Whoever had the log open goes on with what stands there now, or refuses it."""
    expected = bench.read()
    try:
        viewed = {key: list(log.events(key)) for key in ["never recorded", *dict(expected.records)]}
    except CheckpointError:
        pass  # also where a new reader finds nothing wrong: this one may know that more was durable
    else:
        assert expected.is_whole
        assert viewed == {"never recorded": [], **grouped(expected.records)}
    with suppress(CorruptLogError, FormatVersionError, WrongLogError):
        for record in following:
            list(
                log.read(after=record.position)
            )  # no position that was just given is refused as another log's
    try:
        log.append(*MARKER)
    except CheckpointError:
        assert bench.read() == expected
    else:
        assert bench.read() == expected._replace(records=[*expected.records, MARKER]) or not expected.is_whole


# --- controls: who does it wrong is found out --------------------------------------------------------------


def test_checks_find_out_a_record_that_was_not_written(bench: Bench) -> None:
    header, start = log_bytes.header()
    log = WrittenLog(header, start.offset, [])
    bench.put(log_bytes.forged_log(b'"x",1,null'))
    reading = assert_readers_agree(bench)

    with pytest.raises(AssertionError):
        assert_nothing_invented(DamagedLog(bench.file.read_bytes(), (log, log)), reading)


def test_checks_find_out_an_error_that_is_not_ours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(event: bytes) -> Any:
        raise UnicodeDecodeError("utf-8", event, 0, 1, "for the test")

    bench.put(log_bytes.forged_log(b'"x",1,null'))
    monkeypatch.setattr(reading_module, "decode_event", decode)

    with pytest.raises(UnicodeDecodeError):
        assert_readers_agree(bench)


def test_checks_find_out_readers_that_disagree(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put(log_bytes.forged_log(b'"x",1,null'))
    monkeypatch.setattr(reading_module, "decode_event", lambda event: 2)

    with pytest.raises(AssertionError):
        assert_readers_agree(bench)


@pytest.mark.parametrize("size", [0, 10, 240])
def test_checks_find_out_a_writer_that_cuts_off_too_much(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    data = log_bytes.forged_log(b'"x",1,null', b'"x",2,null')
    bench.put(data)
    reading = assert_readers_agree(bench)
    monkeypatch.setattr(bench, "append", lambda: bench.change(data[:size]))

    with pytest.raises(AssertionError):
        assert_writers_agree(bench, data, reading)


def test_checks_find_out_a_reader_that_forgets_between_looks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LogReader._current
    data = log_bytes.forged_log(b'"x",1,null', b'"x",2,null')
    forgotten: list[LogReader] = []

    def forgetful(self: LogReader, *arguments: Any, **options: Any) -> Any:
        found = real(self, *arguments, **options)
        assert self._header is not None
        if self._end.offset > self._header.end.offset and not forgotten:
            forgotten.append(self)
            self._end = self._header.end
        return found

    monkeypatch.setattr(LogReader, "_current", forgetful)

    with pytest.raises(AssertionError):
        assert_pieces_give_the_same(bench, data, [280])
    assert forgotten


# --- a whole store of rubbish ------------------------------------------------------------------------------

FILES = st.sampled_from(
    [
        *(
            "logs",
            "a.poison",
            "a.lock",
            "store.lock",
            "a.sync",
            "b.jsonl",
            "%.jsonl",
            "\udcff.jsonl",
            "b.poison",
        ),
        *(f"a.jsonl.{GENERATION}.tmp", "probe.x.tmp", "photos1234567890", "workers", "quarantine", "b"),
        *(f"workers/{GENERATION}", "workers/x", f"quarantine/a.{GENERATION}.99.0a", "quarantine/a.x.y"),
        *(f"quarantine/a.{GENERATION}.{'9' * 90}.0a", f"quarantine/a.{GENERATION}.\u0661.0a"),
    ]
)
RUBBISH = (
    st.binary(max_size=60)
    | log_bytes.forged_logs()
    | st.sampled_from(
        [
            f'{{"generation":"{GENERATION}","reason":"EIO"}}'.encode(),
            f'{{"generation":"{OTHER_GENERATION}","reason":""}}'.encode(),
            b'{"generation":"\xff","reason":"EIO"}',
            b'{"generation":5,"reason":1e999}',
            b'{"x":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
            b"\n" * 9 + b"a\nb\n" + b"\xff" * 90,
        ]
    )
    | st.just(None)
)


@examples(1)
@given(files=st.dictionaries(FILES, RUBBISH, max_size=6), data=log_bytes.forged_logs())
def test_store_full_of_rubbish_raises_only_our_errors(
    bench: Bench, files: dict[str, bytes | None], data: bytes
) -> None:
    bench.put(data)
    for name, content in files.items():
        place(inside(bench.store, name), content)
    with Checkpoint(bench.store, read_only=True) as checkpoint:
        for look in (
            checkpoint.logs,
            checkpoint.snapshot,
            checkpoint.getCheckpointKeys,
            lambda: checkpoint.get("x"),
        ):
            with suppress(CheckpointError):
                look()
        with suppress(CheckpointError):
            list(checkpoint.follow(idle_timeout_s=0))
    for use in (use_log, use_claims, use_map):
        become_a_new_process()
        with (
            Checkpoint(bench.store, durability="never", lock_timeout_s=0) as checkpoint,
            suppress(CheckpointError),
        ):
            use(checkpoint.log(LOG_KEY))


def place(path: Path, content: bytes | None) -> None:
    """Put a file, or with None a directory, unless something is in the way."""
    with suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)


def use_log(log: Log) -> None:
    for act in (
        lambda: log.append(*MARKER),
        log.flush,
        log.recover,
        log.repairs,
        log.stats,
        lambda: list(log.read()),
    ):
        with suppress(CheckpointError):
            act()
    log.append("x", 1, record_id="i", expected_count=0)


def use_claims(log: Log) -> None:
    with log.claim("x") as claim:
        assert claim is None or claim.object_key == "x"


def use_map(log: Log) -> None:
    list(log.results())
    list(log.pending(["x", "y"]))
