"""Importing: each record of a source is in the log once, in its order, whatever happens on the way."""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._maintenance.imports import intake, sources
from mpcheckpoint.errors import (
    BadLineError,
    CorruptLogError,
    PoisonedLogError,
    ReadOnlyError,
    SourceBusyError,
    SourceChangedError,
    WriteFailedError,
)
from mpcheckpoint.log import handle_of
from mpcheckpoint.maintenance import Imported, import_lines, import_older_file, older_files
from mpcheckpoint.testing import crash_test
from support.verbs import inside, log_file, seeded, tear, tree

if TYPE_CHECKING:
    from support.verbs import Faults

UP, DONE = {"object_key": "a", "event": "UP"}, {"object_key": "b", "event": {"n": 1}}


@pytest.fixture
def target(store: Path, without_syncs: None) -> Log:
    """An empty log to import into."""
    return Checkpoint(store).log("a")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source.jsonl"


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def records(log: Log) -> list[tuple[str, Any]]:
    return [(record.object_key, record.event) for record in log.read()]


def small_pieces(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let a piece of a source be so small, and so much be read of it at a time."""
    monkeypatch.setattr(sources, "PIECE_BYTES", size)
    monkeypatch.setattr(sources, "_READ_BYTES", size)


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


# --- what lines say ----------------------------------------------------------------------------------------


def test_import_of_json_lines_keeps_their_order_and_their_objects(target: Log, source: Path) -> None:
    source.write_bytes(lines(UP, DONE, UP))

    done = import_lines(target, source)

    assert records(target) == [("a", "UP"), ("b", {"n": 1}), ("a", "UP")]
    assert done == Imported(str(source), records=3, offset_bytes=source.stat().st_size)


@pytest.mark.parametrize("size", [1, 3, 50, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + lines(UP, DONE),
        lines(UP, DONE).replace(b"\n", b"\r\n"),
        b"\n\n" + lines(UP) + b" \t\r\n\n" + lines(DONE) + b"\n\n",
        lines(UP, DONE)[:-1],
        b"\xef\xbb\xbf\n" + lines(UP, DONE),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "no newline at the end", "a lone byte order mark"],
)
def test_import_of_odd_line_ends_is_that_of_plain_ones(
    target: Log, source: Path, text: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, size)
    source.write_bytes(text)

    done = import_lines(target, source)

    assert records(target) == [("a", "UP"), ("b", {"n": 1})]
    assert (done.records, done.left_bytes) == (2, 0)
    again = import_lines(target, source)
    assert (again.records, again.records_before) == (0, 2)


@pytest.mark.parametrize("text", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_import_of_an_empty_source_does_nothing(target: Log, source: Path, text: bytes) -> None:
    source.write_bytes(text)
    before = log_file(Path(handle_of(target).store.path).parent).read_bytes()

    assert import_lines(target, source).records == 0

    assert log_file(Path(handle_of(target).store.path).parent).read_bytes() == before


@pytest.mark.parametrize(
    ("object_field", "event_field", "expected"),
    [
        ("id", "status", ("17", "UP")),
        ("id", None, ("17", {"id": 17, "status": "UP", "name": "x"})),
        ("name", "id", ("x", 17)),
    ],
)
def test_import_of_other_fields_takes_those(
    target: Log, source: Path, object_field: str, event_field: str | None, expected: tuple[str, Any]
) -> None:
    source.write_bytes(lines({"id": 17, "status": "UP", "name": "x"}))

    import_lines(target, source, object_field=object_field, event_field=event_field)

    assert records(target) == [expected]


BAD = {
    "no JSON": (b'{"object_key":"a"', "not JSON"),
    "NaN": (b'{"object_key":"a","event":NaN}', "not JSON"),
    "bad UTF-8": (b'{"object_key":"a","event":"\xff"}', "not JSON"),
    "lone surrogate": (b'{"object_key":"a","event":"\\ud800"}', "not JSON"),
    "beyond a double": (b'{"object_key":"a","event":1e999}', "not JSON"),
    "long integer": (b'{"object_key":"a","event":%s}' % (b"9" * 700), "refused: an integer of more"),
    "nested deep": (b'{"object_key":"a","event":%s%s}' % (b"[" * 200, b"]" * 200), "refused: nested deeper"),
    "no object key": (b'{"event":1}', "no field 'object_key'; it has 'event'"),
    "no event": (b'{"object_key":"a"}', "no field 'event'"),
    "a key of another type": (b'{"object_key":1.5,"event":1}', "neither a string nor an integer"),
    "an array": (b"[1,2]", "jq -c '.[]'"),
    "several lines": (b"[", "jq -c '.[]'"),
    "a string": (b'"x"', "a string"),
    "UTF-16": (b"\xff\xfe{\x00", "iconv"),
    "gzip": (b"\x1f\x8b\x08", "gzip -dc"),
}


@pytest.mark.parametrize(("line", "reason"), BAD.values(), ids=BAD)
def test_import_of_a_bad_line_says_where_and_imports_what_precedes(
    target: Log, source: Path, line: bytes, reason: str
) -> None:
    source.write_bytes(lines(UP) + b"\n" + line + b"\n" + lines(DONE))

    with pytest.raises(BadLineError, match=r"source\.jsonl:3: ") as caught:
        import_lines(target, source)

    assert reason in str(caught.value)
    assert "; use" not in str(caught.value)  # that would be Python's words for somebody who has JSON
    assert (caught.value.line, caught.value.offset) == (3, len(lines(UP)) + 1)
    assert records(target) == [("a", "UP")]
    source.write_bytes(lines(UP) + b"\n" + lines({"object_key": "mended", "event": 1}, DONE))
    assert import_lines(target, source).records == 2
    assert records(target) == [("a", "UP"), ("mended", 1), ("b", {"n": 1})]


@pytest.mark.parametrize("size", [7, 1 << 20])
def test_import_that_passes_bad_lines_over_reports_and_counts_them(
    target: Log, source: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, size)
    source.write_bytes(lines(UP) + b"".join(line + b"\n" for line, _ in BAD.values()) + lines(DONE))
    bad: list[int] = []

    done = import_lines(target, source, on_bad=lambda error: bad.append(error.line))

    assert sorted(bad) == list(range(2, 2 + len(BAD)))
    assert (done.records, done.skipped) == (2, len(BAD))
    assert records(target) == [("a", "UP"), ("b", {"n": 1})]
    again = import_lines(target, source)
    assert (again.records, again.skipped, again.skipped_before) == (0, 0, len(BAD))


@pytest.mark.parametrize("size", [1, 64, 1 << 20])
def test_line_that_is_longer_than_any_record_is_bad_and_takes_no_memory(
    target: Log, source: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, size)
    monkeypatch.setattr(sources, "MOST_LINE_BYTES", 200)
    monkeypatch.setattr(intake, "MOST_LINE_BYTES", 200)
    long = lines({"object_key": "long", "event": "x" * 5000})
    source.write_bytes(lines(UP) + long + lines(DONE))
    if size == 1 << 20:  # in one read with others: then it is a line like any other
        source.write_bytes(lines(UP) + long * 2 + lines(DONE))
    bad: list[int] = []

    done = import_lines(target, source, on_bad=lambda error: bad.append(error.line))

    assert [each for each in records(target) if each[0] != "long"] == [("a", "UP"), ("b", {"n": 1})]
    assert bad == ([] if size == 1 << 20 else [2])
    assert import_lines(target, source).records_before == done.records


def test_huge_line_is_imported(target: Log, source: Path) -> None:
    source.write_bytes(lines({"object_key": "a", "event": "x" * (3 << 20)}, DONE))

    import_lines(target, source)

    assert [len(event) for _, event in records(target)] == [3 << 20, 1]


# --- again, and on -----------------------------------------------------------------------------------------


def test_source_that_has_grown_goes_on_where_it_was(target: Log, source: Path) -> None:
    source.write_bytes(lines(UP) + b'{"object_key":"b","ev')
    first = import_lines(target, source)
    assert (first.records, first.left_bytes) == (1, 21)

    add(source, b'ent":{"n":1}}')
    assert import_lines(target, source).records == 1
    add(source, b"\n" + lines(UP))

    done = import_lines(target, source)

    assert (done.records, done.records_before) == (1, 2)
    assert records(target) == [("a", "UP"), ("b", {"n": 1}), ("a", "UP")]


@pytest.mark.parametrize("how", ["changed", "shorter", "other fields"])
def test_source_that_has_changed_is_refused(target: Log, source: Path, how: str) -> None:
    source.write_bytes(lines(UP, DONE))
    import_lines(target, source)
    if how == "changed":
        source.write_bytes(lines(UP, DONE, UP).replace(b"UP", b"up"))
    elif how == "shorter":
        source.write_bytes(lines(UP))

    with pytest.raises(SourceChangedError, match="Nothing was imported: give it another name"):
        import_lines(target, source, event_field=None if how == "other fields" else "event")

    assert len(records(target)) == 2
    assert import_lines(target, source, name="other").records > 0


def test_source_under_another_path_is_refused_unless_it_is_named(target: Log, source: Path) -> None:
    source.write_bytes(lines(UP, DONE))
    import_lines(target, source)
    moved = source.rename(source.with_name("moved.jsonl"))
    add(moved, lines(UP))

    with pytest.raises(SourceChangedError, match=r"begins with the .* bytes that were imported as"):
        import_lines(target, moved)

    assert import_lines(target, moved, name=str(source)).records == 1
    other = source.with_name("other.jsonl")
    other.write_bytes(lines(DONE, UP))
    assert import_lines(target, other).records == 2


def test_import_into_another_log_is_one_of_its_own(target: Log, source: Path, store: Path) -> None:
    source.write_bytes(lines(UP))
    import_lines(target, source)

    assert import_lines(Checkpoint(store).log("other"), source).records == 1


def test_place_of_an_import_survives_another_generation(target: Log, source: Path) -> None:
    source.write_bytes(lines(UP))
    import_lines(target, source)

    target.recover()
    add(source, lines(DONE))

    assert import_lines(target, source).records == 1
    assert len(records(target)) == 2


def test_two_imports_of_one_source_at_once_double_nothing(
    target: Log, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, 100)
    values = [{"object_key": f"{number}", "event": number} for number in range(200)]
    source.write_bytes(lines(*values))
    at_once: list[Imported] = []

    def import_too(done: Imported) -> None:
        if not at_once:
            at_once.append(import_lines(target, source))

    with pytest.raises(SourceBusyError, match="another import of"):
        import_lines(target, source, on_batch=import_too)

    assert at_once[0].records + at_once[0].records_before == 200
    assert [event for _, event in records(target)] == list(range(200))


# --- logs as sources ---------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path, without_syncs: None) -> Log:
    """Another log, to be imported: with a record id, a batch, and padding at its end."""
    log = Checkpoint(tmp_path / "other").log("a")
    log.append("x", 1, record_id="id")
    log.append_many([("y", {"n": 2}), ("z", None)])
    return log


def other_file(log: Log) -> Path:
    return log_file(Path(handle_of(log).store.path).parent)


def test_import_of_a_log_keeps_record_ids_and_leaves_out_what_is_there(target: Log, other: Log) -> None:
    target.append("x", "was here", record_id="id")
    other.append("x", 4, record_id="other id")

    done = import_lines(target, other_file(other))

    assert (done.records, done.known) == (3, 1)
    assert records(target) == [("x", "was here"), ("y", {"n": 2}), ("z", None), ("x", 4)]
    target.append("x", "again", record_id="other id")
    assert len(records(target)) == 4
    other.append("late", 5)
    assert import_lines(target, other_file(other)).records == 1


@pytest.mark.parametrize("end", [b'["000000ff",17', b"\n" * 300, b'["000000ff",17' + b"\n" * 300])
def test_import_of_a_live_log_leaves_its_end_for_the_next_time(target: Log, other: Log, end: bytes) -> None:
    tear(Path(handle_of(other).store.path).parent, end)

    done = import_lines(target, other_file(other))

    assert done.records == 3
    assert done.left_bytes == (0 if not end.strip() else len(end))
    assert len(records(target)) == 3
    other.append("late", 5)  # over the padding, or the torn end
    assert import_lines(target, other_file(other)).records == 1
    assert records(target)[-1] == ("late", 5)


def test_import_of_a_log_takes_no_part_of_a_batch(target: Log, other: Log) -> None:
    data = other_file(other).read_bytes().rstrip(b"\n") + b"\n"
    cut = other_file(other).with_name("cut.jsonl")
    cut.write_bytes(b"\n".join(data.split(b"\n")[:-2]) + b"\n")

    done = import_lines(target, cut)

    assert records(target) == [("x", 1)]
    assert done.left_bytes > 0
    cut.write_bytes(data)
    assert import_lines(target, cut).records == 2


def test_import_of_a_damaged_log_says_where(target: Log, other: Log) -> None:
    path = other_file(other)
    path.write_bytes(path.read_bytes().replace(b'{"n":2}', b'{"n":3}'))

    with pytest.raises(BadLineError, match=r"a\.jsonl:3: damage in a log: crc"):
        import_lines(target, path)

    assert records(target) == [("x", 1)]
    bad: list[int] = []
    assert import_lines(target, path, on_bad=lambda error: bad.append(error.line)).records == 1
    assert bad == [3]
    assert records(target) == [("x", 1), ("z", None)]


def test_import_of_single_lines_of_a_log_takes_them_as_they_are(
    target: Log, other: Log, source: Path
) -> None:
    kept = [line for line in other_file(other).read_bytes().split(b"\n") if b'"z"' in line or b'"id"' in line]
    source.write_bytes(b"\n".join(reversed(kept)))

    assert import_lines(target, source).records == 2
    assert records(target) == [("z", None), ("x", 1)]
    target.append("x", "again", record_id="id")
    assert len(records(target)) == 2


def test_import_of_a_log_into_itself_is_refused(target: Log, store: Path) -> None:
    target.append("x", 1)

    with pytest.raises(ValueError, match="the log 'a' itself"):
        import_lines(target, log_file(store))


# --- pipes -------------------------------------------------------------------------------------------------


def test_import_of_a_pipe_needs_a_name_and_goes_on_by_it(target: Log, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def write(data: bytes) -> None:
        with suppress(BrokenPipeError):
            fifo.write_bytes(data)

    def feed(data: bytes) -> threading.Thread:
        feeder = threading.Thread(target=write, args=(data,))
        feeder.start()
        return feeder

    feeder = feed(lines(UP))
    with pytest.raises(ValueError, match="no name"):
        import_lines(target, fifo)
    feeder.join()
    feeder = feed(lines(UP))
    assert import_lines(target, fifo, name="fed").records == 1
    feeder.join()
    feeder = feed(lines(UP, DONE))
    assert import_lines(target, fifo, name="fed").records == 1
    feeder.join()

    assert records(target) == [("a", "UP"), ("b", {"n": 1})]


def test_import_of_a_live_pipe_lands_what_has_come(target: Log) -> None:
    reading, writing = os.pipe()
    seen: list[int] = []

    def on_batch(done: Imported) -> None:
        seen.append(len(records(target)))
        if len(seen) == 1:
            os.write(writing, lines(DONE))
        else:
            os.close(writing)

    os.write(writing, lines(UP))
    import_lines(target, reading, name="live", on_batch=on_batch)
    os.close(reading)

    assert seen == [1, 2]


# --- the older tool ----------------------------------------------------------------------------------------


def test_older_files_are_imported_in_the_order_of_their_seconds(store: Path, without_syncs: None) -> None:
    inside(store).mkdir(parents=True)
    inside(store, "photos1612345679").write_bytes(lines({"p1": "ALBUM"}, {"p2": {"size": 3}}))
    inside(store, "photos999999999").write_bytes(b"nine digits are no seconds of that tool")
    inside(store, "photos1612345678").write_bytes(lines({"p1": "UP"}, {"p1": "UP"}) + b'{"p1": "AL')
    inside(store, "run21612345678").write_bytes(lines({"q": 1}))
    inside(store, "dir1612345678").mkdir()
    before = tree(store)

    files = older_files(store)

    assert [(file.log_key, file.created_s) for file in files] == [
        ("photos", 1612345678),
        ("photos", 1612345679),
        ("run2", 1612345678),
    ]
    checkpoint = Checkpoint(store)
    done = [import_older_file(checkpoint.log(file.log_key), file) for file in files]
    assert [each.records for each in done] == [2, 2, 1]
    assert done[0].left_bytes == len(b'{"p1": "AL')
    assert checkpoint["p1"] == ("UP", "UP", "ALBUM")
    assert records(checkpoint.log("photos"))[-1] == ("p2", {"size": 3})
    assert [import_older_file(checkpoint.log(file.log_key), file).records for file in files] == [0, 0, 0]
    assert {name: look for name, look in tree(store).items() if "16123" in name} == {
        name: look for name, look in before.items() if "16123" in name
    }


# --- what goes wrong ---------------------------------------------------------------------------------------


def test_import_in_a_dry_run_changes_nothing(target: Log, source: Path, store: Path) -> None:
    source.write_bytes(lines(UP, DONE))
    before = tree(store)

    with Checkpoint(store, read_only=True) as checkpoint:
        assert import_lines(checkpoint.log("a"), source, is_dry_run=True).records == 2
    assert import_lines(None, source, is_dry_run=True).records == 2

    assert tree(store) == before


def test_import_through_a_read_only_handle_is_refused(target: Log, source: Path, store: Path) -> None:
    source.write_bytes(lines(UP))

    with Checkpoint(store, read_only=True) as checkpoint, pytest.raises(ReadOnlyError):
        import_lines(checkpoint.log("a"), source)


def test_import_on_a_full_disk_keeps_what_was_said_and_goes_on(
    target: Log, source: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    small_pieces(monkeypatch, 1000)
    source.write_bytes(lines(*({"object_key": f"{number}", "event": number} for number in range(100))))
    said: list[Imported] = []
    fault = faults.fail("write_at", 28, at=3, times=100, on="jsonl")

    with pytest.raises(WriteFailedError, match="No space left"):
        import_lines(target, source, on_batch=said.append)

    assert [event for _, event in records(target)] == list(range(said[-1].records))
    assert 0 < said[-1].records < 100
    fault.clear()
    import_lines(target, source)
    assert [event for _, event in records(target)] == list(range(100))


def test_import_into_a_damaged_or_poisoned_log_is_refused(
    target: Log, source: Path, store: Path, faults: Faults
) -> None:
    source.write_bytes(lines(UP))
    target.append("x", 1)
    target.append("x", 2)
    data = log_file(store).read_bytes()
    log_file(store).write_bytes(data.replace(b'"x",1', b'"x",3'))
    with pytest.raises(CorruptLogError):
        import_lines(Checkpoint(store).log("a"), source)
    log_file(store).write_bytes(data)

    fault = faults.fail("sync_data", 5, on="jsonl")
    with pytest.raises(OSError, match="sync failed"):
        target.append("x", 3)
    fault.clear()
    with pytest.raises(PoisonedLogError):
        import_lines(target, source)
    assert [event for _, event in records(target)] == [1, 2, 3]


PROGRAM = """
import sys
from mpcheckpoint import Checkpoint
from mpcheckpoint._maintenance.imports import sources
from mpcheckpoint.maintenance import import_lines
sources.PIECE_BYTES = sources._READ_BYTES = 1500
with Checkpoint(sys.argv[1]) as checkpoint:
    import_lines(
        checkpoint.log("a"), sys.argv[2], on_batch=lambda done: print(done.records_before + done.records, flush=True)
    )
"""


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
@pytest.mark.slow
def test_import_killed_at_any_instant_and_started_again_doubles_and_loses_nothing(
    tmp_path: Path, source: Path, intensity: int
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    source.write_bytes(lines(*({"object_key": f"{number % 7}", "event": number} for number in range(200))))

    def check(store: Path, acknowledged: list[int]) -> None:
        found = [] if not log_file(store).exists() else [event for _, event in read_all(store)]
        assert found == list(range(len(found)))
        assert len(found) >= max(acknowledged, default=0)

    report = crash_test(
        [sys.executable, program, "{store}", source],
        kills=3 * intensity,
        seed=seeded("import").randrange(1 << 32),
        points=[
            r"in write_at 2 on \.jsonl$",
            r"after write_at 3 on \.jsonl$",
            r"before sync_data 4 on \.jsonl$",
        ],
        ack=int,
        check=check,
        place=tmp_path,
    )

    assert report.kills == 3 * intensity + 3


def read_all(store: Path) -> list[tuple[str, Any]]:
    with Checkpoint(store) as checkpoint:
        return records(checkpoint.log("a"))
