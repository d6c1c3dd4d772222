"""changed_files=: an item runs again when its file is not what it was when it was done."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._work import file_marks
from mpcheckpoint._work.file_marks import ChangedFiles, is_changed, mark_of
from support.capabilities import require
from support.executors import Late, workers


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three files."""
    names = [str(tmp_path / name) for name in ("a", "b", "c")]
    for name in names:
        Path(name).write_text(name)
    return names


def size(item: str) -> int:
    return Path(item).stat().st_size if Path(item).exists() else -1


def run(log: Log, items: Any, **options: Any) -> list[str]:
    """Return which items ran."""
    with ThreadPoolExecutor(2) as threads:
        options = {"changed_files": True, "executor": threads} | options
        return sorted(each.item for each in log.map(size, items, **options) if not each.repeated)


def touch(name: str) -> None:
    os.utime(name, ns=(0, Path(name).stat().st_mtime_ns + 1))


def keep_time(name: str, text: str) -> None:
    """Change a file's content, but neither size nor time."""
    found = Path(name).stat()
    Path(name).write_text(text)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert Path(name).stat().st_size == found.st_size


def test_item_whose_file_changed_runs_again_and_the_others_do_not(log: Log, files: list[str]) -> None:
    assert run(log, files) == files
    assert run(log, files) == []

    Path(files[1]).write_text("longer than before, by far" * 9)
    touch(files[2])
    assert list(log.pending(files, changed_files=True)) == files[1:]
    assert list(log.pending(files)) == []
    assert run(log, files) == files[1:]
    assert run(log, files) == []
    assert {each.item: each.value for each in log.results()}[files[1]] == size(files[1])


def test_file_that_is_gone_or_new_or_was_never_there(log: Log, files: list[str]) -> None:
    items = [*files, "https://example.org/d", "with\0nul"]
    run(log, items)
    assert run(log, items) == []

    Path(files[0]).unlink()
    assert run(log, items) == [files[0]]
    assert run(log, items) == []
    Path(files[0]).write_text("again")
    assert run(log, items) == [files[0]]


@pytest.mark.parametrize("kind", ["threads", "pool", "spawn"])
def test_content_counts_with_hash_and_time_does_not(kind: str, log: Log, files: list[str]) -> None:
    with workers(kind, 2) as options:
        assert [each.repeated for each in log.map(size, files, changed_files="hash", **options)] == [
            False
        ] * 3
    touch(files[0])
    keep_time(files[1], files[0])

    with workers(kind, 2) as options:
        found = log.map(size, files, changed_files="hash", **options)
        assert [each.item for each in found if not each.repeated] == [files[1]]
    assert run(log, files, changed_files="hash") == []
    assert run(log, files) == [files[0]]  # its time is not what it was


def test_outcome_that_does_not_tell_what_its_file_was_runs_again(log: Log, files: list[str]) -> None:
    run(log, files, changed_files=False)
    assert run(log, files, changed_files=False) == []

    assert run(log, files) == files
    assert run(log, files, changed_files="hash") == files
    assert run(log, files) == []  # a mark with a hash has size and time, too


def test_failure_runs_again_only_with_its_file(log: Log, files: list[str], threads: Any) -> None:
    def failing(item: str) -> None:
        raise ValueError(item)

    for expected in (3, 0):
        ran = list(log.map(failing, files, changed_files=True, executor=threads))
        assert sum(not each.repeated for each in ran) == expected
    touch(files[0])

    assert run(log, files) == [files[0]]


def test_file_of_an_item_is_what_file_says(log: Log, files: list[str], threads: Any) -> None:
    items = [{"id": str(number), "path": Path(name)} for number, name in enumerate(files)]
    options: dict[str, Any] = {
        "key": lambda item: item["id"],
        "file": lambda item: item["path"],
        "changed_files": True,
    }
    list(log.map(lambda item: 1, items, executor=threads, **options))
    touch(files[1])

    assert list(log.pending(items, **options)) == [items[1]]
    found = list(log.map(lambda item: 2, items, executor=threads, **options))
    assert [each.object_key for each in found if not each.repeated] == ["1"]


def test_file_that_changes_while_its_item_runs_has_it_run_again(
    log: Log, files: list[str], threads: Any
) -> None:
    def changing(item: str) -> None:
        touch(item)

    list(log.map(changing, files, changed_files=True, executor=threads))

    assert run(log, files) == files
    assert run(log, files) == []


def test_rerun_and_changed_files_go_together(log: Log, files: list[str]) -> None:
    run(log, files, rerun="monday")
    touch(files[0])

    assert run(log, files, rerun="monday") == [files[0]]
    assert run(log, files, rerun="monday") == []


def test_starts_that_find_the_same_file_changed_run_its_item_once(store: Path, files: list[str]) -> None:
    first, second = Checkpoint(store).log("a"), Checkpoint(store).log("a")
    run(first, files)
    touch(files[0])
    begun, may_end = threading.Event(), threading.Event()
    calls: list[str] = []

    def held(item: str) -> int:
        calls.append(item)
        begun.set()
        assert may_end.wait(30)
        return 7

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        running = first.map(held, files, changed_files=True, executor=one)
        assert begun.wait(30)
        waiting = second.map(held, files, changed_files=True, executor=other)
        may_end.set()
        found = [{each.item: (each.value, each.repeated) for each in run} for run in (running, waiting)]

    assert calls == [files[0]]
    assert found[0][files[0]] == (7, False)
    assert found[1][files[0]] == (7, True)


def test_start_that_sees_another_file_than_the_one_beside_it_runs_the_item_too(
    store: Path, files: list[str]
) -> None:
    first, second = Checkpoint(store).log("a"), Checkpoint(store).log("a")
    begun, may_end = threading.Event(), threading.Event()

    def held(item: str) -> int:
        begun.set()
        assert may_end.wait(30)
        return 1

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        running = first.map(held, files[:1], changed_files=True, executor=one)
        assert begun.wait(30)
        touch(files[0])
        waiting = second.map(lambda item: 2, files[:1], changed_files=True, executor=other)
        may_end.set()
        values = [[each.value for each in run] for run in (running, waiting)]

    assert values == [[1], [2]]
    assert run(first, files[:1]) == []


@pytest.mark.parametrize("is_same", [True, False])
def test_outcome_that_came_before_the_worker_counts_if_its_file_was_the_same(
    is_same: bool, store: Path, files: list[str]
) -> None:
    first, second = Checkpoint(store).log("a"), Checkpoint(store).log("a")
    run(first, files[:1])
    touch(files[0])
    others: list[list[str]] = []

    def before() -> None:
        """The other start runs the item between the judgement here and the worker's."""
        if not others:
            if not is_same:
                touch(files[0])
            others.append(run(first, files[:1]))

    found = list(second.map(lambda item: "second", files[:1], changed_files=True, executor=Late(before)))

    assert others == [files[:1]]
    assert [each.value for each in found] == [size(files[0]) if is_same else "second"]
    assert [each.repeated for each in found] == [is_same]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"changed_files": "size"}, ValueError, "changed_files is False, True or 'stat'"),
        ({"changed_files": 1.5}, ValueError, "changed_files is False"),
        ({"file": str}, ValueError, "give both"),
        ({"file": "path", "changed_files": True}, TypeError, "file is a function"),
    ],
)
def test_choice_that_means_nothing_is_refused_at_once(
    options: dict[str, Any], error: type[Exception], message: str, log: Log
) -> None:
    with pytest.raises(error, match=message):
        log.map(size, ["a"], **options)
    with pytest.raises(error, match=message):
        log.pending(["a"], **options)

    assert log.map_status() is None


def test_item_that_is_no_path_is_refused_with_what_to_do(log: Log, threads: Any) -> None:
    with pytest.raises(TypeError, match=r"an item that is no path needs file=.*got an int: 5"):
        list(log.map(size, [5], key=str, changed_files=True, executor=threads))


# --- marks -------------------------------------------------------------------------------------------------


def test_file_that_cannot_be_read_always_counts_as_changed(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = mark_of(files[0], ChangedFiles.HASH)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file_marks.hashlib, "file_digest", refuse)
    now = mark_of(files[0], ChangedFiles.HASH)

    assert now == {"unreadable": "Permission denied"}
    assert is_changed(before, now)
    assert is_changed(now, before)
    assert is_changed(now, now)


def test_pipe_and_directory_are_not_read(tmp_path: Path) -> None:
    require(hasattr(os, "mkfifo"), "no pipes with names here")
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", tmp_path):
        mark = mark_of(path, ChangedFiles.HASH)
        assert mark.keys() == {"size_bytes", "mtime_ns"}
        assert not is_changed(mark, mark)


@pytest.mark.parametrize("recorded", [None, 5, "mark", {}, {"size_bytes": 1}, []])
def test_mark_that_is_none_counts_as_changed(recorded: object, files: list[str]) -> None:
    assert is_changed(recorded, mark_of(files[0], ChangedFiles.STAT))
