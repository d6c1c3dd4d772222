"""What tests ask for that need a PostgreSQL."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

import pytest

from support.capabilities import require
from support.postgres import logs
from support.postgres.programs import server_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from support.postgres.cluster import Cluster
    from support.postgres.proxy import Proxy

_numbers = count(1)


def require_postgres() -> None:
    """Skip the running test, or fail it, where there is no PostgreSQL to start."""
    require(server_programs() is not None, "no PostgreSQL server is installed (Debian: postgresql)")


@pytest.fixture(scope="session")
def postgres_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a cluster that never ran, to be copied."""
    require_postgres()
    from support.postgres.cluster import make_template

    template = make_template(tmp_path_factory.mktemp("postgres"))
    yield template
    shutil.rmtree(template)


@pytest.fixture(scope="session")
def _shared_cluster(postgres_template: Path) -> Iterator[Cluster]:
    from support.postgres.cluster import Cluster

    with Cluster(template=postgres_template, in_memory=True, name="shared server") as cluster:
        yield cluster


@pytest.fixture
def postgres(_shared_cluster: Cluster) -> Cluster:
    """Return a running cluster, which the tests of this worker share; who harms one makes one, by `make_postgres`."""
    if not _shared_cluster.is_running:
        _shared_cluster.start()
    return _shared_cluster


@pytest.fixture
def postgres_database(postgres: Cluster) -> Iterator[str]:
    """Yield the address of an empty database on the shared cluster."""
    name = f"test{next(_numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture
def postgres_reader(postgres: Cluster, postgres_database: str) -> Iterator[str]:
    """Yield the address of the same database for a role that may read all there is in it, also later, and no more."""
    database = postgres_database.rpartition("/")[2]
    yield postgres.create_reader(f"reader_of_{database}", database)
    postgres.drop_role(f"reader_of_{database}", database)


@pytest.fixture
def make_postgres(postgres_template: Path) -> Iterator[Callable[..., Cluster]]:
    """Return a function that makes a cluster, given what `Cluster` takes, and starts it; gone when the test ends.

    Unless told otherwise, it is in memory, like the shared one.
    """
    from support.postgres.cluster import Cluster

    with ExitStack() as running:
        yield lambda *settings, **how: running.enter_context(
            Cluster(*settings, **{"template": postgres_template, "in_memory": True, **how})
        )


@pytest.fixture
def make_proxy(request: pytest.FixtureRequest) -> Iterator[Callable[..., Proxy]]:
    """Return a function that makes a proxy for a cluster (without: the shared one), given what `Proxy` takes else."""
    from support.postgres.proxy import Proxy

    with ExitStack() as listening:

        def make(cluster: Cluster | None = None, **how: float) -> Proxy:
            behind: Cluster = cluster or request.getfixturevalue("postgres")
            return listening.enter_context(Proxy(behind.host, behind.port, **how))

        yield make


@pytest.fixture(autouse=True, scope="session")
def _no_server_left_behind() -> Iterator[None]:
    """Fail the session if a server still runs at its end, and end it."""
    yield
    left = [(f"{cluster.name} in {cluster.directory}", cluster) for cluster in logs.followed()]
    for _, cluster in left:
        cluster.remove()
    if left:
        pytest.fail(f"servers were left behind: {', '.join(name for name, _ in left)}", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Remember where the servers' logs stand."""
    logs.begin_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a test that failed what the servers said meanwhile."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {name}", said) for name, said in logs.said_in_test()]
    return report
