"""docs/format.md is the specification: its examples decode, its numbers are the code's, its programs run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._compaction.selection import RETENTION
from mpcheckpoint._format import codec, control, frame, names
from mpcheckpoint._format.control import Header, parse_header
from mpcheckpoint._format.frame import CLOSING_BYTES
from mpcheckpoint._format.resync import lines_after_damage
from mpcheckpoint._format.scan import Scan, Stop, scan
from mpcheckpoint._logfile import paths
from mpcheckpoint.errors import CorruptLogError
from support.checkout import DOCS, GOLDEN

DOCUMENT = (DOCS / "format.md").read_text(encoding="utf-8")

LIMITS = {
    "shortest line, in bytes": frame.MIN_LINE_BYTES,
    "longest line, in bytes": frame.MAX_LINE_BYTES,
    "longest batch, in bytes": frame.MAX_BATCH_BYTES,
    "longest object key and record id together, in bytes of JSON": frame.MAX_KEY_BYTES,
    "longest header, in bytes": control.MAX_HEADER_BYTES,
    "longest log key, in bytes of JSON": control.MAX_LOG_KEY_BYTES,
    "most earlier generations in a header": control.MAX_PREVIOUS,
    "deepest nesting of an event": frame.MAX_DEPTH,
    "digits of an integer in an event": codec.MAX_DIGITS,
    "highest stamp": frame.MAX_STAMP_US,
    "closing bytes of a line": frame.CLOSING_BYTES,
    "opening bytes of a line, its length included": frame.LENGTH_END,
    "longest file name of a key, without suffix": names.MAX_NAME_BYTES,
}


def example(name: str) -> str:
    """Return the fenced block whose info string ends with ``name``."""
    [block] = re.findall(rf"^```\w+ {re.escape(name)}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return block


def tables(heading: str) -> list[list[list[str]]]:
    """Return the cells of every table whose first row is ``heading``."""
    found = re.findall(rf"^{re.escape(heading)}\n\|[-|]+\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    return [
        [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows.splitlines()]
        for rows in found
    ]


def table(heading: str) -> list[list[str]]:
    """Return the cells of the one table whose first row is ``heading``."""
    [cells] = tables(heading)
    return cells


def decoded(data: bytes) -> tuple[Header, Scan]:
    header = parse_header(data)
    assert isinstance(header, Header)
    return header, scan(data[header.end.offset :], header.end)


def example_log(name: str) -> bytes:
    data = example(name).encode()
    return data.rstrip(b"\n") if name == "torn-log" else data


# --- numbers -----------------------------------------------------------------------------------------------


def test_limits_in_the_document_are_those_of_the_code() -> None:
    assert {what: int(value.replace(",", "")) for what, value in table("| limit | value |")} == LIMITS


def test_header_members_in_the_document_are_those_of_the_code() -> None:
    data, _ = control.encode_header(
        "k",
        "0" * 32,
        1,
        stamp_us=1,
        previous=("1" * 32,),
        lineage="2" * 32,
        restored=(control.Restored("1" * 32, 5),),
    )
    event = json.loads(data)[5]

    assert [member for member, _ in table("| member | value |")] == list(event)
    assert event["format"] == frame.FORMAT_NAME == "mpcheckpoint"
    assert event["version"] == frame.FORMAT_VERSION == 1
    assert "format version 1" in DOCUMENT.splitlines()[0]


def test_control_lines_of_a_generation_in_the_document_are_those_of_the_code() -> None:
    of_a_generation, binding, ignorable = tables("| `control` | members | meaning |")

    assert {row[0] for row in of_a_generation} == control.CONTROLS_OF_A_GENERATION
    assert {row[0] for row in binding} == {control.DROPPED, control.FORGET}
    assert [row[0] for row in ignorable] == [
        "claim",
        control.GONE,
        "import",
        "map",
        RETENTION,
        control.SALVAGED,
    ]
    for name in (control.DROPPED, control.FORGET, *control.CONTROLS_OF_A_GENERATION):
        assert control.control_name(control_line(name)) == name
    for name in (row[0] for row in ignorable):
        with pytest.raises(control.UnknownControlError):
            control.control_name(control_line(name))


def control_line(name: str) -> frame.Line:
    """Return a control line that does not say that it may be ignored."""
    return frame.Line(0, 0, 0, 0, 0, None, control.control_payload(name).event, b"null", 0)


def test_compacted_log_is_as_the_document_says_and_its_readers_give_what_is_left(tmp_path: Path) -> None:
    log = Checkpoint(tmp_path).log("k")
    log.append("a", 1, record_id="one")
    log.append_many([("a", 2), ("b", 1), ("a", 3)])
    log.append("c", 1)
    (first, *_, last), before = log.read(), read_lines(tmp_path)
    log.compact(keep_last=1, drop="c")

    header, dropped, gone, b, a, copied = read_lines(tmp_path)
    assert header[1] + 1 == dropped[1] == before[0][1] < gone[1]
    names = [row[1] for row in table("| # | item | rules |")]
    assert names == ["object key", "count", "last stamp", "record ids"]
    assert dropped[5]["control"] == "dropped"
    assert sorted(dropped[5]["objects"]) == [
        ["a", 2, a[1], [["one", first.stamp_us, 0]]],
        ["c", 1, last.stamp_us, []],
    ]
    assert [line[3:6] for line in (gone, b, a)] == [
        [2, None, {"control": "gone", "ignorable": True}],
        [1, "b", 1],
        [0, "a", 3],
    ]
    assert (copied[5]["records"], copied[5]["covers_us"]) == (2, last.stamp_us)
    assert log.append("a", "again", record_id="one").stamp_us == first.stamp_us
    records = list(documented_reader()(tmp_path / ".checkpoint" / "k.jsonl"))
    assert [record[:2] for record in records] == [("b", 1), ("a", 3)]
    assert jq(tmp_path / ".checkpoint" / "k.jsonl") == [["b", 1], ["a", 3]]


def read_lines(store: Path) -> list[Any]:
    return [json.loads(line) for line in (store / ".checkpoint" / "k.jsonl").read_text().splitlines() if line]


def test_field_table_in_the_document_names_the_fields_in_their_order() -> None:
    line, _ = frame.encode_line(
        frame.Payload(b'"k"', b"1", b'{"id":"i"}'), stamp_us=5, durable=0, more=0, crc=0
    )
    values = dict(zip((row[1] for row in table("| # | field | rules |")), json.loads(line), strict=True))

    assert values == {
        "length": f"{len(line):08x}",
        "stamp": 5,
        "durable": 0,
        "more": 0,
        "object_key": "k",
        "event": 1,
        "meta": {"id": "i"},
        "crc": f"{crc32(line[:-12]):08x}",
    }


def test_shortest_line_in_the_document_is_the_shortest_that_can_be_written() -> None:
    line, _ = frame.encode_line(frame.Payload(b'""', b"0"), stamp_us=0, durable=0, more=0, crc=0)

    assert len(line) == LIMITS["shortest line, in bytes"]


# --- examples ----------------------------------------------------------------------------------------------


def test_small_log_of_the_document_decodes_to_what_it_says() -> None:
    data = example_log("small-log")
    header, found = decoded(data)

    assert (header.log_key, header.previous, header.end.offset) == ("photos", (), 223)
    assert header.generation == "5f0c2d9e8b7a41d3a6c1e4f70b92d815"
    assert [(line.object_key, json.loads(line.event), line.more) for line in found.lines] == [
        ("photo123", "UPLOADED", 0),
        ("photo123", "ADDED_TO_ALBUM", 1),
        ("album7", {"photos": 1}, 0),
    ]
    assert [codec.record_id_of(line.meta) for line in found.lines] == [None, "album-7", None]
    assert [line.durable for line in found.lines] == [223, 297, 297]
    assert (found.stop, found.end.offset, len(data)) == (Stop.END, 463, 463)


def test_small_log_of_the_document_is_what_the_code_writes() -> None:
    data = example_log("small-log")
    header, found = decoded(data)
    written, end = control.encode_header(
        header.log_key, header.generation, header.created_us, stamp_us=header.end.stamp_us
    )
    first, second, third = found.lines
    for batch in ([first], [second, third]):
        payloads = [
            codec.encode_payload(line.object_key, json.loads(line.event), codec.record_id_of(line.meta))
            for line in batch
        ]
        more, end = frame.encode_batch(
            payloads, end=end, stamp_us=batch[0].stamp_us, durable=batch[0].durable
        )
        written += more

    assert written == data


def test_byte_table_of_the_document_fits_the_small_log() -> None:
    data = example_log("small-log")
    rows = table("| line | offset | bytes | length field | running CRC before the line | crc field |")

    assert len(rows) == data.count(b"\n")
    offset = 0
    for row, line in zip(rows, data.splitlines(keepends=True), strict=True):
        assert row[1:] == [
            str(offset),
            str(len(line)),
            f"{len(line):08x}",
            f"{crc32(data[:offset]):08x}",
            f"{crc32(data[: offset + len(line) - CLOSING_BYTES]):08x}",
        ]
        assert row[3].encode() == line[2:10]
        assert row[5].encode() == line[-11:-3]
        offset += len(line)


def test_torn_log_of_the_document_holds_one_record_and_pending_bytes() -> None:
    data = example_log("torn-log")
    _, found = decoded(data)

    assert example_log("small-log").startswith(data)
    assert [line.object_key for line in found.lines] == ["photo123"]
    assert (found.stop, found.end.offset, len(data) - found.end.offset) == (Stop.INCOMPLETE, 297, 159)


def test_corrupt_log_of_the_document_is_vouched_for_by_the_lines_behind() -> None:
    data = example_log("corrupt-log")
    _, found = decoded(data)

    assert sum(a != b for a, b in zip(data, example_log("small-log"), strict=True)) == 1
    assert found.damage is not None
    assert found.damage.offset == 223
    behind = list(lines_after_damage(data[223:], base=223, crc=found.broken_crc))
    assert [(line.offset, line.durable) for line in behind] == [(297, 297), (389, 297)]


def test_examples_of_the_document_read_through_the_library_as_it_says(tmp_path: Path) -> None:
    for name, expected in [("small-log", 2), ("torn-log", 1)]:
        with Checkpoint(stored(example_log(name), tmp_path / name), read_only=True) as checkpoint:
            assert len(checkpoint.getCheckpoints("photo123")) == expected
    with Checkpoint(stored(example_log("corrupt-log"), tmp_path / "corrupt"), read_only=True) as checkpoint:
        with pytest.raises(CorruptLogError) as caught:
            checkpoint.getCheckpoints("photo123")
        assert caught.value.offset == 223


def stored(data: bytes, base: Path) -> Path:
    directory = base / ".checkpoint"
    directory.mkdir(parents=True)
    (directory / "photos.jsonl").write_bytes(data)
    return base


# --- names -------------------------------------------------------------------------------------------------


def test_file_names_in_the_document_are_those_of_the_code() -> None:
    for log_key, file in table("| log key | file |"):
        assert names.file_name(log_key) + names.LOG_SUFFIX == file


def test_over_long_name_is_cut_and_hashed_as_the_document_says() -> None:
    cut = re.search(r"cut to its first (\d+), followed by `%~` and the SHA-256", DOCUMENT)
    assert cut is not None
    name = names.file_name("x" * 500)

    assert re.fullmatch(rf"x{{{cut[1]}}}%~[0-9a-f]{{64}}", name)
    assert len(name) == names.MAX_NAME_BYTES


def test_directory_table_in_the_document_names_what_a_store_holds(tmp_path: Path) -> None:
    documented = "\n".join(row[0] for row in table("| name | what it is |"))
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.log("k").append("a", 1)
    with (tmp_path / ".checkpoint" / "k.jsonl").open("ab") as log_file:
        log_file.write(b"torn")
    with Checkpoint(tmp_path) as checkpoint:
        log = checkpoint.log("k")
        log.append("a", 2)
        log.compact(keep_last=1)
        [repair] = log.repairs()

    for path in (tmp_path / ".checkpoint").iterdir():
        assert path.name.replace("k.", "<key>.") in documented
    assert re.fullmatch(rf"k\.{repair.generation}\.{repair.offset}\.[0-9a-f]{{12}}", Path(repair.path).name)
    for name in (paths.QUARANTINE, paths.WORKERS, paths.TEMPORARY_SUFFIX):
        assert name in documented


# --- programs ----------------------------------------------------------------------------------------------


def documented_reader() -> Any:
    scope: dict[str, Any] = {}
    exec(compile(example("reader"), "docs/format.md", "exec"), scope)
    return scope["read_records"]


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.json")))
def test_python_reader_of_the_document_reads_golden_log(name: str) -> None:
    expected = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    records = list(documented_reader()(GOLDEN / f"{name}.jsonl"))
    known = [
        (object_key, event, None if record_id is None else {"id": record_id}, stamp_us)
        for _, stamp_us, _, object_key, event, record_id in expected.get("lines", [])
    ]

    # It knows nothing of control lines, so it reads on behind one that the library must not pass.
    assert repr(records[: len(known)]) == repr(known)
    assert len(records) == len(known) or expected["outcome"] == "unknown"


def jq(path: Path) -> list[Any]:
    command = shutil.which("jq")
    if command is None:
        pytest.skip("jq is not installed")
    words = example("jq").strip().replace(".checkpoint/photos.jsonl", str(path))
    done = subprocess.run(["sh", "-c", words], capture_output=True, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", ["plain", "batches", "padding", "copied", "sealed"])
def test_jq_command_of_the_document_reads_golden_log(name: str) -> None:
    expected = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))

    assert jq(GOLDEN / f"{name}.jsonl") == [[line[3], line[4]] for line in expected["lines"]]


def test_jq_command_of_the_document_reads_up_to_an_incomplete_line() -> None:
    assert jq(GOLDEN / "torn.jsonl") == [["a", 1], ["b", 2], ["c", 3]]


def test_every_line_of_a_live_log_is_a_json_array_of_eight(tmp_path: Path) -> None:
    with Checkpoint(tmp_path) as checkpoint:
        log = checkpoint.log("k")
        log.append("a", {"text": "line\nbreak \u2028"})
        log.append_many([("b", 1), ("c", [None])])
        lines = (tmp_path / ".checkpoint" / "k.jsonl").read_text(encoding="utf-8").split("\n")

    assert lines.pop() == ""
    assert [len(json.loads(line)) for line in lines] == [8] * 4
