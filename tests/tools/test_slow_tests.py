"""The list of slow tests marks what it has, tells of what it lacks, and is written from what a run took."""

from __future__ import annotations

from support.checkout import TESTS
from support.slow_tests import EACH_S, KEPT, LIST, TOGETHER_S, Costs, name_of, read, written


def test_list_that_is_written_reads_as_what_it_says() -> None:
    listed = read(LIST.read_text(encoding="utf-8"))

    assert read(written(listed, Costs(), set(listed))) == listed
    assert listed


def test_slow_tests_that_the_fast_loop_keeps_are_tests() -> None:
    for test in KEPT:
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (TESTS / file).read_text(encoding="utf-8"), test


def test_cases_of_a_test_share_its_name() -> None:
    assert name_of("tests/read/test_view.py::test_it[a::b[0]]") == name_of("read/test_view.py::test_it")


def test_test_is_slow_by_its_cases_on_average_or_by_all_of_them_together() -> None:
    costs = Costs()
    for test, cases, sum_s in [
        ("quick", 1, EACH_S / 2),
        ("dear", 1, EACH_S * 2),
        ("many", 1000, TOGETHER_S * 2),
    ]:
        costs.add(test, cases, sum_s, sum_s / cases)
    costs.add("half", 1, EACH_S * 1.2, 0)
    costs.add("half", 1, EACH_S * 0.2, 0)

    assert costs.slow().keys() == {"dear", "many"}


def test_list_after_a_run_has_what_was_slow_in_it_and_keeps_what_did_not_run() -> None:
    costs = Costs()
    costs.add("a::now_slow", 1, 2.0, 2.0)
    costs.add("a::now_quick", 1, 0.1, 0.1)
    listed = {"a::now_quick": 4.0, "a::did_not_run": 5.0, "a::gone": 6.0}

    text = written(listed, costs, {"a::now_slow", "a::now_quick", "a::did_not_run"})

    assert read(text) == {"a::did_not_run": 5.0, "a::now_slow": 2.0}
