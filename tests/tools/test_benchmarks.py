"""The benchmarks run, clean up behind themselves, and report what they promise. How fast that is, no test judges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from support.checkout import ROOT
from support.postgres.fixtures import require_postgres

BENCHMARKS = ROOT / "benchmarks"
ENGINES = ["mpcheckpoint", "pure", "sqlite", "lmdb", "optuna", "diskcache", "filelock", "portalocker"]
INSTALLED = [
    name
    for name in ENGINES
    if find_spec({"sqlite": "sqlite3", "pure": "mpcheckpoint"}.get(name, name)) is not None
]
IN_NO_TIME = ("--rounds", "1", "--seconds", "0.05")


def start(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty directory as from a shell."""
    # A script's modules lie beside it, where a safe path does not look; the checkout's root is off the path anyway.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["MPLCONFIGDIR"] = str(tmp_path)
    return subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment,
        check=False,
        timeout=100,
        capture_output=True,
        text=True,
    )


def run(tmp_path: Path, script: str, *options: str) -> dict[str, Any]:
    """Run a script; return its JSON report, the one file it leaves."""
    done = start(tmp_path, str(BENCHMARKS / script), *options, "--json", "report.json")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert report["command"][1] == f"benchmarks/{script}"
    return report


def code(tmp_path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run lines of Python that may import the benchmarks' modules."""
    return start(
        tmp_path, "-c", "\n".join(["import sys", f"sys.path.insert(0, {str(BENCHMARKS)!r})", *lines])
    )


def test_report_names_its_script_also_if_it_was_started_beside_it(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = code(
        tmp_path,
        "import os",
        "from pathlib import Path",
        "from harness import write_json",
        f"os.chdir({str(BENCHMARKS)!r})",
        "sys.argv[0] = 'aio.py'",
        f"write_json(Path({str(report)!r}), results=[])",
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["command"][1] == "benchmarks/aio.py"


# --- comparisons -------------------------------------------------------------------------------------------------


def test_append_benchmark_with_tiny_sizes_reports_every_engine(tmp_path: Path) -> None:
    report = run(tmp_path, "append.py", *IN_NO_TIME, "--processes", "1", "2")

    results = report["results"]
    assert [(row["processes"], row["engine"]) for row in results] == [
        (processes, engine) for processes in (1, 2) for engine in INSTALLED
    ]
    assert all(row["longest_us"] >= row["p99_us"] >= row["p95_us"] >= row["p50_us"] > 0 for row in results)
    assert all(row["ratio_to_sqlite"] == 1 for row in results if row["engine"] == "sqlite")
    assert list(report["engines"]) == INSTALLED
    assert int(report["environment"]["cpus"]) >= 1


def test_append_benchmark_with_an_engine_that_loses_a_record_fails(tmp_path: Path) -> None:
    done = code(
        tmp_path,
        "import append",
        "from engines.sqlite import Sqlite",
        "count = Sqlite.count",
        "Sqlite.count = lambda self, directory: count(self, directory) - 1",
        f"append.main([*{IN_NO_TIME!r}, '--processes', '1', '--engines', 'sqlite'])",
    )

    assert done.returncode != 0
    assert "sqlite acknowledged" in done.stderr


def test_append_benchmark_without_a_package_says_which_engine_it_skips(tmp_path: Path) -> None:
    done = code(
        tmp_path,
        "import append",
        "from engines.lmdb_records import Lmdb",
        "Lmdb.module = 'no_such_package'",
        f"append.main([*{IN_NO_TIME!r}, '--processes', '1', '--engines', 'lmdb'])",
    )

    assert done.returncode == 0, done.stderr
    assert "lmdb: skipped, the package no_such_package is not installed" in done.stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_that_is_filled_hands_out_the_same_records(tmp_path: Path, engine: str) -> None:
    if engine not in INSTALLED:
        pytest.skip(f"{engine} is not installed")
    done = code(
        tmp_path,
        "import json",
        "from pathlib import Path",
        "from engines import ENGINES",
        f"engine, place = ENGINES[{engine!r}], Path('store')",
        "engine.create(place)",
        "engine.fill(place, [('a', {'n': 1}), ('b', {'n': 2}), ('a', {'n': 3})], batch=2)",
        "held, found = engine.load_raw(place, 'a')",
        "objects_held = len(held)  # now: what holds them may go on following the store",
        "objects = {key: list(events) for key, events in engine.load_decoded(place).items()}",
        "with engine.appender(place) as append: append('c', '4')",
        "with engine.batcher(place) as append_many: append_many([('c', '5'), ('d', '6')])",
        "rows = [key for key, _ in engine.rows(place)]",
        "print(json.dumps([found, objects_held, objects, rows, engine.count(place), engine.size_bytes(place) > 0]))",
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        2,
        2,
        {"a": [{"n": 1}, {"n": 3}], "b": [{"n": 2}]},
        ["a", "b", "a", "c", "c", "d"],
        6,
        True,
    ]


def test_batch_benchmark_with_tiny_sizes_reports_the_chosen_engines(tmp_path: Path) -> None:
    report = run(tmp_path, "batch.py", *IN_NO_TIME, "--batch", "10", "--engines", "mpcheckpoint")

    assert [row["engine"] for row in report["results"] if row["where"] == "disk"] == [
        "mpcheckpoint",
        "sqlite",
    ]
    assert all(row["rate_per_s"] > 0 for row in report["results"])


def test_floor_benchmark_with_tiny_sizes_reports_the_chosen_engines(tmp_path: Path) -> None:
    report = run(tmp_path, "floor.py", *IN_NO_TIME, "--engines", "mpcheckpoint")

    assert [row["engine"] for row in report["results"]] == ["mpcheckpoint", "sqlite"]
    assert all(row["p99_us"] >= row["p50_us"] > 0 for row in report["results"])


def test_replay_benchmark_with_tiny_sizes_reports_every_kind(tmp_path: Path) -> None:
    options = ("--records", "1001", "--events-per-object", "10", "--engines", "mpcheckpoint")
    report = run(tmp_path, "replay.py", "--rounds", "1", *options)

    results = report["results"]
    assert [(row["kind"], row["engine"]) for row in results] == [
        (kind, engine) for kind in ("view", "decoded") for engine in ("mpcheckpoint", "sqlite")
    ]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 and row["file_mb"] > 0 for row in results)


# --- our own runs ------------------------------------------------------------------------------------------------


def test_sharing_benchmark_with_tiny_sizes_reports_four_ways(tmp_path: Path) -> None:
    results = run(tmp_path, "sharing.py", *IN_NO_TIME, "--number", "2")["results"]

    assert [(row["way"], row["compared_with"]) for row in results] == [
        ("1 thread", None),
        ("threads, one process", "1 thread"),
        ("processes, one log", "1 thread"),
        ("processes, own logs", "processes, one log"),
    ]
    assert all(row["rate_per_s"] > 0 for row in results)


def test_benchmark_of_tasks_with_tiny_sizes_compares_them_with_one_thread(tmp_path: Path) -> None:
    results = run(tmp_path, "aio.py", *IN_NO_TIME, "--tasks", "1", "20")["results"]

    assert [(row["way"], row["tasks"]) for row in results] == [
        ("1 thread", 0),
        ("1 task", 1),
        ("20 tasks", 20),
    ]
    assert all(row["rate_per_s"] > 0 and row["ratio"] > 0 and row["processor_us"] > 0 for row in results)


def test_benchmark_of_calls_counts_those_of_an_append_and_of_reads(tmp_path: Path) -> None:
    appends, *reads = run(tmp_path, "calls.py", "--rounds", "5")["results"]

    assert appends["calls"] > appends["files"] > 0
    assert all(0 < row["files"] < row["calls"] < 25 for row in reads)


def test_benchmark_of_tails_reports_every_way_to_ask(tmp_path: Path) -> None:
    results = run(tmp_path, "tail.py", *IN_NO_TIME)["results"]

    assert [row["way"] for row in results][:3] == ["tail", "follow, without waiting", "read(after=)"]
    assert len(results) == 5
    assert all(row["nothing_p50_us"] > 0 and row["one_p50_us"] > 0 for row in results)


def test_benchmark_of_a_writer_beside_a_reader_reports_both(tmp_path: Path) -> None:
    alone, beside = run(tmp_path, "beside.py", *IN_NO_TIME)["results"]

    assert (alone["reader"], beside["reader"]) == ("none", "every 0.5 ms")
    assert alone["p50_us"] > 0
    assert beside["ratio"] > 0


def test_benchmark_of_writers_beside_polling_readers_reports_both_engines(tmp_path: Path) -> None:
    report = run(tmp_path, "polled.py", *IN_NO_TIME, "--writers", "2", "--readers", "2")

    own, sqlite = report["results"]
    assert (own["engine"], sqlite["engine"]) == ("mpcheckpoint", "sqlite")
    assert sqlite["ratio_to_sqlite"] == 1
    assert all(row["rate_per_s"] > 0 and row["polls_per_s"] > 0 for row in report["results"])
    assert all(row["kept_up"] in {"yes", "no"} and row["behind_ms"] > 0 for row in report["results"])


def test_benchmark_of_compaction_reports_rate_writers_and_view(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--size-mb", "0.2", "--writers", "2", "--seconds", "0.2"]
    rate, beside, view = run(tmp_path, "compact.py", *options)["results"]

    assert rate["compact_mb_per_s"] > 0
    assert rate["verify_mb_per_s"] > 0
    assert beside["writers"] == 2
    assert beside["rate_per_s"] > 0
    assert beside["longest_ms"] > 0
    assert view["seconds_to_before"] > 0


def test_map_benchmark_with_tiny_sizes_reports_ours_and_who_is_installed(tmp_path: Path) -> None:
    sizes = {"items": 20, "commands": 5, "done": 2001, "workers": 3}
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    results = run(tmp_path, "maps.py", "--rounds", "1", *options)["results"]

    peers = [name for name in ("xargs", "parallel") if which(name)]
    assert [(row["work"], row["engine"], row["items"]) for row in results] == [
        *(("function", engine, 20) for engine in ("mpcheckpoint", "pool")),
        *(("1 ms", engine, 20) for engine in ("mpcheckpoint", "pool")),
        *(("command", engine, 5) for engine in ("mpcheckpoint", *peers)),
        ("done", "mpcheckpoint", 2001),
    ]
    assert all(row["seconds"] > 0 and row["processor_us"] > 0 and row["memory_mb"] > 0 for row in results)
    assert all((row["ratio"] is None) == (row["engine"] == "mpcheckpoint") for row in results)
    assert all(0 < row["share"] <= 1 for row in results if row["work"] == "1 ms")


def test_benchmark_of_a_study_with_tiny_sizes_reports_both_journals(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--workers", "2", "--trials", "3", "--killed", "mpcheckpoint"]
    ours, theirs, killed = run(tmp_path, "optuna_study.py", *options)["results"]

    assert [(row["engine"], row["trials"]) for row in (ours, theirs)] == [
        ("mpcheckpoint", 6),
        ("optuna file", 6),
    ]
    assert all(row["seconds"] > 0 and row["processor_us"] > 0 for row in (ours, theirs))
    assert theirs["ratio"] > 0
    assert (killed["work"], killed["engine"]) == ("killed", "mpcheckpoint")
    assert killed["seconds"] > 0


def test_benchmark_of_a_study_that_lacks_a_trial_fails(tmp_path: Path) -> None:
    done = code(
        tmp_path,
        "import optuna_study",
        "run = optuna_study.run_together",
        "if __name__ == '__main__':",
        "    optuna_study.run_together = lambda work, jobs: run(work, [*jobs[:-1], jobs[-1]._replace(trials=1)])",
        "    optuna_study.main(['--rounds', '1', '--workers', '2', '--trials', '2', '--killed'])",
    )

    assert done.returncode != 0
    assert "mpcheckpoint: 3 trials were made, not 4" in done.stderr


def test_benchmark_whose_readers_miss_a_record_fails(tmp_path: Path) -> None:
    done = code(
        tmp_path,
        "import polled",
        "run = polled.run_together",
        "def missed(work, jobs):",
        "    return [each._replace(seen=max(0, each.seen - 1)) for each in run(work, jobs)]",
        "if __name__ == '__main__':",
        "    polled.run_together = missed",
        f"    polled.main([*{IN_NO_TIME!r}, '--writers', '1', '--readers', '1'])",
    )

    assert done.returncode != 0
    assert "and readers saw" in done.stderr


def test_verify_benchmark_with_tiny_sizes_reports_each_size_of_batch(tmp_path: Path) -> None:
    options = ("--rounds", "1", "--size-mb", "0.1", "--batch", "1", "7")
    results = run(tmp_path, "verify.py", *options)["results"]

    assert [row["batch"] for row in results] == [1, 7]
    assert all(row["size_mb"] >= 0.1 and 100 < row["line_bytes"] < 300 for row in results)
    assert all(row["verify_mb_per_s"] > 0 and row["crc_mb_per_s"] > 0 for row in results)


def test_benchmark_of_conditions_with_tiny_sizes_reports_every_way(tmp_path: Path) -> None:
    results = run(tmp_path, "conditions.py", "--rounds", "1", "--appends", "3", "--events", "2", "5")[
        "results"
    ]

    assert [row["way"] for row in results][:3] == ["expected_count", "expected_counts", "expected_end"]
    assert all(row["few_us"] > 0 and row["many_us"] > 0 for row in results)


def test_benchmark_of_aggregates_with_tiny_sizes_reports_both_recorders(tmp_path: Path) -> None:
    results = run(tmp_path, "aggregates.py", "--rounds", "1", "--inserts", "8", "--processes", "2")["results"]

    assert [row["engine"] for row in results] == ["sqlite", "mpcheckpoint"]
    assert all(row["tests_s"] > 0 and row["alone_s"] > 0 and row["together_per_s"] > 0 for row in results)


def test_read_benchmark_with_tiny_sizes_reports_each_number_of_logs(tmp_path: Path) -> None:
    results = run(tmp_path, "read.py", *IN_NO_TIME, "--logs", "1", "3")["results"]

    assert [row["logs"] for row in results] == [1, 3]
    assert all(row["all_p50_us"] > 0 and row["one_p50_us"] > 0 for row in results)


def test_follow_benchmark_with_tiny_sizes_reports_latency_and_idle_share(tmp_path: Path) -> None:
    options = ("--rounds", "1", "--appends", "5", "--pause-ms", "1", "--idle-s", "0.2")
    latency, idle = run(tmp_path, "follow.py", *options)["results"]

    assert latency["called_p50_ms"] > 0
    assert latency["called_p50_ms"] > latency["returned_p50_ms"]
    assert 0 <= idle["idle_share"] < 1


def test_open_benchmark_with_tiny_sizes_reports_each_size(tmp_path: Path) -> None:
    results = run(tmp_path, "open.py", "--rounds", "1", "--size-mb", "0.1", "1")["results"]

    assert [row["size_mb"] for row in results] == [0.1, 1]
    assert results[0]["ratio_to_shortest"] == 1


def test_growth_benchmark_with_tiny_sizes_reports_every_dimension(tmp_path: Path) -> None:
    sizes = {"records": 50, "logs": 3, "processes": 2, "event-bytes": 100}
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    results = run(tmp_path, "growth.py", "--repeats", "3", *options)["results"]

    assert [(row["dimension"].replace(" ", "-"), row["size"]) for row in results] == list(sizes.items())
    assert all(row["append_us"] > 0 and row["refresh_us"] > 0 and row["open_ms"] > 0 for row in results)


def test_append_profile_with_tiny_sizes_adds_up_to_the_total(tmp_path: Path) -> None:
    report = run(tmp_path, "profile_append.py", "--appends", "50", "--directory", ".")

    result = report["results"][0]
    parts = {row["part"]: row for row in result["parts"]}
    assert sum(row["us"] for row in parts.values()) == pytest.approx(result["total_us"])
    assert 1 <= parts["write"]["calls"] < 1.5  # now and then the page, too
    assert parts["sync"]["calls"] == 1
    assert parts["encode"]["calls"] == 2


def test_postgres_benchmark_with_tiny_sizes_reports_every_row(tmp_path: Path, postgres_database: str) -> None:
    sizes = ("--processes", "2", "--seconds", "0.05", "--records", "200", "--items", "5", "--appends", "5")
    results = run(tmp_path, "postgres.py", "--quick", *sizes, "--server", postgres_database)["results"]

    both = [row for row in results if "directory" in row]
    counts = {row["work"]: row["postgresql"] for row in results if row["unit"] == "messages"}
    assert [row["work"] for row in both] == [
        "append, 1 process",
        "append, 2 processes, one log / pure",
        "batch of 500",
        "replay of 200",
        "follow: append called to seen",
        "claim of a killed process: free",
    ]
    assert all(row["directory"] > 0 and row["postgresql"] > 0 and row["ratio"] > 0 for row in both)
    assert counts["messages: append"] == 1
    assert counts["messages: read over 20 logs"] == 1
    assert len(results) == len(both) + len(counts) + 3


def test_server_that_a_benchmark_starts_is_gone_with_its_files_afterwards(tmp_path: Path) -> None:
    require_postgres()
    with TemporaryDirectory(prefix="mpcheckpoint-pg-") as public:  # pytest's is closed to the server's user
        Path(public).chmod(0o711)
        done = code(
            tmp_path,
            "from pathlib import Path",
            "import psycopg",
            "from harness import work_directory",
            "from servers import server",
            f"with work_directory(Path({public!r})) as directory, server(directory / 'server', None) as address:",
            "    with psycopg.connect(address) as session:",
            "        print(session.execute('show fsync').fetchone()[0], address)",
        )
        assert done.returncode == 0, done.stderr
        said, address = done.stdout.split()
        assert said == "on"
        assert list(Path(public).iterdir()) == []
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(address)


# --- simulation --------------------------------------------------------------------------------------------------


def test_simulation_of_partitions_grows_with_the_databases_but_for_one_log(tmp_path: Path) -> None:
    options = ("--seconds", "0.3", "--databases", "1", "4", "--logs", "1", "64")
    results = run(tmp_path, "simulate_partitions.py", *options)["results"]

    ratios = {(row["logs"], row["databases"]): row["ratio_to_one"] for row in results}
    assert ratios[1, 1] == ratios[64, 1] == 1
    assert ratios[1, 4] == pytest.approx(1, rel=0.05)
    assert 3 < ratios[64, 4] <= 4.2
    assert all(row["p99_ms"] >= row["p50_ms"] > 2.5 for row in results)  # a round trip and a sync, at least


def test_simulation_of_one_client_takes_what_the_steps_take(tmp_path: Path) -> None:
    steps = ("--round-trip-us", "500", "--parse-us", "50", "--locked-us", "200", "--sync-us", "2000")
    options = ("--clients", "1", "--databases", "2", "--logs", "8", *steps)
    (row,) = run(tmp_path, "simulate_partitions.py", *options)["results"]

    assert row["p50_ms"] == pytest.approx(2.75)
    assert row["appends_a_sync"] == pytest.approx(1, abs=0.02)  # the last sync may be under way


def test_page_beyond_one_server_shows_what_the_simulation_gives(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "beyond-one-server.md").read_text(encoding="utf-8")
    done = start(
        tmp_path, str(BENCHMARKS / "simulate_partitions.py"), "--databases", "1", "--logs", "1", "64"
    )

    lines = done.stdout.strip("\n").splitlines()
    assert len(lines) == 3
    assert all(line in page for line in lines), lines


# --- targets, tables, plots --------------------------------------------------------------------------------------


def test_targets_judged_from_reports_tell_met_from_missed_and_not_measured(tmp_path: Path) -> None:
    appends = [
        {"engine": "mpcheckpoint", "processes": 1, "ratio_to_sqlite": 1.1},
        {"engine": "mpcheckpoint", "processes": 4, "ratio_to_sqlite": 1.99},
        {"engine": "mpcheckpoint", "processes": 8, "ratio_to_sqlite": 3.7},
    ]
    follows = [{"pause_ms": 1, "returned_p50_ms": 0.2}, {"pause_ms": 100, "returned_p50_ms": 1.01}]
    replays = [
        {
            "engine": "mpcheckpoint",
            "records": 1_000_000,
            "events_per_object": 1,
            "kind": "view",
            "ratio_to_sqlite": 2.1,
        }
    ]
    (tmp_path / "append.json").write_text(json.dumps({"results": appends}))
    (tmp_path / "replay.json").write_text(json.dumps({"results": replays}))
    (tmp_path / "follow.json").write_text(json.dumps({"results": follows}))

    done = start(tmp_path, str(BENCHMARKS / "targets.py"), "--judge", "--results", ".")

    verdicts = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in done.stdout.splitlines()}
    assert verdicts["durable append of 100 bytes into one log, 1 process"] == "met"
    assert verdicts["durable append of 100 bytes into one log, 4 processes"] == "MISSED"
    assert verdicts["durable append of 100 bytes into one log, 8 processes"] == "met"
    assert verdicts["durable append of 100 bytes into one log, 16 processes"] == "not measured"
    assert verdicts["replay of 1,000,000 records into the view, 1 an object"] == "met, stretch too"
    assert verdicts["from append returned to seen in follow, worst median"] == "MISSED"


def test_targets_with_a_script_that_fails_fail(tmp_path: Path) -> None:
    done = code(
        tmp_path,
        "import targets",
        "targets.RUNS = [targets.Run('append', '--engines no_such_engine')]",
        "targets.main(['--quick'])",
    )

    assert done.returncode != 0
    assert "CalledProcessError" in done.stderr


def test_performance_document_has_the_tables_of_the_reports(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    (tmp_path / "performance.md").write_text(
        document.replace("| sqlite |", "| sqlite | by hand"), encoding="utf-8"
    )

    done = start(tmp_path, str(BENCHMARKS / "tables.py"), str(BENCHMARKS / "results"), "--docs", ".")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == document


def test_plots_drawn_twice_are_equal_small_and_those_that_the_documents_show(tmp_path: Path) -> None:
    if find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    drawn = []
    for docs in ("first", "second"):
        done = start(tmp_path, str(BENCHMARKS / "plots.py"), str(BENCHMARKS / "results"), "--docs", docs)
        assert done.returncode == 0, done.stderr
        drawn.append({path.name: path.read_bytes() for path in (tmp_path / docs / "plots").iterdir()})

    assert drawn[0] == drawn[1]
    assert all(len(plot) < 100_000 for plot in drawn[0].values())
    assert drawn[0].keys() == {path.name for path in (ROOT / "docs" / "plots").iterdir()}
