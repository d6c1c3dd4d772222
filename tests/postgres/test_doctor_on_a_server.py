"""What `mpcheckpoint doctor` says of a server: of roles that may not do all that a store takes."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import maintenance
from mpcheckpoint._cli import main
from support.postgres.addresses import PASSWORD
from support.postgres.handles import checkpoint_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint.maintenance import Finding
    from support.postgres.cluster import Cluster

READS = (
    "grant usage on schema mpcheckpoint to {role}",
    "grant select on all tables in schema mpcheckpoint to {role}",
)


def _advised() -> dict[str, list[str]]:
    """Return what the schema says that a writer is to be granted: privileges, and the tables of each."""
    schema = resources.files("mpcheckpoint._postgres").joinpath("schema.sql").read_text("utf-8")
    grants = re.findall(r"^--   grant (\w+) on (mpcheckpoint[.].*) to", schema, re.MULTILINE)
    return {privilege: sorted(names.split(", ")) for privilege, names in grants}


def _privileges(address: str) -> Finding:
    findings = maintenance.examine(f"{address}#tests").findings
    (finding,) = [each for each in findings if each.check == "privileges"]
    return finding


@pytest.fixture
def make_role(postgres: Cluster, postgres_database: str) -> Iterator[Callable[..., str]]:
    database, made = postgres_database.rpartition("/")[2], list[str]()

    def make(*grants: str) -> str:
        made.append(f"role{len(made)}_of_{database}")
        return postgres.create_role(made[-1], database, grants)

    yield make
    for role in made:
        postgres.drop_role(role, database)


def test_role_that_may_do_all_is_told_so(postgres_database: str) -> None:
    assert _privileges(postgres_database).verdict == "ok"  # it may make the schema

    checkpoint_at(postgres_database).close()

    assert _privileges(postgres_database).verdict == "ok"


def test_role_that_may_not_make_the_schema_is_told_so(make_role: Callable[..., str]) -> None:
    finding = _privileges(make_role())

    assert (finding.verdict, finding.figures["lacking"]) == ("bad", {"create": ["mpcheckpoint"]})


def test_role_that_may_only_read_is_told_what_writing_takes(
    postgres_database: str, make_role: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint_at(postgres_database, "tests").close()
    reader = make_role(*READS)

    finding = _privileges(reader)

    assert finding.verdict == "warn"
    assert finding.figures["lacking"] == _advised()
    assert _advised().keys() == {"insert", "update", "delete"}
    assert main(["doctor", "--store", f"{reader}#tests"]) == 1
    assert "insert on mpcheckpoint.batch, mpcheckpoint.leftover" in capfd.readouterr().out


def test_role_that_lacks_one_privilege_is_told_which(
    postgres: Cluster, postgres_database: str, make_role: Callable[..., str]
) -> None:
    checkpoint_at(postgres_database).close()
    grants = [f"grant {each} on {', '.join(names)} to {{role}}" for each, names in _advised().items()]
    writer = make_role(*READS, *grants)
    assert _privileges(writer).verdict == "ok"
    database, role = postgres_database.rpartition("/")[2], writer.partition("//")[2].partition(":")[0]

    for privilege, names in {**_advised(), "select": ["mpcheckpoint.batch"]}.items():
        for name in names:
            postgres.execute(f"revoke {privilege} on {name} from {role}", database=database)
            finding = _privileges(writer)
            assert finding.figures["lacking"] == {privilege: [name]}
            assert finding.verdict == ("bad" if privilege == "select" else "warn")
            postgres.execute(f"grant {privilege} on {name} to {role}", database=database)
    function = "mpcheckpoint.retire_worker_1"
    postgres.execute(f"revoke execute on function {function} from public", database=database)
    assert _privileges(writer).figures["lacking"] == {"execute": [function]}
    postgres.execute(f"revoke usage on schema mpcheckpoint from {role}", database=database)
    assert _privileges(writer).verdict == "bad"


@pytest.mark.parametrize(
    "arguments", [["doctor", "{}"], ["doctor", "--store", "{}"], ["doctor", "--store={}"]]
)
def test_store_is_taken_as_argument_or_as_option(
    postgres_database: str,
    arguments: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MPCHECKPOINT_STORE", "/nowhere/else")

    code = main([each.format(f"{postgres_database}#tests") for each in arguments])

    shown = capfd.readouterr()
    assert code in (0, 1), shown
    assert "PostgreSQL" in shown.out
    assert PASSWORD not in shown.out + shown.err
