"""A store that moves between a directory and a server: it is the same there, and whole, or not there."""

from __future__ import annotations

import gc
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint, Cursor, Position
from mpcheckpoint._backup.marker import read_marker
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.store import PostgresStore
from mpcheckpoint.checkpoint import checkpoint_on
from mpcheckpoint.errors import (
    BackupPlaceError,
    InvalidPositionError,
    NoAnswerError,
    StoreUnavailableError,
    UnfinishedBackupError,
)
from mpcheckpoint.maintenance import StoreCopy, copy_store, restore, verify
from support.verbs import flip, inside, log_file, tear, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.maintenance import Backup
    from support.postgres.cluster import Cluster
    from support.postgres.cuts import When
    from support.postgres.proxy import Proxy

KEYS = ("x", "y", "\u00fc")
LOGS = ("a", "b")
MOST_SYNCS = 40
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"), st.sampled_from(LOGS), st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)
        ),
        st.tuples(st.just("forget"), st.sampled_from(LOGS), st.sampled_from(KEYS)),
        st.tuples(st.just("compact"), st.sampled_from(LOGS), st.integers(1, 2)),
        st.tuples(st.just("claim"), st.sampled_from(LOGS), st.sampled_from(KEYS)),
    ),
    max_size=12,
)
_names = count(1)


def on_server(database: str, name: str, *, create: bool = True) -> Checkpoint:
    address = Address.parse(f"{database}#{name}")
    store = PostgresStore(address, create=create, read_only=False, retry_s=10)
    return checkpoint_on(store, lock_timeout_s=30)


def actions(done: StoreCopy | Backup) -> dict[str, str]:
    return {log.log_key: log.action for log in done.logs}


def state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return all that users can see of a store, but for what belongs to where it is."""
    fields = "log_key", "object_key", "event", "record_id", "stamp_us"
    read = [tuple(getattr(record, name) for name in fields) for record in checkpoint.read()]
    logs = {log_key: checkpoint.log(log_key, create=False) for log_key in checkpoint.logs()}
    counts = {(log_key, key): log.count(key) for log_key, log in logs.items() for key in KEYS}
    places = {log_key: [record.position for record in log.read()] for log_key, log in logs.items()}
    return {"view": dict(checkpoint), "read": read, "counts": counts, "places": places}


def said_after_retries(checkpoint: Checkpoint, story: Story) -> list[Any]:
    """Return what a store says once each append of a record with an id was tried again; no stamps."""
    for log_key, object_key, event, record_id in story.ids:
        checkpoint.log(log_key).append(object_key, event, record_id=record_id)
    said = state(checkpoint)
    return [said["view"], said["counts"], [record[:-1] for record in said["read"]]]


def after(checkpoint: Checkpoint, position: Position) -> list[Any]:
    return [
        (record.event, record.position)
        for record in checkpoint.log(position.log_key, create=False).read(position)
    ]


class Story:
    """A store in a directory, what was done to it, and the record ids and positions that somebody may have kept."""

    def __init__(self, store: Path) -> None:
        self.checkpoint = Checkpoint(store, durability="never")
        self.ids: list[tuple[str, str, int, str]] = []
        self.positions: list[Position] = []
        self._numbers = count()

    def run(self, operations: list[tuple[str, str, Any]]) -> None:
        for name, log_key, what in operations:
            getattr(self, name)(log_key, what)

    def append(self, log_key: str, object_keys: list[str]) -> None:
        log = self.checkpoint.log(log_key)
        numbers = [next(self._numbers) for _ in object_keys]
        if len(numbers) == 1:
            (number,), record_id = numbers, f"id-{numbers[0]}"
            self.positions.append(log.append(object_keys[0], number, record_id=record_id))
            self.ids.append((log_key, object_keys[0], number, record_id))
        else:
            log.append_many(list(zip(object_keys, numbers, strict=True)))
            self.positions += [record.position for record in log.read()][-len(numbers) :]

    def forget(self, log_key: str, object_key: str) -> None:
        position = self.checkpoint.log(log_key).forget(object_key)
        self.positions += [] if position is None else [position]

    def compact(self, log_key: str, keep_last: int) -> None:
        self.checkpoint.log(log_key).compact(keep_last=keep_last)

    def claim(self, log_key: str, object_key: str) -> None:
        with self.checkpoint.log(log_key).claim(object_key):
            pass


@pytest.fixture
def filled(store: Path) -> Checkpoint:
    """A store in a directory with two logs."""
    story = Story(store)
    for number in range(8):
        story.append(LOGS[number % 2], ["x", "y"] if number % 3 else ["x"])
    return story.checkpoint


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "of store"


# --- what moves -------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
@pytest.mark.guarantee(12)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(before=OPERATIONS, there=OPERATIONS)
def test_store_that_moved_to_a_server_and_back_is_the_same(
    postgres_database: str,
    tmp_path: Path,
    before: list[tuple[str, str, Any]],
    there: list[tuple[str, str, Any]],
) -> None:
    """And once more, after it was worked on there."""
    gc.collect()  # connections of examples before
    number = next(_names)
    story = Story(tmp_path / f"store{number}")
    story.run(before)
    for turn, operations in enumerate((there, [])):
        source, server = story.checkpoint, on_server(postgres_database, f"s{number}-{turn}")
        copy_store(source, server)
        with Checkpoint(tmp_path / f"back{number}-{turn}", durability="never") as back:
            copy_store(server, back)

            expected = state(source)
            for moved in (server, back):
                assert state(moved) == expected
                for position in story.positions:
                    assert after(moved, position) == after(source, position)

            # Retries write nothing, or all of them write the same, where an object was forgotten.
            retried = [said_after_retries(each, story) for each in (source, server, back)]
            assert retried[1:] == retried[:1] * 2
        source.close()
        story.checkpoint = server
        story.run(operations)
    server.close()


@pytest.mark.guarantee(3)
def test_cursor_over_all_logs_is_valid_on_the_other_side(postgres_database: str, filled: Checkpoint) -> None:
    follower = filled.follow(idle_timeout_s=0.05)
    for _ in range(3):
        next(follower)
    cursor = Cursor.parse(str(follower.cursor))
    server = on_server(postgres_database, "s")
    copy_store(filled, server)

    rest = [record.event for record in server.follow(cursor, idle_timeout_s=0.05)]
    assert len(rest) == len(list(filled.read())) - 3
    assert rest == [record.event for record in follower]


@pytest.mark.guarantee(3)
def test_cursor_from_a_server_is_valid_in_its_backup(
    postgres_database: str, filled: Checkpoint, place: Path
) -> None:
    server = on_server(postgres_database, "s")
    copy_store(filled, server)
    server.log("a").append("x", "there")
    follower = server.follow(idle_timeout_s=0.05)
    for _ in range(4):
        next(follower)
    cursor = Cursor.parse(str(follower.cursor))
    server.backup(place)

    with Checkpoint(place, read_only=True) as copy:
        found = [record.event for record in copy.follow(cursor, idle_timeout_s=0.05)]
    assert found == [record.event for record in follower]
    assert "there" in found


def note(item: str) -> str:
    with open(os.environ["MOVING_RUNS"], "a", encoding="utf-8") as file:
        file.write(f"{item}\n")
    if item == "bad":
        raise ValueError(item)
    return item.upper()


def test_map_that_moved_runs_only_what_is_left(
    postgres_database: str,
    store: Path,
    tmp_path: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOVING_RUNS", str(tmp_path / "runs"))
    items = ["one", "two", "bad", "three", "four"]

    def mapped(checkpoint: Checkpoint, number: int) -> dict[str, Any]:
        outcomes = checkpoint.log("work").map(note, items[:number], jobs=1, on_error="record")
        return {outcome.object_key: outcome.value for outcome in outcomes}

    first, server = Checkpoint(store), on_server(postgres_database, "s")
    mapped(first, 2)
    copy_store(first, server)
    mapped(server, 4)
    server.backup(place)
    with Checkpoint(tmp_path / "last") as last:
        copy_store(place, last)
        found = mapped(last, 5)
        assert last.log("work").map_status() is not None

    assert (tmp_path / "runs").read_text().split() == items
    assert found == {item: None if item == "bad" else item.upper() for item in items}


def test_claim_of_the_source_is_void_in_the_copy(postgres_database: str, filled: Checkpoint) -> None:
    server = on_server(postgres_database, "s")
    with filled.log("a").claim("x") as claim:
        assert claim is not None
        copy_store(filled, server)

        with server.log("a").claim("x") as there:
            assert there is not None
        assert filled.log("a").claim("x").__enter__() is None


def test_log_of_many_pages_and_large_batches_moves_whole(
    postgres_database: str, store: Path, place: Path
) -> None:
    source, server = Checkpoint(store, durability="never"), on_server(postgres_database, "s")
    log, large = source.log("a"), "\u00e9" * 1_500_000
    for number in range(3):
        log.append_many([(f"o{at}", number) for at in range(8000)])
        log.append_many([("large", f"{number}{large}"), ("large", number)])
    for number in range(5100):
        log.append("small", number)
    done = []
    copy_store(source, server, on_progress=done.append)
    server.backup(place)

    assert len(done) > 1
    # The last one is further from the start of the file than the log on the server is long.
    positions = [record.position for record in log.read()][-2:]
    with Checkpoint(place, read_only=True) as copy:
        for moved in (server, copy):
            expected = [(record.event, record.position) for record in log.read()]
            assert [(record.event, record.position) for record in moved.log("a").read()] == expected
            assert [len(after(moved, position)) for position in positions] == [1, 0]


# --- backups of a server ----------------------------------------------------------------------------------------


@pytest.fixture
def server(postgres_database: str, filled: Checkpoint) -> Checkpoint:
    """A store on a server with two logs, of which one was compacted."""
    made = on_server(postgres_database, "server")
    copy_store(filled, made)
    made.log("a").compact(keep_last=1)
    return made


@pytest.mark.guarantee(11)
def test_backup_of_a_server_is_a_whole_store_of_the_same_content(server: Checkpoint, place: Path) -> None:
    done = server.backup(place)

    assert actions(done) == {"a": "new", "b": "new"}
    assert done.is_of_one_moment
    assert [check.state for check in verify(place)] == ["whole", "whole"]
    assert [log.size_bytes for log in done.logs] == [log_file(place, key).stat().st_size for key in LOGS]
    with Checkpoint(place) as copy:
        assert state(copy) == state(server)


def test_second_backup_of_a_server_makes_anew_what_has_changed(server: Checkpoint, place: Path) -> None:
    server.backup(place)
    before = tree(place)
    assert actions(server.backup(place)) == {"a": "unchanged", "b": "unchanged"}
    assert tree(place) == before

    server.log("b").append("x", "more")
    server.log("c").append("x", "new")
    assert actions(server.backup(place)) == {"a": "unchanged", "b": "copied anew", "c": "new"}
    with Checkpoint(place, read_only=True) as copy:
        assert state(copy) == state(server)
    assert {check.state for check in verify(place)} == {"whole"}


def test_backup_of_a_server_has_nothing_that_came_while_it_was_written(
    server: Checkpoint, place: Path
) -> None:
    expected = state(server)

    def meanwhile(_bytes: int) -> None:
        server.log("b").append("x", "meanwhile")
        server.log("d").append("x", "meanwhile")
        server.log("b").compact(keep_last=1)

    server.backup(place, on_progress=meanwhile)

    with Checkpoint(place, read_only=True) as copy:
        assert state(copy) == expected


@pytest.mark.guarantee(11)
def test_backup_that_somebody_wrote_to_is_not_replaced(server: Checkpoint, place: Path) -> None:
    server.backup(place)
    with Checkpoint(place) as used:
        used.log("b").append("x", "mine")
    server.log("a").append("x", "more")
    before = {path: looks[-1] for path, looks in tree(place).items()}

    with pytest.raises(BackupPlaceError, match="written to"):
        server.backup(place)
    assert {path: looks[-1] for path, looks in tree(place).items()} == before


def test_backup_of_another_store_or_a_store_itself_is_refused(
    postgres_database: str, server: Checkpoint, place: Path, tmp_path: Path
) -> None:
    server.backup(place)
    other = on_server(postgres_database, "other")
    other.log("a").append("x", 1)
    own = tmp_path / "own"
    with Checkpoint(own) as used:
        used.log("a").append("x", 1)
    with Checkpoint(tmp_path / "store") as first:
        first.backup(tmp_path / "of directory")

    for refused in (place, own, tmp_path / "of directory"):
        before = tree(refused)
        with pytest.raises(BackupPlaceError):
            other.backup(refused)
        assert tree(refused) == before


def test_backup_of_a_server_that_was_put_back_is_refused(
    postgres_database: str, server: Checkpoint, place: Path, tmp_path: Path
) -> None:
    early = tmp_path / "early"
    server.backup(early)
    server.log("b").append("x", "more")
    server.backup(place)
    back = on_server(postgres_database, "back")
    copy_store(early, back)

    with pytest.raises(BackupPlaceError):
        back.backup(place)
    with Checkpoint(place, read_only=True) as copy:
        assert state(copy) == state(server)


def test_backup_of_a_server_can_be_restored_into_a_directory(
    server: Checkpoint, place: Path, tmp_path: Path
) -> None:
    server.backup(place)
    restore(place, tmp_path / "restored")

    with Checkpoint(tmp_path / "restored") as restored:
        expected = state(server)
        assert state(restored) == expected
        restored.log("a").append("x", "on")
        assert restored.log("a").count("x") == server.log("a").count("x") + 1


def test_what_a_backup_of_a_server_cannot_do_is_refused(server: Checkpoint, place: Path) -> None:
    for options in ({"compact": True}, {"skip_damaged": True}, {"limit_rate": 0}):
        with pytest.raises(ValueError):  # noqa: PT011 - of three kinds
            server.backup(place, **options)
    assert not place.exists()


# --- refused ----------------------------------------------------------------------------------------------------


def test_log_that_is_there_already_is_not_copied_over(
    postgres_database: str, filled: Checkpoint, tmp_path: Path
) -> None:
    server, directory = on_server(postgres_database, "s"), Checkpoint(tmp_path / "other")
    for target in (server, directory):
        target.log("b").append("x", "mine")
        before = state(target)

        with pytest.raises(BackupPlaceError, match="another one"):
            copy_store(filled, target)
        assert state(target) == before


def test_copy_into_a_store_that_has_other_logs_leaves_them(
    postgres_database: str, filled: Checkpoint
) -> None:
    server = on_server(postgres_database, "s")
    server.log("mine").append("mine", "mine")
    assert list(server) == ["mine"]

    assert set(actions(copy_store(filled, server)).values()) == {"copied"}
    assert server.logs() == ["a", "b", "mine"]
    assert set(server) == {"mine", *filled}
    assert server.log("mine").events("mine") == ("mine",)


def test_store_is_not_copied_into_itself(postgres_database: str, filled: Checkpoint) -> None:
    server = on_server(postgres_database, "s")
    copy_store(filled, server)
    for source in (filled, server):
        before = state(source)
        with pytest.raises(BackupPlaceError):
            copy_store(source, source)
        assert state(source) == before


def test_copy_of_a_store_that_went_on_is_refused_and_an_equal_one_is_there_already(
    postgres_database: str, filled: Checkpoint
) -> None:
    server = on_server(postgres_database, "s")
    copy_store(filled, server)
    server.log("a").append("x", "there")
    assert set(actions(copy_store(filled, server)).values()) == {"there already"}
    filled.log("b").append("x", "here")

    with pytest.raises(BackupPlaceError, match="earlier state"):
        copy_store(filled, server)
    assert server.log("a").events("x")[-1] == "there"
    assert "here" not in server.log("b").events("x")


def test_damaged_log_is_not_copied(postgres_database: str, filled: Checkpoint, store: Path) -> None:
    filled.log("b").flush()  # else it might be a torn end
    filled.close()
    size = log_file(store, "b").stat().st_size
    flip(store, size // 2, "b")
    server = on_server(postgres_database, "s")

    with pytest.raises(ValueError, match=r"\.jsonl"):
        copy_store(store, server)
    assert "b" not in server.logs()


def test_log_with_a_torn_end_is_copied_without_it(
    postgres_database: str, filled: Checkpoint, store: Path
) -> None:
    expected = state(filled)
    filled.close()
    tear(store, log_key="a")
    server = on_server(postgres_database, "s")
    copy_store(store, server)

    assert state(server) == expected


# --- killed -----------------------------------------------------------------------------------------------------


def _in_a_child(work: Callable[[], object]) -> None:
    child = get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def _killer(calls: int) -> Callable[[int], None]:
    """Return a function that kills its process at that call."""
    left = iter(range(calls - 1, -1, -1))

    def advance(_bytes: int) -> None:
        if not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    return advance


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("where", ["server", "directory"])
@pytest.mark.parametrize("calls", [1, 2])
def test_copy_that_was_killed_goes_on_with_what_is_missing(
    postgres_database: str, filled: Checkpoint, store: Path, tmp_path: Path, where: str, calls: int
) -> None:
    expected = state(filled)
    filled.close()

    def opened() -> Checkpoint:
        return on_server(postgres_database, "s") if where == "server" else Checkpoint(tmp_path / "to")

    _in_a_child(lambda: copy_store(store, opened(), on_progress=_killer(calls)))

    target = opened()
    assert target.logs() == list(LOGS[: calls - 1])
    done = actions(copy_store(store, target))
    assert done == {"a": "copied" if calls == 1 else "there already", "b": "copied"}
    assert state(target) == expected
    target.log("a").append("x", "on")
    if where == "directory":
        left = [path.name for path in inside(tmp_path / "to").iterdir() if path.name.endswith(".tmp")]
        assert left == []


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("calls", [1, 2])
def test_backup_of_a_server_that_was_killed_is_the_one_before_or_made_anew(
    server: Checkpoint, postgres_database: str, place: Path, calls: int
) -> None:
    server.backup(place)
    expected = state(server)
    for key in LOGS:
        server.log(key).append("x", "more")

    def killed() -> None:
        on_server(postgres_database, "server").backup(place, on_progress=_killer(calls))

    _in_a_child(killed)
    with pytest.raises(UnfinishedBackupError):
        Checkpoint(place, read_only=True)

    server.backup(place)
    with Checkpoint(place, read_only=True) as copy:
        assert state(copy) == state(server) != expected


def test_interrupted_backup_of_a_server_leaves_the_place_as_it_was(server: Checkpoint, place: Path) -> None:
    def interrupt(_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.backup(place, on_progress=interrupt)
    assert not inside(place).exists()

    server.backup(place)
    server.log("b").append("x", "more")
    before = {path: looks[-1] for path, looks in tree(place).items()}
    with pytest.raises(KeyboardInterrupt):
        server.backup(place, on_progress=interrupt)
    assert {path: looks[-1] for path, looks in tree(place).items()} == before
    assert read_marker(str(inside(place))) is not None


def test_copy_whose_session_ends_leaves_no_log_and_can_be_done_again(
    postgres: Cluster, postgres_database: str, filled: Checkpoint
) -> None:
    server = on_server(postgres_database, "s")

    def cut(_bytes: int) -> None:
        assert postgres.terminate_sessions()

    with pytest.raises(StoreUnavailableError):
        copy_store(filled, server, on_progress=cut)
    assert server.logs() == []

    copy_store(filled, server)
    assert state(server) == state(filled)


def _wait_until_idle(postgres: Cluster, database: str) -> None:
    """Wait until the server has done, or given up, what the session that was cut had asked for."""
    postgres.wait_until(
        "select count(*) = 0 from pg_stat_activity where datname = current_database() "
        "and backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()",
        database=database,
    )


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("when", ["before request", "after request", "before answer"])
def test_log_of_a_copy_whose_connection_is_cut_anywhere_is_whole_or_not_there(
    postgres: Cluster,
    postgres_database: str,
    make_proxy: Callable[..., Proxy],
    filled: Checkpoint,
    when: When,
) -> None:
    proxy, expected, found = make_proxy(), state(filled), set[tuple[str, ...]]()
    refused: list[tuple[str, list[str]]] = []
    database = postgres_database.rpartition("/")[2]
    through = proxy.address(database)
    for nth in range(1, MOST_SYNCS):
        target, direct = on_server(through, f"s{nth}"), on_server(postgres_database, f"s{nth}")
        proxy.cut(nth, when)
        try:
            copy_store(filled, target)
        except NoAnswerError:
            _wait_until_idle(postgres, database)
            found.add(("no answer", *direct.logs()))
        except StoreUnavailableError as error:
            _wait_until_idle(postgres, database)
            found.add(("unavailable", *direct.logs()))
            refused.append((str(error), direct.logs()))
        is_cut = proxy.is_cut()
        assert {log_key: expected["places"][log_key] for log_key in direct.logs()} == state(direct)["places"]

        done = actions(copy_store(filled, target))
        assert set(done) == set(LOGS)
        assert state(direct) == state(target) == expected
        target.close()
        direct.close()
        if not is_cut:
            break
    else:
        pytest.fail(f"more than {MOST_SYNCS} answers were waited for")
    assert {("unavailable",), ("unavailable", "a")} <= found
    assert not [each for each in refused for log_key in each[1] if f"log {log_key!r}" in each[0]]
    assert {what for what, *_ in found} == {"no answer", "unavailable"}
    if when == "before answer":  # else the server may have done it, or not
        assert {("no answer", "a"), ("no answer", "a", "b")} <= found


@pytest.mark.guarantee(2)
def test_copy_that_meets_the_late_commit_of_one_without_an_answer_finds_the_log_there(
    postgres: Cluster, postgres_database: str, make_proxy: Callable[..., Proxy], filled: Checkpoint
) -> None:
    """The server may still be at the commit when the caller, who heard nothing, copies again."""
    database = postgres_database.rpartition("/")[2]
    direct = on_server(postgres_database, "s")
    postgres.execute(
        "create function public.wait() returns trigger language plpgsql security definer as "
        "'begin perform pg_advisory_xact_lock_shared(1); return null; end'",
        database=database,
    )
    postgres.execute(
        "create constraint trigger wait after insert on mpcheckpoint.log deferrable initially deferred "
        "for each row when (new.key = 'a') execute function public.wait()",
        database=database,
    )
    proxy = make_proxy()
    waiting = "select count(*) = %s from pg_stat_activity where wait_event_type = 'Lock' and datname = %s"
    with postgres.admin(database) as admin, ThreadPoolExecutor(2) as threads:
        admin.execute("select pg_advisory_lock(1)")
        first = threads.submit(copy_store, filled, on_server(proxy.address(database), "s"))
        postgres.wait_until(waiting, 1, database)
        assert proxy.cut_all()
        with pytest.raises(NoAnswerError):
            first.result(60)
        assert direct.logs() == []

        second = threads.submit(copy_store, filled, direct)
        postgres.wait_until(waiting, 2, database)
        admin.execute("select pg_advisory_unlock(1)")
        assert actions(second.result(60)) == {"a": "there already", "b": "copied"}
    assert state(direct) == state(filled)


@pytest.mark.parametrize("is_copy", [True, False])
def test_copy_that_another_one_was_faster_than_finds_its_log_or_is_refused(
    tmp_path: Path, filled: Checkpoint, is_copy: bool
) -> None:
    target = Checkpoint(tmp_path / "target")

    def overtake(_bytes: int) -> None:
        if target.logs() == ["a"]:
            copy_store(filled, target)

    def get_in_the_way(_bytes: int) -> None:
        if target.logs() == ["a"]:
            target.log("b").append("x", "mine")

    if is_copy:
        done = copy_store(filled, target, on_progress=overtake)
        assert actions(done) == {"a": "copied", "b": "there already"}
        assert state(target) == state(filled)
    else:
        with pytest.raises(BackupPlaceError, match="another one"):
            copy_store(filled, target, on_progress=get_in_the_way)
        assert target.log("b").events("x") == ("mine",)


@pytest.mark.guarantee(3)
def test_position_that_the_source_gave_after_the_copy_is_refused_by_it(
    postgres_database: str, filled: Checkpoint, place: Path
) -> None:
    server = on_server(postgres_database, "s")
    copy_store(filled, server)
    server.backup(place)
    later = [filled.log("a").append("x", "later"), server.log("a").append("x", "later")]

    with Checkpoint(place, read_only=True) as copy:
        for checkpoint, position in ((server, later[0]), (copy, later[0]), (copy, later[1])):
            with pytest.raises(InvalidPositionError):
                list(checkpoint.log("a").read(position))
