"""The list of mutants fits the source as it is, and what runs them can tell caught from survived."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from mpcheckpoint.testing.conformance import StorageConformance
from mutants import __main__ as command
from mutants import runner
from mutants.listing import Mutant, StaleMutantError, listed_mutants
from mutants.runner import Run, Verdict, installed_source, run_mutant, run_unmutated
from support.capabilities import native_core
from support.checkout import TESTS

MUTANTS = {mutant.name: mutant for mutant in listed_mutants()}
CRC_TEST = "project/test_core.py::test_crc_is_that_of_zlib_at_every_size_place_and_beginning"
NAMES_TEST = "format/test_names.py::test_file_name_of_a_plain_key_is_the_key"
MISTAKE = Mutant("a mistake", "_format/names.py", 'return "%"', "return raw.nowhere", (NAMES_TEST,))
CAUGHT = MISTAKE._replace(old='name = "".join(escaped)', new='name = "x" + "".join(escaped)')
HANG = Mutant(
    "a hang",
    "_types.py",
    "match = _POSITION.fullmatch(text)",
    "while True: pass",
    ("read/test_merged_order.py::test_text_that_is_no_position_is_refused",),
)
COMMENT = MISTAKE._replace(old="from hashlib", new="# A comment that was not there.\nfrom hashlib")


@cache
def names_of_tests_in(file: str) -> frozenset[str]:
    """Return the names of the tests of a file; of its classes, those that they may have from the conformance suite."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    inherited = {name for name in dir(StorageConformance) if name.startswith("test_")}
    classes = (node.name for node in tree.body if isinstance(node, ast.ClassDef))
    return frozenset(names | {f"{each}::{name}" for each in classes for name in inherited})


# --- the list --------------------------------------------------------------------------------------------------


def test_mutants_have_names_of_their_own_and_are_many() -> None:
    assert len(MUTANTS) == len(listed_mutants()) >= 30


def test_every_mutant_replaces_text_that_stands_once_in_the_installed_source_and_compiles() -> None:
    # One test for all: the fixtures around each test cost more than a look at a mutant does.
    for mutant in MUTANTS.values():
        changed = mutant.applied_to(installed_source(mutant.module))
        if mutant.module.endswith(".py"):  # whether C or SQL can be run, a run says
            compile(changed, f"{mutant.name}, {mutant.module}", "exec")
        assert "".join(mutant.old.split()) != "".join(mutant.new.split()), mutant.name


def test_every_mutant_names_tests_that_exist() -> None:
    for mutant in MUTANTS.values():
        assert mutant.caught_by, mutant.name
        for test in mutant.caught_by:
            file, _, function = test.partition("::")
            assert function in names_of_tests_in(file), (mutant.name, test)


@pytest.mark.parametrize("old", ["no such text", "import"])
def test_mutant_of_text_that_does_not_stand_there_once_is_refused(old: str) -> None:
    with pytest.raises(StaleMutantError, match=r"stands \d+ times"):
        MISTAKE._replace(old=old).applied_to("import a\nimport b\n")


# --- what runs them --------------------------------------------------------------------------------------------


def test_mutant_that_a_test_notices_is_caught_by_that_test() -> None:
    run = run_mutant(CAUGHT)

    assert run.verdict is Verdict.CAUGHT
    assert all(NAMES_TEST in name for name in run.failed)
    assert run.failed


def test_mutant_that_changes_nothing_that_matters_survives_as_no_mutant_does() -> None:
    for run in (run_mutant(COMMENT), run_unmutated(COMMENT.caught_by)):
        assert (run.verdict, run.failed) == (Verdict.SURVIVED, ())


def test_mutant_of_the_native_core_is_built_and_judged_with_it() -> None:
    """The mistake is in what a test of the core asks for, and in nothing that Python alone would notice."""
    native_core()
    mistake = Mutant("no crc", "native/crc.c", "return ~by_tables", "return by_tables", (CRC_TEST,))
    ran = [run_mutant(mistake), run_unmutated([CRC_TEST], is_native=True)]

    assert [(each.verdict, bool(each.failed)) for each in ran] == [
        (Verdict.CAUGHT, True),
        (Verdict.SURVIVED, False),
    ]


def test_mutant_of_the_native_core_that_does_not_compile_is_broken_and_says_why() -> None:
    native_core()
    run = run_mutant(Mutant("no C", "native/crc.c", "return ~by_tables", "return ~nowhere", (CRC_TEST,)))

    assert run.verdict is Verdict.BROKEN
    assert "nowhere" in run.output


@pytest.mark.parametrize(
    "mutant",
    [
        MISTAKE._replace(old="from hashlib import sha256", new="from hashlib import sha257"),
        CAUGHT._replace(caught_by=("format/test_names.py::test_that_does_not_exist",)),
        CAUGHT._replace(old="no such text"),
    ],
    ids=["imports nothing", "has no test", "replaces nothing"],
)
def test_mutant_of_which_no_test_could_say_anything_is_broken(mutant: Mutant) -> None:
    assert run_mutant(mutant).verdict is Verdict.BROKEN


def test_mutant_in_which_a_test_hangs_is_caught_by_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_TEST_TIMEOUT_S", 1)

    run = run_mutant(HANG)

    assert run.verdict is Verdict.CAUGHT
    assert run.failed[0].endswith("(timeout)")


def test_mutant_that_hangs_outside_of_its_tests_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_RUN_TIMEOUT_S", 4)

    run = run_mutant(MISTAKE._replace(old="_KEPT = frozenset", new="while True: pass\n_KEPT = frozenset"))

    assert run.verdict is Verdict.BROKEN


def test_run_in_which_another_package_is_imported_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = runner._environment
    monkeypatch.setattr(runner, "_environment", lambda *args: real(*args) | {"PYTHONPATH": str(TESTS)})

    run = run_mutant(COMMENT)

    assert run.verdict is Verdict.BROKEN
    assert "pytest imports" in run.output


# --- the command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.CAUGHT] * 2, 0),
        ([Verdict.CAUGHT, Verdict.SURVIVED], 1),
        ([Verdict.BROKEN, Verdict.CAUGHT], 1),
    ],
)
def test_command_fails_unless_every_mutant_was_caught(
    verdicts: list[Verdict], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {MISTAKE._replace(name=f"number {index}"): verdict for index, verdict in enumerate(verdicts)}
    monkeypatch.setattr(command, "listed_mutants", lambda: list(runs))
    monkeypatch.setattr(command, "run_unmutated", lambda tests: Run(Verdict.SURVIVED, (), 1.0, ""))
    monkeypatch.setattr(command, "run_mutant", lambda mutant: Run(runs[mutant], (), 1.0, "what pytest said"))

    assert command.main([]) == code

    said = capsys.readouterr().out
    assert f"===== 2 mutants: {verdicts.count(Verdict.CAUGHT)} caught, " in said
    assert ("what pytest said" in said) == (Verdict.BROKEN in verdicts)


def test_command_fails_if_the_tests_fail_without_a_mutant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "listed_mutants", lambda: [CAUGHT])
    monkeypatch.setattr(command, "run_unmutated", lambda tests: Run(Verdict.CAUGHT, ("test",), 1.0, "why"))

    assert command.main([]) == 2

    assert "do not pass without a mutant" in capsys.readouterr().out


def test_command_with_names_takes_those_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "torn end", "poison"]) == 0

    names = capsys.readouterr().out.splitlines()
    assert names == [name for name in MUTANTS if "torn end" in name or "poison" in name]
    assert names


def test_rotation_repeats_with_its_seed_and_leaves_none_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--rotate", "5"]) == 0
    said, *names = capsys.readouterr().out.splitlines()

    assert len(names) == 5
    assert command.main(["--list", *said.partition(": ")[2].split()]) == 0
    assert capsys.readouterr().out.splitlines() == [said, *names]
    seen = {
        mutant.name
        for seed in range(4 * len(MUTANTS))
        for mutant in command.rotated([*MUTANTS.values()], 5, f"{seed}")
    }
    assert seen == MUTANTS.keys()
