"""A link to the server that is cut below TCP: nobody is told, and both ends have to find out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mpcheckpoint.errors import NoAnswerError, StoreUnavailableError
from support.capabilities import require
from support.postgres.handles import checkpoint_at
from support.postgres.link import can_link, linked
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Log
    from support.postgres.cluster import Cluster


def _is_free(log: Log) -> bool:
    with log.claim("x") as claim:
        return claim is not None


@pytest.mark.slow
@pytest.mark.guarantee(8)
def test_claim_beyond_a_link_that_is_cut_is_free_for_others_and_appends_there_end(
    make_postgres: Callable[..., Cluster],
) -> None:
    """Without settings of the server's or the address's: the sessions' own have both ends notice."""
    require(can_link(), "a link needs root, and network name spaces with ip, unshare and nsenter")
    cluster = make_postgres(own_network=True)
    cluster.create_database("d")
    with linked(cluster) as link:
        beyond, near = cluster.address("d"), cluster.socket_address("d")
        log = checkpoint_at(beyond, retry_s=1).log("a")
        other = checkpoint_at(near).log("a")
        with log.claim("x") as claim:
            assert claim is not None
            assert not _is_free(other)
            link.cut()

            with pytest.raises((NoAnswerError, StoreUnavailableError)):
                log.append("y", "cut")
            wait_until(lambda: _is_free(other), "the claim is free")
            with other.claim("x") as theirs:
                assert theirs is not None
                link.mend()
                with checkpoint_at(beyond, retry_s=60).log("a").claim("x") as ours:
                    assert ours is None
                checkpoint_at(beyond, retry_s=60).log("a").append("y", "mended")
        assert other.events("y")[-1] == "mended"
        assert other.count("y") <= 2
