"""Followers of logs on a server, beside each other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from support.postgres.handles import store_on
from support.verbs import wait_until

if TYPE_CHECKING:
    from support.postgres.cluster import Cluster


def test_log_is_followed_while_another_thread_waits_for_news_of_another_one(
    postgres: Cluster, postgres_database: str
) -> None:
    """Else it would be looked at twice a second, and no append would tell of itself."""
    store = store_on(postgres_database)
    one, two = (store.open_log(log_key, create=True, timeout_s=20) for log_key in ("one", "two"))
    notifier = one.subscribe(60)
    assert notifier is not None
    waiting = threading.Thread(target=lambda: notifier.wait(notifier.value(), 60))
    waiting.start()
    try:
        listening = store.sessions.listening.mutex
        wait_until(lambda: not listening.is_free(), "it waits")

        assert two.subscribe(60) is not None

        followed = "select count(*) from mpcheckpoint.log where followed_until > clock_timestamp()"
        assert postgres.execute(followed, database=postgres_database.rpartition("/")[2]) == [(2,)]
    finally:
        postgres.terminate_sessions(postgres_database.rpartition("/")[2])
        waiting.join(60)
    assert not waiting.is_alive()
