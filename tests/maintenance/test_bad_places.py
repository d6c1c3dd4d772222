"""Places where no store can be, files that are not what they should be: each its own clear error, nothing touched."""

from __future__ import annotations

import logging
import os
import pathlib
import shutil
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, maintenance
from mpcheckpoint._format.control import encode_header
from mpcheckpoint.errors import (
    CheckpointError,
    CorruptLogError,
    FormatVersionError,
    LogNotFoundError,
    NotAStoreError,
    StoreNotFoundError,
    UnknownSchemeError,
    WrongLogError,
)
from support.fuzz_bench import MARKER, Bench
from support.log_bytes import LOG_KEY, forged_log
from support.shell import CommandLine
from support.verbs import (
    assert_goes_on,
    become_a_new_process,
    bounded,
    inside,
    lock_file,
    log_file,
    tear,
    tree,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory outside the store, with a file, neither of which anything may touch."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_bytes(b"precious")
    return directory


# --- where a store should stand ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["store", "store/.checkpoint", "store/deep/down"])
def test_file_where_a_directory_should_be_is_named(tmp_path: Path, where: str) -> None:
    file = tmp_path / where.removesuffix("/deep/down")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"precious")
    before = tree(tmp_path)

    for options in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(CheckpointError) as caught:
            Checkpoint(tmp_path / where.removesuffix("/.checkpoint"), **options)
        assert isinstance(caught.value, NotAStoreError), options
        assert str(file) in str(caught.value)

    assert tree(tmp_path) == before


def test_symbolic_link_as_the_store_is_refused(log: Log, store: Path, tmp_path: Path) -> None:
    inside(store).rename(tmp_path / "elsewhere")
    inside(store).symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)

    for options in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(NotAStoreError, match="symbolic link"):
            Checkpoint(store, **options)

    assert tree(tmp_path) == before


def test_store_reached_through_a_link_to_its_parent_is_the_same_store(
    log: Log, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(store)

    Checkpoint(tmp_path / "link").log("a").append("x", 1)

    assert log.events("x") == (0, 1)


# --- URLs -------------------------------------------------------------------------------------------------------

PASSWORD = "s3cr3t"
URLS = [
    f"mysql://u:{PASSWORD}@h/db",
    f"  PostgreSQL+psycopg://u:{PASSWORD}@h/db",
    f"jdbc:postgresql://h/db?user=u&password={PASSWORD}",
    f"redis://:{PASSWORD}@h:6379/0",
    "s3://bucket/key",
    "file:///tmp/store",
    "sqlite:///store.db",
    pathlib.Path(f"postgresql://u:{PASSWORD}@h/db"),  # which has one slash left
    os.fsencode(f"nats://u:{PASSWORD}@h"),
]


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("url", URLS, ids=repr)
def test_url_is_refused_wherever_a_store_is_given_and_its_password_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    given = os.fsdecode(url)
    for attempt in (
        lambda: Checkpoint(url),
        lambda: Checkpoint(url, read_only=True),
        lambda: list(maintenance.verify(url)),
        lambda: list(maintenance.repair(url)),
        lambda: list(maintenance.plan_repairs(url)),
        lambda: list(maintenance.survey(url)),
        lambda: maintenance.examine(url),
        lambda: maintenance.older_files(url),
        lambda: maintenance.size_in_bytes(url),
        lambda: maintenance.stray_files(url),
        lambda: maintenance.import_lines(Checkpoint("good").log("a"), url),
    ):
        with pytest.raises(
            UnknownSchemeError, match=r"given as a URL \(.*://\.\.\.\).*give its path"
        ) as caught:
            attempt()
        assert isinstance(caught.value, ValueError)
        assert caught.value.scheme == given.strip().partition(":/")[0]
        shown = "".join(traceback.format_exception(caught.value, chain=True)) + repr(caught.value)
        assert PASSWORD not in shown + repr(vars(caught.value)) + caplog.text

    assert [path.name for path in tmp_path.iterdir()] == ["good"]


@pytest.mark.parametrize(
    "name", ["./postgresql://h/db", "C:\\store", "C:/store", "a:b", "1a://x", "dir/s3://x"]
)
def test_path_that_only_looks_like_a_url_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)

    Checkpoint(name).log("a").append("x", 1)

    assert inside(tmp_path / name).is_dir()
    assert Checkpoint(name, create=False)["x"] == (1,)


COMMANDS = [
    *(
        ["verify", "--store"],
        ["repair", "--store"],
        ["compact", "--superseded", "--store"],
        ["ls", "--store"],
        ["show", "--store"],
        ["tail", "--store"],
    ),
    *(["results", "--key", "k", "--store"], ["doctor"], ["verify"], ["import", "--store", "x", "--key", "k"]),
    *(["map", "--store", "x", "--key", "k", "-a"], ["import", "--key", "k", "-", "--as", "n", "--store"]),
]


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_given_a_url_ends_with_a_usage_error_without_the_password(
    tmp_path: Path, words: list[str]
) -> None:
    more = ["--", "true"] if words[0] == "map" else []

    ended = CommandLine(tmp_path).run(*words, URLS[0], *more)

    assert ended.code == 2
    assert PASSWORD not in ended.out + ended.err
    assert words == ["verify"] or "as a URL (mysql://...)" in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.guarantee(11)
def test_store_in_the_environment_that_is_a_url_is_refused_without_the_password(tmp_path: Path) -> None:
    for words in (["map", "--key", "k", "true"], ["doctor"]):
        ended = CommandLine(tmp_path).run(*words, env={"MPCHECKPOINT_STORE": URLS[0]})

        assert ended.code == 2
        assert PASSWORD not in ended.out + ended.err
        assert list(tmp_path.iterdir()) == []


LINKED = ["a.jsonl", "a.lock", "logs", "store.lock", "quarantine", "a.poison", "b.jsonl"]


@pytest.mark.parametrize("to", ["file", ".", "missing"])
@pytest.mark.parametrize("name", LINKED)
def test_symbolic_link_in_a_store_is_never_followed(
    log: Log, store: Path, outside: Path, name: str, to: str
) -> None:
    tear(store)
    path = inside(store, name)
    if path.exists():
        path.unlink()
    path.symlink_to(outside / to)
    become_a_new_process()
    before = tree(outside)

    for use in (use_log_a, use_log_b, use_recovery, use_reading):
        try:
            use(Checkpoint(store, lock_timeout_s=1))
        except CheckpointError as error:
            assert str(inside(store)) in str(error), "it says where"  # noqa: PT017

    assert tree(outside) == before
    assert path.is_symlink() or name == "a.poison"


def use_log_a(checkpoint: Checkpoint) -> None:
    checkpoint.log("a").append("x", 1)


def use_log_b(checkpoint: Checkpoint) -> None:
    checkpoint.log("b").append("x", 1)


def use_recovery(checkpoint: Checkpoint) -> None:
    checkpoint.log("a").recover()


def use_reading(checkpoint: Checkpoint) -> None:
    assert checkpoint["x"]
    assert checkpoint.log("a").stats()


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("name", ["a.jsonl", "a.lock", "logs", "store.lock", "a.poison"])
def test_directory_where_a_file_should_be_is_a_clear_error(log: Log, store: Path, name: str) -> None:
    path = inside(store, name)
    path.unlink(missing_ok=True)
    path.mkdir()
    become_a_new_process()

    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):  # noqa: PT012  # either may meet it
        use_log_a(Checkpoint(store))
        use_log_b(Checkpoint(store))


# --- logs that are not what they should be -------------------------------------------------------------------


@pytest.mark.parametrize("rest", [b"", b'["0000'])
def test_log_of_a_newer_format_version_is_refused_and_untouched(log: Log, store: Path, rest: bytes) -> None:
    newer = log_file(store).read_bytes().replace(b'"version":1', b'"version":2') + rest
    log_file(store).write_bytes(newer)
    become_a_new_process()

    for attempt in (
        lambda: Checkpoint(store).log("a"),
        lambda: log.append("x", 1),
        lambda: Checkpoint(store)["x"],
    ):
        with pytest.raises(FormatVersionError, match=r"version 2.*newer release") as caught:
            attempt()
        assert caught.value.path == str(log_file(store))
    assert log_file(store).read_bytes() == newer


def test_log_copied_under_another_name_is_refused(log: Log, store: Path) -> None:
    shutil.copy(log_file(store), log_file(store, "b"))
    become_a_new_process()

    for attempt in (
        lambda: Checkpoint(store).log("b"),
        lambda: Checkpoint(store)["x"],
        Checkpoint(store).logs,
    ):
        with pytest.raises(WrongLogError, match=r"b\.jsonl holds the log 'a'"):
            attempt()
    assert Checkpoint(store, log_keys=["a"])["x"] == (0,)


def test_log_whose_header_names_another_key_is_refused(log: Log, store: Path) -> None:
    header, _ = encode_header("other", "0" * 32, 1, stamp_us=1)
    log_file(store).write_bytes(header)

    with pytest.raises(WrongLogError, match="'other'"):
        Checkpoint(store).log("a")
    assert log_file(store).read_bytes() == header


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("content", [b"", b"\n", b"hello\n", bytes(4096), b"{}\n", b'["0000'])
def test_log_without_a_header_is_corrupt_and_untouched(log: Log, store: Path, content: bytes) -> None:
    log_file(store).write_bytes(content)
    become_a_new_process()

    for attempt in (
        lambda: Checkpoint(store).log("a"),
        lambda: Checkpoint(store)["x"],
        lambda: log.append("x", 1),
    ):
        with pytest.raises(CorruptLogError, match="at offset 0: expected") as caught:
            attempt()
        assert (caught.value.path, caught.value.offset) == (str(log_file(store)), 0)
    assert log_file(store).read_bytes() == content


def test_files_of_the_older_tool_are_named_and_left_alone(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inside(store).mkdir(parents=True)
    older = inside(store, "photos1612345678")
    older.write_text('{"photo123": "UPLOADED"}\n')

    with caplog.at_level(logging.WARNING, logger="mpcheckpoint"):
        checkpoint = Checkpoint(store)

    assert "photos1612345678" in caplog.text
    assert "older checkpoint tool" in caplog.text
    assert "import" in caplog.text
    checkpoint.log("photos").append("x", 1)
    assert dict(checkpoint.items()) == {"x": (1,)}
    assert older.read_text() == '{"photo123": "UPLOADED"}\n'


@pytest.mark.guarantee(6)
def test_strange_files_in_a_store_are_passed_over(log: Log, store: Path) -> None:
    for name in ("notes.txt", "a.jsonl.bak", "a.jsonl~", ".hidden"):
        inside(store, name).write_bytes(b"strange")
    inside(store, "directory").mkdir()

    assert_goes_on(log, [0])
    assert Checkpoint(store).logs() == ["a"]
    assert inside(store, "notes.txt").read_bytes() == b"strange"


# --- pulled away -------------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("what", ["store", "log"])
def test_store_removed_under_a_running_process_is_said_and_not_made_again(
    log: Log, store: Path, what: str
) -> None:
    checkpoint = Checkpoint(store)
    assert checkpoint["x"] == (0,)
    shutil.rmtree(store) if what == "store" else log_file(store).unlink()

    for attempt in (
        lambda: log.append("x", 1),
        lambda: log.events("x"),
        lambda: checkpoint["x"],
        lambda: checkpoint.get("x"),
        lambda: checkpoint.get("unknown", 5),
        lambda: "x" in checkpoint,
        log.flush,
        log.recover,
    ):
        with pytest.raises((StoreNotFoundError, LogNotFoundError), match=r"no log|no store|removed"):
            bounded(attempt)
        assert not log_file(store).exists()
        assert what == "log" or not store.exists()


@pytest.mark.rule(18)
def test_lock_file_replaced_by_hand_still_keeps_writers_apart(log: Log, store: Path) -> None:
    lock_file(store).unlink()
    log.append("x", 1)
    lock_file(store).unlink()
    lock_file(store).touch()

    assert_goes_on(log, [0, 1])


@pytest.mark.rule(7)
def test_log_restored_from_a_copy_by_hand_is_loaded_anew(log: Log, store: Path) -> None:
    shutil.copy(log_file(store), store / "copy")
    log.append("x", 1)
    checkpoint = Checkpoint(store)
    assert checkpoint["x"] == (0, 1)

    os.replace(store / "copy", log_file(store))

    become_a_new_process()
    assert Checkpoint(store)["x"] == (0,)
    assert_goes_on(Checkpoint(store).log("a"), [0])


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"durability": each}
            for each in ("", "sometimes", "interval:0", "interval:x", "always ", None, 5, True)
        ),
        *({"lock_timeout_s": each} for each in (-1, -0.1, float("nan"), "5")),
        *({"log_keys": each} for each in ("photos", 5, [5], [None], ["\ud800"])),
    ],
    ids=repr,
)
def test_option_that_makes_no_sense_is_refused_before_anything_is_made(
    store: Path, options: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError)):
        Checkpoint(store, **options)

    assert not store.exists() or list(inside(store).glob("*.jsonl")) == []


@pytest.mark.parametrize("durability", ["", "sometimes", "interval:-1", 5])
def test_durability_of_an_append_that_makes_no_sense_is_refused(log: Log, durability: Any) -> None:
    for attempt in (log.append, lambda *record, **options: log.append_many([record], **options)):
        with pytest.raises(ValueError, match="durability"):
            attempt("x", 1, durability=durability)

    assert_goes_on(log, [0])


# --- what is no file -----------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
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
