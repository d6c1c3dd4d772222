"""The benchmarks run, clean up behind themselves, and report what they promise. How fast that is, no test judges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
ENGINES = ["mpcheckpoint", "sqlite"]


def run(tmp_path: Path, script: str, *options: str) -> dict[str, Any]:
    """Run a script in an empty directory as from a shell; return its JSON report, the one file it leaves."""
    # Its modules lie beside it, where a safe path does not look; the checkout's root is off the path all the same.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(BENCHMARKS / script), *options, "--json", "report.json"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=100, stdout=subprocess.PIPE)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    return report


def test_append_benchmark_with_tiny_sizes_reports_every_engine(tmp_path: Path) -> None:
    report = run(tmp_path, "append.py", "--rounds", "1", "--seconds", "0.1", "--processes", "1", "2")

    results = report["results"]
    assert [(row["processes"], row["engine"]) for row in results] == [
        (processes, engine) for processes in (1, 2) for engine in ENGINES
    ]
    assert all(row["longest_us"] >= row["p99_us"] >= row["p50_us"] > 0 for row in results)
    assert all(row["ratio_to_sqlite"] == 1 for row in results if row["engine"] == "sqlite")
    assert int(report["environment"]["cpus"]) >= 1


def test_replay_benchmark_with_tiny_sizes_reports_every_engine(tmp_path: Path) -> None:
    report = run(tmp_path, "replay.py", "--rounds", "1", "--records", "1001", "--events-per-object", "10")

    results = report["results"]
    assert [(row["kind"], row["engine"]) for row in results] == [
        (kind, engine) for kind in ("view", "decoded") for engine in ENGINES
    ]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 and row["file_bytes"] > 0 for row in results)


def test_append_profile_with_tiny_sizes_adds_up_to_the_total(tmp_path: Path) -> None:
    report = run(tmp_path, "profile_append.py", "--appends", "50", "--directory", ".")

    result = report["results"][0]
    parts = {row["part"]: row for row in result["parts"]}
    assert sum(row["us"] for row in parts.values()) == pytest.approx(result["total_us"])
    assert parts["write"]["calls"] == 1
    assert parts["sync"]["calls"] == 1
    assert parts["encode"]["calls"] == 2
