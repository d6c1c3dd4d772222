"""Uses that are wrong: never run. Each line says which error mypy --strict and which pyright must report for it.

``tests/project/test_types.py`` demands that they report these, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from mpcheckpoint import Checkpoint, Log, Outcome, Position, Record, Results, Retention, Transaction


def length(name: str) -> int:
    return len(name)


def opened() -> None:
    Checkpoint()  # E: call-arg | reportCallIssue
    Checkpoint(5)  # E: arg-type | reportArgumentType
    Checkpoint("s", True)  # E: call-arg | reportCallIssue
    Checkpoint("s", timeout_s=3)  # E: call-arg | reportCallIssue
    Checkpoint("s", durability=True)  # E: arg-type | reportArgumentType
    Checkpoint("s", read_only="yes")  # E: arg-type | reportArgumentType
    Checkpoint("s", log_keys=5)  # E: arg-type | reportArgumentType
    Checkpoint("s", lock_timeout_s="1")  # E: arg-type | reportArgumentType
    Checkpoint("s", default="str")  # E: arg-type | reportArgumentType


def logs(checkpoint: Checkpoint) -> None:
    checkpoint.log(5)  # E: arg-type | reportArgumentType
    checkpoint.log("a", retention=5)  # E: arg-type | reportArgumentType
    checkpoint.log("a", retention=Retention(keep_last="1"))  # E: arg-type | reportArgumentType
    checkpoint.path / "x"  # E: operator | reportOptionalOperand
    checkpoint.path = Path("elsewhere")  # E: misc | reportAttributeAccessIssue
    checkpoint["x"] = ("event",)  # E: index | reportIndexIssue
    checkpoint.append("x", "event")  # E: attr-defined | reportAttributeAccessIssue reportUnknownMemberType


def appended(log: Log, position: Position) -> None:
    log.append("x")  # E: call-arg | reportCallIssue
    log.append(5, "event")  # E: arg-type | reportArgumentType
    log.append("x", "event", 0)  # E: call-arg | reportCallIssue
    log.append("x", "event", expected_count="0")  # E: arg-type | reportArgumentType
    log.append("x", "event", record_id=5)  # E: arg-type | reportArgumentType
    log.append("x", "event", durability=0.1)  # E: arg-type | reportArgumentType
    log.append_many({"x": "event"})  # E: dict-item | reportArgumentType
    log.append_many([("x",)])  # E: list-item | reportArgumentType
    log.append_many(["xy"])  # E: list-item | reportArgumentType
    log.append_many([]).offset  # E: union-attr | reportOptionalMemberAccess
    position.offset = 0  # E: misc | reportAttributeAccessIssue
    log.update(length)  # E: arg-type | reportArgumentType


def looked(log: Log, record: Record, position: Position, checkpoint: Checkpoint) -> None:
    log["x"] = ("event",)  # E: index | reportIndexIssue
    log["x"].append("event")  # E: attr-defined | reportAttributeAccessIssue reportUnknownMemberType
    log[5]  # E: index | reportArgumentType
    del log["x"]  # E: attr-defined | reportIndexIssue
    log.get(5)  # E: arg-type | reportArgumentType
    log.path.read_bytes()  # E: union-attr | reportOptionalMemberAccess
    log.read(after="start")  # E: arg-type | reportArgumentType
    log.follow("begin")  # E: arg-type | reportArgumentType
    checkpoint.follow("now")  # E: arg-type | reportArgumentType
    checkpoint.follow(position)  # E: arg-type | reportArgumentType
    log.objects(since="yesterday")  # E: arg-type | reportArgumentType
    log.read(last="10")  # E: arg-type | reportArgumentType
    log.tail("begin")  # E: arg-type | reportArgumentType
    record.event = "event"  # E: misc | reportAttributeAccessIssue
    record.time - record.stamp_us  # E: operator | reportOperatorIssue
    with log.claim("x") as claim:
        claim.object_key  # E: union-attr | reportOptionalMemberAccess


def mapped(log: Log, outcome: Outcome[str, int]) -> None:
    log.map(length)  # E: call-arg | reportCallIssue
    log.map(length, 5)  # E: arg-type | reportArgumentType
    log.map(length, [5])  # E: arg-type | reportArgumentType
    log.map(length("x"), ["x"])  # E: arg-type | reportArgumentType
    log.map(length, ["x"], key=length)  # E: arg-type | reportArgumentType
    log.map(length, ["x"], on_error="stop")  # E: arg-type | reportArgumentType
    log.map(length, ["x"], if_changed="ignore")  # E: arg-type | reportArgumentType
    log.map(length, ["x"], changed_files="sha256")  # E: arg-type | reportArgumentType
    log.map(length, ["x"], retry_failed=5)  # E: arg-type | reportArgumentType
    log.map(length, ["x"], jobs="4")  # E: arg-type | reportArgumentType
    log.map(length, ["x"], workers=4)  # E: call-arg | reportCallIssue
    log.pending(["x"], changed_files="sha256")  # E: arg-type | reportArgumentType
    outcome.value + 1  # E: operator | reportOptionalOperand
    outcome.item + 1  # E: operator | reportOperatorIssue
    outcome.ok = False  # E: misc | reportAttributeAccessIssue
    outcome.started - outcome.ended_us  # E: operator | reportOperatorIssue
    for each in log.map(length, ["x"]):
        takes_text(each)  # E: arg-type | reportArgumentType
    log.results(since="yesterday")  # E: arg-type | reportArgumentType
    log.results(since_us=5)  # E: call-arg | reportCallIssue
    log.map_status().failed  # E: union-attr | reportOptionalMemberAccess


def takes_text(outcome: Outcome[str, str]) -> None: ...


def looked_after(log: Log, results: Results[str, int], transaction: Transaction) -> None:
    log.compact(5)  # E: call-arg | reportCallIssue
    log.compact(keep_last="1")  # E: arg-type | reportArgumentType
    log.compact(fold=length)  # E: arg-type | reportArgumentType
    log.compact(drop=length)  # E: arg-type | reportArgumentType
    log.forget(5)  # E: arg-type | reportArgumentType
    transaction.append("x")  # E: call-arg | reportCallIssue
    for each in results:
        each.value.bit_length()  # E: union-attr | reportOptionalMemberAccess
        takes_text(each)  # E: arg-type | reportArgumentType
