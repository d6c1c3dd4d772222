"""The native core and Python ask the system for the same, call by call and byte by byte, in every situation.

Each situation is made twice, in a process with the native core and in one without it, and one append (and the next one)
is recorded below the C library. Calls, outcomes and the files afterwards have to be equal. So each proof of the Python
path, of crashes and of faults, speaks for the native one; the sweeps below try every fault on both all the same.

`pytest -k "torn and end and never"` runs situations by their names, which say what they are made of.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import tally
from support.appends.aftermath import require_explained
from support.appends.pair import Pair, Run, difference
from support.appends.planted import PLANTED
from support.appends.situations import CATALOGUE
from support.capabilities import native_core
from support.recorder.library import recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.recorder.records import Call

FEWEST_SITUATIONS = 200
# In the fast loop, too.
QUICK = {
    name
    for name, each in CATALOGUE.items()
    if each.is_usual and each.durability == "always" and each.act in {"atom", "unicode", "many: 2"}
}
USUAL, UNUSUAL = "padding, atom, always", "torn end, atom, always"
SWEPT = (
    USUAL,
    "padding and about to publish, atom, always",
    "padding partly filled by another, atom, always",
    "padding partly filled by another, many: 2, always",
)
INTERRUPTED = {"open", "pread", "pwrite", "flock", "fdatasync", "ftruncate"}
NEEDS_ROOM = {"open", "pwrite", "fdatasync", "ftruncate", "fsync", "link", "mkdir"}
FAULTS = {
    "fails": (f"fail={errno.EIO}", None),
    "has no room": (f"fail={errno.ENOSPC}", NEEDS_ROOM),
    "is interrupted": (f"fail={errno.EINTR}", INTERRUPTED),
    "does one byte": ("short=1", {"pread", "pwrite"}),
    "does a part": ("short=40", {"pread", "pwrite"}),
    "fails though done": (f"fail-after={errno.EIO}", {"pwrite", "fdatasync", "ftruncate"}),
    "is never made by a process that is killed": ("kill", None),
    "is the last of a process that is killed": ("kill-after", None),
}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    recorder()
    # In memory, where that can be: thousands of syncs are recorded here, and no power is cut.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=memory, prefix="mpcheckpoint-pair-") as directory,
        Pair(Path(directory)) as pair,
    ):
        yield pair


@pytest.fixture(scope="module")
def usual(pair: Pair) -> tuple[Run, Run]:
    """What a usual append comes to, without the native core and with it."""
    python, native = pair.run(USUAL)
    return python, native


def test_one_side_runs_in_python_and_the_other_with_the_native_core(pair: Pair) -> None:
    native_core()

    assert pair.cores == ["pure", "native"]


# --- what is different is found ------------------------------------------------------------------------------


def other_bytes(calls: list[Call]) -> list[Call]:
    at = next(at for at, call in enumerate(calls) if call.name == "pwrite")
    return [*calls[:at], calls[at]._replace(data="00" + calls[at].data[2:]), *calls[at + 1 :]]


def other_offset(calls: list[Call]) -> list[Call]:
    at = next(at for at, call in enumerate(calls) if call.name == "pwrite")
    arguments = calls[at].arguments.replace("offset=", "offset=1")
    return [*calls[:at], calls[at]._replace(arguments=arguments), *calls[at + 1 :]]


def unlocked_before_the_write(calls: list[Call]) -> list[Call]:
    write = next(at for at, call in enumerate(calls) if call.name == "pwrite")
    unlock = next(at for at, call in enumerate(calls) if call.arguments == "operation=8")
    moved = [*calls[:unlock], *calls[unlock + 1 :]]
    return [*moved[:write], calls[unlock], *moved[write:]]


MISTAKES = {
    "a call more": lambda calls: [*calls[:5], calls[4], *calls[5:]],
    "a call more at the end": lambda calls: [*calls, calls[-1]],
    "a call fewer": lambda calls: calls[1:],
    "a call fewer at the end": lambda calls: calls[:-1],
    "no sync": lambda calls: [call for call in calls if call.name != "fdatasync"],
    "other bytes": other_bytes,
    "another offset": other_offset,
    "another order": unlocked_before_the_write,
    "another result": lambda calls: [*calls[:-1], calls[-1]._replace(result=-1, error=errno.EIO)],
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_comparison_of_calls_of_which_one_is_different_says_which(
    usual: tuple[Run, Run], mistake: str
) -> None:
    python, native = usual
    calls = MISTAKES[mistake](native.calls)
    changed = native._replace(calls=calls, ends=(len(calls),) * 3)

    assert difference(USUAL, python, native, may_hand_over=False) == ""
    assert difference(USUAL, python, changed, may_hand_over=False).startswith("call ")


@pytest.mark.parametrize("mistake", PLANTED)
def test_comparison_with_a_path_in_which_a_mistake_was_planted_finds_it(pair: Pair, mistake: str) -> None:
    _, situation = PLANTED[mistake]
    _, native = pair.run(situation)
    wrong = pair.run_in_python(situation, planted=mistake)

    assert difference(situation, wrong, native, may_hand_over=False) != ""
    assert difference(situation, wrong, native, may_hand_over=True) != ""


def test_comparison_of_outcomes_files_or_exit_codes_that_differ_says_which(usual: tuple[Run, Run]) -> None:
    python, native = usual

    def found(**changed: Any) -> str:
        return difference(USUAL, python, native._replace(**changed), may_hand_over=False)

    files = native.files | {".checkpoint/a.jsonl": native.files[".checkpoint/a.jsonl"] + "x"}
    assert found(outcomes="").startswith("outcomes:")
    assert found(files=files).startswith(".checkpoint/a.jsonl:")
    assert found(files={}) != ""
    assert found(status=-9).startswith("exit codes: 0, -9")


def looking_more(calls: list[Call], at: int) -> list[Call]:
    return [*calls[:at], calls[0], *calls[at:]]


HANDED_OVER: dict[str, tuple[Callable[[list[Call], int], list[Call]], bool]] = {
    "looked before the first change": (looking_more, True),
    "looked after the first change": (lambda calls, change: looking_more(calls, change + 1), False),
    "changed something twice": (lambda calls, change: [*calls[: change + 1], *calls[change:]], False),
    "never looked": (lambda calls, change: calls[change:], False),
    "did not lock": (lambda calls, _: [each for each in calls if each.arguments != "operation=6"], False),
}


@pytest.mark.parametrize("case", HANDED_OVER)
def test_native_code_that_hands_over_may_look_more_before_the_first_change_and_do_nothing_else(
    pair: Pair, case: str
) -> None:
    change_calls, is_fine = HANDED_OVER[case]
    python = pair.run_in_python(UNUSUAL)
    first = next(at for at, call in enumerate(python.calls) if call.changes)
    calls = change_calls(python.calls, first)
    more = len(calls) - len(python.calls)
    native = python._replace(calls=calls, ends=tuple(end + more for end in python.ends))

    assert (difference(UNUSUAL, python, native, may_hand_over=True) == "") is is_fine
    assert difference(UNUSUAL, python, native, may_hand_over=False) != ""


def test_judge_of_a_log_that_lacks_an_acknowledged_record_says_so(pair: Pair, usual: tuple[Run, Run]) -> None:
    written = next(call for call in usual[0].calls if call.name == "pwrite")

    pair.run(USUAL, f"pwrite *.jsonl 1 answer={written.result}")  # says that it has written, and has not

    assert all("atom was acknowledged and is lost" in complaint for complaint in pair.judge())


@pytest.mark.parametrize(
    ("found", "outcome", "complaint"),
    [
        ([], None, "lost"),
        ([["x", 0], ["x", "an atom"], ["x", "an atom"]], {"returned": ""}, "nobody appended"),
        ([["x", 0], ["x", 1]], None, "nobody appended"),
        ([["x", 0]], {"returned": ""}, "acknowledged and is lost"),
        ([["x", 0], ["x", "an atom"]], {"raised": "WriteFailedError", "message": "", "notes": []}, "refused"),
    ],
    ids=["lost", "doubled", "invented", "acknowledged and lost", "refused and there"],
)
def test_judge_of_records_that_the_outcomes_do_not_explain_complains(
    found: list[list[object]], outcome: dict[str, object] | None, complaint: str
) -> None:
    require_explained([["x", 0]], [["x", 0]], [("atom", None)])
    require_explained([["x", 0], ["x", "an atom"]], [["x", 0]], [("atom", None)])

    with pytest.raises(AssertionError, match=complaint):
        require_explained(found, [["x", 0]], [("atom", outcome)])


# --- every situation ---------------------------------------------------------------------------------------


def test_catalogue_has_hundreds_of_situations() -> None:
    assert len(CATALOGUE) >= FEWEST_SITUATIONS
    assert any(each.is_usual for each in CATALOGUE.values())


@pytest.mark.parametrize("situation", sorted(QUICK))
def test_usual_append_asks_the_system_for_the_same_with_the_native_core(pair: Pair, situation: str) -> None:
    require_no_difference(pair, situation)


@pytest.mark.slow
@pytest.mark.parametrize("situation", sorted(CATALOGUE.keys() - QUICK))
def test_append_in_any_situation_asks_the_system_for_the_same_with_the_native_core(
    pair: Pair, situation: str
) -> None:
    require_no_difference(pair, situation)


def require_no_difference(pair: Pair, situation: str) -> None:
    python, native = pair.run(situation)
    assert len(python.outcomes.splitlines()) == 3
    assert pair.difference(situation, python, native) == ""
    tally.add("situations compared")


# --- every fault at every call -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(1)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("situation", SWEPT)
def test_append_of_which_any_call_goes_wrong_leaves_a_sound_log_and_is_the_same_with_the_native_core(
    pair: Pair, situation: str, fault: str
) -> None:
    action, names = FAULTS[fault]
    usual = pair.run(situation)[0]
    calls = usual.calls[: usual.ends[0]]
    eligible = [number for number, call in enumerate(calls, 1) if names is None or call.name in names]
    assert eligible
    found = []
    for number in eligible:
        rule = f"* * {number} {action}"
        python, native = pair.run(situation, rule)
        assert python.calls[number - 1].note == action.partition("=")[0]
        complaints = pair.judge()  # before the next run, which takes the place of this one
        found += [(rule, each) for each in (*complaints, pair.difference(situation, python, native)) if each]
    assert found == []
    tally.add("calls that went wrong, on both paths", len(eligible))
