"""The count of the native core: the figures of the lines that its scan takes, and none of the lines."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpcheckpoint import _core
from mpcheckpoint import _system as system
from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._format.control import Note, control_payload, encode_header, note_payload
from mpcheckpoint._format.count import Count, count
from mpcheckpoint._format.frame import MAX_BATCH_BYTES, EndState, Payload, encode_batch
from mpcheckpoint._salvage import scan as walk_module
from mpcheckpoint._salvage.inspection import inspect
from mpcheckpoint._salvage.scan import Batches, Counted, Gap, Walk
from mpcheckpoint.maintenance import verify
from support import log_bytes, scan_fuzz
from support.capabilities import native_core_in_use
from support.leaks import CALLS, require_no_leak
from support.scan_fuzz import START, expected_count, forged, scanned_alone
from support.verbs import log_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    from mpcheckpoint import Log
    from mpcheckpoint._salvage.inspection import Inspection

PLAIN = b'1001,0,0,"k",{"a":1},null'
NOTE = b'1002,0,0,null,{"control":"x","ignorable":true},{"id":"i"}'


@pytest.fixture(autouse=True, scope="module")
def native() -> Any:
    """The native core, in use also where it was told not to run."""
    with native_core_in_use() as found:
        yield found


def require_counted(data: bytes) -> Count | None:
    """Require of the count what Python alone finds in the lines that the native scan takes; return it."""
    found = count(data, START)
    assert found == expected_count(data, scanned_alone(data))
    return found


# --- some bytes -------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    durables=st.lists(st.integers(0, START.offset), min_size=5, max_size=5),
)
@example(sizes=[1, 2], durables=[7, 3, 0, 0, 0])
def test_count_of_what_our_writer_makes_is_that_of_its_lines(sizes: list[int], durables: list[int]) -> None:
    data, end = b"", START
    for size, durable in zip(sizes, durables, strict=False):
        payloads = [encode_payload("k\n", {"size": size}, record_id="i")] * size
        payloads.append(note_payload(Note("claim", {"object_key": "k\n", "worker": None})))
        lines, end = encode_batch(payloads, end=end, stamp_us=end.stamp_us + 1, durable=durable)
        data += lines

    found = require_counted(data)

    assert found is not None
    assert (found.end, found.proven_bytes) == (end, len(data))
    assert (found.lines, found.records) == (sum(sizes) + len(sizes), sum(sizes))
    assert (found.durable, len(found.controls)) == (max(durables[: len(sizes)]), len(sizes))


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("where", range(0, 120, 3))
def test_bit_that_is_flipped_anywhere_ends_the_count(where: int) -> None:
    data = bytearray(forged([PLAIN, PLAIN.replace(b"1001", b"1002"), PLAIN.replace(b"1001", b"1003")]))
    for bit in range(8):
        changed = bytearray(data)
        changed[where] ^= 1 << bit
        found = require_counted(bytes(changed))
        assert (0 if found is None else found.lines) == where // (len(data) // 3)


def test_batch_whose_end_is_missing_is_not_counted() -> None:
    data = forged([PLAIN, b'1002,5,2,"k",1,null', b'1002,5,1,null,{"control":"x"},null'])
    found = require_counted(data)

    assert found is not None
    assert (found.lines, found.durable, found.has_batches, found.controls) == (1, 0, False, [])
    assert found.proven_bytes == len(data)


def test_batch_alone_whose_end_is_missing_leaves_the_end_where_it_was() -> None:
    found = require_counted(forged([b'1002,5,1,null,{"control":"x"},null']))

    assert found is not None
    assert (found.lines, found.end) == (0, START)


@pytest.mark.parametrize("value", [*log_bytes.SOUND_VALUES, *log_bytes.UNSOUND_VALUES])
def test_value_is_counted_only_where_the_scan_takes_it(value: bytes) -> None:
    require_counted(forged([PLAIN, b'1002,0,0,"k",%b,null' % value]))
    require_counted(forged([PLAIN, b'1002,0,0,"k",1,{"a":%b}' % value]))


def test_many_control_lines_are_handed_out_as_they_are() -> None:
    data = forged([NOTE.replace(b"1002", b"%d" % (1001 + number)) for number in range(100)])
    found = require_counted(data)

    assert found is not None
    assert (found.records, len(found.controls)) == (0, 100)
    assert found.controls == list(scanned_alone(data).lines)


BAD_ARGUMENTS: list[tuple[Any, ...]] = [
    *((), (b"",), (b"", 0, 0, 0, 0, 0), (bytearray(), 0, 0, 0, 0), ("", 0, 0, 0, 0)),
    *((b"", "0", 0, 0, 0), (b"", 0, 0, 0, None)),
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS)
def test_bad_arguments_raise_type_error(native: ModuleType, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        native.count(*arguments)


def test_numbers_out_of_range_count_nothing(native: ModuleType) -> None:
    data = forged([PLAIN])

    assert native.count(data, -1, 0, 0, 0) is None
    assert native.count(data, 2**53, START.stored_crc, 0, MAX_BATCH_BYTES) is None


def test_counts_leave_no_memory_behind(native: ModuleType, intensity: int) -> None:
    data = forged([b'1001,0,0,"k\\n",{"a":1},{"id":"x"}', NOTE, b"1003,0,0,x"])
    other = b"x" * 200

    def call() -> None:
        native.count(data, *START, MAX_BATCH_BYTES)
        native.count(other, *START, MAX_BATCH_BYTES)

    require_no_leak(call, (data, None, True, False), calls=CALLS * intensity)


def test_threads_that_count_at_once_find_what_one_finds() -> None:
    payloads = [Payload(b'"k"', b'"%b"' % (b"x" * 200))] * 2_000
    data, end = encode_batch(payloads, end=START, stamp_us=1_001, durable=0)
    found: list[Count | None] = []

    threads = [threading.Thread(target=lambda: found.append(count(data, START))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [Count(len(data), 2_000, 2_000, end, 1_001, 0, True, [])] * 8


def test_without_the_native_core_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "native", None)

    assert count(forged([PLAIN]), START) is None


# --- a log ------------------------------------------------------------------------------------------------------


def inspected(path: Path, data: bytes, *, is_native: bool, chunk_bytes: int) -> Inspection:
    """Return what an inspection of a file with these bytes finds."""
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk_module, "COUNTED_BYTES", chunk_bytes)
        if not is_native:
            patch.setattr(_core, "native", None)
        file = system.open_file(str(path))
        return inspect(file.fd, str(path), "")


def require_inspected_alike(path: Path, data: bytes, chunk_bytes: int) -> Inspection:
    """Require of an inspection to find the same with the native core and without; return it."""
    alone, found = (
        inspected(path, data, is_native=is_native, chunk_bytes=chunk_bytes) for is_native in (False, True)
    )
    assert str(found.refusal) == str(alone.refusal)
    alone.refusal = found.refusal  # errors are never equal
    assert found == alone
    return found


@pytest.mark.guarantee(6)
@given(
    data=log_bytes.damaged_logs().map(lambda log: log.data)
    | log_bytes.written_logs().map(lambda log: log.data)
    | log_bytes.forged_logs(),
    chunk_bytes=st.sampled_from([64, 200, 1000, 2**20]),
)
def test_damaged_logs_are_inspected_alike_with_the_native_core_and_without(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, chunk_bytes: int
) -> None:
    require_inspected_alike(tmp_path_factory.getbasetemp() / "counted.jsonl", data, chunk_bytes)


@pytest.mark.guarantee(6)
def test_forged_logs_are_inspected_alike_with_the_native_core_and_without(tmp_path: Path) -> None:
    header, start = encode_header(log_bytes.LOG_KEY, log_bytes.GENERATION, 1, stamp_us=1)
    forger = scan_fuzz.Forger(5)
    breaks = records = 0
    for number in range(100):
        lines = [fields.replace(b",5000,", b",%d," % start.offset, 1) for fields in forger.fields()]
        data = header + forged(lines, start)
        at = forger.random.randrange(len(header), len(data))
        data = data[:at] + forger.random.choice([b"", b"\n", b"x", b"y" + data[at:]]) + data[at + 1 :]
        found = require_inspected_alike(tmp_path / "a", data if number % 3 else data[:at], chunk_bytes=200)
        breaks, records = breaks + len(found.breaks), records + found.records

    assert breaks > 30
    assert records > 100


def test_log_whose_lines_are_counted_is_durable_up_to_where_they_say(
    store: Path, log: Log, tmp_path: Path
) -> None:
    for number in range(20):
        log.append("x", number)
    data = log_file(store).read_bytes()

    found = require_inspected_alike(tmp_path / "a", data, 2**20)

    assert found.durable > len(data) // 2


def pieces(store: Path) -> Sequence[Batches | Counted | Gap]:
    """Return what a pass that counts meets."""
    file = system.open_file(str(log_file(store)))
    return list(Walk(file.fd, system.size_of(file.fd), counts=True).pieces())


def append_raw(store: Path, event: bytes) -> None:
    """Append a record whose event stands as it is given."""
    path = log_file(store)
    data = path.read_bytes().rstrip(b"\n") + b"\n"
    crc = int(data[-11:-3], 16)
    end = EndState(len(data), crc, int(data.rsplit(b"\n", 2)[-2].split(b",")[1]))
    line, _ = encode_batch([Payload(b'"x"', event)], end=end, stamp_us=end.stamp_us + 1, durable=0)
    path.write_bytes(data + line)


def test_sound_log_is_counted_and_no_line_of_it_given(store: Path, log: Log) -> None:
    log.append_many([("x", number) for number in range(100)])

    (only,) = pieces(store)

    assert isinstance(only, Counted)
    assert only.counts.records == 101


def test_unusual_line_is_read_and_what_follows_it_counted(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_module, "COUNTED_BYTES", 300)
    append_raw(store, b"[1, 2]")
    for _ in range(100):
        log.append("x", "." * 100)

    found = pieces(store)

    kinds = [type(each) for each in found]
    assert kinds[:2] == [Counted, Batches]
    assert kinds[2:] == [Counted] * len(kinds[2:])
    given = sum(
        each.counts.records if isinstance(each, Counted) else len(each.lines)
        for each in found
        if not isinstance(each, Gap)
    )
    assert given == 102
    (check,) = verify(store)
    assert (check.state, check.records) == ("whole", 102)


def test_batch_that_is_longer_than_what_is_read_at_once_is_counted(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_module, "COUNTED_BYTES", 300)
    log.append_many([("x", number) for number in range(100)])

    assert [type(each) for each in pieces(store)] == [Counted, Counted]


def test_lines_after_damage_are_not_counted(store: Path, log: Log) -> None:
    for number in range(20):
        log.append("x", number)
    data = bytearray(log_file(store).read_bytes())
    data[data.index(b",5,null") + 1] ^= 1
    log_file(store).write_bytes(data)

    assert [type(each) for each in pieces(store)] == [Counted, Gap, Batches]


def test_control_line_that_is_not_known_is_told_of_where_lines_are_counted(store: Path, log: Log) -> None:
    log.append("x", 1)
    path = log_file(store)
    data = path.read_bytes().rstrip(b"\n") + b"\n"
    end = EndState(len(data), int(data[-11:-3], 16), int(data.rsplit(b"\n", 2)[-2].split(b",")[1]))
    line, _ = encode_batch([control_payload("later")], end=end, stamp_us=end.stamp_us + 1, durable=0)
    path.write_bytes(data + line)

    (check,) = verify(store)

    assert check.state == "unreadable"
    assert "later" in str(check.problem)
    assert isinstance(pieces(store)[0], Counted)
