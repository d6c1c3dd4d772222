"""What processes do to logs of a server at once is linearizable, also while sessions end and the server is killed."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint.errors import ConflictError
from mpcheckpoint.testing import HistoryRecorder, check_history, crash_test, load_history
from support import tally
from support.postgres.handles import checkpoint_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.testing import AcknowledgementJournal, AcknowledgementWriter
    from support.postgres.cluster import Cluster
    from support.postgres.proxy import Proxy
    from support.processes import Children

pytestmark = [pytest.mark.slow, pytest.mark.guarantee(3), pytest.mark.guarantee(4)]

OBJECT_KEYS = [f"object {number}" for number in range(8)]
_PROCESSES = 3
_STEPS = 60


def _work(address: str, directory: str, name: str, steps: int, writer: AcknowledgementWriter) -> None:
    """Do so many random things to a log, and record them."""
    chance = random.Random(f"{directory} {name}")
    with checkpoint_at(address, retry_s=120) as checkpoint:
        log = HistoryRecorder(checkpoint.log("a"), directory, process_name=name)
        for step in range(steps):
            object_key, event = chance.choice(OBJECT_KEYS), [name, step]
            match chance.choice(
                ("append", "append if", "twice", "batch", "batch if", "events", "count", "read")
            ):
                case "append":
                    log.append(object_key, event)
                case "append if":
                    try:
                        log.append(object_key, event, expected_count=log.count(object_key))
                    except ConflictError:
                        pass  # somebody else was quicker
                case "twice":
                    record_id = f"{name} {step}"
                    first = log.append(object_key, event, record_id=record_id)
                    assert log.append(object_key, event, record_id=record_id) == first
                case "batch":
                    log.append_many([(object_key, event), (OBJECT_KEYS[0], event)])
                case "batch if":
                    batch, counts = [(object_key, event)] * 2, {object_key: log.count(object_key)}
                    try:
                        end = log.append_many(batch, expected_counts=counts)
                        log.append_many(batch, expected_end=end)
                    except ConflictError:
                        pass  # somebody else was quicker
                case "events":
                    log.events(object_key)
                case "count":
                    log.count(object_key)
                case "read":
                    log.read()
            writer.acknowledge(name, step)


@pytest.mark.parametrize("harm", ["links cut", "server killed"])
def test_history_of_processes_is_linearizable(
    make_postgres: Callable[..., Cluster],
    make_proxy: Callable[..., Proxy],
    children: Children,
    acknowledgements: AcknowledgementJournal,
    tmp_path: Path,
    intensity: int,
    harm: str,
) -> None:
    cluster = make_postgres()
    cluster.create_database("d")
    proxy = make_proxy(cluster)
    address = proxy.address("d")
    histories = tmp_path / "histories"
    steps = _STEPS * intensity
    for number in range(_PROCESSES):
        arguments = address, str(histories), f"process {number}", steps, acknowledgements.writer
        children.start(_work, *arguments)
    for part in range(1, 4):
        acknowledgements.wait_for(part * steps * _PROCESSES // 5)
        if harm == "links cut":
            proxy.cut_all()
        else:
            cluster.restart("kill")
            tally.add("kills", 1)
    children.wait_all(timeout_s=120)

    history = load_history(histories)
    assert len(history) >= steps * _PROCESSES
    with checkpoint_at(address) as checkpoint:
        log = HistoryRecorder(checkpoint.log("a"), histories, process_name="last")
        log.read()
    check_history(load_history(histories))


# --- a whole program ---------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[3])
from support.postgres.handles import checkpoint_at

name = Path(sys.argv[1], "name")  # of the store on the server, chosen at the start of a life
if not name.exists():
    import secrets
    made = name.with_suffix(".made")
    made.write_text(secrets.token_hex(8))
    made.rename(name)
with checkpoint_at(sys.argv[2], name.read_text()) as checkpoint:
    log = checkpoint.log("a")
    for number in range(log.count("x"), 40):
        with log.claim("x") as claim:
            assert claim is not None, "the claim of a dead process is not free"
            log.append("x", number)
        print(number, flush=True)
"""


def test_program_that_is_killed_carries_on_from_all_that_it_acknowledged(
    postgres_database: str, tmp_path: Path, intensity: int
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    tests = Path(__file__).parent.parent

    def check(store: Path, acknowledged: list[int]) -> None:
        name = store / "name"
        if not name.exists():
            assert not acknowledged
            return
        with checkpoint_at(postgres_database, name.read_text(encoding="utf-8")) as checkpoint:
            events = checkpoint.log("a").events("x")
        assert list(events) == list(range(len(events)))
        assert len(events) > max(acknowledged, default=-1)

    report = crash_test(
        [sys.executable, str(program), "{store}", postgres_database, str(tests)],
        kills=8 * intensity,
        ack=int,
        check=check,
        timeout_s=120,
    )
    tally.add("kills", report.kills)
