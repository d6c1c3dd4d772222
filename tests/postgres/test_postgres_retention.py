"""Logs on a server that look after their own size."""

from __future__ import annotations

from mpcheckpoint import Checkpoint, Retention

SMALL = Retention(keep_last=1, max_bytes=2000)
EVENT = {"text": "y" * 50}


def test_log_on_a_server_is_made_smaller_at_a_close_also_where_the_log_alone_says_so(
    postgres_database: str,
) -> None:
    address = f"{postgres_database}#kept-small"
    with Checkpoint(address) as checkpoint:
        checkpoint.log("k", retention=SMALL).append("x", EVENT)
    with Checkpoint(address) as checkpoint:
        log = checkpoint.log("k")
        assert log.count("x") == 1  # which reads the log, and what it says of itself
        for _ in range(100):
            log.append("x", EVENT, durability="never")
        assert int(str(log.stats()["size_bytes"])) > 2000

    with Checkpoint(address, read_only=True) as checkpoint:
        log = checkpoint.log("k")
        assert int(str(log.stats()["size_bytes"])) < 2000
        assert (log.count("x"), len(log.events("x"))) == (101, 1)
