"""What fuzzing found, each with the smallest bytes that show it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._format.columns import parse_lines
from mpcheckpoint._format.control import Header, parse_header
from mpcheckpoint._format.frame import EndState, Line, closing, parse_line
from mpcheckpoint._format.scan import scan
from mpcheckpoint.errors import CheckpointError, CorruptLogError, FormatVersionError, PoisonedLogError
from support import log_bytes
from support.fuzz_bench import MARKER, Bench, Reading, fuzz_bench
from support.log_bytes import GENERATION, LOG_KEY, OTHER_GENERATION, SOUND_VALUES, UNSOUND_VALUES, forged_log
from support.verbs import become_a_new_process, bounded, inside

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.guarantee(6)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with fuzz_bench(tmp_path_factory.mktemp("fuzz")) as bench:
        yield bench


def only_line(data: bytes) -> bytes:
    """Return the line behind the header, with the crc that it would have at the start of a file."""
    body = data[data.index(b"\n") + 1 : -12]
    return body + closing(crc32(body))


# --- events and meta that no decoder takes -----------------------------------------------------------------


@pytest.mark.parametrize("text", UNSOUND_VALUES, ids=lambda text: f"{text[:12]!r}-{len(text)}")
def test_line_whose_event_cannot_be_decoded_is_damage_that_names_its_place(bench: Bench, text: bytes) -> None:
    first, second = (forged_log(b'"x",%b,null' % event, b'"x",2,null') for event in (b"1", text))
    offset = first.index(b"\n") + 1
    line = only_line(forged_log(b'"x",%b,null' % text))
    bench.put(second)

    assert isinstance(parse_line(line, 0, len(line), base=offset, crc=0), str)
    assert parse_lines(line, base=offset, crc=0) == []
    assert bench.read() == Reading([], (CorruptLogError, offset))  # the line behind it calls it durable
    with Checkpoint(bench.store, read_only=True) as checkpoint, pytest.raises(CorruptLogError) as caught:
        checkpoint.get("x")
    assert (caught.value.path, caught.value.offset) == (str(bench.file), offset)


@pytest.mark.parametrize("text", UNSOUND_VALUES, ids=lambda text: f"{text[:12]!r}-{len(text)}")
def test_line_whose_event_cannot_be_decoded_at_the_end_is_torn(bench: Bench, text: bytes) -> None:
    bench.put(forged_log(b'"x",1,null', b'"x",%b,null' % text))

    assert bench.read() == Reading([("x", 1)], None)
    assert bench.append() is None
    assert bench.read() == Reading([("x", 1), MARKER], None)


@pytest.mark.parametrize("text", SOUND_VALUES, ids=lambda text: f"{text[:12]!r}-{len(text)}")
def test_line_whose_event_is_strange_and_sound_is_read(bench: Bench, text: bytes) -> None:
    line = only_line(forged_log(b'"x",%b,null' % text))
    bench.put(forged_log(b'"x",%b,null' % text, b'"x",2,null'))

    assert isinstance(parse_line(line, 0, len(line), base=500, crc=0), Line)
    assert len(parse_lines(line, base=500, crc=0)) == 1
    assert bench.read() == Reading([("x", decode_event(text)), ("x", 2)], None)


@pytest.mark.guarantee(5)
@pytest.mark.parametrize("depth", [129, 300, 900])
def test_event_nested_beyond_the_limit_is_refused_however_deep_the_stack_is(depth: int) -> None:
    """Whether there is stack left to decode it must not decide what a log holds."""
    line = only_line(forged_log(b'"x",' + b"[" * depth + b"]" * depth + b",null"))

    def at(calls: int) -> Any:
        return at(calls - 1) if calls else parse_line(line, 0, len(line), base=500, crc=0)

    for calls in (0, 200, 400):
        assert isinstance(at(calls), str)


@pytest.mark.parametrize("meta", [b"5", b'"id"', b"[]", b"true", b'{"id":1e999}', b'{"id":"\xff"}'])
def test_line_whose_meta_is_no_object_is_damage(bench: Bench, meta: bytes) -> None:
    bench.put(forged_log(b'"x",1,' + meta, b'"x",2,null'))

    assert bench.read().error == (CorruptLogError, len(log_bytes.header()[0]))


# --- bulk and line by line ---------------------------------------------------------------------------------

START = EndState(200, 5, 5)


def in_bulk_and_one_by_one(data: bytes, crc: int = 0) -> tuple[int, int]:
    """Return how many lines both ways of looking find, from the start on."""
    bulk = len(parse_lines(data, base=500, crc=crc))
    count = position = 0
    while position < len(data):
        stop = data.index(b"\n", position) + 1
        line = parse_line(data, position, stop, base=500, crc=crc)
        if isinstance(line, str) or data[position : position + 10] != b'["%08x' % (stop - position):
            break
        crc = crc32(data[position:stop], crc)
        count, position = count + 1, stop
    return bulk, count


def sealed(body: bytes) -> bytes:
    return body + closing(crc32(body))


def a_line(length: int, number: int, rest: bytes = b"") -> bytes:
    """The bytes of a line of 59 bytes up to its crc field, that states any length."""
    return b'["%08x",%d,0,0,"k","' % (length, number) + b"x" * 13 + b'",null,' + rest


def test_lines_whose_inner_crc_field_is_wrong_are_refused_in_bulk_too() -> None:
    wrong = sealed(a_line(59, 1))[:-12] + b'"00000000"]\n'
    data = sealed(wrong + a_line(59, 2))

    assert in_bulk_and_one_by_one(data) == (0, 0)


def test_lines_whose_lengths_only_add_up_are_refused_in_bulk_too() -> None:
    data = sealed(sealed(a_line(0, 1)) + a_line(118, 2))

    assert in_bulk_and_one_by_one(data) == (0, 0)


def test_line_shorter_than_any_is_refused_in_bulk_too() -> None:
    body = b'["00000026",0,0,0,"",1,{},'
    data = sealed(body)
    assert len(data) == 0x26

    assert parse_lines(data, base=500, crc=0) == []
    assert scan(data, START).lines == []


@pytest.mark.parametrize("before", [b" ", b"\t", b"\r"])
def test_line_behind_white_space_is_refused_in_bulk_too(before: bytes) -> None:
    body = before + a_line(60, 1)

    assert in_bulk_and_one_by_one(sealed(body)) == (0, 0)


def test_two_arrays_in_one_line_are_refused_in_bulk_too() -> None:
    one = sealed(a_line(59, 1)).removesuffix(b"\n")
    data = sealed(one + b"\n".join(a_line(59, 2).split(b",", 1)).replace(b"\n", b",\n"))

    assert in_bulk_and_one_by_one(data) == (0, 0)


# --- batches -----------------------------------------------------------------------------------------------


def forged_batch(*lines: tuple[bytes, bytes]) -> bytes:
    """Return a log whose last batch has these lines, each the durable it states and its fields from the key on."""
    chain = log_bytes.Chain(forged_log(b'"x",0,null'))
    for more, (durable, fields) in zip(range(len(lines) - 1, -1, -1), lines, strict=True):
        here = b"%d" % len(chain.data) if durable == b"here" else durable
        chain.line(b"%d,%b,%d,%b" % (log_bytes.CREATED_US + 9, here, more, fields))
    return chain.data


@pytest.mark.guarantee(2)
def test_batch_of_which_a_line_calls_its_own_beginning_durable_survives_an_append(bench: Bench) -> None:
    """A writer that began in mid-batch found the rest of it out of order, and cut it off."""
    bench.put(forged_batch((b"0", b'"x",1,null'), (b"here", b'"x",2,null')))

    assert bench.append() is None
    assert bench.read() == Reading([("x", 0), ("x", 1), ("x", 2), MARKER], None)


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("control", ["header", "sealed", "unsealed", "copied"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_batch_with_a_line_about_its_generation_survives_a_recovery(
    bench: Bench, control: str, place: int
) -> None:
    """Left out of the copy, that line was missing in the count of the batch, and all behind it was gone."""
    lines = [(b"0", b'"x",1,null'), (b"0", b'"x",2,null')]
    lines.insert(place, (b"0", b"null," + json.dumps({"control": control}).encode() + b",null"))
    bench.put(forged_batch(*lines))

    assert bench.recover() is None
    assert bench.append() is None
    assert bench.read() == Reading([("x", 0), ("x", 1), ("x", 2), MARKER], None)


@pytest.mark.parametrize("looks", [1, 3])
def test_log_with_a_control_line_of_a_later_release_gives_the_records_before_its_batch(
    bench: Bench, looks: int
) -> None:
    """How the bytes were cut into reads decided which records were given out before the refusal."""
    data = forged_batch(
        (b"0", b'"x",1,null'), (b"0", b'null,{"control":"merged"},null'), (b"0", b'"x",2,null')
    )
    bench.put(data)
    offset = data.index(b'null,{"control":"merged"}')
    with Checkpoint(bench.store, read_only=True) as checkpoint:
        follower = checkpoint.log(LOG_KEY).follow(idle_timeout_s=0)

        assert next(follower).event == 0
        for _ in range(looks):
            with pytest.raises(FormatVersionError) as caught:
                next(follower)
            assert data.rindex(b"\n", 0, offset) + 1 == caught.value.offset
    assert bench.append() is FormatVersionError
    assert bench.file.read_bytes() == data


# --- headers, poison, notes --------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", ["", "../../x", "\0", "x" * 400, GENERATION.upper(), GENERATION + "0"])
@pytest.mark.parametrize("member", ["generation", "previous"])
def test_header_that_names_no_generation_is_damage(bench: Bench, generation: str, member: str) -> None:
    """File names in quarantine are made of it."""
    sound = log_bytes.header()[0]
    fields = json.loads(sound)[5]
    assert isinstance(parse_header(sound), Header)
    chain = log_bytes.Chain()
    fields[member] = generation if member == "generation" else [generation]
    chain.line(b"%d,0,0,null,%b,null" % (log_bytes.CREATED_US, json.dumps(fields).encode()))
    bench.put(chain.data + b'["torn')

    assert bench.append() is CorruptLogError
    assert bench.read() == Reading([], (CorruptLogError, 0))


@pytest.mark.guarantee(9)
@pytest.mark.parametrize(
    "note",
    [
        b'{"generation":"\xff","reason":"EIO"}',
        b'{"generation":"x","reason":"\xff"}',
        b'{"x":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b'{"generation":5,"reason":"EIO"}',
        b"\0" * 9,
        b"",
    ],
)
def test_poison_that_cannot_be_decoded_refuses_appends(bench: Bench, note: bytes) -> None:
    bench.put(forged_log(b'"x",1,null'))
    inside(bench.store, "a.poison").write_bytes(note)

    assert bench.append() is PoisonedLogError
    assert bench.recover() is None
    assert bench.append() is None
    assert bench.read() == Reading([("x", 1), MARKER], None)


@pytest.mark.parametrize("claimed", [b"null", b"5", b'["x"]', b"{}"])
def test_claim_to_what_is_no_object_key_claims_nothing(bench: Bench, claimed: bytes) -> None:
    worker = b'"' + GENERATION.encode() + b'"'
    note = b'null,{"control":"claim","ignorable":true,"object_key":%b,"worker":%b},null' % (claimed, worker)
    bench.put(forged_log(note))
    with Checkpoint(bench.store) as checkpoint:
        view = checkpoint.log(LOG_KEY).look(lambda view: view)

    assert view.claim_of(str(json.loads(claimed))) is None


@pytest.mark.parametrize("members", ["", ',"run":1', ',"run":"x","version":""', ',"run":null,"version":5'])
def test_map_note_that_says_nothing_is_no_run(bench: Bench, members: str) -> None:
    note = 'null,{"control":"map","ignorable":true' + members + "},null"
    bench.put(forged_log(note.encode(), b'"x",1,null'))
    with Checkpoint(bench.store) as checkpoint:
        log = checkpoint.log(LOG_KEY)

        assert list(log.results()) == []
        assert list(log.pending(["x", "y"])) == ["y"]


# --- another generation copied into the same file ----------------------------------------------------------


def other_log(*events: int) -> bytes:
    """Return a log of another generation, as a copy made before a recovery is."""
    chain = log_bytes.Chain(log_bytes.header(OTHER_GENERATION)[0])
    for number, happened in enumerate(events, 1):
        chain.line(b'%d,%d,0,"x",%d,null' % (log_bytes.CREATED_US + number, len(chain.data), happened))
    return chain.data


@pytest.mark.guarantee(5)
def test_log_restored_in_place_from_another_generation_gives_positions_of_it(bench: Bench) -> None:
    bench.put(forged_log(b'"x",1,null', b'"x",2,null'))
    with Checkpoint(bench.store) as checkpoint:
        log = checkpoint.log(LOG_KEY)
        follower = log.follow(idle_timeout_s=0)
        assert [record.event for record in follower] == [1, 2]
        assert log.count("x") == 2
        bench.change(other_log(3, 4, 5, 6))

        assert log.events("x") == (3, 4, 5, 6)
        found = next(follower)
        assert found.position.generation == OTHER_GENERATION
        assert [record.event for record in log.read(after=found.position)] == [6]


@pytest.mark.guarantee(9)
def test_log_restored_in_place_from_a_shorter_generation_takes_appends(bench: Bench) -> None:
    """What was known to be durable was of the generation before."""
    bench.put(forged_log(*[b'"x",1,null'] * 9))
    with Checkpoint(bench.store) as checkpoint:
        log = checkpoint.log(LOG_KEY)
        log.append("x", 2)
        bench.change(other_log(3))

        assert log.events("x") == (3,)
        log.append(*MARKER)
    become_a_new_process()
    assert bench.read() == Reading([("x", 3), MARKER], None)


def test_log_shortened_in_place_stays_corrupt_for_readers_after_a_refused_append(bench: Bench) -> None:
    """The writer that began anew forgot what had been durable, and readers beside it then passed over the damage."""
    whole = forged_log(*[b'"x",1,null'] * 9)
    bench.put(whole)
    with Checkpoint(bench.store) as checkpoint:
        log = checkpoint.log(LOG_KEY)
        log.append("x", 2)
        bench.change(forged_log(b'"x",1,null') + b"torn")
        for _ in range(3):
            with pytest.raises(CorruptLogError):
                log.events("x")
            with pytest.raises(CorruptLogError):
                log.append(*MARKER)


# --- what is no file ---------------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("name", ["a.jsonl", "a.poison", "logs"])
def test_pipe_where_a_file_should_stand_is_refused_without_waiting(bench: Bench, name: str) -> None:
    bench.put(forged_log(b'"x",1,null'))
    path = inside(bench.store, name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)

    def use() -> None:
        with Checkpoint(bench.store) as checkpoint:
            checkpoint.log(LOG_KEY).append(*MARKER)

    try:
        with pytest.raises(CheckpointError):
            bounded(use, timeout_s=20)
    finally:
        path.unlink()
        bench.file.touch()
