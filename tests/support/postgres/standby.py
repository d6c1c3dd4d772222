"""A copy of a cluster that follows it, synchronously or not, and can take its place."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from support.postgres.addresses import ADMIN, ADMIN_PASSWORD
from support.postgres.cluster import Cluster
from support.postgres.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def standby_of(
    primary: Cluster, *, is_synchronous: bool, name: str = "standby", port: int | None = None
) -> Iterator[Cluster]:
    """Yield a running standby of a running cluster, whose commits wait for it if it is synchronous.

    It follows through the primary's socket, or through ``port`` of this machine, where a proxy may stand. At the end
    of the block it is gone, and the primary, if it runs, waits for nobody.
    """
    settings = {key: value for key, value in primary.settings.items() if key != "synchronous_standby_names"}
    standby = Cluster(settings, in_memory=primary.is_in_memory, name=name)
    standby.host = primary.host
    try:
        standby.make_directory()
        source = {"user": ADMIN, "password": ADMIN_PASSWORD, "host": str(primary.directory)}
        copied = make_conninfo("", **source, port=primary.port)
        run_program(
            "pg_basebackup", "-d", copied, "-D", standby.data, "-X", "stream", "-c", "fast", "--no-sync"
        )
        if port is not None:
            source["host"] = primary.host
        standby.settings["primary_conninfo"] = make_conninfo(
            "", **source, port=port or primary.port, application_name=name
        )
        (standby.data / "standby.signal").touch()
        standby.adopt()
        standby.start()
        primary.wait_until(
            "SELECT state = 'streaming' FROM pg_stat_replication WHERE application_name = %s", name
        )
        if is_synchronous:
            primary.configure(synchronous_standby_names=f'"{name}"')
            primary.wait_until(
                "SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = %s", name
            )
        yield standby
    finally:
        if is_synchronous and primary.is_running:
            primary.configure(synchronous_standby_names="")
        standby.remove()


def promote(standby: Cluster) -> None:
    """Make a standby the primary, and wait until it takes writes."""
    standby.execute("SELECT pg_promote(true, 60)")
    standby.wait_until("SELECT NOT pg_is_in_recovery()")
