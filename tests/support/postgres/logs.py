"""What the servers of a test had to say, for the report of a test that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.postgres.cluster import Cluster

_MOST_BYTES = 20_000

_clusters: list[Cluster] = []
_began: dict[int, int] = {}
_last_words: list[tuple[str, str]] = []


def add(cluster: Cluster) -> None:
    """Follow a cluster from now on."""
    _clusters.append(cluster)


def keep_last(cluster: Cluster) -> None:
    """Keep what a cluster has said in this test: its directory is about to be removed. No error if it has none."""
    if cluster in _clusters:
        _clusters.remove(cluster)
        _last_words.append((cluster.name, text(cluster, since=_began.pop(id(cluster), 0))))


def followed() -> list[Cluster]:
    """Return the clusters that exist."""
    return list(_clusters)


def begin_test() -> None:
    """Forget what was said before."""
    _last_words.clear()
    _began.update({id(cluster): size(cluster) for cluster in _clusters})


def said_in_test() -> list[tuple[str, str]]:
    """Return the name of each cluster and what it has said in this test, the end of it where that is much."""
    now = [(cluster.name, text(cluster, since=_began.get(id(cluster), 0))) for cluster in _clusters]
    return [(name, said) for name, said in (*_last_words, *now) if said]


def size(cluster: Cluster) -> int:
    """Return how many bytes a cluster has said."""
    return cluster.log_file.stat().st_size if cluster.log_file.exists() else 0


def text(cluster: Cluster, *, since: int = 0) -> str:
    """Return what a cluster has said from that byte on, at most the last 20,000 bytes."""
    if not cluster.log_file.exists():
        return ""
    with cluster.log_file.open("rb") as log:
        log.seek(max(since, size(cluster) - _MOST_BYTES))
        return log.read().decode(errors="replace")
