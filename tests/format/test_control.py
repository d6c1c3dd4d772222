"""What a log says about itself: its header, and control lines known and unknown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.control import (
    CONTROLS_OF_A_GENERATION,
    MAX_HEADER_BYTES,
    Header,
    Note,
    UnknownControlError,
    UnknownVersion,
    control_name,
    control_payload,
    encode_header,
    note_of,
    note_payload,
    parse_header,
)
from mpcheckpoint._format.frame import Line, Mismatch, Payload, encode_line, parse_line
from mpcheckpoint.errors import CheckpointError, CorruptLogError
from mpcheckpoint.log import handle_of
from support import log_bytes
from support.fuzz_bench import Bench, Reading
from support.log_bytes import GENERATION, LOG_KEY, forged_log

if TYPE_CHECKING:
    pass


def write(log_key: str = "photos", previous: tuple[str, ...] = ()) -> bytes:
    data, _ = encode_header(log_key, GENERATION, 1_000_000, stamp_us=999, previous=previous)
    return data


def forge(event: dict[str, Any], *, object_key: object = None, more: int = 0) -> bytes:
    """Return a first line with a right crc and any event."""
    payload = Payload(json.dumps(object_key).encode(), json.dumps(event).encode())
    line, _ = encode_line(payload, stamp_us=1, durable=0, more=more, crc=0)
    return line


def header_event(**changes: Any) -> dict[str, Any]:
    return json.loads(write())[5] | changes


def line_of(payload: Payload) -> Line:
    data, _ = encode_line(payload, stamp_us=1, durable=0, more=0, crc=0)
    line = parse_line(data, 0, len(data), base=0, crc=0)
    assert isinstance(line, Line)
    return line


# --- the header --------------------------------------------------------------------------------------------


@given(
    log_key=st.text(max_size=50),
    previous=st.lists(st.uuids().map(lambda uuid: uuid.hex), max_size=3),
    behind=st.binary(max_size=50),
)
def test_header_of_any_log_key_comes_back_as_written(
    log_key: str, previous: list[str], behind: bytes
) -> None:
    data, end = encode_header(log_key, GENERATION, 1_000_000, stamp_us=999, previous=tuple(previous))

    assert parse_header(data + behind) == Header(log_key, GENERATION, 1_000_000, tuple(previous), end)
    assert (end.offset, end.stamp_us) == (len(data), 999)


@pytest.mark.guarantee(6)
def test_header_cut_anywhere_is_damage() -> None:
    data = write()
    for size in range(len(data)):
        assert isinstance(parse_header(data[:size]), Mismatch)


@pytest.mark.guarantee(6)
def test_header_with_any_bit_flipped_is_damage_or_another_version() -> None:
    data = write()
    version_digit = data.index(b'"version":1') + len(b'"version":')
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        found = parse_header(bytes(flipped))
        assert isinstance(found, Mismatch) or bit // 8 == version_digit
        assert not isinstance(found, Header)


@pytest.mark.parametrize("version", [0, 2, 17, "2", None, 1.5])
def test_header_of_another_version_is_named_as_such(version: object) -> None:
    found = parse_header(forge(header_event(version=version)))

    assert found == UnknownVersion(version) or (version is None and isinstance(found, Mismatch))


def test_header_of_a_version_framed_in_another_way_is_named_as_such() -> None:
    assert parse_header(b'{"format":"mpcheckpoint","version":3}\n\0\0\0') == UnknownVersion(3)
    assert parse_header(
        b'["mp",{"version":2,"format":"mpcheckpoint","more":[]},"crc32c"]\n'
    ) == UnknownVersion(2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\xff\xfe\n",
        b'{"photo123":"UPLOADED"}\n',
        b"\0" * 100,
        b"[" * 50_000 + b"\n",
        b'["' + b"a" * 2 * MAX_HEADER_BYTES,
        forge(header_event(format="other")),
        forge(header_event(control="sealed")),
        forge(header_event(log_key=5)),
        forge(header_event(previous="x")),
        forge(header_event(), object_key="k"),
        forge(header_event(), more=1),
    ],
)
def test_header_that_is_none_is_damage_at_the_start(data: bytes) -> None:
    found = parse_header(data)

    assert isinstance(found, Mismatch)
    assert found.offset == 0


@pytest.mark.guarantee(10)
@pytest.mark.parametrize("length", [5_000, 30_000, MAX_HEADER_BYTES, 3 * MAX_HEADER_BYTES])
def test_header_of_a_log_key_of_any_length_is_readable_or_refused(tmp_path: Any, length: int) -> None:
    """Whatever may be written must be read again: a log that nobody can open would stand there for ever."""
    log_key = "x" * length
    try:
        with Checkpoint(tmp_path) as checkpoint:
            checkpoint.log(log_key).append("a", 1)
    except CheckpointError as error:
        assert length > 30_000, error  # noqa: PT017  # refusing is one of the two right answers
        assert not list((tmp_path / ".checkpoint").glob("*.jsonl"))
    else:
        with Checkpoint(tmp_path, read_only=True) as checkpoint:
            assert checkpoint.logs() == [log_key]


def test_header_of_a_log_recovered_two_thousand_times_is_readable() -> None:
    """Each recovery adds a generation to `previous`; the header must not outgrow what is read of it."""
    previous = tuple(f"{number:032x}" for number in range(2_000))
    found = parse_header(write(previous=previous))

    assert isinstance(found, Header)
    assert found.previous[-1] == previous[-1]


# --- control lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", sorted(CONTROLS_OF_A_GENERATION))
def test_control_line_of_a_generation_is_known(control: str) -> None:
    assert control_name(line_of(control_payload(control, next=GENERATION, extra=[1]))) == control


def test_control_line_unknown_and_not_ignorable_is_refused() -> None:
    with pytest.raises(UnknownControlError, match="merged"):
        control_name(line_of(control_payload("merged")))
    with pytest.raises(UnknownControlError):
        control_name(line_of(control_payload("merged", ignorable=False)))


@pytest.mark.parametrize(
    "event", [b"null", b"5", b"[]", b"{}", b'{"control":5}', b'{"control":"x","ignorable":"yes"}']
)
def test_control_line_that_names_nothing_is_refused(event: bytes) -> None:
    with pytest.raises(UnknownControlError):
        control_name(line_of(Payload(b"null", event)))


@given(
    name=st.text().filter(lambda name: name not in CONTROLS_OF_A_GENERATION),
    fields=st.dictionaries(
        st.text(min_size=1, max_size=9).filter(lambda member: member not in ("control", "ignorable")),
        st.none() | st.integers() | st.text() | st.lists(st.booleans()),
        max_size=4,
    ),
)
def test_note_comes_back_as_written(name: str, fields: dict[str, Any]) -> None:
    line = line_of(note_payload(Note(name, fields)))

    assert control_name(line) == name
    assert note_of(line) == Note(name, fields)


# --- members of other types ----------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("generation", ["", "../../x", "\0", "x" * 400, GENERATION.upper(), GENERATION + "0"])
@pytest.mark.parametrize("member", ["generation", "previous", "lineage"])
def test_header_that_names_no_generation_is_damage(bench: Bench, generation: str, member: str) -> None:
    """File names in quarantine are made of it."""
    sound = log_bytes.header()[0]
    fields = json.loads(sound)[5]
    assert isinstance(parse_header(sound), Header)
    chain = log_bytes.Chain()
    fields[member] = [generation] if member == "previous" else generation
    chain.line(b"%d,0,0,null,%b,null" % (log_bytes.CREATED_US, json.dumps(fields).encode()))
    bench.put(chain.data + b'["torn')

    assert bench.append() is CorruptLogError
    assert bench.read() == Reading([], (CorruptLogError, 0))


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("claimed", [b"null", b"5", b'["x"]', b"{}"])
def test_claim_to_what_is_no_object_key_claims_nothing(bench: Bench, claimed: bytes) -> None:
    worker = b'"' + GENERATION.encode() + b'"'
    note = b'null,{"control":"claim","ignorable":true,"object_key":%b,"worker":%b},null' % (claimed, worker)
    bench.put(forged_log(note))
    with Checkpoint(bench.store) as checkpoint:
        view = handle_of(checkpoint.log(LOG_KEY)).query(lambda view: view)

    assert view.claim_of(str(json.loads(claimed))) is None


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("members", ["", ',"run":1', ',"run":"x","version":""', ',"run":null,"version":5'])
def test_map_note_that_says_nothing_is_no_run(bench: Bench, members: str) -> None:
    note = 'null,{"control":"map","ignorable":true' + members + "},null"
    bench.put(forged_log(note.encode(), b'"x",1,null'))
    with Checkpoint(bench.store) as checkpoint:
        log = checkpoint.log(LOG_KEY)

        assert list(log.results()) == []
        assert list(log.pending(["x", "y"])) == ["y"]
