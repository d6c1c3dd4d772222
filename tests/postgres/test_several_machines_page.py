"""The page on several machines: its programs run, against a server, and what cannot run here is read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import CheckpointError
from support.capabilities import require
from support.checkout import DOCS, ROOT
from support.documents import blocks_of
from support.postgres.addresses import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.postgres.cluster import Cluster

PAGE = (DOCS / "howto" / "several-machines.md").read_text(encoding="utf-8")
SCHEMA = (ROOT / "mpcheckpoint" / "_postgres" / "schema.sql").read_text(encoding="utf-8")
FRAMES = 100
_PATIENCE_S = 100


def block(language: str, name: str = "") -> str:
    (code,) = [each.code for each in blocks_of(PAGE) if (each.language, each.name) == (language, name)]
    return code


def manifests() -> list[dict[str, Any]]:
    require(find_spec("yaml") is not None, "PyYAML is not installed")
    import yaml

    return list(yaml.safe_load_all(block("yaml")))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Return a directory with the files that the page has the reader save."""
    (tmp_path / "frames.py").write_text(block("python", "frames.py"), encoding="utf-8")
    (tmp_path / "frames.sbatch").write_text(block("bash"), encoding="utf-8")
    return tmp_path


def environment(store: str) -> dict[str, str]:
    without_password = store.replace(f":{PASSWORD}@", "@")
    assert without_password != store
    return os.environ | {"MPCHECKPOINT_STORE": without_password, "PGPASSWORD": PASSWORD}


def run_together(commands: list[list[str]], directory: Path, environment: dict[str, str]) -> list[str]:
    """Run commands at the same time; return what each printed. Fails if one fails."""
    running = [
        subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    try:
        said = [process.communicate(timeout=_PATIENCE_S)[0] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [process.returncode for process in running] == [0] * len(running), said
    return said


def test_tasks_of_the_page_that_run_together_run_each_item_once(job: Path, postgres_database: str) -> None:
    said = run_together([[sys.executable, "frames.py"]] * 3, job, environment(f"{postgres_database}#frames"))

    assert said == [f"0 of {FRAMES} failed\n"] * 3
    with Checkpoint(f"{postgres_database}#frames", read_only=True) as checkpoint:
        log = checkpoint.log("frames")
        assert [log.count(f"frame-{number}") for number in range(FRAMES)] == [1] * FRAMES


def test_batch_script_of_the_page_is_a_script_that_runs_the_job(job: Path, postgres_database: str) -> None:
    script = job / "frames.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    options = re.findall(r"^#SBATCH (--\S+)$", script.read_text(), re.MULTILINE)
    assert {"--array=0-15", "--cpus-per-task=4", "--requeue"} <= set(options)
    known = environment(f"{postgres_database}#frames")
    (given,) = re.findall(r'MPCHECKPOINT_STORE="(\S+)"', script.read_text())
    script.write_text(script.read_text().replace(given, known["MPCHECKPOINT_STORE"]))
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{known['PATH']}"

    said = run_together([["bash", str(script)]], job, known | {"SLURM_CPUS_PER_TASK": "2", "PATH": path})

    assert said == [f"0 of {FRAMES} failed\n"]


def test_kubernetes_job_of_the_page_runs_the_same_with_the_password_of_its_secret() -> None:
    secret, work = manifests()
    template = work["spec"]["template"]["spec"]
    (container,) = template["containers"]
    variables = {each["name"]: each for each in container["env"]}
    wanted = variables["PGPASSWORD"]["valueFrom"]["secretKeyRef"]

    assert (secret["kind"], work["kind"], work["apiVersion"]) == ("Secret", "Job", "batch/v1")
    assert wanted["name"] == secret["metadata"]["name"]
    assert wanted["key"] in secret["stringData"]
    assert container["command"] == ["python", "frames.py"]
    assert variables["MPCHECKPOINT_STORE"]["value"] in block("bash")
    assert template["restartPolicy"] in {"OnFailure", "Never"}
    assert work["spec"]["completionMode"] == "Indexed"


def test_roles_of_the_page_are_those_of_the_schema() -> None:
    in_schema = [
        line.removeprefix("--   ")
        for line in SCHEMA.splitlines()
        if re.match(r"--   (create role|grant) ", line)
    ]

    assert block("sql").splitlines() == in_schema


def test_command_of_the_page_moves_a_store_over(tmp_path: Path, postgres_database: str) -> None:
    (command,) = [each.code for each in blocks_of(PAGE) if each.code.startswith("mpcheckpoint copy")]
    (given,) = re.findall(r"postgresql://[^'#]+", command)
    with Checkpoint(tmp_path / "frames") as checkpoint:
        checkpoint.log("a").append("x", "here")
    known = environment(postgres_database)
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{known['PATH']}"

    moved = command.replace(given, known["MPCHECKPOINT_STORE"])
    run_together([["sh", "-c", moved]], tmp_path, known | {"PATH": path})

    with Checkpoint(f"{postgres_database}#frames", create=False) as checkpoint:
        assert dict(checkpoint) == {"x": ("here",)}


@pytest.fixture
def roles(postgres: Cluster, postgres_database: str) -> Iterator[dict[str, str]]:
    """Yield the addresses of one who may write, and of one who may read, in a database with the roles of the page."""
    database = postgres_database.rpartition("/")[2]
    with Checkpoint(postgres_database):
        pass  # made by the owner
    names = {"mpcheckpoint_writer": "page_writer", "mpcheckpoint_reader": "page_reader"}
    for line in block("sql").splitlines():
        postgres.execute(line, database=database)
    yield {
        group: postgres.create_role(name, database, [f"GRANT {group} TO {{role}}"])
        for group, name in names.items()
    }
    for name in (*names.values(), *names):
        postgres.drop_role(name, database)


def test_writer_of_the_page_runs_the_job_and_reader_reads_it_and_may_not_write(
    job: Path, roles: dict[str, str]
) -> None:
    writer, reader = roles["mpcheckpoint_writer"], roles["mpcheckpoint_reader"]

    run_together([[sys.executable, "frames.py"]], job, environment(writer))

    with Checkpoint(reader, read_only=True) as checkpoint:
        log = checkpoint.log("frames")
        assert log.count("frame-1") == 1
        assert next(iter(log.follow(idle_timeout_s=1))).object_key == "frame-0"
    with (
        Checkpoint(reader, create=False) as checkpoint,
        pytest.raises(CheckpointError, match="permission denied"),
    ):
        checkpoint.log("frames").append("frame-1", "by a reader")
