"""What is counted by object: the native core counts and drops as Python does, and leaves the same of a log."""

from __future__ import annotations

import random
import shutil
from array import array
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint, _core
from mpcheckpoint._compaction.tally import PureTally, keys_and_stamps
from mpcheckpoint._format.blocks import scan_block
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import EndState, Payload, encode_batch
from mpcheckpoint._format.recode import DROP, KEEP
from mpcheckpoint._format.scan import scan
from support.capabilities import native_core, native_core_in_use
from support.leaks import CALLS, require_no_leak
from support.verbs import log_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = EndState(1000, 0x1234ABCD, 17)
KEYS = st.sampled_from([None, "", "a", "b", "object-1", "object-2", "ü", 'q"\\\n', "12345678", "123456789"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(KEYS, max_size=40), st.integers(0, 60)),
        st.tuples(st.just("pop"), KEYS.filter(lambda each: each is not None)),
        st.tuples(st.just("drop"), st.lists(KEYS, max_size=40), st.integers(0, 2**40)),
        st.tuples(
            st.just("set"), st.dictionaries(KEYS.filter(lambda each: each is not None), st.integers(1, 4))
        ),
    ),
    max_size=8,
)


@pytest.fixture(scope="module", autouse=True)
def native_in_use() -> Iterator[None]:
    """Have the native core run, also where it was told not to."""
    with native_core_in_use():
        yield


def lines_of(keys: list[str | None], *, in_block: bool) -> Lines:
    """Return a line of each key, and one more, a record of an object of its own."""
    data, end = b"", START
    for number, key in enumerate([*keys, "end"]):
        text = b"null" if key is None else msgspec.json.encode(key)
        event = b'{"control":"x","ignorable":true}' if key is None else b"1"
        made, end = encode_batch([Payload(text, event)], end=end, stamp_us=18 + number, durable=0)
        data += made
    return Lines.of((scan_block if in_block else scan)(data, START).lines)


def told(tally: Any) -> tuple[Any, ...]:
    """Return all that is counted; the order of objects counts."""
    lasts_us = {key: stamp for key, stamp in tally.lasts_us().items() if key is not None}
    return list(tally.counts().items()), {k: v for k, v in tally.olds().items() if v}, lasts_us


@given(STEPS, st.booleans())
def test_native_core_counts_and_drops_as_python_does(steps: list[Any], in_block: bool) -> None:
    native = native_core()
    tally, pure = native.Tally(), PureTally()
    for what, given_, *more in steps:
        if what in {"add", "drop"}:
            lines = lines_of(given_, in_block=in_block)
            assert (lines.block is not None) == in_block
            keys, stamps = keys_and_stamps(lines)
            pure_keys = lines_of(given_, in_block=False).object_keys
        if what == "add":
            assert tally.add(keys, stamps, more[0]) == pure.add(
                pure_keys, range(18, 19 + len(given_)), more[0]
            )
        elif what == "pop":
            assert tally.get(given_) == pure.get(given_)
            assert tally.pop(given_) == pure.pop(given_)
        elif what == "set":
            fresh, pure = native.Tally(), PureTally()
            tally = fresh
            tally.set(given_)
            pure.set(given_)
        else:
            fates = bytearray(DROP if more[0] >> index & 1 else KEEP for index in range(len(lines)))
            pure_fates = bytearray(fates)
            tally.drop(keys, fates)
            pure.drop(pure_keys, pure_fates)
            assert fates == pure_fates
        assert dict(told(tally)[0]) == {key: count for key, count in told(pure)[0] if count}
        if what != "drop":
            assert told(tally)[1:] == told(pure)[1:] or "set" in [each[0] for each in steps]


def test_many_objects_are_told_apart_and_come_in_their_order() -> None:
    tally = native_core().Tally()
    keys = [f"object-{number % 3000:05d}" for number in range(9000)]
    tally.add(keys, array("Q", range(1, 9001)), 3001)

    assert list(tally.counts().items()) == [(key, 3) for key in keys[:3000]]
    assert set(tally.olds().values()) == {1}
    assert tally.lasts_us()["object-00007"] == 6008
    assert tally.pop("object-00000") == 3
    assert tally.get("object-00000") == tally.pop("object-00000") == tally.pop("none") == 0
    tally.add(["object-00000"], array("Q", [9001]), 0)
    assert list(tally.counts().items())[-1] == ("object-00000", 1)


def test_what_the_tally_cannot_take_is_refused() -> None:
    native = native_core()
    tally, lines = native.Tally(), lines_of(["a"], in_block=True)
    assert lines.block is not None

    with pytest.raises(TypeError, match="a block or a list"):
        tally.add(("a",), b"", 0)
    with pytest.raises(ValueError, match="one stamp a key"):
        tally.add(["a"], b"", 0)
    with pytest.raises(TypeError):
        tally.add([1], array("Q", [1]), 0)
    tally.set({"a": 1})
    for keys in (["a"], lines.block.lines):
        with pytest.raises(ValueError, match="one fate a line"):
            tally.drop(keys, bytearray(5))
    with pytest.raises(TypeError):
        tally.drop([1], bytearray([KEEP]))
    for counts in ([("a", 1)], {1: 1}, {"a": "many"}):
        with pytest.raises(TypeError):
            tally.set(counts)
    for call in (tally.get, tally.pop):
        with pytest.raises(TypeError):
            call(1)


def test_tallies_leave_no_memory_behind(intensity: int) -> None:
    native = native_core()
    lines = lines_of(["a", "b", 'q"\\\n', None], in_block=True)
    assert lines.block is not None
    block = lines.block.lines

    def call() -> None:
        tally = native.Tally()
        tally.add(block, b"", 20)
        tally.add(["c", "a"], array("Q", [30, 31]), 0)
        tally.drop(block, bytearray([KEEP]) * len(lines))
        tally.set(tally.counts() | {"d": tally.pop("a")})
        tally.olds(), tally.lasts_us()

    require_no_leak(call, (block, None), calls=CALLS // 8 * intensity)


# --- whole compactions --------------------------------------------------------------------------------------------


def fill(store: Path, seed: int) -> None:
    """Make a log of single records and batches, with record ids, claims and objects that are forgotten."""
    chance = random.Random(seed)
    with Checkpoint(store, durability="never") as checkpoint:
        log = checkpoint.log("a")
        for number in range(400):
            key = f"k{chance.randrange(12)}"
            if chance.random() < 0.3:
                log.append_many([(f"k{chance.randrange(12)}", number) for _ in range(chance.randrange(1, 6))])
            elif chance.random() < 0.1:
                log.append(key, "ü\n", record_id=f"id-{number}")
            elif chance.random() < 0.03:
                log.forget(key)
            else:
                log.append(key, {"n": number})


RULES: dict[str, dict[str, Any]] = {
    "keeps some": {"keep_last": 3},
    "keeps what is new": {"keep_last": 2, "newer_than_s": 0.0},
    "drops": {"drop": "k1*", "keep_last": 5},
    "folds": {"keep_last": 1, "fold": lambda earlier, later: later},
    "purges": {"purge": True},
}


@pytest.mark.parametrize("rule", RULES)
def test_compaction_by_the_native_core_leaves_what_one_by_python_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    native_core()
    fill(tmp_path / "store", seed=len(rule))
    shutil.copytree(tmp_path / "store", tmp_path / "pure")
    found = []
    for name in ("store", "pure"):
        if name == "pure":
            monkeypatch.setattr(_core, "native", None)
        with Checkpoint(tmp_path / name) as checkpoint:
            done = checkpoint.log("a").compact(**RULES[rule])
        data = log_file(tmp_path / name, "a").read_bytes()
        header = data.index(b"\n") + 1
        crc = int(data[header - 11 : header - 3], 16)
        lines = list(scan(data[header:], EndState(header, crc, 0)).lines)
        # The crc fields follow from the name of the generation; the last line is stamped when it is written.
        kept = [line._replace(stored_crc=0) for line in lines[:-1]]
        found.append((done.records_after, done.objects_after, kept))

    assert found[0] == found[1]
    assert found[0][0] < done.records_before
