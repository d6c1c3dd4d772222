"""A transaction of another client that stays open: for as long the server keeps all row versions that died since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from support.postgres.handles import checkpoint_at

if TYPE_CHECKING:
    from psycopg.rows import TupleRow

    from support.postgres.cluster import Cluster
    from support.processes import Children

APPENDS = 12_000
PROCESSES = 3
BEFORE = 100
KEPT = 2
# An append searches some indexes, which get another level: 9 pages more, seen. 12,000 dead versions of a row are 100.
ROOTS = 20
EXPLAINED = """
    explain (analyze, buffers, format json) select * from mpcheckpoint.append_1(
        'explained', (select id from mpcheckpoint.log where key = 'a'), null, gen_random_uuid(), 9223372036854775807, 0,
        1, '{}', '1', null, null, null, null, false)
"""
# Everything that was changed or removed, of all tables. The server counts a little later.
CHANGED = """
    select sum(n_tup_upd + n_tup_del)::bigint, sum(n_tup_ins)::bigint from pg_stat_user_tables
    where schemaname = 'mpcheckpoint' and relname <> 'worker'
"""
HEADS = "select pg_relation_size('mpcheckpoint.log'), pg_relation_size('mpcheckpoint.store')"


def pages(admin: psycopg.Connection[TupleRow]) -> int:
    """Return how many pages an append touches, that is not done."""
    cost = 0
    with admin.transaction(force_rollback=True):
        admin.execute("set local mpcheckpoint.session = 'explained'")
        for _ in range(3):  # the first one plans
            ((explained,),) = admin.execute(EXPLAINED).fetchall()
            cost = explained[0]["Plan"]["Shared Hit Blocks"] + explained[0]["Plan"]["Shared Read Blocks"]
    return cost


def append_all(address: str, name: str, count: int) -> None:
    with checkpoint_at(address, durability="never") as checkpoint:
        log = checkpoint.log("a")
        for number in range(count):
            log.append(name, number)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.guarantee(3)
@pytest.mark.guarantee(12)
def test_appends_beside_an_open_snapshot_cost_no_more_after_thousands_and_a_compaction_is_right(
    postgres: Cluster, postgres_database: str, children: Children, intensity: int
) -> None:
    database = postgres_database.rpartition("/")[2]
    each = APPENDS * intensity // PROCESSES
    append_all(postgres_database, "before", BEFORE)
    with psycopg.connect(postgres_database) as snapshot, postgres.admin(database) as admin:
        snapshot.execute("set transaction isolation level repeatable read")
        count = "select count(*), sum(lines) from mpcheckpoint.batch"
        seen = snapshot.execute(count).fetchall()
        postgres.wait_until(
            f"select inserted >= {BEFORE} from ({CHANGED}) n (changed, inserted)", database=database
        )
        ((changed, inserted),) = admin.execute(CHANGED).fetchall()
        cost, heads = pages(admin), admin.execute(HEADS).fetchall()

        for number in range(PROCESSES):
            children.start(append_all, postgres_database, f"after{number}", each)
        children.wait_all(timeout_s=100)

        # No version of any row is dead. A row that each append changes would leave one each time, on every hundredth
        # of a page, and they would be looked through.
        whole = inserted + PROCESSES * each
        postgres.wait_until(
            f"select inserted >= {whole} from ({CHANGED}) n (changed, inserted)", database=database
        )
        ((now_changed, _),) = admin.execute(CHANGED).fetchall()
        assert now_changed == changed
        assert admin.execute(HEADS).fetchall() == heads
        assert pages(admin) < cost + ROOTS

        with checkpoint_at(postgres_database) as checkpoint:
            log = checkpoint.log("a")
            names = [f"after{number}" for number in range(PROCESSES)]
            assert [log.events(name) for name in names] == [tuple(range(each))] * PROCESSES
            position = list(log.read())[-1].position

            log.compact(keep_last=KEPT)
            assert snapshot.execute(count).fetchall() == seen
            last = tuple(range(each - KEPT, each))
            for handle in (checkpoint, checkpoint_at(postgres_database, read_only=True)):
                found = handle.log("a", create=False)
                assert [found.events(name) for name in names] == [last] * PROCESSES
                assert [found.count(name) for name in names] == [each] * PROCESSES
                assert found.events("before") == tuple(range(BEFORE - KEPT, BEFORE))
            assert pages(admin) < cost + ROOTS
            log.append("x", "more", expected_count=0)
            assert [record.event for record in log.read(after=position)] == ["more"]
            snapshot.rollback()
            assert log.events("before") == tuple(range(BEFORE - KEPT, BEFORE))
            assert log.compact(keep_last=1) is not None
            assert [log.events(name) for name in [*names, "x"]] == [*[last[-1:]] * PROCESSES, ("more",)]
