"""Any string is a log key: its file stays in the directory, and no two keys share one."""

from __future__ import annotations

import os
import re
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.names import MAX_NAME_BYTES, file_name
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint.errors import InvalidKeyError

pytestmark = pytest.mark.guarantee(10)

# A quarantine file's: generation, an offset of 2**63, a unique part.
LONGEST_SUFFIX = "." + "f" * 32 + "." + str(2**63) + "." + "f" * 12
OTHERS_IN_THE_DIRECTORY = {"store.lock", "logs", "workers", "quarantine"}

ODD_KEYS = [
    "",
    ".",
    "..",
    "../../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "\0",
    "a\0b",
    "\n",
    " ",
    "a",
    "A",
    "%",
    "%41",
    "%61",
    "~",
    "store",
    "Store",
    "STORE",
    "store.lock",
    "logs",
    "workers",
    "quarantine",
    "probe",
    "a.jsonl",
    "a.lock",
    "a.jsonl.0123456789abcdef0123456789abcdef.tmp",
    "con",
    "nul.txt",
    "\u00e9",
    "e\u0301",
    "ß",
    "ss",
    "\u0131",
    "\u0130",
    "\u212a",
    "k",
    "日本語",
    "\U0001f600",
    "\u202e",
    "photos1700000000",
    "x" * MAX_NAME_BYTES,
    "x" * (MAX_NAME_BYTES + 1),
    "x" * 5_000,
    "x" * 4_999 + "y",
    "X" * 5_000,
    "日" * 5_000,
    "\0" * 5_000,
    "." * 5_000,
]

keys = st.text() | st.sampled_from(ODD_KEYS) | st.text(st.sampled_from("aA%.~/\0é"), max_size=200)


class Text(str):
    """A string that would come back as another type."""

    __slots__ = ()


def assert_safe(name: str) -> None:
    """No part of a path, nothing that an eye, a shell or a file system changes, and short enough."""
    assert re.fullmatch(r"[a-z0-9\-_.%~]+", name)
    assert not name.startswith(".")
    assert len(name) <= MAX_NAME_BYTES
    assert len(name + LONGEST_SUFFIX) < 255
    assert os.path.basename(name) == name


@given(log_key=keys)
def test_file_name_of_any_key_stays_in_the_directory(log_key: str) -> None:
    assert_safe(file_name(log_key))
    paths = LogPaths.of("/store/.checkpoint", log_key)
    for path in (paths.log, paths.lock, paths.poison):
        assert os.path.dirname(os.path.normpath(path)) == "/store/.checkpoint"
        assert os.path.basename(path) not in OTHERS_IN_THE_DIRECTORY


@given(one=keys, other=keys)
def test_file_names_of_two_keys_differ_after_folding_case(one: str, other: str) -> None:
    assert (file_name(one).casefold() == file_name(other).casefold()) == (one == other)


def test_file_names_of_odd_keys_all_differ() -> None:
    for one, other in combinations(ODD_KEYS, 2):
        assert file_name(one).casefold() != file_name(other).casefold()
    for log_key in ODD_KEYS:
        assert_safe(file_name(log_key))


@given(log_key=st.text(st.sampled_from("abcxyz0189-_"), min_size=1, max_size=MAX_NAME_BYTES))
def test_file_name_of_a_plain_key_is_the_key(log_key: str) -> None:
    assert file_name(log_key) == log_key or log_key == "store"


@pytest.mark.parametrize(
    "log_key",
    [None, 5, 1.5, True, b"a", ("a",), ["a"], object(), Text("a")],
    ids=lambda log_key: type(log_key).__name__,
)
def test_file_name_of_what_is_no_string_is_refused(log_key: Any) -> None:
    with pytest.raises(InvalidKeyError, match="str"):
        file_name(log_key)


@pytest.mark.parametrize("log_key", [chr(0xD800), f"a{chr(0xDFFF)}b", chr(0xDCFF)], ids=ascii)
def test_file_name_of_a_lone_surrogate_is_refused(log_key: str) -> None:
    with pytest.raises(InvalidKeyError, match="Unicode"):
        file_name(log_key)


def test_store_with_every_odd_key_keeps_them_apart(tmp_path: Any) -> None:
    store = tmp_path / "store"
    with Checkpoint(store, durability="never") as checkpoint:
        for number, log_key in enumerate(ODD_KEYS):
            checkpoint.createCheckpointLog(log_key)
            checkpoint.writeCheckpoint(log_key, "which", number)
    with Checkpoint(store, read_only=True) as checkpoint:
        assert checkpoint.logs() == sorted(ODD_KEYS)
        for number, log_key in enumerate(ODD_KEYS):
            assert checkpoint.log(log_key).events("which") == (number,)
    assert os.listdir(tmp_path) == ["store"]
    assert os.listdir(store) == [".checkpoint"]


@pytest.mark.parametrize("log_key", [None, 5, b"a", "\ud800", Text("a")], ids=ascii)
def test_store_refuses_a_bad_key_and_changes_nothing(tmp_path: Any, log_key: Any) -> None:
    with Checkpoint(tmp_path) as checkpoint:
        with pytest.raises(InvalidKeyError):
            checkpoint.createCheckpointLog(log_key)
        with pytest.raises(InvalidKeyError):
            checkpoint.log(log_key)
        assert checkpoint.logs() == []
        assert checkpoint.getCheckpointLogKeys() == []
    assert not list((tmp_path / ".checkpoint").glob("*.jsonl"))
